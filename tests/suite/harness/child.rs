//! A test in a process of its own: where descriptors, threads, limits or the network are the
//! test's alone.

use std::process::{Command, Stdio};

use super::machine;

const MARK: &str = "LBD_TEST_ALONE";

/// Runs `body` in a process in which no other test runs. `name` is the test's own full name.
pub fn alone(name: &str, body: impl FnOnce()) {
    if is_child(name) {
        return body();
    }
    let mut command = Command::new(std::env::current_exe().unwrap());
    run(&mut command, name);
}

/// The same in a network of its own, in which only the loopback device is up. Skipped, and said,
/// where that is not permitted.
pub fn in_own_network(name: &str, body: impl FnOnce()) {
    if is_child(name) {
        let up = Command::new(machine::program("ip").unwrap())
            .args(["link", "set", "lo", "up"])
            .status();
        assert!(up.unwrap().success(), "the loopback device is up");
        return body();
    }
    let (Some(unshare), true) = (machine::program("unshare"), machine::is_root()) else {
        return machine::skipped(name, "a network of its own needs root and unshare(1)");
    };
    if machine::program("ip").is_none() || machine::program("nft").is_none() {
        return machine::skipped(name, "iproute2 or nftables is not installed");
    }
    let mut command = Command::new(unshare);
    command
        .arg("--net")
        .arg("--mount")
        .arg("--")
        .arg(std::env::current_exe().unwrap());
    run(&mut command, name);
}

/// Loads rules for nft(8) into the network this process is in.
pub fn nft(rules: &str) {
    let status = Command::new(machine::program("nft").unwrap())
        .arg(rules)
        .status()
        .unwrap();
    assert!(status.success(), "nft {rules}");
}

fn is_child(name: &str) -> bool {
    std::env::var(MARK).is_ok_and(|marked| marked == name)
}

fn run(command: &mut Command, name: &str) {
    let child = command
        .args([name, "--exact", "--nocapture", "--test-threads=1"])
        .env(MARK, name)
        .stdin(Stdio::null())
        .output()
        .unwrap();
    let (out, err) = (
        String::from_utf8_lossy(&child.stdout),
        String::from_utf8_lossy(&child.stderr),
    );
    assert!(child.status.success(), "in its own process:\n{out}\n{err}");
    assert!(
        out.contains("1 passed"),
        "no test of this name was run: {name}\n{out}"
    );
}
