//! One coarse timer wheel per worker: every session has one alarm in it, and looks at its own
//! deadlines when it rings.
//!
//! Alarms are links in an array, so setting, moving and clearing one is a few stores and never
//! allocates beyond twelve bytes for the highest session number seen. An alarm beyond the wheel's
//! horizon rings at the horizon, where its owner sees that it is early and sets it again.

use std::time::Duration;

use super::clock::Moment;

/// Width of a slot: how late an alarm may ring.
pub const TICK: Duration = Duration::from_millis(32);

/// Slots of the wheel; 1024 of 32 ms reach 32 seconds.
const SLOTS: usize = 1024;

const NONE: u32 = u32::MAX;

#[derive(Clone, Copy, Debug)]
struct Link {
    next: u32,
    /// The alarm before this one, or `NONE` for the first of its slot.
    previous: u32,
    /// `NONE` while the alarm is not set.
    slot: u32,
}

const UNSET: Link = Link {
    next: NONE,
    previous: NONE,
    slot: NONE,
};

#[derive(Debug)]
pub struct Wheel {
    heads: Box<[u32; SLOTS]>,
    /// One bit for each slot that holds an alarm.
    occupied: [u64; SLOTS / 64],
    links: Vec<Link>,
    /// All alarms before this tick have rung.
    tick: u64,
}

impl Wheel {
    pub fn new(now: Moment) -> Self {
        Wheel {
            heads: Box::new([NONE; SLOTS]),
            occupied: [0; SLOTS / 64],
            links: Vec::new(),
            tick: tick_of(now),
        }
    }

    /// Sets the alarm of `owner`, replacing the one it had. It rings at the first tick at or
    /// after `at`, at most one [`TICK`] late, or early at the horizon.
    pub fn set(&mut self, owner: u32, at: Moment) {
        self.clear(owner);
        let index = owner as usize;
        if index >= self.links.len() {
            self.links.resize(index + 1, UNSET);
        }
        // The tick that is due next is the earliest: the current one may be ringing right now.
        let due = (tick_of(at) + 1).clamp(self.tick + 1, self.tick + SLOTS as u64 - 1);
        let slot = due as usize % SLOTS;
        let head = self.heads[slot];
        self.links[index] = Link {
            next: head,
            previous: NONE,
            slot: slot as u32,
        };
        if head != NONE {
            self.links[head as usize].previous = owner;
        }
        self.heads[slot] = owner;
        self.occupied[slot / 64] |= 1 << (slot % 64);
    }

    pub fn is_set(&self, owner: u32) -> bool {
        self.links
            .get(owner as usize)
            .is_some_and(|link| link.slot != NONE)
    }

    /// Takes the alarm of `owner` out, if it has one.
    pub fn clear(&mut self, owner: u32) {
        let Some(link) = self.links.get_mut(owner as usize) else {
            return;
        };
        let Link {
            next,
            previous,
            slot,
        } = std::mem::replace(link, UNSET);
        if slot == NONE {
            return;
        }
        if next != NONE {
            self.links[next as usize].previous = previous;
        }
        if previous != NONE {
            self.links[previous as usize].next = next;
        } else {
            let slot = slot as usize;
            self.heads[slot] = next;
            if next == NONE {
                self.occupied[slot / 64] &= !(1 << (slot % 64));
            }
        }
    }

    /// Moves the wheel to `now` and appends to `rung` every owner whose alarm was due.
    pub fn advance(&mut self, now: Moment, rung: &mut Vec<u32>) {
        let target = tick_of(now);
        if target <= self.tick {
            return;
        }
        // After a long stop every slot is due once; going round twice would find nothing.
        let steps = (target - self.tick).min(SLOTS as u64);
        for step in 1..=steps {
            let slot = (self.tick + step) as usize % SLOTS;
            if self.occupied[slot / 64] & (1 << (slot % 64)) == 0 {
                continue;
            }
            let mut owner = std::mem::replace(&mut self.heads[slot], NONE);
            self.occupied[slot / 64] &= !(1 << (slot % 64));
            while owner != NONE {
                let link = std::mem::replace(&mut self.links[owner as usize], UNSET);
                rung.push(owner);
                owner = link.next;
            }
        }
        self.tick = target;
    }

    /// Time from `now` until the next alarm may ring; `None` when none is set.
    pub fn next_due(&self, now: Moment) -> Option<Duration> {
        let start = (self.tick + 1) as usize % SLOTS;
        let distance = self.distance_to_occupied(start)?;
        let due_micros = (self.tick + 1 + distance as u64) * TICK.as_micros() as u64;
        Some(Moment::from_micros(due_micros).since(now))
    }

    /// Slots from `start` to the first occupied one, going round once.
    fn distance_to_occupied(&self, start: usize) -> Option<usize> {
        let words = self.occupied.len();
        for step in 0..=words {
            let word_index = (start / 64 + step) % words;
            let mut word = self.occupied[word_index];
            if step == 0 {
                word &= !0 << (start % 64);
            } else if step == words {
                word &= !(!0 << (start % 64));
            }
            if word != 0 {
                let slot = word_index * 64 + word.trailing_zeros() as usize;
                return Some((slot + SLOTS - start) % SLOTS);
            }
        }
        None
    }
}

fn tick_of(moment: Moment) -> u64 {
    moment.as_micros() / TICK.as_micros() as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rung(wheel: &mut Wheel, at: Moment) -> Vec<u32> {
        let mut out = Vec::new();
        wheel.advance(at, &mut out);
        out.sort_unstable();
        out
    }

    #[test]
    fn an_alarm_rings_once_at_its_time_and_at_most_a_tick_late() {
        let mut wheel = Wheel::new(Moment::ZERO);
        let at = Moment::from_millis(1000);
        wheel.set(7, at);
        assert!(rung(&mut wheel, Moment::from_millis(999)).is_empty());
        assert_eq!(rung(&mut wheel, at + TICK), [7]);
        assert!(rung(&mut wheel, at + Duration::from_secs(100)).is_empty());
    }

    #[test]
    fn the_time_to_the_next_alarm_reaches_it_in_one_sleep() {
        let mut wheel = Wheel::new(Moment::from_millis(5));
        for at in [40, 700, 5_000, 31_000] {
            let start = Moment::from_millis(5);
            wheel.set(1, Moment::from_millis(at));
            let sleep = wheel.next_due(start).unwrap();
            assert!(sleep <= Duration::from_millis(at) + TICK, "{at}: {sleep:?}");
            let mut copy = Wheel::new(start);
            copy.set(1, Moment::from_millis(at));
            assert_eq!(rung(&mut copy, start + sleep), [1], "{at}");
        }
        wheel.clear(1);
        assert_eq!(wheel.next_due(Moment::ZERO), None);
    }

    #[test]
    fn an_alarm_beyond_the_horizon_rings_early_so_that_it_can_be_set_again() {
        let mut wheel = Wheel::new(Moment::ZERO);
        wheel.set(3, Moment::from_millis(600_000));
        let early = Moment::ZERO + wheel.next_due(Moment::ZERO).unwrap();
        assert!(early < Moment::from_millis(33_000));
        assert_eq!(rung(&mut wheel, early), [3]);
    }

    #[test]
    fn a_stop_longer_than_the_wheel_rings_everything_once() {
        let mut wheel = Wheel::new(Moment::ZERO);
        for owner in 0..100 {
            wheel.set(owner, Moment::from_millis(u64::from(owner) * 300));
        }
        let all: Vec<u32> = (0..100).collect();
        assert_eq!(rung(&mut wheel, Moment::from_millis(3_600_000)), all);
    }

    /// Against a plain list of (owner, time), with moves and clears.
    #[test]
    fn the_wheel_agrees_with_a_plain_list() {
        let mut wheel = Wheel::new(Moment::ZERO);
        let mut model: Vec<Option<u64>> = vec![None; 50];
        let mut seed = 1u64;
        let mut now = 0u64;
        for _ in 0..20_000 {
            seed = seed
                .wrapping_mul(6364136223846793005)
                .wrapping_add(1442695040888963407);
            let owner = (seed >> 33) as usize % 50;
            match (seed >> 60) % 4 {
                0 | 1 => {
                    let at = now + (seed >> 20) % 20_000;
                    wheel.set(owner as u32, Moment::from_millis(at));
                    model[owner] = Some(at);
                }
                2 => {
                    wheel.clear(owner as u32);
                    model[owner] = None;
                }
                _ => {
                    now += (seed >> 20) % 900;
                    for owner in rung(&mut wheel, Moment::from_millis(now)) {
                        let at = model[owner as usize]
                            .take()
                            .expect("rang without being set");
                        assert!(at <= now, "{at} rang at {now}");
                    }
                    let late = TICK.as_millis() as u64;
                    assert!(model.iter().flatten().all(|&at| at + late + late >= now));
                }
            }
        }
    }
}
