//! The real binary as a process of its own, perhaps under strace(1).

use std::fs;
use std::io::Read;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

use super::balancer::Setup;
use super::record::{self, Record};
use super::wait;

/// `lbd` as a process. Killed on drop.
#[derive(Debug)]
pub struct Process {
    child: Child,
    /// Of lbd itself, also when it runs under another program.
    pub pid: u32,
    pub address: SocketAddr,
    folder: TempDir,
}

/// How it is started.
#[derive(Debug, Default)]
pub struct Start<'a> {
    /// Program and arguments put in front, such as strace or prlimit.
    pub under: &'a [String],
    /// Where it listens, instead of a free port of the loopback device.
    pub bind: Option<SocketAddr>,
}

impl Process {
    pub fn start(setup: &Setup) -> Process {
        Process::start_with(setup, &Start::default())
    }

    pub fn start_with(setup: &Setup, start: &Start<'_>) -> Process {
        let folder = tempfile::tempdir().unwrap();
        let address = start.bind.unwrap_or_else(free_port);
        let setup = Setup {
            bind: address.to_string(),
            ..setup.clone()
        };
        let log = folder.path().join("access.log");
        Process::launch(&setup.toml(log.to_str().unwrap()), address, folder, start)
    }

    /// From a configuration as it stands, which listens at this address.
    pub fn start_text(config: &str, address: SocketAddr, start: &Start<'_>) -> Process {
        Process::launch(config, address, tempfile::tempdir().unwrap(), start)
    }

    fn launch(text: &str, address: SocketAddr, folder: TempDir, start: &Start<'_>) -> Process {
        let config = folder.path().join("lb.toml");
        fs::write(&config, text).unwrap();
        let mut words = start.under.to_vec();
        words.push(env!("CARGO_BIN_EXE_lbd").to_owned());
        let errors = fs::File::create(folder.path().join("stderr")).unwrap();
        let mut child = Command::new(&words[0])
            .args(&words[1..])
            .arg("--config")
            .arg(&config)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(errors)
            .spawn()
            .unwrap();
        let own = child.id();
        let begun = wait::within(Duration::from_secs(20), || {
            if child.try_wait().unwrap().is_some() {
                return Some(false);
            }
            listens(own, address).then_some(true)
        });
        let errors = read(&folder.path().join("stderr"));
        assert_eq!(begun, Some(true), "lbd does not listen: {errors}");
        let pid = if start.under.is_empty() {
            own
        } else {
            lbd_below(own)
        };
        Process {
            child,
            pid,
            address,
            folder,
        }
    }

    /// The number as text, as /proc wants it.
    pub fn proc(&self) -> String {
        self.pid.to_string()
    }

    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    pub fn log(&self) -> PathBuf {
        self.folder.path().join("access.log")
    }

    pub fn errors(&self) -> String {
        read(&self.folder.path().join("stderr"))
    }

    pub fn records(&self) -> Vec<Record> {
        record::read_all(&self.log())
    }

    /// Replaces the configuration file; a signal makes it read.
    pub fn write_config(&self, setup: &Setup) {
        let setup = Setup {
            bind: self.address.to_string(),
            ..setup.clone()
        };
        let text = setup.toml(self.log().to_str().unwrap());
        fs::write(self.folder.path().join("lb.toml"), text).unwrap();
    }

    pub fn signal(&self, signal: Signal) {
        kill_process(Pid::from_raw(self.pid as i32).unwrap(), signal).unwrap();
    }

    pub fn is_alive(&mut self) -> bool {
        self.child.try_wait().unwrap().is_none()
    }

    pub fn ended(&mut self) -> ExitStatus {
        wait::until_some("the process has ended", || self.child.try_wait().unwrap())
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if self.is_alive() {
            // The one below a tracer first: it would go on without it.
            let _ = kill_process(Pid::from_raw(self.pid as i32).unwrap(), Signal::KILL);
            if self.pid != self.child.id() {
                let gone = || self.child.try_wait().ok().flatten();
                if wait::within(Duration::from_secs(5), gone).is_some() {
                    return;
                }
            }
            let _ = self.child.kill();
        }
        let _ = self.child.wait();
    }
}

/// A port nobody has at this moment.
pub fn free_port() -> SocketAddr {
    TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap()
}

pub fn read(file: &Path) -> String {
    let mut text = String::new();
    if let Ok(mut file) = fs::File::open(file) {
        let _ = file.read_to_string(&mut text);
    }
    text
}

/// Asks the table of the process's network instead of connecting, so that no session comes of the question.
fn listens(process: u32, address: SocketAddr) -> bool {
    let SocketAddr::V4(v4) = address else {
        panic!("{address} is no IPv4")
    };
    let number = u32::from_ne_bytes(v4.ip().octets());
    let wanted = format!(" {number:08X}:{:04X} 00000000:0000 0A ", v4.port());
    fs::read_to_string(format!("/proc/{process}/net/tcp"))
        .is_ok_and(|table| table.contains(&wanted))
}

/// The lbd that runs below another program.
fn lbd_below(parent: u32) -> u32 {
    wait::until_some("the process below is found", || {
        let below = fs::read_to_string(format!("/proc/{parent}/task/{parent}/children")).ok()?;
        let found = below.split_whitespace().find(|pid| {
            fs::read_to_string(format!("/proc/{pid}/comm")).is_ok_and(|name| name.trim() == "lbd")
        });
        // Programs such as prlimit become lbd themselves.
        found.and_then(|pid| pid.parse().ok()).or_else(|| {
            let name = fs::read_to_string(format!("/proc/{parent}/comm")).ok()?;
            (name.trim() == "lbd").then_some(parent)
        })
    })
}

/// Any other program that a test needs beside it. Killed on drop.
#[derive(Debug)]
pub struct Helper(pub Child);

impl Helper {
    pub fn start(command: &mut Command) -> Helper {
        let child = command
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        Helper(child.spawn().unwrap())
    }

    /// Waits until somebody answers there.
    pub fn answering(self, at: SocketAddr) -> Helper {
        wait::until(&format!("{at} answers"), || TcpStream::connect(at).is_ok());
        self
    }
}

impl Drop for Helper {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
