//! The algorithm: a hierarchical timing wheel over whole ticks.
//!
//! Source: G. Varghese and T. Lauck, "Hashed and Hierarchical Timing Wheels", SOSP 1987, scheme 7.
//!
//! A tick is a number of 42 bits, seen as seven digits of six bits. An entry waits at the level of the
//! highest digit in which its tick differs from the present one, in the slot of that digit. So all
//! entries of a lower level are due before those of a higher one, and the next slot to look at is the
//! lowest bit of the lowest level that is not empty. When time reaches a slot of a higher level, its
//! entries move down; each moves at most six times.
//!
//! The entries live in a slab and are linked by index: to insert and to remove is a handful of
//! writes, and allocates only when there are more entries at once than ever before.

const DIGIT_BITS: u32 = 6;
const WIDTH: usize = 1 << DIGIT_BITS;
/// At 4 ms a tick, seven digits are 557 years: a tick beyond them is cut to the last one.
const LEVELS: usize = 7;
const LAST_TICK: u64 = (1 << (DIGIT_BITS * LEVELS as u32)) - 1;
const NONE: u32 = u32::MAX;

/// Items that wait for their tick.
#[derive(Debug)]
pub(super) struct Slots<T> {
    now: u64,
    /// One bit for each slot that is not empty.
    occupied: [u64; LEVELS],
    /// The first entry of each slot, level by level.
    heads: [u32; LEVELS * WIDTH],
    entries: Vec<Entry<T>>,
    /// The first free entry; the others follow through `next`.
    free: u32,
}

/// Names an entry until it is removed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Key(u32);

#[derive(Debug)]
struct Entry<T> {
    due: u64,
    prev: u32,
    next: u32,
    place: Place,
    item: Option<T>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Place {
    /// In the list of the slot with this number.
    Slot(u16),
    /// Its tick has come.
    Due,
    Free,
}

// ===== impl Slots =====

impl<T> Slots<T> {
    pub(super) fn new() -> Self {
        Self {
            now: 0,
            occupied: [0; LEVELS],
            heads: [NONE; LEVELS * WIDTH],
            entries: Vec::new(),
            free: NONE,
        }
    }

    /// Whether nothing waits.
    pub(super) fn is_idle(&self) -> bool {
        self.occupied == [0; LEVELS]
    }

    /// Lets `item` wait for the tick `due`; gives it back when that has come already.
    #[inline]
    pub(super) fn insert(&mut self, due: u64, item: T) -> Result<Key, T> {
        let due = due.min(LAST_TICK);
        if due <= self.now {
            return Err(item);
        }
        let at = self.free;
        let at = if let Some(entry) = self.entries.get_mut(at as usize) {
            self.free = entry.next;
            entry.due = due;
            entry.item = Some(item);
            at
        } else {
            self.grow(due, item)
        };
        self.link(at, due);
        Ok(Key(at))
    }

    #[cold]
    fn grow(&mut self, due: u64, item: T) -> u32 {
        let at = u32::try_from(self.entries.len()).expect("fewer than 2^32 timers");
        self.entries.push(Entry {
            due,
            prev: NONE,
            next: NONE,
            place: Place::Free,
            item: Some(item),
        });
        at
    }

    /// Ends the wait, due or not, and frees the entry. The key must not be used again.
    #[inline]
    pub(super) fn remove(&mut self, key: Key) -> Option<T> {
        let entry = &mut self.entries[key.0 as usize];
        debug_assert_ne!(entry.place, Place::Free, "removed twice");
        let (place, prev, next) = (entry.place, entry.prev, entry.next);
        entry.place = Place::Free;
        entry.next = std::mem::replace(&mut self.free, key.0);
        let item = entry.item.take();
        if let Place::Slot(slot) = place {
            self.unlink(slot.into(), prev, next);
        }
        item
    }

    /// The tick that an entry waits for and its item; `None` once the tick has come.
    #[inline]
    pub(super) fn waiting(&mut self, key: Key) -> Option<(u64, &mut Option<T>)> {
        let entry = &mut self.entries[key.0 as usize];
        matches!(entry.place, Place::Slot { .. }).then_some((entry.due, &mut entry.item))
    }

    /// When to advance next: the tick of the earliest entry, or one before it at which entries have
    /// to move down a level.
    pub(super) fn next_tick(&self) -> Option<u64> {
        self.next_slot().map(|(_, _, tick)| tick)
    }

    fn next_slot(&self) -> Option<(usize, usize, u64)> {
        let level = self.occupied.iter().position(|occupied| *occupied != 0)?;
        let slot = self.occupied[level].trailing_zeros();
        let shift = DIGIT_BITS * level as u32;
        // All entries of this level share the digits above it with the present tick.
        let above = self.now >> (shift + DIGIT_BITS) << (shift + DIGIT_BITS);
        Some((level, slot as usize, above | u64::from(slot) << shift))
    }

    /// Moves time to `now`, and the items whose tick has come into `due`.
    pub(super) fn advance(&mut self, now: u64, due: &mut Vec<T>) {
        let now = now.min(LAST_TICK);
        while let Some((level, slot, tick)) = self.next_slot()
            && tick <= now
        {
            self.now = tick;
            self.occupied[level] &= !(1 << slot);
            let mut at = std::mem::replace(&mut self.heads[level * WIDTH + slot], NONE);
            while let Some(entry) = self.entries.get_mut(at as usize) {
                let next = entry.next;
                if entry.due <= tick {
                    entry.place = Place::Due;
                    due.extend(entry.item.take());
                } else {
                    let due = entry.due;
                    self.link(at, due);
                }
                at = next;
            }
        }
        self.now = self.now.max(now);
    }

    /// Moves time to `now`, even backwards; only when nothing waits.
    pub(super) fn rebase(&mut self, now: u64) {
        if self.is_idle() {
            self.now = now.min(LAST_TICK);
        }
    }

    /// The present tick: all that is due by then has been moved out.
    pub(super) fn now(&self) -> u64 {
        self.now
    }

    /// Takes the items of all entries that wait; the entries stay.
    pub(super) fn take_items(&mut self, items: &mut Vec<T>) {
        let waiting = |entry: &&mut Entry<T>| matches!(entry.place, Place::Slot { .. });
        let entries = self.entries.iter_mut().filter(waiting);
        items.extend(entries.filter_map(|entry| entry.item.take()));
    }

    /// Puts an entry into the slot of its tick.
    #[inline]
    fn link(&mut self, at: u32, due: u64) {
        let differing = (due ^ self.now) | 1;
        let level = differing.ilog2() / DIGIT_BITS;
        let digit = (due >> (DIGIT_BITS * level)) as usize % WIDTH;
        let slot = level as usize * WIDTH + digit;

        self.occupied[level as usize] |= 1 << digit;
        let head = std::mem::replace(&mut self.heads[slot], at);
        if let Some(head) = self.entries.get_mut(head as usize) {
            head.prev = at;
        }
        let entry = &mut self.entries[at as usize];
        (entry.prev, entry.next) = (NONE, head);
        entry.place = Place::Slot(slot as u16);
    }

    /// Takes what is between `prev` and `next` out of the list of a slot.
    #[inline]
    fn unlink(&mut self, slot: usize, prev: u32, next: u32) {
        if let Some(next) = self.entries.get_mut(next as usize) {
            next.prev = prev;
        }
        if let Some(prev) = self.entries.get_mut(prev as usize) {
            prev.next = next;
            return;
        }
        self.heads[slot] = next;
        if next == NONE {
            self.occupied[slot / WIDTH] &= !(1 << (slot % WIDTH));
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    #[derive(Debug, Clone)]
    enum Op {
        Insert {
            after: u64,
        },
        Remove {
            nth: usize,
        },
        Advance {
            by: u64,
        },
        /// To the tick that the wheel asks for: what the driver does.
        Follow,
    }

    /// Spread over all levels, and dense around their borders.
    fn ticks() -> impl Strategy<Value = u64> {
        prop_oneof![
            4 => 0..130_u64,
            2 => (0..LEVELS as u32, 0..3_u64).prop_map(|(level, off)| (1 << (DIGIT_BITS * level)) - 1 + off),
            1 => 0..=LAST_TICK,
        ]
    }

    fn op() -> impl Strategy<Value = Op> {
        prop_oneof![
            5 => ticks().prop_map(|after| Op::Insert { after }),
            2 => any::<usize>().prop_map(|nth| Op::Remove { nth }),
            2 => ticks().prop_map(|by| Op::Advance { by }),
            2 => Just(Op::Follow),
        ]
    }

    /// What the wheel does, with a sorted map.
    #[derive(Default)]
    struct Naive {
        now: u64,
        waiting: BTreeMap<usize, (u64, Key)>,
        due: BTreeMap<usize, Key>,
    }

    impl Naive {
        fn advance(&mut self, slots: &mut Slots<usize>, now: u64) {
            self.now = self.now.max(now).min(LAST_TICK);
            let mut expected = Vec::new();
            self.waiting.retain(|id, (due, key)| {
                if *due > self.now {
                    return true;
                }
                expected.push(*id);
                self.due.insert(*id, *key);
                false
            });
            let mut fired = Vec::new();
            slots.advance(now, &mut fired);
            fired.sort_unstable();
            assert_eq!(fired, expected, "at tick {}", self.now);
        }

        fn run(&mut self, slots: &mut Slots<usize>, op: &Op, id: usize) {
            match *op {
                Op::Insert { after } => {
                    let due = (self.now + after).min(LAST_TICK);
                    match slots.insert(self.now + after, id) {
                        Ok(key) => drop(self.waiting.insert(id, (due, key))),
                        Err(back) => assert_eq!((back, due), (id, self.now)),
                    }
                }
                Op::Remove { nth } => {
                    let all = self.waiting.len() + self.due.len();
                    let ids = self.waiting.keys().chain(self.due.keys());
                    let Some(id) = ids.copied().nth(nth % all.max(1)) else {
                        return;
                    };
                    match self.waiting.remove(&id) {
                        Some((_, key)) => assert_eq!(slots.remove(key), Some(id)),
                        None => assert_eq!(slots.remove(self.due.remove(&id).unwrap()), None),
                    }
                }
                Op::Advance { by } => self.advance(slots, self.now + by),
                Op::Follow => {
                    if let Some(tick) = slots.next_tick() {
                        self.advance(slots, tick);
                    }
                }
            }
        }

        fn check(&self, slots: &mut Slots<usize>) {
            assert_eq!(slots.now(), self.now);
            assert_eq!(slots.is_idle(), self.waiting.is_empty());
            let earliest = self.waiting.values().map(|(due, _)| *due).min();
            match (slots.next_tick(), earliest) {
                (Some(next), Some(earliest)) => assert!(self.now < next && next <= earliest),
                (next, earliest) => assert_eq!(next, earliest),
            }
            for (due, key) in self.waiting.values() {
                assert_eq!(slots.waiting(*key).map(|(due, _)| due), Some(*due));
            }
            for key in self.due.values() {
                assert!(slots.waiting(*key).is_none());
            }
        }
    }

    proptest! {
        #[test]
        fn it_does_what_a_sorted_map_does(ops in proptest::collection::vec(op(), 1..200)) {
            let (mut slots, mut naive) = (Slots::new(), Naive::default());
            for (id, op) in ops.iter().enumerate() {
                naive.run(&mut slots, op, id);
                naive.check(&mut slots);
            }
        }
    }

    #[test]
    fn entries_are_used_again() {
        let mut slots = Slots::new();
        for round in 0..1_000 {
            let keys: Vec<_> = (1..=8)
                .map(|tick| slots.insert(round + tick * 100, ()).unwrap())
                .collect();
            keys.into_iter()
                .for_each(|key| assert!(slots.remove(key).is_some()));
            slots.advance(round, &mut Vec::new());
        }
        assert_eq!(slots.entries.len(), 8);
    }

    #[test]
    fn a_wait_is_looked_at_once_a_level_at_most() {
        let mut slots = Slots::new();
        slots.insert(LAST_TICK, ()).unwrap();
        let mut looks = 0;
        let mut due = Vec::new();
        while let Some(tick) = slots.next_tick() {
            slots.advance(tick, &mut due);
            looks += 1;
        }
        assert_eq!((looks, due.len()), (LEVELS, 1));
    }

    #[test]
    fn time_goes_back_only_where_nothing_waits() {
        let mut slots = Slots::new();
        slots.advance(100, &mut Vec::new());
        slots.rebase(10);
        let key = slots.insert(20, ()).unwrap();
        slots.rebase(5);
        assert_eq!(slots.now(), 10);
        slots.remove(key);
        slots.rebase(5);
        assert_eq!(slots.now(), 5);
    }
}
