//! What probes say of a backend.

use std::collections::VecDeque;
use std::fmt;
use std::time::Duration;

use super::backend::Verdict;
use crate::base::clock::Moment;

/// How many probe results in a row change the verdict.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Thresholds {
    /// Passes in a row that take a backend from down to up, at least 1.
    pub rise: u32,
    /// Failures in a row that take a backend from up to down, at least 1.
    pub fall: u32,
}

/// When a backend whose verdict changes often has to pass more probes than `rise` to come back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Damping {
    /// Changes within the window that are taken as they come; 0 = however many.
    pub changes: u32,
    pub window: Duration,
}

impl Damping {
    pub const NONE: Damping = Damping {
        changes: 0,
        window: Duration::ZERO,
    };
}

/// `rise` doubles so often at most: to 16 times as much.
const DOUBLINGS_MAX: u32 = 4;
/// More changes are not counted: the number is only shown.
const CHANGES_COUNTED_MAX: usize = 256;

/// Turns the results of one backend's probes into a verdict.
#[derive(Clone, Debug)]
pub struct Health {
    thresholds: Thresholds,
    damping: Damping,
    verdict: Verdict,
    /// Results in a row against the verdict; below the threshold that would change it.
    streak: u32,
    /// When the verdict changed, within the window and newest last.
    changes: VecDeque<Moment>,
    /// How many they were at the latest of them.
    counted: usize,
    doublings: u32,
    /// Nothing changed since; moves on with each whole window that took off a doubling.
    quiet_since: Moment,
}

/// Why a backend that passes its probes is still down.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HeldBack {
    /// Within the window that ended with the latest of them.
    pub changes: usize,
    pub window: Duration,
    /// Passes in a row that it needs now.
    pub needs: u32,
}

impl fmt::Display for HeldBack {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let HeldBack {
            changes,
            window,
            needs,
        } = self;
        write!(
            f,
            "held back: {changes} changes within {window:?}, needs {needs} passes"
        )
    }
}

impl Health {
    /// `initial` is the verdict to go on from after a reload, else [`Verdict::Unchecked`].
    pub fn new(thresholds: Thresholds, damping: Damping, initial: Verdict) -> Self {
        debug_assert!(thresholds.rise >= 1 && thresholds.fall >= 1);
        Health {
            thresholds,
            damping,
            verdict: initial,
            streak: 0,
            changes: VecDeque::new(),
            counted: 0,
            doublings: 0,
            quiet_since: Moment::ZERO,
        }
    }

    pub fn verdict(&self) -> Verdict {
        self.verdict
    }

    /// Takes in one result; says the new verdict when it changed.
    ///
    /// The first result decides at once: a backend that just came should neither wait `rise`
    /// probes for its first connection nor be tried `fall` times while it is dead.
    pub fn observe(&mut self, passed: bool, now: Moment) -> Option<Verdict> {
        self.calm_down(now);
        let said = if passed { Verdict::Up } else { Verdict::Down };
        if said == self.verdict {
            self.streak = 0;
            return None;
        }
        self.streak = self.streak.saturating_add(1);
        let needed = match self.verdict {
            Verdict::Unchecked | Verdict::Unprobed => 1,
            Verdict::Down => self.rise(),
            Verdict::Up => self.thresholds.fall,
        };
        if self.streak < needed {
            return None;
        }
        if matches!(self.verdict, Verdict::Up | Verdict::Down) {
            self.count_change(said, now);
        }
        self.verdict = said;
        self.streak = 0;
        Some(said)
    }

    /// Passes in a row that bring the backend back now.
    fn rise(&self) -> u32 {
        self.thresholds.rise.saturating_mul(1 << self.doublings)
    }

    /// Says why, while a backend that is down has to pass more often than `rise`.
    pub fn held_back(&self) -> Option<HeldBack> {
        (self.verdict == Verdict::Down && self.doublings > 0).then(|| HeldBack {
            changes: self.counted,
            window: self.damping.window,
            needs: self.rise(),
        })
    }

    fn count_change(&mut self, to: Verdict, now: Moment) {
        self.quiet_since = now;
        if self.damping.changes == 0 {
            return;
        }
        if self.changes.len() == CHANGES_COUNTED_MAX {
            self.changes.pop_front();
        }
        self.changes.push_back(now);
        self.counted = self.changes.len();
        let allowed = usize::try_from(self.damping.changes).unwrap_or(usize::MAX);
        let too_many = self.changes.len() > allowed.min(CHANGES_COUNTED_MAX - 1);
        if too_many && to == Verdict::Up {
            self.doublings = (self.doublings + 1).min(DOUBLINGS_MAX);
        }
    }

    /// Forgets what has left the window; each whole window without a change takes off a doubling.
    fn calm_down(&mut self, now: Moment) {
        let window = self.damping.window;
        while self
            .changes
            .front()
            .is_some_and(|&change| now.since(change) > window)
        {
            self.changes.pop_front();
        }
        while self.doublings > 0 && now.since(self.quiet_since) >= window {
            self.doublings -= 1;
            self.quiet_since = self.quiet_since + window;
        }
    }

    /// How soon the next probe is due.
    pub fn pace(&self) -> Pace {
        match self.verdict {
            _ if self.streak > 0 => Pace::Between,
            Verdict::Unchecked | Verdict::Unprobed => Pace::Between,
            Verdict::Up => Pace::Normal,
            Verdict::Down => Pace::Down,
        }
    }
}

/// Which of the pool's intervals applies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pace {
    /// `interval`.
    Normal,
    /// `fast_interval`: nothing is known yet, or results speak against the verdict.
    Between,
    /// `down_interval`.
    Down,
}

#[cfg(test)]
mod tests {
    use super::*;

    const THRESHOLDS: Thresholds = Thresholds { rise: 2, fall: 3 };

    fn verdicts(health: &mut Health, results: &str) -> Vec<Option<Verdict>> {
        results
            .chars()
            .map(|result| health.observe(result == '+', Moment::ZERO))
            .collect()
    }

    #[test]
    fn the_first_result_decides_at_once() {
        for (passed, verdict) in [(true, Verdict::Up), (false, Verdict::Down)] {
            let mut health = Health::new(THRESHOLDS, Damping::NONE, Verdict::Unchecked);
            assert_eq!(health.observe(passed, Moment::ZERO), Some(verdict));
            assert_eq!(health.verdict(), verdict);
        }
    }

    #[test]
    fn three_failures_in_a_row_take_the_backend_out_and_two_passes_bring_it_back() {
        let mut health = Health::new(THRESHOLDS, Damping::NONE, Verdict::Up);
        assert_eq!(verdicts(&mut health, "--+--"), [None; 5]);
        assert_eq!(verdicts(&mut health, "-"), [Some(Verdict::Down)]);
        assert_eq!(verdicts(&mut health, "-+-+"), [None; 4]);
        assert_eq!(verdicts(&mut health, "+"), [Some(Verdict::Up)]);
    }

    #[test]
    fn a_reload_goes_on_from_the_verdict_it_found() {
        let mut health = Health::new(THRESHOLDS, Damping::NONE, Verdict::Down);
        assert_eq!(verdicts(&mut health, "+"), [None]);
        assert_eq!(verdicts(&mut health, "+"), [Some(Verdict::Up)]);
    }

    #[test]
    fn the_pace_is_fast_only_while_results_speak_against_the_verdict() {
        let mut health = Health::new(THRESHOLDS, Damping::NONE, Verdict::Unchecked);
        assert_eq!(health.pace(), Pace::Between);
        for (result, pace) in [
            (true, Pace::Normal),
            (false, Pace::Between),
            (true, Pace::Normal),
            (false, Pace::Between),
            (false, Pace::Between),
            (false, Pace::Down),
            (true, Pace::Between),
            (false, Pace::Down),
            (true, Pace::Between),
            (true, Pace::Normal),
        ] {
            health.observe(result, Moment::ZERO);
            assert_eq!(health.pace(), pace);
        }
    }

    const DAMPING: Damping = Damping {
        changes: 6,
        window: Duration::from_secs(60),
    };

    /// Probes at the default intervals for `seconds`, `answer` saying whether one passes that
    /// finds this verdict. Returns the moments of all changes.
    fn simulated(
        health: &mut Health,
        now: &mut Moment,
        seconds: u64,
        answer: impl Fn(Verdict) -> bool,
    ) -> Vec<(Moment, Verdict)> {
        let (end, mut changes) = (*now + Duration::from_secs(seconds), Vec::new());
        while *now < end {
            let passed = answer(health.verdict());
            if let Some(verdict) = health.observe(passed, *now) {
                changes.push((*now, verdict));
            }
            *now = *now
                + match health.pace() {
                    Pace::Between => Duration::from_millis(500),
                    Pace::Normal | Pace::Down => Duration::from_secs(2),
                };
        }
        changes
    }

    /// The worst there is: every probe says the opposite of the verdict.
    fn contrary(verdict: Verdict) -> bool {
        verdict == Verdict::Down
    }

    #[test]
    fn ten_minutes_of_flapping_change_the_verdict_a_bounded_number_of_times() {
        let changes_with = |damping| {
            let mut health = Health::new(THRESHOLDS, damping, Verdict::Up);
            simulated(&mut health, &mut Moment::ZERO.clone(), 600, contrary)
        };
        let (free, damped) = (changes_with(Damping::NONE), changes_with(DAMPING));
        assert!(free.len() > 200, "{}", free.len());
        assert!(damped.len() < 85, "{}", damped.len());
        // Once it is held back in full, about four cycles of 16 times `rise` fit a window.
        let late = |(at, _): &&(Moment, Verdict)| *at >= Moment::from_millis(540_000);
        let last_minute = damped.iter().filter(late).count();
        assert!((1..=8).contains(&last_minute), "{last_minute}");
    }

    #[test]
    fn six_changes_in_a_minute_are_taken_as_they_come_and_each_further_recovery_doubles_rise() {
        let mut health = Health::new(THRESHOLDS, DAMPING, Verdict::Up);
        let mut now = Moment::ZERO;
        let mut needed = Vec::new();
        for _ in 0..10 {
            while health.verdict() == Verdict::Up {
                now = now + Duration::from_millis(10);
                health.observe(false, now);
            }
            let mut passes = 0;
            while health.verdict() == Verdict::Down {
                now = now + Duration::from_millis(10);
                passes += 1;
                health.observe(true, now);
            }
            needed.push(passes);
        }
        assert_eq!(needed, [2, 2, 2, 2, 4, 8, 16, 32, 32, 32]);
    }

    #[test]
    fn a_backend_that_is_held_back_says_why_and_how_long() {
        let mut health = Health::new(THRESHOLDS, DAMPING, Verdict::Up);
        let observe = |health: &mut Health, results: &str| {
            for result in results.chars() {
                health.observe(result == '+', Moment::from_millis(1000));
            }
        };
        observe(&mut health, "---++---++---++---");
        assert_eq!(
            (health.verdict(), health.held_back()),
            (Verdict::Down, None)
        );
        observe(&mut health, "++");
        assert_eq!(health.held_back(), None, "it is up");
        observe(&mut health, "---");
        assert_eq!(
            health.held_back().unwrap().to_string(),
            "held back: 9 changes within 60s, needs 4 passes"
        );
        observe(&mut health, "+++");
        assert_eq!(health.verdict(), Verdict::Down);
        observe(&mut health, "+");
        assert_eq!(health.verdict(), Verdict::Up);
    }

    #[test]
    fn each_quiet_window_takes_off_a_doubling() {
        let mut health = Health::new(THRESHOLDS, DAMPING, Verdict::Up);
        let mut now = Moment::ZERO;
        simulated(&mut health, &mut now, 120, contrary);
        simulated(&mut health, &mut now, 30, |_| false);
        assert_eq!(health.held_back().unwrap().needs, 32);
        for needs in [Some(16), Some(8), Some(4), None] {
            simulated(&mut health, &mut now, 60, |_| false);
            assert_eq!(health.held_back().map(|held| held.needs), needs);
        }
        assert_eq!(health.observe(true, now), None);
        assert_eq!(health.observe(true, now), Some(Verdict::Up));
    }

    #[test]
    fn ordinary_failures_are_never_held_back() {
        let mut health = Health::new(THRESHOLDS, DAMPING, Verdict::Up);
        let mut now = Moment::ZERO;
        for _ in 0..20 {
            // Down for ten seconds, once a minute.
            simulated(&mut health, &mut now, 10, |_| false);
            assert_eq!(health.held_back(), None);
            simulated(&mut health, &mut now, 50, |_| true);
            assert_eq!(health.verdict(), Verdict::Up);
        }
    }

    #[test]
    fn what_is_remembered_of_changes_is_bounded() {
        let (thresholds, damping) = (Thresholds { rise: 1, fall: 1 }, DAMPING);
        let mut health = Health::new(
            thresholds,
            Damping {
                changes: 300,
                ..damping
            },
            Verdict::Up,
        );
        for probe in 0..100_000_u64 {
            health.observe(contrary(health.verdict()), Moment::from_micros(probe));
        }
        assert_eq!(health.changes.len(), CHANGES_COUNTED_MAX);
        assert_eq!(
            health.doublings, DOUBLINGS_MAX,
            "the count saturates above it"
        );
    }
}
