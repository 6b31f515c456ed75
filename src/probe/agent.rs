//! Asks the agent beside a backend for its line.

use std::net::SocketAddr;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::connect::{connect_tcp, describe};
use crate::wire::agent::{Answer, Line, parse};

/// Where the agent is, and what it is sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AgentSpec {
    pub address: SocketAddr,
    pub send: Vec<u8>,
    /// For everything together.
    pub timeout: Duration,
}

/// Asks once. Takes no longer than the timeout, and no more memory than a line.
///
/// Errors: there was no line with a known word, in words for the operator. It says nothing of the
/// backend.
pub async fn ask(spec: &AgentSpec) -> Result<Answer, String> {
    match tokio::time::timeout(spec.timeout, attempt(spec)).await {
        Ok(result) => result,
        Err(_elapsed) => Err(format!("timeout after {:?}", spec.timeout)),
    }
}

async fn attempt(spec: &AgentSpec) -> Result<Answer, String> {
    let mut stream = connect_tcp(spec.address)
        .await
        .map_err(|error| describe(&error))?;
    // An agent may answer without reading.
    let _maybe_closed = stream.write_all(&spec.send).await;
    let mut line = Line::default();
    let mut buffer = [0; 512];
    loop {
        match stream.read(&mut buffer).await {
            Ok(0) => break,
            Ok(count) if line.feed(&buffer[..count]) => break,
            Ok(_) => {}
            // What came before the reset is not known to be a whole line.
            Err(error) => return Err(describe(&error)),
        }
    }
    let answer = parse(line.bytes());
    match &answer.unknown {
        _ if !answer.is_empty() => Ok(answer),
        Some(unknown) => Err(format!("no known word in its answer: {unknown}")),
        None => Err("closed without an answer".to_owned()),
    }
}

#[cfg(test)]
mod tests;
