//! The calls: *open loop*, as users make them. They come at a fixed rate whatever becomes of earlier
//! ones, so a slow answer cannot hide by holding back the calls behind it.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use http::Request;
use http_body_util::BodyExt;
use tokio::{task::JoinSet, time::Instant};
use tonic_health::pb::{HealthCheckRequest, health_client::HealthClient};
use tower::ServiceExt;
use tower_mesh::{
    Body, Mesh,
    client::{Channel, Client},
};

use crate::{
    Result,
    cluster::{GREETER, ORDERS},
    instance::VERSION,
    users::Users,
};

/// Calls per second to each service.
const RATE: u32 = 300;
/// A call that starts within this of its time is on time.
const ON_TIME: Duration = Duration::from_millis(20);
/// No more failed calls than this are worth a line of the log.
const LOGGED: u64 = 5;

/// The clients, and what became of their calls.
pub struct Traffic {
    orders: Client,
    greeter: HealthClient<Channel>,
    /// Those who ask for orders.
    pub users: Users,
    /// Calls that were started.
    pub started: AtomicU64,
    /// Those that started when they should.
    on_time: AtomicU64,
    /// Calls that came to an end.
    pub finished: AtomicU64,
    /// Those that ended badly.
    pub failed: AtomicU64,
}

/// Calls are made until this is dropped.
pub struct Running {
    _drivers: JoinSet<()>,
}

impl Traffic {
    pub fn new(mesh: &Mesh) -> Self {
        Self {
            orders: mesh.client(ORDERS),
            greeter: HealthClient::new(mesh.channel(GREETER)),
            users: Users::default(),
            started: AtomicU64::new(0),
            on_time: AtomicU64::new(0),
            finished: AtomicU64::new(0),
            failed: AtomicU64::new(0),
        }
    }

    /// Starts to call both services.
    pub fn start(self: &Arc<Self>) -> Running {
        let mut drivers = JoinSet::new();
        drivers.spawn(self.clone().drive(Self::get_order));
        drivers.spawn(self.clone().drive(Self::greet));
        Running { _drivers: drivers }
    }

    /// The part of the calls that started when they should, from 0 to 1.
    pub fn punctuality(&self) -> f64 {
        self.on_time.load(Relaxed) as f64 / self.started.load(Relaxed).max(1) as f64
    }

    /// Waits until no call is under way.
    pub async fn settle(&self) {
        while self.finished.load(Relaxed) < self.started.load(Relaxed) {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    async fn drive<F>(self: Arc<Self>, call: fn(Arc<Self>) -> F)
    where
        F: Future<Output = Result<()>> + Send + 'static,
    {
        // An interval that is late catches up: every planned call is made.
        let mut ticks = tokio::time::interval(Duration::from_secs(1) / RATE);
        loop {
            let planned = ticks.tick().await;
            self.spawn(planned, call);
        }
    }

    fn spawn<F>(self: &Arc<Self>, planned: Instant, call: fn(Arc<Self>) -> F)
    where
        F: Future<Output = Result<()>> + Send + 'static,
    {
        let traffic = self.clone();
        traffic.started.fetch_add(1, Relaxed);
        tokio::spawn(async move {
            if planned.elapsed() <= ON_TIME {
                traffic.on_time.fetch_add(1, Relaxed);
            }
            if let Err(error) = call(traffic.clone()).await
                && traffic.failed.fetch_add(1, Relaxed) < LOGGED
            {
                tracing::error!(%error, "a call failed");
            }
            traffic.finished.fetch_add(1, Relaxed);
        });
    }

    async fn get_order(self: Arc<Self>) -> Result<()> {
        let visit = self.users.visit();
        let request = Request::get("/orders/7")
            .header("x-user", visit.user())
            .body(Body::empty())?;
        let response = self.orders.clone().oneshot(request).await?;
        let status = response.status();
        if let Some(version) = response.headers().get(VERSION) {
            visit.answered_by(version.to_str()?);
        }
        let body = response.into_body().collect().await?.to_bytes();
        match status.is_success() {
            true => Ok(()),
            false => Err(format!("{status}: {}", String::from_utf8_lossy(&body)).into()),
        }
    }

    async fn greet(self: Arc<Self>) -> Result<()> {
        let request = HealthCheckRequest::default();
        self.greeter.clone().check(request).await?;
        Ok(())
    }
}
