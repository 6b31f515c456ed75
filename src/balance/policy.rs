//! The policies: each orders a tier's backends for one client.

/// Which policy a pool uses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PolicyKind {
    /// Smooth weighted round robin; `weighted_round_robin` is another spelling.
    RoundRobin,
    LeastConnections,
    /// Maglev over the source address.
    IpHash,
    Random,
    TwoChoices,
    /// The listed order.
    Failover,
}
