//! Three hops that all retry: the last service fails for two seconds, and each hop multiplies what reaches it.
//!
//! Stock: three retries at each hop, so 4 x 4 x 4 attempts for a call. Protected: each hop has the default budget.

use std::time::Duration;

use axum::{Router, http::StatusCode, routing::get};
use tokio::sync::watch;

use crate::{
    Result,
    backend::Backend,
    clients::{self, Stock},
    storm::{Required, Side, Stage, Storm},
};

pub static STORM: Storm = Storm {
    name: "three-hops",
    title: "three hops: each one retries",
    load: 40,
    length: Duration::from_secs(6),
    trouble: FAILS_FROM..FAILS_TO,
    play: |stage| Box::pin(run(stage)),
    required: Required {
        good: 0.3,
        attempts: 2.5,
    },
};

const FAILS_FROM: Duration = Duration::from_millis(1_500);
const FAILS_TO: Duration = Duration::from_millis(3_500);
const TIMEOUT: Duration = Duration::from_millis(500);
const PROTECTED: &str = r#"{
    "deadline": { "timeout": "500ms" },
    "retry": { "maxAttempts": 4 },
    "circuitBreaker": { "openTime": "200ms", "maxOpenTime": "200ms" }
}"#;

async fn run(stage: Stage) -> Result<()> {
    let (fails, failing) = watch::channel(false);
    let record = stage.record.clone();
    let last = async move || {
        record.attempt();
        match *failing.borrow() {
            true => StatusCode::SERVICE_UNAVAILABLE,
            false => StatusCode::OK,
        }
    };
    let last = Backend::start(Router::new().route("/", get(last))).await?;
    let middle = hop(stage.side, &last).await?;
    let first = hop(stage.side, &middle).await?;
    let at = stage.clock();
    let _script = stage.script(async move {
        at(FAILS_FROM).await;
        fails.send_replace(true);
        at(FAILS_TO).await;
        fails.send_replace(false);
    });
    let endpoints = [first.addr()];
    let stock = Stock::new(&endpoints, TIMEOUT, 3);
    let client = clients::mesh(&endpoints, PROTECTED)?.client("first");
    stage
        .load_either(|| stock.clone().get(), || clients::get(client.clone()))
        .await;
    Ok(())
}

/// A server that asks the next one.
async fn hop(side: Side, next: &Backend) -> Result<Backend> {
    let endpoints = [next.addr()];
    let stock = Stock::new(&endpoints, TIMEOUT, 3);
    let client = clients::mesh(&endpoints, PROTECTED)?.client("next");
    let handler = async move || {
        let good = match side {
            Side::Stock => stock.clone().get().await,
            Side::Protected => clients::get(client.clone()).await,
        };
        if good {
            StatusCode::OK
        } else {
            StatusCode::SERVICE_UNAVAILABLE
        }
    };
    Backend::start(Router::new().route("/", get(handler))).await
}
