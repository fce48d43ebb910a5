//! What is promised, what was measured, and whether the one holds the other.

use std::fmt;

/// One line of the verdict.
#[derive(Debug)]
pub struct Promise {
    name: &'static str,
    measured: String,
    required: String,
    holds: bool,
}

impl Promise {
    /// Holds for a number up to `limit`.
    pub fn at_most(name: &'static str, measured: f64, limit: f64) -> Self {
        Self {
            name,
            measured: number(measured),
            required: format!("<={}", number(limit)),
            holds: measured <= limit,
        }
    }

    /// Holds for a number from `limit` on.
    pub fn at_least(name: &'static str, measured: f64, limit: f64) -> Self {
        Self {
            name,
            measured: number(measured),
            required: format!(">={}", number(limit)),
            holds: measured >= limit,
        }
    }

    /// Holds for a number that is no further than `tolerance` from `target`.
    pub fn within(name: &'static str, measured: f64, target: f64, tolerance: f64) -> Self {
        Self {
            name,
            measured: number(measured),
            required: format!("{}±{}", number(target), number(tolerance)),
            holds: (measured - target).abs() <= tolerance,
        }
    }

    /// Holds if both say the same.
    pub fn same(name: &'static str, measured: impl fmt::Display, required: &str) -> Self {
        let (measured, required) = (measured.to_string(), required.to_owned());
        Self {
            name,
            holds: measured == required,
            measured,
            required,
        }
    }

    pub fn holds(&self) -> bool {
        self.holds
    }
}

impl fmt::Display for Promise {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            name,
            measured,
            required,
            holds,
        } = self;
        let verdict = if *holds { "ok" } else { "FAILED" };
        write!(
            f,
            "promise {name} measured={measured} required={required} {verdict}"
        )
    }
}

/// Up to three decimals.
fn number(number: f64) -> String {
    let text = format!("{number:.3}");
    match text.contains('.') {
        true => text.trim_end_matches('0').trim_end_matches('.').to_owned(),
        false => text,
    }
}
