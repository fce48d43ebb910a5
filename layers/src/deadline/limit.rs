//! The deadline of one call: where it comes from, and what is told about it.

use std::time::Duration;

use http::{HeaderValue, Request};
use tokio::time::Instant;

use super::{
    config::Terms,
    header::{Asked, GRPC_TIMEOUT},
    layer::Handle,
};
use crate::vocab::{
    classify::CallKind,
    context::{Ambient, CallContext, Covers},
    grpc,
    headers::find,
    outcome::{FailureKind, Outcome},
    rejection::{Reason, Rejection},
    role::Role,
};

/// The name of this layer in rejections.
const LAYER: &str = "deadline";

/// The deadline of a call under way.
pub(super) struct Limit {
    pub(super) deadline: Instant,
    pub(super) covers: Covers,
}

// ===== impl Limit =====

impl Limit {
    /// Works out the deadline of a call and writes it down in the request; `None` without one.
    ///
    /// `ambient` is what to make current around the inner service, where the role asks for it.
    pub(super) fn of<B>(
        shared: &Handle,
        terms: &Terms,
        role: Role,
        call: CallKind,
        request: &mut Request<B>,
        ambient: &mut Option<Ambient>,
    ) -> Result<Option<Self>, Rejection> {
        if !terms.on {
            return Ok(None);
        }
        let current = CallContext::current_deadline();
        let mut asked = Asked {
            timeout: terms.timeout,
            ..Asked::default()
        };
        // Most often nothing is shorter than what is configured. Told in advance, it finds what the
        // caller says by the same look-up.
        let mut told = None;
        match terms.timeout_header {
            Some(own) if role.tells() && current.is_none() => {
                let headers = request.headers_mut();
                if let Some(value) = headers.insert(grpc::TIMEOUT, own.clone()) {
                    asked.grpc(&value);
                }
                told = terms.timeout;
            }
            _ => {
                if let Some(value) = find(request.headers(), &GRPC_TIMEOUT) {
                    asked.grpc(value);
                }
            }
        }
        if terms.accepts_more {
            asked.others(request.headers(), &shared.config.get().accept);
        }
        if asked.malformed_grpc || asked.malformed_other {
            shared.stats.malformed.add(1);
            // Over HTTP the header is a custom of ours, and its sender may mean something else.
            if asked.malformed_grpc && call.is_grpc() {
                return Err(malformed());
            }
        }

        let mut is_fresh = false;
        let extensions = request.extensions_mut();
        let context = if asked.timeout.is_some() || current.is_some() {
            extensions.get_or_insert_with(|| {
                is_fresh = true;
                CallContext::inherited()
            })
        } else {
            match extensions.get_mut::<CallContext>() {
                Some(context) if context.deadline.is_some() => context,
                _ => return Ok(None),
            }
        };
        // A context that an outer layer made may be old: in a retry, or in a proxy's handler.
        let now = if is_fresh {
            context.start
        } else {
            Instant::now()
        };
        let inherited = earlier(context.deadline, current);
        let Some((deadline, left)) = due(now, asked.timeout, inherited) else {
            return Ok(None);
        };
        if left.is_zero() {
            shared.stats.refused.add(1);
            return Err(too_late());
        }

        let covers = terms.covers(call);
        // An outer layer that wants the whole call to be over by its deadline still does.
        if is_fresh || context.deadline.is_none() {
            context.deadline_covers = covers;
        }
        context.deadline = Some(deadline);
        if role.enters() {
            *ambient = Some(context.ambient());
        }
        if role.tells() && told != Some(left) {
            let value = remaining(terms, left);
            request.headers_mut().insert(grpc::TIMEOUT, value);
        }
        Ok(Some(Self { deadline, covers }))
    }
}

fn earlier<T: Ord>(a: Option<T>, b: Option<T>) -> Option<T> {
    match (a, b) {
        (Some(a), Some(b)) => Some(a.min(b)),
        (a, b) => a.or(b),
    }
}

/// The deadline, and what is left until then.
#[inline]
fn due(
    now: Instant,
    timeout: Option<Duration>,
    inherited: Option<Instant>,
) -> Option<(Instant, Duration)> {
    let own = timeout.map(|timeout| (now + timeout, timeout));
    match (own, inherited) {
        (Some((deadline, _)), Some(inherited)) if inherited < deadline => {
            Some((inherited, inherited.saturating_duration_since(now)))
        }
        (Some(own), _) => Some(own),
        (None, Some(inherited)) => Some((inherited, inherited.saturating_duration_since(now))),
        (None, None) => None,
    }
}

/// The time that is left, as a header; the configured timeout is formatted already.
fn remaining(terms: &Terms, left: Duration) -> HeaderValue {
    match terms.timeout_header {
        Some(value) if terms.timeout == Some(left) => value.clone(),
        _ => grpc::format_timeout(left),
    }
}

// ===== refusals =====

/// The time was up before the call began. Nobody waits for an answer, so nobody should ask again.
#[cold]
fn too_late() -> Rejection {
    let detail = "the deadline had passed before the call began";
    Rejection::new(LAYER, Reason::DeadlineExceeded, detail).retry_never()
}

#[cold]
fn malformed() -> Rejection {
    Rejection::new(
        LAYER,
        Reason::InvalidRequest,
        grpc::InvalidTimeout.to_string(),
    )
}

/// The inner service was called and did not answer: to outer layers that is its failure.
#[cold]
pub(super) fn no_answer() -> Rejection {
    Rejection::new(
        LAYER,
        Reason::DeadlineExceeded,
        "no answer within the deadline",
    )
    .counts_as(Outcome::Failure(FailureKind::Timeout))
}

#[cold]
pub(super) fn cut_off(is_idle: bool) -> Rejection {
    let detail = if is_idle {
        "the response gave nothing for too long"
    } else {
        "the deadline passed within the response"
    };
    Rejection::new(LAYER, Reason::DeadlineExceeded, detail)
}
