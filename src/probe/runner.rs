//! One probe of one backend: connect, perhaps ask, judge, and close by reset; or run a program.

use std::time::Duration;

use super::connect::{Failure, Stage, connect};
use super::exec::{self, Program};
use super::tls::TlsClient;
use super::{http, script};
use crate::base::addr::Endpoint;
use crate::base::clock::Moment;
use crate::config::settings::{HttpProbe, SendProxy, Step};

/// What to probe, and how.
#[derive(Clone, Debug)]
pub struct ProbeSpec {
    /// The backend's address with the probe's own address and port, if it has them.
    pub target: Endpoint,
    pub kind: ProbeKind,
    pub send_proxy: SendProxy,
    /// For everything together.
    pub timeout: Duration,
}

#[derive(Clone, Debug)]
pub enum ProbeKind {
    /// Passes when the connection is accepted.
    Tcp,
    /// Passes when the TLS handshake is done.
    Tls(TlsClient),
    /// Passes when the answer is as expected.
    Http(HttpProbe),
    Https(HttpProbe, TlsClient),
    /// Passes when each step got what it expects.
    SendExpect(Vec<Step>),
    /// Passes when the program exits with 0.
    Exec(Program),
}

/// What a probe found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProbeResult {
    pub passed: bool,
    /// The fault is ours (out of descriptors, ports, memory): it says nothing of the backend.
    pub local: bool,
    /// For the operator, such as `HTTP 200` or `connection refused`.
    pub detail: String,
    pub took: Duration,
}

/// Probes once. Takes no longer than the timeout (a program that is killed, a second more at
/// worst), and no more memory than the kind of probe says. A dropped future leaves nothing behind:
/// its connection is reset, its program killed.
pub async fn run(spec: &ProbeSpec) -> ProbeResult {
    let begin = Moment::now();
    let verdict = match &spec.kind {
        ProbeKind::Exec(program) => exec::run(program, &spec.target, spec.timeout).await,
        _ => connected(spec).await,
    };
    let took = Moment::now().since(begin);
    let (passed, local, detail) = match verdict {
        Ok(detail) => (true, false, detail),
        Err(Failure { local, detail }) => (false, local, detail),
    };
    ProbeResult {
        passed,
        local,
        detail,
        took,
    }
}

async fn connected(spec: &ProbeSpec) -> Result<String, Failure> {
    let mut stage = Stage::Connect;
    match tokio::time::timeout(spec.timeout, attempt(spec, &mut stage)).await {
        Ok(verdict) => verdict,
        Err(_elapsed) => Err(Failure::of_backend(overdue(spec.timeout, stage))),
    }
}

async fn attempt(spec: &ProbeSpec, stage: &mut Stage) -> Result<String, Failure> {
    let stream = connect(&spec.target, spec.send_proxy).await?;
    match &spec.kind {
        ProbeKind::Tcp => Ok("connected".to_owned()),
        ProbeKind::Tls(client) => {
            *stage = Stage::Handshake;
            let stream = client.handshake(stream).await?;
            Ok(client.detail(&stream))
        }
        ProbeKind::Http(probe) => http::talk(stream, probe, &spec.target, stage).await,
        ProbeKind::Https(probe, client) => {
            *stage = Stage::Handshake;
            let stream = client.handshake(stream).await?;
            http::talk(stream, probe, &spec.target, stage).await
        }
        ProbeKind::SendExpect(steps) => script::talk(stream, steps, stage).await,
        ProbeKind::Exec(_) => unreachable!("a program is not connected to"),
    }
}

/// What a probe says that ran out of time.
fn overdue(timeout: Duration, stage: Stage) -> String {
    let missing = match stage {
        Stage::Connect => "not connected",
        Stage::Handshake => "TLS handshake incomplete",
        Stage::Answer => "no answer",
        Stage::RestOfAnswer => "answer incomplete",
        Stage::Step { step, seen } => {
            let step = step
                .map(|number| format!("step {number}: "))
                .unwrap_or_default();
            return match seen {
                Some((seen, all)) => format!("{step}timed out after {seen} of {all} bytes"),
                None => format!("{step}timed out while sending"),
            };
        }
    };
    format!("timeout after {timeout:?}, {missing}")
}

#[cfg(test)]
mod tests;
