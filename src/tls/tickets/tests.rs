//! Tickets that open, tickets that do not, and keys that grow old.

use std::cell::Cell;
use std::time::Instant;

use super::*;

thread_local! {
    static SECONDS: Cell<u64> = const { Cell::new(1000) };
}

fn clock() -> Moment {
    Moment::from_millis(1000 * SECONDS.get())
}

fn later(hours: u64) {
    SECONDS.set(SECONDS.get() + 3600 * hours);
}

fn tickets(keys: &Arc<TicketKeys>, listener: &str) -> Tickets {
    Tickets::new(keys.clone(), Partition::of(&[&[listener.as_bytes()]]))
}

#[test]
fn a_ticket_opens_in_its_partition_and_is_no_copy_of_the_session() {
    let keys = TicketKeys::new().unwrap();
    let web = tickets(&keys, "web");
    for length in [0, 1, 200, 20_000] {
        let session = vec![7; length];
        let ticket = web.encrypt(&session).unwrap();
        assert_eq!(ticket.len(), length + KEY_NAME_LEN + NONCE_LEN + 16);
        assert_ne!(ticket, web.encrypt(&session).unwrap());
        assert_eq!(web.decrypt(&ticket).unwrap(), session);
        assert_eq!(tickets(&keys, "web").decrypt(&ticket).unwrap(), session);
        assert_eq!(tickets(&keys, "other").decrypt(&ticket), None);
        let others = TicketKeys::new().unwrap();
        assert_eq!(tickets(&others, "web").decrypt(&ticket), None);
    }
}

#[test]
fn a_ticket_that_was_cut_or_changed_anywhere_does_not_open() {
    let web = tickets(&TicketKeys::new().unwrap(), "web");
    let ticket = web.encrypt(b"session").unwrap();
    for at in 0..ticket.len() {
        assert_eq!(web.decrypt(&ticket[..at]), None, "{at}");
        let mut changed = ticket.clone();
        changed[at] ^= 1;
        assert_eq!(web.decrypt(&changed), None, "{at}");
    }
}

#[test]
fn a_key_seals_for_six_hours_and_opens_for_as_long_again() {
    let keys = TicketKeys::with_clock(clock).unwrap();
    let web = tickets(&keys, "web");
    let first = web.encrypt(b"first").unwrap();
    assert_eq!(web.lifetime(), 12 * 3600);
    later(5);
    assert_eq!(web.lifetime(), 7 * 3600);
    let same_key = web.encrypt(b"same").unwrap();
    assert_eq!(same_key[..KEY_NAME_LEN], first[..KEY_NAME_LEN]);
    later(1);
    let second = web.encrypt(b"second").unwrap();
    assert_ne!(second[..KEY_NAME_LEN], first[..KEY_NAME_LEN]);
    assert_eq!(web.lifetime(), 12 * 3600);
    later(5);
    assert_eq!(web.decrypt(&first).unwrap(), b"first");
    later(1);
    assert_eq!(web.decrypt(&first), None);
    assert_eq!(web.decrypt(&second).unwrap(), b"second");
    // Nobody came for a long time: the key was not used, yet it is too old.
    later(12);
    assert_eq!(web.decrypt(&second), None);
}

#[test]
fn partitions_are_equal_for_equal_sets_and_only_then() {
    let of = |sets: &[&[&[u8]]]| Partition::of(sets);
    assert_eq!(of(&[&[b"a", b"b"], &[]]), of(&[&[b"b", b"a", b"a"], &[]]));
    let different = [
        of(&[]),
        of(&[&[]]),
        of(&[&[], &[]]),
        of(&[&[b"a"], &[]]),
        of(&[&[], &[b"a"]]),
        of(&[&[b"ab"], &[]]),
        of(&[&[b"a", b"b"], &[]]),
        of(&[&[b"a"], &[b"b"]]),
    ];
    for (at, one) in different.iter().enumerate() {
        assert!(!different[..at].contains(one), "{at}");
    }
}

#[test]
#[ignore = "a measurement: time for a ticket; wants --release"]
fn cost_of_a_ticket() {
    const ROUNDS: u32 = 100_000;
    let web = tickets(&TicketKeys::new().unwrap(), "web");
    let rustls = rustls::crypto::aws_lc_rs::Ticketer::new().unwrap();
    let session = [7; 200];
    for (what, tickets) in [("ours", &web as &dyn ProducesTickets), ("rustls", &*rustls)] {
        let begin = Instant::now();
        for _ in 0..ROUNDS {
            let ticket = tickets.encrypt(&session).unwrap();
            assert!(tickets.decrypt(&ticket).is_some());
        }
        println!("{what}: {:?} to seal and open", begin.elapsed() / ROUNDS);
    }
}
