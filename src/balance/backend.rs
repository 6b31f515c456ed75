//! What is known of one backend, and the one function that says whether it may be used.

/// What the probes say.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Verdict {
    /// The pool has no probe (`probe = "none"`): taken to be up.
    Unprobed,
    /// No probe has ended yet.
    Unchecked,
    Up,
    Down,
}

/// What the operator says.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Wish {
    Ready,
    /// No new connections; those there are may end in their own time.
    Drain,
    Maintenance,
}

/// Whether a backend may take a new connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Availability {
    Available,
    /// Only when the whole pool has nobody available.
    LastResort,
    Unavailable,
}

/// Combines what probes, traffic and the operator say; there is no other place that does.
///
/// Weight 0 drains in every policy. A backend that no probe has reached yet is used last, not
/// blindly as up.
pub fn availability(verdict: Verdict, wish: Wish, ejected: bool, weight: u16) -> Availability {
    if weight == 0 || ejected || wish != Wish::Ready {
        return Availability::Unavailable;
    }
    match verdict {
        Verdict::Unprobed | Verdict::Up => Availability::Available,
        Verdict::Unchecked => Availability::LastResort,
        Verdict::Down => Availability::Unavailable,
    }
}

/// The one word an operator sees.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum State {
    Up,
    Down,
    Drain,
    Maintenance,
    Ejected,
    SlowStart,
    Unchecked,
}

impl State {
    pub const ALL: [State; 7] = [
        State::Up,
        State::Down,
        State::Drain,
        State::Maintenance,
        State::Ejected,
        State::SlowStart,
        State::Unchecked,
    ];

    /// The same fields as [`availability`] takes; the cause an operator would act on first wins:
    /// what they asked for themselves, then the probes, then the traffic, then a slow start.
    pub fn of(verdict: Verdict, wish: Wish, ejected: bool, ramps: bool, weight: u16) -> State {
        match (wish, verdict) {
            (Wish::Maintenance, _) => State::Maintenance,
            (Wish::Drain, _) => State::Drain,
            (Wish::Ready, _) if weight == 0 => State::Drain,
            (Wish::Ready, Verdict::Down) => State::Down,
            (Wish::Ready, _) if ejected => State::Ejected,
            (Wish::Ready, Verdict::Unchecked) => State::Unchecked,
            (Wish::Ready, Verdict::Up | Verdict::Unprobed) if ramps => State::SlowStart,
            (Wish::Ready, Verdict::Up | Verdict::Unprobed) => State::Up,
        }
    }

    pub fn as_str(self) -> &'static str {
        match self {
            State::Up => "up",
            State::Down => "down",
            State::Drain => "drain",
            State::Maintenance => "maintenance",
            State::Ejected => "ejected",
            State::SlowStart => "slow_start",
            State::Unchecked => "unchecked",
        }
    }
}

impl std::str::FromStr for State {
    type Err = String;

    fn from_str(word: &str) -> Result<Self, String> {
        let known = State::ALL.into_iter().find(|state| state.as_str() == word);
        known.ok_or_else(|| format!("{word:?} is not the state of a backend"))
    }
}

impl std::fmt::Display for State {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every combination of the fields, with a weight of 1.
    #[test]
    fn availability_and_state_follow_the_truth_table() {
        use Availability::{Available, LastResort, Unavailable};
        use Verdict::{Down, Unchecked, Unprobed, Up};
        use Wish::{Drain, Maintenance, Ready};
        let table = [
            (Unprobed, Ready, false, Available, State::Up),
            (Unprobed, Ready, true, Unavailable, State::Ejected),
            (Unprobed, Drain, false, Unavailable, State::Drain),
            (Unprobed, Drain, true, Unavailable, State::Drain),
            (
                Unprobed,
                Maintenance,
                false,
                Unavailable,
                State::Maintenance,
            ),
            (Unprobed, Maintenance, true, Unavailable, State::Maintenance),
            (Unchecked, Ready, false, LastResort, State::Unchecked),
            (Unchecked, Ready, true, Unavailable, State::Ejected),
            (Unchecked, Drain, false, Unavailable, State::Drain),
            (Unchecked, Drain, true, Unavailable, State::Drain),
            (
                Unchecked,
                Maintenance,
                false,
                Unavailable,
                State::Maintenance,
            ),
            (
                Unchecked,
                Maintenance,
                true,
                Unavailable,
                State::Maintenance,
            ),
            (Up, Ready, false, Available, State::Up),
            (Up, Ready, true, Unavailable, State::Ejected),
            (Up, Drain, false, Unavailable, State::Drain),
            (Up, Drain, true, Unavailable, State::Drain),
            (Up, Maintenance, false, Unavailable, State::Maintenance),
            (Up, Maintenance, true, Unavailable, State::Maintenance),
            (Down, Ready, false, Unavailable, State::Down),
            (Down, Ready, true, Unavailable, State::Down),
            (Down, Drain, false, Unavailable, State::Drain),
            (Down, Drain, true, Unavailable, State::Drain),
            (Down, Maintenance, false, Unavailable, State::Maintenance),
            (Down, Maintenance, true, Unavailable, State::Maintenance),
        ];
        for (verdict, wish, ejected, may, shown) in table {
            assert_eq!(
                availability(verdict, wish, ejected, 1),
                may,
                "{verdict:?} {wish:?}"
            );
            for ramps in [false, true] {
                let shown = match shown {
                    State::Up if ramps => State::SlowStart,
                    shown => shown,
                };
                let state = State::of(verdict, wish, ejected, ramps, 1);
                assert_eq!(state, shown, "{verdict:?} {wish:?}");
            }
            assert_eq!(availability(verdict, wish, ejected, 0), Unavailable);
        }
    }

    #[test]
    fn weight_zero_is_shown_as_drain_unless_in_maintenance() {
        assert_eq!(
            State::of(Verdict::Up, Wish::Ready, false, true, 0),
            State::Drain
        );
        assert_eq!(
            State::of(Verdict::Down, Wish::Ready, true, false, 0),
            State::Drain
        );
        assert_eq!(
            State::of(Verdict::Up, Wish::Maintenance, false, false, 0),
            State::Maintenance
        );
    }

    #[test]
    fn each_state_has_its_own_lower_case_word() {
        let mut words: Vec<_> = State::ALL.iter().map(|state| state.as_str()).collect();
        assert!(
            words
                .iter()
                .all(|word| word.bytes().all(|b| b.is_ascii_lowercase() || b == b'_'))
        );
        words.sort_unstable();
        words.dedup();
        assert_eq!(words.len(), State::ALL.len());
    }
}
