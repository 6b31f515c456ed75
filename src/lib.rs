//! lbd, a layer-4 load balancer for Linux.
//!
//! This file is the map: it declares the floors from the ground up and the rooms on each. A room
//! uses rooms of lower floors only, never a neighbour floor, never a higher one
//! (`tests/suite/floors.rs` checks it).

#![deny(unsafe_op_in_unsafe_fn, missing_debug_implementations)]

/// Floor 0: words every other floor uses.
pub mod base {
    pub mod addr;
    pub mod clock;
    pub mod drain;
    pub mod ending;
    pub mod host;
    pub mod wall;
    pub mod wheel;
}

/// Floor 1: the only `unsafe` code: kernel calls that no safe wrapper offers.
pub mod sys {
    pub mod descriptors;
    pub mod socket;
}

/// Floor 1: parsers and encoders of bytes on the wire; pure.
pub mod wire {
    pub mod agent;
    pub mod hello;
    pub mod http;
    pub mod proxy;
    pub mod script;
}

/// Floor 1: the process log and the access log.
pub mod observe {
    pub mod access;
    pub mod form;
    pub mod histogram;
    pub mod log;
}

/// Floor 2: who is let in, which backend is taken, and why; pure: no sockets, no clock, no threads
/// of its own.
pub mod balance {
    pub mod backend;
    pub mod budget;
    pub mod chance;
    pub mod ejection;
    pub mod explain;
    pub mod health;
    pub mod key;
    mod latency;
    mod lease;
    pub mod live;
    pub mod networks;
    pub mod policy;
    pub mod pool;
    pub mod queue;
    pub mod rebalance;
    mod share;
    mod slots;
    pub mod sources;
    mod suspicion;
    pub mod table;
    pub mod timings;
    mod traffic;
    mod watch;
}

/// Floor 3: from TOML text to checked settings.
pub mod config {
    mod address;
    pub mod backend_file;
    pub mod certificates;
    mod check;
    mod check_admin;
    mod check_admission;
    mod check_discover;
    mod check_health;
    mod check_links;
    mod check_listener;
    mod check_pool;
    mod check_route;
    mod check_secure;
    mod duration;
    mod expand;
    mod files;
    mod keys;
    mod ledger;
    pub mod load;
    pub mod mistakes;
    mod names;
    mod network;
    pub mod print;
    mod quotes;
    mod reader;
    pub mod settings;
    mod suggest;
    mod syntax;
    mod values;
    pub mod warnings;
}

/// Floor 3: sockets: listening, connecting, readiness.
pub mod net {
    pub mod dial;
    pub mod listen;
    pub mod peer;
    pub mod poller;
}

/// Floor 3: TLS without sockets: what is offered, whom to believe, records.
pub mod tls {
    mod certificates;
    mod cipher;
    pub mod client;
    pub mod fault;
    mod listed;
    pub mod server;
    pub mod stream;
    pub mod subject;
    #[cfg(test)]
    mod tests;
    mod tickets;
}

/// Floor 4: bytes from one socket to another, and how that ends.
pub mod relay {
    pub mod direction;
    pub mod duplex;
    pub mod pipe;
    pub mod secured;
}

/// Floor 5: sessions: one client, its backend, its record.
pub mod proxy {
    mod account;
    pub mod admission;
    mod announce;
    mod connecting;
    pub mod context;
    mod preface;
    mod relaying;
    pub mod route;
    mod securing;
    pub mod session;
    pub mod tally;
    mod trying;
}

/// Floor 5: what operators see and ask for.
pub mod admin {
    mod access;
    mod api;
    pub mod ask;
    pub mod client;
    mod events;
    mod form;
    pub mod metrics;
    mod page;
    pub mod server;
    pub mod sessions;
    pub mod state;
    pub mod troubles;
    pub mod why;
}

/// Floor 6: threads and their life: workers, the control thread, reload, drain.
pub mod runtime {
    mod binds;
    pub mod changes;
    pub mod closing;
    pub mod command;
    mod comparing;
    pub mod control;
    mod descriptors;
    mod discovering;
    pub mod draining;
    pub mod life;
    pub mod listing;
    mod plan;
    pub mod probing;
    mod rebalancing;
    mod recent;
    mod renewing;
    mod securing;
    pub mod sessions;
    pub mod shared;
    mod standing;
    mod state;
    pub mod worker;
}

/// Floor 5: asks the backends how they are.
pub mod probe {
    pub mod agent;
    mod connect;
    pub mod exec;
    mod http;
    pub mod pace;
    pub mod runner;
    mod script;
    pub mod tls;
}

/// Floor 5: finds out which backends there are: by name, by service, by file.
pub mod discovery {
    pub mod addresses;
    pub mod ask;
    pub mod book;
    pub mod hosts;
    pub mod members;
    pub mod pace;
    pub mod source;
    pub mod watch;
}

/// Floor 7: the command line.
pub mod cli;

/// Floor 7: embedded backends, a listener and a live view, to be looked at.
pub mod demo;
