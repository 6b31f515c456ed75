//! Each kind of probe, agents and flapping, seen from outside: real programs, scripted servers.

use std::fs;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::process::Command;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::SeqCst;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use lbd::admin::state::LastProbe;
use lbd::balance::backend::{State, Wish};
use rustix::io::{FdFlags, fcntl_setfd};
use rustix::process::{Pid, Signal, kill_process};

use crate::harness::balancer::{Balancer, Setup};
use crate::harness::child;
use crate::harness::machine::{self, program};
use crate::harness::peer::Backend;
use crate::harness::process::{Helper, Process, free_port};
use crate::harness::sockets::{self, Options, Refusing};
use crate::harness::wait;

const QUICK: &str = "interval = \"20ms\"\nfast_interval = \"20ms\"\ndown_interval = \"20ms\"\n";

fn over(backend: SocketAddr, health: &str) -> Setup {
    Setup::over(&[backend]).pool(&format!("[pool.health]\n{QUICK}{health}"))
}

fn state(balancer: &Balancer) -> State {
    balancer.state().pools[0].backends[0].state
}

fn last(balancer: &Balancer) -> Option<LastProbe> {
    balancer.state().pools[0].backends[0].last_probe.clone()
}

#[track_caller]
fn becomes(balancer: &Balancer, expected: State) {
    wait::until(&format!("it is {expected}"), || state(balancer) == expected);
}

/// Waits until the latest probe says so.
#[track_caller]
fn says(balancer: &Balancer, detail: &str) {
    let mut seen = None;
    let found = wait::within(Duration::from_secs(20), || {
        seen = last(balancer).map(|last| last.detail);
        (seen.as_deref() == Some(detail)).then_some(())
    });
    assert!(found.is_some(), "{seen:?} instead of {detail:?}");
}

fn redis(more: &[&str]) -> Option<(Helper, SocketAddr, tempfile::TempDir)> {
    let server = program("redis-server")?;
    let (at, folder) = (free_port(), tempfile::tempdir().unwrap());
    let port = at.port().to_string();
    let mut command = Command::new(server);
    command
        .args(["--bind", "127.0.0.1", "--port", &port, "--save", ""])
        .args(more)
        .arg("--dir")
        .arg(folder.path());
    Some((Helper::start(&mut command).answering(at), at, folder))
}

fn signal(helper: &Helper, signal: Signal) {
    kill_process(Pid::from_raw(helper.0.id() as i32).unwrap(), signal).unwrap();
}

const PING: &str = "probe = \"send_expect\"\nsend = 'PING\\r\\n'\nexpect = '+PONG\\r\\n'\n\
                    timeout = \"300ms\"\n";

#[test]
fn redis_is_asked_and_one_that_wants_a_password_is_down() {
    let name = "redis_is_asked_and_one_that_wants_a_password_is_down";
    let Some((_redis, at, _folder)) = redis(&[]) else {
        return machine::skipped(name, "Redis is not installed");
    };
    let balancer = Balancer::start(&over(at, PING));
    becomes(&balancer, State::Up);
    says(&balancer, "got +PONG\\r\\n");

    let (_redis, at, _folder) = redis(&["--requirepass", "secret"]).unwrap();
    let balancer = Balancer::start(&over(at, PING));
    becomes(&balancer, State::Down);
    says(&balancer, "byte 1 is 0x2d '-', expected 0x2b '+'");
    let steps = "probe = \"send_expect\"\nsteps = [{ send = 'AUTH secret\\r\\n', expect = '+OK\\r\\n' }, \
                 { send = 'PING\\r\\n', expect = '+PONG\\r\\n' }]\n";
    let balancer = Balancer::start(&over(at, steps));
    becomes(&balancer, State::Up);
    let wrong = steps.replace("secret", "guess");
    let balancer = Balancer::start(&over(at, &wrong));
    says(&balancer, "step 1: byte 1 is 0x2d '-', expected 0x2b '+'");
}

/// D2 of the fault catalogue.
#[test]
fn a_stopped_server_is_seen_by_probes_that_ask_and_not_by_one_that_only_connects() {
    let name = "a_stopped_server_is_seen_by_probes_that_ask";
    let (Some((server, at, _folder)), Some(python)) = (redis(&[]), program("python3")) else {
        return machine::skipped(name, "Redis or Python is not installed");
    };
    let web_at = free_port();
    let port = web_at.port().to_string();
    let folder = tempfile::tempdir().unwrap();
    let web = Helper::start(
        Command::new(python)
            .args([
                "-m",
                "http.server",
                "--bind",
                "127.0.0.1",
                &port,
                "--directory",
            ])
            .arg(folder.path()),
    )
    .answering(web_at);
    let blind = Balancer::start(&over(at, "probe = \"tcp\"\ntimeout = \"300ms\"\n"));
    let seeing = Balancer::start(&over(at, PING));
    let asking = Balancer::start(&over(web_at, "probe = \"http\"\ntimeout = \"300ms\"\n"));
    for balancer in [&blind, &seeing, &asking] {
        becomes(balancer, State::Up);
    }
    signal(&server, Signal::STOP);
    signal(&web, Signal::STOP);
    becomes(&seeing, State::Down);
    says(&seeing, "timed out after 0 of 7 bytes");
    becomes(&asking, State::Down);
    says(&asking, "timeout after 300ms, no answer");
    assert_eq!(state(&blind), State::Up);
    assert_eq!(last(&blind).unwrap().detail, "connected");
    signal(&server, Signal::CONT);
    signal(&web, Signal::CONT);
    becomes(&seeing, State::Up);
    becomes(&asking, State::Up);
}

/// Answers HTTP: whether with 200, `healthy` says of the number of the request.
fn web(healthy: impl Fn(u64) -> bool + Send + Sync + 'static) -> Backend {
    let count = AtomicU64::new(0);
    let listener = sockets::listen_with(Options::default());
    Backend::serving(listener, move |mut socket| {
        let _ = socket.read(&mut [0; 1024]);
        let word = match healthy(count.fetch_add(1, SeqCst)) {
            true => "200 OK",
            false => "503 Busy",
        };
        let _ =
            socket.write_all(format!("HTTP/1.1 {word}\r\nContent-Length: 0\r\n\r\n").as_bytes());
        let _ = socket.read(&mut [0]);
    })
}

#[test]
fn two_failed_probes_of_three_never_take_a_backend_out() {
    // The first passes, so it begins up.
    let backend = web(|number| number % 3 == 0);
    let balancer = Balancer::start(&over(
        backend.address,
        "probe = \"http\"\nfall = 3\nrise = 1\n",
    ));
    becomes(&balancer, State::Up);
    let mut failures = 0;
    while backend.accepted() < 60 {
        assert_eq!(state(&balancer), State::Up);
        failures += u32::from(last(&balancer).is_some_and(|last| !last.passed));
        std::thread::yield_now();
    }
    assert!(failures > 0, "the failures were not seen");
}

/// D6 of the fault catalogue.
#[test]
fn a_backend_that_flaps_is_held_back_and_the_log_stays_short() {
    let backend = web(|number| number % 2 == 0);
    let health = "probe = \"http\"\nrise = 1\nfall = 1\n";
    let process = Process::start(&over(backend.address, health));
    wait::until("a hundred probes were made", || backend.accepted() > 100);
    let log = process.errors();
    let changes = log
        .lines()
        .filter(|line| line.contains("backend is "))
        .count();
    assert_eq!(changes, 10, "{log}");
    let held = log
        .lines()
        .filter(|line| line.contains("held back"))
        .collect::<Vec<_>>();
    assert_eq!(held.len(), 1, "{log}");
    assert!(
        held[0].contains(
            "HTTP 503, expected 200-399; held back: 9 changes within 60s, needs 2 passes"
        ),
        "{log}"
    );
    drop(process);

    // The same without damping, to see that it was that.
    let backend = web(|number| number % 2 == 0);
    let health = format!("{health}flap_changes = 0\n");
    let process = Process::start(&over(backend.address, &health));
    wait::until("a hundred probes were made", || backend.accepted() > 100);
    let log = process.errors();
    let changes = log
        .lines()
        .filter(|line| line.contains("backend is "))
        .count();
    assert!(changes >= 90, "{changes}");
}

#[test]
fn why_a_backend_that_passes_is_still_down_can_be_seen_and_it_comes_back_in_the_end() {
    let steady = Arc::new(AtomicU64::new(0));
    let calm = steady.clone();
    let backend = web(move |number| calm.load(SeqCst) == 1 || number % 2 == 0);
    let health = "probe = \"http\"\nrise = 1\nfall = 1\n";
    let balancer = Balancer::start(&over(backend.address, health));
    says(
        &balancer,
        "HTTP 200; held back: 9 changes within 60s, needs 2 passes",
    );
    assert_eq!(state(&balancer), State::Down);
    steady.store(1, SeqCst);
    becomes(&balancer, State::Up);
    says(&balancer, "HTTP 200");
}

#[test]
fn a_probe_goes_to_the_address_and_port_it_is_told() {
    let refusing = Refusing::new();
    let other = TcpListener::bind((Ipv4Addr::new(127, 0, 0, 2), 0)).unwrap();
    let port = other.local_addr().unwrap().port();
    let probed = Backend::serving(other, |mut socket| {
        let _ = socket.read(&mut [0]);
    });
    let to = format!("probe_address = \"127.0.0.2\"\nport = {port}\n");
    let balancer = Balancer::start(&over(refusing.address, &to));
    becomes(&balancer, State::Up);
    assert!(probed.accepted() > 0);
    let own = Balancer::start(&over(refusing.address, ""));
    becomes(&own, State::Down);
    says(&own, "connection refused");
}

/// nginx that demands a PROXY header, and speaks TLS behind it.
#[test]
fn nginx_behind_a_proxy_header_and_tls_passes_only_with_both() {
    let name = "nginx_behind_a_proxy_header_and_tls_passes_only_with_both";
    let Some(nginx) = program("nginx") else {
        return machine::skipped(name, "nginx is not installed");
    };
    let folder = tempfile::tempdir().unwrap();
    let dir = folder.path().to_str().unwrap();
    let authority = rcgen::KeyPair::generate().unwrap();
    let mut params = rcgen::CertificateParams::new(Vec::new()).unwrap();
    params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    let authority = rcgen::CertifiedIssuer::self_signed(params, authority).unwrap();
    let key = rcgen::KeyPair::generate().unwrap();
    let names = vec!["web.internal".to_owned()];
    let certificate = rcgen::CertificateParams::new(names)
        .unwrap()
        .signed_by(&key, &authority)
        .unwrap();
    fs::write(format!("{dir}/ca.pem"), authority.pem()).unwrap();
    fs::write(format!("{dir}/cert.pem"), certificate.pem()).unwrap();
    fs::write(format!("{dir}/key.pem"), key.serialize_pem()).unwrap();
    let at = free_port();
    let config = format!(
        "daemon off; master_process off; pid {dir}/pid; error_log {dir}/error.log;\n\
         events {{ worker_connections 256; }}\n\
         http {{ access_log {dir}/access.log; client_body_temp_path {dir}/body; proxy_temp_path {dir}/p;\n\
         fastcgi_temp_path {dir}/f; uwsgi_temp_path {dir}/u; scgi_temp_path {dir}/s;\n\
         server {{ listen {at} ssl proxy_protocol; ssl_protocols TLSv1.3; ssl_certificate {dir}/cert.pem;\n\
         ssl_certificate_key {dir}/key.pem; return 204; }} }}\n"
    );
    fs::write(format!("{dir}/nginx.conf"), config).unwrap();
    let mut command = Command::new(nginx);
    let log = format!("{dir}/error.log");
    command.args(["-e", &log, "-p", dir, "-c", "nginx.conf"]);
    let _nginx = Helper::start(&mut command).answering(at);
    let tls = |name: &str| format!("tls = {{ server_name = \"{name}\", ca = \"{dir}/ca.pem\" }}\n");
    for version in ["v1", "v2"] {
        for (probe, detail) in [("https", "HTTP 204"), ("tls", "TLS 1.3")] {
            let health = format!(
                "probe = \"{probe}\"\nsend_proxy = \"{version}\"\n{}",
                tls("web.internal")
            );
            let balancer = Balancer::start(&over(at, &health));
            becomes(&balancer, State::Up);
            says(&balancer, detail);
        }
    }
    let without = format!("probe = \"https\"\n{}", tls("web.internal"));
    let balancer = Balancer::start(&over(at, &without));
    becomes(&balancer, State::Down);
    let other = format!(
        "probe = \"https\"\nsend_proxy = \"v2\"\n{}",
        tls("other.example")
    );
    let balancer = Balancer::start(&over(at, &other));
    becomes(&balancer, State::Down);
    says(
        &balancer,
        "certificate is for web.internal, expected other.example",
    );
}

#[test]
fn a_program_inherits_no_descriptor() {
    let name = "probe_kinds::a_program_inherits_no_descriptor";
    child::alone(name, || {
        let folder = tempfile::tempdir().unwrap();
        let list = folder.path().join("list");
        // As if whoever started lbd had left one open.
        let left_open = fs::File::open("/dev/null").unwrap();
        fcntl_setfd(&left_open, FdFlags::empty()).unwrap();
        let script = format!(
            "ls /proc/self/fd > {0}.new && mv {0}.new {0}",
            list.display()
        );
        let health = format!("probe = \"exec\"\ncommand = [\"/bin/sh\", \"-c\", {script:?}]\n");
        let backend = Backend::echo();
        let balancer = Balancer::start(&over(backend.address, &health));
        // A session, so that there are sockets and pipes of every kind.
        let mut client = TcpStream::connect(balancer.address()).unwrap();
        client.write_all(b"hello").unwrap();
        client.read_exact(&mut [0; 5]).unwrap();
        let _ = fs::remove_file(&list);
        let text = wait::until_some("the program ran", || fs::read_to_string(&list).ok());
        // Its own three, and the folder it lists.
        assert_eq!(
            text.split_whitespace().collect::<Vec<_>>(),
            ["0", "1", "2", "3"]
        );
        drop((client, left_open));
    });
}

#[test]
fn a_program_speaks_for_its_backend() {
    let folder = tempfile::tempdir().unwrap();
    let verdict = folder.path().join("verdict");
    let set = |text: &str| {
        let new = folder.path().join("new");
        fs::write(&new, text).unwrap();
        fs::rename(&new, &verdict).unwrap();
    };
    set("0");
    let script = format!(
        "read code < {}; echo \"$LBD_POOL/$LBD_BACKEND\"; exit $code",
        verdict.display()
    );
    let health = format!("probe = \"exec\"\ncommand = [\"/bin/sh\", \"-c\", {script:?}]\n");
    let refusing = Refusing::new();
    let balancer = Balancer::start(&over(refusing.address, &health));
    becomes(&balancer, State::Up);
    says(&balancer, "out/b0");
    set("7");
    becomes(&balancer, State::Down);
    says(&balancer, "exit status 7: out/b0");
}

/// An agent that answers with a line that can be changed, beside a backend.
struct Agent {
    line: Arc<Mutex<String>>,
    server: Option<Backend>,
}

impl Agent {
    fn new(line: &str) -> Agent {
        let line = Arc::new(Mutex::new(line.to_owned()));
        let said = line.clone();
        let server = Backend::serving(
            sockets::listen_with(Options::default()),
            move |mut socket| {
                let mut asked = [0; 4];
                if socket.read_exact(&mut asked).is_ok() && &asked == b"web\n" {
                    let line = said.lock().unwrap().clone();
                    let _ = socket.write_all(line.as_bytes());
                }
            },
        );
        Agent {
            line,
            server: Some(server),
        }
    }

    fn says(&self, line: &str) {
        *self.line.lock().unwrap() = format!("{line}\n");
    }

    /// Waits until it was asked twice more: its latest word has arrived.
    fn heard(&self) {
        let server = self.server.as_ref().unwrap();
        let asked = server.accepted();
        wait::until("the agent was asked", || server.accepted() > asked + 1);
    }

    fn keys(&self) -> String {
        let port = self.server.as_ref().unwrap().address.port();
        format!("agent_port = {port}\nagent_interval = \"20ms\"\nagent_send = 'web\\n'\n")
    }
}

#[test]
fn each_word_of_an_agent_has_its_effect() {
    let backend = Backend::echo();
    let agent = Agent::new("up\n");
    let balancer = Balancer::start(&over(backend.address, &agent.keys()));
    becomes(&balancer, State::Up);
    for (line, expected) in [
        ("down # disk full", State::Down),
        ("ready", State::Down),
        ("up", State::Up),
        ("stopped", State::Down),
        ("up", State::Up),
        ("drain", State::Drain),
        ("up", State::Drain),
        ("ready", State::Up),
        ("maint", State::Maintenance),
        ("ready", State::Up),
        ("0%", State::Drain),
        ("nonsense", State::Drain),
        ("100%", State::Up),
        ("ready,up\t50% maxconn:30", State::Up),
    ] {
        agent.says(line);
        agent.heard();
        becomes(&balancer, expected);
    }
    agent.says("down # disk full");
    says(&balancer, "connected; agent says down: disk full");
}

#[test]
fn an_agent_that_is_gone_changes_nothing_and_one_that_is_configured_away_is_forgotten() {
    let backend = Backend::echo();
    let mut agent = Agent::new("down drain\n");
    let setup = over(backend.address, &agent.keys());
    let balancer = Balancer::start(&setup);
    becomes(&balancer, State::Drain);
    agent.says("down ready");
    becomes(&balancer, State::Down);
    agent.server = None;
    let probes = backend.accepted();
    wait::until("further probes passed", || backend.accepted() > probes + 10);
    assert_eq!(state(&balancer), State::Down);
    // A reload that changes something else of the probe keeps the agent's word.
    let slower = Setup {
        pool: setup
            .pool
            .replace("interval = \"20ms\"\nfast", "interval = \"21ms\"\nfast"),
        ..setup.clone()
    };
    assert_ne!(slower.pool, setup.pool);
    balancer.reload(&slower).unwrap();
    let probes = backend.accepted();
    wait::until("further probes passed", || backend.accepted() > probes + 10);
    assert_eq!(state(&balancer), State::Down);
    balancer.reload(&over(backend.address, "")).unwrap();
    becomes(&balancer, State::Up);
}

#[test]
fn an_agent_speaks_for_a_backend_that_is_not_probed_also_over_reloads() {
    let backend = Backend::echo();
    let agent = Agent::new("up\n");
    let health = format!("probe = \"none\"\n{}", agent.keys());
    let setup = over(backend.address, &health);
    let balancer = Balancer::start(&setup);
    becomes(&balancer, State::Up);
    says(&balancer, "agent answers");
    agent.says("down # backup");
    becomes(&balancer, State::Down);
    says(&balancer, "agent says down: backup");
    for _ in 0..3 {
        balancer.reload(&setup).unwrap();
        assert_eq!(state(&balancer), State::Down);
    }
    agent.says("up");
    becomes(&balancer, State::Up);
    agent.says("down drain");
    becomes(&balancer, State::Drain);
    balancer
        .reload(&over(backend.address, "probe = \"none\"\n"))
        .unwrap();
    becomes(&balancer, State::Up);
    assert_eq!(backend.accepted(), 0);
}

#[test]
fn of_the_operators_wish_and_the_agents_the_stricter_holds() {
    let backend = Backend::echo();
    let agent = Agent::new("up ready\n");
    let balancer = Balancer::start(&over(backend.address, &agent.keys()));
    becomes(&balancer, State::Up);
    balancer.wish("b0", Wish::Drain);
    agent.says("ready");
    agent.heard();
    assert_eq!(state(&balancer), State::Drain);
    agent.says("maint");
    becomes(&balancer, State::Maintenance);
    balancer.wish("b0", Wish::Ready);
    assert_eq!(state(&balancer), State::Maintenance);
    balancer.wish("b0", Wish::Drain);
    agent.says("ready");
    becomes(&balancer, State::Drain);
    agent.heard();
    balancer.wish("b0", Wish::Ready);
    becomes(&balancer, State::Up);
}

#[test]
fn a_probe_that_verifies_nobody_is_told_at_check_and_at_start() {
    let refusing = Refusing::new();
    let process = Process::start(&over(
        refusing.address,
        "probe = \"tls\"\ntls.insecure = true\n",
    ));
    let said =
        "health.tls.insecure = true in [[pool]] \\\"out\\\": its probe accepts any certificate";
    wait::until("it is in the log", || {
        let log = process.errors();
        log.contains(said) || log.contains(&said.replace('\\', ""))
    });
    let check = Command::new(env!("CARGO_BIN_EXE_lbd"))
        .args(["--check", "--config"])
        .arg(process.folder().join("lb.toml"))
        .output()
        .unwrap();
    assert!(check.status.success());
    let told = String::from_utf8(check.stderr).unwrap();
    assert!(
        told.contains("lb.toml: warning: health.tls.insecure = true"),
        "{told}"
    );
}

#[test]
fn a_backend_that_moved_or_is_gone_is_no_longer_probed_where_it_was() {
    let (old, new, last) = (Backend::echo(), Backend::echo(), Backend::echo());
    let balancer = Balancer::start(&over(old.address, ""));
    wait::until("it is probed", || old.accepted() > 3);
    balancer.reload(&over(new.address, "")).unwrap();
    wait::until("the new one is probed", || new.accepted() > 3);
    let before = old.accepted();
    wait::until("the new one is probed", || new.accepted() > 10);
    // One may have been under way.
    assert!(
        old.accepted() <= before + 1,
        "{} after {before}",
        old.accepted()
    );
    let mut renamed = over(last.address, "");
    renamed.backends[0].0 = "other".to_owned();
    balancer.reload(&renamed).unwrap();
    wait::until("the last one is probed", || last.accepted() > 3);
    let before = new.accepted();
    wait::until("the last one is probed", || last.accepted() > 10);
    assert!(new.accepted() <= before + 1);
}
