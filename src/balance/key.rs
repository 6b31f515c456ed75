//! Keyed hashes that choose a backend: the same on every machine and in every version.

use std::hash::Hasher;
use std::net::IpAddr;

use siphasher::sip::SipHasher13;
use siphasher::sip128::{Hasher128, SipHasher13 as SipHasher13Of128};

/// The key of every hash that chooses a backend, derived from `global.hash_seed`. SipHash-1-3, so
/// that a client who does not know the seed cannot aim at one backend.
#[derive(Clone, PartialEq, Eq)]
pub struct HashSeed {
    key: (u64, u64),
}

impl HashSeed {
    pub fn new(seed: &str) -> Self {
        let mut hasher = SipHasher13Of128::new_with_keys(0, 0);
        hasher.write(seed.as_bytes());
        let digest = hasher.finish128();
        HashSeed {
            key: (digest.h1, digest.h2),
        }
    }

    /// The key of a client. An IPv4 address hashes the same when it comes mapped into IPv6.
    pub fn source_ip(&self, ip: IpAddr) -> u64 {
        match ip.to_canonical() {
            IpAddr::V4(ip) => self.of(Subject::ClientV4, &ip.octets()),
            IpAddr::V6(ip) => self.of(Subject::ClientV6, &ip.octets()),
        }
    }

    pub(super) fn of(&self, subject: Subject, bytes: &[u8]) -> u64 {
        let mut hasher = SipHasher13::new_with_keys(self.key.0, self.key.1);
        // `Hasher::write` takes bytes as they are; the `Hash` trait promises no stable form.
        hasher.write(&[subject as u8]);
        hasher.write(bytes);
        hasher.finish()
    }
}

/// The key is kept out of logs.
impl std::fmt::Debug for HashSeed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("HashSeed(..)")
    }
}

/// What is hashed; the same bytes hash differently as something else. The numbers never change:
/// instances of different versions must agree.
#[derive(Clone, Copy)]
#[repr(u8)]
pub(super) enum Subject {
    ClientV4 = 4,
    ClientV6 = 6,
    TurnStart = 10,
    TurnStride = 11,
}

/// The next key of a client whose backend may not be used: as good as a fresh hash of it
/// (the finaliser of splitmix64).
pub(super) fn rehash(key: u64) -> u64 {
    let mut z = key.wrapping_add(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_hash_of_a_client_never_changes() {
        // Worked out by a second implementation: other versions must agree with them.
        let seed = HashSeed::new("lbd");
        assert_eq!(
            seed.source_ip("192.0.2.1".parse().unwrap()),
            7_939_156_009_688_396_753
        );
        assert_eq!(
            seed.source_ip("2001:db8::1".parse().unwrap()),
            13_010_303_856_999_856_615
        );
    }

    #[test]
    fn a_mapped_address_hashes_as_the_ipv4_client_it_is() {
        let seed = HashSeed::new("");
        let mapped = seed.source_ip("::ffff:192.0.2.1".parse().unwrap());
        assert_eq!(mapped, seed.source_ip("192.0.2.1".parse().unwrap()));
        assert_ne!(
            mapped,
            HashSeed::new("other").source_ip("192.0.2.1".parse().unwrap())
        );
    }
}
