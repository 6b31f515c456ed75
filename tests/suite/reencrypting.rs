//! Pools that speak TLS to their backends: whom they believe, what they offer, and what becomes of
//! a backend that does not keep to it.

use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::sync::mpsc::{Receiver, channel};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use lbd::balance::backend::State;
use lbd::config::load::load_text;
use lbd::config::warnings::warnings;
use rustls::server::WebPkiClientVerifier;
use rustls::version::TLS12;
use rustls::{ServerConfig, ServerConnection};

use crate::harness::balancer::{Balancer, Setup};
use crate::harness::child;
use crate::harness::peer::Backend;
use crate::harness::record::Record;
use crate::harness::script::Stream;
use crate::harness::secured::{Act, End, Keys, Say, Seen, acceptance, bytes, connection, play};
use crate::harness::sockets::{self, Options, Refusing};
use crate::harness::tls::{self, Authority, Pair};
use crate::harness::wait;

/// Plays an act over TLS with whoever connects.
struct Served {
    backend: Backend,
    seen: Receiver<Seen>,
}

impl Served {
    fn new(config: impl Into<Arc<ServerConfig>>, act: Act) -> Served {
        let config = config.into();
        Served::by(act, move |_| Some(acceptance(&config)))
    }

    fn by(
        act: Act,
        begin: impl Fn(&mut TcpStream) -> Option<rustls::Connection> + Send + Sync + 'static,
    ) -> Served {
        let (sender, seen) = channel();
        let sender = Mutex::new(sender);
        let listener = sockets::listen_with(Options::default());
        let backend = Backend::serving(listener, move |mut socket| {
            let tls = begin(&mut socket);
            let one = play(socket, tls, Stream::OfBackend, &act);
            let _ = sender.lock().unwrap().send(one);
        });
        Served { backend, seen }
    }

    fn seen(&self) -> Seen {
        self.seen
            .recv_timeout(wait::PATIENCE)
            .expect("a connection that is over")
    }

    fn address(&self) -> SocketAddr {
        self.backend.address
    }
}

/// Says something, hears the answer, and the ends.
fn talk() -> Act {
    Act::new([bytes(3000), Say::Goodbye])
}

fn plain_client(balancer: &Balancer, act: &Act) -> (Seen, Record) {
    let socket = sockets::connect_with(balancer.address(), Options::default()).unwrap();
    let own = socket.local_addr().unwrap();
    let seen = play(socket, None, Stream::OfClient, act);
    (seen, balancer.record_of(own))
}

fn tls_client(balancer: &Balancer, keys: &Keys, act: &Act) -> (Seen, Record) {
    let socket = sockets::connect_with(balancer.address(), Options::default()).unwrap();
    let own = socket.local_addr().unwrap();
    let tls = connection("client.test", &keys.client);
    let seen = play(socket, Some(tls), Stream::OfClient, act);
    (seen, balancer.record_of(own))
}

#[track_caller]
fn assert_whole(client: &Seen, backend: &Seen, record: &Record) {
    for (from, to) in [(client, backend), (backend, client)] {
        assert_eq!(
            (to.taken, to.end, to.intact),
            (from.sent, End::Whole, true),
            "{record:?}"
        );
    }
}

/// Two clients and a third that is passed through to the same backend, which keeps its own keys.
#[test]
fn a_backend_over_tls_serves_plain_clients_and_those_over_tls() {
    let keys = Keys::new();
    let served = Served::new(keys.backend.clone(), talk());
    let address = served.address();
    let beside = format!(
        "[[listener]]\nname = \"raw\"\nbind = \"127.0.0.1:0\"\npool = \"raw\"\n\
         tls = {{ mode = \"passthrough\" }}\n\
         [[pool]]\nname = \"raw\"\nhealth = {{ probe = \"none\" }}\n\
         [[pool.backend]]\naddress = \"{address}\"\n"
    );
    let mut setup = Setup::over(&[address]).pool(&keys.reencrypt());
    setup.more = beside;
    let plain = Balancer::start(&setup);
    let (client, record) = plain_client(&plain, &talk());
    assert_whole(&client, &served.seen(), &record);
    assert_eq!(record.text("path"), "tls");

    let socket = TcpStream::connect(plain.address_of("raw")).unwrap();
    let own = socket.local_addr().unwrap();
    let end_to_end = connection("backend.test", &keys.client);
    let client = play(socket, Some(end_to_end), Stream::OfClient, &talk());
    let record = plain.record_of(own);
    assert_whole(&client, &served.seen(), &record);
    assert_ne!(record.text("path"), "tls", "{record:?}");

    let secured = Balancer::start(&setup.listener(&keys.terminate()));
    let (client, record) = tls_client(&secured, &keys, &talk());
    assert_whole(&client, &served.seen(), &record);
}

/// By the name of the settings, else by the host of the address, else by the address.
#[test]
fn a_backend_is_believed_by_the_name_it_goes_by() {
    let authority = Authority::new("authority of backends");
    for (names, host, given) in [
        (
            &["given.test"][..],
            "127.0.0.1",
            "server_name = \"given.test\", ",
        ),
        (&["localhost"], "localhost", ""),
        (&["127.0.0.1"], "127.0.0.1", ""),
    ] {
        let pair = authority.issue("backend", names);
        let served = Served::new(tls::server_config(&pair), talk());
        let port = served.address().port();
        let mut setup = Setup::over(&[served.address()]);
        setup.more = format!(
            "[[listener]]\nname = \"named\"\nbind = \"127.0.0.1:0\"\npool = \"named\"\n\
             [[pool]]\nname = \"named\"\nhealth = {{ probe = \"none\" }}\n\
             tls = {{ {given}ca = {:?} }}\n\
             [[pool.backend]]\naddress = \"{host}:{port}\"\n",
            authority.ca()
        );
        let balancer = Balancer::start(&setup);
        wait::until("the name is resolved", || {
            let state = balancer.state();
            state
                .pool("named")
                .is_some_and(|pool| !pool.backends.is_empty())
        });
        let socket = TcpStream::connect(balancer.address_of("named")).unwrap();
        let own = socket.local_addr().unwrap();
        let client = play(socket, None, Stream::OfClient, &talk());
        assert_whole(&client, &served.seen(), &balancer.record_of(own));
    }
}

fn expired(authority: &Authority) -> Pair {
    authority.issue_with("expired", &["backend.test"], |params| {
        params.not_before = rcgen::date_time_ymd(2001, 1, 1);
        params.not_after = rcgen::date_time_ymd(2002, 1, 1);
    })
}

/// E12: nothing of what the client said is for a backend that is not who it should be.
#[test]
fn a_backend_that_is_not_believed_gets_no_byte_and_another_is_tried() {
    let keys = Keys::new();
    let somebody = Authority::new("somebody else");
    let strange = somebody.issue("backend", &["backend.test"]);
    let misnamed = keys.authority.issue("misnamed", &["other.test"]);
    for (pair, word) in [
        (strange, "cert_unknown_ca"),
        (misnamed, "cert_name"),
        (expired(&keys.authority), "cert_expired"),
    ] {
        let bad = Served::new(tls::server_config(&pair), talk());
        let alone = Setup::over(&[bad.address()])
            .pool(&keys.reencrypt())
            .pool("retries = 0");
        let balancer = Balancer::start(&alone);
        let (client, record) = plain_client(&balancer, &Act::new([bytes(500), Say::AwaitReset]));
        assert_eq!(
            (client.end, client.taken),
            (End::Reset, 0),
            "{word}: {record:?}"
        );
        assert_eq!(record.termination(), "connect_failed", "{record:?}");
        assert_eq!(record.text("detail"), word, "{record:?}");
        assert!(record.text("failed_tries").contains(word), "{record:?}");
        assert_eq!(record.number("bytes_to_backend"), 0, "{record:?}");
        let seen = bad.seen();
        // It was told why.
        assert_eq!((seen.taken, seen.end), (0, End::Broken), "{word}: {seen:?}");

        let good = Served::new(keys.backend.clone(), talk());
        let both = Setup::over(&[bad.address(), good.address()])
            .pool(&keys.reencrypt())
            .pool("policy = \"failover\"");
        let balancer = Balancer::start(&both);
        let (client, record) = plain_client(&balancer, &talk());
        assert_whole(&client, &good.seen(), &record);
        assert_eq!(bad.seen().taken, 0);
        assert_eq!(
            (record.text("backend"), record.number("tries")),
            ("b1", 2),
            "{record:?}"
        );
        assert!(record.text("failed_tries").contains(word), "{record:?}");
    }
}

/// E12, and what else can go wrong before TLS stands: each costs one try.
#[test]
fn a_backend_that_does_not_speak_tls_is_passed_over() {
    let keys = Keys::new();
    let on = || sockets::listen_with(Options::default());
    let hears_hello = |mut socket: &TcpStream| {
        let _ = socket.read(&mut [0; 4096]);
    };
    let talks_first = Backend::serving(on(), |mut socket| {
        let _ = socket.write_all(b"220 mail.test ready\r\n");
        let _ = socket.read_to_end(&mut Vec::new());
    });
    let is_silent = Backend::serving(on(), |mut socket| {
        let _ = socket.read_to_end(&mut Vec::new());
    });
    let closes = Backend::serving(on(), move |socket| hears_hello(&socket));
    let resets = Backend::serving(on(), move |socket| {
        hears_hello(&socket);
        sockets::reset(&socket);
    });
    for (bad, ends, word) in [
        (&talks_first, "connect_failed", "not_tls"),
        (&is_silent, "connect_timeout", "timed_out"),
        (&closes, "connect_failed", "tls_closed"),
        (&resets, "connect_failed", "reset"),
    ] {
        let alone = Setup::over(&[bad.address])
            .pool(&keys.reencrypt())
            .pool("retries = 0\nconnect_timeout = \"600ms\"");
        let balancer = Balancer::start(&alone);
        let begun = Instant::now();
        let (client, record) = plain_client(&balancer, &Act::new([bytes(500), Say::AwaitReset]));
        assert!(
            begun.elapsed() < Duration::from_secs(5),
            "{word}: {:?}",
            begun.elapsed()
        );
        assert_eq!(
            (client.end, client.taken),
            (End::Reset, 0),
            "{word}: {record:?}"
        );
        assert_eq!(record.termination(), ends, "{record:?}");
        assert!(
            record.text("failed_tries").contains(word),
            "{word}: {record:?}"
        );

        let good = Served::new(keys.backend.clone(), talk());
        let both = Setup::over(&[bad.address, good.address()])
            .pool(&keys.reencrypt())
            .pool("policy = \"failover\"\nconnect_timeout = \"4s\"");
        let balancer = Balancer::start(&both);
        let (client, record) = plain_client(&balancer, &talk());
        assert_whole(&client, &good.seen(), &record);
        assert!(
            record.text("failed_tries").contains(word),
            "{word}: {record:?}"
        );
    }
}

/// The reset that follows an alert must not hide what the alert says.
#[test]
fn what_a_backend_says_against_us_is_told_in_its_word() {
    let keys = Keys::new();
    let backend = Backend::serving(sockets::listen_with(Options::default()), |mut socket| {
        let _ = socket.read(&mut [0; 4096]);
        // A fatal handshake_failure (RFC 8446, section 6.2) and the end at once.
        let _ = socket.write_all(b"\x15\x03\x03\x00\x02\x02\x28");
        sockets::reset_on_close(&socket);
    });
    let setup = Setup::over(&[backend.address])
        .pool(&keys.reencrypt())
        .pool("retries = 0");
    let balancer = Balancer::start(&setup);
    for _ in 0..20 {
        let (_, record) = plain_client(&balancer, &Act::new([Say::AwaitReset]));
        assert_eq!(
            record.text("detail"),
            "alert_handshake_failure",
            "{record:?}"
        );
    }
}

#[test]
fn insecure_believes_anyone_and_is_warned_of() {
    let unknown = Authority::new("unknown to all");
    let nobody = unknown.issue("nobody", &["nowhere.test"]);
    let served = Served::new(tls::server_config(&nobody), talk());
    let setup = Setup::over(&[served.address()]).pool("tls = { insecure = true }");
    let balancer = Balancer::start(&setup);
    let (client, record) = plain_client(&balancer, &talk());
    assert_whole(&client, &served.seen(), &record);
    let settings = load_text("test.toml", &setup.toml("off"), &|_| None).unwrap();
    let said = warnings(&settings);
    assert!(
        said.iter().any(|line| line.contains("tls.insecure")),
        "{said:?}"
    );
}

#[test]
fn a_backend_that_asks_for_a_certificate_is_shown_one() {
    let keys = Keys::new();
    let ours = keys.authority.issue("ours", &["lbd.test"]);
    let verifier = WebPkiClientVerifier::builder_with_provider(
        keys.authority.roots(),
        keys.client.crypto_provider().clone(),
    );
    let of_backend = keys.authority.issue("demanding", &["backend.test"]);
    let config = ServerConfig::builder_with_provider(keys.client.crypto_provider().clone())
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_client_cert_verifier(verifier.build().unwrap())
        .with_single_cert(of_backend.chain(), of_backend.key())
        .unwrap();
    let served = Served::new(config, talk());
    let ca = keys.authority.ca();
    let (cert, key) = (&ours.cert, &ours.key);
    let pool = format!(
        "tls = {{ server_name = \"backend.test\", ca = {ca:?}, cert = {cert:?}, key = {key:?} }}"
    );
    let balancer = Balancer::start(&Setup::over(&[served.address()]).pool(&pool));
    let (client, record) = plain_client(&balancer, &talk());
    assert_whole(&client, &served.seen(), &record);

    // Without one: in TLS 1.3 we learn of it only after we have begun to speak.
    let without = Setup::over(&[served.address()]).pool(&keys.reencrypt());
    let balancer = Balancer::start(&without);
    let (client, record) = plain_client(&balancer, &Act::new([bytes(10), Say::AwaitReset]));
    assert_eq!((client.end, client.taken), (End::Reset, 0), "{record:?}");
    assert_eq!(record.termination(), "tls_failed", "{record:?}");
    assert_eq!(
        record.text("detail"),
        "alert_certificate_required",
        "{record:?}"
    );
    assert_eq!(served.seen().taken, 0);
}

/// A server that tells which protocol was agreed on. It would take either, and first of all h2.
fn tells_alpn(keys: &Keys) -> Backend {
    let mut config = ServerConfig::clone(&keys.backend);
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    let config = Arc::new(config);
    Backend::serving(
        sockets::listen_with(Options::default()),
        move |mut socket| {
            let mut tls = ServerConnection::new(config.clone()).unwrap();
            tls.complete_io(&mut socket).unwrap();
            let agreed = tls.alpn_protocol().unwrap_or(b"none").to_vec();
            tls.writer().write_all(&agreed).unwrap();
            tls.send_close_notify();
            let _ = tls.complete_io(&mut socket);
            let _ = socket.read_to_end(&mut Vec::new());
        },
    )
}

#[test]
fn the_protocol_agreed_on_with_the_client_is_the_one_offered_to_the_backend() {
    let keys = Keys::new();
    let backend = tells_alpn(&keys);
    let certificates = keys.listener.toml();
    let terminate = format!(
        "tls = {{ mode = \"terminate\", certificates = [{certificates}], \
         alpn = [\"h2\", \"http/1.1\"] }}"
    );
    let setup = Setup::over(&[backend.address])
        .pool(&keys.reencrypt())
        .listener(&terminate);
    let balancer = Balancer::start(&setup);
    for (offers, agreed) in [
        (&["h2", "http/1.1"][..], "h2"),
        (&["http/1.1"], "http/1.1"),
        (&[], "none"),
    ] {
        let mut config = keys.authority.client();
        config.alpn_protocols = offers.iter().map(|one| one.as_bytes().to_vec()).collect();
        let client = tls::connect(balancer.address(), "client.test", &Arc::new(config));
        let answer = tls::call(client, b"hello").unwrap();
        assert_eq!(String::from_utf8_lossy(&answer), agreed);
    }
}

/// One at a time; returns which of them were resumed with the backend.
fn resumptions(balancer: &Balancer, served: &[&Served], count: usize) -> Vec<bool> {
    let next = |round: usize| {
        let (client, record) = plain_client(balancer, &talk());
        let seen = served[round % served.len()].seen();
        assert_whole(&client, &seen, &record);
        seen.resumed
    };
    (0..count).map(next).collect()
}

/// The backend answers only when it was asked, so that its tickets have come by then.
#[test]
fn sessions_with_a_backend_are_resumed_also_after_a_reload_that_changes_nothing() {
    let keys = Keys::new();
    let answers = Act::new([Say::AwaitEnd, bytes(3000), Say::Goodbye]);
    let served = Served::new(keys.backend.clone(), answers);
    let setup = Setup::over(&[served.address()]).pool(&keys.reencrypt());
    let balancer = Balancer::start(&setup);
    assert_eq!(
        resumptions(&balancer, &[&served], 4),
        [false, true, true, true]
    );
    balancer
        .reload(&setup.clone().listener("max_connections = 99"))
        .unwrap();
    assert_eq!(resumptions(&balancer, &[&served], 2), [true, true]);
    // Whoever is believed from now on was not asked then.
    let ca = keys.authority.ca();
    let changed = format!("tls = {{ server_name = \"backend.test\", ca = {ca:?}, insecure = false");
    let ours = keys.authority.issue("ours", &["lbd.test"]);
    let changed = format!("{changed}, cert = {:?}, key = {:?} }}", ours.cert, ours.key);
    balancer
        .reload(&Setup::over(&[served.address()]).pool(&changed))
        .unwrap();
    assert_eq!(resumptions(&balancer, &[&served], 2), [false, true]);
}

/// The two would resume each other's sessions if they were offered them.
#[test]
fn a_session_is_resumed_only_with_the_backend_it_was_made_with() {
    let keys = Keys::new();
    let answers = || Act::new([Say::AwaitEnd, bytes(3000), Say::Goodbye]);
    let served = [
        Served::new(keys.backend.clone(), answers()),
        Served::new(keys.backend.clone(), answers()),
    ];
    let setup = Setup::over(&[served[0].address(), served[1].address()]).pool(&keys.reencrypt());
    let balancer = Balancer::start(&Setup {
        workers: 1,
        ..setup
    });
    let both = [&served[0], &served[1]];
    assert_eq!(resumptions(&balancer, &both, 4), [false, false, true, true]);
}

/// Reads a version 2 header (section 2.2 of its specification) and leaves what follows.
fn read_header(mut socket: &TcpStream) -> (Vec<u8>, u8) {
    let mut head = [0; 16];
    socket.read_exact(&mut head).unwrap();
    assert_eq!(&head[..12], b"\r\n\r\n\0\r\nQUIT\n");
    let mut rest = vec![0; usize::from(u16::from_be_bytes([head[14], head[15]]))];
    socket.read_exact(&mut rest).unwrap();
    let mut next = [0];
    socket.peek(&mut next).unwrap();
    (rest, next[0])
}

#[test]
fn the_proxy_header_goes_in_plain_ahead_of_the_hello() {
    let keys = Keys::new();
    let config = keys.backend.clone();
    let served = Served::by(talk(), move |socket| {
        let (addresses, next) = read_header(socket);
        assert_eq!(addresses[..4], [127, 0, 0, 1]);
        assert_eq!(next, 0x16, "no record of a handshake");
        Some(acceptance(&config))
    });
    for listener in ["", &keys.terminate()] {
        let setup = Setup::over(&[served.address()])
            .pool(&keys.reencrypt())
            .pool("send_proxy = \"v2\"")
            .listener(listener);
        let balancer = Balancer::start(&setup);
        let (client, record) = match listener {
            "" => plain_client(&balancer, &talk()),
            _ => tls_client(&balancer, &keys, &talk()),
        };
        assert_whole(&client, &served.seen(), &record);
    }
}

/// What the client has said meanwhile waits for the backend that stands in the end.
#[test]
fn bytes_that_wait_while_backends_are_tried_arrive_once_and_in_order() {
    let keys = Keys::new();
    let refusing = Refusing::new();
    let closes = Backend::serving(sockets::listen_with(Options::default()), |mut socket| {
        let _ = socket.read(&mut [0; 4096]);
    });
    let good = Served::new(keys.backend.clone(), talk());
    let addresses = [refusing.address, closes.address, good.address()];
    let pool = Setup::over(&addresses)
        .pool(&keys.reencrypt())
        .pool("policy = \"failover\"");
    for listener in ["", &keys.terminate()] {
        let balancer = Balancer::start(&pool.clone().listener(listener));
        let long = Act::new([bytes(400_000), Say::Goodbye]);
        let (client, record) = match listener {
            "" => plain_client(&balancer, &long),
            _ => tls_client(&balancer, &keys, &long),
        };
        assert_whole(&client, &good.seen(), &record);
        assert_eq!(
            (record.text("backend"), record.number("tries")),
            ("b2", 3),
            "{record:?}"
        );
    }
}

/// Its first words are opened before anything is relayed, and no event tells of them again.
#[test]
fn a_backend_that_speaks_first_is_heard() {
    let keys = Keys::new();
    let pair = keys.authority.issue("talker", &["backend.test"]);
    let only_tls12 = ServerConfig::builder_with_provider(keys.client.crypto_provider().clone())
        .with_protocol_versions(&[&TLS12])
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(pair.chain(), pair.key())
        .unwrap();
    let mut early = ServerConfig::clone(&keys.backend);
    early.send_half_rtt_data = true;
    for (config, says_end) in [(only_tls12, false), (early.clone(), false), (early, true)] {
        let config = Arc::new(config);
        let backend = Backend::serving(sockets::listen_with(Options::default()), move |socket| {
            let mut tls = ServerConnection::new(config.clone()).unwrap();
            tls.writer().write_all(b"220 ready\r\n").unwrap();
            let mut tls = rustls::StreamOwned::new(tls, socket);
            let _ = tls.flush();
            if says_end {
                tls.conn.send_close_notify();
                let _ = tls.flush();
            }
            tls::echo(tls);
        });
        let setup = Setup::over(&[backend.address]).pool(&keys.reencrypt());
        for listener in ["", &keys.terminate()] {
            let balancer = Balancer::start(&setup.clone().listener(listener));
            let mut greeting = [0; 11];
            let hear = |stream: &mut dyn Read, greeting: &mut [u8]| {
                stream.read_exact(greeting).expect("the greeting");
                assert_eq!(greeting, b"220 ready\r\n");
            };
            match listener {
                "" => {
                    let mut client = TcpStream::connect(balancer.address()).unwrap();
                    client.set_read_timeout(Some(wait::PATIENCE)).unwrap();
                    hear(&mut client, &mut greeting);
                }
                _ => {
                    let mut client = tls::connect(balancer.address(), "client.test", &keys.client);
                    hear(&mut client, &mut greeting);
                    client.conn.send_close_notify();
                    client.flush().unwrap();
                }
            }
        }
    }
}

#[test]
fn a_probe_over_tls_asks_as_the_pool_does() {
    let keys = Keys::new();
    let good = Served::new(keys.backend.clone(), Act::new([Say::AwaitEnd]));
    let misnamed = keys.authority.issue("misnamed", &["other.test"]);
    let bad = Served::new(tls::server_config(&misnamed), Act::new([Say::AwaitEnd]));
    let setup = Setup::over(&[good.address(), bad.address()]).pool(&format!(
        "{}\nhealth = {{ probe = \"tls\", interval = \"100ms\", fall = 1, rise = 1 }}",
        keys.reencrypt()
    ));
    let balancer = Balancer::start(&setup);
    wait::until("each is what its certificate makes it", || {
        let state = balancer.state();
        let backends = &state.pool("out").expect("a pool").backends;
        backends[0].state == State::Up && backends[1].state == State::Down
    });
}

/// A backend that has taken a part of what a client says stands: another would be told it twice.
#[test]
fn what_one_backend_has_taken_behind_a_header_is_not_given_to_another() {
    let name = "reencrypting::what_one_backend_has_taken_behind_a_header_is_not_given_to_another";
    child::in_own_network(name, || {
        // No more than this goes to a socket at once.
        std::fs::write("/proc/sys/net/ipv4/tcp_wmem", "4096 4096 8192").unwrap();
        let options = Options {
            receive_buffer: Some(4096),
            ..Options::default()
        };
        let unread = Backend::serving(sockets::listen_with(options), |socket| {
            sockets::await_reset(&socket, wait::PATIENCE);
        });
        let other = Backend::echo();
        let setup = Setup::over(&[unread.address, other.address])
            .pool("send_proxy = \"v2\"\npolicy = \"failover\"\nconnect_timeout = \"500ms\"")
            .listener("idle_timeout = \"2s\"\ntls = { mode = \"passthrough\" }");
        let balancer = Balancer::start(&setup);
        let mut config = Authority::new("nobody's").client();
        config.alpn_protocols = (0..100).map(|_| vec![b'x'; 200]).collect();
        let mut socket = sockets::connect_with(balancer.address(), Options::default()).unwrap();
        let hello = tls::hello_of(&Arc::new(config), "client.test");
        assert!(hello.len() > 20_000);
        socket.write_all(&hello).unwrap();
        assert!(sockets::await_reset(&socket, wait::PATIENCE));
        assert_eq!(other.accepted(), 0, "{:?}", balancer.records());
    });
}

#[test]
fn an_address_is_verified_as_an_address() {
    let authority = Authority::new("authority of addresses");
    let ip: IpAddr = "127.0.0.1".parse().unwrap();
    let other = authority.issue("other", &["127.0.0.2"]);
    let served = Served::new(tls::server_config(&other), talk());
    assert_eq!(served.address().ip(), ip);
    let pool = format!("tls = {{ ca = {:?} }}", authority.ca());
    let setup = Setup::over(&[served.address()])
        .pool(&pool)
        .pool("retries = 0");
    let balancer = Balancer::start(&setup);
    let (_, record) = plain_client(&balancer, &Act::new([Say::AwaitReset]));
    assert_eq!(record.text("detail"), "cert_name", "{record:?}");
}
