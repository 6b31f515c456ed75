//! The connection of a probe: closed by reset, begun with a PROXY header if one is wanted; and what
//! went wrong with it, in words.

use std::fmt::Write;
use std::io;
use std::net::SocketAddr;

use rustix::io::Errno;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream, UnixStream};

use crate::base::addr::Endpoint;
use crate::config::settings::SendProxy;
use crate::wire::proxy::{self, Subject};

/// Plain, or within TLS.
pub(super) trait Stream: AsyncRead + AsyncWrite + Unpin + Send {}

impl<S: AsyncRead + AsyncWrite + Unpin + Send> Stream for S {}

/// Why a probe failed.
#[derive(Debug)]
pub(super) struct Failure {
    /// The fault is ours.
    pub(super) local: bool,
    pub(super) detail: String,
}

impl Failure {
    pub(super) fn of_backend(detail: impl Into<String>) -> Self {
        Failure {
            local: false,
            detail: detail.into(),
        }
    }

    pub(super) fn of_io(error: &io::Error) -> Self {
        Failure {
            local: is_local(error),
            detail: describe(error),
        }
    }
}

/// What is awaited, for the text of a timeout.
#[derive(Clone, Copy, Debug)]
pub(super) enum Stage {
    Connect,
    Handshake,
    Answer,
    RestOfAnswer,
    /// Of a scripted probe; the step is named if there are several.
    Step {
        step: Option<usize>,
        /// Bytes of what is expected that have come, and all of them; none while sending.
        seen: Option<(usize, usize)>,
    },
}

/// Connects and sends the header. The socket closes by reset from the beginning on, so that however
/// the probe ends, neither side is left with a connection in TIME_WAIT.
pub(super) async fn connect(
    target: &Endpoint,
    send_proxy: SendProxy,
) -> Result<Box<dyn Stream>, Failure> {
    match target {
        Endpoint::Tcp(addr) => {
            let stream = connect_tcp(*addr).await.map_err(|error| Failure {
                local: is_local(&error) || error.kind() == io::ErrorKind::WouldBlock,
                detail: describe(&error),
            })?;
            let subject = match (stream.local_addr(), stream.peer_addr()) {
                (Ok(source), Ok(destination)) => Subject::Tcp {
                    source,
                    destination,
                },
                // Reset meanwhile; what follows will tell.
                _ => Subject::Unknown,
            };
            Ok(begin(stream, send_proxy, subject).await)
        }
        Endpoint::Unix(path) => {
            let stream = UnixStream::connect(path).await.map_err(|error| Failure {
                local: is_local(&error),
                detail: match error.kind() {
                    io::ErrorKind::WouldBlock => "accept queue full".to_owned(),
                    _ => describe(&error),
                },
            })?;
            Ok(begin(stream, send_proxy, Subject::Unknown).await)
        }
    }
}

pub(super) async fn connect_tcp(to: SocketAddr) -> io::Result<TcpStream> {
    let socket = if to.is_ipv4() {
        TcpSocket::new_v4()?
    } else {
        TcpSocket::new_v6()?
    };
    socket.set_zero_linger()?;
    socket.connect(to).await
}

/// Version 1 has no word for a connection of our own, so it tells that connection's addresses.
async fn begin(
    mut stream: impl Stream + 'static,
    send_proxy: SendProxy,
    subject: Subject,
) -> Box<dyn Stream> {
    let header = match send_proxy {
        SendProxy::Off => Vec::new(),
        SendProxy::V1 => proxy::v1(subject),
        SendProxy::V2 => proxy::v2(Subject::Local, &[]).expect("without TLVs it is never too long"),
    };
    // A server that is gone is found gone by what follows.
    let _maybe_closed = stream.write_all(&header).await;
    Box::new(stream)
}

/// Failures of this host, which would strike whatever backend were tried.
pub(super) fn is_local(error: &io::Error) -> bool {
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
pub(super) fn describe(error: &io::Error) -> String {
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
mod tests {
    use super::*;

    #[test]
    fn faults_of_this_host_are_told_from_the_backends() {
        for (errno, expected) in [
            (Errno::ADDRNOTAVAIL, true),
            (Errno::MFILE, true),
            (Errno::NFILE, true),
            (Errno::NOBUFS, true),
            (Errno::NOMEM, true),
            (Errno::CONNREFUSED, false),
            (Errno::HOSTUNREACH, false),
            (Errno::TIMEDOUT, false),
        ] {
            assert_eq!(is_local(&errno.into()), expected, "{errno:?}");
        }
    }

    #[test]
    fn errors_read_as_part_of_a_sentence() {
        assert_eq!(describe(&Errno::HOSTUNREACH.into()), "no route to host");
        assert_eq!(
            describe(&io::ErrorKind::UnexpectedEof.into()),
            "unexpected end of file"
        );
        assert_eq!(describe(&io::Error::other("")), "");
        assert_eq!(describe(&io::Error::other("\u{dc}ber")), "\u{dc}ber");
    }
}
