//! Probes against backends that answer badly, and what probing leaves behind (D10 and D11 of the
//! fault catalogue).

use std::io::{Read, Write};
use std::net::TcpStream;
use std::thread;
use std::time::Duration;

use lbd::balance::backend::State;

use crate::harness::balancer::{Balancer, Setup};
use crate::harness::child;
use crate::harness::machine::{descriptors, resident_bytes, threads};
use crate::harness::peer::Backend;
use crate::harness::sockets::{self, Options};
use crate::harness::wait;

const HTTP: &str = "[pool.health]\nprobe = \"http\"\nexpect_body = \"fine\"\ninterval = \"60ms\"\n\
                    fast_interval = \"60ms\"\ndown_interval = \"60ms\"\ntimeout = \"300ms\"\n\
                    rise = 1\nfall = 1\n";

fn state(balancer: &Balancer) -> State {
    balancer.state().pools[0].backends[0].state
}

fn answering(serve: fn(&mut TcpStream)) -> Backend {
    Backend::serving(
        sockets::listen_with(Options::default()),
        move |mut socket| {
            let _ = socket.read(&mut [0; 1024]);
            serve(&mut socket);
        },
    )
}

#[test]
fn probes_answered_without_end_or_by_single_bytes_fail_in_time_and_hold_no_memory() {
    let name =
        "health::probes_answered_without_end_or_by_single_bytes_fail_in_time_and_hold_no_memory";
    child::alone(name, || {
        let endless: fn(&mut TcpStream) = |socket| {
            let _ = socket.write_all(b"HTTP/1.1 200 OK\r\n\r\n");
            while socket.write_all(&[b'x'; 64 * 1024]).is_ok() {}
        };
        let headers: fn(&mut TcpStream) = |socket| {
            let _ = socket.write_all(b"HTTP/1.1 200 OK\r\n");
            while socket.write_all(b"X-More: and more\r\n").is_ok() {}
        };
        let dribble: fn(&mut TcpStream) = |socket| {
            for byte in b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nfine" {
                if socket.write_all(&[*byte]).is_err() {
                    return;
                }
                thread::sleep(Duration::from_millis(50));
            }
        };
        let silent: fn(&mut TcpStream) = |socket| {
            let _ = socket.read(&mut [0]);
        };
        let scripted = HTTP.replace("http", "send_expect").replace(
            "expect_body = \"fine\"",
            "expect = 'HTTP/1.1 200 OK\\r\\nContent-Length: 5'",
        );
        let asking = format!("{scripted}send = 'x'\n");
        for (health, serve) in [
            (HTTP, endless),
            (HTTP, headers),
            (HTTP, dribble),
            (HTTP, silent),
            (&asking, endless),
            (&asking, dribble),
            (&asking, silent),
        ] {
            let backend = answering(serve);
            let balancer = Balancer::start(&Setup::over(&[backend.address]).pool(health));
            wait::until("it is found down", || state(&balancer) == State::Down);
            let memory = resident_bytes("self");
            let probes = backend.accepted();
            wait::until("more probes were made", || backend.accepted() > probes + 4);
            assert_eq!(state(&balancer), State::Down);
            let grown = resident_bytes("self").saturating_sub(memory);
            assert!(grown < 8 << 20, "{grown} bytes");
        }
    });
}

#[test]
fn a_thousand_probes_leave_no_descriptor_thread_or_waiting_socket() {
    let name = "health::a_thousand_probes_leave_no_descriptor_thread_or_waiting_socket";
    child::alone(name, || {
        let fine: fn(&mut TcpStream) = |socket| {
            let _ = socket.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nfine");
            let _ = socket.read(&mut [0; 16]);
        };
        let backend = answering(fine);
        let many = HTTP.replace("\"60ms\"", "\"10ms\"");
        let scripted = many.replace("\"http\"", "\"send_expect\"").replace(
            "expect_body = \"fine\"",
            "send = 'x'\nexpect = 'HTTP/1.1 200'",
        );
        let more = format!(
            "[[pool]]\nname = \"more\"\n{scripted}[[pool.backend]]\naddress = \"{}\"\n",
            backend.address
        );
        let mut setup = Setup::over(&[backend.address]).pool(&many);
        setup.more = more;
        let balancer = Balancer::start(&setup);
        wait::until("both are found up", || {
            let state = balancer.state();
            state
                .pools
                .iter()
                .all(|pool| pool.backends[0].state == State::Up)
        });
        let before = (descriptors("self"), threads("self"));
        let probes = backend.accepted();
        wait::until("two thousand were made", || {
            backend.accepted() > probes + 2000
        });
        // One of each may be under way at either look.
        wait::until("descriptors and threads are as before", || {
            let (now, of_threads) = (descriptors("self"), threads("self"));
            now <= before.0 && of_threads <= before.1
        });
        assert_eq!(state(&balancer), State::Up);
        let table = std::fs::read_to_string("/proc/net/tcp").unwrap();
        let port = format!(":{:04X} ", backend.address.port());
        let waiting = table.lines().filter(|line| {
            let fields: Vec<&str> = line.split_whitespace().collect();
            line.contains(&port) && fields.get(3) == Some(&"06")
        });
        let waiting = waiting.count();
        assert!(waiting < 10, "{waiting} sockets in TIME_WAIT");
    });
}

#[test]
fn a_hundred_programs_leave_no_descriptor_thread_or_dead_process() {
    let name = "health::a_hundred_programs_leave_no_descriptor_thread_or_dead_process";
    child::alone(name, || {
        let folder = tempfile::tempdir().unwrap();
        let count = folder.path().join("count");
        // Half of them end by themselves, half are killed at the timeout, all leave one behind.
        let script = format!(
            "echo x >> {0}; sleep 1000 & test $(($(wc -l < {0}) % 2)) = 0 || sleep 1000",
            count.display()
        );
        let health = HTTP
            .replace("\"http\"", "\"exec\"")
            .replace(
                "expect_body = \"fine\"",
                &format!("command = [\"/bin/sh\", \"-c\", {script:?}]"),
            )
            .replace("\"60ms\"", "\"10ms\"")
            .replace("\"300ms\"", "\"30ms\"");
        let backend = Backend::echo();
        let balancer = Balancer::start(&Setup::over(&[backend.address]).pool(&health));
        let run = || std::fs::read(&count).map_or(0, |lines| lines.len() / 2);
        wait::until("some were run", || run() > 10);
        let before = (descriptors("self"), threads("self"));
        wait::until("a hundred were run", || run() > 110);
        wait::until("descriptors and threads are as before", || {
            let (now, of_threads) = (descriptors("self"), threads("self"));
            now <= before.0 && of_threads <= before.1
        });
        balancer.reload(&Setup::over(&[backend.address])).unwrap();
        wait::until("no child is left, dead or alive", || {
            let of_thread = |task: std::io::Result<std::fs::DirEntry>| {
                let path = task.unwrap().path().join("children");
                std::fs::read_to_string(path).unwrap_or_default()
            };
            let children: String = std::fs::read_dir("/proc/self/task")
                .unwrap()
                .map(of_thread)
                .collect();
            children.trim().is_empty()
        });
        assert_eq!(backend.accepted(), 0, "programs are not connections");
    });
}
