//! A caller's place in the line for a lane.

use std::{
    fmt,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use parking_lot::Mutex;
use tokio::{sync::oneshot, time::Instant};
use tower_mesh_layers::transport::TransportError;

use super::{super::lane::Lane, Granted, Pool};

const CLOSED: &str = "the peer closed the connection at once";

/// How many connections that are closed when we get them are one bad peer and no coincidence. Trying
/// on could go on for ever.
const MAX_CLOSED: u8 = 3;

/// A caller's place in the line for a lane, and then the lane.
#[derive(Debug, Default)]
pub(in super::super) struct Reservation {
    stage: Stage,
    /// Lanes in a row that were closed when they came.
    closed: u8,
}

#[derive(Debug, Default)]
enum Stage {
    #[default]
    None,
    Waiting(oneshot::Receiver<Granted>),
    Looking(Look),
    Held(Lane),
}

/// A look at a connection that was idle for a while.
///
/// The peer may have closed it, and the runtime not have seen it yet: a socket's events are read only
/// between tasks. A request that is written to such a connection is lost, and since hyper did write
/// it, nobody can say that it was not sent. So the task yields once, which makes the runtime read
/// what has happened, and the connection's own task runs before the lane is used.
struct Look {
    lane: Lane,
    turn: Mutex<Turn>,
}

type Turn = Pin<Box<dyn Future<Output = ()> + Send>>;

// ===== impl Reservation =====

impl Reservation {
    /// A lane that was idle, or a new one.
    pub(super) fn of(mut lane: Lane) -> Self {
        let stage = match lane.was_quiet(Instant::now()) {
            true => Stage::Looking(Look::new(lane)),
            false => Stage::Held(lane),
        };
        Self { stage, closed: 0 }
    }

    pub(super) fn waiting(waiting: oneshot::Receiver<Granted>) -> Self {
        Self {
            stage: Stage::Waiting(waiting),
            closed: 0,
        }
    }

    /// Reserves a lane of `pool`; ready with `Ok` when it is held.
    pub(in super::super) fn poll_hold(
        &mut self,
        pool: &Arc<Pool>,
        cx: &mut Context<'_>,
    ) -> Poll<Result<(), TransportError>> {
        loop {
            match &mut self.stage {
                Stage::None => self.stage = pool.reserve().stage,
                Stage::Held(lane) => {
                    if lane.is_ready() {
                        self.closed = 0;
                        return Poll::Ready(Ok(()));
                    }
                    // Nothing was sent, so another one will do.
                    self.release(pool);
                    self.closed += 1;
                    if self.closed >= MAX_CLOSED {
                        self.closed = 0;
                        return Poll::Ready(Err(TransportError::connect(CLOSED)));
                    }
                }
                Stage::Looking(look) => {
                    ready!(look.turn.get_mut().as_mut().poll(cx));
                    if let Stage::Looking(mut look) = std::mem::take(&mut self.stage) {
                        if look.lane.is_ready() {
                            self.stage = Stage::Held(look.lane);
                        } else {
                            pool.put(look.lane);
                        }
                    }
                }
                Stage::Waiting(waiting) => {
                    let granted = ready!(Pin::new(waiting).poll(cx));
                    self.stage = match granted {
                        Ok(Ok(lane)) => Stage::Held(lane),
                        // The line lost our place, which happens only when the attempt panicked.
                        Err(_) => Stage::None,
                        Ok(Err(error)) => {
                            self.stage = Stage::None;
                            return Poll::Ready(Err(error.into()));
                        }
                    };
                }
            }
        }
    }

    /// The lane, if it is held.
    pub(in super::super) fn take(&mut self) -> Option<Lane> {
        match std::mem::take(&mut self.stage) {
            Stage::Held(lane) => Some(lane),
            other => {
                self.stage = other;
                None
            }
        }
    }

    /// Gives back what was reserved and not used.
    pub(in super::super) fn release(&mut self, pool: &Arc<Pool>) {
        match std::mem::take(&mut self.stage) {
            Stage::None => {}
            Stage::Held(lane) | Stage::Looking(Look { lane, .. }) => pool.put(lane),
            Stage::Waiting(mut waiting) => {
                // A lane may have been granted that we did not see yet.
                waiting.close();
                if let Ok(Ok(lane)) = waiting.try_recv() {
                    pool.put(lane);
                }
            }
        }
    }
}

// ===== impl Look =====

impl Look {
    fn new(lane: Lane) -> Self {
        Self {
            lane,
            turn: Mutex::new(Box::pin(tokio::task::yield_now())),
        }
    }
}

impl fmt::Debug for Look {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Look").field(&self.lane).finish()
    }
}
