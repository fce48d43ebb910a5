//! What runs a failure class with and without its protection, and notes what came of it.

use std::{fmt, fs, path::Path};

/// Whether what a class is about is switched on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Protection {
    On,
    Off,
}

/// What a class has measured, each number with its bound. The bounds are the same whether the
/// protection is on or off.
#[derive(Debug, Default)]
pub(crate) struct Measured(Vec<Number>);

#[derive(Debug)]
struct Number {
    what: &'static str,
    value: f64,
    bound: Bound,
}

#[derive(Debug, Clone, Copy)]
#[allow(dead_code, reason = "not every kind of bound has its class yet")]
enum Bound {
    AtMost(f64),
    AtLeast(f64),
    Exactly(f64),
    Within(f64, f64),
}

/// Makes a test of each class: `"R4", "half-open stampede" => module::function;`
macro_rules! classes {
    ($($id:literal, $title:literal => $module:ident :: $run:ident;)*) => {$(
        #[test]
        fn $run() {
            $crate::harness::check($id, $title, $module::$run);
        }
    )*};
}
pub(crate) use classes;

// ===== impl Protection =====

impl Protection {
    pub(crate) fn is_on(self) -> bool {
        self == Self::On
    }

    /// The one or the other.
    pub(crate) fn pick<T>(self, on: T, off: T) -> T {
        if self.is_on() { on } else { off }
    }
}

// ===== impl Measured =====

#[allow(dead_code, reason = "not every kind of bound has its class yet")]
impl Measured {
    pub(crate) fn new() -> Self {
        Self::default()
    }

    /// A number that must not be above `bound`.
    pub(crate) fn at_most(self, what: &'static str, bound: impl Into<f64>, value: f64) -> Self {
        self.number(what, value, Bound::AtMost(bound.into()))
    }

    /// A number that must not be below `bound`.
    pub(crate) fn at_least(self, what: &'static str, bound: impl Into<f64>, value: f64) -> Self {
        self.number(what, value, Bound::AtLeast(bound.into()))
    }

    /// A number that must be `bound`.
    pub(crate) fn exactly(self, what: &'static str, bound: impl Into<f64>, value: f64) -> Self {
        self.number(what, value, Bound::Exactly(bound.into()))
    }

    /// A number that must be neither below `least` nor above `most`.
    pub(crate) fn within(self, what: &'static str, (least, most): (f64, f64), value: f64) -> Self {
        self.number(what, value, Bound::Within(least, most))
    }

    fn number(mut self, what: &'static str, value: f64, bound: Bound) -> Self {
        self.0.push(Number { what, value, bound });
        self
    }

    fn holds(&self) -> bool {
        self.0.iter().all(Number::holds)
    }

    fn join(&self, show: impl Fn(&Number) -> String) -> String {
        self.0.iter().map(show).collect::<Vec<_>>().join(", ")
    }

    fn required(&self) -> String {
        self.join(|number| format!("{} {}", number.what, number.bound))
    }

    fn values(&self) -> String {
        self.join(|number| Figure(number.value).to_string())
    }
}

impl Number {
    fn holds(&self) -> bool {
        match self.bound {
            Bound::AtMost(most) => self.value <= most,
            Bound::AtLeast(least) => self.value >= least,
            Bound::Exactly(value) => self.value == value,
            Bound::Within(least, most) => (least..=most).contains(&self.value),
        }
    }
}

impl fmt::Display for Bound {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::AtMost(most) => write!(f, "≤ {}", Figure(most)),
            Self::AtLeast(least) => write!(f, "≥ {}", Figure(least)),
            Self::Exactly(value) => write!(f, "= {}", Figure(value)),
            Self::Within(least, most) => write!(f, "{}..{}", Figure(least), Figure(most)),
        }
    }
}

/// A number as people write it: whole ones without a point.
struct Figure(f64);

impl fmt::Display for Figure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.fract() == 0.0 {
            write!(f, "{}", self.0)
        } else {
            write!(f, "{:.2}", self.0)
        }
    }
}

// ===== running =====

/// Runs a class with its protection and without, notes the row of the table, and judges.
pub(crate) fn check(id: &str, title: &str, run: impl Fn(Protection) -> Measured) {
    let (on, off) = (run(Protection::On), run(Protection::Off));
    note(id, title, &on, &off);
    assert!(on.holds(), "{id}, {title}: {on:#?}");
    assert!(
        !off.holds(),
        "{id}, {title}: holds without the protection too, so this proves nothing: {off:#?}"
    );
}

/// Writes the row to a file of its own: tests run beside each other, in processes of their own under
/// some runners. `tests/run` removes the files before it, and prints them after it.
fn note(id: &str, title: &str, on: &Measured, off: &Measured) {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("failures");
    let mark = if on.holds() && !off.holds() {
        ""
    } else {
        "FAILED"
    };
    let write = |file: &str, [class, title, required, on, off, mark]: [&str; 6]| {
        let row = format!("{class:<5}{title:<28}{required:<52}{on:<18}{off:<18}{mark}");
        fs::write(folder.join(file), row.trim_end().to_owned() + "\n").expect("a file in target");
    };
    fs::create_dir_all(&folder).expect("a folder in target");
    write("0.txt", ["class", "", "required", "on", "off", ""]);
    let (letter, number) = id.split_at(1);
    write(
        // So that R4 comes before R10.
        &format!("{letter}{number:0>2}.txt"),
        [id, title, &on.required(), &on.values(), &off.values(), mark],
    );
}

/// Runs on one thread with the clock paused: time passes only where nothing else is left to do.
pub(crate) fn paused<T>(run: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .start_paused(true)
        .build();
    runtime.expect("a runtime").block_on(run)
}

/// Runs on two threads with the clock of the machine: for what only sockets show.
pub(crate) fn threads<T>(run: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build();
    runtime.expect("a runtime").block_on(run)
}
