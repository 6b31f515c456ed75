//! What operators ask of a running process: by its commands, by its socket, by TCP.

use std::fs;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::{Command, Output};
use std::time::{Duration, Instant};

use lbd::admin::ask::{BackendSpec, Wanted, WantedState};
use rustix::process::Signal;
use serde_json::Value;

use crate::harness::balancer::{Balancer, Setup};
use crate::harness::peer::Backend;
use crate::harness::process::{Process, free_port};
use crate::harness::wait;

/// A process with an admin socket and an admin address.
struct Stage {
    lbd: Process,
    setup: Setup,
    socket: PathBuf,
    admin: SocketAddr,
    _folder: tempfile::TempDir,
}

impl Stage {
    fn over(backends: &[SocketAddr]) -> Stage {
        let folder = tempfile::tempdir().unwrap();
        let socket = folder.path().join("private/admin.sock");
        let admin = free_port();
        let mut setup = Setup::over(backends);
        setup.more = format!("[admin]\nbind = \"{admin}\"\nsocket = {socket:?}\n");
        Stage {
            lbd: Process::start(&setup),
            setup,
            socket,
            admin,
            _folder: folder,
        }
    }

    /// `lbd ARGUMENTS --admin SOCKET`
    fn run(&self, arguments: &[&str]) -> Output {
        let mut command = Command::new(env!("CARGO_BIN_EXE_lbd"));
        let command = command.args(arguments).arg("--admin").arg(&self.socket);
        command.output().unwrap()
    }

    /// What a command that does what it should says.
    #[track_caller]
    fn says(&self, arguments: &[&str]) -> String {
        let output = self.run(arguments);
        let errors = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!((output.status.code(), &*errors), (Some(0), ""));
        String::from_utf8(output.stdout).unwrap()
    }

    /// What a command that fails says.
    #[track_caller]
    fn fails(&self, arguments: &[&str], code: i32) -> String {
        let output = self.run(arguments);
        assert_eq!(output.status.code(), Some(code), "{output:?}");
        assert!(output.stdout.is_empty(), "{output:?}");
        String::from_utf8(output.stderr).unwrap()
    }

    fn state(&self) -> Value {
        serde_json::from_str(&self.says(&["status", "--json"])).unwrap()
    }

    fn backend(&self, index: usize) -> Value {
        self.state()["pools"][0]["backends"][index].clone()
    }

    /// The answer's status and body to a request by TCP.
    fn get(&self, path: &str) -> (u16, String) {
        let mut stream = TcpStream::connect(self.admin).unwrap();
        get(&mut stream, path)
    }
}

fn get(stream: &mut (impl Read + Write), path: &str) -> (u16, String) {
    write!(
        stream,
        "GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
    )
    .unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    (head[9..12].parse().unwrap(), body.to_owned())
}

/// A connection that an echo answers through the balancer.
fn echo(address: SocketAddr) -> TcpStream {
    let mut stream = TcpStream::connect(address).unwrap();
    stream.write_all(b"x").unwrap();
    stream.read_exact(&mut [0]).unwrap();
    stream
}

#[test]
fn every_command_does_what_it_says() {
    let (a, b, c) = (Backend::echo(), Backend::echo(), Backend::echo());
    let stage = Stage::over(&[a.address, b.address]);
    drop(echo(stage.lbd.address));
    let table = stage.says(&["status"]);
    assert!(
        table.contains("LISTENER") && table.contains("POOL out (round_robin)"),
        "{table}"
    );

    let said = stage.says(&["drain", "out/b0", "--reason", "disk is full"]);
    assert_eq!(said, "out/b0: drain, weight 1, 0 connections\n");
    let change = &stage.backend(0)["change"];
    assert_eq!(
        (&change["state"], &change["reason"]),
        (&"drain".into(), &"disk is full".into())
    );
    assert!(change["by"].as_str().unwrap().contains("uid"), "{change}");
    assert!(stage.says(&["status"]).contains("disk is full"));
    let printed = Command::new(env!("CARGO_BIN_EXE_lbd"))
        .args(["--print-effective", "--config"])
        .arg(stage.lbd.folder().join("lb.toml"))
        .output()
        .unwrap();
    let printed = String::from_utf8(printed.stdout).unwrap();
    assert!(printed.contains("\n# out/b0: drain by "), "{printed}");
    let _still_toml: toml::Table = printed.parse().unwrap();
    let before = b.accepted();
    (0..4).for_each(|_| drop(echo(stage.lbd.address)));
    assert_eq!(b.accepted(), before + 4);

    assert_eq!(
        stage.says(&["maintenance", "out/b1"]),
        "out/b1: maintenance, weight 1, 0 connections\n"
    );
    assert!(stage.says(&["ready", "out/b0"]).starts_with("out/b0: up"));
    assert!(stage.says(&["ready", "out/b1"]).starts_with("out/b1: up"));
    assert_eq!(stage.backend(0)["change"], Value::Null);
    assert!(
        stage
            .says(&["weight", "out/b1", "0"])
            .starts_with("out/b1: drain, weight 0")
    );

    let new = format!("c={}", c.address);
    assert!(
        stage
            .says(&["backend", "add", "out", &new, "--weight", "9"])
            .starts_with("out/c: up, weight 9")
    );
    (0..20).for_each(|_| drop(echo(stage.lbd.address)));
    assert_eq!(c.accepted(), 18, "nine of ten");
    assert_eq!(
        stage.says(&["backend", "remove", "out/c"]),
        "out/c: removed\n"
    );
    assert_eq!(
        stage.says(&["backend", "remove", "out/b1"]),
        "out/b1: removed\n"
    );
    let state = stage.state();
    assert_eq!(state["pools"][0]["backends"].as_array().unwrap().len(), 1);
    assert_eq!(state["pools"][0]["removed"][0]["name"], "b1");
    let back = format!("b1={}", b.address);
    stage.says(&["backend", "add", "out", &back]);
    assert_eq!(stage.state()["pools"][0]["removed"], Value::Array(vec![]));
}

#[test]
fn mistakes_are_told_with_what_would_be_right() {
    let a = Backend::echo();
    let stage = Stage::over(&[a.address]);
    for (arguments, code, why) in [
        (
            &["drain", "out/zz"][..],
            1,
            "has no backend \"zz\"; it has: b0",
        ),
        (
            &["drain", "web/b0"],
            1,
            "there is no pool \"web\"; there are: out",
        ),
        (&["drain", "b0"], 2, "is not POOL/BACKEND, such as web/a"),
        (&["weight", "out/b0", "70000"], 2, "70000"),
        (&["backend", "add", "out", "c"], 2, "is not NAME=ADDR"),
        (&["backend", "add", "out", "c=10.0.0.1"], 1, "has no port"),
        (
            &["backend", "add", "out", "b0=10.0.0.1:80"],
            1,
            "there is a backend out/b0 already",
        ),
    ] {
        let said = stage.fails(arguments, code);
        assert!(said.contains(why), "{said}");
    }
    let nobody = Command::new(env!("CARGO_BIN_EXE_lbd"))
        .args(["status", "--admin", "/nowhere/admin.sock"])
        .output()
        .unwrap();
    assert_eq!(nobody.status.code(), Some(1));
    let said = String::from_utf8_lossy(&nobody.stderr).into_owned();
    assert!(
        said.contains("no lbd answers at /nowhere/admin.sock") && said.contains("hint"),
        "{said}"
    );
}

#[test]
fn a_reload_by_command_says_what_it_changes_and_whom_it_touches() {
    let (a, b) = (Backend::echo(), Backend::echo());
    let stage = Stage::over(&[a.address]);
    let _session = echo(stage.lbd.address);
    let newer = Setup {
        more: stage.setup.more.clone(),
        ..Setup::over(&[b.address]).listener("idle_timeout = \"1m\"")
    };
    stage.lbd.write_config(&newer);
    let told = stage.says(&["reload", "--dry-run"]);
    assert!(
        told.contains("~ listener \"in\": 1 live connection: go on as they began"),
        "{told}"
    );
    assert!(
        told.contains("~ backend \"out/b0\": 1 live connection: end within 300s"),
        "{told}"
    );
    assert!(told.contains("idle_timeout: \"10m\" -> \"1m\""), "{told}");
    assert!(told.ends_with("2 things would change\n"), "{told}");
    drop(echo(stage.lbd.address));
    assert_eq!(b.accepted(), 0, "nothing has changed");
    assert!(stage.says(&["reload"]).ends_with("2 things changed\n"));
    drop(echo(stage.lbd.address));
    assert_eq!(b.accepted(), 1);
    assert_eq!(stage.says(&["reload"]), "reloaded; nothing has changed\n");

    let broken = Setup {
        pool: "polcy = \"random\"\n".to_owned(),
        ..newer
    };
    stage.lbd.write_config(&broken);
    for arguments in [&["reload", "--dry-run"][..], &["reload"]] {
        let said = stage.fails(arguments, 1);
        assert!(said.contains("did you mean `policy`?"), "{said}");
    }
    let reloads = &stage.state()["reloads"];
    assert_eq!(
        (&reloads["succeeded"], &reloads["failed"]),
        (&2.into(), &1.into())
    );
    assert!(stage.says(&["status"]).contains("! the last reload failed"));
    drop(echo(stage.lbd.address));
}

#[test]
fn runtime_changes_outlive_reloads_and_go_when_the_file_says_otherwise() {
    let (a, b, c) = (Backend::echo(), Backend::echo(), Backend::echo());
    let setup = Setup::over(&[a.address, b.address]);
    let balancer = Balancer::start(&setup);
    let drain = Wanted {
        state: Some(WantedState::Drain),
        ..Wanted::default()
    };
    let weight = Wanted {
        weight: Some(4),
        ..Wanted::default()
    };
    let spec = BackendSpec {
        address: c.address.to_string(),
        weight: 1,
        priority: 0,
        cost: 0.0,
        max_connections: 0,
        reason: String::new(),
    };
    balancer.change("b0", drain).unwrap();
    balancer.change("b1", weight).unwrap();
    balancer.add("c", spec).unwrap();
    for _ in 0..2 {
        let state = balancer.state();
        let shown = state.pools[0].backends.iter();
        let shown: Vec<_> = shown
            .map(|one| (&*one.name, one.state.as_str(), one.weight))
            .collect();
        assert_eq!(shown, [("b0", "drain", 1), ("b1", "up", 4), ("c", "up", 1)]);
        let dropped = balancer.reload(&setup).unwrap().dropped;
        assert_eq!(dropped, [""; 0]);
    }
    let newer = Setup::over(&[a.address]);
    let dropped = balancer.reload(&newer).unwrap().dropped;
    assert_eq!(dropped.len(), 1, "{dropped:?}");
    assert!(
        dropped[0].starts_with("out/b1: weight 4 by a test"),
        "{dropped:?}"
    );
    balancer.remove("c").unwrap();
    assert!(balancer.remove("c").is_err());
    assert_eq!(balancer.state().pools[0].backends.len(), 1);
}

#[test]
fn sessions_are_listed_by_what_is_asked_and_ended_by_reset() {
    let (a, b) = (Backend::echo(), Backend::echo());
    let stage = Stage::over(&[a.address, b.address]);
    let mut clients: Vec<TcpStream> = (0..6).map(|_| echo(stage.lbd.address)).collect();
    let list = |more: &[&str]| -> Value {
        let arguments = [&["sessions", "--json"][..], more].concat();
        serde_json::from_str(&stage.says(&arguments)).unwrap()
    };
    let count = |more: &[&str]| list(more)["sessions"].as_array().unwrap().len();
    assert_eq!(count(&[]), 6);
    assert_eq!(count(&["--backend", "out/b0"]), 3);
    assert_eq!(count(&["--backend", "out/zz"]), 0);
    assert_eq!(
        count(&["--client", "127.0.0.1", "--listener", "in", "--pool", "out"]),
        6
    );
    assert_eq!(count(&["--client", "127.0.0.2"]), 0);
    assert_eq!(count(&["--idle", "3600"]), 0);
    let few = list(&["--limit", "2"]);
    assert_eq!(
        (few["sessions"].as_array().unwrap().len(), &few["truncated"]),
        (2, &true.into())
    );
    let one = &list(&[])["sessions"][0];
    assert_eq!(
        (&one["phase"], &one["bytes_to_client"], &one["path"]),
        (&"relay".into(), &1.into(), &"copy".into())
    );
    let table = stage.says(&["sessions"]);
    assert!(
        table.contains("CLIENT") && table.contains("out/b1"),
        "{table}"
    );

    assert!(
        stage
            .fails(&["sessions", "--kill"], 1)
            .contains("which sessions?")
    );
    assert!(
        stage
            .fails(&["sessions", "--id", "x"], 1)
            .contains("is not the id of a session")
    );
    let id = one["id"].as_str().unwrap();
    assert!(
        stage
            .says(&["sessions", "--kill", "--id", id])
            .ends_with("1 ended\n")
    );
    assert!(
        stage
            .says(&["sessions", "--kill", "--id", id])
            .ends_with("0 ended\n"),
        "never another one"
    );
    assert!(
        stage
            .says(&["sessions", "--kill", "--pool", "out"])
            .ends_with("5 ended\n")
    );
    for client in &mut clients {
        assert!(client.read(&mut [0]).is_err(), "by reset");
    }
    wait::until("all records are written", || stage.lbd.records().len() == 6);
    assert!(
        stage
            .lbd
            .records()
            .iter()
            .all(|one| one.termination() == "killed")
    );
}

#[test]
fn the_socket_is_for_its_owner_and_goes_with_the_process() {
    let a = Backend::echo();
    let mut stage = Stage::over(&[a.address]);
    let mode = |path: &std::path::Path| fs::symlink_metadata(path).unwrap().permissions().mode();
    assert_eq!(mode(&stage.socket) & 0o777, 0o600);
    assert_eq!(mode(stage.socket.parent().unwrap()) & 0o777, 0o700);
    let drafts = fs::read_dir(stage.socket.parent().unwrap())
        .unwrap()
        .count();
    assert_eq!(drafts, 1, "only the socket itself");
    stage.lbd.signal(Signal::TERM);
    assert_eq!(stage.lbd.ended().code(), Some(0));
    assert!(!stage.socket.exists());
}

#[test]
fn a_socket_that_nobody_answers_on_is_replaced_and_a_live_one_is_not() {
    let a = Backend::echo();
    let mut stage = Stage::over(&[a.address]);
    let file = stage.lbd.folder().join("second.toml");
    fs::write(&file, stage.setup.toml("off")).unwrap();
    let mut second = Command::new(env!("CARGO_BIN_EXE_lbd"));
    let second = second.arg("--config").arg(&file).output().unwrap();
    let told = String::from_utf8_lossy(&second.stderr).into_owned();
    assert_eq!(second.status.code(), Some(1), "{told}");
    assert!(
        told.contains("admin socket") && told.contains("in use"),
        "{told}"
    );
    stage.lbd.signal(Signal::KILL);
    stage.lbd.ended();
    assert!(
        stage
            .socket
            .symlink_metadata()
            .unwrap()
            .file_type()
            .is_socket()
    );
    let again = Process::start(&stage.setup);
    stage.says(&["status"]);
    drop(again);
}

#[test]
fn the_socket_answers_whoever_crowds_the_address() {
    let a = Backend::echo();
    let stage = Stage::over(&[a.address]);
    let crowd: Vec<TcpStream> = (0..300)
        .map(|_| TcpStream::connect(stage.admin).unwrap())
        .collect();
    let begin = Instant::now();
    let mut stream = UnixStream::connect(&stage.socket).unwrap();
    assert_eq!(get(&mut stream, "/healthz"), (200, "ok\n".to_owned()));
    assert!(begin.elapsed() < Duration::from_secs(1));
    drop(echo(stage.lbd.address));
    drop(crowd);
    wait::until("the address answers again", || {
        let mut stream = TcpStream::connect(stage.admin).unwrap();
        let _ = write!(
            stream,
            "GET /healthz HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
        );
        let mut answer = String::new();
        stream.read_to_string(&mut answer).is_ok() && answer.ends_with("ok\n")
    });
}

#[test]
fn garbage_and_endless_headers_are_refused() {
    let a = Backend::echo();
    let stage = Stage::over(&[a.address]);
    let endless = format!("GET / HTTP/1.1\r\nX: {}", "x".repeat(1 << 20));
    for bytes in [
        &[0xff; 4096][..],
        endless.as_bytes(),
        b"\x16\x03\x01\x02\x00\x01",
    ] {
        let mut stream = UnixStream::connect(&stage.socket).unwrap();
        // Refused before all of it is taken, perhaps.
        let _ = stream.write_all(bytes);
        let _ = stream.shutdown(std::net::Shutdown::Write);
        let mut answer = Vec::new();
        let _ = stream.read_to_end(&mut answer);
        let refused = answer.is_empty() || answer.starts_with(b"HTTP/1.1 4");
        assert!(refused, "{}", String::from_utf8_lossy(&answer));
    }
    stage.says(&["status"]);
}

#[test]
fn readiness_ends_with_the_drain_and_liveness_does_not() {
    let a = Backend::echo();
    let stage = Stage::over(&[a.address]);
    assert_eq!(stage.get("/readyz"), (200, "ready\n".to_owned()));
    let session = echo(stage.lbd.address);
    stage.lbd.signal(Signal::TERM);
    wait::until("it is not ready any more", || stage.get("/readyz").0 == 503);
    assert_eq!(stage.get("/healthz").0, 200);
    drop(session);
}

/// Where it is installed.
fn check_by_promtool(text: &str) {
    let tool = Command::new("promtool")
        .args(["check", "metrics"])
        .stdin(std::process::Stdio::piped())
        .stdout(std::process::Stdio::piped())
        .stderr(std::process::Stdio::piped())
        .spawn();
    let Ok(mut tool) = tool else {
        return println!("promtool is not installed: its check is skipped");
    };
    tool.stdin
        .take()
        .unwrap()
        .write_all(text.as_bytes())
        .unwrap();
    let output = tool.wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(!said.contains("error while linting"), "{said}");
    assert_ne!(output.status.code(), Some(1), "{said}");
}

#[test]
fn what_is_counted_is_what_happened() {
    let a = Backend::echo();
    let refusing = TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap();
    let stage = Stage::over(&[a.address, refusing]);
    (0..10).for_each(|_| drop(echo(stage.lbd.address)));
    let value = |text: &str, series: &str| -> f64 {
        let line = text
            .lines()
            .find_map(|line| line.strip_prefix(series)?.strip_prefix(' '));
        line.unwrap_or_else(|| panic!("no {series} in {text}"))
            .parse()
            .unwrap()
    };
    let backend = "{pool=\"out\",backend=\"b0\"}";
    wait::until("all sessions are counted", || {
        let (_, text) = stage.get("/metrics");
        let ended =
            "lbd_sessions_ended_total{listener=\"in\",pool=\"out\",termination=\"client_closed\"}";
        let active = "lbd_connections_active{listener=\"in\"}";
        text.contains(ended) && value(&text, ended) == 10.0 && value(&text, active) == 0.0
    });
    let (status, text) = stage.get("/metrics");
    assert_eq!(status, 200);
    for (series, is) in [
        ("lbd_connections_total{listener=\"in\"}".to_owned(), 10.0),
        ("lbd_connections_active{listener=\"in\"}".to_owned(), 0.0),
        (format!("lbd_backend_connections_total{backend}"), 10.0),
        (format!("lbd_connect_seconds_count{backend}"), 10.0),
        (format!("lbd_first_byte_seconds_count{backend}"), 10.0),
        (format!("lbd_session_seconds_count{backend}"), 10.0),
        (
            "lbd_backend_bytes_total{pool=\"out\",backend=\"b0\",direction=\"to_backend\"}"
                .to_owned(),
            10.0,
        ),
        ("lbd_relay_bytes_total{path=\"copy\"}".to_owned(), 20.0),
    ] {
        assert_eq!(value(&text, &series), is, "{series}");
    }
    let failed = "lbd_backend_connect_failures_total{pool=\"out\",backend=\"b1\"}";
    assert!(value(&text, failed) >= 1.0);
    check_by_promtool(&text);
    let recent = &stage.backend(0)["recent"];
    assert!(
        recent["connections_per_s"].as_f64().unwrap() > 0.0,
        "{recent}"
    );
    assert!(
        recent["first_byte"]["p99_ms"].as_f64().unwrap() > 0.0,
        "{recent}"
    );
}
