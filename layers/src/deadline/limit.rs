//! The deadline of one call: where it comes from, and what is told about it.

use std::time::Duration;

use http::Request;
use tokio::time::Instant;

use super::{
    config::Compiled,
    header,
    layer::{Handle, Role},
};
use crate::vocab::{
    classify::CallKind,
    context::{Ambient, CallContext, Covers},
    grpc,
    outcome::{FailureKind, Outcome},
    rejection::{Reason, Rejection},
    wheel::WheelTimer,
};

/// The name of this layer in rejections.
const LAYER: &str = "deadline";

/// No caller waits longer; it keeps absurd numbers within what a clock can express.
const LONGEST: Duration = Duration::from_secs(365 * 24 * 3600);

/// The deadline of a call under way.
#[derive(Debug)]
pub(super) struct Limit {
    pub(super) timer: WheelTimer<Handle>,
    /// Made current around the inner service, where the role asks for it.
    pub(super) ambient: Option<Ambient>,
    pub(super) covers: Covers,
}

// ===== impl Limit =====

impl Limit {
    /// Works out the deadline of a call and writes it down in the request; `None` without one.
    pub(super) fn of<B>(
        shared: &Handle,
        role: Role,
        call: CallKind,
        request: &mut Request<B>,
    ) -> Result<Option<Self>, Rejection> {
        let config = shared.config.get();
        let asked = header::read(request.headers(), &config.accept);
        if asked.malformed_grpc || asked.malformed_other {
            shared.stats.malformed.add(1);
            // Over HTTP the header is a custom of ours, and its sender may mean something else.
            if asked.malformed_grpc && call.is_grpc() {
                return Err(malformed());
            }
        }

        let timeout = earlier(config.timeout, asked.timeout);
        let current = CallContext::current_deadline();
        let mut fresh = None;
        let (context, is_fresh) = match request.extensions_mut().get_mut::<CallContext>() {
            Some(context) => (context, false),
            None if timeout.is_none() && current.is_none() => return Ok(None),
            None => (fresh.insert(CallContext::inherited()), true),
        };
        let inherited = earlier(context.deadline, current);
        if inherited.is_none() && timeout.is_none() {
            return Ok(None);
        }
        // A context that an outer layer made may be old: in a retry, or in a proxy's handler.
        let now = if is_fresh {
            context.start
        } else {
            Instant::now()
        };
        let asked_for = timeout.map(|timeout| now + timeout.min(LONGEST));
        let Some(deadline) = earlier(inherited, asked_for) else {
            return Ok(None);
        };
        if deadline <= now {
            shared.stats.refused.add(1);
            return Err(too_late());
        }

        let covers = config.covers(call);
        // An outer layer that wants the whole call to be over by its deadline still does.
        if is_fresh || context.deadline.is_none() {
            context.deadline_covers = covers;
        }
        context.deadline = Some(deadline);
        let ambient = role.enters().then(|| context.ambient());
        if let Some(fresh) = fresh {
            request.extensions_mut().insert(fresh);
        }
        if role.tells() {
            let value = remaining(&config, deadline - now);
            request.headers_mut().insert(grpc::TIMEOUT, value);
        }
        let timer = WheelTimer::new(shared.clone(), Some(deadline));
        Ok(Some(Self {
            timer,
            ambient,
            covers,
        }))
    }
}

fn earlier<T: Ord>(a: Option<T>, b: Option<T>) -> Option<T> {
    match (a, b) {
        (Some(a), Some(b)) => Some(a.min(b)),
        (a, b) => a.or(b),
    }
}

/// The time that is left, as a header; the configured timeout is formatted already.
fn remaining(config: &Compiled, left: Duration) -> http::HeaderValue {
    match &config.timeout_header {
        Some(value) if config.timeout == Some(left) => value.clone(),
        _ => grpc::format_timeout(left),
    }
}

// ===== refusals =====

/// The time was up before the call began. Nobody waits for an answer, so nobody should ask again.
fn too_late() -> Rejection {
    let detail = "the deadline had passed before the call began";
    Rejection::new(LAYER, Reason::DeadlineExceeded, detail).retry_never()
}

fn malformed() -> Rejection {
    Rejection::new(
        LAYER,
        Reason::InvalidRequest,
        grpc::InvalidTimeout.to_string(),
    )
}

/// The inner service was called and did not answer: to outer layers that is its failure.
pub(super) fn no_answer() -> Rejection {
    Rejection::new(
        LAYER,
        Reason::DeadlineExceeded,
        "no answer within the deadline",
    )
    .counts_as(Outcome::Failure(FailureKind::Timeout))
}

pub(super) fn cut_off() -> Rejection {
    Rejection::new(
        LAYER,
        Reason::DeadlineExceeded,
        "the deadline passed within the response",
    )
}
