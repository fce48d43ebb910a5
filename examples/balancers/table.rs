//! What a person sees.

use std::{
    io::{IsTerminal, Write, stderr},
    time::Duration,
};

use tower_mesh::discovery::sim::{Outcome, Scenario};

/// One scenario; the oracle comes first, and the others are compared with it.
#[derive(Default)]
pub struct Table {
    oracle: Option<[f64; 2]>,
}

impl Table {
    pub fn new(scenario: &Scenario, seeds: usize) -> Self {
        println!(
            "\n{}: {} clients, {} servers, {:.0} calls/s, {} work, {seeds} seeds",
            scenario.name,
            scenario.clients,
            scenario.servers,
            scenario.rate(),
            scenario.law.name(),
        );
        println!(
            "{:<24}{:>8}{:>28}{:>8}{:>31}{:>8}{:>10}{:>10}",
            "who", "p50 ms", "p99 ms (least to most)", "x", "p999 ms", "x", "troubled", "failed"
        );
        Self::default()
    }

    pub fn show(&mut self, name: &str, outcomes: &[Outcome]) {
        let quantile = |share| spread(outcomes, |outcome| millis(outcome.quantile(share)));
        let ([_, p50, _], p99, p999) = (quantile(0.5), quantile(0.99), quantile(0.999));
        let oracle = *self.oracle.get_or_insert([p99[1], p999[1]]);
        let [_, troubled, _] = spread(outcomes, |outcome| 100.0 * outcome.troubled_share());
        let [_, failed, _] = spread(outcomes, |outcome| 100.0 * outcome.failed_share());
        let range =
            |[least, median, most]: [f64; 3]| format!("{median:.1} ({least:.1} to {most:.1})");
        clear();
        println!(
            "{name:<24}{p50:>8.1}{:>28}{:>8.2}{:>31}{:>8.2}{troubled:>9.2}%{failed:>9.3}%",
            range(p99),
            p99[1] / oracle[0],
            range(p999),
            p999[1] / oracle[1],
        );
    }
}

/// Which run is on, where somebody looks.
pub fn progress(name: &str, run: usize, of: usize) {
    if stderr().is_terminal() {
        clear();
        eprint!("\r{name}: seed {} of {of}", run + 1);
        let _ = stderr().flush();
    }
}

fn clear() {
    if stderr().is_terminal() {
        eprint!("\r\x1b[K");
    }
}

/// Least, median and most.
fn spread(outcomes: &[Outcome], of: impl Fn(&Outcome) -> f64) -> [f64; 3] {
    let mut all: Vec<f64> = outcomes.iter().map(of).collect();
    all.sort_by(f64::total_cmp);
    [all[0], all[all.len() / 2], all[all.len() - 1]]
}

fn millis(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1e3
}
