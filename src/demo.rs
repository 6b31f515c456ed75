//! `lbd demo`.

use std::io;
use std::net::SocketAddr;

#[derive(Debug)]
pub struct DemoOptions {
    pub bind: Option<SocketAddr>,
    pub policy: String,
    pub seconds: Option<u64>,
}

pub fn run(_: DemoOptions) -> io::Result<()> {
    Err(io::Error::other("not there yet"))
}
