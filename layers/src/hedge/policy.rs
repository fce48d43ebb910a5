//! The decisions: which requests are hedged, and which answer ends a call.

use std::time::Duration;

use http::{Method, Request, Response};

use super::config::{HedgeConfig, HedgeDelay};
use crate::vocab::{
    body::ReplayConfig,
    budget::BudgetTerms,
    classify::{CallKind, Classify, ClassifyEnd, Head, pushback},
    config::ConfigError,
    idempotent::is_safe,
    outcome::{Outcome, Pushback},
    request_match::{MatchConfig, RequestMatch},
    transport::diagnose,
};

/// A configuration, compiled.
pub(super) struct Policy {
    /// Off where there is no configuration.
    pub(super) on: bool,
    pub(super) delay: HedgeDelay,
    pub(super) max_attempts: u32,
    pub(super) min_samples: u32,
    pub(super) cap: BudgetTerms,
    pub(super) replay: ReplayConfig,
    pub(super) name: String,
    idempotent: Option<RequestMatch>,
    only: Option<RequestMatch>,
}

/// What an answer means for the other attempts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Verdict {
    /// It is the answer of the call.
    Good,
    /// Another may be better.
    Bad(Then),
}

/// What a failed attempt says of further ones.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Then {
    /// Nothing.
    GoOn,
    /// The next one not before this has passed.
    After(Duration),
    /// That there must be none.
    Stop,
}

// ===== impl Policy =====

impl Policy {
    pub(super) fn compile(config: &Option<HedgeConfig>) -> Result<Self, ConfigError> {
        match config {
            Some(config) => Self::on(config),
            None => Ok(Self {
                on: false,
                max_attempts: 1, // calls that are waiting are hedged no more
                ..Self::on(&HedgeConfig::default())?
            }),
        }
    }

    fn on(config: &HedgeConfig) -> Result<Self, ConfigError> {
        config.validate()?;
        Ok(Self {
            on: true,
            delay: config.delay,
            max_attempts: config.max_attempts,
            min_samples: config.min_samples,
            cap: BudgetTerms::ratio(config.extra_load, 0),
            replay: config.replay,
            name: config.name.clone(),
            idempotent: compile(&config.idempotent).map_err(|error| error.at("idempotent"))?,
            only: compile(&config.only).map_err(|error| error.at("only"))?,
        })
    }

    /// Whether the configuration has to be asked about a request.
    pub(super) fn has_matches(&self) -> bool {
        self.idempotent.is_some() || self.only.is_some()
    }

    /// Whether a request may be hedged. It must not be a tunnel's.
    pub(super) fn is_meant<B>(&self, request: &Request<B>) -> bool {
        let listed = |listed: &RequestMatch| listed.matches(request);
        self.only.as_ref().is_none_or(listed)
            && (may_be_sent_twice(request) || self.idempotent.as_ref().is_some_and(listed))
    }
}

/// An empty list of alternatives would match everything.
fn compile(matches: &[MatchConfig]) -> Result<Option<RequestMatch>, ConfigError> {
    if matches.is_empty() {
        return Ok(None);
    }
    RequestMatch::any_of(matches).map(Some)
}

/// Whether a request is safe by its method, or its caller says so.
#[inline]
pub(super) fn may_be_sent_twice<B>(request: &Request<B>) -> bool {
    debug_assert_ne!(request.method(), Method::CONNECT);
    is_safe(request.method(), request.headers(), request.extensions())
}

// ===== impl Verdict =====

impl Verdict {
    #[inline]
    pub(super) fn of<C: Classify, B, E: 'static>(
        classify: &C,
        call: CallKind,
        answer: &Result<Response<B>, E>,
    ) -> Self {
        let (outcome, pushback) = match answer {
            Ok(response) => match classify.head(call, response) {
                Head::Decided(outcome) if !outcome.is_success() => {
                    (outcome, pushback(response.headers()))
                }
                Head::Open(end) => match end.provisional() {
                    Some(outcome) if !outcome.is_success() => (outcome, None),
                    _ => return Self::Good,
                },
                Head::Decided(_) => return Self::Good,
            },
            Err(error) => match classify.error(call, diagnose(error)) {
                Outcome::Success => return Self::Good,
                outcome => (outcome, None),
            },
        };
        Self::Bad(match (outcome, pushback) {
            (Outcome::Overload(Some(Pushback::Never)), _) | (_, Some(Pushback::Never)) => {
                Then::Stop
            }
            (Outcome::Overload(Some(Pushback::After(wait))), _)
            | (_, Some(Pushback::After(wait))) => Then::After(wait),
            // Too busy, and no word of when.
            (Outcome::Overload(None), None) => Then::Stop,
            _ => Then::GoOn,
        })
    }
}
