//! What probe, agent and operator say of one backend, and what holds of it then: the stricter.

use crate::balance::backend::{Verdict, Wish};
use crate::wire::agent::{AgentWish, Answer, Serves};

/// The share of an agent that never gave one.
const PERCENT_FULL: u16 = 100;

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Standing {
    /// What the probes say.
    pub(super) probe: Verdict,
    /// What the operator says.
    pub(super) operator_wish: Wish,
    agent: AgentSide,
}

/// What the agent said last of each thing.
#[derive(Clone, Debug, PartialEq, Eq)]
struct AgentSide {
    /// Why the backend is down.
    down: Option<String>,
    wish: Wish,
    percent: u16,
}

impl AgentSide {
    const SILENT: AgentSide = AgentSide {
        down: None,
        wish: Wish::Ready,
        percent: PERCENT_FULL,
    };
}

/// What an agent's answer changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum AgentChange {
    Serves,
    Wish,
    Percent,
}

impl Standing {
    pub(super) fn new(probe: Verdict, operator_wish: Wish) -> Self {
        Standing {
            probe,
            operator_wish,
            agent: AgentSide::SILENT,
        }
    }

    /// Down if either says so: only the agent takes back its own word.
    pub(super) fn verdict(&self) -> Verdict {
        match self.agent.down {
            Some(_) => Verdict::Down,
            None => self.probe,
        }
    }

    pub(super) fn wish(&self) -> Wish {
        let agent = match self.agent.wish {
            Wish::Ready if self.agent.percent == 0 => Wish::Drain,
            wish => wish,
        };
        match (self.operator_wish, agent) {
            (Wish::Maintenance, _) | (_, Wish::Maintenance) => Wish::Maintenance,
            (Wish::Drain, _) | (_, Wish::Drain) => Wish::Drain,
            (Wish::Ready, Wish::Ready) => Wish::Ready,
        }
    }

    /// Of the configured weight.
    pub(super) fn percent(&self) -> u16 {
        self.agent.percent
    }

    pub(super) fn agent_says_down(&self) -> Option<&str> {
        self.agent.down.as_deref()
    }

    pub(super) fn agent_wish_word(&self) -> &'static str {
        match self.agent.wish {
            Wish::Ready => "ready",
            Wish::Drain => "drain",
            Wish::Maintenance => "maint",
        }
    }

    /// Takes in an answer; what it does not mention stays.
    pub(super) fn agent_says(&mut self, answer: Answer) -> Vec<AgentChange> {
        let before = self.agent.clone();
        match answer.serves {
            Some(Serves::Up) => self.agent.down = None,
            Some(Serves::Down(reason)) => self.agent.down = Some(reason),
            None => {}
        }
        match answer.wish {
            Some(AgentWish::Ready) => self.agent.wish = Wish::Ready,
            Some(AgentWish::Drain) => self.agent.wish = Wish::Drain,
            Some(AgentWish::Maintenance) => self.agent.wish = Wish::Maintenance,
            None => {}
        }
        if let Some(percent) = answer.percent {
            self.agent.percent = percent;
        }
        let mut changes = Vec::new();
        // Another reason for the same is no change.
        if before.down.is_some() != self.agent.down.is_some() {
            changes.push(AgentChange::Serves);
        }
        let empty = |percent| percent == 0;
        if before.wish != self.agent.wish || empty(before.percent) != empty(self.agent.percent) {
            changes.push(AgentChange::Wish);
        }
        if before.percent != self.agent.percent {
            changes.push(AgentChange::Percent);
        }
        changes
    }

    /// Takes back what the agent said; true if it had said anything.
    pub(super) fn forget_agent(&mut self) -> bool {
        let silent = self.agent == AgentSide::SILENT;
        self.agent = AgentSide::SILENT;
        !silent
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::agent::parse;

    fn standing() -> Standing {
        Standing::new(Verdict::Up, Wish::Ready)
    }

    #[test]
    fn down_holds_until_the_agent_says_up_whatever_the_probe_says() {
        let mut standing = standing();
        assert_eq!(
            standing.agent_says(parse(b"down # disk full")),
            [AgentChange::Serves]
        );
        assert_eq!(standing.agent_says_down(), Some("disk full"));
        for (line, probe) in [
            ("50%", Verdict::Up),
            ("ready", Verdict::Up),
            ("down", Verdict::Down),
        ] {
            standing.agent_says(parse(line.as_bytes()));
            standing.probe = probe;
            assert_eq!(standing.verdict(), Verdict::Down, "{line}");
        }
        standing.agent_says(parse(b"up"));
        assert_eq!(standing.verdict(), Verdict::Down, "the probe says so too");
        standing.probe = Verdict::Up;
        assert_eq!(standing.verdict(), Verdict::Up);
    }

    #[test]
    fn of_two_wishes_the_stricter_holds_and_neither_is_lost() {
        use Wish::{Drain, Maintenance, Ready};
        for (operator, line, holds) in [
            (Ready, "ready", Ready),
            (Ready, "drain", Drain),
            (Ready, "maint", Maintenance),
            (Drain, "ready", Drain),
            (Drain, "maint", Maintenance),
            (Maintenance, "drain", Maintenance),
            (Ready, "0%", Drain),
            (Ready, "0% maint", Maintenance),
        ] {
            let mut standing = standing();
            standing.operator_wish = operator;
            standing.agent_says(parse(line.as_bytes()));
            assert_eq!(standing.wish(), holds, "{operator:?} {line}");
            standing.agent_says(parse(b"ready 100%"));
            assert_eq!(standing.wish(), operator, "{operator:?} {line}");
        }
    }

    #[test]
    fn only_what_changed_is_told() {
        let mut standing = standing();
        assert_eq!(standing.agent_says(parse(b"up ready 100%")), []);
        assert_eq!(standing.agent_says(parse(b"40%")), [AgentChange::Percent]);
        assert_eq!(standing.percent(), 40);
        let all = [AgentChange::Serves, AgentChange::Wish, AgentChange::Percent];
        assert_eq!(standing.agent_says(parse(b"down drain 0%")), all);
        assert_eq!(standing.agent_says(parse(b"stopped # again")), []);
        assert!(standing.forget_agent());
        assert_eq!(standing, super::tests::standing());
        assert!(!standing.forget_agent());
    }
}
