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

mod reservation;
mod status;

use std::{
    collections::VecDeque,
    sync::{
        Arc, Weak,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
};

use hyper::client::conn::http2;
use parking_lot::Mutex;
use tokio::{runtime::Handle, sync::oneshot, time};

use self::status::Status;
pub(super) use self::{reservation::Reservation, status::Open};
use super::{
    super::{Body, Connectivity},
    connect::{ConnectError, Connection, Connector},
    handover::Handover,
    lane::{Lane, Speaks},
    target::Target,
};

type Granted = Result<Lane, ConnectError>;

/// The connections of one endpoint. See the [module](self).
#[derive(Debug)]
pub(super) struct Pool {
    connector: Arc<Connector>,
    target: Target,
    state: Mutex<State>,
    status: Arc<Status>,
}

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
    handover: Arc<Handover>,
    /// Lanes that exist, idle ones included.
    lanes: usize,
    /// How many streams the peer allows at once.
    limit: Arc<AtomicUsize>,
    /// The last round in which a lane of it was made or dropped.
    epoch: u32,
}

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
        self.status.connectivity()
    }

    #[cfg(test)]
    pub(super) fn idle(&self) -> usize {
        self.state.lock().idle.len()
    }

    /// What is on the books when nobody calls: lanes of live HTTP/2 connections that are not idle,
    /// callers in line, attempts under way.
    #[cfg(test)]
    pub(super) fn unsettled(&self) -> (usize, usize, usize) {
        let mut state = self.state.lock();
        state
            .multiplexed
            .retain(|connection| !connection.sender.is_closed());
        let lanes: usize = state
            .multiplexed
            .iter()
            .map(|connection| connection.lanes)
            .sum();
        let live = |lane: &&Lane| {
            state
                .multiplexed
                .iter()
                .any(|c| Some(c.id) == lane.connection())
        };
        let idle = state.idle.iter().filter(live).count();
        (lanes - idle, state.waiting.len(), state.connecting)
    }

    /// Takes an idle lane, or a place in the line and starts to connect.
    fn reserve(self: &Arc<Self>) -> Reservation {
        let mut state = self.state.lock();
        if let Some(lane) = state.take() {
            drop(state);
            return Reservation::of(lane);
        }
        let (granted, waiting) = oneshot::channel();
        state.waiting.push_back(granted);
        let attempts = state.attempts(self.connector.max_connections());
        drop(state);
        self.connect(attempts);
        Reservation::waiting(waiting)
    }

    /// Starts so many attempts to connect.
    ///
    /// Not under the lock: a runtime that is shutting down drops the task at once, here, and the
    /// attempt takes the lock to say so.
    fn connect(self: &Arc<Self>, attempts: usize) {
        // All of them first, so that each is accounted for even if spawning panics.
        let attempts: Vec<_> = (0..attempts).map(|_| Attempt::new(self)).collect();
        for attempt in attempts {
            let connector = self.connector.clone();
            let open = Open::new(&self.status);
            tokio::spawn(async move { attempt.finish(connector.connect(open).await) });
        }
    }

    fn connected(self: &Arc<Self>, connection: Connection) {
        self.status.refused(false);
        let mut state = self.state.lock();
        state.connecting -= 1;
        match connection {
            Connection::Http1 { sender, handover } => {
                state.speaks = Some(Speaks::Http1);
                self.grant(&mut state, Lane::http1(sender, handover));
            }
            Connection::Http2 {
                sender,
                handover,
                limit,
            } => {
                state.speaks = Some(Speaks::Http2);
                state.multiplex(sender, handover, limit);
                state.serve();
                self.reap(&mut state);
            }
        }
        let attempts = state.attempts(self.connector.max_connections());
        drop(state);
        self.connect(attempts);
    }

    fn refused(self: &Arc<Self>, error: &ConnectError) {
        self.status.refused(true);
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
        if state.waiting.is_empty() {
            return;
        }
        state.serve();
        let attempts = state.attempts(self.connector.max_connections());
        drop(state);
        // A body may be dropped anywhere, also where nothing can be spawned.
        if Handle::try_current().is_ok() {
            self.connect(attempts);
        } else {
            self.state.lock().connecting -= attempts;
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

    /// How many more attempts to connect the callers in line need; counts them as under way.
    fn attempts(&mut self, max_connections: usize) -> usize {
        self.waiting.retain(|waiting| !waiting.is_closed());
        let wanted = match self.speaks {
            Some(Speaks::Http1) => self.waiting.len(),
            // One connection may serve them all, so the second waits for what the first one finds.
            _ if self.multiplexed.len() < max_connections => self.waiting.len().min(1),
            _ => 0,
        };
        let more = wanted.saturating_sub(self.connecting);
        self.connecting += more;
        more
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
        Some(Lane::http2(
            connection.sender.clone(),
            connection.handover.clone(),
            connection.id,
        ))
    }

    fn multiplex(
        &mut self,
        sender: http2::SendRequest<Body>,
        handover: Arc<Handover>,
        limit: Arc<AtomicUsize>,
    ) {
        self.connections += 1;
        let (id, epoch) = (self.connections, self.epoch);
        self.multiplexed.push(Multiplexed {
            id,
            sender,
            handover,
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

// ===== impl Attempt =====

/// An attempt to connect, which tells the pool how it ended even if its task is dropped.
struct Attempt {
    pool: Weak<Pool>,
    pending: bool,
}

impl Attempt {
    fn new(pool: &Arc<Pool>) -> Self {
        Self {
            pool: Arc::downgrade(pool),
            pending: true,
        }
    }

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
