//! Serving until it is time to go, without a call that fails for it.
//!
//! A server that only stops surprises its callers: they know it for a while longer. So first it is
//! marked as draining in the registry and serves on until the callers have turned to other instances: a lame
//! duck. Then it takes no new calls and finishes those that it has, and at last it leaves the registry:
//!
//! ```text
//!  SIGTERM    drain time and `lameDuck`    calls in flight are done,   close()
//!             are over                     or `limit` is over
//!  ───┬──────────────────┬─────────────────────────────┬─────────────────┬────
//!  up │    lame duck     │          draining           │     drained     │ gone
//!     │   takes calls    │  refuses new, finishes old  │
//!     │ HTTP/1: `Connection: close`; HTTP/2 from here: GOAWAY │
//! ```
//!
//! Three take part in it, and the future of [`GracefulShutdown`] is where they meet: the [`Registration`], the
//! [drain layer](crate::layers::drain), and the server, which closes its listener and its connections when that
//! future is over. It is the future that axum, tonic and others take for this:
//!
//! ```no_run
//! use axum::{Router, routing::get};
//! use tower_mesh::{
//!     discovery::{instance::Instance, register::RegisterConfig, registry::RegistryUrl},
//!     layers::drain::DrainLayer,
//!     serve::GracefulShutdown,
//! };
//!
//! # #[tokio::main]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let layer = DrainLayer::default(); // or `mesh.server()`, whose `drain()` is the same handle
//! let drain = layer.handle();
//! let app = Router::new().route("/", get(|| async { "hello" })).layer(layer);
//! let listener = tokio::net::TcpListener::bind("10.0.0.1:8080").await?;
//!
//! // Now that it listens:
//! let registry = "file:./registry.yaml".parse::<RegistryUrl>()?.open();
//! let instance = Instance::at("orders", "http://10.0.0.1:8080".parse()?);
//! let registration = registry.register(instance, RegisterConfig::default())?;
//!
//! let server = axum::serve(listener, app)
//!     .with_graceful_shutdown((&registration, &drain).until_signal());
//! if let Err(late) = drain.bound(server).await {
//!     eprintln!("{late}"); // the limit is over: whatever is left is cut
//! }
//! registration.close().await?;
//! # Ok(())
//! # }
//! ```
//!
//! With tonic it is `Server::builder().add_service(..).serve_with_shutdown(addr, (&registration,
//! &drain).until_signal())`, and the same around it.
//!
//! Without a drain layer it is `registration.until_signal()`: the connections are closed in the same way, but calls that
//! come over one before it is are taken, and nothing bounds the whole but a timeout of your own. Without a registry it is
//! `drain.until_signal()`, with a `lameDuck` that is as long as a load balancer takes to notice.
//!
//! The `terminationGracePeriodSeconds` of Kubernetes has to be longer than drain time, `lameDuck` and `limit` together,
//! of which the first two run at the same time.

use std::{future::Future, pin::Pin};

#[cfg(unix)]
use tokio::signal::unix::{Signal, SignalKind};
use tower_mesh_discovery::register::Registration;
use tower_mesh_layers::drain::DrainHandle;

/// Completes when a server is to take no new calls any more.
pub type Shutdown = Pin<Box<dyn Future<Output = ()> + Send>>;

/// Ties a [`Registration`], a [`DrainHandle`], or both (`(&registration, &drain)`) to the graceful shutdown of a
/// server. See the [module](self).
pub trait GracefulShutdown {
    /// Waits for SIGTERM or SIGINT (elsewhere than on Unix: Ctrl-C), then is a lame duck: marks the instance as
    /// draining and waits for the drain time, and for `lameDuck`. A second signal ends both. Then new calls are refused.
    ///
    /// From this call on the signals do not end the process by themselves any more.
    ///
    /// # Panics
    ///
    /// Outside of a tokio runtime, and in one without I/O.
    fn until_signal(&self) -> Shutdown;

    /// As [`until_signal`](Self::until_signal), for a reason of your own: waits for `stop` first.
    /// Signals are left alone.
    fn until<F>(&self, stop: F) -> Shutdown
    where
        F: Future<Output = ()> + Send + 'static;
}

impl GracefulShutdown for Registration {
    fn until_signal(&self) -> Shutdown {
        let mut first = Signals::listen();
        let drain = self.drain_until(second_signal());
        Box::pin(async move {
            let signal = first.next().await;
            tracing::info!(signal, "draining");
            drain.await;
        })
    }

    fn until<F>(&self, stop: F) -> Shutdown
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let drain = self.drain();
        Box::pin(async move {
            stop.await;
            drain.await;
        })
    }
}

impl GracefulShutdown for DrainHandle {
    fn until_signal(&self) -> Shutdown {
        let (mut first, second) = (Signals::listen(), second_signal());
        let drain = self.clone();
        Box::pin(async move {
            let signal = first.next().await;
            tracing::info!(signal, "draining");
            lame_duck(&drain, second).await;
            drain.refuse();
        })
    }

    fn until<F>(&self, stop: F) -> Shutdown
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let drain = self.clone();
        Box::pin(async move {
            stop.await;
            drain.lame_duck().await;
            drain.refuse();
        })
    }
}

impl GracefulShutdown for (&Registration, &DrainHandle) {
    fn until_signal(&self) -> Shutdown {
        let (registration, drain) = (self.0.drain_until(second_signal()), self.1.clone());
        let (mut first, second) = (Signals::listen(), second_signal());
        Box::pin(async move {
            let signal = first.next().await;
            tracing::info!(signal, "draining");
            tokio::join!(lame_duck(&drain, second), registration);
            drain.refuse();
        })
    }

    fn until<F>(&self, stop: F) -> Shutdown
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let (registration, drain) = (self.0.drain(), self.1.clone());
        Box::pin(async move {
            stop.await;
            tokio::join!(drain.lame_duck(), registration);
            drain.refuse();
        })
    }
}

/// Takes calls for `lameDuck`, or until this is enough.
async fn lame_duck(drain: &DrainHandle, enough: impl Future<Output = ()>) {
    tokio::select! {
        () = drain.lame_duck() => {}
        () = enough => {}
    }
}

/// Listens from this call on, and completes at the second signal.
fn second_signal() -> impl Future<Output = ()> + Send + 'static {
    let mut signals = Signals::listen();
    async move {
        // It hears the first one too.
        signals.next().await;
        signals.next().await;
        tracing::info!("a second signal ends the drain time");
    }
}

/// The signals that ask a process to end.
#[cfg(unix)]
struct Signals {
    terminate: Option<Signal>,
    interrupt: Option<Signal>,
}

/// The signal that asks a process to end.
#[cfg(not(unix))]
struct Signals;

// ===== impl Signals =====

#[cfg(unix)]
impl Signals {
    fn listen() -> Self {
        let listen = |kind, signal| {
            let listening = tokio::signal::unix::signal(kind);
            listening
                .inspect_err(|error| tracing::error!(signal, %error, "cannot be listened for"))
                .ok()
        };
        Self {
            terminate: listen(SignalKind::terminate(), "SIGTERM"),
            interrupt: listen(SignalKind::interrupt(), "SIGINT"),
        }
    }

    /// The name of the next signal.
    async fn next(&mut self) -> &'static str {
        let one = async |signal: &mut Option<Signal>| match signal {
            Some(signal) => signal.recv().await,
            None => std::future::pending().await,
        };
        tokio::select! {
            _ = one(&mut self.terminate) => "SIGTERM",
            _ = one(&mut self.interrupt) => "SIGINT",
        }
    }
}

#[cfg(not(unix))]
impl Signals {
    fn listen() -> Self {
        Self
    }

    async fn next(&mut self) -> &'static str {
        if let Err(error) = tokio::signal::ctrl_c().await {
            tracing::error!(%error, "Ctrl-C cannot be listened for");
            std::future::pending::<()>().await;
        }
        "Ctrl-C"
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::time::{Instant, sleep};
    use tower_mesh_discovery::{
        instance::{Instance, Status},
        register::RegisterConfig,
        registry::{MemoryRegistry, Registry},
    };
    use tower_mesh_layers::drain::{DrainLayer, DrainState};

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_server_stops_when_the_drain_time_after_its_reason_is_over() {
        let memory = MemoryRegistry::new();
        let instance = Instance::at("orders", "http://10.0.0.1:80".parse().unwrap());
        let registration = Registry::writable(memory.clone())
            .register(instance, RegisterConfig::default())
            .unwrap();
        registration.registered().await;
        let start = Instant::now();
        let shutdown = tokio::spawn(registration.until(sleep(Duration::from_secs(60))));
        sleep(Duration::from_secs(61)).await;
        assert_eq!(memory.instances("orders")[0].status, Status::Draining);
        shutdown.await.unwrap();
        let took = start.elapsed().as_secs_f64();
        assert!((65.0..65.1).contains(&took), "{took}");
        registration.close().await.unwrap();
        assert_eq!(memory.instances("orders").len(), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn new_calls_are_refused_when_both_the_drain_time_and_the_lame_duck_are_over() {
        for (lame_duck, refuses_after) in [(3, 5.0), (8, 8.0)] {
            let memory = MemoryRegistry::new();
            let instance = Instance::at("orders", "http://10.0.0.1:80".parse().unwrap());
            let registration = Registry::writable(memory.clone())
                .register(instance, RegisterConfig::default())
                .unwrap();
            registration.registered().await;
            let layer = DrainLayer::builder().lame_duck(Duration::from_secs(lame_duck));
            let drain = layer.build().unwrap().handle();
            let start = Instant::now();
            let shutdown = tokio::spawn((&registration, &drain).until(async {}));
            drain.reached(DrainState::LameDuck).await;
            sleep(Duration::from_secs(1)).await;
            assert_eq!(memory.instances("orders")[0].status, Status::Draining);
            assert_eq!(drain.state(), DrainState::LameDuck);
            shutdown.await.unwrap();
            assert!(drain.state() >= DrainState::Draining);
            let took = start.elapsed().as_secs_f64();
            assert!(
                (refuses_after..refuses_after + 0.1).contains(&took),
                "{took}"
            );
            registration.close().await.unwrap();
        }
    }

    #[tokio::test(start_paused = true)]
    async fn without_a_registry_the_lame_duck_is_what_is_waited_for() {
        let layer = DrainLayer::builder().lame_duck(Duration::from_secs(7));
        let drain = layer.build().unwrap().handle();
        let start = Instant::now();
        drain.until(async {}).await;
        assert_eq!(start.elapsed(), Duration::from_secs(7));
        assert_eq!(drain.state(), DrainState::Drained);
    }
}
