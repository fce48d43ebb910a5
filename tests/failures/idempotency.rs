//! Idempotency keys.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use bytes::Bytes;
use futures_util::future::join_all;
use http::{Request, Response};
use http_body_util::{BodyExt, Full};
use tokio::time::sleep;
use tower::{Layer, ServiceExt, service_fn};
use tower_mesh::layers::{
    BoxError, Live,
    idempotency::{IdempotencyConfig, IdempotencyLayer},
};

use crate::harness::{Measured, Protection, paused};

/// Statuses and answers of calls at the same time, each over a service of its own; the handler takes a second for each.
async fn at_once(
    layer: &IdempotencyLayer,
    runs: &Arc<AtomicU64>,
    bodies: &[&'static str],
) -> Vec<(u16, Bytes)> {
    let calls = bodies.iter().map(|body| {
        let runs = runs.clone();
        let handler = service_fn(move |_: Request<Full<Bytes>>| {
            let run = runs.fetch_add(1, Relaxed);
            async move {
                sleep(Duration::from_secs(1)).await;
                Ok::<_, BoxError>(Response::new(Full::new(Bytes::from(run.to_string()))))
            }
        });
        let service = layer.layer(handler);
        let request = Request::post("/payments").header("idempotency-key", "8e03978e");
        let request = request.body(Full::from(*body)).expect("a valid request");
        async move {
            let answer = service.oneshot(request).await.expect("it cannot fail");
            let status = answer.status().as_u16();
            let body = answer.into_body().collect().await;
            (status, body.expect("a whole body").to_bytes())
        }
    });
    join_all(calls).await
}

/// S18: 100 calls with one key at the same time, which are refused but for one; another request with it; and 100 that
/// wait for the first of them, and get its answer.
pub(crate) fn s18_idempotency_key_replay(p: Protection) -> Measured {
    const CALLS: usize = 100;

    let layer = |config| {
        let layer = IdempotencyLayer::optional(Live::new(p.pick(Some(config), None)));
        layer.expect("valid options")
    };
    paused(async {
        let refusing = layer(IdempotencyConfig::default());
        let waiting = layer(IdempotencyConfig {
            wait: Some(Duration::from_secs(10)),
            ..IdempotencyConfig::default()
        });
        let runs = Arc::new(AtomicU64::new(0));
        let same = ["order a book"; CALLS];
        let in_flight = at_once(&refusing, &runs, &same).await;
        let conflicts = in_flight.iter().filter(|(status, _)| *status == 409);
        let other_body = at_once(&refusing, &runs, &["order two books"]).await;
        let runs = runs.load(Relaxed);
        // The answer of the first, to all.
        let waited = at_once(&waiting, &Arc::default(), &same).await;
        let is_same = |answer: &&(u16, Bytes)| **answer == waited[0];
        Measured::new()
            .exactly("runs", 1, runs as f64)
            .exactly("409", CALLS as f64 - 1.0, conflicts.count() as f64)
            .exactly("other body", 422, f64::from(other_body[0].0))
            .exactly(
                "waited",
                CALLS as f64,
                waited.iter().filter(is_same).count() as f64,
            )
    })
}
