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
    /// Due, and passed over by the calls of other arms: they wait for one of their own.
    passed_over: Vec<Weak<Member<S>>>,
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
            passed_over: Vec::new(),
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

    /// An endpoint that is due, and that the call is meant for.
    pub(super) fn pop_due(
        &mut self,
        now: u64,
        meant: impl Fn(&Member<S>) -> bool,
    ) -> Option<Arc<Member<S>>> {
        let is_meant = |waiting: &Weak<Member<S>>| waiting.upgrade().is_some_and(|m| meant(&m));
        if let Some(place) = self.passed_over.iter().position(is_meant) {
            return self.passed_over.swap_remove(place).upgrade();
        }
        while self.next_due() <= now {
            let Reverse(entry) = self.due.pop()?;
            match entry.member.upgrade() {
                Some(member) if meant(&member) => return Some(member),
                Some(_) if !self.passed_over.iter().any(|m| m.ptr_eq(&entry.member)) => {
                    self.passed_over.push(entry.member);
                }
                _ => {}
            }
        }
        None
    }

    /// How many wait for a call of their own arm.
    pub(super) fn passed_over(&self) -> usize {
        self.passed_over.len()
    }

    /// Forgets those that need no trial any more.
    pub(super) fn tidy(&mut self) {
        self.passed_over.retain(|waiting| {
            let member = waiting.upgrade();
            member.is_some_and(|member| !member.endpoint.removed() && !member.endpoint.is_in())
        });
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
