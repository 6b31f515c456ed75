//! From the cells of `scripts/bench.sh` to tables: medians, what a proxy adds to the direct way or
//! spends by itself, and how lbd stands against the best peer.

use std::fs;
use std::io;
use std::path::PathBuf;

use crate::line::word;
use crate::results::{Results, median};

#[derive(clap::Args, Debug)]
pub(crate) struct Args {
    /// Lines of workload, system, round and the JSON of a load, separated by tabs.
    results: PathBuf,
}

pub(crate) fn run(args: Args) -> io::Result<()> {
    let results = Results::parse(&fs::read_to_string(args.results)?);
    for part in PARTS {
        let rows = || part.rows.iter().filter(|row| results.has(row.workload));
        if rows().next().is_some() {
            print_cells(&results, part, rows());
            print_comparison(&results, part, rows());
            print_handshakes(&results, rows());
            print_latencies(&results, rows());
        }
    }
    Ok(())
}

const DIRECT: &str = "direct";
const OURS: &str = "lbd";
const SYSTEMS: [&str; 6] = [DIRECT, OURS, "haproxy", "haproxy-splice", "nginx", "hitch"];

/// Tables that belong together, because they tell of the same measure.
struct Part {
    measure: &'static str,
    comparison: &'static str,
    /// The columns of the comparison.
    systems: &'static [&'static str],
    rows: &'static [Row],
}

struct Row {
    workload: &'static str,
    cost: Cost,
    goal: Goal,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Cost {
    /// CPU of the whole machine; what the direct way costs is taken off for the comparison.
    Machine,
    /// CPU of the proxy's own processes.
    Own,
    Memory,
}

/// What is wanted of lbd.
#[derive(Clone, Copy, Debug)]
enum Goal {
    None,
    /// Of the best peer.
    Ratio(f64),
    /// In the unit of the row.
    Most(f64),
}

const PARTS: &[Part] = &[
    Part {
        measure: "Whole machine, per unit",
        comparison: "Added by the proxy (median less the median of direct; idle: user memory)",
        systems: &["direct", "lbd", "haproxy", "haproxy-splice", "nginx"],
        rows: &[
            row("rr1", Cost::Machine, Goal::Ratio(0.80)),
            row("rr32", Cost::Machine, Goal::Ratio(0.80)),
            row("rr200", Cost::Machine, Goal::Ratio(0.80)),
            row("rr32-16k", Cost::Machine, Goal::None),
            row("cycle", Cost::Machine, Goal::Ratio(0.85)),
            row("cycle-client", Cost::Machine, Goal::None),
            row("bulk-down", Cost::Machine, Goal::Ratio(0.70)),
            row("bulk-up", Cost::Machine, Goal::Ratio(0.70)),
            row("open", Cost::Machine, Goal::None),
            row("idle", Cost::Memory, Goal::Most(2048.0)),
        ],
    },
    Part {
        measure: "TLS: the terminator's own processes, per unit",
        comparison: "TLS: own CPU (medians; tls-idle: user memory)",
        systems: &["lbd", "haproxy", "nginx", "hitch"],
        rows: &[
            row("tls-full", Cost::Own, Goal::Ratio(0.55)),
            row("tls-resumed", Cost::Own, Goal::Ratio(0.70)),
            row("tls-rr32", Cost::Own, Goal::Ratio(0.80)),
            row("tls-bulk-down", Cost::Own, Goal::Ratio(0.60)),
            row("tls-bulk-up", Cost::Own, Goal::Ratio(0.60)),
            row("tls-idle", Cost::Memory, Goal::Most(12.0 * 1024.0)),
        ],
    },
];

const fn row(workload: &'static str, cost: Cost, goal: Goal) -> Row {
    Row {
        workload,
        cost,
        goal,
    }
}

impl Row {
    fn key(&self) -> &'static str {
        match self.cost {
            Cost::Machine => "cpu_us_per_unit",
            Cost::Own => "own_us_per_unit",
            Cost::Memory => "bytes_per_connection",
        }
    }

    fn median(&self, results: &Results, system: &str) -> Option<f64> {
        results.median(self.workload, system, self.key())
    }

    /// The proxy's part of the cost.
    fn compared(&self, results: &Results, system: &str) -> Option<f64> {
        let whole = self.median(results, system)?;
        match self.cost {
            Cost::Machine if system != DIRECT => Some(whole - self.median(results, DIRECT)?),
            _ => Some(whole),
        }
    }

    fn best_peer(&self, results: &Results) -> Option<f64> {
        SYSTEMS
            .iter()
            .filter(|system| ![DIRECT, OURS].contains(system))
            .filter_map(|system| self.compared(results, system))
            .min_by(f64::total_cmp)
    }

    fn unit(&self, results: &Results) -> String {
        let line = SYSTEMS
            .iter()
            .find_map(|system| results.cells(self.workload, system).first());
        let unit = line.and_then(|line| word(line, "unit")).unwrap_or("?");
        match self.cost {
            Cost::Memory => "B/conn".to_owned(),
            Cost::Machine | Cost::Own => format!("us/{unit}"),
        }
    }
}

fn print_cells<'a>(results: &Results, part: &Part, rows: impl Iterator<Item = &'a Row>) {
    println!(
        "{} (median, lowest and highest of the rounds)\n",
        part.measure
    );
    println!(
        "{:<14}{:<16}{:>10}{:>10}{:>10}{:>8}  {:<14}{:>9}{:>8}{:>8}",
        "workload",
        "system",
        "median",
        "lowest",
        "highest",
        "rounds",
        "unit",
        "units/s",
        "errors",
        "others"
    );
    for row in rows {
        for system in SYSTEMS {
            let costs = results.values(row.workload, system, row.key());
            let (Some(middle), Some(lowest), Some(highest)) =
                (median(&costs), costs.first(), costs.last())
            else {
                continue;
            };
            println!(
                "{:<14}{system:<16}{middle:>10.2}{lowest:>10.2}{highest:>10.2}{:>8}  {:<14}{:>9}{:>8}{:>8}",
                row.workload,
                costs.len(),
                row.unit(results),
                shown(results.median(row.workload, system, "rate"), 0),
                results.total(row.workload, system, "errors"),
                strangers(results, row.workload, system),
            );
        }
    }
}

/// The share of the CPU time that other processes took in the rounds used.
fn strangers(results: &Results, workload: &str, system: &str) -> String {
    let strangers = results.total(workload, system, "cpu_seconds_strangers");
    match results.total(workload, system, "cpu_seconds_machine") {
        0.0 => "-".to_owned(),
        machine => format!("{:.0} %", 100.0 * strangers / machine),
    }
}

fn print_comparison<'a>(results: &Results, part: &Part, rows: impl Iterator<Item = &'a Row>) {
    println!("\n{}\n", part.comparison);
    print!("{:<14}{:<15}", "workload", "unit");
    for system in part.systems {
        print!("{system:>16}");
    }
    println!("{:>12}  goal", "lbd/best");
    for row in rows {
        print!("{:<14}{:<15}", row.workload, row.unit(results));
        for system in part.systems {
            print!("{:>16}", shown(row.compared(results, system), 1));
        }
        let ours = row.compared(results, OURS);
        let ratio = ours
            .zip(row.best_peer(results))
            .map(|(ours, best)| ours / best);
        println!(
            "{:>12}  {}",
            shown(ratio, 2),
            verdict(row.goal, ours, ratio)
        );
    }
}

fn verdict(goal: Goal, ours: Option<f64>, ratio: Option<f64>) -> String {
    let (text, value, most) = match goal {
        Goal::None => return String::new(),
        Goal::Ratio(most) => (format!("<= {most:.2}"), ratio, most),
        Goal::Most(most) => (format!("<= {most:.0} B"), ours, most),
    };
    match value {
        None => text,
        Some(value) if value <= most => format!("{text} met"),
        Some(_) => format!("{text} MISSED"),
    }
}

/// Whether a row shows what its name says, and how exact it can be: the kernel tells the CPU time
/// of a process in hundredths of a second.
fn print_handshakes<'a>(results: &Results, rows: impl Iterator<Item = &'a Row>) {
    let mut heading = Some(format!(
        "\n{:<14}{:<16}{:>18}{:>12}{:>12}{:>18}",
        "workload", "system", "least own seconds", "full", "resumed", "no close_notify"
    ));
    for row in rows.filter(|row| row.cost == Cost::Own) {
        for system in SYSTEMS {
            let own = results.values(row.workload, system, "cpu_seconds_own");
            let Some(least) = own.first() else {
                continue;
            };
            if let Some(heading) = heading.take() {
                println!("{heading}");
            }
            let total = |key| match results.values(row.workload, system, key)[..] {
                [] => "-".to_owned(),
                _ => results.total(row.workload, system, key).to_string(),
            };
            println!(
                "{:<14}{system:<16}{least:>18.2}{:>12}{:>12}{:>18}",
                row.workload,
                total("handshakes_full"),
                total("handshakes_resumed"),
                total("cut"),
            );
        }
    }
}

fn print_latencies<'a>(results: &Results, rows: impl Iterator<Item = &'a Row>) {
    println!("\nLatency, us (medians of the rounds)\n");
    println!(
        "{:<14}{:<16}{:>10}{:>10}{:>10}{:>11}",
        "workload", "system", "p50", "p99", "p99.9", "max"
    );
    for row in rows {
        for system in SYSTEMS {
            let quantile = |key| results.median(row.workload, system, key);
            let Some(p50) = quantile("p50_us") else {
                continue;
            };
            println!(
                "{:<14}{system:<16}{p50:>10.0}{:>10}{:>10}{:>11}",
                row.workload,
                shown(quantile("p99_us"), 0),
                shown(quantile("p999_us"), 0),
                shown(quantile("max_us"), 0),
            );
        }
    }
    println!();
}

fn shown(value: Option<f64>, digits: usize) -> String {
    value.map_or_else(|| "-".to_owned(), |value| format!("{value:.digits$}"))
}
