//! Processes that leave.

use std::time::Duration;

use axum::{Router, routing::post};
use http::Request;
use http_body_util::BodyExt;
use tokio::{
    sync::oneshot,
    task::JoinSet,
    time::{MissedTickBehavior, interval, sleep},
};
use tower::ServiceExt;
use tower_mesh::{
    Body, Mesh,
    client::Client,
    discovery::{
        instance::Instance,
        register::{RegisterConfig, Registration},
        registry::RegistryUrl,
    },
    layers::{
        drain::DrainLayer,
        test_util::servers::{Port, Server},
    },
    serve::GracefulShutdown,
};

use crate::harness::{Measured, Protection, threads};

/// What a call takes; so there always are some in flight.
const WORK: Duration = Duration::from_millis(60);
/// How long callers have to learn that an instance leaves. They do within milliseconds; the rest is for a machine that
/// is busy with other things.
const DRAIN: Duration = Duration::from_secs(2);
const LIMIT: Duration = Duration::from_secs(20);

/// An instance of a service, of which it is known when its server has ended.
struct Process {
    server: Server,
    registration: Option<Registration>,
    ended: oneshot::Receiver<()>,
}

impl Process {
    fn start(registry: &RegistryUrl) -> Self {
        let port = Port::any();
        let url = format!("http://{}", port.addr());
        let instance = Instance::at("orders", url.parse().expect("an address"));
        let config = RegisterConfig {
            drain: DRAIN,
            ..RegisterConfig::default()
        };
        let registration = registry.open().register(instance, config);
        let registration = registration.expect("a registry to write to");

        let layer = DrainLayer::builder()
            .limit(LIMIT)
            .build()
            .expect("in range");
        let drain = layer.handle();
        let work = post(async || {
            sleep(WORK).await;
            "done"
        });
        let app = Router::new().route("/", work).layer(layer);
        let both = (registration, drain);
        let (ends, ended) = oneshot::channel();
        let (gives, given) = std::sync::mpsc::channel();
        let server = port.serve(move |listener, stop| async move {
            let (registration, drain) = both;
            let told = (&registration, &drain).until(stop.requested());
            gives.send(registration).expect("who waits for it");
            let server = axum::serve(listener, app).with_graceful_shutdown(told);
            if let Ok(served) = drain.bound(server).await {
                served.expect("a server");
                let _ = ends.send(());
            }
        });
        let registration = given.recv().expect("the server has started");
        Self {
            server,
            registration: Some(registration),
            ended,
        }
    }

    /// Leaves in order; says whether it was done within the limit.
    async fn leave(mut self) -> bool {
        self.server.stop().await;
        if let Some(registration) = self.registration.take() {
            registration.close().await.expect("a registry to write to");
        }
        self.ended.await.is_ok()
    }

    /// Just goes, as a process does that takes no notice of SIGTERM. Then time passes as if it had not, so that
    /// there is as much traffic.
    async fn vanish(mut self) -> bool {
        let registration = self.registration.take();
        self.server.kill();
        drop(registration);
        sleep(DRAIN).await;
        true
    }
}

/// A call that nobody may repeat.
async fn call(orders: Client) -> bool {
    let request = Request::post("/").body(Body::from("order")).expect("valid");
    let Ok(response) = orders.oneshot(request).await else {
        return false;
    };
    let is_good = response.status() == 200;
    is_good && response.into_body().collect().await.is_ok()
}

/// D22: one instance after the other makes room for a new one, under steady traffic.
pub(crate) fn d22_rolling_restart(p: Protection) -> Measured {
    const INSTANCES: usize = 5;
    const PER_SECOND: u32 = 200;

    // One that all of this process see at once: how fast a file is noticed is not what this is about.
    let registry = p.pick("memory:d22-on", "memory:d22-off");
    let url: RegistryUrl = registry.parse().expect("a name");
    let (results, in_time) = threads(async {
        let mut processes: Vec<_> = (0..INSTANCES).map(|_| Process::start(&url)).collect();
        for process in &processes {
            let registration = process.registration.as_ref().expect("it has not left");
            registration.registered().await;
        }
        let mesh = Mesh::builder().registry(registry).build();
        let mesh = mesh.expect("a mesh");
        let orders = mesh.client("orders");
        call(orders.clone()).await;

        let (stop, mut stopped) = oneshot::channel::<()>();
        let traffic = tokio::spawn(async move {
            let mut pace = interval(Duration::from_secs(1) / PER_SECOND);
            pace.set_missed_tick_behavior(MissedTickBehavior::Burst);
            let mut calls = JoinSet::new();
            while stopped.try_recv().is_err() {
                pace.tick().await;
                calls.spawn(call(orders.clone()));
            }
            calls.join_all().await
        });
        let mut in_time = 0_u32;
        for _ in 0..INSTANCES {
            sleep(Duration::from_millis(500)).await;
            let old = processes.remove(0);
            let new = Process::start(&url);
            let registration = new.registration.as_ref().expect("it has not left");
            registration.registered().await;
            processes.push(new);
            let left = if p.is_on() {
                old.leave().await
            } else {
                old.vanish().await
            };
            in_time += u32::from(left);
        }
        let _ = stop.send(());
        (traffic.await.expect("the traffic"), in_time)
    });
    let failed = results.iter().filter(|is_good| !**is_good).count();
    Measured::new()
        .exactly("failed", 0, failed as f64)
        .at_least("of", 1_500, results.len() as f64)
        .exactly("left within the limit", INSTANCES as u32, in_time.into())
}
