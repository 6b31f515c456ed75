//! Addresses that carry their role, so that a client's and a backend's cannot be swapped.

use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::str::FromStr;

/// A place to listen on or to connect to.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Endpoint {
    Tcp(SocketAddr),
    /// A stream socket in the file system, written `unix:/path`.
    Unix(PathBuf),
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Endpoint::Tcp(addr) => addr.fmt(f),
            Endpoint::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

impl FromStr for Endpoint {
    type Err = String;

    /// Reads what `Display` writes.
    fn from_str(text: &str) -> Result<Self, String> {
        match text.strip_prefix("unix:") {
            Some(path) => Ok(Endpoint::Unix(PathBuf::from(path))),
            None => match text.parse() {
                Ok(addr) => Ok(Endpoint::Tcp(addr)),
                Err(_) => Err(format!(
                    "{text:?} is not an address such as 10.0.0.1:80 or unix:/path"
                )),
            },
        }
    }
}

/// One of the two ends of a session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    Client,
    Backend,
}

impl Side {
    pub fn other(self) -> Side {
        match self {
            Side::Client => Side::Backend,
            Side::Backend => Side::Client,
        }
    }
}

/// Who connected to us. IPv4-mapped IPv6 addresses are stored as IPv4, so that one client hashes
/// and logs the same through a dual-stack listener.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ClientAddr {
    Ip(SocketAddr),
    /// A peer on a unix socket: it has no address of its own.
    Unix,
}

impl ClientAddr {
    /// The address with an IPv4-mapped IPv6 form undone.
    pub fn from_socket(addr: SocketAddr) -> Self {
        ClientAddr::Ip(SocketAddr::new(addr.ip().to_canonical(), addr.port()))
    }
}

impl fmt::Display for ClientAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ClientAddr::Ip(addr) => addr.fmt(f),
            ClientAddr::Unix => f.write_str("unix:"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mapped_address_is_the_ipv4_client_it_came_from() {
        let mapped = ClientAddr::from_socket("[::ffff:192.0.2.7]:1234".parse().unwrap());
        assert_eq!(mapped.to_string(), "192.0.2.7:1234");
    }
}
