//! The endpoints of a service as those see them who change the set, and who is due for a trial.

use std::{
    cmp::Reverse,
    collections::BinaryHeap,
    sync::{Arc, Weak},
};

use super::{endpoint::Member, pick::Picker, set::Members};

/// The time of the first trial when none is due.
pub(super) const NEVER: u64 = u64::MAX;

/// What changes under the lock.
pub(super) struct Roster<S> {
    pub(super) members: Members<S>,
    pub(super) draining: Members<S>,
    pub(super) picker: Picker,
    /// How many are ejected, or on trial after it.
    pub(super) ejected: usize,
    due: BinaryHeap<Reverse<Entry<S>>>,
    entries: u64,
    pub(super) rng: fastrand::Rng,
}

struct Entry<S> {
    at: u64,
    /// Makes the order total.
    number: u64,
    member: Weak<Member<S>>,
}

// ===== impl Roster =====

impl<S> Roster<S> {
    pub(super) fn new(picker: Picker) -> Self {
        Self {
            members: Arc::new([]),
            draining: Arc::new([]),
            picker,
            ejected: 0,
            due: BinaryHeap::new(),
            entries: 0,
            rng: fastrand::Rng::new(),
        }
    }

    pub(super) fn push_due(&mut self, at: u64, member: &Arc<Member<S>>) {
        self.entries += 1;
        self.due.push(Reverse(Entry {
            at,
            number: self.entries,
            member: Arc::downgrade(member),
        }));
    }

    pub(super) fn pop_due(&mut self, now: u64) -> Option<Arc<Member<S>>> {
        while self.next_due() <= now {
            let Reverse(entry) = self.due.pop()?;
            if let Some(member) = entry.member.upgrade() {
                return Some(member);
            }
        }
        None
    }

    pub(super) fn next_due(&self) -> u64 {
        self.due.peek().map_or(NEVER, |Reverse(entry)| entry.at)
    }
}

// ===== impl Entry =====

impl<S> Ord for Entry<S> {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        (self.at, self.number).cmp(&(other.at, other.number))
    }
}

impl<S> PartialOrd for Entry<S> {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl<S> PartialEq for Entry<S> {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other).is_eq()
    }
}

impl<S> Eq for Entry<S> {}
