//! What probes say of a backend.

use super::backend::Verdict;

/// How many probe results in a row change the verdict.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Thresholds {
    /// Passes in a row that take a backend from down to up, at least 1.
    pub rise: u32,
    /// Failures in a row that take a backend from up to down, at least 1.
    pub fall: u32,
}

/// Turns the results of one backend's probes into a verdict.
#[derive(Clone, Debug)]
pub struct Health {
    thresholds: Thresholds,
    verdict: Verdict,
    /// Results in a row against the verdict; below the threshold that would change it.
    streak: u32,
}

impl Health {
    /// `initial` is the verdict to go on from after a reload, else [`Verdict::Unchecked`].
    pub fn new(thresholds: Thresholds, initial: Verdict) -> Self {
        debug_assert!(thresholds.rise >= 1 && thresholds.fall >= 1);
        Health {
            thresholds,
            verdict: initial,
            streak: 0,
        }
    }

    pub fn verdict(&self) -> Verdict {
        self.verdict
    }

    /// Takes in one result; says the new verdict when it changed.
    ///
    /// The first result decides at once: a backend that just came should neither wait `rise`
    /// probes for its first connection nor be tried `fall` times while it is dead.
    pub fn observe(&mut self, passed: bool) -> Option<Verdict> {
        let said = if passed { Verdict::Up } else { Verdict::Down };
        if said == self.verdict {
            self.streak = 0;
            return None;
        }
        self.streak += 1;
        let needed = match self.verdict {
            Verdict::Unchecked | Verdict::Unprobed => 1,
            Verdict::Down => self.thresholds.rise,
            Verdict::Up => self.thresholds.fall,
        };
        if self.streak < needed {
            return None;
        }
        self.verdict = said;
        self.streak = 0;
        Some(said)
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
            .map(|result| health.observe(result == '+'))
            .collect()
    }

    #[test]
    fn the_first_result_decides_at_once() {
        for (passed, verdict) in [(true, Verdict::Up), (false, Verdict::Down)] {
            let mut health = Health::new(THRESHOLDS, Verdict::Unchecked);
            assert_eq!(health.observe(passed), Some(verdict));
            assert_eq!(health.verdict(), verdict);
        }
    }

    #[test]
    fn three_failures_in_a_row_take_the_backend_out_and_two_passes_bring_it_back() {
        let mut health = Health::new(THRESHOLDS, Verdict::Up);
        assert_eq!(verdicts(&mut health, "--+--"), [None; 5]);
        assert_eq!(verdicts(&mut health, "-"), [Some(Verdict::Down)]);
        assert_eq!(verdicts(&mut health, "-+-+"), [None; 4]);
        assert_eq!(verdicts(&mut health, "+"), [Some(Verdict::Up)]);
    }

    #[test]
    fn a_reload_goes_on_from_the_verdict_it_found() {
        let mut health = Health::new(THRESHOLDS, Verdict::Down);
        assert_eq!(verdicts(&mut health, "+"), [None]);
        assert_eq!(verdicts(&mut health, "+"), [Some(Verdict::Up)]);
    }

    #[test]
    fn the_pace_is_fast_only_while_results_speak_against_the_verdict() {
        let mut health = Health::new(THRESHOLDS, Verdict::Unchecked);
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
            health.observe(result);
            assert_eq!(health.pace(), pace);
        }
    }
}
