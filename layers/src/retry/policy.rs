//! The decision: whether an attempt is repeated, and when.
//!
//! ```text
//!   answer ──► failed? ──► listed, or never sent? ──► safe to repeat? ──► peer allows it?
//!                │ no            │ no                      │ no               │ no
//!                ▼               ▼                         ▼                  ▼
//!              pass up        pass up                  give up            give up
//!
//!   ──► attempts left? ──► time left? ──► body still there? ──► budget? ──► retry
//! ```
//!
//! The first six questions are asked here, about values only; the last two by the future, which has
//! the body. A response head that is no failure commits the call, as in gRFC A6: what comes after it
//! is passed up whatever it is.

use std::time::Duration;

use fastrand::Rng;
use http::{HeaderMap, HeaderName, Method, Response, StatusCode, request};
use tokio::time::Instant;

use super::{
    Idempotent,
    budget::Terms,
    condition::Condition,
    config::{ReplayConfig, RetryConfig},
};
use crate::vocab::{
    classify::{CallKind, Classify, ClassifyEnd, Head, pushback},
    config::ConfigError,
    grpc::Code,
    outcome::{FailureKind, Outcome, Pushback},
    rejection::Rejection,
    request_match::RequestMatch,
    transport::diagnose,
};

/// `Idempotency-Key`: the peer recognises a request that it has seen.
/// Source: draft-ietf-httpapi-idempotency-key-header.
const IDEMPOTENCY_KEY: HeaderName = HeaderName::from_static("idempotency-key");

/// A configuration, compiled.
pub(super) struct Policy {
    /// Off where there is no configuration.
    pub(super) on: bool,
    pub(super) max_attempts: u32,
    pub(super) attempt_timeout: Option<Duration>,
    pub(super) budget: Terms,
    pub(super) replay: ReplayConfig,
    pub(super) name: String,
    retry_on: Vec<Condition>,
    idempotent: Option<RequestMatch>,
    non_idempotent: bool,
    base: Duration,
    max: Duration,
    max_pushback: Duration,
}

/// What is wrong with a response, whether it is retried or not.
#[derive(Debug, Clone, Copy)]
pub(super) struct Trouble {
    condition: Condition,
    overloaded: bool,
}

/// An attempt that failed in a way that is retried.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Failed {
    pub(super) condition: Condition,
    /// The peer surely saw nothing of the request.
    unsent: bool,
    pushback: Option<Pushback>,
    /// The peer is too busy: only it can say when another attempt makes sense.
    overloaded: bool,
}

/// What a decision needs to know of the call.
#[derive(Debug, Clone, Copy)]
pub(super) struct Progress<'a> {
    /// The request, where it was kept.
    pub(super) parts: Option<&'a request::Parts>,
    /// Attempts made, but for one that the peer refused unseen.
    pub(super) attempts: u32,
    /// The one attempt that costs nothing was made.
    pub(super) refused_once: bool,
    pub(super) deadline: Option<Instant>,
}

/// When the next attempt is made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Wait {
    /// At once, and outside of the budget: the peer refused the request unseen.
    Free,
    /// After this.
    After(Duration),
}

/// Why a failed call is not tried again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum GaveUp {
    /// All attempts were made.
    Attempts,
    /// There were too many retries lately.
    Budget,
    /// The next attempt would begin at or after the deadline.
    Deadline,
    /// The peer said that it must not be tried again, or not soon enough; or it is too busy and did
    /// not say when.
    Pushback,
    /// The request's body was too long to be kept, failed, or is still being sent.
    Body,
    /// The request may have had an effect, and is not known to be safe to repeat.
    NotIdempotent,
}

// ===== impl Policy =====

impl Policy {
    pub(super) fn compile(config: &Option<RetryConfig>) -> Result<Self, ConfigError> {
        match config {
            Some(config) => Self::on(config),
            None => Ok(Self {
                on: false,
                max_attempts: 1, // calls that have failed and are waiting try no more
                ..Self::on(&RetryConfig::default())?
            }),
        }
    }

    fn on(config: &RetryConfig) -> Result<Self, ConfigError> {
        config.validate()?;
        let idempotent = match config.idempotent.as_slice() {
            [] => None, // an empty list of alternatives would match everything
            matches => Some(RequestMatch::any_of(matches).map_err(|error| error.at("idempotent"))?),
        };
        Ok(Self {
            on: true,
            max_attempts: config.max_attempts,
            attempt_timeout: config.attempt_timeout,
            budget: Terms::new(config.budget.ratio, config.budget.reserve),
            replay: config.replay,
            name: config.name.clone(),
            retry_on: config.retry_on.clone(),
            idempotent,
            non_idempotent: config.non_idempotent,
            base: config.backoff.base,
            max: config.backoff.max,
            max_pushback: config.max_pushback,
        })
    }

    /// Whether a response is a failure that is retried; `trouble` is what is wrong with it.
    pub(super) fn failed(&self, trouble: Trouble, headers: &HeaderMap) -> Option<Failed> {
        let Trouble {
            condition,
            overloaded,
        } = trouble;
        self.retry_on.contains(&condition).then(|| Failed {
            condition,
            unsent: false,
            pushback: pushback(headers),
            overloaded,
        })
    }

    /// Whether an error is a failure that is retried. One that was never sent always is.
    pub(super) fn failed_with<C: Classify, E: 'static>(
        &self,
        classify: &C,
        call: CallKind,
        error: &E,
    ) -> Option<Failed> {
        let diagnosis = diagnose(error);
        let (condition, pushback, overloaded) = match classify.error(call, diagnosis) {
            Outcome::Failure(kind) => (Condition::of(kind), None, false),
            Outcome::Overload(pushback) => (Condition::of(diagnosis.kind), pushback, true),
            Outcome::Success | Outcome::Cancelled | Outcome::Ignored => return None,
        };
        let unsent = diagnosis.unsent;
        (unsent || self.retry_on.contains(&condition)).then_some(Failed {
            condition,
            unsent,
            pushback,
            overloaded,
        })
    }

    /// Whether an attempt that took too long is retried. `unsent`: it was still waiting for the inner
    /// service to become ready.
    pub(super) fn timed_out(&self, unsent: bool) -> Option<Failed> {
        let condition = Condition::of(FailureKind::Timeout);
        self.retry_on.contains(&condition).then_some(Failed {
            condition,
            unsent,
            pushback: None,
            overloaded: false,
        })
    }

    /// Whether a failed attempt is repeated, and when.
    pub(super) fn decide(
        &self,
        failed: &Failed,
        progress: Progress<'_>,
        now: Instant,
        rng: &mut Rng,
    ) -> Result<Wait, GaveUp> {
        let parts = progress.parts.ok_or(GaveUp::Attempts)?;
        if failed.may_have_had_an_effect() && !self.is_idempotent(parts) {
            return Err(GaveUp::NotIdempotent);
        }
        let wait = match failed.pushback {
            Some(Pushback::Never) => return Err(GaveUp::Pushback),
            Some(Pushback::After(wait)) if wait > self.max_pushback => {
                return Err(GaveUp::Pushback);
            }
            Some(Pushback::After(wait)) => Wait::After(wait),
            None if failed.overloaded => return Err(GaveUp::Pushback),
            None if failed.was_refused() && !progress.refused_once => Wait::Free,
            None => Wait::After(full_jitter(self.backoff(progress.attempts), rng)),
        };
        match (wait, progress.deadline) {
            (Wait::After(_), _) if progress.attempts >= self.max_attempts => Err(GaveUp::Attempts),
            (_, Some(deadline)) if now + wait.duration() >= deadline => Err(GaveUp::Deadline),
            _ => Ok(wait),
        }
    }

    /// The upper bound of the pause after so many attempts.
    fn backoff(&self, attempts: u32) -> Duration {
        let doubled = 1_u32.checked_shl(attempts.saturating_sub(1));
        self.base
            .saturating_mul(doubled.unwrap_or(u32::MAX))
            .min(self.max)
    }

    /// RFC 9110 §9.2.2, or the caller's word for it.
    fn is_idempotent(&self, parts: &request::Parts) -> bool {
        let by_method = matches!(
            parts.method,
            Method::GET
                | Method::HEAD
                | Method::OPTIONS
                | Method::TRACE
                | Method::PUT
                | Method::DELETE
        );
        by_method
            || self.non_idempotent
            || parts.extensions.get::<Idempotent>().is_some()
            || parts.headers.contains_key(IDEMPOTENCY_KEY)
            || self
                .idempotent
                .as_ref()
                .is_some_and(|matches| matches.matches_parts(parts))
    }
}

// ===== impl Trouble =====

impl Trouble {
    /// Looks at a response's head: nearly all are fine, and for those no policy needs to be read.
    #[inline]
    pub(super) fn of<C: Classify, B>(
        classify: &C,
        call: CallKind,
        response: &Response<B>,
    ) -> Option<Self> {
        let outcome = match classify.head(call, response) {
            Head::Decided(outcome) => outcome,
            Head::Open(end) => end.provisional().unwrap_or(Outcome::Success),
        };
        let condition = match outcome {
            Outcome::Ignored | Outcome::Cancelled => return None,
            Outcome::Failure(kind) => {
                status_of(call, response).unwrap_or_else(|| Condition::of(kind))
            }
            _ => status_of(call, response)?,
        };
        // A refusal of a layer below is this process's own: its reason is still there a moment later.
        let ours = response.extensions().get::<Rejection>().is_some();
        (!ours).then_some(Self {
            condition,
            overloaded: matches!(outcome, Outcome::Overload(_)),
        })
    }
}

/// The status that a response's head settles; `None` for one that is no failure.
#[inline]
fn status_of<B>(call: CallKind, response: &Response<B>) -> Option<Condition> {
    let status = response.status();
    if !call.is_grpc() {
        let bad = status.is_client_error() || status.is_server_error();
        return bad.then_some(Condition::Status(status));
    }
    let code = match Code::from_headers(response.headers()) {
        Some(code) => code,
        None if status == StatusCode::OK => Code::OK,
        // A proxy in between answered in plain HTTP: the gRPC client sees the mapped code.
        None => Code::from_http(status),
    };
    (code != Code::OK).then_some(Condition::Grpc(code))
}

// ===== impl Failed =====

impl Failed {
    /// A gRPC status without a response is the server's word that another attempt is fine: it is
    /// retried by its code, as in gRFC A6.
    fn may_have_had_an_effect(&self) -> bool {
        !self.unsent && !matches!(self.condition, Condition::Grpc(_))
    }

    /// The peer is there, and turned the request away unseen (HTTP/2's REFUSED_STREAM).
    fn was_refused(&self) -> bool {
        self.unsent && self.condition == Condition::Reset
    }
}

// ===== impl Wait =====

impl Wait {
    pub(super) fn duration(self) -> Duration {
        match self {
            Self::Free => Duration::ZERO,
            Self::After(wait) => wait,
        }
    }
}

/// Callers that failed together do not come back together. Source: "Exponential Backoff And Jitter",
/// AWS Architecture Blog, 2015.
fn full_jitter(most: Duration, rng: &mut Rng) -> Duration {
    let most = u64::try_from(most.as_nanos()).unwrap_or(u64::MAX);
    Duration::from_nanos(rng.u64(0..=most))
}

// ===== impl GaveUp =====

impl GaveUp {
    pub(super) const ALL: [Self; 6] = [
        Self::Attempts,
        Self::Budget,
        Self::Deadline,
        Self::Pushback,
        Self::Body,
        Self::NotIdempotent,
    ];

    /// The label of the metrics.
    pub const fn label(self) -> &'static str {
        match self {
            Self::Attempts => "attempts",
            Self::Budget => "budget",
            Self::Deadline => "deadline",
            Self::Pushback => "pushback",
            Self::Body => "body",
            Self::NotIdempotent => "not_idempotent",
        }
    }
}
