//! Asks a running process over its admin socket.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use http_body_util::{BodyExt, Full};
use hyper::body::Bytes;
use hyper::client::conn::http1;
use hyper::{Method, Request, StatusCode, header};
use hyper_util::rt::TokioIo;
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::net::UnixStream;
use tokio::time::timeout;

/// A reload may read many files, and an upgrade starts a process.
const ANSWER_WITHIN: Duration = Duration::from_secs(90);

/// Where a process is asked.
#[derive(Clone, Debug)]
pub struct Client {
    socket: PathBuf,
}

/// Why there is no answer, or not the wanted one.
#[derive(Debug)]
pub enum ClientError {
    /// Nobody answers.
    Unreachable { socket: PathBuf, error: io::Error },
    /// The process says no, and why.
    Refused { code: String, message: String },
    /// Not an answer of lbd, or not one of this version.
    Garbled(String),
}

impl Client {
    pub fn new(socket: &Path) -> Client {
        Client {
            socket: socket.to_owned(),
        }
    }

    /// `path` with its query.
    pub async fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T, ClientError> {
        let bytes = self.send(Method::GET, path, None).await?;
        parse(&bytes)
    }

    /// Sends a body of JSON, or none; an answer without a body is `null`.
    pub async fn send_json<T: DeserializeOwned>(
        &self,
        method: Method,
        path: &str,
        body: Option<&impl Serialize>,
    ) -> Result<T, ClientError> {
        let body = body.map(|body| serde_json::to_vec(body).expect("requests can be written"));
        let bytes = self.send(method, path, body).await?;
        match bytes.is_empty() {
            true => parse(b"null"),
            false => parse(&bytes),
        }
    }

    /// The answer as it came.
    pub async fn text(&self, path: &str) -> Result<String, ClientError> {
        let bytes = self.send(Method::GET, path, None).await?;
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    }

    async fn send(
        &self,
        method: Method,
        path: &str,
        body: Option<Vec<u8>>,
    ) -> Result<Bytes, ClientError> {
        let unreachable = |error| ClientError::Unreachable {
            socket: self.socket.clone(),
            error,
        };
        let stream = UnixStream::connect(&self.socket)
            .await
            .map_err(unreachable)?;
        let exchange = async {
            let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
            tokio::spawn(connection);
            let request = Request::builder()
                .method(method)
                .uri(path)
                .header(header::HOST, "lbd")
                .body(Full::new(Bytes::from(body.unwrap_or_default())))
                .expect("paths are escaped");
            let answer = sender.send_request(request).await?;
            let status = answer.status();
            let bytes = answer.into_body().collect().await?.to_bytes();
            Ok::<_, hyper::Error>((status, bytes))
        };
        let garbled = |error: hyper::Error| ClientError::Garbled(error.to_string());
        let Ok(answer) = timeout(ANSWER_WITHIN, exchange).await else {
            return Err(unreachable(io::ErrorKind::TimedOut.into()));
        };
        let (status, bytes) = answer.map_err(garbled)?;
        match status.is_success() {
            true => Ok(bytes),
            false => Err(refusal(status, &bytes)),
        }
    }
}

/// A name as it stands between the slashes of a path, or in a query (RFC 3986, section 2.3).
pub fn escape(name: &str) -> String {
    let mut out = String::new();
    for byte in name.bytes() {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => {
                out.push(char::from(byte));
            }
            byte => out += &format!("%{byte:02X}"),
        }
    }
    out
}

fn parse<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, ClientError> {
    serde_json::from_slice(bytes).map_err(|error| ClientError::Garbled(error.to_string()))
}

fn refusal(status: StatusCode, bytes: &[u8]) -> ClientError {
    let body: serde_json::Value = serde_json::from_slice(bytes).unwrap_or_default();
    let text = |key: &str| body["error"][key].as_str().map(str::to_owned);
    match (text("code"), text("message")) {
        (Some(code), Some(message)) => ClientError::Refused { code, message },
        _ => ClientError::Garbled(format!("an answer with status {status}")),
    }
}

impl fmt::Display for ClientError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ClientError::Unreachable { socket, error } => {
                write!(f, "no lbd answers at {}: {error}", socket.display())?;
                match error.kind() {
                    io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused => f.write_str(
                        "\n  = hint: is it running? --admin PATH or --config FILE say where its \
                         admin socket is",
                    ),
                    io::ErrorKind::PermissionDenied => f.write_str(
                        "\n  = hint: the socket is for root and the user that lbd runs as: try \
                         sudo",
                    ),
                    _ => Ok(()),
                }
            }
            ClientError::Refused { message, .. } => f.write_str(message),
            ClientError::Garbled(what) => {
                write!(
                    f,
                    "the answer is not that of an lbd of this version: {what}"
                )
            }
        }
    }
}

impl std::error::Error for ClientError {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_escaped_as_paths_want_them() {
        assert_eq!(escape("a-1.b_c~"), "a-1.b_c~");
        assert_eq!(escape("unix:/run/a b"), "unix%3A%2Frun%2Fa%20b");
        assert_eq!(escape("[::1]:80"), "%5B%3A%3A1%5D%3A80");
        assert_eq!(escape("é"), "%C3%A9");
    }
}
