//! Leaving, and waiting for the end.

use std::{fmt, future::IntoFuture, sync::Arc};

use tokio::time::{Instant, sleep, sleep_until};

use super::{
    course::{Course, DrainState},
    layer::Shared,
};
use crate::vocab::metrics::Registered;

/// To start leaving, and to wait for the end. Clones are handles to the same layer.
#[derive(Clone)]
pub struct DrainHandle {
    shared: Arc<Registered<Shared>>,
}

/// A reading of a drain layer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct DrainStats {
    /// How far the process is on its way out.
    pub state: DrainState,
    /// Calls whose response body has not ended.
    pub in_flight: u64,
    /// Calls that were refused.
    pub refused: u64,
}

/// The limit is over, and calls are still in flight.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{calls} calls are still in flight at the end of the drain limit")]
#[non_exhaustive]
pub struct StillInFlight {
    /// How many; 0 where only connections are left.
    pub calls: u64,
}

// ===== impl DrainHandle =====

impl DrainHandle {
    pub(super) fn new(shared: Arc<Registered<Shared>>) -> Self {
        Self { shared }
    }

    /// Starts to leave: calls are taken for `lameDuck` and then refused. Does nothing the second time.
    pub fn start(&self) {
        let (lame_duck, limit) = self.shared.times();
        self.shared.tell();
        self.shared
            .change(|course| course.start(Instant::now(), lame_duck, limit));
    }

    /// Asks callers to go elsewhere, and waits for `lameDuck`. Calls are taken until [`refuse`](Self::refuse): for
    /// something else that has to be waited for, such as callers that learn of it from a registry.
    ///
    /// The first part is done at once, and not when the future is polled.
    pub fn lame_duck(&self) -> impl Future<Output = ()> + Send + 'static {
        let (time, _) = self.shared.times();
        self.shared.tell();
        self.shared.change(Course::lame_duck);
        sleep(time)
    }

    /// Refuses new calls from now on.
    pub fn refuse(&self) {
        let (_, limit) = self.shared.times();
        self.shared.tell();
        self.shared
            .change(|course| course.refuse(Instant::now(), limit));
    }

    /// How far the process is on its way out.
    pub fn state(&self) -> DrainState {
        self.shared.state()
    }

    /// Waits until the process is as far as that, or further.
    pub async fn reached(&self, state: DrainState) {
        match state {
            DrainState::Serving => {}
            DrainState::LameDuck => {
                let mut courses = self.shared.course.subscribe();
                let leaves = courses.wait_for(|course| *course != Course::Serving);
                // The sender is in the state that this holds.
                let _ = leaves.await;
            }
            DrainState::Draining => {
                self.refusing().await;
            }
            DrainState::Drained => {
                let _ = self.drained().await;
            }
        }
    }

    /// Waits until new calls are refused and none is in flight.
    ///
    /// # Errors
    ///
    /// When calls are still in flight at the end of the limit.
    pub async fn drained(&self) -> Result<(), StillInFlight> {
        let until = self.refusing().await;
        let limit = sleep_until(until);
        tokio::pin!(limit);
        loop {
            let ended = self.shared.ended.notified();
            tokio::pin!(ended);
            // Before the look, or the last end might come in between.
            ended.as_mut().enable();
            let calls = self.shared.in_flight();
            if calls == 0 {
                return Ok(());
            }
            tokio::select! {
                () = ended => {}
                () = limit.as_mut() => return self.left(),
            }
        }
    }

    /// Runs a server to its end, but no longer than the limit once new calls are refused.
    ///
    /// A server that is told to stop gracefully waits for its connections without end. And that all calls have
    /// [ended](Self::drained) does not mean that all is sent.
    ///
    /// ```no_run
    /// # #[cfg(feature = "axum")]
    /// # async fn serve(listener: tokio::net::TcpListener) -> Result<(), Box<dyn std::error::Error>> {
    /// use axum::Router;
    /// use tower_mesh_layers::drain::{DrainLayer, DrainState};
    ///
    /// let layer = DrainLayer::default();
    /// let drain = layer.handle();
    /// let stop = { let drain = drain.clone(); async move { drain.reached(DrainState::Draining).await } };
    /// let server = axum::serve(listener, Router::new().layer(layer)).with_graceful_shutdown(stop);
    /// drain.bound(server).await??;
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    ///
    /// When the server is not done at the end of the limit. It is dropped.
    pub async fn bound<F: IntoFuture>(&self, server: F) -> Result<F::Output, StillInFlight> {
        let limit = async {
            let until = self.refusing().await;
            sleep_until(until).await;
        };
        tokio::select! {
            biased;
            output = server.into_future() => Ok(output),
            () = limit => Err(StillInFlight {
                calls: self.in_flight(),
            }),
        }
    }

    /// Calls whose response body has not ended.
    pub fn in_flight(&self) -> u64 {
        self.shared.in_flight()
    }

    /// What the layer has counted, and where it is.
    pub fn stats(&self) -> DrainStats {
        DrainStats {
            state: self.state(),
            in_flight: self.in_flight(),
            refused: self.shared.refused.sum(),
        }
    }

    /// Waits until new calls are refused, and says until when those in flight have.
    async fn refusing(&self) -> Instant {
        let mut courses = self.shared.course.subscribe();
        loop {
            courses.mark_unchanged();
            let time = match self.shared.course_now() {
                Course::Refusing { until } => return until,
                Course::Serving | Course::LameDuck { until: None } => None,
                Course::LameDuck { until } => until.map(|(until, _)| until),
            };
            tokio::select! {
                _ = courses.changed() => {}
                () = at(time) => {}
            }
        }
    }

    fn left(&self) -> Result<(), StillInFlight> {
        match self.in_flight() {
            0 => Ok(()),
            calls => Err(StillInFlight { calls }),
        }
    }
}

/// Waits for a time that may never come.
async fn at(time: Option<Instant>) {
    match time {
        Some(time) => sleep_until(time).await,
        None => std::future::pending().await,
    }
}

impl fmt::Debug for DrainHandle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.stats().fmt(f)
    }
}
