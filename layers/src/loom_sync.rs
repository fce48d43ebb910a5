//! What the models put in the place of the real things: loom's, with the ways of those.

use std::{cell::Cell, fmt, ops::Deref, sync::Arc};

use loom::{
    model::Builder,
    sync::atomic::{AtomicUsize, Ordering},
};

/// Runs all orders in which no more threads are stopped in their course than these, which is what
/// loom's manual advises: bugs show with two or three.
pub(crate) fn all_orders(preemptions: usize, run: impl Fn() + Send + Sync + 'static) {
    let mut builder = Builder::new();
    builder.preemption_bound = Some(preemptions);
    builder.check(run);
}

/// A lock that loom watches.
#[derive(Debug, Default)]
pub(crate) struct Mutex<T>(loom::sync::Mutex<T>);

/// Two shards. The threads of a model are one to the operating system, so each says which is its own.
#[derive(Debug, Default)]
pub(crate) struct Sharded<T>([T; 2]);

/// A pointer that changes. As weak as it may be: who loads sees what was stored before what it has
/// seen already, and perhaps no more than that.
pub(crate) struct ArcSwap<T> {
    /// All there ever were; no thread of a model is stopped within a real lock.
    values: parking_lot::Mutex<Vec<Arc<T>>>,
    newest: AtomicUsize,
}

/// What was loaded.
pub(crate) struct Guard<P>(P);

loom::thread_local! {
    static SHARD: Cell<usize> = Cell::new(0);
}

/// The calling thread's shard from now on: 0, unless it says 1.
pub(crate) fn on_shard(shard: usize) {
    SHARD.with(|own| own.set(shard));
}

// ===== impl Mutex =====

impl<T> Mutex<T> {
    pub(crate) fn new(value: T) -> Self {
        Self(loom::sync::Mutex::new(value))
    }

    pub(crate) fn lock(&self) -> loom::sync::MutexGuard<'_, T> {
        self.0.lock().expect("nobody panics with the lock held")
    }
}

// ===== impl Sharded =====

impl<T> Sharded<T> {
    pub(crate) fn get(&self) -> &T {
        &self.0[SHARD.with(Cell::get)]
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &T> {
        self.0.iter()
    }
}

// ===== impl ArcSwap =====

impl<T> ArcSwap<T> {
    pub(crate) fn new(value: Arc<T>) -> Self {
        Self {
            values: parking_lot::Mutex::new(vec![value]),
            newest: AtomicUsize::new(0),
        }
    }

    pub(crate) fn load(&self) -> Guard<Arc<T>> {
        let newest = self.newest.load(Ordering::Acquire);
        Guard(self.values.lock()[newest].clone())
    }

    /// By one thread at a time.
    pub(crate) fn store(&self, value: Arc<T>) {
        let newest = {
            let mut values = self.values.lock();
            values.push(value);
            values.len() - 1
        };
        self.newest.store(newest, Ordering::Release);
    }
}

impl<T> fmt::Debug for ArcSwap<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ArcSwap").finish_non_exhaustive()
    }
}

// ===== impl Guard =====

impl<P> Deref for Guard<P> {
    type Target = P;

    fn deref(&self) -> &P {
        &self.0
    }
}

/// Atomics whose accesses are all `SeqCst`. loom takes that for `AcqRel`, and knows the one order of all of
/// it only of fences; with one on each side of every access it is the same order.
pub(crate) mod seq_cst {
    use loom::sync::atomic::{self, Ordering, fence};

    fn fenced<R>(order: Ordering, access: impl FnOnce() -> R) -> R {
        assert_eq!(order, Ordering::SeqCst);
        fence(order);
        let result = access();
        fence(order);
        result
    }

    #[derive(Debug, Default)]
    pub(crate) struct AtomicBool(atomic::AtomicBool);

    #[derive(Debug, Default)]
    pub(crate) struct AtomicI64(atomic::AtomicI64);

    // ===== impl AtomicBool =====

    impl AtomicBool {
        pub(crate) fn load(&self, order: Ordering) -> bool {
            fenced(order, || self.0.load(Ordering::Acquire))
        }

        pub(crate) fn store(&self, value: bool, order: Ordering) {
            fenced(order, || self.0.store(value, Ordering::Release));
        }
    }

    // ===== impl AtomicI64 =====

    impl AtomicI64 {
        pub(crate) fn load(&self, order: Ordering) -> i64 {
            fenced(order, || self.0.load(Ordering::Acquire))
        }

        pub(crate) fn fetch_add(&self, value: i64, order: Ordering) -> i64 {
            fenced(order, || self.0.fetch_add(value, Ordering::AcqRel))
        }

        pub(crate) fn fetch_sub(&self, value: i64, order: Ordering) -> i64 {
            fenced(order, || self.0.fetch_sub(value, Ordering::AcqRel))
        }
    }
}
