//! What the whole machine spent, from `/proc`.

use std::collections::HashMap;
use std::fs;
use std::io;
use std::time::Instant;

/// Kernel ticks per second in `/proc` (USER_HZ): 100 on every Linux architecture we run on.
const USER_HZ: f64 = 100.0;

/// A reading of the machine's clocks.
#[derive(Debug)]
pub(crate) struct Reading {
    at: Instant,
    cpus: usize,
    /// Idle, waiting for I/O, and stolen by the hypervisor; ticks over all CPUs.
    unused: u64,
}

impl Reading {
    pub(crate) fn now() -> io::Result<Self> {
        let stat = fs::read_to_string("/proc/stat")?;
        let at = Instant::now();
        let total = stat.lines().next().unwrap_or_default();
        let ticks: Vec<u64> = total
            .split_whitespace()
            .skip(1)
            .filter_map(|t| t.parse().ok())
            .collect();
        let [
            _user,
            _nice,
            _system,
            idle,
            iowait,
            _irq,
            _softirq,
            steal,
            ..,
        ] = ticks[..]
        else {
            return Err(io::Error::other(
                "/proc/stat has fewer columns than expected",
            ));
        };
        let cpus = stat
            .lines()
            .skip(1)
            .take_while(|line| line.starts_with("cpu"))
            .count();
        Ok(Self {
            at,
            cpus,
            unused: idle + iowait + steal,
        })
    }

    pub(crate) fn seconds_since(&self, earlier: &Reading) -> f64 {
        (self.at - earlier.at).as_secs_f64()
    }

    /// CPU seconds of all CPUs since `earlier`. Wall time less idle time, and not the sum of the
    /// busy columns: those are sampled at ticks, idle time is measured.
    pub(crate) fn busy_seconds_since(&self, earlier: &Reading) -> f64 {
        let unused = self.unused.saturating_sub(earlier.unused) as f64 / USER_HZ;
        (self.seconds_since(earlier) * self.cpus as f64 - unused).max(0.0)
    }

    /// The share of all CPUs that was busy since `earlier`.
    pub(crate) fn busy_share_since(&self, earlier: &Reading) -> f64 {
        self.busy_seconds_since(earlier) / (self.seconds_since(earlier) * self.cpus as f64)
    }
}

/// CPU time so far of one process and of all that descend from it and are still there.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Own {
    ticks: u64,
}

impl Own {
    pub(crate) fn of(pid: u32) -> io::Result<Self> {
        let process = Process::read(pid)
            .ok_or_else(|| io::Error::other(format!("there is no process {pid}")))?;
        let mut ticks = process.ticks;
        for thread in fs::read_dir(format!("/proc/{pid}/task"))? {
            // One that has ended meanwhile left its children to another.
            let children = fs::read_to_string(thread?.path().join("children")).unwrap_or_default();
            for child in children
                .split_whitespace()
                .filter_map(|pid| pid.parse().ok())
            {
                ticks += Own::of(child).map_or(0, |own| own.ticks);
            }
        }
        Ok(Self { ticks })
    }

    pub(crate) fn seconds_since(&self, earlier: &Own) -> f64 {
        self.ticks.saturating_sub(earlier.ticks) as f64 / USER_HZ
    }
}

/// CPU time so far of processes outside of our family: one process and all that descend from it,
/// that is, the script that started generator, server and proxy. With the time of the
/// children that were waited for, so that a process that ends moves its time but does not lose it.
/// Not exact: softirq time belongs to no process, and the kernel samples at ticks.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Strangers {
    ticks: u64,
}

impl Strangers {
    pub(crate) fn of(family: u32) -> io::Result<Self> {
        let mut processes = HashMap::new();
        for entry in fs::read_dir("/proc")? {
            let name = entry?.file_name();
            let Some(pid) = name.to_str().and_then(|name| name.parse::<u32>().ok()) else {
                continue;
            };
            // A process may have ended since it was listed.
            if let Some(process) = Process::read(pid) {
                processes.insert(pid, process);
            }
        }
        let ticks = processes
            .iter()
            .filter(|(pid, process)| !process.is_kernel && !descends(**pid, family, &processes))
            .map(|(_, process)| process.ticks)
            .sum();
        Ok(Self { ticks })
    }

    pub(crate) fn seconds_since(&self, earlier: &Strangers) -> f64 {
        self.ticks.saturating_sub(earlier.ticks) as f64 / USER_HZ
    }
}

#[derive(Debug)]
struct Process {
    parent: u32,
    ticks: u64,
    is_kernel: bool,
}

impl Process {
    fn read(pid: u32) -> Option<Self> {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        // The name in parentheses may hold spaces; the fields after it may not.
        let fields: Vec<&str> = stat[stat.rfind(')')? + 1..].split_whitespace().collect();
        let parent = fields.get(1)?.parse().ok()?;
        // utime, stime, cutime and cstime of proc_pid_stat(5).
        let ticks = fields
            .get(11..15)?
            .iter()
            .filter_map(|field| field.parse::<u64>().ok())
            .sum();
        // Kernel threads are children of kthreadd, process 2.
        Some(Self {
            parent,
            ticks,
            is_kernel: pid == 2 || parent == 2,
        })
    }
}

fn descends(pid: u32, ancestor: u32, processes: &HashMap<u32, Process>) -> bool {
    let mut at = pid;
    // Ids are reused, so a torn listing could close a ring; no family tree is deeper than this.
    for _ in 0..64 {
        if at == ancestor {
            return true;
        }
        match processes.get(&at) {
            Some(process) => at = process.parent,
            None => return false,
        }
    }
    false
}
