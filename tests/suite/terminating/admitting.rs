//! Who is let in where TLS is terminated: the same as elsewhere, and before any handshake.

use std::io::Read;
use std::net::TcpStream;

use super::Bench;
use crate::harness::tls;
use crate::harness::wait::PATIENCE;

#[test]
fn whoever_is_not_let_in_is_reset_before_a_handshake() {
    for (line, word) in [
        ("deny = [\"127.0.0.0/8\"]", "denied"),
        ("allow = [\"192.0.2.0/24\"]", "denied"),
    ] {
        let bench = Bench::with(tls::plain_echo(), "", |setup| setup.listener(line));
        let mut client = bench.client();
        assert!(tls::handshake(&mut client).is_err());
        assert_eq!(bench.balancer.only_record().termination(), word);
        let handshakes = bench.balancer.state().listeners[0].handshakes;
        assert_eq!(handshakes.full_13 + handshakes.failed, 0);
    }
    let allowed = "allow = [\"127.0.0.0/8\"]";
    let bench = Bench::with(tls::plain_echo(), "", |setup| setup.listener(allowed));
    assert_eq!(tls::call(bench.client(), b"hello").unwrap(), b"hello");
}

#[test]
fn clients_in_the_middle_of_a_handshake_count_for_the_limits() {
    for (line, word) in [
        ("max_connections = 1", "listener_limit"),
        ("per_source = { connections = 1 }", "source_limit"),
    ] {
        let bench = Bench::with(tls::plain_echo(), "", |setup| setup.listener(line));
        let silent = TcpStream::connect(bench.balancer.address()).unwrap();
        crate::harness::wait::until("the first is counted", || bench.balancer.active() == 1);
        let mut second = TcpStream::connect(bench.balancer.address()).unwrap();
        second.set_read_timeout(Some(PATIENCE)).unwrap();
        assert!(second.read(&mut [0; 8]).is_err(), "it is reset");
        let from = second.local_addr().unwrap();
        assert_eq!(bench.balancer.record_of(from).termination(), word);
        drop(silent);
        crate::harness::wait::until("there is room again", || bench.balancer.active() == 0);
        assert_eq!(tls::call(bench.client(), b"hello").unwrap(), b"hello");
    }
}
