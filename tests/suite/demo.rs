//! The demo as a whole, in this process: its plain lines, and failover as a client sees it.

use std::collections::BTreeSet;
use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use lbd::balance::backend::State;
use lbd::demo::stage::{NAMES, Stage};
use lbd::demo::{DemoOptions, End, plain};

fn options() -> DemoOptions {
    let bind = Some("127.0.0.1:0".parse().unwrap());
    DemoOptions {
        bind,
        policy: "round_robin".to_owned(),
        seconds: None,
    }
}

/// What was written so far, for another thread to read.
#[derive(Clone, Default)]
struct Page(Arc<Mutex<Vec<u8>>>);

impl Page {
    fn text(&self) -> String {
        String::from_utf8(self.0.lock().unwrap().clone()).unwrap()
    }
}

impl Write for Page {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// The name of the backend that answers.
fn ask(address: SocketAddr) -> io::Result<String> {
    let mut stream = TcpStream::connect(address)?;
    stream.set_read_timeout(Some(Duration::from_secs(5)))?;
    stream.write_all(b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    let (head, body) = answer
        .split_once("\r\n\r\n")
        .ok_or(io::ErrorKind::InvalidData)?;
    assert!(head.starts_with("HTTP/1.1 200 "), "{head}");
    Ok(body.lines().next().unwrap_or_default().to_owned())
}

fn names_of(address: SocketAddr, requests: usize) -> BTreeSet<String> {
    (0..requests).map(|_| ask(address).unwrap()).collect()
}

fn wait_until(what: &str, mut is_so: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(20);
    while !is_so() {
        assert!(Instant::now() < deadline, "not within 20 s: {what}");
        thread::sleep(Duration::from_millis(20));
    }
}

fn wait_for_state(stage: &Stage, backend: usize, wanted: &[State]) {
    wait_until(&format!("{} is one of {wanted:?}", NAMES[backend]), || {
        wanted.contains(&stage.look().unwrap().backends[backend].state)
    });
}

#[test]
fn a_killed_backend_costs_no_request_and_a_revived_one_comes_back() {
    let stage = Stage::start(&options()).unwrap();
    let address = stage.address();
    for backend in 0..NAMES.len() {
        wait_for_state(&stage, backend, &[State::Up]);
    }
    assert_eq!(
        names_of(address, 60),
        BTreeSet::from(NAMES.map(str::to_owned))
    );

    // So many lines does the usual terminal show of it.
    assert!(stage.config_text().lines().count() <= 22);

    assert_eq!(stage.toggle(1).unwrap(), Some(false));
    let others = BTreeSet::from([NAMES[0], NAMES[2]].map(str::to_owned));
    assert_eq!(names_of(address, 200), others);
    wait_for_state(&stage, 1, &[State::Down]);

    assert_eq!(stage.toggle(1).unwrap(), Some(true));
    wait_for_state(&stage, 1, &[State::Up]);
    wait_until("birch answers again", || ask(address).unwrap() == NAMES[1]);
}

#[test]
fn plain_lines_begin_with_the_address_and_tell_each_change() {
    let stage = Stage::start(&options()).unwrap();
    let (page, end) = (Page::default(), End::after(None));
    thread::scope(|scope| {
        let (stage, end, mut out) = (&stage, &end, page.clone());
        let plain = scope.spawn(move || plain::run(stage, &mut out, end));
        wait_until("the first line", || page.text().contains('\n'));
        let first = format!("http://{}", stage.address());
        assert_eq!(page.text().lines().next(), Some(first.as_str()));
        wait_until("a second", || page.text().contains("\nt=1s "));
        stage.toggle(0).unwrap();
        wait_until("amber is out", || {
            page.text().contains("event amber up -> ")
        });
        stage.next_policy().unwrap();
        wait_until("the policy", || {
            page.text().contains("round_robin -> least_connections")
        });
        end.tell();
        plain.join().unwrap().unwrap();
    });
    let text = page.text();
    assert!(text.contains("event amber killed\n"), "{text}");
    assert!(text.lines().last().unwrap().starts_with("end t="), "{text}");
}

#[test]
fn a_reader_who_has_gone_ends_the_plain_lines_quietly() {
    struct Gone;
    impl Write for Gone {
        fn write(&mut self, _: &[u8]) -> io::Result<usize> {
            Err(io::ErrorKind::BrokenPipe.into())
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }
    let stage = Stage::start(&options()).unwrap();
    plain::run(&stage, &mut Gone, &End::after(None)).unwrap();
}

#[test]
fn an_address_that_is_taken_and_a_policy_there_is_not_are_errors() {
    let stage = Stage::start(&options()).unwrap();
    let taken = DemoOptions {
        bind: Some(stage.address()),
        ..options()
    };
    assert_eq!(
        Stage::start(&taken).unwrap_err().kind(),
        io::ErrorKind::AddrInUse
    );
    let unknown = DemoOptions {
        policy: "round_robbin".to_owned(),
        ..options()
    };
    assert!(
        Stage::start(&unknown)
            .unwrap_err()
            .to_string()
            .contains("round_robin")
    );
}
