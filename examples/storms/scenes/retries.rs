//! A retry storm: a database is slow for two seconds, and retries keep it overloaded when it is well again.
//!
//! Stock: three retries for every call that fails. Protected: the default retry budget (a fifth of the calls and ten
//! a second on top), and a breaker that lets the line get shorter.

use std::time::Duration;

use axum::{Router, routing::get};

use crate::{
    Result,
    backend::{Backend, Database},
    clients::{self, Stock},
    storm::{Required, Stage, Storm},
};

pub static STORM: Storm = Storm {
    name: "retry-storm",
    title: "retry storm: a slow database for 2 s",
    load: 250,
    length: Duration::from_secs(10),
    trouble: SLOW_FROM..SLOW_TO,
    play: |stage| Box::pin(run(stage)),
    required: Required {
        good: 0.4,
        attempts: 1.3,
    },
};

const SLOW_FROM: Duration = Duration::from_secs(2);
const SLOW_TO: Duration = Duration::from_secs(4);
/// 10 at once: 500 queries a second, and 100 while it is slow.
const SLOTS: usize = 10;
const QUERY: Duration = Duration::from_millis(20);
const SLOW_QUERY: Duration = Duration::from_millis(100);
/// As long as users wait for an attempt.
const TIMEOUT: Duration = Duration::from_millis(200);
const PROTECTED: &str = r#"{
    "deadline": { "timeout": "400ms" },
    "retry": { "maxAttempts": 4, "attemptTimeout": "200ms" },
    "circuitBreaker": { "failureRate": "50%", "openTime": "300ms", "maxOpenTime": "600ms" }
}"#;

async fn run(stage: Stage) -> Result<()> {
    let database = Database::new(SLOTS, QUERY);
    let (record, queried) = (stage.record.clone(), database.clone());
    let handler = async move || {
        record.attempt();
        queried.query().await;
        "done"
    };
    let backend = Backend::start(Router::new().route("/", get(handler))).await?;
    let at = stage.clock();
    let _script = stage.script(async move {
        at(SLOW_FROM).await;
        database.set(SLOW_QUERY);
        at(SLOW_TO).await;
        database.set(QUERY);
    });
    let endpoints = [backend.addr()];
    let stock = Stock::new(&endpoints, TIMEOUT, 3);
    let client = clients::mesh(&endpoints, PROTECTED)?.client("orders");
    stage
        .load_either(|| stock.clone().get(), || clients::get(client.clone()))
        .await;
    Ok(())
}
