//! The task behind a [`Registration`](super::Registration).
//!
//! ```text
//!  orders (watch) ----> hold: heartbeats ----> linger: marked as draining ----> remove, then over
//!  instance, phase      until told to drain    until the drain time is over     until the timeout
//!
//!                       dropped handle: straight to remove
//! ```
//!
//! A write that was begun is waited for and not cut off by a change of the orders, since a write whose
//! answer nobody waits for may land after the next one. Only the last deadline cuts it off.

use std::{panic::AssertUnwindSafe, pin::pin, sync::Arc, time::Duration};

use futures_util::FutureExt;
use parking_lot::Mutex;
use tokio::{
    sync::watch,
    time::{self, Instant},
};
use tower_mesh_layers::metrics::Registered;

use super::{Lease, Register, RegisterConfig, RegisterError, State, metrics::Stats, pulse::Pulse};
use crate::{
    instance::{Instance, Status},
    resolve::backoff::Backoff,
};

/// How long one write may take; less where heartbeats are more frequent. A registry that does not
/// answer by then is asked again, while there is still time before the lease ends.
const WRITE_TIMEOUT: Duration = Duration::from_secs(5);
/// The longest pause between two tries to deregister: there is not much time for many.
const REMOVE_PAUSE: Duration = Duration::from_secs(1);

/// What the handle wants.
#[derive(Debug, Clone)]
pub(super) struct Orders {
    pub(super) instance: Arc<Instance>,
    pub(super) phase: Phase,
    /// The drain time is cut short.
    pub(super) hurry: bool,
}

/// How far the life of a registration has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Phase {
    Serve,
    Drain,
    Close,
}

/// What the driver tells the handle.
pub(super) struct Shown {
    pub(super) state: watch::Sender<State>,
    /// The drain time is over.
    pub(super) drained: watch::Sender<bool>,
    pub(super) last_error: Arc<Mutex<Option<RegisterError>>>,
    pub(super) stats: Registered<Stats>,
}

pub(super) struct Driver {
    registry: Arc<dyn Register>,
    lease: Lease,
    config: RegisterConfig,
    orders: watch::Receiver<Orders>,
    shown: Shown,
    pulse: Pulse,
    phase: Phase,
    /// The handle is gone.
    dropped: bool,
    /// The registry may have a record of ours: it was written to.
    tried: bool,
    /// The registry had a record of ours when it last answered.
    known: bool,
    /// Since when there should be a record and is none.
    lapsed: Option<Instant>,
    /// The record does not say what the orders say.
    outdated: bool,
    /// When all is over, even with a write under way.
    deadline: Option<Instant>,
}

#[derive(Debug, Clone, Copy)]
enum Write {
    Put,
    Renew,
    Remove,
}

// ===== impl Driver =====

impl Driver {
    pub(super) fn new(
        registry: Arc<dyn Register>,
        config: RegisterConfig,
        orders: watch::Receiver<Orders>,
        shown: Shown,
        rng: fastrand::Rng,
    ) -> Self {
        let instance = Arc::clone(&orders.borrow().instance);
        Self {
            registry,
            lease: Lease::new(instance, config.ttl),
            pulse: Pulse::new(config.ttl, config.interval(), Instant::now(), rng),
            config,
            orders,
            shown,
            phase: Phase::Serve,
            dropped: false,
            tried: false,
            known: false,
            lapsed: None,
            outdated: false,
            deadline: None,
        }
    }

    /// Keeps the instance registered until the handle wants otherwise, and then takes it out.
    pub(super) async fn run(mut self) -> Result<(), RegisterError> {
        self.read_orders();
        self.hold(None, |driver| driver.phase >= Phase::Drain).await;
        if !self.dropped {
            self.linger().await;
        }
        let result = self.remove().await;
        if let Err(error) = &result {
            let lease = &self.lease.instance;
            let (service, id) = (&*lease.service, &*lease.id);
            tracing::warn!(service, id, %error, "not deregistered: the record stays until it lapses");
        }
        self.shown.state.send_replace(State::Closed);
        result
    }

    /// Heartbeats until `end`, or until `enough`, or until the handle is gone.
    async fn hold(&mut self, end: Option<Instant>, enough: fn(&Self) -> bool) {
        loop {
            let now = Instant::now();
            if self.dropped || enough(self) || end.is_some_and(|end| end <= now) {
                return;
            }
            let due = if self.outdated {
                now
            } else {
                self.pulse.next()
            };
            // A record that is gone while the instance drains has done its service.
            let due = (self.phase == Phase::Serve || self.known).then_some(due);
            let lapse = self.pulse.expiry();
            tokio::select! {
                biased;
                order = self.orders.changed() => self.take(order),
                () = until(lapse) => self.lapse(),
                () = until(due) => self.beat().await,
                () = until(end) => return,
            }
        }
    }

    /// Serves on as draining, so that no caller is surprised by the end.
    async fn linger(&mut self) {
        let end = Instant::now() + self.config.drain;
        // Who never saw the instance need not be told.
        let seen = self.known || self.lapsed.is_some();
        if seen && !self.config.drain.is_zero() {
            self.hold(Some(end), |driver| driver.orders.borrow().hurry)
                .await;
        }
        self.shown.drained.send_replace(true);
        self.hold(None, |driver| driver.phase >= Phase::Close).await;
    }

    /// Deregisters: tries until the deadline.
    async fn remove(&mut self) -> Result<(), RegisterError> {
        self.shown.state.send_replace(State::Draining);
        if !self.tried {
            return Ok(());
        }
        let timeout = Instant::now() + self.config.deregister_timeout;
        let deadline = self.deadline.map_or(timeout, |at| at.min(timeout));
        self.deadline = Some(deadline);
        let mut backoff = Backoff::new(fastrand::Rng::new());
        loop {
            let error = match self.write(Write::Remove).await {
                Ok(()) => return Ok(()),
                Err(error) => error,
            };
            let next = Instant::now() + backoff.next().min(REMOVE_PAUSE);
            if next >= deadline {
                return Err(error);
            }
            time::sleep_until(next).await;
        }
    }

    /// One heartbeat: renews the record, or puts it where there is none.
    async fn beat(&mut self) {
        let sent = Instant::now();
        self.outdated = false;
        let write = if self.known { Write::Renew } else { Write::Put };
        match self.write(write).await {
            Ok(()) => {
                self.known = true;
                self.pulse.succeeded(sent);
                self.alive();
            }
            Err(RegisterError::Lapsed) if self.known => {
                self.known = false;
                self.lapse();
                self.outdated = true; // put it again, at once
            }
            Err(RegisterError::Taken) => {
                // Putting it again would take it back, and the other would do the same, for ever.
                self.lapse();
                self.pulse.wait(Instant::now());
            }
            Err(_) => self.pulse.failed(Instant::now()),
        }
    }

    /// One write, whatever the registry does: it may hang or panic. Meanwhile orders and the end of
    /// the lease are noticed.
    async fn write(&mut self, write: Write) -> Result<(), RegisterError> {
        self.tried = true;
        let (registry, lease) = (Arc::clone(&self.registry), self.lease.clone());
        let work = async move {
            match write {
                Write::Put => registry.put(&lease).await,
                Write::Renew => registry.renew(&lease).await,
                Write::Remove => registry.remove(&lease).await,
            }
        };
        let limit = self.config.interval().min(WRITE_TIMEOUT);
        let mut work = pin!(time::timeout(limit, AssertUnwindSafe(work).catch_unwind()));
        let result = loop {
            let (lapse, deadline) = (self.pulse.expiry(), self.deadline);
            tokio::select! {
                biased;
                done = &mut work => break match done {
                    Ok(Ok(result)) => result,
                    Ok(Err(_)) => Err(RegisterError::refused("its code panicked")),
                    Err(_) => Err(RegisterError::unavailable("it did not answer in time")),
                },
                order = self.orders.changed(), if !self.dropped => self.take(order),
                () = until(lapse) => self.lapse(),
                () = until(deadline) => {
                    break Err(RegisterError::unavailable("it did not answer in time"));
                }
            }
        };
        self.report(result.as_ref().err());
        result
    }

    /// The orders changed, or nobody gives any more.
    fn take(&mut self, order: Result<(), watch::error::RecvError>) {
        match order {
            Ok(()) => self.read_orders(),
            Err(_) => {
                self.dropped = true;
                self.bound(self.config.deregister_timeout);
            }
        }
    }

    fn read_orders(&mut self) {
        let orders = self.orders.borrow_and_update().clone();
        let before = std::mem::replace(&mut self.phase, orders.phase);
        let mut wanted = orders.instance;
        if self.phase >= Phase::Drain && wanted.status == Status::Up {
            wanted = Arc::new((*wanted).clone().with_status(Status::Draining));
        }
        self.outdated |= wanted != self.lease.instance;
        self.lease.instance = wanted;
        if self.phase == before {
            return;
        }
        if before == Phase::Serve {
            self.shown.state.send_replace(State::Draining);
        }
        if self.phase == Phase::Close {
            let drained = *self.shown.drained.borrow();
            let drain = if drained {
                Duration::ZERO
            } else {
                self.config.drain
            };
            self.bound(drain + self.config.deregister_timeout);
        }
    }

    /// All must be over after `limit` from now.
    fn bound(&mut self, limit: Duration) {
        let at = Instant::now() + limit;
        self.deadline = Some(self.deadline.map_or(at, |before| before.min(at)));
    }

    /// The record is there.
    fn alive(&mut self) {
        let since = self.lapsed.take();
        if self.phase != Phase::Serve {
            return;
        }
        let news = self.shown.state.send_if_modified(|state| {
            std::mem::replace(state, State::Registered) != State::Registered
        });
        if news {
            let lease = &self.lease.instance;
            let (service, id) = (&*lease.service, &*lease.id);
            let gap_s = since.map(|since| since.elapsed().as_secs_f64());
            tracing::info!(service, id, gap_s, "registered");
        }
    }

    /// The record is gone although it should be there.
    fn lapse(&mut self) {
        self.pulse.lapsed();
        if self.lapsed.is_some() {
            return;
        }
        let since = Instant::now();
        self.lapsed = Some(since);
        if self.phase == Phase::Serve {
            self.shown.stats.lapses.add(1);
            self.shown.state.send_replace(State::Lapsed { since });
            let lease = &self.lease.instance;
            let (service, id) = (&*lease.service, &*lease.id);
            tracing::warn!(service, id, "the registration has lapsed");
        }
    }

    /// A write is over: its error is kept, counted, and logged when it is another than the last.
    fn report(&self, error: Option<&RegisterError>) {
        // That a lease has lapsed is an answer.
        let error = error.filter(|error| !matches!(error, RegisterError::Lapsed));
        let before = std::mem::replace(&mut *self.shown.last_error.lock(), error.cloned());
        let Some(error) = error else { return };
        self.shown.stats.failures.add(1);
        if before.is_none_or(|before| before.to_string() != error.to_string()) {
            let lease = &self.lease.instance;
            let (service, id) = (&*lease.service, &*lease.id);
            tracing::warn!(service, id, %error, "not written to the registry");
        }
    }
}

/// Until `at`; for ever if it is not known.
async fn until(at: Option<Instant>) {
    match at {
        Some(at) => time::sleep_until(at).await,
        None => std::future::pending().await,
    }
}

#[cfg(test)]
mod tests;
