//! For layers that ask when a call ends, and not how.

use std::convert::Infallible;

use http::{HeaderMap, Response};

use super::{CallKind, Classify, ClassifyEnd, Head};
use crate::vocab::{outcome::Outcome, transport::Diagnosis};

/// Looks at nothing, and counts every answer as a success.
///
/// For a [`CallGuard`](crate::CallGuard) that only holds something until its call is over: looking at
/// the answer would be for nothing.
#[derive(Debug, Clone, Copy, Default)]
pub struct Unjudged;

// ===== impl Unjudged =====

impl Classify for Unjudged {
    type End = Infallible;

    #[inline]
    fn head<B>(&self, _: CallKind, _: &Response<B>) -> Head<Infallible> {
        Head::Decided(Outcome::Success)
    }
}

/// No end is left open.
impl ClassifyEnd for Infallible {
    fn end(self, _: Option<&HeaderMap>) -> Outcome {
        match self {}
    }

    fn error(self, _: Diagnosis) -> Outcome {
        match self {}
    }

    fn dropped(self) -> Outcome {
        match self {}
    }
}
