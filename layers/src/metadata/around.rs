//! What is current around a handler and the body of its response.

use crate::vocab::context::{Ambient, Entered};

/// What is made current around every poll of what is below a server layer.
#[derive(Debug)]
pub(super) struct Around {
    pub(super) ambient: Ambient,
    /// The caller's trace, for who asks OpenTelemetry for it. Boxed: most calls have none, and this is
    /// moved around.
    #[cfg(feature = "otel")]
    pub(super) trace: Option<Box<opentelemetry::Context>>,
}

/// Puts what was current back, panic or not.
#[must_use]
pub(super) struct EnteredAround<'a> {
    _ambient: Entered<'a>,
    #[cfg(feature = "otel")]
    _trace: Option<opentelemetry::ContextGuard>,
}

// ===== impl Around =====

impl Around {
    #[inline]
    pub(super) fn entered(&mut self) -> EnteredAround<'_> {
        EnteredAround {
            _ambient: self.ambient.entered(),
            #[cfg(feature = "otel")]
            _trace: self.trace.as_deref().map(|trace| trace.clone().attach()),
        }
    }
}
