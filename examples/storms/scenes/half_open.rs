//! A stampede through a half-open breaker: a server that comes back cold falls over when it is hit by all at once.
//!
//! Stock: the breaker of the failsafe crate, which lets everybody through as soon as its open time is over. Protected:
//! ours, which lets three probes through, and the others when they have come back well.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::SeqCst},
    },
    time::Duration,
};

use axum::{Router, http::StatusCode, routing::get};
use failsafe_peer::{Config, backoff, failure_policy::consecutive_failures};
use parking_lot::Mutex;
use tokio::time::{Instant, sleep};

use crate::{
    Result,
    backend::Backend,
    clients::{self, Stock},
    record::Record,
    storm::{Required, Stage, Storm},
};

pub static STORM: Storm = Storm {
    name: "half-open-stampede",
    title: "half-open stampede: a server that comes back cold",
    load: 400,
    length: Duration::from_secs(8),
    trouble: DOWN_FROM..DOWN_TO,
    play: |stage| Box::pin(run(stage)),
    required: Required {
        good: 0.5,
        attempts: 1.0,
    },
};

const DOWN_FROM: Duration = Duration::from_secs(2);
const DOWN_TO: Duration = Duration::from_millis(3_300);
const WORK: Duration = Duration::from_millis(50);
const OPEN_TIME: Duration = Duration::from_millis(500);
const TIMEOUT: Duration = Duration::from_secs(1);
const PROTECTED: &str = r#"{
    "deadline": { "timeout": "1s" },
    "retry": "off",
    "circuitBreaker": {
        "consecutiveFailures": 5, "openTime": "500ms", "maxOpenTime": "500ms", "jitter": "0%",
        "probes": 3, "successThreshold": 3
    }
}"#;

/// A server whose caches are empty when it starts.
#[derive(Clone)]
struct Cold {
    record: Record,
    state: Arc<Mutex<State>>,
    in_flight: Arc<AtomicU64>,
}

struct State {
    /// It answers 503 until then.
    down_until: Option<Instant>,
    /// So many calls have filled its caches.
    answered: u32,
}

// ===== impl Cold =====

impl Cold {
    /// So many answers make it warm.
    const WARM: u32 = 3;
    /// More calls at once are too much for a cold one.
    const AT_ONCE: u64 = 8;
    /// How long it takes to start.
    const RESTART: Duration = Duration::from_millis(800);

    fn new(record: Record) -> Self {
        let state = State {
            down_until: None,
            answered: Self::WARM,
        };
        Self {
            record,
            state: Arc::new(Mutex::new(state)),
            in_flight: Arc::default(),
        }
    }

    fn falls_over(&self, for_: Duration) {
        *self.state.lock() = State {
            down_until: Some(Instant::now() + for_),
            answered: 0,
        };
    }

    async fn answer(self) -> StatusCode {
        self.record.attempt();
        let in_flight = self.in_flight.fetch_add(1, SeqCst) + 1;
        let status = self.work(in_flight).await;
        self.in_flight.fetch_sub(1, SeqCst);
        status
    }

    async fn work(&self, in_flight: u64) -> StatusCode {
        let (is_up, is_warm) = {
            let state = self.state.lock();
            let is_up = state.down_until.is_none_or(|until| Instant::now() >= until);
            (is_up, state.answered >= Self::WARM)
        };
        if !is_up {
            return StatusCode::SERVICE_UNAVAILABLE;
        }
        if !is_warm && in_flight > Self::AT_ONCE {
            self.falls_over(Self::RESTART);
            return StatusCode::SERVICE_UNAVAILABLE;
        }
        sleep(WORK).await;
        let mut state = self.state.lock();
        if state.down_until.is_some_and(|until| Instant::now() < until) {
            return StatusCode::SERVICE_UNAVAILABLE; // it fell over meanwhile
        }
        state.answered += 1;
        StatusCode::OK
    }
}

async fn run(stage: Stage) -> Result<()> {
    let cold = Cold::new(stage.record.clone());
    let handler = cold.clone();
    let app = Router::new().route("/", get(move || handler.clone().answer()));
    let backend = Backend::start(app).await?;
    let at = stage.clock();
    let _script = stage.script(async move {
        at(DOWN_FROM).await;
        cold.falls_over(DOWN_TO - DOWN_FROM);
    });

    let breaker = Config::new()
        .failure_policy(consecutive_failures(5, backoff::constant(OPEN_TIME)))
        .build();
    let endpoints = [backend.addr()];
    let stock = Stock::new(&endpoints, TIMEOUT, 0);
    let guarded = || {
        let (breaker, stock) = (breaker.clone(), stock.clone());
        async move {
            if !breaker.is_call_permitted() {
                return false;
            }
            let good = stock.get().await;
            if good {
                breaker.on_success();
            } else {
                breaker.on_error();
            }
            good
        }
    };
    let client = clients::mesh(&endpoints, PROTECTED)?.client("orders");
    stage
        .load_either(guarded, || clients::get(client.clone()))
        .await;
    Ok(())
}
