//! The bookkeeping: which keys were seen, and what is kept of their answers. It has no clock and no lock.
//!
//! ```text
//!   unknown ──claim──► in flight ──complete──► completed ──ttl, or room is needed──► unknown
//!      ▲                   │
//!      └──────release──────┘   not answered, or with an answer that means "not done"
//! ```

use std::{
    collections::{HashMap, VecDeque},
    time::Duration,
};

use foldhash::fast::RandomState;
use tokio::time::Instant;

/// How much may be kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Bounds {
    /// Keys, at least 1.
    pub(super) entries: usize,
    /// Bytes of all answers.
    pub(super) bytes: usize,
    /// How long after its answer a key is known.
    pub(super) ttl: Duration,
}

/// Keys that were seen. `A` is an answer, `W` what those wait for who come while one is in flight.
#[derive(Debug)]
pub(super) struct Store<A, W> {
    /// The keys are hashes under a secret already.
    entries: HashMap<u128, Entry<A, W>, RandomState>,
    /// Those that are completed, the oldest first.
    completed: VecDeque<u128>,
    bytes: usize,
    evicted: u64,
}

#[derive(Debug)]
struct Entry<A, W> {
    /// Of the request.
    fingerprint: u128,
    state: State<A, W>,
}

#[derive(Debug)]
enum State<A, W> {
    InFlight(W),
    Completed {
        at: Instant,
        /// `None` if it was not kept.
        answer: Option<A>,
        bytes: usize,
    },
}

/// What a key turned out to be.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Found<A, W> {
    /// Not known. It is in flight from now on.
    First,
    /// In flight, with the same request.
    InFlight(W),
    /// Answered before.
    Answered(A),
    /// Answered before, and the answer is not there.
    NotKept,
    /// Known, with another request.
    Reused,
    /// Not known, and there is no room for it: all that there are are in flight.
    Full,
}

// ===== impl Store =====

impl<A: Clone, W: Clone> Store<A, W> {
    pub(super) fn new() -> Self {
        Self {
            entries: HashMap::default(),
            completed: VecDeque::new(),
            bytes: 0,
            evicted: 0,
        }
    }

    /// Looks a key up, and takes it if nobody has.
    pub(super) fn claim(
        &mut self,
        id: u128,
        fingerprint: u128,
        now: Instant,
        bounds: &Bounds,
        wait_for: impl FnOnce() -> W,
    ) -> Found<A, W> {
        self.forget_expired(now, bounds.ttl);
        if let Some(entry) = self.entries.get(&id) {
            if entry.fingerprint != fingerprint {
                return Found::Reused;
            }
            return match &entry.state {
                State::InFlight(wait_for) => Found::InFlight(wait_for.clone()),
                State::Completed { answer, .. } => {
                    answer.clone().map_or(Found::NotKept, Found::Answered)
                }
            };
        }
        while self.entries.len() >= bounds.entries {
            if !self.evict() {
                return Found::Full;
            }
        }
        let state = State::InFlight(wait_for());
        self.entries.insert(id, Entry { fingerprint, state });
        Found::First
    }

    /// The call that took a key is answered. Gives what others wait for.
    pub(super) fn complete(
        &mut self,
        id: u128,
        answer: Option<(A, usize)>,
        now: Instant,
        bounds: &Bounds,
    ) -> Option<W> {
        self.forget_expired(now, bounds.ttl);
        let wanted = answer.as_ref().map_or(0, |(_, bytes)| *bytes);
        while self.bytes + wanted > bounds.bytes && self.evict() {}
        let (answer, bytes) = match answer {
            // The bounds may have become narrower meanwhile.
            Some((answer, bytes)) if self.bytes + bytes <= bounds.bytes => (Some(answer), bytes),
            _ => (None, 0),
        };
        let entry = self.entries.get_mut(&id)?;
        let at = now;
        let before = std::mem::replace(&mut entry.state, State::Completed { at, answer, bytes });
        self.bytes += bytes;
        self.completed.push_back(id);
        before.wait_for()
    }

    /// The call that took a key was not answered. Gives what others wait for.
    pub(super) fn release(&mut self, id: u128) -> Option<W> {
        self.entries.remove(&id)?.state.wait_for()
    }

    /// Keys that are known.
    pub(super) fn len(&self) -> usize {
        self.entries.len()
    }

    /// Keys that are in flight.
    pub(super) fn in_flight(&self) -> usize {
        self.entries.len() - self.completed.len()
    }

    /// Bytes of all answers.
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Keys that had to go before their time.
    pub(super) fn evicted(&self) -> u64 {
        self.evicted
    }

    fn forget_expired(&mut self, now: Instant, ttl: Duration) {
        while let Some(oldest) = self.completed.front().and_then(|id| self.entries.get(id)) {
            match oldest.state {
                State::Completed { at, .. } if now.duration_since(at) >= ttl => {
                    self.forget_oldest()
                }
                _ => break,
            }
        }
    }

    fn evict(&mut self) -> bool {
        let has_one = !self.completed.is_empty();
        if has_one {
            self.forget_oldest();
            self.evicted += 1;
        }
        has_one
    }

    fn forget_oldest(&mut self) {
        let oldest = self.completed.pop_front();
        let entry = oldest.and_then(|id| self.entries.remove(&id));
        if let Some(Entry {
            state: State::Completed { bytes, .. },
            ..
        }) = entry
        {
            self.bytes -= bytes;
        }
    }
}

// ===== impl State =====

impl<A, W> State<A, W> {
    fn wait_for(self) -> Option<W> {
        match self {
            Self::InFlight(wait_for) => Some(wait_for),
            Self::Completed { .. } => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    #[derive(Debug, Clone)]
    enum Step {
        Claim { id: u128, fingerprint: u128 },
        Complete { id: u128, bytes: Option<usize> },
        Release { id: u128 },
        Pass(u64),
    }

    fn steps() -> impl Strategy<Value = Vec<Step>> {
        let id = || 0..30_u128;
        let step = prop_oneof![
            4 => (id(), 0..2_u128).prop_map(|(id, fingerprint)| Step::Claim { id, fingerprint }),
            3 => (id(), proptest::option::weighted(0.9, 0..=100_usize))
                .prop_map(|(id, bytes)| Step::Complete { id, bytes }),
            1 => id().prop_map(|id| Step::Release { id }),
            1 => (0..40_u64).prop_map(Step::Pass),
        ];
        proptest::collection::vec(step, 0..400)
    }

    /// What a caller must be told of a key that is known, by a model that forgets nothing early.
    #[derive(Debug)]
    struct Known {
        fingerprint: u128,
        completed: Option<(u64, u128)>,
    }

    proptest! {
        #[test]
        fn bounds_hold_and_nobody_is_told_a_wrong_thing(
            steps in steps(),
            entries in 1..20_usize,
            bytes in 100..500_usize,
        ) {
            const TTL: u64 = 60;
            let bounds = Bounds { entries, bytes, ttl: Duration::from_secs(TTL) };
            let start = Instant::now();
            let (mut passed, mut serial) = (0, 0_u128);
            let mut store: Store<u128, ()> = Store::new();
            let mut model: BTreeMap<u128, Known> = BTreeMap::new();
            for step in steps {
                let now = start + Duration::from_secs(passed);
                match step {
                    Step::Claim { id, fingerprint } => {
                        let found = store.claim(id, fingerprint, now, &bounds, || ());
                        let known = model.get(&id).filter(|known| {
                            known.completed.is_none_or(|(at, _)| passed - at < TTL)
                        });
                        match (found, known) {
                            (Found::First, known) => {
                                // Only what is completed may have been evicted.
                                prop_assert!(known.is_none_or(|known| known.completed.is_some()));
                                model.insert(id, Known { fingerprint, completed: None });
                            }
                            (Found::InFlight(()), Some(known)) => {
                                prop_assert!(known.completed.is_none());
                                prop_assert_eq!(known.fingerprint, fingerprint);
                            }
                            (Found::Answered(answer), Some(known)) => {
                                prop_assert_eq!(known.completed.map(|(_, answer)| answer), Some(answer));
                                prop_assert_eq!(known.fingerprint, fingerprint);
                            }
                            (Found::NotKept, Some(known)) => prop_assert!(known.completed.is_some()),
                            (Found::Reused, Some(known)) => {
                                prop_assert_ne!(known.fingerprint, fingerprint);
                            }
                            (Found::Full, _) => prop_assert_eq!(store.in_flight(), entries),
                            (found, known) => prop_assert!(false, "{:?} of {:?}", found, known),
                        }
                    }
                    Step::Complete { id, bytes } => {
                        if let Some(known) = model.get_mut(&id).filter(|known| known.completed.is_none()) {
                            serial += 1;
                            known.completed = Some((passed, serial));
                            let answer = bytes.map(|bytes| (serial, bytes));
                            prop_assert_eq!(store.complete(id, answer, now, &bounds), Some(()));
                        }
                    }
                    Step::Release { id } => {
                        if model.get(&id).is_some_and(|known| known.completed.is_none()) {
                            model.remove(&id);
                            prop_assert_eq!(store.release(id), Some(()));
                        }
                    }
                    Step::Pass(seconds) => passed += seconds,
                }
                let in_flight = model.values().filter(|known| known.completed.is_none()).count();
                prop_assert_eq!(store.in_flight(), in_flight);
                prop_assert!(store.len() <= entries && store.bytes() <= bytes);
            }
        }
    }

    #[test]
    fn the_oldest_answer_goes_first() {
        let bounds = Bounds {
            entries: 3,
            bytes: 100,
            ttl: Duration::from_secs(60),
        };
        let now = Instant::now();
        let mut store: Store<u128, ()> = Store::new();
        for id in 0..3 {
            assert_eq!(store.claim(id, 0, now, &bounds, || ()), Found::First);
            if id > 0 {
                store.complete(id, Some((id, 50)), now, &bounds);
            }
        }
        assert_eq!(store.claim(3, 0, now, &bounds, || ()), Found::First);
        assert_eq!(store.claim(2, 0, now, &bounds, || ()), Found::Answered(2));
        assert_eq!(store.claim(0, 0, now, &bounds, || ()), Found::InFlight(()));
        assert_eq!((store.evicted(), store.bytes()), (1, 50));
        // An answer needs the room of another one.
        store.complete(3, Some((3, 60)), now, &bounds);
        assert_eq!((store.evicted(), store.bytes()), (2, 60));
        assert_eq!(store.claim(2, 0, now, &bounds, || ()), Found::First);
        // There is no room for a third in flight beside two, and one that was answered goes for it.
        assert_eq!(store.claim(4, 0, now, &bounds, || ()), Found::First);
        assert_eq!(store.claim(5, 0, now, &bounds, || ()), Found::Full);
        assert_eq!(store.release(4), Some(()));
        assert_eq!(store.claim(5, 0, now, &bounds, || ()), Found::First);
    }

    #[test]
    fn an_answer_that_no_longer_fits_is_not_kept_and_its_key_is() {
        let bounds = |bytes| Bounds {
            entries: 3,
            bytes,
            ttl: Duration::from_secs(60),
        };
        let now = Instant::now();
        let mut store: Store<u128, ()> = Store::new();
        assert_eq!(store.claim(1, 0, now, &bounds(100), || ()), Found::First);
        store.complete(1, Some((1, 80)), now, &bounds(50));
        assert_eq!(store.claim(1, 0, now, &bounds(50), || ()), Found::NotKept);
        assert_eq!(store.claim(1, 1, now, &bounds(50), || ()), Found::Reused);
        assert_eq!(store.bytes(), 0);
    }
}
