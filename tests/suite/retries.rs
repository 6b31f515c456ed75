//! What a client may try, and what its record says of it.

use std::io::Read;
use std::net::TcpStream;

use crate::harness::balancer::{Balancer, Setup};
use crate::harness::peer::{self, Backend, End};
use crate::harness::script::{Script, Send, Take};
use crate::harness::sockets::{Refusing, Silent};
use crate::harness::wait;

const NEVER_EJECT: &str = "ejection = { connect_failures = 0 }";

#[test]
fn the_record_lists_each_failed_try_with_its_backend_error_and_time() {
    let (refusing, silent) = (Refusing::new(), Silent::new());
    let good = Backend::new(&Script::new([Send::Bytes(5), Send::Fin], [Take::ToEnd]));
    let setup = Setup::over(&[refusing.address, silent.address, good.address])
        .pool("policy = \"failover\"\nconnect_timeout = \"600ms\"")
        .pool(NEVER_EJECT);
    let balancer = Balancer::start(&setup);
    let script = Script::new([Send::AwaitEnd, Send::Fin], [Take::ToEnd]);
    let client = peer::client(balancer.address(), &script);
    assert_eq!((client.taken, client.end), (5, End::Fin));
    let record = balancer.record_of(client.address);
    let tries: Vec<serde_json::Value> =
        serde_json::from_str(record.text("failed_tries")).expect("JSON");
    let words: Vec<_> = tries
        .iter()
        .map(|one| {
            (
                one["backend"].as_str().unwrap(),
                one["error"].as_str().unwrap(),
            )
        })
        .collect();
    assert_eq!(words, [("b0", "refused"), ("b1", "timed_out")]);
    let waited = tries[1]["ms"].as_f64().unwrap();
    assert!(
        (250.0..600.0).contains(&waited),
        "{waited} of 600 ms, shared with b2"
    );
    assert_eq!((record.number("tries"), record.text("backend")), (3, "b2"));
}

#[test]
fn a_dead_pool_is_not_sent_a_multiple_of_its_load() {
    const CLIENTS: u64 = 3000;
    let dead: Vec<Refusing> = (0..4).map(|_| Refusing::new()).collect();
    let addresses: Vec<_> = dead.iter().map(|one| one.address).collect();
    let setup = Setup::over(&addresses)
        .pool("retries = 3\nretry_budget = 20")
        .pool(NEVER_EJECT);
    let balancer = Balancer::start(&setup);
    for _ in 0..CLIENTS {
        let mut client = TcpStream::connect(balancer.address()).unwrap();
        assert!(client.read(&mut [0]).is_err(), "nobody serves it");
    }
    wait::until("all are written", || {
        balancer.records().len() as u64 == CLIENTS
    });
    let records = balancer.records();
    let tries: u64 = records.iter().map(|record| record.number("tries")).sum();
    // A thousand are saved at the start, ten a second are free, and the rest is 20 %.
    assert!(tries >= CLIENTS * 120 / 100, "{tries}");
    assert!(tries < CLIENTS * 120 / 100 + 1000 + 300, "{tries}");
    let refused = records
        .iter()
        .filter(|record| record.text("detail") == "retry_budget");
    let refused = refused.count() as u64;
    assert!(refused > CLIENTS / 2, "{refused}");
    assert_eq!(balancer.state().pools[0].retries_refused, refused);
}

#[test]
fn no_client_is_sent_to_the_same_dead_backend_twice() {
    let dead: Vec<Refusing> = (0..3).map(|_| Refusing::new()).collect();
    let good = Backend::echo();
    let mut addresses: Vec<_> = dead.iter().map(|one| one.address).collect();
    addresses.push(good.address);
    for policy in [
        "round_robin",
        "least_connections",
        "ip_hash",
        "random",
        "two_choices",
    ] {
        let setup = Setup::over(&addresses)
            .pool(&format!("retries = 16\npolicy = \"{policy}\""))
            .pool(NEVER_EJECT);
        let balancer = Balancer::start(&setup);
        for _ in 0..20 {
            let script = Script::new([Send::Bytes(9), Send::Fin], [Take::ToEnd]);
            let client = peer::client(balancer.address(), &script);
            assert_eq!((client.taken, client.end), (9, End::Fin), "{policy}");
            let record = balancer.record_of(client.address);
            let tried = record.text("failed_tries");
            for name in ["b0", "b1", "b2"] {
                let times = tried.matches(&format!("\"{name}\"")).count();
                assert!(times <= 1, "{policy}: {tried}");
            }
            assert_eq!(record.text("backend"), "b3");
        }
    }
}
