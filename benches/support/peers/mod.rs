//! What else a user could put in front of the service for the same policy, with the same settings as ours.
//!
//! Where a peer can do less (no response classification, no trailers, no key), it is left that cheaper: the ratios
//! then err against us.

mod adapters;

use std::convert::Infallible;
use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::Duration;

use governor::Quota;
use http::{HeaderName, Request, Response};
use tokio::time::Instant;
use tower::limit::GlobalConcurrencyLimitLayer;
use tower::retry::budget::TpsBudget;
use tower::steer::Steer;
use tower::{Layer, Service, ServiceBuilder};
use tower_http::catch_panic::CatchPanicLayer;
use tower_http::limit::RequestBodyLimitLayer;
use tower_http::metrics::InFlightRequestsLayer;
use tower_http::metrics::in_flight_requests::InFlightRequestsCounter;
use tower_http::propagate_header::PropagateHeaderLayer;
use tower_http::trace::TraceLayer;
use tower_resilience_circuitbreaker::CircuitBreakerLayer;
use tower_resilience_ratelimiter::RateLimiterLayer;
use tower_resilience_retry::{RetryBudgetBuilder, RetryLayer};
use tower_resilience_timelimiter::TimeLimiterLayer;

use self::adapters::{DirectGovernorLayer, FailsafeLayer, KeyedGovernorLayer, ServerErrors};
use super::drive::{Ops, drive};
use super::origin::{Origin, OriginBody};
use super::traffic::{Protocol, RequestBody};

/// Long enough never to fire, short enough to be registered like any real timeout.
pub(crate) const TIMEOUT: Duration = Duration::from_secs(1);
/// Calls per second, and at once: our highest. One part of the bench makes fewer calls than come to this.
pub(crate) const RATE: u32 = 1_000_000;
/// Calls in flight at once: more than there are.
pub(crate) const IN_FLIGHT: u32 = 1_000;
/// Calls that a breaker judges by.
pub(crate) const WINDOW_CALLS: u32 = 100;
/// Of the calls, for a canary.
pub(crate) const CANARY_PERCENT: u32 = 5;
/// Of the body limits: none is reached.
pub(crate) const LARGEST_BODY: u64 = 1 << 20;
const ATTEMPTS: usize = 3;
/// Share and floor of gRPC's and Finagle's retry budgets: 20 % and 10 per second, counted over 10 s.
const BUDGET: (Duration, u32, f32) = (Duration::from_secs(10), 10, 0.2);

// ===== metadata =====

/// From the request to the response, and one header: the nearest thing that tower-http has.
pub(crate) fn tower_http_propagate_header(protocol: Protocol) -> Box<dyn Ops> {
    let header = HeaderName::from_static("x-request-id");
    drive(PropagateHeaderLayer::new(header).layer(Origin::new(protocol)))
}

// ===== trace =====

/// Where nobody listens.
pub(crate) fn tower_http_trace(protocol: Protocol) -> Box<dyn Ops> {
    drive(TraceLayer::new_for_http().layer(Origin::new(protocol)))
}

// ===== request metrics =====

/// What people write by hand: a look-up by name and labels for each, and nothing learnt from the body.
pub(crate) fn metrics_macros(protocol: Protocol) -> Box<dyn Ops> {
    let origin = Origin::new(protocol);
    drive(tower::service_fn(move |request: Request<RequestBody>| {
        let (start, future) = (Instant::now(), origin.clone().call(request));
        async move {
            let response: Response<OriginBody> = future.await?;
            let status = match response.status().as_u16() {
                200 => "200",
                _ => "other",
            };
            let labels = [("operation", "GET /orders/{id}"), ("status", status)];
            metrics::counter!("bench_calls_total", &labels).increment(1);
            metrics::histogram!("bench_call_seconds", &labels).record(start.elapsed());
            Ok::<_, Infallible>(response)
        }
    }))
}

// ===== deadline =====

pub(crate) fn tower_timeout(protocol: Protocol) -> Box<dyn Ops> {
    drive(tower::timeout::TimeoutLayer::new(TIMEOUT).layer(Origin::new(protocol)))
}

pub(crate) fn resilience_timelimiter(protocol: Protocol) -> Box<dyn Ops> {
    let layer = TimeLimiterLayer::builder()
        .timeout_duration(TIMEOUT)
        .build();
    drive(layer.layer(Origin::new(protocol)))
}

// ===== circuit breaker =====

pub(crate) fn resilience_breaker(protocol: Protocol) -> Box<dyn Ops> {
    drive(resilience_breaker_layer().layer(Origin::new(protocol)))
}

/// failsafe's own default: a success rate over a time window, or consecutive failures.
pub(crate) fn failsafe(protocol: Protocol) -> Box<dyn Ops> {
    drive(FailsafeLayer::default().layer(Origin::new(protocol)))
}

fn resilience_breaker_layer() -> CircuitBreakerLayer {
    CircuitBreakerLayer::builder()
        .failure_rate_threshold(0.5)
        .sliding_window_size(WINDOW_CALLS as usize)
        .minimum_number_of_calls(20)
        .wait_duration_in_open(Duration::from_secs(5))
        .build()
        .expect("a valid breaker")
}

// ===== retry =====

pub(crate) fn tower_retry(protocol: Protocol) -> Box<dyn Ops> {
    let (window, per_second, share) = BUDGET;
    let budget = Arc::new(TpsBudget::new(window, per_second, share));
    let policy = ServerErrors::new(ATTEMPTS, budget);
    drive(tower::retry::RetryLayer::new(policy).layer(Origin::new(protocol)))
}

pub(crate) fn resilience_retry(protocol: Protocol) -> Box<dyn Ops> {
    drive(resilience_retry_layer::<Infallible>().layer(Origin::new(protocol)))
}

fn resilience_retry_layer<E>() -> RetryLayer<Request<RequestBody>, Response<OriginBody>, E>
where
    E: Send + 'static,
{
    let budget = RetryBudgetBuilder::new()
        .token_bucket()
        .tokens_per_second(f64::from(BUDGET.1))
        .max_tokens(100)
        .build()
        .expect("a valid budget");
    RetryLayer::builder()
        .max_attempts(ATTEMPTS)
        .exponential_backoff(Duration::from_millis(100))
        .retry_on_response(|response: &Response<OriginBody>| response.status().is_server_error())
        .budget(budget)
        .build()
}

// ===== rate limit =====

/// One bucket for everybody: less than ours does, which is keyed by operation.
pub(crate) fn governor_direct(protocol: Protocol) -> Box<dyn Ops> {
    drive(DirectGovernorLayer::new(quota()).layer(Origin::new(protocol)))
}

pub(crate) fn governor_keyed(protocol: Protocol) -> Box<dyn Ops> {
    drive(KeyedGovernorLayer::new(quota()).layer(Origin::new(protocol)))
}

pub(crate) fn resilience_ratelimiter(protocol: Protocol) -> Box<dyn Ops> {
    drive(resilience_ratelimiter_layer().layer(Origin::new(protocol)))
}

fn quota() -> Quota {
    let rate = NonZeroU32::new(RATE).expect("not zero");
    Quota::per_second(rate).allow_burst(rate)
}

fn resilience_ratelimiter_layer() -> RateLimiterLayer {
    RateLimiterLayer::burst(RATE as usize, RATE as usize)
        .build()
        .expect("a valid limiter")
}

// ===== concurrency limit =====

/// Up to the response head, where ours counts a call until its body ends.
pub(crate) fn tower_concurrency_limit(protocol: Protocol) -> Box<dyn Ops> {
    let layer = GlobalConcurrencyLimitLayer::new(IN_FLIGHT as usize);
    drive(layer.layer(Origin::new(protocol)))
}

// ===== route =====

/// Random between two services: no rules, no stickiness, no counts.
pub(crate) fn tower_steer(protocol: Protocol) -> Box<dyn Ops> {
    let services = [Origin::new(protocol), Origin::new(protocol)];
    let canary =
        |_: &Request<RequestBody>, _: &[Origin]| usize::from(fastrand::u32(..100) < CANARY_PERCENT);
    drive(Steer::new(services, canary))
}

// ===== catch-panic, drain, body limit =====

pub(crate) fn tower_http_catch_panic(protocol: Protocol) -> Box<dyn Ops> {
    drive(CatchPanicLayer::new().layer(Origin::new(protocol)))
}

pub(crate) fn tower_http_in_flight(protocol: Protocol) -> Box<dyn Ops> {
    let counter = InFlightRequestsCounter::new();
    drive(InFlightRequestsLayer::new(counter).layer(Origin::new(protocol)))
}

/// With the body put back into the type that the origin takes.
pub(crate) fn tower_http_body_limit(protocol: Protocol) -> Box<dyn Ops> {
    let stack = ServiceBuilder::new()
        .layer(RequestBodyLimitLayer::new(LARGEST_BODY as usize))
        .map_request(|request: Request<tower_http::body::Limited<RequestBody>>| {
            request.map(|_| RequestBody::default())
        })
        .service(Origin::new(protocol));
    drive(stack)
}

// ===== the four together =====

/// The order of our client preset: deadline, limit, retry, then the breaker per attempt.
pub(crate) fn resilience_stack(protocol: Protocol) -> Box<dyn Ops> {
    let stack = ServiceBuilder::new()
        .layer(
            TimeLimiterLayer::builder()
                .timeout_duration(TIMEOUT)
                .build(),
        )
        .layer(resilience_ratelimiter_layer())
        .layer(resilience_retry_layer())
        .layer(resilience_breaker_layer())
        .service(Origin::new(protocol));
    drive(stack)
}

/// The cheapest equal stack that can be put together from the field: tower, governor and failsafe.
pub(crate) fn mixed_stack(protocol: Protocol) -> Box<dyn Ops> {
    let (window, per_second, share) = BUDGET;
    let budget = Arc::new(TpsBudget::new(window, per_second, share));
    let stack = ServiceBuilder::new()
        .layer(tower::timeout::TimeoutLayer::new(TIMEOUT))
        .layer(DirectGovernorLayer::new(quota()))
        .layer(tower::retry::RetryLayer::new(ServerErrors::new(
            ATTEMPTS, budget,
        )))
        .layer(FailsafeLayer::default())
        .service(Origin::new(protocol));
    drive(stack)
}
