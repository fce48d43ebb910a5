//! A backend that hangs: one of three takes connections and calls, and never answers.
//!
//! Stock: endpoints in turn, and a timeout. Protected: the balancer takes the one out that times out, and a call that
//! met it is tried elsewhere.

use std::time::Duration;

use axum::{Router, routing::get};
use tower_mesh::layers::test_util::Fault;

use crate::{
    Result,
    backend::Backend,
    clients::{self, Stock},
    storm::{Playing, Required, Stage, Storm},
};

pub static STORM: Storm = Storm {
    name: "hung-backend",
    title: "hung backend: one of three never answers",
    load: 200,
    length: Duration::from_secs(7),
    trouble: HANGS_FROM..HANGS_TO,
    play,
    required: Required {
        good: 0.93,
        attempts: 1.3,
    },
};

const HANGS_FROM: Duration = Duration::from_millis(1_500);
const HANGS_TO: Duration = Duration::from_millis(4_500);
const TIMEOUT: Duration = Duration::from_millis(500);
const PROTECTED: &str = r#"{
    "deadline": { "timeout": "1s" },
    "retry": { "attemptTimeout": "250ms" }
}"#;

fn play(stage: Stage) -> Playing {
    Box::pin(run(stage))
}

async fn run(stage: Stage) -> Result<()> {
    let mut backends = Vec::new();
    for _ in 0..3 {
        let record = stage.record.clone();
        let handler = async move || {
            record.attempt();
            tokio::time::sleep(Duration::from_millis(10)).await;
            "done"
        };
        backends.push(Backend::start(Router::new().route("/", get(handler))).await?);
    }
    let endpoints: Vec<_> = backends.iter().map(Backend::addr).collect();
    let at = stage.clock();
    let _script = stage.script(async move {
        at(HANGS_FROM).await;
        backends[0].set(Fault::Hang).await;
        at(HANGS_TO).await;
        backends[0].set(Fault::Pass).await;
        std::future::pending::<()>().await;
    });
    let stock = Stock::new(&endpoints, TIMEOUT, 0);
    let client = clients::mesh(&endpoints, PROTECTED)?.client("orders");
    stage
        .load_either(|| stock.clone().get(), || clients::get(client.clone()))
        .await;
    Ok(())
}
