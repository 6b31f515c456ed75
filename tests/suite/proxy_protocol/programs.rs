//! Real programs on the other end, each where it is installed: nginx and HAProxy as receivers,
//! HAProxy as a sender.

use std::fs;
use std::io::{Read, Write};
use std::net::SocketAddr;
use std::process::Command;

use tempfile::TempDir;

use crate::harness::balancer::{Balancer, Setup};
use crate::harness::machine::{self, program};
use crate::harness::process::{Helper, free_port};
use crate::harness::wait;
use crate::routing_kit::{Keeper, connect};

const REQUEST: &[u8] = b"GET / HTTP/1.0\r\n\r\n";

/// The body of what is answered there, and who asked.
fn get(to: SocketAddr) -> (String, SocketAddr) {
    let mut client = connect(to);
    let own = client.local_addr().unwrap();
    client.write_all(REQUEST).unwrap();
    let mut answer = String::new();
    client.read_to_string(&mut answer).unwrap();
    let (_, body) = answer.split_once("\r\n\r\n").expect("an answer in HTTP");
    (body.trim_end().to_owned(), own)
}

/// A program with a configuration file, once it answers.
fn run(program: &str, words: &[&str], config: &str, at: SocketAddr) -> (Helper, TempDir) {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("config");
    fs::write(&file, config).unwrap();
    let mut command = Command::new(program);
    command.current_dir(folder.path()).args(words).arg(&file);
    (Helper::start(&mut command).answering(at), folder)
}

fn announcing(server: SocketAddr, version: &str) -> Balancer {
    let pool = format!("send_proxy = \"{version}\"");
    Balancer::start(&Setup::over(&[server]).pool(&pool))
}

#[test]
fn nginx_learns_the_client_from_the_header() {
    let name = "nginx_learns_the_client_from_the_header";
    let Some(nginx) = program("nginx") else {
        return machine::skipped(name, "nginx is not installed");
    };
    let at = free_port();
    let config = format!(
        "daemon off; pid nginx.pid; error_log /dev/null; events {{}}\n\
         http {{ access_log off; server {{ listen {at} proxy_protocol; return 200 \
         \"$proxy_protocol_addr:$proxy_protocol_port $proxy_protocol_server_port\"; }} }}\n"
    );
    let (_nginx, _folder) = run(&nginx, &["-e", "/dev/null", "-p", ".", "-c"], &config, at);
    for version in ["v1", "v2"] {
        let balancer = announcing(at, version);
        let (body, own) = get(balancer.address());
        let port = balancer.address().port();
        assert_eq!(body, format!("{own} {port}"), "{version}");
    }
}

#[test]
fn haproxy_learns_the_client_and_the_number_of_the_log_from_the_header() {
    let name = "haproxy_learns_the_client_and_the_number_of_the_log_from_the_header";
    let Some(haproxy) = program("haproxy") else {
        return machine::skipped(name, "HAProxy is not installed");
    };
    let at = free_port();
    let config = format!(
        "defaults\n  mode http\n  timeout client 20s\n\
         frontend in\n  bind {at} accept-proxy\n  http-request return status 200 \
         content-type text/plain lf-string \"%[src]:%[src_port] %[dst_port] \
         %[fc_pp_unique_id]\"\n"
    );
    let (_haproxy, _folder) = run(&haproxy, &["-db", "-f"], &config, at);
    for version in ["v1", "v2"] {
        let balancer = announcing(at, version);
        let (body, own) = get(balancer.address());
        let id = balancer.record_of(own).text("id").to_owned();
        let port = balancer.address().port();
        assert_eq!(body, format!("{own} {port} {id}").trim_end(), "{version}");
        assert_eq!(id.is_empty(), version == "v1");
    }
}

#[test]
fn the_client_of_haproxy_is_the_client_and_its_checks_are_good_ones() {
    let name = "the_client_of_haproxy_is_the_client_and_its_checks_are_good_ones";
    let Some(haproxy) = program("haproxy") else {
        return machine::skipped(name, "HAProxy is not installed");
    };
    for option in [
        "send-proxy",
        "send-proxy-v2 proxy-v2-options crc32c,unique-id",
    ] {
        let server = Keeper::new("server");
        let setup = Setup::over(&[server.address()])
            .listener("accept_proxy = { from = [\"127.0.0.0/8\"], timeout = \"20s\" }");
        let balancer = Balancer::start(&setup);
        let (at, to) = (free_port(), balancer.address());
        let config = format!(
            "defaults\n  mode tcp\n  timeout connect 5s\n  timeout client 20s\n  timeout server 20s\n\
             frontend in\n  bind {at}\n  unique-id-format %{{+X}}o\\ %ci:%cp\n  default_backend out\n\
             backend out\n  server lbd {to} {option} check inter 200\n"
        );
        let (haproxy, _folder) = run(&haproxy, &["-db", "-f"], &config, at);
        // Those of the helper that waited for the program are clients too.
        wait::until("HAProxy has checked", || balancer.records().len() >= 3);
        for record in balancer.records() {
            assert_ne!(record.termination(), "proxy_header_invalid", "{record:?}");
        }
        let mut client = connect(at);
        let own = client.local_addr().unwrap();
        client.write_all(b"question").unwrap();
        client.shutdown(std::net::Shutdown::Write).unwrap();
        let mut answer = String::new();
        client.read_to_string(&mut answer).unwrap();
        assert_eq!(answer, "server", "{option}");
        let record = balancer.record_of(own);
        assert!(record.text("passed_on_by").starts_with("127.0.0.1:"));
        assert!(
            server.received().contains(&b"question".to_vec()),
            "{option}"
        );
        drop(haproxy);
    }
}
