//! The errors and the panic that the kit injects.

use std::{any::Any, error::Error, fmt, io};

/// The error that a [`Probe`](super::Probe) or a [`TestBody`](super::TestBody) fails with.
///
/// It travels as a boxed error, as those of real clients do, and its source is an [`io::Error`], so
/// that code that looks for the cause of a failure finds one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ProbeError(io::ErrorKind);

/// What an injected panic carries, so that a test can tell it from a real one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct InjectedPanic;

// ===== impl ProbeError =====

impl ProbeError {
    /// The peer refused the connection: nothing was sent.
    pub const fn refused() -> Self {
        Self(io::ErrorKind::ConnectionRefused)
    }

    /// The connection broke after the request was sent.
    pub const fn reset() -> Self {
        Self(io::ErrorKind::ConnectionReset)
    }

    /// The peer did not answer in time.
    pub const fn timed_out() -> Self {
        Self(io::ErrorKind::TimedOut)
    }

    /// Which kind of I/O error this stands for.
    pub fn kind(&self) -> io::ErrorKind {
        self.0
    }

    /// Finds an injected error in `error` or down the chain of its sources.
    pub fn find<'a>(error: &'a (dyn Error + 'static)) -> Option<&'a Self> {
        let mut next = Some(error);
        while let Some(error) = next {
            if let Some(found) = error.downcast_ref() {
                return Some(found);
            }
            // An `io::Error` hides what it wraps: its `source` is the source of that.
            if let Some(inner) = error
                .downcast_ref::<io::Error>()
                .and_then(io::Error::get_ref)
            {
                let inner: &'a (dyn Error + 'static) = inner;
                next = Some(inner);
            } else {
                next = error.source();
            }
        }
        None
    }
}

impl fmt::Display for ProbeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "injected error: {}", self.0)
    }
}

impl Error for ProbeError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        // The source must live as long as `self`, so there is one of each.
        static SOURCES: std::sync::OnceLock<[io::Error; 3]> = std::sync::OnceLock::new();
        let sources = SOURCES.get_or_init(|| {
            [Self::refused(), Self::reset(), Self::timed_out()].map(|error| error.0.into())
        });
        sources
            .iter()
            .find(|source| source.kind() == self.0)
            .map(|source| source as _)
    }
}

// ===== impl InjectedPanic =====

impl InjectedPanic {
    /// Panics with this as payload, and without the panic hook: nothing is printed.
    pub fn unleash() -> ! {
        std::panic::resume_unwind(Box::new(Self))
    }

    /// Whether a caught panic was injected by the kit.
    pub fn is(payload: &(dyn Any + Send)) -> bool {
        payload.is::<Self>()
    }
}
