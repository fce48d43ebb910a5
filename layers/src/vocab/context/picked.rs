//! How a balancer tells the retry layer above it which endpoint an attempt went to.
//!
//! The request is gone by then, and a shared cell in it would cost every call an allocation that only
//! a retry needs. Balancer and retry layer run on the same stack, so a thread-local slot around each
//! call and each poll does it. Between them must be no spawned task (such as tower's `Buffer`): then
//! a retry does not know what was tried, and may pick the same endpoint again.

use std::cell::Cell;

use super::EndpointId;

thread_local! {
    static PICKED: Cell<Option<EndpointId>> = const { Cell::new(None) };
    static TRACED: Cell<bool> = const { Cell::new(false) };
}

/// Whether the present span wants to know which endpoint is picked: then the balancer records
/// `server.address`, `server.port` and `mesh.endpoint` in [`tracing::Span::current`]. Asked of every
/// pick, so that one without a span formats nothing.
#[inline]
pub fn is_traced() -> bool {
    TRACED.get()
}

/// While this is held, a span that is entered wants to know what is picked.
#[must_use]
#[allow(dead_code, reason = "for the layer that traces")]
pub(crate) struct Traced(bool);

impl Traced {
    #[inline]
    #[allow(dead_code, reason = "for the layer that traces")]
    pub(crate) fn set(traced: bool) -> Self {
        Self(TRACED.replace(traced))
    }
}

impl Drop for Traced {
    #[inline]
    fn drop(&mut self) {
        TRACED.set(self.0);
    }
}

/// Notes the endpoint that was picked.
#[inline]
pub fn record(id: EndpointId) {
    PICKED.set(Some(id));
}

/// Runs a call or a poll, and gives the endpoint that was picked during it.
pub fn scope<R>(run: impl FnOnce() -> R) -> (R, Option<EndpointId>) {
    let scope = enter();
    let result = run();
    (result, scope.leave())
}

/// What picks were noted around a [`scope`].
#[must_use]
pub(crate) struct Scope(Option<EndpointId>);

/// The same as [`scope`], but for a closure: it would have to take the request in.
#[inline]
pub(crate) fn enter() -> Scope {
    Scope(PICKED.replace(None))
}

impl Scope {
    #[inline]
    pub(crate) fn leave(self) -> Option<EndpointId> {
        // NOTE: not restored after a panic; what is left then is overwritten by the next scope.
        PICKED.replace(self.0)
    }
}
