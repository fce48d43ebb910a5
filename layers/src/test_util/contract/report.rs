//! What an examination found.

use std::fmt;

/// A rule of the contract.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Rule {
    /// An instance is called only after that instance was polled ready; what was reserved is given
    /// back when the service is dropped instead; a failing readiness comes through.
    Readiness,
    /// Pending means waiting: nobody is woken before there is something to do.
    Wakeups,
    /// A call may be dropped after any poll; nothing stays held and the next call works.
    Cancel,
    /// A panic of the inner service, in `call`, its future or its body, leaves nothing held, and the
    /// next call works.
    Panic,
    /// Every [`BodyCase`](crate::test_util::BodyCase) comes through unchanged, with its length and
    /// its end, and leaves nothing held.
    Bodies,
    /// Each call counts as it should: see [`Verdict`](crate::test_util::Verdict).
    Outcomes,
    /// Frames pass as they come, in both directions, and a large request arrives byte by byte.
    Streaming,
    /// The error of the inner service comes through, as it is or as a source.
    Errors,
    /// `layer()` makes no state: services of one layer, and of its clones, share everything.
    Reapplication,
    /// After many interleaved calls, many of them dropped and some of them panicking, nothing is
    /// held and the next call works.
    Churn,
    /// A call makes no more clones of the inner service than the layer says.
    Clones,
}

/// A broken rule.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Violation {
    /// The rule.
    pub rule: Rule,
    /// What was done and what came of it.
    pub detail: String,
}

/// What the examination of a layer found.
#[derive(Debug, Clone, Default)]
#[must_use = "a report that nobody looks at fails no test"]
pub struct Report {
    /// Which layer.
    pub name: String,
    /// The rules that it broke.
    pub violations: Vec<Violation>,
    /// The rules that could not be checked, because a hook is missing or because they were waived.
    pub unchecked: Vec<Rule>,
}

// ===== impl Report =====

impl Report {
    pub(super) fn violate(&mut self, rule: Rule, detail: impl Into<String>) {
        let violation = Violation {
            rule,
            detail: detail.into(),
        };
        if !self.violations.contains(&violation) {
            self.violations.push(violation);
        }
    }

    /// Whether `rule` was broken.
    pub fn broke(&self, rule: Rule) -> bool {
        self.violations
            .iter()
            .any(|violation| violation.rule == rule)
    }

    /// Fails the test if a rule was broken.
    ///
    /// # Panics
    ///
    /// Panics with all violations if there are any.
    #[track_caller]
    pub fn assert_kept(&self) {
        assert!(self.violations.is_empty(), "{self}");
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.violations.is_empty() {
            write!(f, "{} keeps the contract", self.name)?;
        } else {
            write!(f, "{} breaks the contract:", self.name)?;
        }
        for violation in &self.violations {
            write!(f, "\n  {violation}")?;
        }
        if !self.unchecked.is_empty() {
            write!(f, "\n  not checked: {:?}", self.unchecked)?;
        }
        Ok(())
    }
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}: {}", self.rule, self.detail)
    }
}
