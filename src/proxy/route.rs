//! Where a listener's clients go.

use std::sync::atomic::AtomicU32;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use rustls::Error;
use rustls::pki_types::ServerName;

use super::admission::Gate;
use super::tally::{Ends, Tally};
use crate::balance::key::{HashKey, HashSeed};
use crate::balance::networks::Networks;
use crate::balance::pool::Pool;
use crate::base::addr::{ClientAddr, Endpoint};
use crate::base::host::NamePattern;
use crate::config::settings::{Drain, Queue, SendProxy};
use crate::tls::client::Connector;
use crate::tls::server::Acceptor;
use crate::tls::stream::TlsStream;

/// One listener as a snapshot has it. Sessions keep the route they began with.
#[derive(Debug)]
pub struct Route {
    pub listener: String,
    pub limits: Limits,
    pub gate: Gate,
    /// Whose connections begin with a header of the PROXY protocol.
    pub header: Option<HeaderRule>,
    pub tls: Option<Tls>,
    /// The first that fits says where a client goes.
    pub rules: Vec<Rule>,
    /// For those that no rule fits.
    pub upstream: Option<Arc<Upstream>>,
    pub tally: Arc<Tally>,
    pub ends: Ends,
}

/// Who sends a header, and by when it is to be there.
#[derive(Debug)]
pub struct HeaderRule {
    pub from: Networks,
    pub timeout: Duration,
}

/// What is done with the TLS of clients.
#[derive(Clone, Debug)]
pub enum Tls {
    Terminate {
        acceptor: Acceptor,
        timeout: Duration,
    },
    Passthrough {
        timeout: Duration,
    },
}

/// A way that some clients take: each list that is not empty must have something that fits.
#[derive(Debug)]
pub struct Rule {
    pub sni: Vec<NamePattern>,
    pub alpn: Vec<Vec<u8>>,
    pub source: Option<Networks>,
    pub upstream: Arc<Upstream>,
}

impl Route {
    /// Where a client goes, by its address, the name it asks for and the protocols it speaks.
    pub fn choose<'a>(
        &self,
        client: ClientAddr,
        name: Option<&str>,
        alpn: impl Iterator<Item = &'a [u8]> + Clone,
    ) -> Option<&Arc<Upstream>> {
        self.find(client, name, alpn).map(|(_, upstream)| upstream)
    }

    /// The same, with the index of the rule that fits; without one it is the default.
    pub fn find<'a>(
        &self,
        client: ClientAddr,
        name: Option<&str>,
        alpn: impl Iterator<Item = &'a [u8]> + Clone,
    ) -> Option<(Option<usize>, &Arc<Upstream>)> {
        let fits = |rule: &Rule| rule.fits(client, name, alpn.clone());
        match self.rules.iter().position(fits) {
            Some(index) => Some((Some(index), &self.rules[index].upstream)),
            None => Some((None, self.upstream.as_ref()?)),
        }
    }

    /// Whether the client's connection must begin with a header.
    pub fn trusts(&self, client: ClientAddr) -> Option<&HeaderRule> {
        let rule = self.header.as_ref()?;
        match client {
            ClientAddr::Ip(addr) => rule.from.allows(addr.ip()).then_some(rule),
            ClientAddr::Unix => None,
        }
    }
}

impl Rule {
    fn fits<'a>(
        &self,
        client: ClientAddr,
        name: Option<&str>,
        mut alpn: impl Iterator<Item = &'a [u8]>,
    ) -> bool {
        let source = match (&self.source, client) {
            (None, _) => true,
            (Some(networks), ClientAddr::Ip(addr)) => networks.allows(addr.ip()),
            (Some(_), ClientAddr::Unix) => false,
        };
        let name = || name.is_some_and(|name| self.sni.iter().any(|one| one.matches(name)));
        source
            && (self.sni.is_empty() || name())
            && (self.alpn.is_empty() || alpn.any(|one| self.alpn.iter().any(|mine| mine == one)))
    }
}

/// Zero means none, for each.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    pub max_connections: u32,
    /// Longest silence in both directions.
    pub idle: Duration,
    /// Longest silence once one side has closed.
    pub half_close: Duration,
    pub lifetime: Duration,
}

/// A pool and how its backends are connected to.
#[derive(Debug)]
pub struct Upstream {
    pub pool: Arc<Pool<Endpoint>>,
    /// For all tries of one client together.
    pub connect_timeout: Duration,
    /// Further backends tried after the first.
    pub retries: u32,
    /// Percent of the pool's connections, see [`Budget`](crate::balance::budget::Budget).
    pub retry_budget: u32,
    pub queue: Queue,
    pub drain: Drain,
    /// Idle sessions moved each second when a backend comes; 0 = none.
    pub rebalance: u32,
    pub seed: HashSeed,
    /// What of a client the hash is taken of.
    pub hash_key: HashKey,
    pub send_proxy: SendProxy,
    pub tls: Option<UpstreamTls>,
    /// The same pool as the newest configuration has it.
    pub newest: Arc<Newest>,
}

/// TLS towards the backends of a pool.
#[derive(Debug)]
pub struct UpstreamTls {
    /// By the index of the backend, with the name its certificate must be for.
    pub backends: Vec<(Connector, ServerName<'static>)>,
}

impl UpstreamTls {
    /// The beginning of a handshake with a backend.
    pub(super) fn begin(&self, backend: usize, alpn: Option<&[u8]>) -> Result<TlsStream, Error> {
        let (connector, name) = &self.backends[backend];
        Ok(TlsStream::client(connector.begin(name.clone(), alpn)?))
    }
}

/// Leads from an upstream of an older snapshot to that of the newest one, for clients that waited
/// through a reload. Never locked for longer than a copy takes.
#[derive(Debug, Default)]
pub struct Newest(Mutex<Weak<Upstream>>);

impl Newest {
    pub fn set(&self, upstream: &Arc<Upstream>) {
        *self.lock() = Arc::downgrade(upstream);
    }

    /// `None` when the pool is in no configuration any more.
    fn find(&self) -> Option<Arc<Upstream>> {
        self.lock().upgrade()
    }

    fn lock(&self) -> MutexGuard<'_, Weak<Upstream>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Upstream {
    /// This pool as it is configured now.
    pub(super) fn newest(self: &Arc<Self>) -> Arc<Upstream> {
        self.newest.find().unwrap_or_else(|| self.clone())
    }

    /// What a hash policy goes by. Clients on unix sockets are all one source.
    pub fn key(&self, client: ClientAddr, name: Option<&str>) -> u64 {
        match client {
            ClientAddr::Ip(addr) => self.seed.key(self.hash_key, addr, name),
            ClientAddr::Unix => 0,
        }
    }
}

/// Client connections of the whole process.
#[derive(Debug)]
pub struct ProcessCount {
    active: AtomicU32,
    max: AtomicU32,
}

impl ProcessCount {
    pub fn new(max: u32) -> Self {
        ProcessCount {
            active: AtomicU32::new(0),
            max: AtomicU32::new(max),
        }
    }

    pub fn active(&self) -> u32 {
        self.active.load(Relaxed)
    }

    /// Counts one more connection, unless there are as many as there may be.
    pub(super) fn take_place(&self) -> bool {
        take_one(&self.active, self.max())
    }

    pub(super) fn give_back_place(&self) {
        self.active.fetch_sub(1, Relaxed);
    }

    pub fn max(&self) -> u32 {
        self.max.load(Relaxed)
    }

    pub fn set_max(&self, max: u32) {
        self.max.store(max, Relaxed);
    }
}

/// Workers count at the same time: what is over the limit is never counted, not even for a moment
/// in which it could keep another out.
pub(super) fn take_one(active: &AtomicU32, max: u32) -> bool {
    let one_more = |count: u32| (count < max).then(|| count + 1);
    active.fetch_update(Relaxed, Relaxed, one_more).is_ok()
}
