//! The cells that `scripts/bench.sh` has measured, and the medians over their rounds.

use std::collections::BTreeMap;

use crate::line::number;

/// All rounds of one system under one workload.
type Cells = Vec<String>;

#[derive(Debug, Default)]
pub(crate) struct Results {
    cells: BTreeMap<(String, String), Cells>,
}

impl Results {
    pub(crate) fn parse(text: &str) -> Self {
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

    pub(crate) fn cells(&self, workload: &str, system: &str) -> &[String] {
        let key = (workload.to_owned(), system.to_owned());
        self.cells.get(&key).map(Vec::as_slice).unwrap_or_default()
    }

    pub(crate) fn has(&self, workload: &str) -> bool {
        self.cells.keys().any(|(known, _)| known == workload)
    }

    /// In order; of the undisturbed rounds, or of all where there is none.
    pub(crate) fn values(&self, workload: &str, system: &str, key: &str) -> Vec<f64> {
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

    /// See [`Results::values`].
    pub(crate) fn median(&self, workload: &str, system: &str, key: &str) -> Option<f64> {
        median(&self.values(workload, system, key))
    }

    /// The sum over the rounds that count.
    pub(crate) fn total(&self, workload: &str, system: &str, key: &str) -> f64 {
        // Not `sum`: that of nothing is a negative zero.
        let values = self.values(workload, system, key);
        values.iter().fold(0.0, |sum, value| sum + value)
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

/// The middle of values in order; none of none.
pub(crate) fn median(sorted: &[f64]) -> Option<f64> {
    let last = sorted.len().checked_sub(1)?;
    Some((sorted[last / 2] + sorted[last.div_ceil(2)]) / 2.0)
}
