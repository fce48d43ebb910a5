//! A handler that panics on every fifth call for two seconds, on a server that takes so many calls at once.
//!
//! Stock: a hand-written count of the calls in flight, taken down after the call. A panic skips that, so each one costs
//! the server a place for good. Protected: the concurrency limit, which a panic gives its place back like any other
//! end, inside of catch-panic, which answers 500 on a connection that stays open.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use axum::{Router, http::StatusCode, routing::get};
use tower::ServiceBuilder;
use tower_mesh::layers::{catch_panic::CatchPanicLayer, concurrency_limit::ConcurrencyLimitLayer};

use crate::{
    Result,
    backend::Backend,
    clients::Stock,
    storm::{Required, Side, Stage, Storm},
};

pub static STORM: Storm = Storm {
    name: "panicking-handler",
    title: "panicking handler: places that leak",
    load: 200,
    length: Duration::from_secs(6),
    trouble: PANICS_FROM..PANICS_TO,
    play: |stage| Box::pin(run(stage)),
    required: Required {
        good: 0.8,
        attempts: 1.0,
    },
};

const PANICS_FROM: Duration = Duration::from_millis(1_500);
const PANICS_TO: Duration = Duration::from_millis(3_500);
const ONE_IN: u64 = 5;
/// Ten times what the load takes.
const PLACES: u32 = 40;
const WORK: Duration = Duration::from_millis(20);
const TIMEOUT: Duration = Duration::from_secs(1);

/// A handler with a bug.
#[derive(Clone, Default)]
struct Buggy {
    panics: Arc<AtomicBool>,
    calls: Arc<AtomicU64>,
    in_flight: Arc<AtomicU64>,
}

// ===== impl Buggy =====

impl Buggy {
    async fn work(&self) -> StatusCode {
        tokio::time::sleep(WORK).await;
        let call = self.calls.fetch_add(1, Relaxed);
        if self.panics.load(Relaxed) && call.is_multiple_of(ONE_IN) {
            panic!("an order without lines");
        }
        StatusCode::OK
    }

    /// As it is often written.
    async fn counted_by_hand(self) -> StatusCode {
        if self.in_flight.fetch_add(1, Relaxed) >= PLACES.into() {
            self.in_flight.fetch_sub(1, Relaxed);
            return StatusCode::SERVICE_UNAVAILABLE;
        }
        let status = self.work().await;
        self.in_flight.fetch_sub(1, Relaxed);
        status
    }
}

async fn run(stage: Stage) -> Result<()> {
    let (record, buggy) = (stage.record.clone(), Buggy::default());
    let (panics, side) = (buggy.panics.clone(), stage.side);
    let handler = async move || {
        record.attempt();
        match side {
            Side::Stock => buggy.counted_by_hand().await,
            Side::Protected => buggy.work().await,
        }
    };
    let mut app = Router::new().route("/", get(handler));
    if side == Side::Protected {
        let layers = ServiceBuilder::new()
            .layer(CatchPanicLayer::default())
            .layer(ConcurrencyLimitLayer::builder(PLACES).build()?);
        app = app.layer(layers);
    }
    let backend = Backend::start(app).await?;
    let at = stage.clock();
    let _script = stage.script(async move {
        at(PANICS_FROM).await;
        panics.store(true, Relaxed);
        at(PANICS_TO).await;
        panics.store(false, Relaxed);
    });
    // The same client on both sides: it is the server that differs.
    let client = Stock::new(&[backend.addr()], TIMEOUT, 0);
    stage.load(|| client.clone().get()).await;
    Ok(())
}
