//! Real clients: those of OpenSSL and curl.

use std::io::{BufRead, BufReader, Read, Write};
use std::process::{Command, Stdio};

use super::Bench;
use crate::harness::peer::Backend;
use crate::harness::sockets;

fn is_here(program: &str) -> bool {
    let found = Command::new(program).arg("--help").output().is_ok();
    if !found {
        eprintln!("skipped: there is no {program}");
    }
    found
}

#[test]
fn openssl_speaks_both_versions_and_resumes() {
    if !is_here("openssl") {
        return;
    }
    let bench = Bench::echo();
    let session = bench.authority.folder().join("session");
    for version in ["-tls1_3", "-tls1_2"] {
        for (option, kind) in [("-sess_out", "New, "), ("-sess_in", "Reused, ")] {
            let mut child = Command::new("timeout")
                .args(["30", "openssl", "s_client", version])
                .arg("-verify_return_error")
                .args(["-servername", "web.test", "-connect"])
                .arg(bench.balancer.address().to_string())
                .arg("-CAfile")
                .arg(bench.authority.ca())
                .arg(option)
                .arg(&session)
                .stdin(Stdio::piped())
                .stdout(Stdio::piped())
                .stderr(Stdio::null())
                .spawn()
                .unwrap();
            let mut input = child.stdin.take().unwrap();
            let output = BufReader::new(child.stdout.take().unwrap());
            input.write_all(b"a line\n").unwrap();
            let mut said = String::new();
            for line in output.lines() {
                let line = line.unwrap();
                said += &format!("{line}\n");
                if line == "a line" {
                    break;
                }
            }
            // The end of its input is the end of it.
            drop(input);
            child.wait().unwrap();
            assert!(said.ends_with("a line\n"), "{said}");
            assert!(said.contains(kind), "{version} {option}: {said}");
            assert!(said.contains("Verify return code: 0"), "{said}");
        }
    }
}

#[test]
fn curl_gets_a_page_and_its_connection_is_used_again() {
    if !is_here("curl") {
        return;
    }
    let listener = sockets::listen_with(sockets::Options::default());
    let backend = Backend::serving(listener, |socket| {
        let mut reader = BufReader::new(socket);
        loop {
            let mut head = String::new();
            while !head.ends_with("\r\n\r\n") {
                if reader.read_line(&mut head).unwrap_or(0) == 0 {
                    return;
                }
            }
            let answer = b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\npage\n";
            if reader.get_mut().write_all(answer).is_err() {
                return;
            }
        }
    });
    let bench = Bench::over(backend.address, "alpn = [\"http/1.1\"]");
    let port = bench.balancer.address().port();
    let url = format!("https://web.test:{port}/");
    let mut child = Command::new("curl")
        .args([
            "--silent",
            "--show-error",
            "--noproxy",
            "*",
            "--max-time",
            "20",
        ])
        .args(["--resolve", &format!("web.test:{port}:127.0.0.1")])
        .arg("--cacert")
        .arg(bench.authority.ca())
        .args([&url, &url])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut errors = String::new();
    let output = child.stderr.take().unwrap().read_to_string(&mut errors);
    output.unwrap();
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.stdout, b"page\npage\n", "{errors}");
    let record = bench.balancer.only_record();
    assert_eq!(record.termination(), "client_closed");
    assert_eq!(record.text("alpn"), "http/1.1");
}
