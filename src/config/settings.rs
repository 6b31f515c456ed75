//! The checked configuration: what the floors above may rely on. Nothing here is text any more.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::time::Duration;

use rustls::pki_types::CertificateDer;

use crate::balance::ejection::Ejection;
use crate::balance::health::{Damping, Thresholds};
use crate::balance::key::HashKey;
use crate::balance::networks::Network;
use crate::balance::policy::{Cost, PolicyKind};
use crate::balance::sources::SourceLimits;
use crate::base::addr::Endpoint;
use crate::base::host::HostName;
pub use crate::observe::access::Target as AccessTarget;
pub use crate::observe::form::Format as LogFormat;
pub use crate::observe::log::Level as LogLevel;
pub use crate::wire::script::Step;
pub use admin::{Admin, Token};
pub use secure::{
    AcceptProxy, ClientAuth, CrlFile, Identity, ListenerTls, RouteRule, Terminate, TlsVersion,
    UpstreamTls,
};

mod admin;
mod secure;

/// One whole, checked configuration.
#[derive(Clone, Debug, PartialEq)]
pub struct Settings {
    pub global: Global,
    pub log: Log,
    pub admin: Admin,
    /// At least one; names are unique.
    pub listeners: Vec<Listener>,
    /// Names are unique; those of listeners are among them.
    pub pools: Vec<Pool>,
}

#[derive(Clone, Debug, PartialEq)]
pub struct Global {
    /// Data-plane threads, 1..=256; `None` is "auto": one for each processor.
    pub workers: Option<usize>,
    /// Client connections of the whole process, at least 1.
    pub max_connections: u32,
    pub drain_timeout: Duration,
    /// Key of every hash that chooses a backend. Instances that share it agree on the choice.
    pub hash_seed: String,
    /// Name servers to ask; empty = those of the system.
    pub resolvers: Vec<SocketAddr>,
}

#[derive(Clone, Debug, PartialEq)]
pub struct Log {
    pub level: LogLevel,
    pub format: LogFormat,
    pub access: AccessTarget,
}

#[derive(Clone, Debug, PartialEq)]
pub struct Listener {
    pub name: String,
    /// At least one; port ranges are written out. No two listeners share one.
    pub binds: Vec<Endpoint>,
    /// Looked at in this order; the first that fits says where a client goes.
    pub routes: Vec<RouteRule>,
    /// Index into [`Settings::pools`]: for those that no route fits. `None`: they are turned away.
    pub pool: Option<usize>,
    pub accept_proxy: Option<AcceptProxy>,
    pub tls: Option<ListenerTls>,
    /// 0 = no limit of its own.
    pub max_connections: u32,
    /// Longest silence in both directions; zero = none.
    pub idle_timeout: Duration,
    /// Longest silence once one side has closed; zero = none.
    pub half_close_timeout: Duration,
    /// Longest life of a connection; zero = none.
    pub max_lifetime: Duration,
    /// No network is in both lists.
    pub allow: NetworkList,
    pub deny: NetworkList,
    pub per_source: SourceLimits,
}

#[derive(Clone, Debug, Default, PartialEq)]
pub struct NetworkList {
    /// Those that stand in the configuration itself.
    pub networks: Vec<Network>,
    /// Absolute.
    pub file: Option<PathBuf>,
    /// What the file held when the configuration was read.
    pub from_file: Vec<Network>,
}

impl NetworkList {
    pub fn all(&self) -> impl Iterator<Item = Network> {
        self.networks.iter().chain(&self.from_file).copied()
    }
}

#[derive(Clone, Debug, PartialEq)]
pub struct Pool {
    pub name: String,
    pub policy: PolicyKind,
    /// What the policy `ip_hash` goes by.
    pub hash_key: HashKey,
    /// Largest load of a backend with `ip_hash`, in percent of the mean by weight, 101..=1000;
    /// 0 = no bound.
    pub hash_balance_factor: u16,
    /// How long a backend takes to have all of its weight again; zero = it has it at once.
    pub slow_start: Duration,
    /// Percent of backends available below which those known to be down are used too, 0..=100;
    /// 0 = never.
    pub panic_threshold: u8,
    /// Time for all tries of one client together, more than zero.
    pub connect_timeout: Duration,
    /// Further backends tried after the first, 0..=16.
    pub retries: u32,
    /// Retries for each 100 connections, over some seconds; 0 = only the few that are always let
    /// through.
    pub retry_budget: u32,
    /// Over all backends; 0 = no limit.
    pub max_connections: u32,
    pub queue: Queue,
    pub drain: Drain,
    /// Idle sessions moved each second when a backend comes; 0 = none.
    pub rebalance: u32,
    /// What connections to backends begin with.
    pub send_proxy: SendProxy,
    pub tls: Option<UpstreamTls>,
    pub ejection: Ejection,
    pub health: Health,
    /// Names are unique within the pool; at least one, unless `discover` has one.
    pub backends: Vec<Backend>,
    /// Where further backends are found while lbd runs.
    pub discover: Vec<Discover>,
}

/// Where clients wait while every backend is full.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Queue {
    /// Clients that may wait; 0 = none.
    pub length: u32,
    /// The longest wait, more than zero.
    pub timeout: Duration,
    /// Whether a client that closed its sending half waits on, else it is taken to have left.
    pub stays_half_closed: bool,
}

/// How the sessions of a backend end that is to have none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Drain {
    /// When the last one is closed; zero = they are left to end by themselves.
    pub deadline: Duration,
    /// Whether the sessions of a backend that goes down are closed.
    pub closes_on_down: bool,
}

#[derive(Clone, Debug, PartialEq)]
pub struct Backend {
    pub name: String,
    pub address: Address,
    /// 0 = takes no new connection; at most 65 535.
    pub weight: u16,
    /// Lower first.
    pub priority: u16,
    pub cost: Cost,
    /// 0 = no limit.
    pub max_connections: u32,
}

/// Where a backend is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Address {
    At(Endpoint),
    /// At one of the addresses that the name has at the time.
    Named {
        host: HostName,
        /// Never 0.
        port: u16,
    },
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Address::At(endpoint) => endpoint.fmt(f),
            Address::Named { host, port } => write!(f, "{host}:{port}"),
        }
    }
}

/// Backends that are not listed but found.
#[derive(Clone, Debug, PartialEq)]
pub enum Discover {
    /// Each address of a name is a backend.
    Dns {
        name: HostName,
        /// Never 0.
        port: u16,
        weight: u16,
        priority: u16,
        max_connections: u32,
        ttl: TtlBounds,
    },
    /// Each address of each target of a service is a backend; weight, priority and port are those
    /// of the record (RFC 2782).
    Srv {
        name: HostName,
        max_connections: u32,
        ttl: TtlBounds,
    },
    /// Each `[[backend]]` of a file is a backend.
    File {
        path: PathBuf,
        /// Whether a file without backends is believed.
        allow_empty: bool,
    },
}

/// An answer is asked for again when its time to live, brought within these, is over.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct TtlBounds {
    pub min: Duration,
    /// At least `min`.
    pub max: Duration,
}

/// Of host names that stand in the `address` of a backend.
pub const TTL_BOUNDS: TtlBounds = TtlBounds {
    min: Duration::from_secs(1),
    max: Duration::from_secs(300),
};

#[derive(Clone, Debug, PartialEq)]
pub struct Health {
    pub probe: Probe,
    pub interval: Duration,
    pub timeout: Duration,
    pub thresholds: Thresholds,
    pub damping: Damping,
    /// Interval while a backend is between up and down.
    pub fast_interval: Duration,
    pub down_interval: Duration,
    /// Port to probe; 0 = the backend's own.
    pub port: u16,
    /// Address to probe instead of the backend's.
    pub probe_address: Option<IpAddr>,
    /// What the probe's connection begins with.
    pub send_proxy: SendProxy,
    pub agent: Option<Agent>,
}

/// A header of the PROXY protocol before anything else.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SendProxy {
    Off,
    V1,
    V2,
}

/// A program beside the backend that says how it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Agent {
    /// On the backend's host, not 0.
    pub port: u16,
    pub interval: Duration,
    /// Sent before the answer is read; may be empty.
    pub send: Vec<u8>,
}

#[derive(Clone, Debug, PartialEq)]
pub enum Probe {
    None,
    /// Passes when the connection is accepted.
    Tcp,
    /// Passes when the TLS handshake is done.
    Tls(TlsVerify),
    /// Passes when the answer's status and body are as expected.
    Http(HttpProbe),
    Https(HttpProbe, TlsVerify),
    /// Passes when each step got what it expects. At least one step, at least one expects.
    SendExpect(Vec<Step>),
    /// Passes when the program exits with 0. Its path, which is absolute, and its arguments.
    Exec(Vec<String>),
}

impl Probe {
    pub fn tls(&self) -> Option<&TlsVerify> {
        match self {
            Probe::Tls(tls) | Probe::Https(_, tls) => Some(tls),
            _ => None,
        }
    }
}

/// How the certificate of a TLS server is checked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TlsVerify {
    /// The name it must be for; empty = the HTTP host of a probe, else the host name that the
    /// backend's address has, else the address.
    pub server_name: String,
    /// Who may have signed it; none = whom the system trusts.
    pub ca: Option<CaBundle>,
    /// Any certificate will do.
    pub insecure: bool,
}

/// The host of a Host header's value, an IPv6 address without its brackets.
pub fn without_port(host: &str) -> &str {
    let name = match host.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => name,
        _ => host,
    };
    let inner = name
        .strip_prefix('[')
        .and_then(|name| name.strip_suffix(']'));
    inner.unwrap_or(name)
}

/// A PEM file as it was when the configuration was read: other content is another setting.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CaBundle {
    pub path: PathBuf,
    /// At least one; each can be a trust anchor.
    pub certificates: Vec<CertificateDer<'static>>,
}

#[derive(Clone, Debug, PartialEq)]
pub struct HttpProbe {
    /// Path and query, beginning with '/'.
    pub path: String,
    /// Value of the Host header; empty = the backend's address.
    pub host: String,
    /// Not empty; each within 100..=599.
    pub expect_status: Vec<RangeInclusive<u16>>,
    /// Text that must occur in the body; empty = any body.
    pub expect_body: String,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_port_and_the_brackets_of_a_host_are_left_out() {
        for (host, name) in [
            ("web.internal", "web.internal"),
            ("web.internal:8443", "web.internal"),
            ("10.0.0.1:80", "10.0.0.1"),
            ("[2001:db8::1]:80", "2001:db8::1"),
            ("[2001:db8::1]", "2001:db8::1"),
            ("", ""),
        ] {
            assert_eq!(without_port(host), name, "{host}");
        }
    }
}
