mod body;
mod expiry;
mod phases;
mod propagation;
mod sockets;
mod sources;

use std::{
    convert::Infallible,
    future::{pending, ready},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::SeqCst},
    },
    time::Duration,
};

use http::{HeaderMap, Request, Response};
use http_body::Body;
use http_body_util::{BodyExt, Empty, StreamBody};
use parking_lot::Mutex;
use tokio::time::{Instant, advance, sleep};
use tower::{Layer, Service, ServiceExt, service_fn};

use super::*;
use crate::{
    CallContext, CallKind, Classifier, Classify, ConfigError, Covers, FailureKind, Head, Live,
    Outcome, Pushback, Reason, Rejection, TransportError, Wheel,
    grpc::{self, Code},
    metrics,
    test_util::{
        Answer, End, Exchange, Gate, Probe, ProbeHandle, Read, TestBody,
        bodies::{get, grpc_request},
        contract::{Contract, pairs},
        drive,
        exchange::exchange,
    },
    transport::diagnose,
};

const MILLI: Duration = Duration::from_millis(1);
const SECOND: Duration = Duration::from_secs(1);

fn within(timeout: Duration) -> DeadlineLayer {
    DeadlineLayer::builder().timeout(timeout).build().unwrap()
}

fn is_idle(layer: &DeadlineLayer) -> bool {
    layer.wheel().is_idle()
}

fn grpc_get() -> Request<TestBody> {
    grpc_request("/test.Echo/Say", TestBody::empty())
}

fn asking(mut request: Request<TestBody>, timeout: &str) -> Request<TestBody> {
    request
        .headers_mut()
        .insert("grpc-timeout", timeout.parse().unwrap());
    request
}

fn probe(layer: &DeadlineLayer, answer: Answer) -> (Deadline<Probe>, ProbeHandle) {
    let (service, probe) = Probe::always(answer);
    (layer.layer(service), probe)
}

async fn run<S, R>(service: &mut S, request: Request<TestBody>) -> Exchange
where
    S: Service<Request<TestBody>, Response = Response<R>>,
    S::Error: std::fmt::Debug,
    R: Body<Data = bytes::Bytes>,
    R::Error: Into<crate::BoxError>,
{
    exchange(service, request, Read::LikeHyper).await.unwrap()
}

/// What an outer layer makes of a response that ended at its head.
fn judged(call: CallKind, exchange: &Exchange) -> Outcome {
    let mut response = Response::new(());
    *response.status_mut() = exchange.head.status;
    *response.headers_mut() = exchange.head.headers.clone();
    *response.extensions_mut() = exchange.head.extensions.clone();
    match Classifier.head(call, &response) {
        Head::Decided(outcome) => outcome,
        Head::Open(_) => panic!("not decided at the head"),
    }
}

// ===== the contract =====

#[test]
fn keeps_the_contract_in_every_role() {
    let contract = |role, scope| {
        let make = move || {
            DeadlineLayer::builder()
                .timeout(3600 * SECOND)
                .scope(scope)
                .role(role)
                .build()
                .unwrap()
        };
        Contract::new(make)
            .clones_per_call(0)
            .held_at_rest(|layer: &DeadlineLayer| usize::from(!is_idle(layer)))
            .named(format!("{role:?} {scope:?}"))
    };
    for role in [Role::Both, Role::Server, Role::Client] {
        for scope in [Scope::Auto, Scope::Call, Scope::Head] {
            contract(role, scope).check();
        }
    }
    Contract::new(DeadlineLayer::default)
        .clones_per_call(0)
        .check();
    pairs!(contract(Role::Both, Scope::Call));
}

// ===== options and metrics =====

#[tokio::test(start_paused = true)]
async fn a_new_timeout_counts_for_the_next_call() -> Result<(), ConfigError> {
    let config = Live::new(DeadlineConfig {
        timeout: Some(SECOND),
        ..DeadlineConfig::default()
    });
    let layer = DeadlineLayer::live(config.clone())?;
    let service = layer.layer(service_fn(|_: Request<TestBody>| {
        pending::<Result<Response<Empty<bytes::Bytes>>, Infallible>>()
    }));
    let took = async |service: Deadline<_>| {
        let start = Instant::now();
        service.oneshot(get("/")).await.unwrap();
        start.elapsed().as_secs()
    };
    assert_eq!(took(service.clone()).await, 1);
    config.set(DeadlineConfig {
        timeout: Some(5 * SECOND),
        ..DeadlineConfig::default()
    })?;
    assert_eq!(took(service.clone()).await, 5);
    let refused = config.set(DeadlineConfig {
        timeout: Some(Duration::ZERO),
        ..DeadlineConfig::default()
    });
    assert_eq!(refused.unwrap_err().path(), "timeout");
    assert_eq!(took(service).await, 5);
    Ok(())
}

#[tokio::test(start_paused = true)]
async fn what_ran_out_of_time_is_counted_by_when() {
    let layer = DeadlineLayer::builder()
        .timeout(SECOND)
        .name("counted")
        .build()
        .unwrap();
    let (mut service, _) = probe(&layer, Answer::never());
    run(&mut service, get("/")).await;
    run(&mut service, asking(get("/"), "0m")).await;
    run(&mut service, asking(get("/"), "soon")).await;
    let seen = metrics::snapshot();
    for (at, count) in [("arrival", 1), ("head", 2), ("body", 0)] {
        let labels = [("policy", "counted"), ("at", at)];
        assert_eq!(
            seen.counter("mesh_deadline_exceeded_total", &labels),
            Some(count),
            "{at}"
        );
    }
    let malformed = seen.counter("mesh_deadline_malformed_total", &[("policy", "counted")]);
    assert_eq!(malformed, Some(1));
}

#[tokio::test(start_paused = true)]
async fn ready_answers_register_no_timer() {
    let layer = within(SECOND);
    let (calls, service) = (
        Arc::new(AtomicUsize::new(0)),
        layer.layer(service_fn({
            |_: Request<TestBody>| {
                ready(Ok::<_, Infallible>(Response::new(
                    Empty::<bytes::Bytes>::new(),
                )))
            }
        })),
    );
    for _ in 0..10 {
        service.clone().oneshot(get("/")).await.unwrap();
        calls.fetch_add(1, SeqCst);
    }
    assert!(is_idle(&layer) && !layer.wheel().is_driven());
}

#[test]
fn a_future_stays_small() {
    // It is moved once for each layer above.
    let added = size_of::<ResponseFuture<[usize; 4]>>() - size_of::<[usize; 4]>();
    assert!(added <= 256, "{added}");
}

#[tokio::test(start_paused = true)]
async fn deadlines_come_and_go_with_their_options() {
    let options = DeadlineConfig {
        timeout: Some(SECOND),
        ..DeadlineConfig::default()
    };
    let live = Live::new(None);
    let layer = DeadlineLayer::optional(live.clone()).unwrap();
    let slow = service_fn(async |request: Request<TestBody>| {
        sleep(2 * SECOND).await;
        let told = request.headers().contains_key("grpc-timeout");
        assert_eq!(told, CallContext::get(request.extensions()).is_some());
        Ok::<_, Infallible>(Response::new(TestBody::empty()))
    });
    for (options, status) in [(None, 200), (Some(options), 504), (None, 200)] {
        live.set(options).unwrap();
        let answered = layer.layer(slow).oneshot(get("/")).await.unwrap();
        assert_eq!(answered.status(), status);
    }
}
