//! Where clients can come in: both address families, several addresses, ranges, unix sockets, and
//! which worker takes them.

use std::collections::HashSet;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;

use lbd::base::addr::Endpoint;

use crate::harness::balancer::{Balancer, Setup};
use crate::harness::peer::Backend;
use crate::harness::process::free_port;
use crate::harness::wait;

fn bound_to(bind: &str, backend: &Backend) -> Setup {
    Setup {
        bind: bind.to_owned(),
        ..Setup::over(&[backend.address])
    }
}

fn echoes<S: Read + Write>(mut socket: S) -> bool {
    let mut byte = [0];
    socket.write_all(b"x").is_ok() && socket.read_exact(&mut byte).is_ok() && byte == *b"x"
}

#[test]
fn an_ipv6_wildcard_takes_clients_of_both_families() {
    let backend = Backend::echo();
    let lbd = Balancer::start(&bound_to("[::]:0", &backend));
    let port = lbd.address().port();
    for client in [
        SocketAddr::from((Ipv6Addr::LOCALHOST, port)),
        (Ipv4Addr::LOCALHOST, port).into(),
    ] {
        let socket = TcpStream::connect(client).unwrap();
        let own = socket.local_addr().unwrap();
        assert!(echoes(socket));
        // An IPv4 client is logged as one, not in its mapped form.
        assert_eq!(lbd.record_of(own).client(), Some(own));
    }
}

#[test]
fn an_ipv6_address_leaves_ipv4_alone() {
    let backend = Backend::echo();
    let lbd = Balancer::start(&bound_to("[::1]:0", &backend));
    assert!(echoes(TcpStream::connect(lbd.address()).unwrap()));
    assert!(TcpStream::connect((Ipv4Addr::LOCALHOST, lbd.address().port())).is_err());
}

#[test]
fn every_port_of_a_range_leads_to_the_pool() {
    let backend = Backend::echo();
    // Somebody may take a port of the range before we do: then another range is tried.
    let (lbd, first) = wait::until_some("three ports in a row are free", || {
        let first = free_port().port();
        let mut setup = Setup::over(&[backend.address]);
        setup.bind = format!("127.0.0.1:{first}-{}", first.checked_add(2)?);
        Some((Balancer::try_start(&setup).ok()?, first))
    });
    for port in first..first + 3 {
        assert!(echoes(
            TcpStream::connect((Ipv4Addr::LOCALHOST, port)).unwrap()
        ));
    }
    assert_eq!(lbd.state().listeners[0].addresses.len(), 3);
}

#[test]
fn clients_and_backends_may_be_unix_sockets() {
    let folder = tempfile::tempdir().unwrap();
    let (front, back) = (folder.path().join("front"), folder.path().join("back"));
    let server = UnixListener::bind(&back).unwrap();
    let serving = std::thread::spawn(move || {
        let (mut socket, _) = server.accept().unwrap();
        let mut reader = socket.try_clone().unwrap();
        std::io::copy(&mut reader, &mut socket).unwrap()
    });
    let backend = Backend::echo();
    let text = |path: &Path| format!("unix:{}", path.display());
    let mut setup = bound_to(&text(&front), &backend);
    setup.backends.clear();
    setup.more = format!("[[pool.backend]]\naddress = \"{}\"\n", text(&back));
    // A socket file that a dead process left behind is in nobody's way.
    drop(UnixListener::bind(&front).unwrap());
    let lbd = Balancer::start(&setup);
    assert!(matches!(
        lbd.state().listeners[0].addresses[0],
        Endpoint::Unix(_)
    ));
    let client = UnixStream::connect(&front).unwrap();
    assert!(echoes(&client));
    drop(client);
    assert_eq!(serving.join().unwrap(), 1);
    let record = lbd.only_record();
    assert_eq!(
        (record.text("client"), record.termination()),
        ("unix:", "client_closed")
    );
    drop(lbd);
    assert!(!front.exists(), "the socket file is removed at the end");
}

#[test]
fn a_unix_socket_that_somebody_serves_is_not_taken_away() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("front");
    let _other = UnixListener::bind(&path).unwrap();
    let backend = Backend::echo();
    let refused = Balancer::try_start(&bound_to(&format!("unix:{}", path.display()), &backend));
    let error = refused.expect_err("the address is in use");
    assert!(error.contains("in use"), "{error}");
    assert!(UnixStream::connect(&path).is_ok());
}

/// The kernel spreads clients by a hash that ignores load; a worker far above another one hands
/// over. Which worker has a session is not visible outside, so this looks at the pool's own mean:
/// with hundreds of sessions all of them are served, whoever accepted them.
#[test]
fn hundreds_of_sessions_over_four_workers_are_all_served_at_once() {
    let backend = Backend::echo();
    let mut setup = Setup::over(&[backend.address]);
    setup.workers = 4;
    let lbd = Balancer::start(&setup);
    let mut clients: Vec<TcpStream> = (0..300)
        .map(|_| TcpStream::connect(lbd.address()).unwrap())
        .collect();
    for client in &mut clients {
        assert!(echoes(client));
    }
    assert_eq!(lbd.active(), 300);
    let own: HashSet<_> = clients
        .iter()
        .map(|client| client.local_addr().unwrap())
        .collect();
    assert_eq!(own.len(), 300);
}
