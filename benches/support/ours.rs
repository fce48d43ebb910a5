//! The slots for our own layers. A slot that answers `None` prints a failed row and fails its bars.
//!
//! Settings are the peers' where there is a setting, and our defaults elsewhere; limits and breakers are kept by
//! operation.

use std::sync::Arc;

use axum::Router;
use http::{Extensions, HeaderName, HeaderValue, Request};
use tower::util::MapRequest;
use tower::{Layer, ServiceBuilder};
use tower_mesh_layers::body_limit::{BodyLimitLayer, ByteSize};
use tower_mesh_layers::catch_panic::CatchPanicLayer;
use tower_mesh_layers::circuit_breaker::{CircuitBreakerLayer, Window};
use tower_mesh_layers::concurrency_limit::ConcurrencyLimitLayer;
use tower_mesh_layers::context::{GLOBAL_PREFIX, Metadata};
use tower_mesh_layers::deadline::{DeadlineLayer, Role};
use tower_mesh_layers::drain::DrainLayer;
use tower_mesh_layers::hedge::HedgeLayer;
use tower_mesh_layers::idempotency::IdempotencyLayer;
use tower_mesh_layers::metadata::MetadataLayer;
use tower_mesh_layers::rate_limit::{Rate, RateAlgorithm, RateLimitConfig, RateLimitLayer};
use tower_mesh_layers::request_metrics::MetricsLayer;
use tower_mesh_layers::retry::RetryLayer;
use tower_mesh_layers::route::{
    BackendConfig, RouteConfig, RouteLayer, RuleConfig, Split, StickyConfig,
};
use tower_mesh_layers::trace::TraceLayer;
use tower_mesh_layers::{CallContext, Key, MatchConfig, RequestMatch, Trust};

use super::drive::{Ops, drive};
use super::origin::Origin;
use super::peers::{CANARY_PERCENT, IN_FLIGHT, LARGEST_BODY, RATE, TIMEOUT, WINDOW_CALLS};
use super::tracking::TrackingLayer;
use super::traffic::{Protocol, RequestBody};

/// What is passed on where anything is.
const CARRIED: [(&str, &str); 2] = [("tenant", "a"), ("cohort", "beta")];

/// Puts a call context where our outermost layer would have put it.
pub(crate) fn insert_context(extensions: &mut Extensions) {
    CallContext::get_or_insert(extensions);
}

/// Around a client, in a handler whose call came without metadata.
pub(crate) fn metadata(protocol: Protocol) -> Option<Box<dyn Ops>> {
    Some(drive(MetadataLayer::client().layer(Origin::new(protocol))))
}

/// Around a handler: an edge that trusts nobody, and a call without anything to remove.
pub(crate) fn metadata_of_server(protocol: Protocol) -> Option<Box<dyn Ops>> {
    Some(drive(MetadataLayer::server().layer(Origin::new(protocol))))
}

/// Around a client, with two entries to write.
pub(crate) fn metadata_carrying(protocol: Protocol) -> Option<Box<dyn Ops>> {
    let mut metadata = Metadata::new();
    for (key, value) in CARRIED {
        metadata.set_global(key, value).expect("a valid entry");
    }
    let metadata = Arc::new(metadata);
    let service = MetadataLayer::client().layer(Origin::new(protocol));
    Some(drive(MapRequest::new(
        service,
        move |mut request: Request<RequestBody>| {
            let context = CallContext::get_or_insert(request.extensions_mut());
            context.metadata = Some(metadata.clone());
            request
        },
    )))
}

/// Around a handler, with two entries to read.
pub(crate) fn metadata_of_server_carrying(protocol: Protocol) -> Option<Box<dyn Ops>> {
    let layer = MetadataLayer::builder()
        .trust(Trust::All)
        .role(Role::Server);
    let service = layer
        .build()
        .expect("a valid layer")
        .layer(Origin::new(protocol));
    let lines = CARRIED.map(|(key, value)| {
        let name = HeaderName::try_from(format!("{GLOBAL_PREFIX}{key}")).expect("valid");
        (name, HeaderValue::from_static(value))
    });
    Some(drive(MapRequest::new(
        service,
        move |mut request: Request<RequestBody>| {
            for (name, value) in &lines {
                request.headers_mut().append(name, value.clone());
            }
            request
        },
    )))
}

/// No policy at all: what every layer pays that watches calls to their ends.
pub(crate) fn tracking(protocol: Protocol) -> Option<Box<dyn Ops>> {
    Some(drive(TrackingLayer.layer(Origin::new(protocol))))
}

/// Around a client: writes the remaining time into the request.
pub(crate) fn deadline(protocol: Protocol) -> Option<Box<dyn Ops>> {
    Some(drive(
        deadline_layer(Role::Client).layer(Origin::new(protocol)),
    ))
}

/// Around a handler: makes the deadline known to the client calls in it.
pub(crate) fn deadline_of_server(protocol: Protocol) -> Option<Box<dyn Ops>> {
    Some(drive(
        deadline_layer(Role::Server).layer(Origin::new(protocol)),
    ))
}

pub(crate) fn circuit_breaker(protocol: Protocol) -> Option<Box<dyn Ops>> {
    Some(drive(breaker_layer().layer(Origin::new(protocol))))
}

pub(crate) fn retry(protocol: Protocol) -> Option<Box<dyn Ops>> {
    Some(drive(retry_layer().layer(Origin::new(protocol))))
}

/// Of every request, so that gRPC's are hedged too; after a percentile, which the run soon knows.
pub(crate) fn hedge(protocol: Protocol) -> Option<Box<dyn Ops>> {
    let everything = RequestMatch::path_prefix("/");
    let layer = HedgeLayer::builder().idempotent(everything).build();
    Some(drive(
        layer.expect("a valid hedge").layer(Origin::new(protocol)),
    ))
}

pub(crate) fn rate_limit(protocol: Protocol) -> Option<Box<dyn Ops>> {
    Some(drive(rate_limit_layer().layer(Origin::new(protocol))))
}

/// One limit for all calls, of which each thread has its own part.
pub(crate) fn rate_limit_leased(protocol: Protocol) -> Option<Box<dyn Ops>> {
    let layer = RateLimitLayer::new(RateLimitConfig {
        algorithm: RateAlgorithm::Leased,
        burst: Some(RATE),
        ..RateLimitConfig::new(Rate::per_second(RATE))
    });
    let layer = layer.expect("a valid limit");
    Some(drive(layer.layer(Origin::new(protocol))))
}

/// One limit for all calls, as the peer's.
pub(crate) fn concurrency_limit(protocol: Protocol) -> Option<Box<dyn Ops>> {
    Some(drive(
        concurrency_limit_layer(Key::global()).layer(Origin::new(protocol)),
    ))
}

pub(crate) fn concurrency_limit_keyed(protocol: Protocol) -> Option<Box<dyn Ops>> {
    Some(drive(
        concurrency_limit_layer(Key::operation()).layer(Origin::new(protocol)),
    ))
}

/// A cohort's rule that is not for the call, and a canary.
pub(crate) fn route(protocol: Protocol) -> Option<Box<dyn Ops>> {
    Some(drive(route_layer(canary()).layer(Origin::new(protocol))))
}

/// The same, where each caller has an arm.
pub(crate) fn route_sticky(protocol: Protocol) -> Option<Box<dyn Ops>> {
    let rule = canary().sticky(StickyConfig::header("user-agent"));
    Some(drive(route_layer(rule).layer(Origin::new(protocol))))
}

/// Over two services.
pub(crate) fn split(protocol: Protocol) -> Option<Box<dyn Ops>> {
    let split = Split::builder()
        .service("stable", Origin::new(protocol))
        .service("canary", Origin::new(protocol))
        .rules(RouteConfig::new([canary()]));
    Some(drive(split.build().expect("a valid split")))
}

/// Where nobody listens.
pub(crate) fn trace(protocol: Protocol) -> Option<Box<dyn Ops>> {
    Some(drive(TraceLayer::client().layer(Origin::new(protocol))))
}

pub(crate) fn request_metrics(protocol: Protocol) -> Option<Box<dyn Ops>> {
    let layer = MetricsLayer::client("bench");
    Some(drive(layer.layer(Origin::new(protocol))))
}

pub(crate) fn catch_panic(protocol: Protocol) -> Option<Box<dyn Ops>> {
    Some(drive(
        CatchPanicLayer::default().layer(Origin::new(protocol)),
    ))
}

pub(crate) fn drain(protocol: Protocol) -> Option<Box<dyn Ops>> {
    Some(drive(DrainLayer::default().layer(Origin::new(protocol))))
}

/// Of requests and responses.
pub(crate) fn body_limit(protocol: Protocol) -> Option<Box<dyn Ops>> {
    let limit = BodyLimitLayer::builder()
        .request(ByteSize::new(LARGEST_BODY))
        .response(ByteSize::new(LARGEST_BODY));
    let layer = limit.build().expect("a limit");
    Some(drive(layer.layer(Origin::new(protocol))))
}

/// Of calls without a key: what all others pay for those that have one.
pub(crate) fn idempotency(protocol: Protocol) -> Option<Box<dyn Ops>> {
    let layer = IdempotencyLayer::builder().grpc();
    let layer = layer.build().expect("valid options");
    Some(drive(layer.layer(Origin::new(protocol))))
}

/// Deadline, rate limit, retry, circuit breaker: the order of the client preset.
pub(crate) fn stack(protocol: Protocol) -> Option<Box<dyn Ops>> {
    let stack = ServiceBuilder::new()
        .layer(deadline_layer(Role::Client))
        .layer(rate_limit_layer())
        .layer(retry_layer())
        .layer(breaker_layer())
        .service(Origin::new(protocol));
    Some(drive(stack))
}

/// The same stack on a router, as one layer.
pub(crate) fn layered(router: Router) -> Option<Router> {
    let stack = ServiceBuilder::new()
        .layer(deadline_layer(Role::Server))
        .layer(rate_limit_layer())
        .layer(retry_layer())
        .layer(breaker_layer());
    Some(router.layer(stack))
}

fn deadline_layer(role: Role) -> DeadlineLayer {
    DeadlineLayer::builder()
        .timeout(TIMEOUT)
        .role(role)
        .build()
        .expect("a valid deadline")
}

fn breaker_layer() -> CircuitBreakerLayer {
    CircuitBreakerLayer::builder()
        .window(Window::Calls(WINDOW_CALLS))
        .key(Key::operation())
        .build()
        .expect("a valid breaker")
}

/// Of every request, as the peers do: gRPC's methods do not tell which of them may be repeated.
fn retry_layer() -> RetryLayer {
    RetryLayer::builder()
        .non_idempotent()
        .build()
        .expect("a valid retry")
}

fn canary() -> RuleConfig {
    RuleConfig::new("canary")
        .backend(
            BackendConfig::new("stable")
                .version("1")
                .weight(100 - CANARY_PERCENT),
        )
        .backend(
            BackendConfig::new("canary")
                .version("2")
                .weight(CANARY_PERCENT),
        )
}

fn route_layer(rule: RuleConfig) -> RouteLayer {
    let testers = RuleConfig::new("testers")
        .matching(MatchConfig::default().header("x-cohort", "qa"))
        .backend(BackendConfig::new("canary").version("2"));
    RouteLayer::builder()
        .rule(testers)
        .rule(rule)
        .build()
        .expect("valid rules")
}

fn concurrency_limit_layer(key: Key) -> ConcurrencyLimitLayer {
    ConcurrencyLimitLayer::builder(IN_FLIGHT)
        .queue(IN_FLIGHT)
        .key(key)
        .build()
        .expect("a valid limit")
}

fn rate_limit_layer() -> RateLimitLayer {
    RateLimitLayer::per_second(RATE)
        .key(Key::operation())
        .build()
        .expect("a valid limit")
}
