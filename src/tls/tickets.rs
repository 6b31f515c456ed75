//! Session tickets: one set of keys for the whole process, one partition for each listener.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::{ArcSwap, Guard};
use aws_lc_rs::aead::{AES_256_GCM, Aad, NONCE_LEN, Nonce, RandomizedNonceKey};
use aws_lc_rs::digest::{Context, SHA256, SHA256_OUTPUT_LEN};
use aws_lc_rs::rand;
use rustls::server::ProducesTickets;

use crate::base::clock::Moment;

/// How long a key seals tickets. It opens them for as long again: a ticket lives for 6 to 12 hours.
/// A nonce is 96 random bits, good for 2^32 tickets of a key: 198 000 in each second of this time.
const KEY_AGE_MAX: Duration = Duration::from_secs(6 * 60 * 60);

const KEY_NAME_LEN: usize = 16;
const KEY_LEN: usize = 32;

/// The keys of all workers and listeners, kept over reloads, so that a client may come back to any
/// of them.
///
/// Not the ticketer of rustls, because a ticket has to be bound to a partition, which is free
/// as additional data of an AEAD; because a reader of these keys takes no lock; because they are
/// aged by the monotonic clock, which nobody sets back; and because a process that takes over this
/// one's work needs its keys, which rustls keeps to itself.
pub struct TicketKeys {
    ring: ArcSwap<Ring>,
    now: fn() -> Moment,
}

impl TicketKeys {
    /// Fresh keys. Errors: the system has no random bytes.
    pub fn new() -> Result<Arc<TicketKeys>, rustls::Error> {
        TicketKeys::with_clock(Moment::now)
    }

    pub(super) fn with_clock(now: fn() -> Moment) -> Result<Arc<TicketKeys>, rustls::Error> {
        let ring = Ring {
            current: Arc::new(Key::random().ok_or(rustls::Error::FailedToGetRandomBytes)?),
            since: now(),
            previous: None,
        };
        let ring = ArcSwap::from_pointee(ring);
        Ok(Arc::new(TicketKeys { ring, now }))
    }

    /// The keys that are good now, renewed when their time has come.
    fn ring(&self) -> Option<Guard<Arc<Ring>>> {
        let ring = self.ring.load();
        let now = (self.now)();
        if now.since(ring.since) < KEY_AGE_MAX {
            return Some(ring);
        }
        // Of workers that come here at once one is first; the others' keys were never used.
        let next = Arc::new(ring.next(now)?);
        self.ring.compare_and_swap(&ring, next);
        Some(self.ring.load())
    }
}

impl fmt::Debug for TicketKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TicketKeys").finish_non_exhaustive()
    }
}

struct Ring {
    current: Arc<Key>,
    /// When `current` became that.
    since: Moment,
    /// Opens tickets until `current` is too old as well.
    previous: Option<Arc<Key>>,
}

impl Ring {
    fn next(&self, now: Moment) -> Option<Ring> {
        let forgotten = now.since(self.since) >= 2 * KEY_AGE_MAX;
        Some(Ring {
            current: Arc::new(Key::random()?),
            since: now,
            previous: (!forgotten).then(|| self.current.clone()),
        })
    }

    fn named(&self, name: &[u8]) -> Option<&Key> {
        let previous = self.previous.as_deref();
        [Some(&*self.current), previous]
            .into_iter()
            .flatten()
            .find(|key| key.name == name)
    }
}

struct Key {
    /// Stands at the head of its tickets.
    name: [u8; KEY_NAME_LEN],
    secret: RandomizedNonceKey,
}

impl Key {
    fn random() -> Option<Key> {
        let mut name = [0; KEY_NAME_LEN];
        let mut secret = [0; KEY_LEN];
        rand::fill(&mut name).ok()?;
        rand::fill(&mut secret).ok()?;
        let sealing = RandomizedNonceKey::new(&AES_256_GCM, &secret).ok();
        // So that the key is in one place only, which is wiped when it is dropped.
        secret.fill(0);
        std::hint::black_box(&mut secret);
        Some(Key {
            name,
            secret: sealing?,
        })
    }
}

/// What two handshakes must have in common for a ticket of one to be good for the other, beside
/// the name that the client asks for, which rustls compares: as a digest, bound into each ticket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Partition([u8; SHA256_OUTPUT_LEN]);

impl Partition {
    /// Of lists of which each is a set: neither order nor repetition matters within it.
    pub(super) fn of(sets: &[&[&[u8]]]) -> Partition {
        let mut digest = Context::new(&SHA256);
        for set in sets {
            let mut members = set.to_vec();
            members.sort_unstable();
            members.dedup();
            digest.update(&members.len().to_le_bytes());
            for member in members {
                digest.update(&member.len().to_le_bytes());
                digest.update(member);
            }
        }
        let mut bytes = [0; SHA256_OUTPUT_LEN];
        bytes.copy_from_slice(digest.finish().as_ref());
        Partition(bytes)
    }
}

/// Tickets of one partition: the key's name, the nonce, the sealed session with its tag.
#[derive(Debug)]
pub(super) struct Tickets {
    keys: Arc<TicketKeys>,
    partition: Partition,
}

impl Tickets {
    pub(super) fn new(keys: Arc<TicketKeys>, partition: Partition) -> Tickets {
        Tickets { keys, partition }
    }

    fn bound_to(&self) -> Aad<&[u8]> {
        Aad::from(&self.partition.0[..])
    }
}

impl ProducesTickets for Tickets {
    fn enabled(&self) -> bool {
        true
    }

    /// Seconds until the key of a ticket sealed now is forgotten.
    fn lifetime(&self) -> u32 {
        let left = self.keys.ring().map_or(Duration::ZERO, |ring| {
            let age = (self.keys.now)().since(ring.since);
            (2 * KEY_AGE_MAX).saturating_sub(age)
        });
        u32::try_from(left.as_secs()).unwrap_or(u32::MAX)
    }

    fn encrypt(&self, plain: &[u8]) -> Option<Vec<u8>> {
        let ring = self.keys.ring()?;
        let key = &ring.current;
        let head = KEY_NAME_LEN + NONCE_LEN;
        let mut ticket = Vec::with_capacity(head + plain.len() + AES_256_GCM.tag_len());
        ticket.extend_from_slice(&key.name);
        ticket.extend_from_slice(&[0; NONCE_LEN]);
        ticket.extend_from_slice(plain);
        let (nonce, tag) = key
            .secret
            .seal_in_place_separate_tag(self.bound_to(), &mut ticket[head..])
            .ok()?;
        ticket[KEY_NAME_LEN..head].copy_from_slice(nonce.as_ref());
        ticket.extend_from_slice(tag.as_ref());
        Some(ticket)
    }

    fn decrypt(&self, ticket: &[u8]) -> Option<Vec<u8>> {
        let (name, rest) = ticket.split_at_checked(KEY_NAME_LEN)?;
        let (nonce, sealed) = rest.split_first_chunk::<NONCE_LEN>()?;
        let ring = self.keys.ring()?;
        let key = ring.named(name)?;
        let mut session = sealed.to_vec();
        let nonce = Nonce::assume_unique_for_key(*nonce);
        let length = key
            .secret
            .open_in_place(nonce, self.bound_to(), &mut session)
            .ok()?
            .len();
        session.truncate(length);
        Some(session)
    }
}

#[cfg(test)]
mod tests;
