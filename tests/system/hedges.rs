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
    discovery::balance::{BalanceConfig, Balancing},
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
        let ((good, answered), (hung, asked)) = (server(true), server(false));
        let is_hedged = hedge.is_some();
        let config = ClientConfig {
            hedge,
            balance: BalanceConfig {
                picker: Balancing::RoundRobin,
                ..BalanceConfig::default()
            },
            ..ClientConfig::default()
        };
        let mesh = support::mesh(registry(&[&good, &hung]), config);
        let client = mesh.client(SERVICE);
        let call = || async {
            let request = Request::get("/").body(Body::empty()).unwrap();
            let response = client.clone().oneshot(request).await.unwrap();
            assert_eq!(response.status(), StatusCode::OK);
        };
        let hedges = mesh.client_layer(SERVICE, Protocol::Http).hedges();
        if is_hedged {
            let won = async {
                while hedges.stats().won == 0 {
                    call().await;
                }
            };
            let over = tokio::time::timeout(support::PATIENCE, won).await;
            assert!(over.is_ok(), "{:?}", hedges.stats());
            assert!(asked.load(SeqCst) > 0);
        } else {
            let mut calls = Box::pin(async {
                loop {
                    call().await;
                }
            });
            tokio::select! {
                () = &mut calls => {}
                () = support::eventually("one hangs", || asked.load(SeqCst) > 0) => {}
            }
            let before = answered.load(SeqCst);
            assert!(tokio::time::timeout(4 * DELAY, calls).await.is_err());
            assert_eq!((answered.load(SeqCst), asked.load(SeqCst)), (before, 1));
            assert_eq!(hedges.stats().calls, 0);
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
        let mut call = Box::pin(client.unary("Unary", "question"));
        if told {
            let answer = tokio::time::timeout(support::PATIENCE, call).await;
            let answer = answer.expect("the second attempt is answered").unwrap();
            assert_eq!((answer.into_inner(), probe.calls()), ("hello".into(), 2));
        } else {
            tokio::select! {
                _ = &mut call => {}
                () = support::eventually("it is sent", || probe.calls() > 0) => {}
            }
            assert!(tokio::time::timeout(4 * DELAY, call).await.is_err());
            assert_eq!(probe.calls(), 1);
        }
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
    let hedges = mesh.client_layer(SERVICE, Protocol::Grpc).hedges();
    // On a busy machine the first of them may have been slow, too.
    let before = hedges.stats().hedges;
    let mut call = Box::pin(client.unary("Unary", "question"));
    tokio::select! {
        _ = &mut call => {}
        () = support::eventually("it is sent", || probe.calls() > 100) => {}
    }
    assert!(tokio::time::timeout(4 * DELAY, call).await.is_err());
    assert_eq!((probe.calls(), hedges.stats().hedges), (101, before));
}
