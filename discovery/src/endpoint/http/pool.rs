//! The connections of one endpoint.
//!
//! ```text
//!                 take                          put, when the response's body ended
//!   idle lanes ---------> reserved -> in use -------------------------------------> idle lanes
//!       ^                    ^                                                          |
//!       |   a lane for each  |  none idle: wait for the first that comes                | unused for
//!       +--- new connection -+  (one put back, or a new connection's)                   v the idle time
//!                                                                                     closed
//! ```
//!
//! A caller that finds no lane waits in line, and a task of its own connects. When the caller goes
//! away meanwhile, the connection is made all the same and serves the next one: a connect timeout
//! that is longer than the callers' patience must not mean that nobody ever connects.

use std::{
    collections::VecDeque,
    fmt,
    pin::Pin,
    sync::{
        Arc, Weak,
        atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed},
    },
    task::{Context, Poll, ready},
};

use hyper::client::conn::http2;
use parking_lot::Mutex;
use tokio::{
    runtime::Handle,
    sync::oneshot,
    time::{self, Instant},
};
use tower_mesh_layers::transport::TransportError;

use super::{
    super::{Body, Connectivity},
    connect::{ConnectError, Connection, Connector},
    lane::{Lane, Speaks},
    target::Target,
};

const CLOSED: &str = "the peer closed the connection at once";

type Granted = Result<Lane, ConnectError>;

/// The connections of one endpoint. See the [module](self).
#[derive(Debug)]
pub(super) struct Pool {
    connector: Arc<Connector>,
    target: Target,
    state: Mutex<State>,
    status: Arc<Status>,
}

/// What is known about the connections without the pool's lock.
#[derive(Debug, Default)]
pub(super) struct Status {
    open: AtomicUsize,
    refused: AtomicBool,
}

/// Counts a connection as open while it lives.
#[derive(Debug)]
pub(super) struct Open(Arc<Status>);

#[derive(Debug, Default)]
struct State {
    /// The one used last is at the end and is used next, so that the others can grow old.
    idle: Vec<Lane>,
    multiplexed: Vec<Multiplexed>,
    waiting: VecDeque<oneshot::Sender<Granted>>,
    /// Attempts to connect that are under way.
    connecting: usize,
    /// What the last connection spoke; not known before the first one.
    speaks: Option<Speaks>,
    /// Counts the reaper's rounds. Lanes carry the round in which they were put back, which costs no
    /// reading of a clock per request.
    epoch: u32,
    reaping: bool,
    connections: u64,
}

/// An HTTP/2 connection, which has many lanes.
#[derive(Debug)]
struct Multiplexed {
    id: u64,
    sender: http2::SendRequest<Body>,
    /// Lanes that exist, idle ones included.
    lanes: usize,
    /// How many streams the peer allows at once.
    limit: Arc<AtomicUsize>,
    /// The last round in which a lane of it was made or dropped.
    epoch: u32,
}

/// A place in the line for a lane.
#[derive(Debug, Default)]
pub(super) enum Reservation {
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
pub(super) struct Look {
    lane: Lane,
    turn: Mutex<Turn>,
}

type Turn = Pin<Box<dyn Future<Output = ()> + Send>>;

// ===== impl Pool =====

impl Pool {
    pub(super) fn new(connector: Connector, target: Target) -> Self {
        // With TLS it is for the peer to choose.
        let speaks = connector.tls.is_none().then_some(connector.speaks);
        Self {
            connector: Arc::new(connector),
            target,
            state: Mutex::new(State {
                speaks,
                ..State::default()
            }),
            status: Arc::default(),
        }
    }

    pub(super) fn connector(&self) -> &Connector {
        &self.connector
    }

    pub(super) fn target(&self) -> &Target {
        &self.target
    }

    pub(super) fn connectivity(&self) -> Connectivity {
        if self.status.open.load(Relaxed) > 0 {
            Connectivity::Ready
        } else if self.status.refused.load(Relaxed) {
            Connectivity::TransientFailure
        } else {
            Connectivity::Idle
        }
    }

    #[cfg(test)]
    pub(super) fn idle(&self) -> usize {
        self.state.lock().idle.len()
    }

    /// Takes an idle lane, or a place in the line and starts to connect.
    fn reserve(self: &Arc<Self>) -> Reservation {
        let mut state = self.state.lock();
        if let Some(mut lane) = state.take() {
            drop(state);
            return match lane.was_quiet(Instant::now()) {
                true => Reservation::Looking(Look::new(lane)),
                false => Reservation::Held(lane),
            };
        }
        let (granted, waiting) = oneshot::channel();
        state.waiting.push_back(granted);
        self.connect(&mut state);
        Reservation::Waiting(waiting)
    }

    /// Starts as many attempts to connect as the callers in line need.
    fn connect(self: &Arc<Self>, state: &mut State) {
        state.waiting.retain(|waiting| !waiting.is_closed());
        let wanted = match state.speaks {
            Some(Speaks::Http1) => state.waiting.len(),
            // One connection may serve them all, so the second waits for what the first one finds.
            _ if state.multiplexed.len() < self.connector.max_connections() => {
                state.waiting.len().min(1)
            }
            _ => 0,
        };
        while state.connecting < wanted {
            state.connecting += 1;
            let attempt = Attempt {
                pool: Arc::downgrade(self),
                pending: true,
            };
            let connector = self.connector.clone();
            let open = Open::new(&self.status);
            tokio::spawn(async move { attempt.finish(connector.connect(open).await) });
        }
    }

    fn connected(self: &Arc<Self>, connection: Connection) {
        self.status.refused.store(false, Relaxed);
        let mut state = self.state.lock();
        state.connecting -= 1;
        match connection {
            Connection::Http1(sender) => {
                state.speaks = Some(Speaks::Http1);
                self.grant(&mut state, Lane::http1(sender));
            }
            Connection::Http2 { sender, limit } => {
                state.speaks = Some(Speaks::Http2);
                state.multiplex(sender, limit);
                state.serve();
                self.reap(&mut state);
            }
        }
        self.connect(&mut state);
    }

    fn refused(self: &Arc<Self>, error: &ConnectError) {
        self.status.refused.store(true, Relaxed);
        tracing::debug!(error = %error, endpoint = %self.connector, "cannot connect");
        let mut state = self.state.lock();
        state.connecting -= 1;
        state
            .multiplexed
            .retain(|connection| !connection.sender.is_closed());
        if !state.multiplexed.is_empty() {
            return; // a stream will be free some time
        }
        state.waiting.retain(|waiting| !waiting.is_closed());
        while state.waiting.len() > state.connecting {
            if let Some(waiting) = state.waiting.pop_front() {
                let _ = waiting.send(Err(error.clone()));
            }
        }
    }

    /// Takes a lane back whose exchange is over.
    pub(super) fn put(self: &Arc<Self>, mut lane: Lane) {
        if lane.is_ready() {
            let mut state = self.state.lock();
            self.grant(&mut state, lane);
        } else if lane.is_closed() {
            self.forget(lane);
        } else {
            self.settle(lane);
        }
    }

    /// Drops a lane that cannot be used again.
    pub(super) fn forget(self: &Arc<Self>, lane: Lane) {
        let mut state = self.state.lock();
        state.forget(&lane);
        // The callers in line may have been waiting for this very lane.
        if !state.waiting.is_empty() {
            state.serve();
            self.connect(&mut state);
        }
    }

    /// Waits for the end of an exchange whose response is over, but not its request: the peer
    /// answered before it had read everything, or hyper is a moment behind us.
    fn settle(self: &Arc<Self>, mut lane: Lane) {
        let pool = Arc::downgrade(self);
        // A body may be dropped anywhere; without a runtime the connection just closes.
        let Ok(runtime) = Handle::try_current() else {
            return;
        };
        runtime.spawn(async move {
            let ready = std::future::poll_fn(|cx| lane.poll_ready(cx)).await;
            if let (true, Some(pool)) = (ready, pool.upgrade()) {
                let mut state = pool.state.lock();
                pool.grant(&mut state, lane);
            }
        });
    }

    /// Gives a lane to the first in line, or keeps it.
    fn grant(self: &Arc<Self>, state: &mut State, mut lane: Lane) {
        while let Some(waiting) = state.waiting.pop_front() {
            match waiting.send(Ok(lane)) {
                Ok(()) => return,
                // Gone meanwhile; what was sent comes back.
                Err(Ok(back)) => lane = back,
                Err(Err(_)) => return,
            }
        }
        if state.idle.len() < self.connector.max_idle() {
            lane.epoch = state.epoch;
            state.idle.push(lane);
            self.reap(state);
        } else {
            state.forget(&lane);
        }
    }

    /// Starts the task that closes what was not used for the idle time.
    fn reap(self: &Arc<Self>, state: &mut State) {
        if state.reaping {
            return;
        }
        let Ok(runtime) = Handle::try_current() else {
            return;
        };
        state.reaping = true;
        let round = self.connector.idle_timeout() / 2;
        let pool = Arc::downgrade(self);
        runtime.spawn(async move {
            loop {
                time::sleep(round).await;
                match pool.upgrade() {
                    Some(pool) if pool.state.lock().reap() => {}
                    _ => return,
                }
            }
        });
    }
}

// ===== impl State =====

impl State {
    /// A lane on which a request can be sent at once.
    fn take(&mut self) -> Option<Lane> {
        while let Some(mut lane) = self.idle.pop() {
            if lane.is_ready() {
                return Some(lane);
            }
            self.forget(&lane);
        }
        self.new_lane()
    }

    /// One more lane of an HTTP/2 connection that has streams left.
    fn new_lane(&mut self) -> Option<Lane> {
        self.multiplexed
            .retain(|connection| !connection.sender.is_closed());
        let connection = self
            .multiplexed
            .iter_mut()
            .find(|connection| connection.has_room())?;
        connection.lanes += 1;
        connection.epoch = self.epoch;
        Some(Lane::http2(connection.sender.clone(), connection.id))
    }

    fn multiplex(&mut self, sender: http2::SendRequest<Body>, limit: Arc<AtomicUsize>) {
        self.connections += 1;
        let (id, epoch) = (self.connections, self.epoch);
        self.multiplexed.push(Multiplexed {
            id,
            sender,
            lanes: 0,
            limit,
            epoch,
        });
    }

    /// Serves the line with new lanes as far as they go.
    fn serve(&mut self) {
        while !self.waiting.is_empty() {
            let Some(mut lane) = self.new_lane() else {
                return;
            };
            loop {
                let Some(waiting) = self.waiting.pop_front() else {
                    self.forget(&lane);
                    break;
                };
                match waiting.send(Ok(lane)) {
                    Err(Ok(back)) => lane = back,
                    _ => break,
                }
            }
        }
    }

    fn forget(&mut self, lane: &Lane) {
        let epoch = self.epoch;
        let of = |connection: &&mut Multiplexed| Some(connection.id) == lane.connection();
        if let Some(connection) = self.multiplexed.iter_mut().find(of) {
            connection.lanes -= 1;
            connection.epoch = epoch;
        }
    }

    /// Closes what was not used for two rounds; `false` when nothing is left to look after.
    fn reap(&mut self) -> bool {
        self.epoch = self.epoch.wrapping_add(1);
        let epoch = self.epoch;
        let old = |then: u32| epoch.wrapping_sub(then) >= 2;
        // The oldest come first.
        let old_lanes = self.idle.iter().take_while(|lane| old(lane.epoch)).count();
        for lane in self.idle.drain(..old_lanes).collect::<Vec<_>>() {
            self.forget(&lane);
        }
        self.multiplexed.retain(|connection| {
            let unused = connection.lanes == 0 && old(connection.epoch);
            !unused && !connection.sender.is_closed()
        });
        self.reaping = !self.idle.is_empty() || !self.multiplexed.is_empty();
        self.reaping
    }
}

// ===== impl Multiplexed =====

impl Multiplexed {
    fn has_room(&self) -> bool {
        // A peer that allows no stream at all for the moment would lock us out: hyper queues.
        self.lanes < self.limit.load(Relaxed).max(1)
    }
}

// ===== impl Reservation =====

impl Reservation {
    /// Reserves a lane of `pool`; ready with `Ok` when it is held.
    pub(super) fn poll_hold(
        &mut self,
        pool: &Arc<Pool>,
        cx: &mut Context<'_>,
    ) -> Poll<Result<(), TransportError>> {
        loop {
            match self {
                Self::None => *self = pool.reserve(),
                Self::Held(lane) => {
                    if lane.is_ready() {
                        return Poll::Ready(Ok(()));
                    }
                    // Closed while it was held: nothing was sent, so another one will do.
                    self.release(pool);
                }
                Self::Looking(look) => {
                    ready!(look.turn.get_mut().as_mut().poll(cx));
                    if let Self::Looking(look) = std::mem::take(self) {
                        *self = Self::Held(look.lane);
                    }
                }
                Self::Waiting(waiting) => {
                    let granted = ready!(Pin::new(waiting).poll(cx));
                    match granted {
                        Ok(Ok(mut lane)) => {
                            let closed = lane.is_closed();
                            *self = Self::Held(lane);
                            if closed {
                                // Trying again here could go on for ever.
                                self.release(pool);
                                return Poll::Ready(Err(TransportError::connect(CLOSED)));
                            }
                        }
                        Ok(Err(error)) => {
                            *self = Self::None;
                            return Poll::Ready(Err(error.into()));
                        }
                        // The line lost our place, which happens only when the attempt panicked.
                        Err(_) => *self = Self::None,
                    }
                }
            }
        }
    }

    /// The lane, if it is held.
    pub(super) fn take(&mut self) -> Option<Lane> {
        match std::mem::take(self) {
            Self::Held(lane) => Some(lane),
            other => {
                *self = other;
                None
            }
        }
    }

    /// Gives back what was reserved and not used.
    pub(super) fn release(&mut self, pool: &Arc<Pool>) {
        match std::mem::take(self) {
            Self::None => {}
            Self::Held(lane) | Self::Looking(Look { lane, .. }) => pool.put(lane),
            Self::Waiting(mut waiting) => {
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

// ===== impl Attempt =====

/// An attempt to connect, which tells the pool how it ended even if its task is dropped.
struct Attempt {
    pool: Weak<Pool>,
    pending: bool,
}

impl Attempt {
    fn finish(mut self, result: Result<Connection, ConnectError>) {
        self.pending = false;
        // Without the pool nobody wants the connection any more.
        let Some(pool) = self.pool.upgrade() else {
            return;
        };
        match result {
            Ok(connection) => pool.connected(connection),
            Err(error) => pool.refused(&error),
        }
    }
}

impl Drop for Attempt {
    fn drop(&mut self) {
        if let (true, Some(pool)) = (self.pending, self.pool.upgrade()) {
            pool.refused(&ConnectError::new("the attempt to connect was dropped"));
        }
    }
}

// ===== impl Open =====

impl Open {
    fn new(status: &Arc<Status>) -> Self {
        Self(status.clone())
    }

    /// Counts from here on.
    pub(super) fn begin(self) -> Opened {
        self.0.open.fetch_add(1, Relaxed);
        Opened(self.0)
    }
}

/// A connection that counts as open.
#[derive(Debug)]
pub(super) struct Opened(Arc<Status>);

impl Drop for Opened {
    fn drop(&mut self) {
        self.0.open.fetch_sub(1, Relaxed);
    }
}
