//! Keyed hashes that choose a backend: the same on every machine and in every version.

use std::hash::Hasher;
use std::net::{IpAddr, SocketAddr};

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

    /// The key of one connection: another port of the client is another key.
    pub fn source_ip_port(&self, client: SocketAddr) -> u64 {
        let port = client.port().to_be_bytes();
        match client.ip().to_canonical() {
            IpAddr::V4(ip) => {
                let [a, b, c, d] = ip.octets();
                self.of(Subject::ConnectionV4, &[a, b, c, d, port[0], port[1]])
            }
            IpAddr::V6(ip) => {
                let mut bytes = [0; 18];
                bytes[..16].copy_from_slice(&ip.octets());
                bytes[16..].copy_from_slice(&port);
                self.of(Subject::ConnectionV6, &bytes)
            }
        }
    }

    /// The key of the name that a client asks for, in whatever case it writes it. One that asks
    /// for none has the key of its address: never a random one.
    pub fn sni(&self, name: Option<&str>, client: IpAddr) -> u64 {
        let Some(name) = name.filter(|name| !name.is_empty()) else {
            return self.source_ip(client);
        };
        let mut hasher = self.hasher(Subject::Name);
        // Byte by byte, so that a name needs no copy in lower case.
        name.bytes()
            .for_each(|byte| hasher.write(&[byte.to_ascii_lowercase()]));
        hasher.finish()
    }

    /// The key of a connection as the pool wants it.
    pub fn key(&self, of: HashKey, client: SocketAddr, name: Option<&str>) -> u64 {
        match of {
            HashKey::SourceIp => self.source_ip(client.ip()),
            HashKey::SourceIpPort => self.source_ip_port(client),
            HashKey::Sni => self.sni(name, client.ip()),
        }
    }

    pub(super) fn of(&self, subject: Subject, bytes: &[u8]) -> u64 {
        let mut hasher = self.hasher(subject);
        hasher.write(bytes);
        hasher.finish()
    }

    fn hasher(&self, subject: Subject) -> SipHasher13 {
        let mut hasher = SipHasher13::new_with_keys(self.key.0, self.key.1);
        // `Hasher::write` takes bytes as they are; the `Hash` trait promises no stable form.
        hasher.write(&[subject as u8]);
        hasher
    }
}

/// What of a client `ip_hash` goes by (`hash_key`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HashKey {
    SourceIp,
    SourceIpPort,
    Sni,
}

impl HashKey {
    /// The word of the configuration.
    pub const fn as_str(self) -> &'static str {
        match self {
            HashKey::SourceIp => "source_ip",
            HashKey::SourceIpPort => "source_ip_port",
            HashKey::Sni => "sni",
        }
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
    ConnectionV4 = 7,
    ConnectionV6 = 8,
    Name = 9,
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
        assert_eq!(
            seed.source_ip_port("192.0.2.1:1000".parse().unwrap()),
            1_272_212_767_071_458_438
        );
        assert_eq!(
            seed.source_ip_port("[2001:db8::1]:1000".parse().unwrap()),
            9_527_691_917_554_627_965
        );
        assert_eq!(
            seed.sni(Some("WWW.example.com"), "192.0.2.1".parse().unwrap()),
            4_637_532_742_910_807_596
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
