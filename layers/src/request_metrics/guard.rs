//! What is held for a call: when it began, and where it is counted.

use std::{fmt, sync::Arc};

use http::{HeaderMap, Response};
use tokio::time::Instant;

use super::{
    layer::Shared,
    operation::{CallResult, Operation},
};
use crate::vocab::{
    classify::CallKind, metrics::Registered, outcome::Outcome, semconv::Answered,
    tracked::CallGuard,
};

/// Held for one call: counts it among the active ones, and records how long it took.
pub struct CallTimer {
    shared: Arc<Registered<Shared>>,
    operation: Arc<Operation>,
    start: Instant,
    /// When the answer came.
    end: Option<Instant>,
    answered: Answered,
}

// ===== impl CallTimer =====

impl CallTimer {
    #[inline]
    pub(super) fn new(
        shared: Arc<Registered<Shared>>,
        operation: Arc<Operation>,
        call: CallKind,
        start: Instant,
    ) -> Self {
        shared.active.add(1);
        Self {
            answered: Answered::nothing_yet(call, shared.is_server()),
            shared,
            operation,
            start,
            end: None,
        }
    }

    fn result(&self, outcome: Outcome) -> CallResult {
        let is_grpc = self.answered.is_grpc();
        let status = if is_grpc {
            self.answered.code().map(|code| code.as_u8().into())
        } else {
            self.answered.status().map(|status| status.as_u16())
        };
        CallResult {
            is_grpc,
            status,
            error: self.answered.error(outcome).map(|error| error.kind()),
        }
    }
}

impl CallGuard for CallTimer {
    #[inline]
    fn answer<B>(&mut self, response: &Response<B>) {
        self.answered.head(response);
        if !self.answered.is_grpc() {
            self.end = Some(Instant::now());
        }
    }

    #[inline]
    fn first_frame(&mut self) {
        self.end.get_or_insert_with(Instant::now);
    }

    #[inline]
    fn trailers(&mut self, trailers: &HeaderMap) {
        self.answered.trailers(trailers);
    }

    #[inline]
    fn end(self, outcome: Outcome) {
        let end = self.end.unwrap_or_else(Instant::now);
        let took = end.saturating_duration_since(self.start);
        self.operation.duration(self.result(outcome)).record(took);
    }
}

impl Drop for CallTimer {
    #[inline]
    fn drop(&mut self) {
        self.shared.active.sub(1);
    }
}

impl fmt::Debug for CallTimer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CallTimer")
            .field("start", &self.start)
            .field("answered", &self.answered)
            .finish_non_exhaustive()
    }
}
