//! What a call holds of a gate: a place in the queue, or a permit.

use std::{
    fmt,
    sync::Arc,
    task::{Context, Poll, ready},
};

use tokio::time::Instant;

use super::{gate::Gate, queue::Ticket};
use crate::vocab::{outcome::Outcome, tracked::CallGuard};

/// Held for one call that is in flight, up to the end of its response body.
pub struct Permit {
    gate: Arc<Gate>,
}

/// A call that waits. Dropped, it waits no longer.
pub(super) struct Waiter {
    pub(super) since: Instant,
    gate: Arc<Gate>,
    /// `None` once it does not wait any more.
    ticket: Option<Ticket>,
}

// ===== impl Permit =====

impl Permit {
    /// For a call that has entered the gate.
    #[inline]
    pub(super) fn of(gate: Arc<Gate>) -> Self {
        Self { gate }
    }
}

impl Drop for Permit {
    #[inline]
    fn drop(&mut self) {
        self.gate.leave();
    }
}

impl CallGuard for Permit {
    #[inline]
    fn end(self, _: Outcome) {}
}

impl fmt::Debug for Permit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Permit").finish_non_exhaustive()
    }
}

// ===== impl Waiter =====

impl Waiter {
    pub(super) fn new(gate: Arc<Gate>, ticket: Ticket, since: Instant) -> Self {
        Self {
            since,
            gate,
            ticket: Some(ticket),
        }
    }

    /// The permit, once it is this one's turn.
    pub(super) fn poll_permit(&mut self, cx: &Context<'_>) -> Poll<Permit> {
        let ticket = self.ticket.expect("it still waits");
        ready!(self.gate.poll(ticket, cx));
        self.ticket = None;
        Poll::Ready(Permit::of(self.gate.clone()))
    }

    /// Waits no longer; gives the permit that came at the last moment.
    pub(super) fn give_up(&mut self) -> Option<Permit> {
        let has_entered = self.gate.give_up(self.ticket.take()?);
        has_entered.then(|| Permit::of(self.gate.clone()))
    }
}

impl Drop for Waiter {
    fn drop(&mut self) {
        drop(self.give_up());
    }
}
