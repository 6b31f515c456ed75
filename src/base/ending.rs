//! How a session ends: the words that log, metrics and CLI share.

/// What the session was doing when it ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Phase {
    /// The PROXY header or the ClientHello is awaited.
    Preface,
    Tls,
    Route,
    Queue,
    Connect,
    Relay,
}

impl Phase {
    pub const ALL: [Phase; 6] = [
        Phase::Preface,
        Phase::Tls,
        Phase::Route,
        Phase::Queue,
        Phase::Connect,
        Phase::Relay,
    ];

    pub const fn as_str(self) -> &'static str {
        match self {
            Phase::Preface => "preface",
            Phase::Tls => "tls",
            Phase::Route => "route",
            Phase::Queue => "queue",
            Phase::Connect => "connect",
            Phase::Relay => "relay",
        }
    }
}

/// Why the session ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Termination {
    /// Both directions ended in order, the client's first.
    ClientClosed,
    /// Both directions ended in order, the backend's first.
    BackendClosed,
    ClientReset,
    BackendReset,
    IdleTimeout,
    HalfCloseTimeout,
    MaxLifetime,
    NoBackend,
    ConnectFailed,
    ConnectTimeout,
    QueueFull,
    QueueTimeout,
    TlsFailed,
    TlsTimeout,
    ProxyHeaderInvalid,
    ProxyHeaderTimeout,
    Denied,
    SourceLimit,
    ListenerLimit,
    ProcessLimit,
    Drained,
    Killed,
    /// A fault of ours: a panic, or a local resource that ran out.
    Internal,
}

impl Termination {
    /// Every word, in the order of the discriminants: `ALL[t as usize] == t`.
    pub const ALL: [Termination; 23] = [
        Termination::ClientClosed,
        Termination::BackendClosed,
        Termination::ClientReset,
        Termination::BackendReset,
        Termination::IdleTimeout,
        Termination::HalfCloseTimeout,
        Termination::MaxLifetime,
        Termination::NoBackend,
        Termination::ConnectFailed,
        Termination::ConnectTimeout,
        Termination::QueueFull,
        Termination::QueueTimeout,
        Termination::TlsFailed,
        Termination::TlsTimeout,
        Termination::ProxyHeaderInvalid,
        Termination::ProxyHeaderTimeout,
        Termination::Denied,
        Termination::SourceLimit,
        Termination::ListenerLimit,
        Termination::ProcessLimit,
        Termination::Drained,
        Termination::Killed,
        Termination::Internal,
    ];

    pub const fn as_str(self) -> &'static str {
        match self {
            Termination::ClientClosed => "client_closed",
            Termination::BackendClosed => "backend_closed",
            Termination::ClientReset => "client_reset",
            Termination::BackendReset => "backend_reset",
            Termination::IdleTimeout => "idle_timeout",
            Termination::HalfCloseTimeout => "half_close_timeout",
            Termination::MaxLifetime => "max_lifetime",
            Termination::NoBackend => "no_backend",
            Termination::ConnectFailed => "connect_failed",
            Termination::ConnectTimeout => "connect_timeout",
            Termination::QueueFull => "queue_full",
            Termination::QueueTimeout => "queue_timeout",
            Termination::TlsFailed => "tls_failed",
            Termination::TlsTimeout => "tls_timeout",
            Termination::ProxyHeaderInvalid => "proxy_header_invalid",
            Termination::ProxyHeaderTimeout => "proxy_header_timeout",
            Termination::Denied => "denied",
            Termination::SourceLimit => "source_limit",
            Termination::ListenerLimit => "listener_limit",
            Termination::ProcessLimit => "process_limit",
            Termination::Drained => "drained",
            Termination::Killed => "killed",
            Termination::Internal => "internal",
        }
    }
}

/// How the bytes were moved.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum RelayPath {
    /// The session ended before any byte could be relayed.
    None,
    Copy,
    /// At least one direction was spliced at some time.
    Splice,
    Tls,
}

impl RelayPath {
    /// In the order of the discriminants.
    pub const ALL: [RelayPath; 4] = [
        RelayPath::None,
        RelayPath::Copy,
        RelayPath::Splice,
        RelayPath::Tls,
    ];

    pub const fn as_str(self) -> &'static str {
        match self {
            RelayPath::None => "",
            RelayPath::Copy => "copy",
            RelayPath::Splice => "splice",
            RelayPath::Tls => "tls",
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn every_termination_stands_at_its_own_index_under_its_own_word() {
        let words: HashSet<_> = Termination::ALL.iter().map(|t| t.as_str()).collect();
        assert_eq!(words.len(), Termination::ALL.len());
        for (index, termination) in Termination::ALL.into_iter().enumerate() {
            assert_eq!(termination as usize, index);
        }
        assert_eq!(Termination::Internal as usize + 1, Termination::ALL.len());
    }
}
