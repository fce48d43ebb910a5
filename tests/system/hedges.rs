//! Hedging and retries of `mesh.client` and `mesh.channel`, over real servers of which one is slow or fails.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering::SeqCst},
    },
    time::Duration,
};

use axum::{Router, routing::get};
use http::{Request, StatusCode};
use tonic::Code;
use tower::ServiceExt;
use tower_mesh::{
    Body,
    client::ClientConfig,
    layers::{
        Protocol, Ratio, RequestMatch,
        hedge::HedgeConfig,
        retry::RetryConfig,
        test_util::{
            Answer, Scripted,
            grpc::{self, Client},
            servers::Server,
        },
    },
};

use crate::support;

const SERVICE: &str = "orders";
const DELAY: Duration = Duration::from_millis(50);

fn hedging() -> HedgeConfig {
    HedgeConfig {
        delay: DELAY.into(),
        extra_load: Ratio::ONE,
        ..HedgeConfig::default()
    }
}

fn registry(servers: &[&Server]) -> String {
    let urls = servers
        .iter()
        .map(|server| format!("http://{}", server.addr()));
    format!("static:{}", urls.collect::<Vec<_>>().join(","))
}

/// Answers, or is asked and never answers.
fn server(answers: bool) -> (Server, Arc<AtomicU32>) {
    let calls = Arc::new(AtomicU32::new(0));
    let counted = calls.clone();
    let handler = get(async move || {
        counted.fetch_add(1, SeqCst);
        if !answers {
            std::future::pending::<()>().await;
        }
        "an order"
    });
    (Server::axum(Router::new().route("/", handler)), calls)
}

/// Without the hedge the first call that goes to the hung server never ends.
#[tokio::test]
async fn a_server_that_hangs_costs_its_calls_the_delay() {
    for hedge in [Some(hedging()), None] {
        let ((good, _), (hung, asked)) = (server(true), server(false));
        let config = ClientConfig {
            hedge: hedge.clone(),
            ..ClientConfig::default()
        };
        let mesh = support::mesh(registry(&[&good, &hung]), config);
        let client = mesh.client(SERVICE);
        let calls = async {
            for _ in 0..20 {
                let request = Request::get("/").body(Body::empty()).unwrap();
                let response = client.clone().oneshot(request).await.unwrap();
                assert_eq!(response.status(), StatusCode::OK);
            }
        };
        let limit = match hedge {
            Some(_) => support::PATIENCE,
            None => 40 * DELAY,
        };
        let over = tokio::time::timeout(limit, calls).await;
        assert_eq!(over.is_ok(), hedge.is_some());
        let asked = u64::from(asked.load(SeqCst));
        assert!(asked > 0);
        let layer = mesh.client_layer(SERVICE, Protocol::Http);
        let stats = layer.hedges().stats();
        match hedge {
            Some(_) => assert!(stats.won >= asked, "{stats:?} of {asked}"),
            None => assert_eq!(stats.calls, 0),
        }
    }
}

/// gRPC is POST: it is hedged where the configuration says so.
#[tokio::test]
async fn a_channel_hedges_the_methods_that_it_is_told_to() {
    for told in [true, false] {
        let (service, probe) = Scripted::answering(|call, _| match call {
            0 => Answer::never(),
            _ => grpc::unary("hello"),
        });
        let server = Server::hyper(service);
        let mut hedge = hedging();
        if told {
            hedge.idempotent.push(RequestMatch::path_prefix("/"));
        }
        let config = ClientConfig {
            hedge: Some(hedge),
            ..ClientConfig::default()
        };
        let url = format!("static:grpc://{}", server.addr());
        let mesh = support::mesh(url, config);
        let mut client = Client::new(mesh.channel(SERVICE));
        let limit = if told { support::PATIENCE } else { 10 * DELAY };
        let call = client.unary("Unary", "question");
        match tokio::time::timeout(limit, call).await {
            Ok(answer) => assert_eq!(answer.unwrap().into_inner(), "hello"),
            Err(_) => assert!(!told),
        }
        assert_eq!(probe.calls(), if told { 2 } else { 1 });
    }
}

/// The hedges of a peer that fails are paid for by the budget of its retries.
#[tokio::test]
async fn a_spent_retry_budget_leaves_nothing_for_hedges() {
    let (service, probe) = Scripted::answering(|call, _| match call {
        0..100 => Answer::grpc_status("14"),
        _ => Answer::never(),
    });
    let server = Server::hyper(service);
    let mut hedge = hedging();
    hedge.idempotent.push(RequestMatch::path_prefix("/"));
    let tokens = tower_mesh::layers::retry::BudgetConfig::Tokens {
        max_tokens: 10,
        token_ratio: Ratio::percent(1),
    };
    let config = ClientConfig {
        hedge: Some(hedge),
        retry: Some(RetryConfig {
            budget: tokens,
            ..RetryConfig::default()
        }),
        circuit_breaker: None,
        ..ClientConfig::default()
    };
    let url = format!("static:grpc://{}", server.addr());
    let mesh = support::mesh(url, config);
    let mut client = Client::new(mesh.channel(SERVICE));
    while probe.calls() < 100 {
        let failed = client.unary("Unary", "question").await.unwrap_err();
        assert_eq!(failed.code(), Code::Unavailable);
    }
    let call = client.unary("Unary", "question");
    assert!(tokio::time::timeout(10 * DELAY, call).await.is_err());
    assert_eq!(probe.calls(), 101);
    let layer = mesh.client_layer(SERVICE, Protocol::Grpc);
    assert_eq!(layer.hedges().stats().hedges, 0);
}
