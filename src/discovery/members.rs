//! From settings and what is known of their sources to the members of a pool; pure.

use std::collections::HashSet;
use std::net::SocketAddr;

use super::book::{Answer, Book};
use super::source::Source;
use crate::balance::policy::Cost;
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
        cost: backend.cost,
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
        cost: Cost::FREE,
        max_connections,
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::net::IpAddr;

    use super::*;
    use crate::base::clock::Moment;
    use crate::config::load::load_text;
    use crate::discovery::addresses::Addresses;
    use crate::discovery::book::News;
    use crate::discovery::source;

    const HEAD: &str = "[[listener]]\nname = \"in\"\nbind = \"127.0.0.1:1\"\npool = \"out\"\n\
                        [[pool]]\nname = \"out\"\n";

    fn pool(tables: &str) -> Pool {
        let settings = load_text("t", &format!("{HEAD}{tables}"), &|_| None);
        settings.unwrap().pools.remove(0)
    }

    /// What is known when every source of the pool answers with these addresses.
    fn book(pool: &Pool, list: &[&str]) -> Book {
        let mut book = Book::default();
        let sources: BTreeMap<_, _> = source::of_pool(pool).into_iter().collect();
        book.keep(&sources);
        for source in sources.into_keys() {
            let ips = list.iter().map(|text| text.parse().unwrap());
            let (v4, v6) = ips.partition(IpAddr::is_ipv4);
            let news = News {
                source,
                answer: Some(Answer::Addresses(Addresses { v4, v6 })),
                ttl: None,
                error: None,
            };
            book.record(news, Moment::ZERO);
        }
        book
    }

    const DNS: &str = "[[pool.discover]]\nkind = \"dns\"\nname = \"web.test\"\nport = 80\n";

    #[test]
    fn the_order_of_an_answer_is_no_change() {
        let pool = pool(DNS);
        let one = gather(&pool, &book(&pool, &["10.0.0.2", "fd00::1", "10.0.0.1"]));
        let other = gather(&pool, &book(&pool, &["10.0.0.1", "10.0.0.2", "fd00::1"]));
        assert_eq!(one, other);
        let names: Vec<&str> = one.members.iter().map(|one| &*one.name).collect();
        assert_eq!(names, ["10.0.0.1:80", "10.0.0.2:80", "[fd00::1]:80"]);
    }

    #[test]
    fn nothing_known_is_no_member_and_takes_no_listed_one_away() {
        let listed = "[[pool.backend]]\naddress = \"10.0.0.9:80\"\n[[pool.backend]]\n\
                      address = \"db.test:80\"\n";
        let pool = pool(&format!("{listed}{DNS}"));
        let members = gather(&pool, &Book::default()).members;
        let names: Vec<&str> = members.iter().map(|one| &*one.name).collect();
        assert_eq!(names, ["10.0.0.9:80"]);
        let members = gather(&pool, &book(&pool, &["10.0.0.1"])).members;
        let of = |member: &MemberSpec<Endpoint>| (member.name.clone(), member.identity.clone());
        let expected = [
            ("10.0.0.9:80".to_owned(), "10.0.0.9:80".to_owned()),
            ("db.test:80".to_owned(), "10.0.0.1:80".to_owned()),
        ];
        let found: Vec<_> = members.iter().map(of).collect();
        assert_eq!(found, expected, "found at the address of a listed one");
    }

    #[test]
    fn a_pool_has_no_more_members_than_it_can_count() {
        let many: String = (0..70)
            .map(|n| DNS.replace("port = 80", &format!("port = {}", 80 + n)))
            .collect();
        let pool = pool(&many);
        let list: Vec<String> = (0..1024_u32)
            .map(|n| std::net::Ipv4Addr::from(0x0a00_0000 + n).to_string())
            .collect();
        let list: Vec<&str> = list.iter().map(String::as_str).collect();
        let gathered = gather(&pool, &book(&pool, &list));
        assert!(gathered.too_many);
        assert_eq!(gathered.members.len(), MEMBERS_MAX);
    }
}
