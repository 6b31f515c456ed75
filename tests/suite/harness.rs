//! The bench that every scenario is run on: a balancer in this process or as a process of its
//! own, peers that do what a script says, and the invariants that hold after each of them.

pub mod balancer;
pub mod browser;
pub mod child;
pub mod dns;
pub mod fault;
pub mod machine;
pub mod peer;
pub mod process;
pub mod record;
pub mod script;
pub mod secured;
pub mod segment;
pub mod sockets;
pub mod tls;
pub mod wait;
