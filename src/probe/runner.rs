//! One probe of one backend: connect, perhaps ask, judge, and close by reset.

use std::fmt::Write;
use std::io;
use std::net::SocketAddr;
use std::ops::RangeInclusive;
use std::time::Duration;

use rustix::io::Errno;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream, UnixStream};

use crate::base::addr::Endpoint;
use crate::base::clock::Moment;
use crate::wire::http::{self, Progress, ResponseCheck};

/// What to probe, and how.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProbeSpec {
    /// The backend's address with the probe's own port, if it has one.
    pub target: Endpoint,
    pub kind: ProbeKind,
    /// For everything together.
    pub timeout: Duration,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ProbeKind {
    /// Passes when the connection is accepted.
    Tcp,
    /// Passes when the answer is as expected.
    Http {
        path: String,
        /// Empty = the target's address.
        host: String,
        expect_status: Vec<RangeInclusive<u16>>,
        /// Empty = any body.
        expect_body: String,
    },
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

/// Probes once. Takes no longer than the timeout, and no more memory than the response check does
/// and one read buffer. A dropped future leaves nothing behind: its connection is reset.
pub async fn run(spec: &ProbeSpec) -> ProbeResult {
    let begin = Moment::now();
    let mut stage = Stage::Connect;
    let verdict = tokio::time::timeout(spec.timeout, attempt(spec, &mut stage)).await;
    let took = Moment::now().since(begin);
    let (passed, local, detail) = match verdict {
        Ok(Ok(detail)) => (true, false, detail),
        Ok(Err(Failure { local, detail })) => (false, local, detail),
        Err(_elapsed) => (
            false,
            false,
            format!("timeout after {:?}{}", spec.timeout, stage.suffix()),
        ),
    };
    ProbeResult {
        passed,
        local,
        detail,
        took,
    }
}

/// What is awaited, for the text of a timeout.
#[derive(Clone, Copy, Debug)]
enum Stage {
    Connect,
    Answer,
    RestOfAnswer,
}

impl Stage {
    fn suffix(self) -> &'static str {
        match self {
            Stage::Connect => ", not connected",
            Stage::Answer => ", no answer",
            Stage::RestOfAnswer => ", answer incomplete",
        }
    }
}

struct Failure {
    local: bool,
    detail: String,
}

impl Failure {
    fn of_backend(detail: String) -> Self {
        Failure {
            local: false,
            detail,
        }
    }
}

async fn attempt(spec: &ProbeSpec, stage: &mut Stage) -> Result<String, Failure> {
    match &spec.target {
        Endpoint::Tcp(addr) => {
            let stream = connect_tcp(*addr).await.map_err(|error| Failure {
                local: is_local(&error) || error.kind() == io::ErrorKind::WouldBlock,
                detail: describe(&error),
            })?;
            talk(stream, spec, stage).await
        }
        Endpoint::Unix(path) => {
            let stream = UnixStream::connect(path).await.map_err(|error| Failure {
                local: is_local(&error),
                detail: match error.kind() {
                    io::ErrorKind::WouldBlock => "accept queue full".to_owned(),
                    _ => describe(&error),
                },
            })?;
            talk(stream, spec, stage).await
        }
    }
}

/// The socket closes by reset from the beginning on, so that however the probe ends, neither side
/// is left with a connection in TIME_WAIT.
async fn connect_tcp(to: SocketAddr) -> io::Result<TcpStream> {
    let socket = if to.is_ipv4() {
        TcpSocket::new_v4()?
    } else {
        TcpSocket::new_v6()?
    };
    socket.set_zero_linger()?;
    socket.connect(to).await
}

async fn talk(
    mut stream: impl AsyncRead + AsyncWrite + Unpin,
    spec: &ProbeSpec,
    stage: &mut Stage,
) -> Result<String, Failure> {
    let ProbeKind::Http {
        path,
        host,
        expect_status,
        expect_body,
    } = &spec.kind
    else {
        return Ok("connected".to_owned());
    };
    let request = match host.as_str() {
        "" => http::request(path, &host_of(&spec.target)),
        host => http::request(path, host),
    };
    *stage = Stage::Answer;
    // A server may answer and close before it has read the request: the answer counts.
    let _maybe_closed = stream.write_all(&request).await;
    let mut check = ResponseCheck::new(expect_status.clone(), expect_body);
    let mut buffer = vec![0; READ_BYTES];
    loop {
        let progress = match stream.read(&mut buffer).await {
            Ok(0) => check.end_of_stream(),
            Ok(count) => {
                *stage = Stage::RestOfAnswer;
                check.feed(&buffer[..count])
            }
            Err(error) => {
                return Err(Failure {
                    local: is_local(&error),
                    detail: describe(&error),
                });
            }
        };
        match progress {
            Progress::NeedMore => {}
            Progress::Passed(detail) => return Ok(detail),
            Progress::Failed(detail) => return Err(Failure::of_backend(detail)),
        }
    }
}

const READ_BYTES: usize = 8 * 1024;

/// The Host header for a target that has no name.
fn host_of(target: &Endpoint) -> String {
    match target {
        Endpoint::Tcp(addr) => addr.to_string(),
        Endpoint::Unix(_) => "localhost".to_owned(),
    }
}

/// Failures of this host, which would strike whatever backend were tried.
fn is_local(error: &io::Error) -> bool {
    let local = [
        Errno::ADDRNOTAVAIL,
        Errno::MFILE,
        Errno::NFILE,
        Errno::NOBUFS,
        Errno::NOMEM,
    ];
    error
        .raw_os_error()
        .is_some_and(|code| local.contains(&Errno::from_raw_os_error(code)))
}

/// The system's text without its number, in lower case as it stands in a sentence.
fn describe(error: &io::Error) -> String {
    let mut text = String::new();
    let _infallible = write!(text, "{error}");
    if let Some(end) = text.find(" (os error") {
        text.truncate(end);
    }
    // But an abbreviation stays as it is.
    if text.chars().nth(1).is_some_and(char::is_lowercase)
        && let Some(first) = text.get_mut(..1)
    {
        first.make_ascii_lowercase();
    }
    text
}

#[cfg(test)]
mod tests;
