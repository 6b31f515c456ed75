//! The life of the real binary: start, signals, systemd, end, and what it says on the way.

use std::fs;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::net::UnixDatagram;
use std::process::{Command, Output};
use std::time::Duration;

use rustix::process::Signal;

use crate::harness::balancer::Setup;
use crate::harness::peer::Backend;
use crate::harness::process::{Helper, Process, free_port, read};
use crate::harness::wait;

#[test]
fn term_lets_sessions_end_and_then_exits_with_0() {
    let backend = Backend::echo();
    let mut lbd = Process::start(&Setup::over(&[backend.address]));
    let mut session = Conversation::with(lbd.address);
    lbd.signal(Signal::TERM);
    wait::until("new clients are refused", || {
        TcpStream::connect(lbd.address).is_err()
    });
    session.exchange();
    assert!(lbd.is_alive());
    drop(session);
    assert_eq!(lbd.ended().code(), Some(0));
    // Clients that came while it was being told are among them.
    let records = lbd.records();
    assert!(!records.is_empty());
    assert!(
        records
            .iter()
            .all(|record| record.termination() == "client_closed"),
        "{records:?}"
    );
}

#[test]
fn sessions_that_outlive_the_drain_timeout_are_reset_as_drained() {
    let backend = Backend::echo();
    let setup = Setup::over(&[backend.address]).global("drain_timeout = \"200ms\"");
    let mut lbd = Process::start(&setup);
    let mut session = Conversation::with(lbd.address);
    lbd.signal(Signal::INT);
    assert_eq!(lbd.ended().code(), Some(0));
    assert!(
        session.0.read(&mut [0]).is_err(),
        "a cut session ends by reset"
    );
    assert_eq!(lbd.records()[0].termination(), "drained");
}

#[test]
fn a_second_signal_ends_at_once() {
    let backend = Backend::echo();
    let mut lbd = Process::start(&Setup::over(&[backend.address]));
    let _session = Conversation::with(lbd.address);
    lbd.signal(Signal::TERM);
    wait::until("it drains", || lbd.errors().contains("draining"));
    lbd.signal(Signal::TERM);
    assert_eq!(lbd.ended().code(), Some(0));
}

#[test]
fn hup_takes_new_clients_elsewhere_and_leaves_live_sessions_alone() {
    let (old, new) = (Backend::echo(), Backend::echo());
    let lbd = Process::start(&Setup::over(&[old.address]));
    let mut session = Conversation::with(lbd.address);
    lbd.write_config(&Setup::over(&[new.address]));
    lbd.signal(Signal::HUP);
    wait::until("it was reloaded", || lbd.errors().contains("was reloaded"));
    Conversation::with(lbd.address);
    assert_eq!((old.accepted(), new.accepted()), (1, 1));
    session.exchange();
}

#[test]
fn hup_with_mistakes_changes_nothing_and_shows_every_one_of_them() {
    let backend = Backend::echo();
    let setup = Setup::over(&[backend.address]);
    let lbd = Process::start(&setup);
    lbd.write_config(
        &setup
            .clone()
            .pool("polcy = \"random\"")
            .listener("idle_timeout = \"2 moons\""),
    );
    lbd.signal(Signal::HUP);
    wait::until("it refuses", || lbd.errors().contains("2 mistakes in"));
    let told = lbd.errors();
    assert!(told.contains("the old one stays"), "{told}");
    assert!(told.contains("unknown key `polcy`"), "{told}");
    Conversation::with(lbd.address);
    // A good file afterwards is taken as ever.
    lbd.write_config(&setup);
    lbd.signal(Signal::HUP);
    wait::until("it was reloaded", || lbd.errors().contains("was reloaded"));
    Conversation::with(lbd.address);
}

#[test]
fn hup_opens_a_renamed_access_log_anew() {
    let backend = Backend::echo();
    let lbd = Process::start(&Setup::over(&[backend.address]));
    Conversation::with(lbd.address);
    wait::until("the first line is written", || lbd.records().len() == 1);
    let rotated = lbd.log().with_extension("1");
    fs::rename(lbd.log(), &rotated).unwrap();
    lbd.signal(Signal::HUP);
    wait::until("there is a new file", || lbd.log().exists());
    Conversation::with(lbd.address);
    wait::until("the second line is in the new file", || {
        lbd.records().len() == 1
    });
    assert_eq!(read(&rotated).lines().count(), 1);
}

#[test]
fn systemd_is_told_of_readiness_reloads_and_the_end() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("notify");
    let systemd = UnixDatagram::bind(&path).unwrap();
    systemd.set_read_timeout(Some(wait::PATIENCE)).unwrap();
    let told = || {
        let mut text = [0; 512];
        let count = systemd.recv(&mut text).expect("a message");
        String::from_utf8_lossy(&text[..count])
            .trim_end()
            .to_owned()
    };
    let config = folder.path().join("lb.toml");
    let setup = Setup {
        bind: free_port().to_string(),
        ..Setup::over(&[free_port()])
    };
    fs::write(&config, setup.toml("off")).unwrap();
    let lbd = Helper::start(
        lbd_command()
            .arg("--config")
            .arg(&config)
            .env("NOTIFY_SOCKET", &path),
    );
    let signal = |signal| {
        let pid = rustix::process::Pid::from_child(&lbd.0);
        rustix::process::kill_process(pid, signal).unwrap();
    };
    assert_eq!(told(), "READY=1");
    signal(Signal::HUP);
    let reloading = told();
    let stamp = reloading
        .strip_prefix("RELOADING=1\nMONOTONIC_USEC=")
        .expect(&reloading);
    assert!(
        stamp.parse::<u64>().is_ok_and(|stamp| stamp > 0),
        "{reloading}"
    );
    assert_eq!(told(), "READY=1");
    signal(Signal::TERM);
    assert_eq!(told(), "STOPPING=1");
}

#[test]
fn check_names_every_mistake_and_exits_with_78() {
    let folder = tempfile::tempdir().unwrap();
    let config = folder.path().join("lb.toml");
    let good = Setup {
        bind: "127.0.0.1:8080".to_owned(),
        ..Setup::over(&[free_port()])
    };
    let run = |text: String, flag: &str| {
        fs::write(&config, text).unwrap();
        output(lbd_command().arg("--config").arg(&config).arg(flag))
    };
    let (code, told, _) = run(good.toml("off"), "--check");
    assert_eq!(code, 0, "{told}");
    assert!(told.ends_with("ok (1 listener, 1 pool)\n"), "{told}");

    let bad = good
        .clone()
        .pool("polcy = \"random\"")
        .listener("idle_timeout = 5");
    let (code, _, told) = run(bad.toml("off"), "--check");
    assert_eq!(code, 78);
    assert!(
        told.contains("unknown key `polcy`") && told.contains("idle_timeout"),
        "{told}"
    );
    assert!(told.contains("did you mean `policy`?"), "{told}");
    // Running it says the same.
    assert_eq!(
        run(bad.toml("off"), "--config").0,
        2,
        "an option without its value"
    );
    assert_eq!(output(lbd_command().arg("--config").arg(&config)).0, 78);

    // What is printed is a configuration that prints the same again.
    let (code, printed, _) = run(good.toml("off"), "--print-effective");
    assert_eq!(code, 0);
    assert_eq!(run(printed.clone(), "--print-effective").1, printed);
}

#[test]
fn an_address_that_is_taken_is_named_and_the_exit_code_is_1() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap();
    let folder = tempfile::tempdir().unwrap();
    let config = folder.path().join("lb.toml");
    let setup = Setup {
        bind: address.to_string(),
        ..Setup::over(&[free_port()])
    };
    fs::write(&config, setup.toml("off")).unwrap();
    let (code, _, told) = output(lbd_command().arg("--config").arg(&config));
    assert_eq!(code, 1);
    let wanted = format!("listener \"in\" cannot listen on {address}");
    assert!(told.contains(&wanted), "{told}");
}

#[test]
fn more_connections_than_descriptors_is_an_error_at_the_start() {
    let folder = tempfile::tempdir().unwrap();
    let config = folder.path().join("lb.toml");
    let setup = Setup {
        bind: free_port().to_string(),
        ..Setup::over(&[free_port()])
    };
    // Beyond fs.nr_open, which no process can exceed.
    fs::write(
        &config,
        setup.global("max_connections = 2000000000").toml("off"),
    )
    .unwrap();
    let (code, _, told) = output(lbd_command().arg("--config").arg(&config));
    assert_eq!(code, 1);
    assert!(told.contains("max_connections = 2000000000"), "{told}");
    assert!(told.contains("LimitNOFILE"), "{told}");
}

#[test]
fn wrong_usage_exits_with_2() {
    assert_eq!(output(lbd_command().arg("--cofnig")).0, 2);
    assert_eq!(output(&mut lbd_command()).0, 2);
    let (code, version, _) = output(lbd_command().arg("--version"));
    assert_eq!(
        (code, version),
        (0, format!("lbd {}\n", env!("CARGO_PKG_VERSION")))
    );
}

/// A client that has exchanged a byte with its backend.
struct Conversation(TcpStream);

impl Conversation {
    fn with(balancer: SocketAddr) -> Conversation {
        let socket = TcpStream::connect(balancer).unwrap();
        socket
            .set_read_timeout(Some(Duration::from_secs(20)))
            .unwrap();
        let mut this = Conversation(socket);
        this.exchange();
        this
    }

    fn exchange(&mut self) {
        let mut byte = [0];
        self.0.write_all(b"x").unwrap();
        self.0.read_exact(&mut byte).unwrap();
        assert_eq!(&byte, b"x");
    }
}

fn lbd_command() -> Command {
    Command::new(env!("CARGO_BIN_EXE_lbd"))
}

/// Exit code, standard output, standard error.
fn output(command: &mut Command) -> (i32, String, String) {
    let Output {
        status,
        stdout,
        stderr,
    } = command.output().unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    (
        status.code().expect("an exit code"),
        text(stdout),
        text(stderr),
    )
}
