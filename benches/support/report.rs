//! The table for people, the rows and bars for machines.

use super::bar::{MISSING, number};
use super::callgrind::Counted;
use super::cpu::Added;
use super::scale::Scale;
use super::stats::median;
use super::subjects::{Role, Subject};
use super::traffic::Scenario;

/// A case with whatever could be measured of it, the bare service already taken off.
#[derive(Clone, Copy)]
pub(crate) struct Row {
    pub(crate) subject: Subject,
    pub(crate) scenario: Scenario,
    pub(crate) counted: Option<Counted>,
    pub(crate) added: Option<Added>,
    pub(crate) scale: Option<Scale>,
    /// Added CPU of the peer over that of ours.
    pub(crate) ratio: Option<f64>,
}

/// Prints one line per row under a heading.
pub(crate) fn print_table(rows: &[Row]) {
    println!(
        "\n{:<16}{:<14}{:<26}{:>9}{:>8}{:>11}{:>9}{:>8}{:>8}{:>8}  clean slices",
        "policy",
        "request",
        "who",
        "added Ir",
        "allocs",
        "added ns",
        "p10 ns",
        "ratio",
        "scale2",
        "ns2"
    );
    for row in rows {
        println!(
            "{:<16}{:<14}{:<26}{:>9}{:>8}{:>11}{:>9}{:>8}{:>8}{:>8}  {}",
            row.subject.policy.name(),
            row.scenario.name(),
            row.subject.name,
            number(row.counted.map(|counted| counted.instructions), 0),
            number(row.counted.map(|counted| counted.allocations), 2),
            number(row.added.map(|added| added.median), 0),
            number(row.added.map(|added| added.p10), 0),
            ratio(row),
            number(row.scale.map(|scale| scale.speedup), 2),
            number(row.scale.map(|scale| scale.nanos), 0),
            row.scale.map(slices).unwrap_or_default(),
        );
    }
    println!();
}

/// Says what the two-thread numbers of this run are worth: the bare service shares nothing, so it must scale.
///
/// No bar: it tells of the machine, not of the layers.
pub(crate) fn print_control(rows: &[Row]) {
    let bare = rows.iter().filter(|row| row.subject.role == Role::Base);
    let scales: Vec<f64> = bare.filter_map(|row| Some(row.scale?.speedup)).collect();
    let control = median(&scales);
    let verdict = match control {
        Some(control) if control >= CONTROL_SCALE => "the machine was quiet enough",
        _ => "a busy machine: no scale2 of this run can be relied on",
    };
    println!(
        "control scale2={} of the bare service: {verdict}\n",
        number(control, 2)
    );
}

/// Prints the machine-readable rows; `false` if a number of a row is missing.
pub(crate) fn print_rows(rows: &[Row]) -> bool {
    let mut complete = true;
    for row in rows {
        let numbers = [
            number(row.counted.map(|counted| counted.instructions), 1),
            number(row.counted.map(|counted| counted.allocations), 2),
            number(row.scale.map(|scale| scale.speedup), 2),
            ratio(row),
        ];
        complete &= numbers.iter().all(|number| number != MISSING);
        let [instructions, allocations, scale, ratio] = numbers;
        println!(
            "row bench={} case={}/{} added_ir={instructions} allocs={allocations} scale2={scale} \
             ratio={ratio}",
            row.subject.policy.name(),
            row.subject.name,
            row.scenario.name(),
        );
    }
    complete
}

/// Below it, two threads got in each other's way, or their neighbours did.
const CONTROL_SCALE: f64 = 1.8;

/// Nobody's hedge can be cloned for each call but ours: there is no peer to divide by.
fn ratio(row: &Row) -> String {
    if row.subject.policy.has_peer() {
        number(row.ratio, 2)
    } else {
        "none".to_owned()
    }
}

fn slices(scale: Scale) -> String {
    let Scale {
        clean,
        slices,
        filtered,
        ..
    } = scale;
    let note = if filtered {
        ""
    } else {
        " (unfiltered: leaves its core, or a busy machine)"
    };
    format!("{clean}/{slices}{note}")
}
