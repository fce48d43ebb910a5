//! The layers of this crate under the contract, alone and in pairs.

use std::{
    sync::atomic::{AtomicU64, Ordering::Relaxed},
    time::Duration,
};

use http::{Method, Request};

use crate::{
    Ratio, Trust,
    body_limit::{BodyLimitBuilder, BodyLimitLayer, ByteSize},
    catch_panic::CatchPanicLayer,
    circuit_breaker::{BreakerConfig, CircuitBreakerLayer},
    concurrency_limit::ConcurrencyLimitLayer,
    deadline::{DeadlineLayer, Scope},
    drain::DrainLayer,
    idempotency::IdempotencyLayer,
    metadata::MetadataLayer,
    rate_limit::RateLimitLayer,
    retry::RetryLayer,
    route::{BackendConfig, RouteLayer, RuleConfig, StickyConfig},
    test_util::{
        Answer,
        contract::{Contract, RequestBody, Rule, Tally, pairs},
    },
};

fn breaker() -> Contract<CircuitBreakerLayer> {
    Contract::new(|| CircuitBreakerLayer::new(BreakerConfig::default()).unwrap())
        .clones_per_call(0)
        .tally(|layer| {
            let stats = layer.handle().stats();
            Tally {
                successes: stats.successes,
                failures: stats.failures,
            }
        })
        .shared_limit(10, Answer::status(500), || {
            CircuitBreakerLayer::builder()
                .consecutive_failures(10)
                .build()
                .unwrap()
        })
}

/// Of requests, which are counted where they stream.
fn body_limit() -> Contract<BodyLimitLayer> {
    Contract::new(|| limits().build().unwrap()).clones_per_call(0)
}

fn limits() -> BodyLimitBuilder {
    BodyLimitLayer::builder().request(ByteSize::mib(2))
}

fn drain() -> Contract<DrainLayer> {
    Contract::new(DrainLayer::default)
        .clones_per_call(0)
        .held(|layer| layer.handle().in_flight().try_into().unwrap())
}

fn catch_panic() -> Contract<CatchPanicLayer> {
    Contract::new(CatchPanicLayer::default).clones_per_call(0)
}

/// So narrow that most calls of the kit wait.
fn concurrency_limit() -> Contract<ConcurrencyLimitLayer> {
    let narrow = || {
        ConcurrencyLimitLayer::builder(3)
            .queue(10_000)
            .queue_timeout(Duration::from_secs(3_600))
            .build()
            .unwrap()
    };
    Contract::new(narrow).clones_per_call(0).held(|layer| {
        let stats = layer.handle().stats();
        stats.in_flight + stats.waiting
    })
}

fn deadline() -> Contract<DeadlineLayer> {
    let covering = || {
        DeadlineLayer::builder()
            .timeout(Duration::from_secs(3_600))
            .scope(Scope::Call)
            .build()
            .unwrap()
    };
    Contract::new(covering).clones_per_call(0)
}

fn metadata() -> Contract<MetadataLayer> {
    let busy = || {
        let layer = MetadataLayer::builder().local("caller", "test");
        layer.trust(Trust::All).build().unwrap()
    };
    Contract::new(busy).clones_per_call(0)
}

/// Around calls that all have a key, and none the same.
#[derive(Clone)]
struct Keyed(IdempotencyLayer);

impl<S> tower_layer::Layer<S> for Keyed {
    type Service = tower::util::MapRequest<crate::idempotency::Idempotency<S>, WithKey>;

    fn layer(&self, inner: S) -> Self::Service {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let with_key: WithKey = |mut request| {
            *request.method_mut() = Method::POST;
            let key = NEXT.fetch_add(1, Relaxed).into();
            request.headers_mut().insert("idempotency-key", key);
            request
        };
        tower::util::MapRequest::new(self.0.layer(inner), with_key)
    }
}

type WithKey = fn(Request<RequestBody>) -> Request<RequestBody>;

/// Calls without a key, as most are.
fn idempotency() -> Contract<IdempotencyLayer> {
    Contract::new(IdempotencyLayer::default)
        .clones_per_call(0)
        .held_at_rest(|layer| layer.handle().stats().in_flight)
}

fn retry() -> Contract<RetryLayer> {
    let generous = || {
        RetryLayer::builder()
            .budget(Ratio::ONE, 1_000_000)
            .attempt_timeout(Duration::from_secs(1))
            .build()
            .unwrap()
    };
    Contract::new(generous)
        .clones_per_call(0)
        .held_at_rest(|layer| layer.handle().stats().kept_bytes)
        .script(|call| match call {
            0 => Answer::status(503).pending_times(1),
            _ => Answer::ok().pending_times(1),
        })
}

fn rate_limit() -> Contract<RateLimitLayer> {
    let limit = |burst| {
        RateLimitLayer::per_second(burst)
            .burst(burst)
            .build()
            .unwrap()
    };
    Contract::new(move || limit(1_000_000))
        .clones_per_call(0)
        .shared_limit(50, Answer::ok(), move || limit(50))
}

fn route() -> Contract<RouteLayer> {
    let divided = || {
        let rule = RuleConfig::new("rollout")
            .backend(BackendConfig::new("stable").weight(95))
            .backend(BackendConfig::new("canary").weight(5))
            .sticky(StickyConfig::header("x-user"));
        RouteLayer::builder().rule(rule).build().unwrap()
    };
    Contract::new(divided).clones_per_call(0)
}

#[test]
fn the_body_limit_keeps_the_contract() {
    body_limit().check();
    // A limit of responses promises that they are not longer, so what they say of their length does change.
    Contract::new(|| limits().response(ByteSize::mib(2)).build().unwrap())
        .waive(Rule::Bodies)
        .check();
}

#[test]
fn the_drain_keeps_the_contract() {
    drain().check();
}

#[test]
fn catch_panic_keeps_the_contract() {
    catch_panic().check();
}

#[test]
fn the_circuit_breaker_keeps_the_contract() {
    breaker().check();
}

#[test]
fn the_rate_limit_keeps_the_contract() {
    rate_limit().check();
}

#[test]
fn the_concurrency_limit_keeps_the_contract() {
    concurrency_limit().check();
}

#[test]
fn the_deadline_keeps_the_contract() {
    deadline().check();
}

#[test]
fn idempotency_keeps_the_contract() {
    idempotency().check();
}

/// Where it reads requests and answers before it passes them on: frames are others, and nothing streams.
#[test]
fn idempotency_keeps_the_contract_in_calls_with_a_key() {
    Contract::new(|| Keyed(IdempotencyLayer::builder().grpc().build().unwrap()))
        .clones_per_call(1)
        .held_at_rest(|Keyed(layer)| layer.handle().stats().in_flight)
        .waive(Rule::Bodies)
        .waive(Rule::Streaming)
        .check();
}

#[test]
fn the_metadata_keeps_the_contract() {
    metadata().check();
}

#[test]
fn the_retry_keeps_the_contract() {
    retry().check();
}

#[test]
fn the_route_keeps_the_contract() {
    route().check();
}

#[test]
fn the_layers_keep_the_contract_in_pairs() {
    pairs!(
        body_limit(),
        catch_panic(),
        drain(),
        breaker(),
        concurrency_limit(),
        deadline(),
        idempotency(),
        metadata(),
        rate_limit(),
        retry(),
        route()
    );
}
