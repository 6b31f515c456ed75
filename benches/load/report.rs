//! From the cells of `scripts/bench.sh` to tables: medians, what a proxy adds to the direct way,
//! and how lbd stands against the best peer.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::PathBuf;

use crate::line::{number, word};

#[derive(clap::Args, Debug)]
pub(crate) struct Args {
    /// Lines of workload, system, round and the JSON of a load, separated by tabs.
    results: PathBuf,
}

pub(crate) fn run(args: Args) -> io::Result<()> {
    let results = Results::parse(&fs::read_to_string(args.results)?);
    print_cells(&results);
    print_added(&results);
    print_latencies(&results);
    Ok(())
}

const DIRECT: &str = "direct";
const OURS: &str = "lbd";
const SYSTEMS: [&str; 5] = [DIRECT, OURS, "haproxy", "haproxy-splice", "nginx"];

/// Rows of the tables, in order, with the goal: lbd's part of what the best peer adds.
const ROWS: [(&str, Goal); 10] = [
    ("rr1", Goal::Ratio(0.80)),
    ("rr32", Goal::Ratio(0.80)),
    ("rr200", Goal::Ratio(0.80)),
    ("rr32-16k", Goal::None),
    ("cycle", Goal::Ratio(0.85)),
    ("cycle-client", Goal::None),
    ("bulk-down", Goal::Ratio(0.70)),
    ("bulk-up", Goal::Ratio(0.70)),
    ("open", Goal::None),
    ("idle", Goal::Most(2048.0)),
];

#[derive(Clone, Copy, Debug)]
enum Goal {
    None,
    Ratio(f64),
    /// In the unit of the row.
    Most(f64),
}

/// All rounds of one system under one workload.
type Cells = Vec<String>;

#[derive(Debug, Default)]
struct Results {
    cells: BTreeMap<(String, String), Cells>,
}

impl Results {
    fn parse(text: &str) -> Self {
        let mut results = Self::default();
        for line in text.lines() {
            let mut fields = line.splitn(4, '\t');
            let [Some(workload), Some(system), Some(_round), Some(json)] =
                std::array::from_fn(|_| fields.next())
            else {
                continue;
            };
            let key = (workload.to_owned(), system.to_owned());
            results.cells.entry(key).or_default().push(json.to_owned());
        }
        results
    }

    fn cells(&self, workload: &str, system: &str) -> &[String] {
        let key = (workload.to_owned(), system.to_owned());
        self.cells.get(&key).map(Vec::as_slice).unwrap_or_default()
    }

    fn has(&self, workload: &str) -> bool {
        self.cells.keys().any(|(known, _)| known == workload)
    }

    /// Of the undisturbed rounds, or of all where there is none.
    fn values(&self, workload: &str, system: &str, key: &str) -> Vec<f64> {
        let cells = self.cells(workload, system);
        let any_quiet = cells
            .iter()
            .any(|json| strangers_share(json) <= STRANGERS_SHARE_MAX);
        let mut values: Vec<f64> = cells
            .iter()
            .filter(|json| !any_quiet || strangers_share(json) <= STRANGERS_SHARE_MAX)
            .filter_map(|json| number(json, key))
            .collect();
        values.sort_by(f64::total_cmp);
        values
    }

    fn median(&self, workload: &str, system: &str, key: &str) -> Option<f64> {
        median(&self.values(workload, system, key))
    }

    fn cost(&self, workload: &str, system: &str) -> Option<f64> {
        self.median(workload, system, cost_key(workload))
    }

    /// The cost of one unit; memory has nothing to be compared with without a proxy.
    fn added(&self, workload: &str, system: &str) -> Option<f64> {
        let whole = self.cost(workload, system)?;
        match workload {
            "idle" => Some(whole),
            _ => Some(whole - self.cost(workload, DIRECT)?),
        }
    }

    fn best_peer(&self, workload: &str) -> Option<f64> {
        SYSTEMS
            .iter()
            .filter(|system| ![DIRECT, OURS].contains(system))
            .filter_map(|system| self.added(workload, system))
            .min_by(f64::total_cmp)
    }
}

/// More than this and a round is disturbed; the script tries such a round again.
const STRANGERS_SHARE_MAX: f64 = 0.1;

fn strangers_share(json: &str) -> f64 {
    let seconds = |key| number(json, key).unwrap_or(0.0);
    match seconds("cpu_seconds_machine") {
        0.0 => 0.0,
        machine => seconds("cpu_seconds_strangers") / machine,
    }
}

fn cost_key(workload: &str) -> &'static str {
    if workload == "idle" {
        "bytes_per_connection"
    } else {
        "cpu_us_per_unit"
    }
}

fn median(sorted: &[f64]) -> Option<f64> {
    let last = sorted.len().checked_sub(1)?;
    Some((sorted[last / 2] + sorted[last.div_ceil(2)]) / 2.0)
}

fn print_cells(results: &Results) {
    println!("Whole machine, per unit (median, lowest and highest of the rounds)\n");
    println!(
        "{:<13}{:<16}{:>10}{:>10}{:>10}{:>8}  {:<14}{:>9}{:>8}{:>8}",
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
    for (workload, _) in ROWS {
        for system in SYSTEMS {
            let costs = results.values(workload, system, cost_key(workload));
            let (Some(middle), Some(lowest), Some(highest)) =
                (median(&costs), costs.first(), costs.last())
            else {
                continue;
            };
            let errors: f64 = results.values(workload, system, "errors").iter().sum();
            println!(
                "{workload:<13}{system:<16}{middle:>10.2}{lowest:>10.2}{highest:>10.2}{:>8}  {:<14}{:>9}{errors:>8}{:>8}",
                costs.len(),
                unit(results, workload),
                shown(results.median(workload, system, "rate"), 0),
                strangers(results, workload, system),
            );
        }
    }
}

/// The share of the CPU time that other processes took in the rounds used.
fn strangers(results: &Results, workload: &str, system: &str) -> String {
    let total = |key| {
        let values = results.values(workload, system, key);
        values.iter().fold(0.0, |sum, value| sum + value)
    };
    match total("cpu_seconds_machine") {
        0.0 => "-".to_owned(),
        machine => format!("{:.0} %", 100.0 * total("cpu_seconds_strangers") / machine),
    }
}

fn print_added(results: &Results) {
    println!("\nAdded by the proxy (median less the median of direct; idle: user memory)\n");
    print!("{:<13}{:<15}{:>9}", "workload", "unit", "direct");
    for system in &SYSTEMS[1..] {
        print!("{system:>16}");
    }
    println!("{:>12}  goal", "lbd/best");
    for (workload, goal) in ROWS
        .into_iter()
        .filter(|(workload, _)| results.has(workload))
    {
        let unit = unit(results, workload);
        let direct = shown(results.cost(workload, DIRECT), 1);
        print!("{workload:<13}{unit:<15}{direct:>9}");
        for system in &SYSTEMS[1..] {
            print!("{:>16}", shown(results.added(workload, system), 1));
        }
        let ours = results.added(workload, OURS);
        let ratio = ours
            .zip(results.best_peer(workload))
            .map(|(ours, best)| ours / best);
        println!("{:>12}  {}", shown(ratio, 2), verdict(goal, ours, ratio));
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

fn print_latencies(results: &Results) {
    println!("\nLatency, us (medians of the rounds)\n");
    println!(
        "{:<13}{:<16}{:>10}{:>10}{:>10}{:>11}",
        "workload", "system", "p50", "p99", "p99.9", "max"
    );
    for (workload, _) in ROWS {
        for system in SYSTEMS {
            let quantile = |key| results.median(workload, system, key);
            let Some(p50) = quantile("p50_us") else {
                continue;
            };
            println!(
                "{workload:<13}{system:<16}{p50:>10.0}{:>10}{:>10}{:>11}",
                shown(quantile("p99_us"), 0),
                shown(quantile("p999_us"), 0),
                shown(quantile("max_us"), 0),
            );
        }
    }
}

fn unit(results: &Results, workload: &str) -> String {
    let line = SYSTEMS
        .iter()
        .find_map(|system| results.cells(workload, system).first());
    let unit = line.and_then(|line| word(line, "unit")).unwrap_or("?");
    if workload == "idle" {
        "B/conn".to_owned()
    } else {
        format!("us/{unit}")
    }
}

fn shown(value: Option<f64>, digits: usize) -> String {
    value.map_or_else(|| "-".to_owned(), |value| format!("{value:.digits$}"))
}
