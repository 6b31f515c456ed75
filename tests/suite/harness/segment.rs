//! Machines on one network: namespaces joined by a bridge, inside of the test's own, so that
//! nothing of them outlives the test.

use std::io::Write;
use std::net::Ipv4Addr;
use std::process::{Command, Stdio};

use super::machine;

/// The bridge. The test itself is on it, with every address it is given.
#[derive(Debug)]
pub struct Segment;

impl Segment {
    /// Only within [`super::child::in_own_network`].
    pub fn new(own: impl IntoIterator<Item = Ipv4Addr>) -> Segment {
        // Names of namespaces are files below /run, and this process has mounts of its own.
        run(Command::new(program("mount")).args(["-t", "tmpfs", "segment", "/run"]));
        let mut lines = "link add segment type bridge\nlink set segment up\n".to_owned();
        for address in own {
            lines += &format!("address add {address}/16 dev segment\n");
        }
        batch(&lines);
        Segment
    }

    /// A machine with this address on its `eth0`.
    pub fn node(&self, name: &str, address: Ipv4Addr) -> Node {
        batch(&format!(
            "netns add {name}\n\
             link add to-{name} type veth peer name eth0 netns {name}\n\
             link set to-{name} master segment up\n"
        ));
        let node = Node {
            name: name.to_owned(),
        };
        node.ip("link set lo up");
        node.ip("link set eth0 up");
        node.ip(&format!("address add {address}/16 dev eth0"));
        node
    }

    /// The test looks anew for the machine behind each address.
    pub fn forget_neighbours(&self) {
        batch("neighbour flush dev segment\n");
    }
}

#[derive(Debug)]
pub struct Node {
    name: String,
}

impl Node {
    /// What is put in front of a program so that it runs on this machine.
    pub fn under(&self) -> Vec<String> {
        [&program("ip"), "netns", "exec", &self.name]
            .map(str::to_owned)
            .to_vec()
    }

    /// A program on this machine; `ip` becomes it, so its process is the command's own.
    pub fn command(&self, name: &str) -> Command {
        let under = self.under();
        let mut command = Command::new(&under[0]);
        command.args(&under[1..]).arg(program(name));
        command
    }

    /// Has ip(8) do something on this machine.
    pub fn ip(&self, words: &str) {
        run(self.command("ip").args(words.split(' ')));
    }

    pub fn has(&self, address: Ipv4Addr) -> bool {
        let shown = self.command("ip").args(["-o", "address"]).output().unwrap();
        String::from_utf8_lossy(&shown.stdout).contains(&format!(" {address}/"))
    }

    /// A kernel setting of this machine's network, such as `ipv4/ip_nonlocal_bind`.
    pub fn set(&self, setting: &str, value: &str) {
        let line = format!("echo {value} > /proc/sys/net/{setting}");
        run(self.command("sh").args(["-c", &line]));
    }
}

fn program(name: &str) -> String {
    machine::program(name).unwrap_or_else(|| panic!("{name} is not installed"))
}

fn batch(lines: &str) {
    let mut ip = Command::new(program("ip"))
        .args(["-batch", "-"])
        .stdin(Stdio::piped())
        .spawn()
        .unwrap();
    // Dropped at the end of the statement, which is the end of the batch.
    ip.stdin
        .take()
        .unwrap()
        .write_all(lines.as_bytes())
        .unwrap();
    assert!(ip.wait().unwrap().success(), "ip: {lines}");
}

fn run(command: &mut Command) {
    assert!(command.status().unwrap().success(), "{command:?}");
}
