//! Settings of the admin interface.

use std::fmt;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

/// Where operators reach the process.
#[derive(Clone, Debug, PartialEq)]
pub struct Admin {
    /// Dashboard, metrics and the API, which changes nothing without the token; `None` = not by TCP.
    pub bind: Option<SocketAddr>,
    /// Full control; `None` = no socket.
    pub socket: Option<PathBuf>,
    pub token: Option<Token>,
}

impl Admin {
    /// Of the socket, also where commands look when nothing says otherwise.
    pub const SOCKET_DEFAULT: &str = "/run/lbd/admin.sock";

    /// Whether nobody asked for the socket: then it may be missing.
    pub fn socket_is_default(&self) -> bool {
        self.socket.as_deref() == Some(Path::new(Self::SOCKET_DEFAULT))
    }
}

/// A secret and the file it was read from.
#[derive(Clone, PartialEq)]
pub struct Token {
    pub file: PathBuf,
    pub secret: String,
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Token")
            .field("file", &self.file)
            .finish_non_exhaustive()
    }
}
