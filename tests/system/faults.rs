//! What a broken network does to calls of `mesh.client`: what the caller sees, that breaker and balancer
//! learn of it, and that nothing stays behind.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    time::Duration,
};

use axum::{Router, routing::get};
use http::{Request, StatusCode};
use http_body_util::BodyExt;
use tokio::task::JoinSet;
use tower::ServiceExt;
use tower_mesh::{
    Body, Mesh,
    client::{Client, ClientConfig},
    discovery::balance::{BalanceConfig, EjectionConfig, EndpointState, EndpointView},
    layers::{
        FailureKind, Protocol, Reason, Rejection,
        circuit_breaker::BreakerStats,
        grpc::{TIMEOUT, format_timeout},
        retry::RetryConfig,
        test_util::{Fault, FaultProxy, Gate, servers::Server},
        transport::diagnose,
    },
};

use crate::support::{self, eventually};

const SERVICE: &str = "orders";
/// What `/long` answers: more than every buffer on the way holds.
const LONG: usize = 8 << 20;

/// A server behind a proxy, and a mesh that calls it through that.
struct Rig {
    proxy: FaultProxy,
    mesh: Mesh,
    /// `/slow` waits for it.
    gate: Gate,
    _server: Server,
}

// ===== impl Rig =====

impl Rig {
    /// Without retries, so that each call is one attempt.
    async fn new() -> Self {
        let gate = Gate::new();
        let waiting = gate.clone();
        let slow = get(async move || {
            waiting.opened().await;
            "slow"
        });
        let router = Router::new()
            .route("/", get(async || "fast"))
            .route("/slow", slow)
            .route("/long", get(async || "x".repeat(LONG)));
        let server = Server::axum(router);
        let proxy = FaultProxy::start(server.addr()).await.unwrap();
        let config = ClientConfig {
            retry: None,
            balance: BalanceConfig {
                ejection: EjectionConfig {
                    base_time: Duration::from_millis(200),
                    ..EjectionConfig::default()
                },
                ..BalanceConfig::default()
            },
            ..ClientConfig::default()
        };
        let mesh = support::mesh(format!("static:http://{}", proxy.addr()), config);
        Self {
            proxy,
            mesh,
            gate,
            _server: server,
        }
    }

    fn client(&self) -> Client {
        self.mesh.client(SERVICE)
    }

    fn breaker(&self) -> BreakerStats {
        let preset = self.mesh.client_layer(SERVICE, Protocol::Http);
        preset.breakers().stats()
    }

    fn endpoint(&self) -> EndpointView {
        let mut endpoints = self.mesh.endpoints(SERVICE, Protocol::Http);
        assert_eq!(endpoints.len(), 1);
        endpoints.remove(0)
    }

    /// One good call, so that a connection is there; then this many failures were counted by both.
    async fn warm(&self) {
        let response = self.client().oneshot(request("/")).await.unwrap();
        assert_eq!(
            response.into_body().collect().await.unwrap().to_bytes(),
            "fast"
        );
    }

    #[track_caller]
    fn assert_failures(&self, failures: u64) {
        assert_eq!(self.breaker().failures, failures, "{:?}", self.breaker());
        assert_eq!(self.endpoint().failures, failures, "{:?}", self.endpoint());
        assert_eq!(self.endpoint().in_flight, 0);
    }

    /// Once the network is well again, so is everything else.
    async fn assert_recovers(&self) {
        self.proxy.set(Fault::Pass).await;
        // The only endpoint there is, so it is called even while it is out; calls bring it back that
        // began, by its clock of milliseconds, after it was taken out.
        for tries in 0.. {
            self.warm().await;
            let out = [EndpointState::Refused, EndpointState::Ejected];
            if !out.contains(&self.endpoint().state) {
                break;
            }
            assert!(tries < 100, "{:?}", self.endpoint());
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
        assert_eq!(self.endpoint().in_flight, 0);
    }
}

fn request(path: &str) -> Request<Body> {
    Request::get(path).body(Body::empty()).unwrap()
}

// ===== one endpoint =====

#[tokio::test]
async fn a_connection_that_is_reset_before_the_head_is_one_failure() {
    let rig = Rig::new().await;
    rig.warm().await;
    let call = tokio::spawn(rig.client().oneshot(request("/slow")));
    eventually("the call is under way", || rig.gate.waiting() == 1).await;
    rig.proxy.set(Fault::Reset).await;

    let error = call.await.unwrap().unwrap_err();
    let diagnosis = diagnose(&error);
    assert_eq!(
        (diagnosis.kind, diagnosis.unsent),
        (FailureKind::Reset, false)
    );
    rig.assert_failures(1);
    rig.assert_recovers().await;
}

#[tokio::test]
async fn a_body_that_breaks_off_is_an_error_and_one_failure() {
    for fault in [Fault::CutAfter(1_000_000), Fault::Reset] {
        let rig = Rig::new().await;
        rig.warm().await;
        if fault != Fault::Reset {
            rig.proxy.set(fault).await;
        }
        let response = rig.client().oneshot(request("/long")).await.unwrap();
        assert_eq!(response.status(), StatusCode::OK);
        assert_eq!(rig.endpoint().in_flight, 1);
        rig.proxy.set(fault).await;

        let error = response.into_body().collect().await.unwrap_err();
        assert_eq!(diagnose(&error).kind, FailureKind::Reset, "{error}");
        rig.assert_failures(1);
        rig.assert_recovers().await;
    }
}

#[tokio::test]
async fn a_body_that_the_caller_drops_is_no_failure() {
    let rig = Rig::new().await;
    let response = rig.client().oneshot(request("/long")).await.unwrap();
    let mut body = response.into_body();
    assert!(body.frame().await.unwrap().unwrap().is_data());
    assert_eq!(rig.endpoint().in_flight, 1);
    drop(body);
    rig.assert_failures(0);
    // Nor can the connection be used again: most of the answer is still on its way.
    eventually("its connection is closed", || {
        rig.proxy.open_connections() == 0
    })
    .await;
    rig.warm().await;
}

#[tokio::test]
async fn a_call_that_the_caller_drops_is_no_failure() {
    let rig = Rig::new().await;
    let call = tokio::spawn(rig.client().oneshot(request("/slow")));
    eventually("the call is under way", || rig.gate.waiting() == 1).await;
    assert_eq!(rig.endpoint().in_flight, 1);
    call.abort();
    assert!(call.await.unwrap_err().is_cancelled());
    rig.assert_failures(0);
    assert_eq!(rig.breaker().cancelled, 1);
    eventually("its connection is closed", || {
        rig.proxy.open_connections() == 0
    })
    .await;
    rig.warm().await;
}

#[tokio::test]
async fn a_network_that_hangs_is_a_timeout_at_the_deadline() {
    let rig = Rig::new().await;
    rig.warm().await;
    rig.proxy.set(Fault::Hang).await;
    for failures in 1..=3 {
        let mut request = request("/");
        let deadline = format_timeout(Duration::from_millis(200));
        request.headers_mut().insert(TIMEOUT, deadline);
        let response = rig.client().oneshot(request).await.unwrap();
        assert_eq!(response.status(), StatusCode::GATEWAY_TIMEOUT);
        let rejection = response.extensions().get::<Rejection>().unwrap();
        assert_eq!(rejection.reason(), Reason::DeadlineExceeded);
        drop(response);
        rig.assert_failures(failures);
    }
    // Not ejected: it is all there is.
    assert_eq!(rig.endpoint().state, EndpointState::Penalised);
    rig.assert_recovers().await;
}

#[tokio::test]
async fn an_only_endpoint_that_refuses_is_an_error_and_no_hang() {
    let rig = Rig::new().await;
    rig.warm().await;
    rig.proxy.set(Fault::Refuse).await;
    let mut seen = Vec::new();
    for _ in 0..3 {
        let error = rig.client().oneshot(request("/")).await.unwrap_err();
        seen.push(diagnose(&error).kind);
        assert_eq!(rig.endpoint().in_flight, 0);
    }
    // The first may have met the old connection before its end was known.
    assert_eq!(seen[1..], [FailureKind::Connect; 2], "{seen:?}");
    assert_eq!(rig.endpoint().state, EndpointState::Refused);
    rig.assert_recovers().await;
}

// ===== with somebody to go to =====

/// A fault at one of two endpoints comes and goes while calls run; gives how many of them failed. Each
/// time it lasts until the balancer has learnt of it.
async fn weather(fault: Fault, retry: Option<RetryConfig>) -> usize {
    let router = || Router::new().route("/", get(async || "fast"));
    let (good, behind) = (Server::axum(router()), Server::axum(router()));
    let proxy = FaultProxy::start(behind.addr()).await.unwrap();
    let config = ClientConfig {
        retry,
        // So that it is called again soon, and has the chance to do harm.
        balance: BalanceConfig {
            penalty: Duration::from_millis(1),
            ejection: EjectionConfig {
                base_time: Duration::from_millis(20),
                ..EjectionConfig::default()
            },
            ..BalanceConfig::default()
        },
        ..ClientConfig::default()
    };
    let addresses = format!("http://{},http://{}", good.addr(), proxy.addr());
    let mesh = support::mesh(format!("static:{addresses}"), config);
    let done = Arc::new(AtomicBool::new(false));
    let mut callers = JoinSet::new();
    for _ in 0..8 {
        let (client, done) = (mesh.client(SERVICE), done.clone());
        callers.spawn(async move {
            let mut failed = 0;
            while !done.load(Relaxed) {
                let answered = match client.clone().oneshot(request("/")).await {
                    Ok(response) if response.status().is_success() => {
                        response.into_body().collect().await.is_ok()
                    }
                    _ => false,
                };
                failed += usize::from(!answered);
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
            failed
        });
    }
    let url = format!("http://{}", proxy.addr());
    // Not known before the registry was read.
    let behind = || {
        let mut endpoints = mesh.endpoints(SERVICE, Protocol::Http).into_iter();
        endpoints.find(|view| view.url.to_string() == url)
    };
    let calls = || behind().map_or(0, |view| view.calls);
    let failures = || behind().map_or(0, |view| view.failures);
    for _ in 0..3 {
        let before = calls() + 10;
        eventually("it is called", || calls() > before).await;
        let before = failures();
        proxy.set(fault).await;
        eventually("the fault is felt", || {
            let refused = behind().is_some_and(|view| view.state == EndpointState::Refused);
            refused || failures() > before
        })
        .await;
        proxy.set(Fault::Pass).await;
    }
    done.store(true, Relaxed);
    let failed = callers.join_all().await.into_iter().sum();
    for endpoint in mesh.endpoints(SERVICE, Protocol::Http) {
        assert_eq!(endpoint.in_flight, 0, "{endpoint:?}");
    }
    failed
}

#[tokio::test]
async fn no_idempotent_call_fails_while_another_endpoint_is_well() {
    for fault in [Fault::Refuse, Fault::Reset, Fault::CutAfter(0)] {
        let failed = weather(fault, Some(RetryConfig::default())).await;
        assert_eq!(failed, 0, "{fault:?}");
    }
}

#[tokio::test]
async fn without_retries_connections_that_break_cost_calls() {
    let failed = weather(Fault::Reset, None).await;
    assert!(failed > 0, "the retries have nothing to do");
}
