//! Where clients go: by the name they ask for, the protocols they offer, their network.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;

use super::{named_hello, route, setup, strict};
use crate::harness::balancer::{Balancer, Setup};
use crate::harness::peer::End;
use crate::routing_kit::{Keeper, PASSTHROUGH, ask, ask_from, hello, pool, refusal};

#[test]
fn the_name_asked_for_leads_to_its_pool() {
    let (other, exact, wild) = (
        Keeper::new("other"),
        Keeper::new("exact"),
        Keeper::new("wild"),
    );
    let routes = [
        route("sni = [\"api.example.com\", \"Second.Example\"]", "exact"),
        route("sni = [\"*.example.org\"]", "wild"),
    ];
    let servers = [("exact", &exact), ("wild", &wild)];
    let balancer = Balancer::start(&setup(&other, &routes.concat(), &servers));
    for (name, expected) in [
        ("api.example.com", "exact"),
        ("API.Example.COM", "exact"),
        ("api.example.com.", "exact"),
        ("second.example", "exact"),
        ("x.api.example.com", "other"),
        ("example.com", "other"),
        ("a.example.org", "wild"),
        ("a.b.c.Example.org", "wild"),
        ("a.example.org.", "wild"),
        // Not below itself, and not the end of a label.
        ("example.org", "other"),
        ("anexample.org", "other"),
        ("a.example.org.test", "other"),
    ] {
        let heard = ask(balancer.address(), &hello(name, &[]));
        assert_eq!(heard.from(), expected, "{name}");
        let record = balancer.record_of(heard.client);
        let bare = name.strip_suffix('.').unwrap_or(name).to_lowercase();
        assert_eq!(record.text("sni"), bare);
        assert_eq!(record.text("tls"), "", "nothing was terminated");
        let pool = if expected == "other" { "out" } else { expected };
        assert_eq!(record.text("pool"), pool);
    }
}

#[test]
fn a_protocol_that_the_client_offers_leads_to_its_pool_wherever_it_stands_in_the_list() {
    let (other, web, mail) = (
        Keeper::new("other"),
        Keeper::new("web"),
        Keeper::new("mail"),
    );
    let routes = [
        route("alpn = [\"h2\", \"http/1.1\"]", "web"),
        route("alpn = [\"imap\"]", "mail"),
    ];
    let servers = [("web", &web), ("mail", &mail)];
    let balancer = Balancer::start(&setup(&other, &routes.concat(), &servers));
    for (offered, expected) in [
        (&["h2", "http/1.1"][..], "web"),
        (&["x", "http/1.1"], "web"),
        (&["imap"], "mail"),
        (&["imap", "h2"], "web"),
        (&["H2"], "other"),
        (&["h"], "other"),
        (&[], "other"),
    ] {
        let heard = ask(balancer.address(), &hello("a.test", offered));
        assert_eq!(heard.from(), expected, "{offered:?}");
    }
}

#[test]
fn the_first_route_that_fits_is_taken_and_each_of_its_lists_must_fit() {
    let servers = ["all", "first", "second"].map(|name| (name, Keeper::new(name)));
    let routes = [
        route(
            "sni = [\"a.test\"]\nalpn = [\"h2\"]\nsource = [\"127.0.0.2/32\"]",
            "all",
        ),
        route("sni = [\"*.test\"]", "first"),
        route("sni = [\"a.test\"]", "second"),
        route("source = [\"127.0.0.3\"]", "second"),
    ];
    let other = Keeper::new("other");
    let pools = servers.each_ref().map(|(name, keeper)| (*name, keeper));
    let balancer = Balancer::start(&setup(&other, &routes.concat(), &pools));
    for (source, name, offered, expected) in [
        ("127.0.0.2", "a.test", &["h2"][..], "all"),
        ("127.0.0.1", "a.test", &["h2"], "first"),
        ("127.0.0.2", "a.test", &["h3"], "first"),
        ("127.0.0.2", "b.test", &["h2"], "first"),
        ("127.0.0.2", "a.example", &["h2"], "other"),
        ("127.0.0.3", "a.example", &[], "second"),
    ] {
        let heard = ask_from(source, balancer.address(), &hello(name, offered));
        assert_eq!(heard.from(), expected, "{source} {name} {offered:?}");
    }
}

#[test]
fn the_clients_network_leads_to_its_pool_where_nothing_is_said_of_tls() {
    let (other, near) = (Keeper::new("other"), Keeper::new("near"));
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("in.sock");
    let mut setup = Setup::over(&[other.address()])
        .listener(&route("source = [\"127.0.0.8/29\", \"::1\"]", "near"));
    setup.more += &pool("near", "", &[near.address()]);
    setup.more += &format!(
        "\n[[listener]]\nname = \"unix\"\nbind = \"unix:{}\"\npool = \"out\"\n{}",
        path.display(),
        route("source = [\"0.0.0.0/0\", \"::/0\"]", "near")
    );
    let balancer = Balancer::start(&setup);
    for (source, expected) in [
        ("127.0.0.7", "other"),
        ("127.0.0.8", "near"),
        ("127.0.0.15", "near"),
        ("127.0.0.16", "other"),
    ] {
        let heard = ask_from(source, balancer.address(), b"anything");
        assert_eq!(heard.from(), expected, "{source}");
    }
    // A client without an address is in no network.
    let mut client = UnixStream::connect(path).unwrap();
    client.write_all(b"anything").unwrap();
    client.shutdown(std::net::Shutdown::Write).unwrap();
    let mut answer = String::new();
    client.read_to_string(&mut answer).unwrap();
    assert_eq!(answer, "other");
}

#[test]
fn a_client_that_no_route_fits_is_turned_away_where_there_is_no_default_pool() {
    let (other, named) = (Keeper::new("other"), Keeper::new("named"));
    let by_name = route("sni = [\"named.test\"]", "named");
    let mut setup = setup(&other, &by_name, &[("named", &named)]);
    setup.more += &format!(
        "\n[[listener]]\nname = \"near\"\nbind = \"127.0.0.1:0\"\n{}",
        route("source = [\"127.0.0.9\"]", "named")
    );
    let balancer = Balancer::start(&strict(setup, PASSTHROUGH, &by_name));
    let strict = balancer.address_of("strict");
    assert_eq!(ask(strict, &named_hello()).from(), "named");
    let near = balancer.address_of("near");
    for (to, said) in [(strict, hello("x.test", &["h2"])), (near, b"any".to_vec())] {
        let heard = ask(to, &said);
        assert_eq!((heard.end, heard.answer.len()), (End::Reset, 0));
        let record = balancer.record_of(heard.client);
        assert_eq!(refusal(&record), ("route", "no_backend", "no_route"));
        assert_eq!((record.text("pool"), record.number("tries")), ("", 0));
    }
    assert_eq!(named.received().len(), 1);
}

#[test]
fn what_is_not_tls_goes_to_the_default_pool_as_it_is_and_nowhere_else() {
    let (other, named) = (Keeper::new("other"), Keeper::new("named"));
    let by_name = route("sni = [\"named.test\"]", "named");
    let setup = setup(&other, &by_name, &[("named", &named)]);
    let balancer = Balancer::start(&strict(setup, PASSTHROUGH, &by_name));
    let sslv2 = [&[0x80, 46, 1, 0, 2, 0, 21, 0, 0, 0, 16][..], &[9; 40]].concat();
    let zeros = vec![0; 70_000];
    let others = [
        b"GET / HTTP/1.1\r\nHost: named.test\r\n\r\n".to_vec(),
        b"SSH-2.0-OpenSSH_9.2\r\n".to_vec(),
        b"x".to_vec(),
        // The type of a record, and no version there is.
        b"\x16\x09and more".to_vec(),
        sslv2,
        zeros,
    ];
    for (at, said) in others.iter().enumerate() {
        let heard = ask(balancer.address(), said);
        assert_eq!(heard.from(), "other");
        assert_eq!(&other.received()[at], said, "not as it was sent");
        assert_eq!(balancer.record_of(heard.client).text("sni"), "");

        let heard = ask(balancer.address_of("strict"), said);
        // It would not know what an alert is.
        assert_eq!((heard.end, heard.answer.len()), (End::Reset, 0));
        let record = balancer.record_of(heard.client);
        assert_eq!(refusal(&record), ("tls", "tls_failed", "not_tls"));
    }
    assert!(named.untouched());
}

#[test]
fn the_same_name_leads_to_the_same_backend_whoever_asks() {
    let keepers = ["0", "1", "2", "3"].map(Keeper::new);
    let addresses = keepers.each_ref().map(Keeper::address);
    let setup = Setup::over(&addresses)
        .listener(PASSTHROUGH)
        .pool("policy = \"ip_hash\"\nhash_key = \"sni\"\nhash_balance_factor = 0");
    let balancer = Balancer::start(&setup);
    let mut chosen = Vec::new();
    for number in 0..24 {
        let names = [format!("n{number}.test"), format!("N{number}.Test.")];
        let answers = ["127.0.0.1", "127.0.0.2", "127.0.0.77"].map(|source| {
            let hello = hello(&names[usize::from(source == "127.0.0.2")], &[]);
            ask_from(source, balancer.address(), &hello)
                .from()
                .to_owned()
        });
        assert!(answers.iter().all(|one| *one == answers[0]), "{answers:?}");
        chosen.push(answers[0].clone());
    }
    // 24 names on 4 backends: one that is never hit has a chance of 0.4 %, with a fixed seed.
    chosen.sort();
    chosen.dedup();
    assert_eq!(chosen, ["0", "1", "2", "3"]);
}
