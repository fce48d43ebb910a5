//! What is held for a call in flight.

use std::{fmt, sync::Arc};

use http::{HeaderMap, Response};

use super::layer::Shared;
use crate::vocab::{
    classify::{CallKind, Classify, ClassifyEnd, Head},
    metrics::Registered,
    outcome::Outcome,
    tracked::CallGuard,
    transport::Diagnosis,
};

/// Held for one call, until its response body has ended.
pub struct InFlight {
    shared: Arc<Registered<Shared>>,
}

/// How a call came out is all the same here.
#[derive(Debug, Clone, Copy)]
pub struct Unjudged;

// ===== impl InFlight =====

impl InFlight {
    #[inline]
    pub(super) fn new(shared: Arc<Registered<Shared>>) -> Self {
        shared.entered();
        Self { shared }
    }
}

impl CallGuard for InFlight {
    #[inline]
    fn end(self, _: Outcome) {}
}

impl Drop for InFlight {
    #[inline]
    fn drop(&mut self) {
        self.shared.left();
    }
}

impl fmt::Debug for InFlight {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("InFlight")
    }
}

// ===== impl Unjudged =====

impl Classify for Unjudged {
    type End = Self;

    #[inline]
    fn head<B>(&self, _: CallKind, _: &Response<B>) -> Head<Self> {
        Head::Decided(Outcome::Ignored)
    }
}

impl ClassifyEnd for Unjudged {
    fn end(self, _: Option<&HeaderMap>) -> Outcome {
        Outcome::Ignored
    }

    fn error(self, _: Diagnosis) -> Outcome {
        Outcome::Ignored
    }

    fn dropped(self) -> Outcome {
        Outcome::Ignored
    }
}
