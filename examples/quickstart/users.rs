//! The users that call, and which version of a service answered each of them.

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering::Relaxed},
    },
};

use parking_lot::Mutex;

use crate::cluster::NEW;

/// So many users take turns: over as many calls each of them has made one.
pub const USERS: u32 = 1_500;

/// Users who call in turn, and are watched.
#[derive(Debug, Default)]
pub struct Users {
    next: AtomicU32,
    census: Mutex<Arc<Census>>,
}

/// What the calls were answered by that began while this was the census.
#[derive(Debug, Default)]
pub struct Census {
    seen: Mutex<BTreeMap<u32, Seen>>,
}

/// The calls of one user, by what answered them.
#[derive(Debug, Default, Clone, Copy)]
struct Seen {
    old: u64,
    new: u64,
}

/// A call by a user.
pub struct Visit {
    user: u32,
    census: Arc<Census>,
}

// ===== impl Users =====

impl Users {
    /// The next call.
    pub fn visit(&self) -> Visit {
        Visit {
            user: self.next.fetch_add(1, Relaxed) % USERS,
            census: self.census.lock().clone(),
        }
    }

    /// Begins to count anew, for calls that begin from now on.
    pub fn census(&self) -> Arc<Census> {
        let census = Arc::<Census>::default();
        *self.census.lock() = census.clone();
        census
    }
}

// ===== impl Census =====

impl Census {
    /// Calls that were answered.
    pub fn calls(&self) -> u64 {
        let seen = self.seen.lock();
        seen.values().map(|Seen { old, new }| old + new).sum()
    }

    /// The part of the new version in them, in percent.
    pub fn new_percent(&self) -> f64 {
        let new: u64 = self.seen.lock().values().map(|seen| seen.new).sum();
        100.0 * new as f64 / self.calls().max(1) as f64
    }

    /// Users who had the new version in the earlier census, or in this one, and have met the old one
    /// since.
    pub fn left_since(&self, earlier: &Self) -> usize {
        let (before, now) = (earlier.seen.lock(), self.seen.lock());
        let had_new = |user: &u32| before.get(user).is_some_and(|seen| seen.new > 0);
        let left = |(user, seen): &(&u32, &Seen)| seen.old > 0 && (had_new(user) || seen.new > 0);
        now.iter().filter(left).count()
    }
}

// ===== impl Visit =====

impl Visit {
    /// What the user is called, in `x-user`.
    pub fn user(&self) -> String {
        format!("user-{}", self.user)
    }

    /// It was answered by this version.
    pub fn answered_by(self, version: &str) {
        let mut seen = self.census.seen.lock();
        let seen = seen.entry(self.user).or_default();
        match version == NEW {
            true => seen.new += 1,
            false => seen.old += 1,
        }
    }
}
