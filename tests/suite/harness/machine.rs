//! What a process holds and uses, as the kernel counts it.

use std::fs;
use std::time::Duration;

/// Open descriptors of a process ("self" or its number).
pub fn descriptors(process: &str) -> usize {
    // The folder's own descriptor is among those of "self" each time, so it does not matter.
    fs::read_dir(format!("/proc/{process}/fd")).map_or(0, Iterator::count)
}

pub fn threads(process: &str) -> usize {
    fs::read_dir(format!("/proc/{process}/task")).map_or(0, Iterator::count)
}

/// Processor time of all threads of a process so far.
pub fn cpu_time(process: &str) -> Duration {
    let stat = fs::read_to_string(format!("/proc/{process}/stat")).unwrap();
    // The name in brackets may hold blanks; user and system ticks are the 12th and 13th after it.
    let fields: Vec<&str> = stat[stat.rfind(')').unwrap() + 1..]
        .split_whitespace()
        .collect();
    let ticks: u64 = fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap();
    Duration::from_millis(ticks * 1000 / rustix::param::clock_ticks_per_second())
}

/// Resident memory of a process.
pub fn resident_bytes(process: &str) -> u64 {
    let status = fs::read_to_string(format!("/proc/{process}/status")).unwrap();
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("VmRSS:"))
        .unwrap();
    line.trim()
        .strip_suffix(" kB")
        .unwrap()
        .parse::<u64>()
        .unwrap()
        * 1024
}

/// Where an installed program is, looked for in PATH and the usual system folders.
pub fn program(name: &str) -> Option<String> {
    let path = std::env::var("PATH").unwrap_or_default();
    let folders = path
        .split(':')
        .chain(["/usr/sbin", "/sbin", "/usr/bin", "/bin"]);
    let files = folders.map(|folder| format!("{folder}/{name}"));
    files
        .into_iter()
        .find(|file| fs::metadata(file).is_ok_and(|meta| meta.is_file()))
}

pub fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

/// Says why a test was left out, where somebody reads it.
pub fn skipped(test: &str, reason: &str) {
    eprintln!("skipped {test}: {reason}");
}
