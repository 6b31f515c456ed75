//! Why a client would go where it would go now: what `GET /api/v1/why` answers.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_with::{DisplayFromStr, DurationMilliSecondsWithFrac, serde_as};

use super::state::LastProbe;
use crate::balance::backend::State as BackendWord;
use crate::balance::explain::Reason;
use crate::balance::policy::PolicyKind;
use crate::base::addr::Endpoint;

/// A client as it might come.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WhyQuery {
    /// Port 0 where only the address is known.
    pub client: SocketAddr,
    pub listener: String,
    /// The name it asks for.
    pub sni: Option<String>,
    /// The protocols it offers.
    pub alpn: Vec<String>,
}

/// What would become of it, from the accept to the backend.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Why {
    /// All of it in a sentence.
    pub summary: String,
    /// It would be connected to a backend without waiting.
    pub served: bool,
    pub listener: String,
    pub client: SocketAddr,
    /// As far as the listener looks at it.
    pub sni: Option<String>,
    pub alpn: Vec<String>,
    /// What else there is to know, in words.
    pub notes: Vec<String>,
    /// The first that is full turns the client away.
    pub limits: Vec<LimitState>,
    /// The listener's `allow` and `deny` let it in.
    pub allowed: bool,
    /// None: it is turned away before, or no rule fits and there is no default pool.
    pub route: Option<RouteTaken>,
    /// None also where a limit turns it away before.
    pub pool: Option<PoolChoice>,
}

/// Connections of what a limit is kept on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LimitState {
    /// source, listener or process: in the order in which they are asked.
    pub of: String,
    pub active: u32,
    /// 0 = no limit.
    pub max: u32,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RouteTaken {
    /// The number of the `[[listener.route]]` that fits, from 1; none: the listener's own pool.
    pub rule: Option<usize>,
    pub pool: String,
}

#[serde_as]
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct PoolChoice {
    pub name: String,
    #[serde_as(as = "DisplayFromStr")]
    pub policy: PolicyKind,
    /// What is hashed, and the hash; only where the policy looks at it.
    pub hash_key: Option<String>,
    pub hash: Option<String>,
    pub active: u32,
    /// 0 = no limit.
    pub max_connections: u32,
    pub queued: u32,
    pub retries: u32,
    /// Too few are available, so those known to be down are used too.
    pub panic: bool,
    /// A worker draws for each client by itself: another one may get another backend.
    pub by_chance: bool,
    /// In the order in which they would be tried; then the others as they are listed.
    pub candidates: Vec<Considered>,
}

#[serde_as]
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Considered {
    pub name: String,
    #[serde_as(as = "DisplayFromStr")]
    pub address: Endpoint,
    #[serde_as(as = "DisplayFromStr")]
    pub reason: Reason,
    /// Which try it would be, from 1.
    pub order: Option<usize>,
    pub weight: u16,
    /// What it has of its weight in its slow start.
    pub ramp_percent: u32,
    pub priority: u16,
    pub active: u32,
    /// 0 = no limit.
    pub max_connections: u32,
    /// What `least_latency` goes by.
    #[serde(rename = "latency_ms")]
    #[serde_as(as = "Option<DurationMilliSecondsWithFrac>")]
    pub latency: Option<Duration>,
    #[serde_as(as = "DisplayFromStr")]
    pub state: BackendWord,
    pub last_probe: Option<LastProbe>,
}

impl Why {
    /// Who would be connected to first, when it is the client's turn.
    pub fn taken(&self) -> Option<&Considered> {
        let mut candidates = self.pool.iter().flat_map(|pool| &pool.candidates);
        candidates.find(|one| one.reason == Reason::Taken)
    }
}

/// Reads `192.0.2.7`, `2001:db8::7`, or one of them with a port.
pub fn parse_client(text: &str) -> Result<SocketAddr, String> {
    let bare = |ip: IpAddr| SocketAddr::new(ip, 0);
    let read = text.parse().or_else(|_| text.parse().map(bare));
    read.map_err(|_| format!("{text:?} is not the address of a client, such as 192.0.2.7"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_client_is_an_address_with_or_without_a_port() {
        for (text, read) in [
            ("192.0.2.7", "192.0.2.7:0"),
            ("192.0.2.7:80", "192.0.2.7:80"),
            ("2001:db8::7", "[2001:db8::7]:0"),
            ("[2001:db8::7]:80", "[2001:db8::7]:80"),
        ] {
            assert_eq!(parse_client(text), Ok(read.parse().unwrap()));
        }
        for text in ["", "a.test", "192.0.2.7/24", "192.0.2.7:"] {
            assert!(parse_client(text).is_err(), "{text}");
        }
    }
}
