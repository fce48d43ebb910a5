//! A value that changes while calls are in flight: read without a lock, swapped whole.
//!
//! A layer's configuration is a [`Live<Config>`](Live). What it runs on is compiled from that
//! (patterns, quotas, clamped numbers) and is a [`Live`] as well, derived from the first. Setting the
//! first recompiles everything derived from it, in two phases: every follower compiles the new value,
//! and only when none refuses are all of them swapped. So a configuration that cannot work leaves
//! everything as it was, and the last good one stays in force.
//!
//! ```
//! use tower_mesh_layers::{ConfigError, Live, config};
//!
//! let rate = Live::new(100u32); // calls in a second
//! let gap = rate.derive(|&rate| {
//!     let rate = config::in_range("rate", rate, 1..=1_000_000)?;
//!     Ok(std::time::Duration::from_secs(1) / rate)
//! })?;
//! assert_eq!(gap.get().as_millis(), 10);
//!
//! rate.set(200)?;
//! assert_eq!(gap.get().as_millis(), 5);
//!
//! assert!(rate.set(0).is_err()); // refused by a follower: nothing changed
//! assert_eq!((*rate.get(), gap.get().as_millis()), (200, 5));
//! # Ok::<(), ConfigError>(())
//! ```
//!
//! # State that outlives a swap
//!
//! A swap replaces settings and must keep what was learnt under the old ones: open breakers, used
//! tokens. [`Live::derive_with`] shows the compiler the value it is about to replace, so that it can
//! carry its state over:
//!
//! ```
//! use std::sync::Arc;
//! use tower_mesh_layers::{ConfigError, Counter, Live};
//!
//! struct Compiled { limit: u64, used: Arc<Counter> }
//!
//! let limit = Live::new(10);
//! let compiled = limit.derive_with(|&limit, previous: Option<&Compiled>| {
//!     let used = previous.map_or_else(Arc::default, |previous| previous.used.clone());
//!     Ok(Compiled { limit, used })
//! })?;
//! compiled.get().used.add(1);
//! limit.set(20)?;
//! assert_eq!((compiled.get().limit, compiled.get().used.sum()), (20, 1));
//! # Ok::<(), ConfigError>(())
//! ```

mod glance;
#[cfg(test)]
mod model;
mod pair;
mod reading;
#[cfg(any(
    feature = "body-limit",
    feature = "concurrency-limit",
    feature = "idempotency",
    feature = "rate-limit"
))]
mod seen;

use std::{
    any::Any,
    fmt,
    sync::{Arc, Weak},
};

use parking_lot::Mutex;
use tokio::sync::watch;

#[cfg(any(
    feature = "body-limit",
    feature = "concurrency-limit",
    feature = "idempotency",
    feature = "rate-limit"
))]
pub(crate) use self::seen::Seen;
pub use self::{
    glance::Glance,
    reading::{Kept, Reading},
};
use self::{
    pair::{Pair, Revision, Tagged},
    sync::Guard,
};
use super::config::ConfigError;

/// What is read without a lock is made of these; the tests put loom's in their place.
mod sync {
    pub(super) use std::sync::atomic::{AtomicU64, Ordering};

    pub(super) use arc_swap::{ArcSwap, Guard};
}

/// A hot-swappable value; clones are handles to the same one.
///
/// Wherever a layer takes `impl Into<Live<Config>>`, a plain `Config` does as well.
pub struct Live<T>(Arc<Inner<T>>);

/// The changes of a [`Live`] value, to wait for.
pub struct Changes<T> {
    live: Live<T>,
    seen: watch::Receiver<()>,
}

struct Inner<T> {
    values: Pair<T>,
    changed: watch::Sender<()>,
    followers: Mutex<Vec<Box<dyn Follow<T>>>>,
    tree: Arc<Tree>,
    /// Where in a configuration this stands; put before what its followers refuse.
    path: Box<str>,
    /// What this is derived from. A follower keeps its source alive (and the source holds it
    /// weakly), or a chain would break where nobody kept the middle.
    source: Option<Arc<dyn Any + Send + Sync>>,
}

/// What a root and everything derived from it have in common.
struct Tree {
    revision: Revision,
    /// Held while a value is set or derived. Readers never take it.
    setting: Mutex<()>,
}

/// A derived value, seen from its source.
trait Follow<T>: Send + Sync {
    /// The first phase: compiles the new value and asks the followers further down. Changes
    /// nothing; `None` when the follower is gone.
    fn prepare(&self, value: &T) -> Result<Option<Box<dyn Commit>>, ConfigError>;

    fn is_alive(&self) -> bool;
}

/// The second phase, which cannot fail.
trait Commit {
    /// Puts a prepared value, and those derived from it, where nobody looks yet.
    fn store(&mut self);

    /// Wakes who waits for a change: after the revision has become the newest.
    fn wake(&self);
}

struct Prepared<T> {
    live: Arc<Inner<T>>,
    value: Option<Arc<Tagged<T>>>,
    derived: Vec<Box<dyn Commit>>,
}

/// What happens after a change.
struct Reaction<F>(Arc<F>);

struct Follower<U, F> {
    live: Weak<Inner<U>>,
    compile: F,
    /// That of the source.
    path: Box<str>,
}

// ===== impl Live =====

impl<T: Send + Sync + 'static> Live<T> {
    /// A value that nothing follows yet, at revision 1.
    pub fn new(value: T) -> Self {
        let tree = Arc::new(Tree {
            revision: Revision::default(),
            setting: Mutex::new(()),
        });
        Self(Arc::new(Inner::new(value, tree, "", None)))
    }

    /// The value now. Never waits, not even for a [`set`](Self::set) under way.
    #[inline]
    pub fn get(&self) -> Reading<T> {
        Reading(self.0.values.newest(&self.0.tree.revision))
    }

    /// The value as of a [`revision`](Self::revision), for as long as it is the newest or the one before;
    /// the value now where it is older.
    ///
    /// So whoever works with several values of one tree reads all of them as of one revision, and a call
    /// goes on with what it began with, unless it lasts over two changes.
    pub fn get_at(&self, revision: u64) -> Reading<T> {
        Reading(self.0.values.at(revision, &self.0.tree.revision))
    }

    /// The value now, to keep: later changes do not show in it.
    pub fn load_full(&self) -> Kept<T> {
        Kept(Guard::into_inner(self.get().0))
    }

    /// How often the root of this value was set, counting its start as 1.
    ///
    /// A root and all that is derived from it have the same number, and get the next one at the same
    /// moment. A value read after its revision is of that revision or a later one.
    #[inline]
    pub fn revision(&self) -> u64 {
        self.0.tree.revision.get()
    }

    /// Replaces the value, here and in everything derived from it, or nowhere.
    ///
    /// Returns when every follower runs on the new value. Concurrent sets take turns. Calls that
    /// have read the old value finish on it.
    ///
    /// # Errors
    ///
    /// The error of the first follower that refuses; then nothing has changed, neither here nor in
    /// any follower. A derived value cannot be set: it would no longer follow its source.
    pub fn set(&self, value: T) -> Result<(), ConfigError> {
        if self.0.source.is_some() {
            return Err(ConfigError::new(
                "",
                "a value for a derived setting",
                "the value that it is derived from to be set",
            ));
        }
        let _setting = self.0.tree.setting.lock();
        let mut prepared = Inner::prepare(&self.0, value)?;
        prepared.store();
        // NOTE: the values before the revision, so that whoever saw the revision gets the values.
        self.0.tree.revision.next();
        prepared.wake();
        Ok(())
    }

    /// A value that is compiled from this one, now and whenever this one is set.
    ///
    /// It follows for as long as it, a clone of it or something derived from it is alive.
    /// `compile` runs while the tree is locked: it must not call `set` or `derive` on a value of
    /// the same tree, which would wait for itself.
    ///
    /// # Errors
    ///
    /// When `compile` refuses the present value.
    pub fn derive<U, F>(&self, compile: F) -> Result<Live<U>, ConfigError>
    where
        U: Send + Sync + 'static,
        F: Fn(&T) -> Result<U, ConfigError> + Send + Sync + 'static,
    {
        self.derive_with(move |value, _| compile(value))
    }

    /// Like [`derive`](Self::derive), for a compiled value that carries state over: `compile` also
    /// gets the value it replaces, `None` the first time.
    ///
    /// Calls go on using the previous value meanwhile, and if another follower refuses they keep it:
    /// share state between the two through an `Arc`, and change nothing in the previous one.
    ///
    /// # Errors
    ///
    /// When `compile` refuses the present value.
    pub fn derive_with<U, F>(&self, compile: F) -> Result<Live<U>, ConfigError>
    where
        U: Send + Sync + 'static,
        F: Fn(&T, Option<&U>) -> Result<U, ConfigError> + Send + Sync + 'static,
    {
        self.follow(compile, &self.0.path)
    }

    /// A part of this value that stands under `name` in it, for what is made of that part alone: the
    /// path of what is refused below begins with the name.
    ///
    /// ```
    /// use tower_mesh_layers::{Live, config};
    ///
    /// let limits = Live::new((20, 5)); // calls, retries
    /// let retries = limits.section("retries", |&(_, retries)| retries);
    /// let _most = retries.derive(|&retries| config::in_range("most", retries, 0..=9))?;
    ///
    /// let refused = limits.set((20, 50)).unwrap_err();
    /// assert_eq!(refused.path(), "retries.most");
    /// # Ok::<(), tower_mesh_layers::ConfigError>(())
    /// ```
    pub fn section<U, F>(&self, name: &str, part: F) -> Live<U>
    where
        U: Send + Sync + 'static,
        F: Fn(&T) -> U + Send + Sync + 'static,
    {
        let path = match &*self.0.path {
            "" => name.to_owned(),
            path => format!("{path}.{name}"),
        };
        self.follow(move |value, _| Ok(part(value)), &path)
            .expect("taking a part refuses nothing")
    }

    fn follow<U, F>(&self, compile: F, path: &str) -> Result<Live<U>, ConfigError>
    where
        U: Send + Sync + 'static,
        F: Fn(&T, Option<&U>) -> Result<U, ConfigError> + Send + Sync + 'static,
    {
        // Locked, so that no set can fall between compiling and following.
        let _setting = self.0.tree.setting.lock();
        let value = compile(&self.get(), None).map_err(|error| error.at(&self.0.path))?;
        let source: Arc<dyn Any + Send + Sync> = self.0.clone();
        let derived = Arc::new(Inner::new(value, self.0.tree.clone(), path, Some(source)));

        let follower = Follower {
            live: Arc::downgrade(&derived),
            compile,
            path: self.0.path.clone(),
        };
        let mut followers = self.0.followers.lock();
        followers.retain(|follower| follower.is_alive());
        followers.push(Box::new(follower));
        Ok(Live(derived))
    }

    /// The same value as one that is always there, for what can also do without.
    pub fn some(&self) -> Live<Option<T>>
    where
        T: Clone,
    {
        self.derive(|value| Ok(Some(value.clone())))
            .expect("a copy refuses nothing")
    }

    /// Has `react` run after every change, before [`set`](Self::set) returns: for state beside this
    /// value that must follow at once, and not with the next call.
    ///
    /// It runs while the tree is locked: it must not call `set` or `derive` on a value of the same
    /// tree, which would wait for itself.
    #[allow(dead_code, reason = "for the layers whose calls wait")]
    pub(crate) fn on_change(&self, react: impl Fn() + Send + Sync + 'static) {
        let _setting = self.0.tree.setting.lock();
        let reaction = Reaction(Arc::new(react));
        self.0.followers.lock().push(Box::new(reaction));
    }

    /// Watches for changes from now on.
    pub fn changes(&self) -> Changes<T> {
        Changes {
            live: self.clone(),
            seen: self.0.changed.subscribe(),
        }
    }
}

impl<T> Clone for Live<T> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

impl<T: Send + Sync + 'static> From<T> for Live<T> {
    fn from(value: T) -> Self {
        Self::new(value)
    }
}

impl<T: Default + Send + Sync + 'static> Default for Live<T> {
    fn default() -> Self {
        Self::new(T::default())
    }
}

impl<T: fmt::Debug> fmt::Debug for Live<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Live")
            .field("revision", &self.0.tree.revision.get())
            .field("value", &self.0.newest().value)
            .finish()
    }
}

// ===== impl Inner =====

impl<T: Send + Sync + 'static> Inner<T> {
    fn new(
        value: T,
        tree: Arc<Tree>,
        path: &str,
        source: Option<Arc<dyn Any + Send + Sync>>,
    ) -> Self {
        let revision = tree.revision.get();
        Self {
            values: Pair::new(Tagged { revision, value }),
            changed: watch::Sender::new(()),
            followers: Mutex::default(),
            tree,
            path: path.into(),
            source,
        }
    }

    /// Compiles `value` for all followers; the caller holds the tree's lock until it has committed.
    fn prepare(this: &Arc<Self>, value: T) -> Result<Prepared<T>, ConfigError> {
        // The tree is locked: nobody else makes a revision.
        let revision = this.tree.revision.get() + 1;
        let value = Arc::new(Tagged { revision, value });
        let mut followers = this.followers.lock();
        followers.retain(|follower| follower.is_alive());
        let derived = followers
            .iter()
            .filter_map(|follower| follower.prepare(&value.value).transpose())
            .collect::<Result<_, _>>()?;
        drop(followers);
        Ok(Prepared {
            live: this.clone(),
            value: Some(value),
            derived,
        })
    }
}

impl<T> Inner<T> {
    fn newest(&self) -> Guard<Arc<Tagged<T>>> {
        self.values.newest(&self.tree.revision)
    }
}

impl<T: Send + Sync + 'static> Commit for Prepared<T> {
    fn store(&mut self) {
        if let Some(value) = self.value.take() {
            self.live.values.store(value);
        }
        self.derived.iter_mut().for_each(|derived| derived.store());
    }

    fn wake(&self) {
        self.live.changed.send_replace(());
        self.derived.iter().for_each(|derived| derived.wake());
    }
}

impl<T, U, F> Follow<T> for Follower<U, F>
where
    U: Send + Sync + 'static,
    F: Fn(&T, Option<&U>) -> Result<U, ConfigError> + Send + Sync,
{
    fn prepare(&self, value: &T) -> Result<Option<Box<dyn Commit>>, ConfigError> {
        let Some(live) = self.live.upgrade() else {
            return Ok(None);
        };
        let compiled = (self.compile)(value, Some(&live.newest().value))
            .map_err(|error| error.at(&self.path))?;
        let prepared = Inner::prepare(&live, compiled)?;
        Ok(Some(Box::new(prepared)))
    }

    fn is_alive(&self) -> bool {
        self.live.strong_count() > 0
    }
}

// ===== impl Reaction =====

impl<T, F: Fn() + Send + Sync + 'static> Follow<T> for Reaction<F> {
    fn prepare(&self, _: &T) -> Result<Option<Box<dyn Commit>>, ConfigError> {
        Ok(Some(Box::new(Self(self.0.clone()))))
    }

    fn is_alive(&self) -> bool {
        true
    }
}

impl<F: Fn()> Commit for Reaction<F> {
    fn store(&mut self) {}

    fn wake(&self) {
        (self.0)();
    }
}

// ===== impl Changes =====

impl<T: Send + Sync + 'static> Changes<T> {
    /// Waits for the next change and returns the newest value; changes in between are skipped.
    ///
    /// Cancel safe. Holding a `Changes` keeps the value alive, so this waits for ever when nobody is
    /// left to set it: let the task end by other means.
    pub async fn changed(&mut self) -> Kept<T> {
        // An error means that the sender is gone, and `live` holds it.
        let _ = self.seen.changed().await;
        self.live.load_full()
    }
}

impl<T: fmt::Debug> fmt::Debug for Changes<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Changes").field(&self.live).finish()
    }
}

#[cfg(test)]
mod tests;
