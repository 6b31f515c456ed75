//! From settings and what is known of their sources to the members of a pool; pure.

use std::collections::HashSet;
use std::net::SocketAddr;

use super::book::{Answer, Book};
use super::source::Source;
use crate::balance::pool::{MEMBERS_MAX, MemberSpec};
use crate::base::addr::Endpoint;
use crate::config::settings::{Address, Backend, Discover, Pool};

/// The members of a pool as they are at the moment.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Gathered {
    /// Listed backends first, then those of each source in the order of the settings.
    pub members: Vec<MemberSpec<Endpoint>>,
    /// Names of backends that were found, but are listed already or found by an earlier source.
    pub left_out: Vec<String>,
    /// There were more than a pool can have.
    pub too_many: bool,
}

/// Puts listed and found backends together. A backend that was found under the name or at the
/// address of one from before is left out: the operator listed it with a weight of his own.
pub fn gather(pool: &Pool, book: &Book) -> Gathered {
    let mut gathered = Gathered::default();
    let listed = pool.backends.iter();
    gathered
        .members
        .extend(listed.filter_map(|backend| listed_member(backend, book)));
    for discover in &pool.discover {
        let before = || gathered.members.iter();
        let mut names: HashSet<String> = before().map(|one| one.name.clone()).collect();
        // The name of a listed backend is taken even while it is nowhere.
        names.extend(pool.backends.iter().map(|backend| backend.name.clone()));
        let targets: HashSet<Endpoint> = before().map(|one| one.target.clone()).collect();
        for member in found_members(discover, book) {
            if names.contains(&member.name) || targets.contains(&member.target) {
                gathered.left_out.push(member.name);
            } else {
                gathered.members.push(member);
            }
        }
    }
    gathered.too_many = gathered.members.len() > MEMBERS_MAX;
    gathered.members.truncate(MEMBERS_MAX);
    gathered
}

/// `None` while its name is not resolved.
fn listed_member(backend: &Backend, book: &Book) -> Option<MemberSpec<Endpoint>> {
    let target = match &backend.address {
        Address::At(endpoint) => endpoint.clone(),
        Address::Named { host, port } => {
            let ip = book.get(&Source::Host(host.clone()))?.seat()?;
            Endpoint::Tcp(SocketAddr::new(ip, *port))
        }
    };
    Some(MemberSpec {
        name: backend.name.clone(),
        identity: target.to_string(),
        target,
        weight: backend.weight,
        priority: backend.priority,
        max_connections: backend.max_connections,
    })
}

fn found_members(discover: &Discover, book: &Book) -> Vec<MemberSpec<Endpoint>> {
    let known = book.get(&Source::of(discover));
    match (discover, known.and_then(|known| known.answer())) {
        (
            Discover::Dns {
                port,
                weight,
                priority,
                max_connections,
                ..
            },
            Some(Answer::Addresses(addresses)),
        ) => {
            let places = addresses.all().map(|ip| SocketAddr::new(ip, *port));
            let mut places: Vec<SocketAddr> = places.collect();
            // Name servers turn their answers round: the order in one says nothing.
            places.sort_unstable();
            let place = |address| nameless(address, *weight, *priority, *max_connections);
            places.into_iter().map(place).collect()
        }
        (
            Discover::Srv {
                max_connections, ..
            },
            Some(Answer::Places(places)),
        ) => {
            let place = places
                .iter()
                .map(|one| nameless(one.address, one.weight, one.priority, *max_connections));
            place.collect()
        }
        (Discover::File { .. }, Some(Answer::Backends(backends))) => backends
            .iter()
            .filter_map(|backend| listed_member(backend, book))
            .collect(),
        _ => Vec::new(),
    }
}

/// Named by its address, as a listed backend without a name is.
fn nameless(
    address: SocketAddr,
    weight: u16,
    priority: u16,
    max_connections: u32,
) -> MemberSpec<Endpoint> {
    MemberSpec {
        name: address.to_string(),
        identity: address.to_string(),
        target: Endpoint::Tcp(address),
        weight,
        priority,
        max_connections,
    }
}
