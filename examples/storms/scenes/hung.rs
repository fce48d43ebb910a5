//! A backend that hangs: one of three takes connections and calls, and never answers.
//!
//! Stock: endpoints in turn, and a timeout. Protected: the balancer takes the one out that times out, and a call that
//! met it is tried elsewhere.

use std::time::Duration;

use tower_mesh::layers::test_util::Fault;

use crate::{
    Result,
    backend::Backend,
    clients::{self, Stock},
    storm::{Required, Stage, Storm},
};

pub static STORM: Storm = Storm {
    name: "hung-backend",
    title: "hung backend: one of three never answers",
    load: 200,
    length: Duration::from_secs(7),
    trouble: HANGS_FROM..HANGS_TO,
    play: |stage| Box::pin(run(stage)),
    required: Required {
        good: 0.93,
        attempts: 1.3,
    },
};

const HANGS_FROM: Duration = Duration::from_millis(1_500);
const HANGS_TO: Duration = Duration::from_millis(4_500);
const WORK: Duration = Duration::from_millis(10);
const TIMEOUT: Duration = Duration::from_millis(500);
const PROTECTED: &str = r#"{
    "deadline": { "timeout": "1s" },
    "retry": { "attemptTimeout": "250ms" }
}"#;

async fn run(stage: Stage) -> Result<()> {
    let backends = Backend::three(&stage.record, WORK).await?;
    let endpoints: Vec<_> = backends.iter().map(Backend::addr).collect();
    let at = stage.clock();
    let _script = stage.script(async move {
        at(HANGS_FROM).await;
        backends[0].set(Fault::Hang).await;
        at(HANGS_TO).await;
        backends[0].set(Fault::Pass).await;
        std::future::pending::<()>().await; // with the backends, which it holds
    });
    let stock = Stock::new(&endpoints, TIMEOUT, 0);
    let client = clients::mesh(&endpoints, PROTECTED)?.client("orders");
    stage
        .load_either(|| stock.clone().get(), || clients::get(client.clone()))
        .await;
    Ok(())
}
