//! What a session's record says, and when it is written.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use super::admission::Admission;
use super::context::Context;
use super::route::{Route, Upstream};
use crate::base::addr::ClientAddr;
use crate::base::clock::Moment;
use crate::base::ending::{Phase, RelayPath, Termination};
use crate::observe::access::{FailedTry, Record};
use crate::tls::subject::About;
use crate::wire::proxy::Tlvs;

/// What a session's record says of it, from the first moment.
#[derive(Debug)]
pub(super) struct Account {
    pub(super) route: Arc<Route>,
    /// Where the client goes, once that is known.
    pub(super) upstream: Option<Arc<Upstream>>,
    pub(super) client: ClientAddr,
    pub(super) accepted_at: Moment,
    /// `None` of a client that was refused.
    pub(super) admission: Option<Admission>,
    /// `None` where there was nothing to learn.
    pub(super) learnt: Option<Box<Learnt>>,
}

/// What a client and those before it said of themselves.
#[derive(Debug, Default)]
pub(super) struct Learnt {
    /// Who passed the connection on, and what else it said.
    pub(super) passed_on: Option<PassedOn>,
    /// The name the client asks for.
    pub(super) name: Option<String>,
    /// The protocol that was agreed on, or those that the client offers to who is behind us.
    pub(super) offers: Vec<Box<[u8]>>,
    /// Version of TLS that is terminated here.
    pub(super) version: &'static str,
    pub(super) cipher: &'static str,
    pub(super) resumed: bool,
    pub(super) certificate: Option<About>,
    /// Number of the connection, told to the backend; 0 = none was told.
    pub(super) id: u64,
}

#[derive(Debug)]
pub(super) struct PassedOn {
    pub(super) by: ClientAddr,
    /// Where the client connected to.
    pub(super) destination: Option<SocketAddr>,
    pub(super) tlvs: Tlvs,
}

/// What is known at the end only.
pub(super) struct Closing<'a> {
    pub(super) phase: Phase,
    pub(super) termination: Termination,
    pub(super) detail: &'static str,
    pub(super) backend: &'a str,
    pub(super) tries: u32,
    pub(super) connect: Option<Duration>,
    pub(super) first_byte: Option<Duration>,
    pub(super) bytes: (u64, u64),
    pub(super) path: RelayPath,
    pub(super) queue: Duration,
    pub(super) failed_tries: &'a [FailedTry],
}

impl Closing<'_> {
    /// Of a session that never had a backend.
    pub(super) fn without_backend(
        phase: Phase,
        termination: Termination,
        detail: &'static str,
    ) -> Self {
        Closing {
            phase,
            termination,
            detail,
            backend: "",
            tries: 0,
            connect: None,
            first_byte: None,
            bytes: (0, 0),
            path: RelayPath::None,
            queue: Duration::ZERO,
            failed_tries: &[],
        }
    }
}

impl Account {
    /// What is learnt of the client goes there.
    pub(super) fn learn(&mut self) -> &mut Learnt {
        self.learnt.get_or_insert_default()
    }

    /// Who passed the connection on.
    pub(super) fn passed_on(&self) -> Option<&PassedOn> {
        self.learnt.as_ref()?.passed_on.as_ref()
    }

    /// The name that the client asks for.
    pub(super) fn name(&self) -> Option<&str> {
        self.learnt.as_ref()?.name.as_deref()
    }

    pub(super) fn close(&self, closing: Closing<'_>, cx: &mut Context<'_>) {
        let pool = match &self.upstream {
            Some(upstream) => upstream.pool.name(),
            None => "",
        };
        self.route.ends.count(pool, closing.termination);
        let learnt = self.learnt.as_deref();
        let alpn = learnt.and_then(|learnt| learnt.offers.first());
        let alpn = alpn.map_or(&[][..], |first| first);
        let certificate = learnt.and_then(|learnt| learnt.certificate.as_ref());
        let record = Record {
            listener: &self.route.listener,
            client: self.client,
            pool,
            backend: closing.backend,
            sni: self.name().unwrap_or(""),
            alpn: &String::from_utf8_lossy(alpn),
            tls: learnt.map_or("", |learnt| learnt.version),
            phase: closing.phase,
            termination: closing.termination,
            detail: closing.detail,
            queue: closing.queue,
            connect: closing.connect,
            first_byte: closing.first_byte,
            duration: cx.now.since(self.accepted_at),
            bytes_to_backend: closing.bytes.0,
            bytes_to_client: closing.bytes.1,
            tries: closing.tries,
            path: closing.path,
            failed_tries: closing.failed_tries,
            passed_on_by: learnt
                .and_then(|learnt| learnt.passed_on.as_ref())
                .map(|passed_on| passed_on.by),
            certificate: certificate.map(|about| (&*about.subject, &*about.serial)),
            id: learnt.map_or(0, |learnt| learnt.id),
        };
        cx.log.write(&record, SystemTime::now());
    }
}
