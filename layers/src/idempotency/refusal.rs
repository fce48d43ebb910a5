//! Refusals: what is counted, and what a caller is told.

use std::time::Duration;

use super::{
    header::{Allowed, Malformed},
    layer::{CallResult, Shared},
};
use crate::vocab::{
    config::ByteSize,
    idempotent::KEY,
    rejection::{Reason, Rejection},
};

/// When a caller is to come again who came too early. A guess: nobody knows how long a handler takes.
const COME_AGAIN: Duration = Duration::from_secs(1);

/// Why a call is refused.
#[derive(Debug, Clone, Copy)]
pub(super) enum Refusal<'a> {
    Missing,
    Malformed(Malformed<'a>),
    /// The request, and what it may have.
    TooLarge(ByteSize),
    /// Before the request was read.
    BrokeOff,
    InFlight,
    Reused,
    NotKept,
    Full,
}

// ===== impl Refusal =====

impl Refusal<'_> {
    /// Counts it, and says it.
    #[cold]
    pub(super) fn count(self, shared: &Shared) -> Rejection {
        let (result, reason) = match self {
            Self::Missing | Self::Malformed(_) | Self::BrokeOff => {
                (CallResult::Invalid, Reason::InvalidRequest)
            }
            Self::TooLarge(_) => (CallResult::TooLarge, Reason::BodyTooLarge),
            Self::InFlight => (CallResult::InFlight, Reason::KeyInFlight),
            Self::Reused => (CallResult::Reused, Reason::KeyReused),
            Self::NotKept => (CallResult::NotKept, Reason::AnswerNotKept),
            Self::Full => (CallResult::Full, Reason::ConcurrencyLimit),
        };
        shared.count(result);
        let rejection = Rejection::new("idempotency", reason, self.detail());
        match self {
            Self::InFlight | Self::Full => rejection.retry_after(COME_AGAIN),
            _ => rejection.retry_never(),
        }
    }

    fn detail(self) -> String {
        let header = KEY.as_str();
        match self {
            Self::Missing => format!("the header `{header}` is missing, required is {Allowed}"),
            Self::Malformed(malformed) => malformed.to_string(),
            Self::TooLarge(most) => {
                format!("a request with the header `{header}` may have at most {most}")
            }
            Self::BrokeOff => "the request broke off".to_owned(),
            Self::InFlight => {
                format!("the first call with this `{header}` is not over")
            }
            Self::Reused => {
                format!("this `{header}` came with another request before")
            }
            Self::NotKept => format!(
                "the call with this `{header}` was made before, and its answer was too large to be kept"
            ),
            Self::Full => format!("too many calls with the header `{header}` are in flight"),
        }
    }
}
