//! What is to hold, and whether it does.

/// In the place of a number that is missing.
pub(crate) const MISSING: &str = "FAILED";

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

/// A number for people and machines; it says so when there is none.
pub(crate) fn number(value: Option<f64>, digits: usize) -> String {
    match value {
        // A sum that cancels out must not read as minus nothing.
        Some(value) if value.is_finite() => format!("{:.digits$}", value + 0.0),
        _ => MISSING.to_owned(),
    }
}

// ===== impl Bar =====

impl Bar {
    /// `reached` is what was measured before, by name, where the target is not met yet.
    pub(crate) fn new(
        name: String,
        measured: Option<f64>,
        required: Required,
        reached: &[(&str, f64)],
    ) -> Self {
        let reached = reached.iter().find(|(of, _)| *of == name);
        Self {
            reached: reached.map(|(_, number)| required.with(*number)),
            name,
            measured,
            required,
        }
    }

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
    fn with(self, number: f64) -> Self {
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
