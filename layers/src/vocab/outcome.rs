//! How a finished call counts.
//!
//! | outcome | which calls | effect |
//! |---|---|---|
//! | [`Failure`](Outcome::Failure) | connect, reset, timeout; HTTP 500, 502-504; gRPC UNKNOWN, INTERNAL, UNAVAILABLE, DATA_LOSS, DEADLINE_EXCEEDED; a gRPC stream without `grpc-status` | breaker, ejection, latency penalty, retry if allowed |
//! | [`Overload`](Outcome::Overload) | 429, RESOURCE_EXHAUSTED, a failure that carries pushback | in the failure *rate* and the latency penalty, not in consecutive ejection |
//! | [`Cancelled`](Outcome::Cancelled) | the caller dropped it; 499; CANCELLED | neither success nor failure |
//! | [`Ignored`](Outcome::Ignored) | a [`Rejection`](crate::Rejection) made by this process | never counts against the peer |
//! | [`Success`](Outcome::Success) | everything else | |

use std::time::Duration;

use http::StatusCode;

use super::grpc::Code;

/// How a finished call counts. The [module](self) has the table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[must_use]
pub enum Outcome {
    /// The peer answered, and the answer is not its failure (404 is a success).
    Success,
    /// The call failed on the peer's side or on the way there.
    Failure(FailureKind),
    /// The peer is too busy, and perhaps says when to come back.
    Overload(Option<Pushback>),
    /// The caller gave up before the answer was complete.
    Cancelled,
    /// A layer of this process refused the call; the peer never saw it.
    Ignored,
}

/// What made a call a failure.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum FailureKind {
    /// No connection could be made, so nothing was sent.
    Connect,
    /// The connection or the stream broke.
    Reset,
    /// A deadline or an attempt timeout passed.
    Timeout,
    /// An HTTP status.
    Http(StatusCode),
    /// A gRPC status.
    Grpc(Code),
    /// A gRPC stream that ended without `grpc-status`.
    MissingStatus,
    /// An error of the inner service that says nothing more about itself.
    Other,
}

/// When the peer wants to be called again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pushback {
    /// Not before this time has passed (`Retry-After`, `grpc-retry-pushback-ms`).
    After(Duration),
    /// Not at all (`grpc-retry-pushback-ms: -1`, `x-mesh-retry: never`).
    Never,
}

// ===== impl Outcome =====

impl Outcome {
    /// Whether this is a success.
    pub const fn is_success(self) -> bool {
        matches!(self, Self::Success)
    }

    /// Whether this counts in a failure rate: a failure, or an overload.
    pub const fn is_failure_or_overload(self) -> bool {
        matches!(self, Self::Failure(_) | Self::Overload(_))
    }

    /// Whether the call says something about the peer: neither cancelled nor ignored.
    pub const fn counts(self) -> bool {
        !matches!(self, Self::Cancelled | Self::Ignored)
    }

    /// A short, fixed label for metrics and logs.
    pub const fn label(self) -> &'static str {
        match self {
            Self::Success => "success",
            Self::Failure(_) => "failure",
            Self::Overload(_) => "overload",
            Self::Cancelled => "cancelled",
            Self::Ignored => "ignored",
        }
    }
}

// ===== impl FailureKind =====

impl FailureKind {
    /// A short, fixed label for metrics and logs (`error.type` of the OpenTelemetry conventions).
    pub fn label(self) -> &'static str {
        match self {
            Self::Connect => "connect",
            Self::Reset => "reset",
            Self::Timeout => "timeout",
            Self::Http(status) => match status.as_u16() {
                500 => "500",
                502 => "502",
                503 => "503",
                504 => "504",
                _ => "http",
            },
            Self::Grpc(code) => code.name(),
            Self::MissingStatus => "missing_status",
            Self::Other => "_OTHER",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_answers_of_the_peer_count() {
        let kind = FailureKind::Connect;
        let table = [
            (Outcome::Success, true, false),
            (Outcome::Failure(kind), true, true),
            (Outcome::Overload(None), true, true),
            (Outcome::Cancelled, false, false),
            (Outcome::Ignored, false, false),
        ];
        for (outcome, counts, bad) in table {
            assert_eq!(
                (outcome.counts(), outcome.is_failure_or_overload()),
                (counts, bad)
            );
        }
    }
}
