//! Serving until it is time to go, without a call that fails for it.
//!
//! A server that only stops surprises its callers: they know it for a while longer. So first it is
//! marked as draining in the registry, serves on until the callers have turned to other instances (the
//! `drain` time of [`RegisterConfig`](crate::discovery::register::RegisterConfig)), then takes no new
//! calls and finishes those that it has, and at last leaves the registry:
//!
//! ```text
//!  SIGTERM      drain time over        calls in flight are done      close()
//!  ───┬──────────────┬─────────────────────────────┬───────────────────┬────
//!  up │   draining   │           draining          │      draining     │ gone
//!     │ takes calls  │  refuses new, finishes old  │
//! ```
//!
//! [`GracefulShutdown::until_signal`] is the future that axum, tonic and others take for this:
//!
//! ```no_run
//! use axum::{Router, routing::get};
//! use tower_mesh::{
//!     discovery::{instance::Instance, register::RegisterConfig, registry::RegistryUrl},
//!     serve::GracefulShutdown,
//! };
//!
//! # #[tokio::main]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let app = Router::new().route("/", get(|| async { "hello" }));
//! let listener = tokio::net::TcpListener::bind("10.0.0.1:8080").await?;
//!
//! // Now that it listens:
//! let registry = "file:./registry.yaml".parse::<RegistryUrl>()?.open();
//! let instance = Instance::at("orders", "http://10.0.0.1:8080".parse()?);
//! let registration = registry.register(instance, RegisterConfig::default())?;
//!
//! axum::serve(listener, app)
//!     .with_graceful_shutdown(registration.until_signal())
//!     .await?;
//! registration.close().await?;
//! # Ok(())
//! # }
//! ```
//!
//! With tonic it is `Server::builder().add_service(..).serve_with_shutdown(addr,
//! registration.until_signal())`, and the same `close` after it.
//!
//! How long calls in flight may take is the server's to say: a `tokio::time::timeout` around it bounds
//! the whole, and so does the `terminationGracePeriodSeconds` of Kubernetes, which has to be longer than
//! the drain time.

use std::{future::Future, pin::Pin};

#[cfg(unix)]
use tokio::signal::unix::{Signal, SignalKind};
use tower_mesh_discovery::register::Registration;

/// Completes when a server is to take no new calls any more.
pub type Shutdown = Pin<Box<dyn Future<Output = ()> + Send>>;

/// Ties a [`Registration`] to the graceful shutdown of a server. See the [module](self).
pub trait GracefulShutdown {
    /// Waits for SIGTERM or SIGINT (elsewhere than on Unix: Ctrl-C), then marks the instance as
    /// draining and waits for the drain time. A second signal ends the drain time.
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
        let (mut first, mut second) = (Signals::listen(), Signals::listen());
        let drain = self.drain_until(async move {
            // It hears the first one too.
            second.next().await;
            second.next().await;
            tracing::info!("a second signal ends the drain time");
        });
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
}
