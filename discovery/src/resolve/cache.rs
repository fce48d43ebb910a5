//! What to serve when a registry errs: the fail-static rules, as pure state without I/O or clock.
//!
//! A registry that is down, restarting or cut off must not take healthy services with it. So the
//! last believed set is served through everything that is not a plain answer (as Eureka's client
//! and gRFC A88 do), and an answer that lost most of the set is doubted first:
//!
//! ```text
//!            answer with at least half of the set: served as it is
//!          +-----+        +---------------------------------------+
//!          |     v        v                                       |
//!   +-------------------------+  answer with less than half  +--------------------------+
//!   |        believed         | ---------------------------> |         doubted          |
//!   | served = last answer    |                              | served = last answer     |
//!   +-------------------------+ <--------------------------- |        + what it lacks   |
//!          |     ^               grace time without an error +--------------------------+
//!          +-----+                                                |
//!           error: nothing changes      <-------------------------+
//!                                        error: the doubt starts anew
//! ```
//!
//! * **Additions and changes** are served at once, also out of a doubted answer.
//! * **An explicit deregistration** is obeyed at once: a record with [`Status::Down`].
//! * **One by one** is explicit enough: the last instance may go at once if it is the only change
//!   and the one before it went the same way less than the grace time ago.
//! * **Everything else that leaves less than half** is served from memory until the answer has stood
//!   for the grace time with no error in between.

use std::{cmp::Ordering, collections::BTreeSet, sync::Arc, time::Duration};

use tokio::time::Instant;

use super::{ResolveError, Snapshot, watch::Health};
use crate::instance::{Instance, Status};

/// What an event did to the served set.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// It is as before.
    Unchanged,
    /// It is now what the registry says.
    Applied {
        /// Instances that were not served before.
        added: usize,
        /// Instances that are served no more.
        removed: usize,
    },
    /// The answer is doubted: what it lacks is served on.
    Held {
        /// How many instances the answer has.
        answered: usize,
        /// How many it lacks that are served on.
        held: usize,
        /// Whether the doubt began with this answer.
        began: bool,
    },
}

/// The fail-static rules for one service. See the [module](self).
///
/// Time is passed in, and must not go backwards.
///
/// ```
/// use std::time::Duration;
/// use tokio::time::Instant;
/// use tower_mesh_discovery::{
///     instance::Instance,
///     resolve::{FailStatic, snapshot},
/// };
///
/// let ten = snapshot((0..10).map(|i| Instance::new("orders", format!("orders-{i}"))));
/// let (start, grace) = (Instant::now(), Duration::from_secs(30));
///
/// let mut rules = FailStatic::new(grace, start);
/// rules.answer(start, ten);
/// rules.answer(start, snapshot(Vec::<Instance>::new()));
/// assert_eq!(rules.served().unwrap().len(), 10, "all gone at once is doubted");
///
/// rules.tick(start + grace);
/// assert_eq!(rules.served().unwrap().len(), 0, "and believed when it stays so");
/// ```
#[derive(Debug)]
pub struct FailStatic {
    grace: Duration,
    /// The last answer that was believed, without what was deregistered since.
    believed: Option<Snapshot>,
    served: Option<Snapshot>,
    doubt: Option<Doubt>,
    /// When the last believed answer took away one instance and did nothing else.
    single_removal: Option<Instant>,
    stale_since: Option<Instant>,
    age_at_boot: Duration,
    last_error: Option<ResolveError>,
}

#[derive(Debug)]
struct Doubt {
    since: Instant,
    answer: Snapshot,
    held: usize,
}

// ===== impl FailStatic =====

impl FailStatic {
    /// The grace time unless told otherwise: 30 s.
    pub const DEFAULT_GRACE: Duration = Duration::from_secs(30);

    /// Nothing is known yet. An answer without most of the instances is doubted for `grace`.
    pub fn new(grace: Duration, now: Instant) -> Self {
        Self {
            grace,
            believed: None,
            served: None,
            doubt: None,
            single_removal: None,
            stale_since: Some(now),
            age_at_boot: Duration::ZERO,
            last_error: None,
        }
    }

    /// Serves a set that was saved `age` ago, unless something is known already.
    pub fn boot(&mut self, now: Instant, saved: Snapshot, age: Duration) -> Verdict {
        if self.served.is_some() {
            return Verdict::Unchanged;
        }
        let (saved, _) = normalize(&[], saved);
        (self.stale_since, self.age_at_boot) = (Some(now), age);
        self.believed = Some(Arc::clone(&saved));
        self.serve(saved)
    }

    /// The registry answered. `answer` need not be sorted; of several records with one id the first
    /// counts.
    pub fn answer(&mut self, now: Instant, answer: Snapshot) -> Verdict {
        self.last_error = None;
        let known: &[_] = self.served.as_deref().unwrap_or_default();
        let (answer, deregistered) = normalize(known, answer);
        let known = self.believed.take().unwrap_or_else(|| Arc::new([]));
        let base = without(&known, &deregistered);
        let change = Change::between(&base, &answer);

        if self.is_doubtful(now, base.len(), answer.len(), change) {
            let began = self.doubt.is_none();
            let since = self.doubt.as_ref().map_or(now, |doubt| doubt.since);
            let union = union(&answer, &base);
            let held = union.len() - answer.len();
            let verdict = Verdict::Held {
                answered: answer.len(),
                held,
                began,
            };
            self.believed = Some(base);
            self.doubt = Some(Doubt {
                since,
                answer,
                held,
            });
            self.stale_since.get_or_insert(now);
            self.serve(union);
            return verdict;
        }
        if change != Change::NONE {
            self.single_removal = (change == Change::ONE_REMOVED).then_some(now);
        }
        self.believe(answer)
    }

    /// The registry could not answer.
    pub fn error(&mut self, now: Instant, error: ResolveError) {
        self.stale_since.get_or_insert(now);
        self.last_error = Some(error);
        // What a failing registry said last is no reason to drop anything: it starts over.
        self.doubt = None;
    }

    /// Another grace time, for doubts under way as well.
    pub fn set_grace(&mut self, grace: Duration) {
        self.grace = grace;
    }

    /// Time went by: a doubt that reached its grace time ends, and its answer is believed.
    pub fn tick(&mut self, now: Instant) -> Verdict {
        match self.doubt.take_if(|doubt| doubt.since + self.grace <= now) {
            Some(doubt) => self.believe(doubt.answer),
            None => Verdict::Unchanged,
        }
    }

    /// When to [`tick`](Self::tick) next.
    pub fn deadline(&self) -> Option<Instant> {
        self.doubt.as_ref().map(|doubt| doubt.since + self.grace)
    }

    /// The set to serve; `None` while nothing is known.
    pub fn served(&self) -> Option<&Snapshot> {
        self.served.as_ref()
    }

    /// How good the served set is.
    pub fn health(&self) -> Health {
        Health {
            stale_since: self.stale_since,
            age_at_boot: self.age_at_boot,
            held: self.doubt.as_ref().map_or(0, |doubt| doubt.held),
            last_error: self.last_error.clone(),
        }
    }

    fn is_doubtful(&self, now: Instant, base: usize, answered: usize, change: Change) -> bool {
        let lost_most = answered * 2 < base;
        let stood = self
            .doubt
            .as_ref()
            .is_some_and(|doubt| doubt.since + self.grace <= now);
        let one_by_one = change == Change::ONE_REMOVED
            && self.single_removal.is_some_and(|at| now < at + self.grace);
        lost_most && !stood && !one_by_one
    }

    fn believe(&mut self, answer: Snapshot) -> Verdict {
        self.doubt = None;
        (self.stale_since, self.age_at_boot) = (None, Duration::ZERO);
        self.believed = Some(Arc::clone(&answer));
        self.serve(answer)
    }

    fn serve(&mut self, set: Snapshot) -> Verdict {
        let Some(before) = self.served.replace(Arc::clone(&set)) else {
            return Verdict::Applied {
                added: set.len(),
                removed: 0,
            };
        };
        if super::is_same(&before, &set) {
            self.served = Some(before); // the same `Arc`, so that a reader sees at a glance
            return Verdict::Unchanged;
        }
        let Change { added, removed } = Change::between(&before, &set);
        Verdict::Applied { added, removed }
    }
}

/// How many ids two sets do not share.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Change {
    added: usize,
    removed: usize,
}

// ===== impl Change =====

impl Change {
    const NONE: Self = Self {
        added: 0,
        removed: 0,
    };
    const ONE_REMOVED: Self = Self {
        added: 0,
        removed: 1,
    };

    fn between(before: &[Arc<Instance>], after: &[Arc<Instance>]) -> Self {
        let mut change = Self::NONE;
        merge(before, after, |old, new| match (old, new) {
            (Some(_), None) => change.removed += 1,
            (None, Some(_)) => change.added += 1,
            _ => {}
        });
        change
    }
}

/// The answer in order, without what is deregistered (whose ids come second), and with the `Arc`s of
/// `known` where nothing changed.
fn normalize(known: &[Arc<Instance>], answer: Snapshot) -> (Snapshot, BTreeSet<String>) {
    let answer = super::snapshot(answer.iter().cloned());
    let down = |instance: &&Arc<Instance>| instance.status == Status::Down;
    let deregistered = answer
        .iter()
        .filter(down)
        .map(|instance| instance.id.clone())
        .collect();
    let mut live = Vec::with_capacity(answer.len());
    merge(known, &answer, |old, new| match (old, new) {
        (_, Some(new)) if new.status == Status::Down => {}
        (Some(old), Some(new)) if old == new => live.push(Arc::clone(old)),
        (_, Some(new)) => live.push(Arc::clone(new)),
        (_, None) => {}
    });
    (live.into(), deregistered)
}

fn without(set: &Snapshot, ids: &BTreeSet<String>) -> Snapshot {
    if ids.is_empty() {
        return Arc::clone(set);
    }
    set.iter()
        .filter(|instance| !ids.contains(&instance.id))
        .cloned()
        .collect()
}

/// Both sets; the record of `first` where both have one.
fn union(first: &[Arc<Instance>], second: &[Arc<Instance>]) -> Snapshot {
    let mut all = Vec::with_capacity(first.len().max(second.len()));
    merge(first, second, |a, b| all.extend(a.or(b).cloned()));
    all.into()
}

/// Walks two sorted sets together: `visit` gets the records of each id in turn.
fn merge<'a>(
    a: &'a [Arc<Instance>],
    b: &'a [Arc<Instance>],
    mut visit: impl FnMut(Option<&'a Arc<Instance>>, Option<&'a Arc<Instance>>),
) {
    let (mut a, mut b) = (a.iter().peekable(), b.iter().peekable());
    loop {
        let order = match (a.peek(), b.peek()) {
            (Some(a), Some(b)) => a.id.cmp(&b.id),
            (Some(_), None) => Ordering::Less,
            (None, Some(_)) => Ordering::Greater,
            (None, None) => return,
        };
        let from_a = order.is_le().then(|| a.next()).flatten();
        let from_b = order.is_ge().then(|| b.next()).flatten();
        visit(from_a, from_b);
    }
}

#[cfg(test)]
#[path = "cache_tests.rs"]
mod tests;
