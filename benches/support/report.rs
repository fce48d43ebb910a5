//! The table for people, the rows and bars for machines.

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

#[derive(Clone, Copy, Debug)]
pub(crate) enum Required {
    AtMost(f64),
    AtLeast(f64),
}

/// What is to hold. A bar without its number fails.
#[derive(Clone, Debug)]
pub(crate) struct Bar {
    pub(crate) name: String,
    pub(crate) measured: Option<f64>,
    pub(crate) required: Required,
    /// What must hold meanwhile, where that is not met yet.
    pub(crate) reached: Option<Required>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Verdict {
    Ok,
    Short,
    Failed,
}

/// Prints one line per row under a heading.
pub(crate) fn print_table(rows: &[Row]) {
    println!(
        "\n{:<16}{:<14}{:<26}{:>9}{:>8}{:>11}{:>9}{:>8}{:>8}  clean slices",
        "policy", "request", "who", "added Ir", "allocs", "added ns", "p10 ns", "ratio", "scale2"
    );
    for row in rows {
        println!(
            "{:<16}{:<14}{:<26}{:>9}{:>8}{:>11}{:>9}{:>8}{:>8}  {}",
            row.subject.policy.name(),
            row.scenario.name(),
            row.subject.name,
            number(row.counted.map(|counted| counted.instructions), 0),
            number(row.counted.map(|counted| counted.allocations), 2),
            number(row.added.map(|added| added.median), 0),
            number(row.added.map(|added| added.p10), 0),
            number(row.ratio, 2),
            number(row.scale.map(|scale| scale.speedup), 2),
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
            number(row.ratio, 2),
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

/// Prints the bars; `false` if one fails.
pub(crate) fn print_bars(bars: &[Bar]) -> bool {
    let verdicts: Vec<Verdict> = bars.iter().map(Bar::verdict).collect();
    for (bar, verdict) in bars.iter().zip(&verdicts) {
        let verdict = match (verdict, bar.reached) {
            (Verdict::Ok, _) => "ok".to_owned(),
            (Verdict::Short, Some(reached)) => format!("short ({} holds)", reached.text()),
            (Verdict::Failed, Some(reached)) => format!("{MISSING} (was {})", reached.text()),
            (Verdict::Short | Verdict::Failed, None) => MISSING.to_owned(),
        };
        println!(
            "bar {} measured={} required={} {verdict}",
            bar.name,
            number(bar.measured, 2),
            bar.required.text(),
        );
    }
    let of = |wanted| {
        verdicts
            .iter()
            .filter(|verdict| **verdict == wanted)
            .count()
    };
    println!(
        "bars: {} ok, {} short of their target, {} failed",
        of(Verdict::Ok),
        of(Verdict::Short),
        of(Verdict::Failed),
    );
    of(Verdict::Failed) == 0
}

/// Below it, two threads got in each other's way, or their neighbours did.
const CONTROL_SCALE: f64 = 1.8;
const MISSING: &str = "FAILED";

fn number(value: Option<f64>, digits: usize) -> String {
    match value {
        // A sum that cancels out must not read as minus nothing.
        Some(value) if value.is_finite() => format!("{:.digits$}", value + 0.0),
        _ => MISSING.to_owned(),
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

// ===== impl Bar =====

impl Bar {
    fn verdict(&self) -> Verdict {
        let holds = |required: Required| self.measured.is_some_and(|number| required.holds(number));
        if holds(self.required) {
            Verdict::Ok
        } else if self.reached.is_some_and(holds) {
            Verdict::Short
        } else {
            Verdict::Failed
        }
    }
}

// ===== impl Required =====

impl Required {
    /// The same way round with another number.
    pub(crate) fn with(self, number: f64) -> Self {
        match self {
            Self::AtMost(_) => Self::AtMost(number),
            Self::AtLeast(_) => Self::AtLeast(number),
        }
    }

    fn holds(self, measured: f64) -> bool {
        match self {
            Self::AtMost(limit) => measured <= limit,
            Self::AtLeast(limit) => measured >= limit,
        }
    }

    fn text(self) -> String {
        match self {
            Self::AtMost(limit) => format!("<={limit}"),
            Self::AtLeast(limit) => format!(">={limit}"),
        }
    }
}
