//! Counts that many threads add to without sharing a cache line.
//!
//! One atomic that two cores increment costs ten times what it costs on one core, because its cache
//! line travels on every call. So a count is kept in an array of padded shards: each thread adds to
//! the shard of its own index, and whoever reads walks the array. The array sits in the state that a
//! layer shares between its clones: nothing is made when a service is cloned (axum clones it for
//! every request), nothing is lost when a clone is dropped, and a handle remembers no shard, because
//! tasks migrate between threads.
//!
//! ```
//! use tower_mesh_layers::{Counter, UpDown};
//!
//! let (calls, in_flight) = (Counter::new(), UpDown::new());
//! calls.add(1);
//! in_flight.add(1);
//! in_flight.sub(1); // on any thread: only the sum means something
//! assert_eq!((calls.sum(), in_flight.sum()), (1, 0));
//! ```
//!
//! A shard takes 128 bytes per started 128 bytes of its content, and there are as many shards as the
//! machine has cores, rounded up to a power of two and at most 64. A [`Counter`] is therefore 256
//! bytes on two cores and 8 KiB on 64: right for a layer, wasteful for each of ten thousand keys,
//! where one plain atomic does. Several counts that are always touched together belong in one
//! [`Sharded`] struct of atomics.

use std::{
    cell::Cell,
    fmt,
    sync::{
        OnceLock,
        atomic::{AtomicI64, AtomicU64, AtomicUsize, Ordering::Relaxed},
    },
    thread,
};

/// More shards cost memory in every counter, and past this many two threads seldom meet in one.
const MAX_SHARDS: usize = 64;

/// Fills whole cache lines, so that neighbours in an array do not share one. 128 bytes, not 64:
/// current x86 cores prefetch lines in pairs, and Apple's have lines of that size.
#[repr(align(128))]
struct Padded<T>(T);

/// One `T` for each core, reached by the index of the calling thread.
pub struct Sharded<T> {
    shards: Box<[Padded<T>]>,
}

/// A count that only grows.
///
/// [`add`](Self::add) is one uncontended atomic addition. [`sum`](Self::sum) never shows a smaller
/// value than an earlier one on the same thread.
#[derive(Default)]
pub struct Counter(Sharded<AtomicU64>);

/// A count that goes up and down, such as calls in flight.
///
/// What one thread adds another may subtract, so single shards may be negative; only the sum means
/// something. A sum taken while others count may miss either half of a pair, and so may briefly be
/// off by the number of counts under way.
#[derive(Default)]
pub struct UpDown(Sharded<AtomicI64>);

/// How many shards every [`Sharded`] value has: a power of two, fixed for the life of the process.
fn shards() -> usize {
    static SHARDS: OnceLock<usize> = OnceLock::new();
    *SHARDS.get_or_init(|| {
        let cores = thread::available_parallelism().map_or(1, |cores| cores.get());
        cores.next_power_of_two().min(MAX_SHARDS)
    })
}

/// A number for this thread, given out in order, so that the first N threads get N shards.
#[inline]
fn thread_index() -> usize {
    const UNSET: usize = usize::MAX;
    static NEXT: AtomicUsize = AtomicUsize::new(0);
    thread_local! {
        static INDEX: Cell<usize> = const { Cell::new(UNSET) };
    }
    INDEX.with(|index| {
        if index.get() == UNSET {
            index.set(NEXT.fetch_add(1, Relaxed));
        }
        index.get()
    })
}

// ===== impl Sharded =====

impl<T> Sharded<T> {
    /// Makes every shard with `make`.
    pub fn new(make: impl FnMut() -> T) -> Self {
        Self::with_shards(shards(), make)
    }

    /// `shards` must be a power of two.
    pub(super) fn with_shards(shards: usize, mut make: impl FnMut() -> T) -> Self {
        debug_assert!(shards.is_power_of_two());
        Self {
            shards: (0..shards).map(|_| Padded(make())).collect(),
        }
    }

    /// The shard of the calling thread.
    ///
    /// Threads may share a shard, so its content must be made of atomics. Do not keep the reference
    /// across an await: the task may go on in another thread, and the count would be contended.
    #[inline]
    pub fn get(&self) -> &T {
        // The length is a power of two, so the mask is in bounds; a collision only costs speed.
        &self.shards[thread_index() & (self.shards.len() - 1)].0
    }

    /// The shard of the calling thread and its number, for what must find the same one again.
    #[inline]
    pub(crate) fn get_indexed(&self) -> (usize, &T) {
        let index = thread_index() & (self.shards.len() - 1);
        (index, &self.shards[index].0)
    }

    /// The shard with a number from [`get_indexed`](Self::get_indexed).
    #[inline]
    pub(crate) fn at(&self, index: usize) -> &T {
        &self.shards[index].0
    }

    /// All shards, to sum them up.
    pub fn iter(&self) -> impl Iterator<Item = &T> {
        self.shards.iter().map(|shard| &shard.0)
    }
}

impl<T: Default> Default for Sharded<T> {
    fn default() -> Self {
        Self::new(T::default)
    }
}

impl<T: fmt::Debug> fmt::Debug for Sharded<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.iter()).finish()
    }
}

// ===== impl Counter =====

impl Counter {
    /// A counter at zero.
    pub fn new() -> Self {
        Self::default()
    }

    /// Counts `n` more.
    #[inline]
    pub fn add(&self, n: u64) {
        self.0.get().fetch_add(n, Relaxed);
    }

    /// The count of all threads.
    pub fn sum(&self) -> u64 {
        self.0
            .iter()
            .map(|shard| shard.load(Relaxed))
            .fold(0, u64::wrapping_add)
    }
}

impl fmt::Debug for Counter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Counter").field(&self.sum()).finish()
    }
}

// ===== impl UpDown =====

impl UpDown {
    /// A count at zero.
    pub fn new() -> Self {
        Self::default()
    }

    /// Counts `n` up.
    #[inline]
    pub fn add(&self, n: i64) {
        self.0.get().fetch_add(n, Relaxed);
    }

    /// Counts `n` down.
    #[inline]
    pub fn sub(&self, n: i64) {
        self.0.get().fetch_sub(n, Relaxed);
    }

    /// The count of all threads.
    pub fn sum(&self) -> i64 {
        self.0
            .iter()
            .map(|shard| shard.load(Relaxed))
            .fold(0, i64::wrapping_add)
    }
}

impl fmt::Debug for UpDown {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("UpDown").field(&self.sum()).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_of_all_threads_are_summed() {
        let (counter, gauge) = (Counter::new(), UpDown::new());
        thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| {
                    for _ in 0..1_000 {
                        counter.add(2);
                        gauge.add(3);
                        gauge.sub(1);
                    }
                });
            }
        });
        assert_eq!((counter.sum(), gauge.sum()), (16_000, 16_000));
    }

    #[test]
    fn a_count_taken_up_on_one_thread_comes_down_on_another() {
        let gauge = UpDown::new();
        gauge.add(5);
        thread::scope(|scope| scope.spawn(|| gauge.sub(5)).join().unwrap());
        assert_eq!(gauge.sum(), 0);
    }

    #[test]
    fn a_thread_keeps_its_shard_and_the_next_threads_get_others() {
        let sharded = Sharded::with_shards(4, AtomicU64::default);
        assert!(std::ptr::eq(sharded.get(), sharded.get()));

        // Other tests take indices at the same time, so only "more than one shard" is certain.
        let seen: std::collections::HashSet<usize> = thread::scope(|scope| {
            let threads: Vec<_> = (0..32)
                .map(|_| scope.spawn(|| std::ptr::from_ref(sharded.get()).addr()))
                .collect();
            threads
                .into_iter()
                .map(|thread| thread.join().unwrap())
                .collect()
        });
        assert!(seen.len() > 1, "every thread got the same shard");
    }

    #[test]
    fn shards_do_not_share_a_cache_line() {
        let sharded = Sharded::with_shards(2, AtomicU64::default);
        let lines: Vec<_> = sharded
            .iter()
            .map(|shard| std::ptr::from_ref(shard).addr() / 128)
            .collect();
        assert_ne!(lines[0], lines[1]);
    }

    #[test]
    fn there_are_a_power_of_two_shards_and_not_too_many() {
        assert!(shards().is_power_of_two() && shards() <= MAX_SHARDS);
        assert_eq!(Sharded::<AtomicU64>::default().iter().count(), shards());
    }
}
