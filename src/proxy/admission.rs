//! Who is let in: networks, limits of a source, of the listener and of the process.

use std::net::IpAddr;
use std::sync::Arc;

use super::route::{ProcessCount, Route};
use super::tally::Tally;
use crate::balance::networks::Networks;
use crate::balance::sources::{Excess, Sources, Stay};
use crate::base::addr::ClientAddr;
use crate::base::clock::Moment;
use crate::base::ending::Termination;

/// Which clients a listener lets in, by their address. Those on unix sockets have none and are
/// not asked for it.
#[derive(Debug, Default)]
pub struct Gate {
    /// `None`: everybody may come.
    pub networks: Option<Networks>,
    /// `None`: a source may do what it likes, and costs nothing.
    pub sources: Option<Arc<Sources>>,
}

/// A client connection's place within the limits of its source, its listener and the process;
/// given back on drop.
#[derive(Debug)]
pub struct Admission {
    process: Arc<ProcessCount>,
    tally: Arc<Tally>,
    /// Held for its drop.
    stay: Option<Stay>,
}

/// Why a client is not let in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Refusal {
    pub termination: Termination,
    /// Word for the access log.
    pub detail: &'static str,
}

impl Admission {
    /// Lets a client in, or says why not. One that is refused is counted in the totals, but takes
    /// nobody's place and no token of its source, so that refusing many keeps nobody else out.
    pub fn enter(
        process: &Arc<ProcessCount>,
        route: &Route,
        client: ClientAddr,
        now: Moment,
    ) -> Result<Admission, Refusal> {
        route.tally.count_arrival();
        let stay = route.gate.pass(client, now)?;
        match Admission::take_place(process, route) {
            Ok(mut admission) => {
                admission.stay = stay;
                Ok(admission)
            }
            Err(refusal) => {
                if let Some(stay) = stay {
                    stay.undo();
                }
                Err(refusal)
            }
        }
    }

    /// The same for a connection whose client is not known yet: [`Admission::name`] follows.
    pub fn enter_unnamed(process: &Arc<ProcessCount>, route: &Route) -> Result<Admission, Refusal> {
        route.tally.count_arrival();
        Admission::take_place(process, route)
    }

    /// Lets the client in that a connection is found to be of.
    pub fn name(&mut self, gate: &Gate, client: ClientAddr, now: Moment) -> Result<(), Refusal> {
        self.stay = gate.pass(client, now)?;
        Ok(())
    }

    fn take_place(process: &Arc<ProcessCount>, route: &Route) -> Result<Admission, Refusal> {
        let tally = &route.tally;
        // The listener first: at its limit it must not hold a place that another listener's
        // client could have had.
        if !tally.take_place(route.limits.max_connections) {
            return Err(Refusal::new(Termination::ListenerLimit, ""));
        }
        if !process.take_place() {
            tally.give_back_place();
            return Err(Refusal::new(Termination::ProcessLimit, ""));
        }
        Ok(Admission {
            process: process.clone(),
            tally: tally.clone(),
            stay: None,
        })
    }
}

impl Drop for Admission {
    fn drop(&mut self) {
        self.tally.give_back_place();
        self.process.give_back_place();
    }
}

impl Refusal {
    fn new(termination: Termination, detail: &'static str) -> Self {
        Refusal {
            termination,
            detail,
        }
    }
}

impl From<Excess> for Refusal {
    fn from(excess: Excess) -> Self {
        Refusal::new(Termination::SourceLimit, excess.as_str())
    }
}

impl Gate {
    fn pass(&self, client: ClientAddr, now: Moment) -> Result<Option<Stay>, Refusal> {
        let ClientAddr::Ip(client) = client else {
            return Ok(None);
        };
        self.pass_ip(client.ip(), now)
    }

    fn pass_ip(&self, client: IpAddr, now: Moment) -> Result<Option<Stay>, Refusal> {
        if let Some(networks) = &self.networks
            && !networks.allows(client)
        {
            return Err(Refusal::new(Termination::Denied, ""));
        }
        match &self.sources {
            Some(sources) => Ok(Some(sources.enter(client, now)?)),
            None => Ok(None),
        }
    }
}
