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
//! is passed up whatever it is, but for a gRPC status that is there [already](super::peek).

use std::time::Duration;

use fastrand::Rng;
use http::{HeaderMap, Response, StatusCode, request};
use tokio::time::Instant;

use super::{
    condition::Condition,
    config::RetryConfig,
    rules::{CallPolicy, Rules},
};
use crate::vocab::{
    body::ReplayConfig,
    budget::BudgetTerms,
    classify::{CallKind, Classify, ClassifyEnd, Head, pushback},
    config::ConfigError,
    grpc::{self, Code},
    headers::find,
    idempotent::is_idempotent,
    outcome::{FailureKind, Outcome, Pushback},
    rejection::Rejection,
    request_match::RequestMatch,
    transport::diagnose,
};

/// A configuration, compiled.
pub(super) struct Policy {
    /// Off where there is no configuration.
    pub(super) on: bool,
    pub(super) rules: Rules,
    /// How many attempts go to one endpoint, before another is tried.
    pub(super) at_each: u32,
    pub(super) budget: BudgetTerms,
    pub(super) replay: ReplayConfig,
    pub(super) name: String,
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

/// What a response's head says.
pub(super) enum Sight {
    Fine,
    /// That its gRPC status is still to come.
    Open,
    Bad(Trouble),
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

/// How an answer is judged.
pub(super) enum Verdict {
    /// It is passed up.
    Fine,
    /// It is passed up too, though it is no success.
    Unlisted,
    /// It is passed up, though the peer said that it must not be called again.
    Warned,
    Failed(Failed),
}

/// What a decision needs to know of the call.
#[derive(Debug, Clone, Copy)]
pub(super) struct Progress<'a> {
    /// The request, where it was kept.
    pub(super) parts: Option<&'a request::Parts>,
    /// Attempts made, but for one that the peer refused unseen.
    pub(super) attempts: u32,
    /// How many of them were made when the peer last said when to come back.
    pub(super) pushed_back_at: u32,
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
                rules: Rules::one_attempt(), // calls that have failed and are waiting try no more
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
            rules: Rules::compile(config)?,
            at_each: config.retry_on_same + 1,
            budget: config.budget.terms(),
            replay: config.replay,
            name: config.name.clone(),
            idempotent,
            non_idempotent: config.non_idempotent,
            base: config.backoff.base,
            max: config.backoff.max,
            max_pushback: config.max_pushback,
        })
    }

    /// Judges a response; `trouble` is what is wrong with it, and `headers` are its own or its trailers.
    pub(super) fn response(&self, rule: u8, trouble: Trouble, headers: &HeaderMap) -> Verdict {
        let Trouble {
            condition,
            overloaded,
        } = trouble;
        let pushback = pushback(headers);
        if self.rules.of(rule).retry_on.contains(condition) {
            Verdict::Failed(Failed {
                condition,
                unsent: false,
                pushback,
                overloaded,
            })
        } else if pushback == Some(Pushback::Never) {
            Verdict::Warned
        } else {
            Verdict::Unlisted
        }
    }

    /// Judges an error. One that was never sent always is a failure.
    pub(super) fn error<C: Classify, E: 'static>(
        &self,
        rule: u8,
        classify: &C,
        call: CallKind,
        error: &E,
    ) -> Verdict {
        let diagnosis = diagnose(error);
        let (condition, pushback, overloaded) = match classify.error(call, diagnosis) {
            Outcome::Failure(kind) => (Condition::of(kind), None, false),
            Outcome::Overload(pushback) => (Condition::of(diagnosis.kind), pushback, true),
            Outcome::Success | Outcome::Cancelled | Outcome::Ignored => return Verdict::Unlisted,
        };
        let unsent = diagnosis.unsent;
        if !unsent && !self.rules.of(rule).retry_on.contains(condition) {
            return Verdict::Unlisted;
        }
        Verdict::Failed(Failed {
            condition,
            unsent,
            pushback,
            overloaded,
        })
    }

    /// Judges an attempt that took too long. `unsent`: it was still waiting for the inner service to
    /// become ready.
    pub(super) fn timed_out(&self, rule: u8, unsent: bool) -> Option<Failed> {
        let condition = Condition::of(FailureKind::Timeout);
        let listed = self.rules.of(rule).retry_on.contains(condition);
        listed.then_some(Failed {
            condition,
            unsent,
            pushback: None,
            overloaded: false,
        })
    }

    /// Whether a failed attempt is repeated, and when.
    pub(super) fn decide(
        &self,
        rule: u8,
        failed: &Failed,
        progress: Progress<'_>,
        now: Instant,
        rng: &mut Rng,
    ) -> Result<Wait, GaveUp> {
        let parts = progress.parts.ok_or(GaveUp::Attempts)?;
        let rule = self.rules.of(rule);
        if failed.may_have_had_an_effect() && !self.is_idempotent(rule, parts) {
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
            // After a pushback the pauses begin anew, as in gRFC A6.
            None => {
                let attempts = progress.attempts - progress.pushed_back_at;
                Wait::After(full_jitter(self.backoff(attempts), rng))
            }
        };
        match (wait, progress.deadline) {
            (Wait::After(_), _) if progress.attempts >= rule.max_attempts => Err(GaveUp::Attempts),
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

    /// RFC 9110 §9.2.2, or the word of the caller or of the configuration.
    fn is_idempotent(&self, rule: &CallPolicy, parts: &request::Parts) -> bool {
        if let Some(idempotent) = rule.idempotent {
            return idempotent;
        }
        let matches = |listed: &RequestMatch| listed.matches_parts(parts);
        self.non_idempotent
            || is_idempotent(&parts.method, &parts.headers, &parts.extensions)
            || self.idempotent.as_ref().is_some_and(matches)
    }
}

// ===== impl Sight =====

impl Sight {
    /// Looks at a response's head: nearly all are fine, and for those no policy needs to be read.
    #[inline]
    pub(super) fn of<C: Classify, B>(classify: &C, call: CallKind, response: &Response<B>) -> Self {
        let outcome = match classify.head(call, response) {
            Head::Decided(outcome) => outcome,
            Head::Open(end) => match end.provisional() {
                Some(outcome) => outcome,
                None if is_open(call, response) => return Self::Open,
                None => Outcome::Success,
            },
        };
        Trouble::of(call, response, outcome).map_or(Self::Fine, Self::Bad)
    }
}

// ===== impl Trouble =====

impl Trouble {
    #[inline]
    fn of<B>(call: CallKind, response: &Response<B>, outcome: Outcome) -> Option<Self> {
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

    /// Looks at trailers that came in the place of a gRPC response.
    #[cold]
    pub(super) fn of_trailers<C: Classify, B>(
        classify: &C,
        call: CallKind,
        response: &Response<B>,
        trailers: &HeaderMap,
    ) -> Option<Self> {
        let Head::Open(end) = classify.head(call, response) else {
            return None;
        };
        let outcome = end.end(Some(trailers));
        let code = Code::from_headers(trailers)?;
        let failed = code != Code::OK && !matches!(outcome, Outcome::Ignored | Outcome::Cancelled);
        failed.then_some(Self {
            condition: Condition::Grpc(code),
            overloaded: matches!(outcome, Outcome::Overload(_)),
        })
    }
}

/// Whether a gRPC response's status is still to come.
#[inline]
fn is_open<B>(call: CallKind, response: &Response<B>) -> bool {
    static STATUS: http::HeaderName = grpc::STATUS;
    call.is_grpc()
        && response.status() == StatusCode::OK
        && find(response.headers(), &STATUS).is_none()
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

    /// Whether the peer said when to come back.
    pub(super) fn is_pushed_back(&self) -> bool {
        matches!(self.pushback, Some(Pushback::After(_)))
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
