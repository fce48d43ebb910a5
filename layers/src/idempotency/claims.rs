//! The keys of a layer, and the claim of a call to one of them.

use std::sync::Arc;

use parking_lot::Mutex;
use tokio::{
    sync::{Notify, futures::OwnedNotified},
    time::Instant,
};

use super::{
    answer::Answer,
    layer::Shared,
    refusal::Refusal,
    store::{Bounds, Found, Store},
};
use crate::vocab::metrics::Registered;

/// Into how many parts the keys fall, so that calls do not wait for each other: a lock is held for some hundred
/// nanoseconds.
pub(super) const SHARDS: usize = 16;

/// All keys of a layer.
#[derive(Debug)]
pub(super) struct Claims([Mutex<Store<Arc<Answer>, Arc<Notify>>>; SHARDS]);

/// What is kept now.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Held {
    pub(super) entries: usize,
    pub(super) in_flight: usize,
    pub(super) bytes: usize,
    pub(super) evicted: u64,
}

/// The right and the duty to make a call with a key. Dropped, it gives the key back.
pub(super) struct Claim {
    shared: Arc<Registered<Shared>>,
    id: u128,
    bounds: Bounds,
    is_over: bool,
}

/// What became of a claim.
pub(super) enum Claimed {
    /// The call is to be made.
    Made(Claim),
    /// Another call has the key; this tells when it is over.
    InFlight(OwnedNotified),
    Answered(Arc<Answer>),
    Refused(Refusal<'static>),
}

// ===== impl Claims =====

impl Claims {
    pub(super) fn new() -> Self {
        Self(std::array::from_fn(|_| Mutex::new(Store::new())))
    }

    fn shard(&self, id: u128) -> &Mutex<Store<Arc<Answer>, Arc<Notify>>> {
        &self.0[id as usize % SHARDS]
    }

    pub(super) fn held(&self) -> Held {
        let mut held = Held::default();
        for shard in &self.0 {
            let shard = shard.lock();
            held.entries += shard.len();
            held.in_flight += shard.in_flight();
            held.bytes += shard.bytes();
            held.evicted += shard.evicted();
        }
        held
    }
}

// ===== impl Claim =====

impl Claim {
    /// Looks the key up, and takes it if it is free.
    pub(super) fn make(
        shared: &Arc<Registered<Shared>>,
        id: u128,
        fingerprint: u128,
        bounds: Bounds,
    ) -> Claimed {
        let now = Instant::now();
        let mut shard = shared.claims.shard(id).lock();
        match shard.claim(id, fingerprint, now, &bounds, Arc::default) {
            Found::First => Claimed::Made(Self {
                shared: shared.clone(),
                id,
                bounds,
                is_over: false,
            }),
            // NOTE: under the lock, or the first call could end unnoticed.
            Found::InFlight(notify) => Claimed::InFlight(notify.notified_owned()),
            Found::Answered(answer) => Claimed::Answered(answer),
            Found::NotKept => Claimed::Refused(Refusal::NotKept),
            Found::Reused => Claimed::Refused(Refusal::Reused),
            Found::Full => Claimed::Refused(Refusal::Full),
        }
    }

    /// The call was made; `None` where its answer is not kept.
    pub(super) fn complete(mut self, answer: Option<Arc<Answer>>) {
        self.is_over = true;
        let now = Instant::now();
        let answer = answer.map(|answer| {
            let bytes = answer.bytes();
            (answer, bytes)
        });
        let shard = self.shared.claims.shard(self.id);
        let waiting = shard.lock().complete(self.id, answer, now, &self.bounds);
        wake(waiting);
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        if self.is_over {
            return;
        }
        let waiting = self.shared.claims.shard(self.id).lock().release(self.id);
        wake(waiting);
    }
}

fn wake(waiting: Option<Arc<Notify>>) {
    if let Some(waiting) = waiting {
        waiting.notify_waiters();
    }
}
