//! [`Keyed`]: the bounded set of states that a limit or a breaker keeps, one per key.
//!
//! Keys come from callers, so a map of them is a way to fill our memory unless it is bounded, and a
//! bound that evicts is a way to wash a spent quota clean unless it minds what it evicts. The rules:
//!
//! - at most `cap` entries; every further key shares one *overflow* entry until there is room;
//! - an entry goes only when the owner says that it is idle, which means that a new one would behave
//!   the same (a full bucket, a closed breaker with an empty window), and only while nobody holds it.
//!   So a flood of new keys cannot reset one that is limited;
//! - idle entries are looked for by the inserts, a few entries each, so no call pays for a full scan
//!   and no background task is needed.
//!
//! A hit takes one shared lock and clones one `Arc`. Nothing else is counted on that path.
//!
//! ```
//! use std::sync::atomic::{AtomicU32, Ordering};
//! use tower_mesh_layers::Keyed;
//!
//! let calls: Keyed<AtomicU32> = Keyed::new(2, AtomicU32::new(0));
//! for hash in [1, 2, 1, 3] {
//!     let idle = |calls: &AtomicU32| calls.load(Ordering::Relaxed) == 0;
//!     calls.get_or_insert(hash, idle, AtomicU32::default).fetch_add(1, Ordering::Relaxed);
//! }
//! assert_eq!(calls.get(1).unwrap().load(Ordering::Relaxed), 2);
//! assert!(calls.get(3).is_none()); // no room: it went to the shared entry
//! assert_eq!(calls.overflow().load(Ordering::Relaxed), 1);
//! ```

#[cfg(test)]
mod model;
mod room;
#[cfg(test)]
mod tests;

use std::{
    collections::{HashMap, hash_map},
    fmt,
    hash::{BuildHasherDefault, Hasher},
    sync::Arc,
};

use parking_lot::{Mutex, RwLock};

use self::{
    room::Room,
    sync::{AtomicU64, AtomicUsize, Ordering},
};
use super::key::Extracted;

/// What the counting is made of; the tests put loom's in their place.
mod sync {
    pub(super) use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
}

/// How many keys are kept by default where callers make the keys (an address, a header).
///
/// More than the callers of one instance, yet at the 100 to 200 bytes of an entry not more than
/// 20 MB when somebody floods it.
pub const DEFAULT_CAP: usize = 100_000;

/// How many entries are looked at, on average, per insert. With two, idle entries never outnumber
/// the live ones by more than about the inserts of half a round, so the map stays within twice the
/// live set.
const LOOKS_PER_INSERT: usize = 2;

/// Entries per shard that a sweep holds the shard's lock for, which gives the number of shards.
const ENTRIES_PER_SHARD: usize = 512;
const FEWEST_SHARDS: usize = 16;
const MOST_SHARDS: usize = 256;

/// A bounded concurrent map from a key's hash to its state.
///
/// The hash *is* the key: [`Key`](super::key::Key) makes it, 64 bits with a seed that is drawn per
/// process. At 100,000 keys two share a state by accident with a probability of 1 in 3.7 billion.
pub struct Keyed<V> {
    shards: Box<[Shard<V>]>,
    cap: AtomicUsize,
    len: AtomicUsize,
    overflow: Arc<V>,
    sweep: Mutex<Sweep>,
    evicted: AtomicU64,
    overflowed: AtomicU64,
}

/// What a [`Keyed`] holds and did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct KeyedStats {
    /// Entries now, the shared overflow entry not included.
    pub len: usize,
    /// The most entries there can be.
    pub cap: usize,
    /// Idle entries that were dropped, since the start.
    pub evicted: u64,
    /// Look-ups that got the shared overflow entry, since the start.
    pub overflowed: u64,
}

type Map<V> = HashMap<u64, Arc<V>, BuildHasherDefault<PassThrough>>;

/// One lock and its map, on a cache line of its own so that neighbours do not slow each other down.
#[repr(align(128))]
struct Shard<V>(RwLock<Map<V>>);

/// Where the search for idle entries stands.
#[derive(Default)]
struct Sweep {
    next_shard: usize,
    /// How many entries may still be looked at: grows with every insert, is spent by the search.
    credit: usize,
}

/// The keys are hashes already.
#[derive(Default)]
struct PassThrough(u64);

// ===== impl Keyed =====

impl<V> Keyed<V> {
    /// At most `cap` entries (at least 1), and the entry that all further keys share.
    pub fn new(cap: usize, overflow: V) -> Self {
        let shards = (cap / ENTRIES_PER_SHARD)
            .clamp(FEWEST_SHARDS, MOST_SHARDS)
            .next_power_of_two();
        Self {
            shards: (0..shards).map(|_| Shard(RwLock::default())).collect(),
            cap: AtomicUsize::new(cap.max(1)),
            len: AtomicUsize::new(0),
            overflow: Arc::new(overflow),
            sweep: Mutex::default(),
            evicted: AtomicU64::new(0),
            overflowed: AtomicU64::new(0),
        }
    }

    /// At most `cap` entries (at least 1) from now on; those that are there stay.
    pub fn set_cap(&self, cap: usize) {
        self.cap.store(cap.max(1), Ordering::Relaxed);
    }

    /// The state of a key, if it has one of its own.
    pub fn get(&self, hash: u64) -> Option<Arc<V>> {
        self.shard(hash).0.read().get(&hash).cloned()
    }

    /// The state of a key; made by `make` where it has none yet, or the shared overflow entry when
    /// there is no room.
    ///
    /// `idle` says of another entry that a new one would behave the same; it is asked of a few
    /// entries when one is inserted. Neither closure may use this map: `make` runs under its lock,
    /// so that it runs at most once per entry.
    pub fn get_or_insert(
        &self,
        hash: u64,
        idle: impl FnMut(&V) -> bool,
        make: impl FnOnce() -> V,
    ) -> Arc<V> {
        match self.get(hash) {
            Some(value) => value,
            None => self.insert(hash, idle, make),
        }
    }

    /// The state of an extracted key, as [`get_or_insert`](Self::get_or_insert) has it, and faster
    /// than that with [`Extracted::hash`] where the key is there already.
    #[inline]
    pub fn of(
        &self,
        key: &Extracted<'_>,
        idle: impl FnMut(&V) -> bool,
        make: impl FnOnce() -> V,
    ) -> Arc<V> {
        match self.get(key.quick_hash()) {
            Some(value) => value,
            None => self.get_or_insert(key.hash(), idle, make),
        }
    }

    #[cold]
    fn insert(&self, hash: u64, idle: impl FnMut(&V) -> bool, make: impl FnOnce() -> V) -> Arc<V> {
        self.sweep_some(idle);
        let mut map = self.shard(hash).0.write();
        match map.entry(hash) {
            // Another call was faster.
            hash_map::Entry::Occupied(entry) => Arc::clone(entry.get()),
            hash_map::Entry::Vacant(entry) => {
                let cap = self.cap.load(Ordering::Relaxed);
                let Some(room) = Room::take(&self.len, cap) else {
                    self.overflowed.fetch_add(1, Ordering::Relaxed);
                    return Arc::clone(&self.overflow);
                };
                let value = Arc::clone(entry.insert(Arc::new(make())));
                room.keep();
                value
            }
        }
    }

    /// Drops every idle entry now and gives the memory back, for owners that have a timer anyway:
    /// without inserts nothing is evicted.
    pub fn sweep(&self, mut idle: impl FnMut(&V) -> bool) {
        for shard in &self.shards {
            self.sweep_shard(shard, &mut idle);
        }
    }

    /// Looks at as many entries as the inserts have earned, whole shards at a time.
    fn sweep_some(&self, mut idle: impl FnMut(&V) -> bool) {
        // Whoever finds somebody at it already has nothing to do.
        let Some(mut sweep) = self.sweep.try_lock() else {
            return;
        };
        sweep.credit += LOOKS_PER_INSERT;
        loop {
            let shard = &self.shards[sweep.next_shard];
            // An empty shard is not free, or a small map would be searched round and round.
            let price = 1 + shard.0.read().len();
            if sweep.credit < price {
                return;
            }
            sweep.credit -= price;
            sweep.next_shard = (sweep.next_shard + 1) & (self.shards.len() - 1);
            self.sweep_shard(shard, &mut idle);
        }
    }

    fn sweep_shard(&self, shard: &Shard<V>, idle: &mut impl FnMut(&V) -> bool) {
        let candidates: Vec<u64> = {
            // Under the shared lock, since each look may be a cache miss and hits must not wait.
            let map = shard.0.read();
            map.iter()
                .filter(|(_, value)| idle(value))
                .map(|(hash, _)| *hash)
                .collect()
        };
        if candidates.is_empty() {
            return;
        }
        let mut evicted = Vec::with_capacity(candidates.len());
        let mut map = shard.0.write();
        for hash in candidates {
            let hash_map::Entry::Occupied(entry) = map.entry(hash) else {
                continue;
            };
            // A call that holds the entry may be about to charge it. With the lock held no other
            // call can get at it, so a count of one means that it is ours alone.
            if Arc::strong_count(entry.get()) == 1 && idle(entry.get()) {
                evicted.push(entry.remove());
            }
        }
        if map.capacity() > 4 * map.len() {
            let roomy = 2 * map.len();
            map.shrink_to(roomy);
        }
        drop(map);
        self.len.fetch_sub(evicted.len(), Ordering::Relaxed);
        self.evicted
            .fetch_add(evicted.len() as u64, Ordering::Relaxed);
        // The values themselves are dropped here, with no lock held.
    }

    /// Shows every entry, for metrics and the admin page; the shared one is [`overflow`](Self::overflow).
    ///
    /// No lock is held while `show` runs. Entries that come or go meanwhile may be missed.
    pub fn for_each(&self, mut show: impl FnMut(u64, &Arc<V>)) {
        for shard in &self.shards {
            let entries: Vec<_> = shard
                .0
                .read()
                .iter()
                .map(|(hash, value)| (*hash, Arc::clone(value)))
                .collect();
            for (hash, value) in &entries {
                show(*hash, value);
            }
        }
    }

    /// The entry that keys share when there is no room.
    pub fn overflow(&self) -> &Arc<V> {
        &self.overflow
    }

    /// How many entries there are, the shared one not included.
    pub fn len(&self) -> usize {
        self.len.load(Ordering::Relaxed)
    }

    /// Whether there is no entry but the shared one.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// What the map holds and did.
    pub fn stats(&self) -> KeyedStats {
        KeyedStats {
            len: self.len(),
            cap: self.cap.load(Ordering::Relaxed),
            evicted: self.evicted.load(Ordering::Relaxed),
            overflowed: self.overflowed.load(Ordering::Relaxed),
        }
    }

    fn shard(&self, hash: u64) -> &Shard<V> {
        // The table inside takes its position from the lowest bits and its tag from the highest;
        // these are in between, so that the entries of one shard still differ in both.
        let index = (hash >> 40) as usize & (self.shards.len() - 1);
        &self.shards[index]
    }

    #[cfg(test)]
    fn capacity(&self) -> usize {
        self.shards
            .iter()
            .map(|shard| shard.0.read().capacity())
            .sum()
    }
}

impl<V: fmt::Debug> fmt::Debug for Keyed<V> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Keyed")
            .field("stats", &self.stats())
            .finish_non_exhaustive()
    }
}

// ===== impl PassThrough =====

impl Hasher for PassThrough {
    fn write(&mut self, _: &[u8]) {
        unreachable!("the only keys are u64");
    }

    fn write_u64(&mut self, hash: u64) {
        self.0 = hash;
    }

    fn finish(&self) -> u64 {
        self.0
    }
}
