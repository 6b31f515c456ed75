//! TLS that is passed through, and where clients go by what they say first; E1 to E7 of the fault
//! catalogue as far as nothing is decrypted.

mod awaiting;
mod handshakes;
mod hellos;
mod routes;

use crate::harness::balancer::Setup;
use crate::routing_kit::{Keeper, PASSTHROUGH, hello, pool};

/// A listener `in` that passes TLS through, with these routes; `other` is its default pool.
/// Each of `servers` is a pool of that name.
fn setup(other: &Keeper, routes: &str, servers: &[(&str, &Keeper)]) -> Setup {
    let mut setup = Setup::over(&[other.address()])
        .listener(PASSTHROUGH)
        .listener(routes);
    for (name, server) in servers {
        setup.more += &pool(name, "", &[server.address()]);
    }
    setup
}

/// The same on a listener `strict`, which has no default pool.
fn strict(mut setup: Setup, lines: &str, routes: &str) -> Setup {
    setup.more +=
        &format!("\n[[listener]]\nname = \"strict\"\nbind = \"127.0.0.1:0\"\n{lines}\n{routes}\n");
    setup
}

fn route(what: &str, pool: &str) -> String {
    format!("[[listener.route]]\n{what}\npool = \"{pool}\"\n")
}

/// One that asks for `named.test` and offers no protocol.
fn named_hello() -> Vec<u8> {
    hello("named.test", &[])
}
