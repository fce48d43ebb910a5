//! The servers, their queues, and what is known about them.

use std::{
    cmp::Reverse,
    collections::{BinaryHeap, VecDeque},
    future::Future,
    io,
    net::{Ipv4Addr, SocketAddr},
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, Waker},
    time::Duration,
};

use bytes::Bytes;
use fastrand::Rng;
use http::{Request, Response, StatusCode};
use http_body_util::Full;
use parking_lot::Mutex;
use tower_service::Service;

use super::{law::Law, scenario::Scenario};
use crate::{
    instance::{EndpointUrl, Instance, Scheme},
    resolve::{Publisher, Watch, snapshot},
};

/// The name under which all servers are registered.
const SERVICE: &str = "simulated";
/// The first server; the others have the addresses behind it.
const FIRST: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 0);
/// An instance that comes back has the next port.
const PORT: u16 = 8_000;
/// A server that fails at once takes this share of the service time for it.
const FAST: f64 = 0.01;

/// All servers, and the registry that names them. Clones share them.
#[derive(Clone)]
pub struct World {
    state: Arc<Mutex<State>>,
    watch: Watch,
}

struct State {
    now: Duration,
    rng: Rng,
    law: Law,
    service_time: Duration,
    workers: usize,
    machines: Vec<Machine>,
    due: BinaryHeap<Reverse<Due>>,
    publisher: Publisher,
    /// Numbers what is due, so that what is due at one time comes in order.
    order: u64,
    /// Calls that came before are not counted.
    counted_from: Duration,
    arrived: Arrived,
}

/// The calls that servers have seen.
#[derive(Clone, Copy, Default)]
pub(super) struct Arrived {
    pub(super) all: u64,
    /// Those at servers that were slow, failing or gone.
    pub(super) troubled: u64,
}

/// A server from within.
struct Machine {
    condition: Condition,
    /// How many times as long as the others it takes.
    slowness: f64,
    working: Vec<Arc<Call>>,
    waiting: VecDeque<Arc<Call>>,
    /// As the registry names it; `None` while it does not.
    instance: Option<Arc<Instance>>,
    incarnation: u16,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Condition {
    Up,
    FailsFast,
    Down,
}

/// A call at a server.
struct Call {
    state: Mutex<(Progress, Option<Waker>)>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Progress {
    Waiting,
    Answered(StatusCode),
    Broken,
}

/// A server will be done with a call.
struct Due {
    at: Duration,
    order: u64,
    machine: usize,
    call: Arc<Call>,
}

/// A server as clients see it: a service whose answers come when the simulation has got there.
#[derive(Clone)]
pub struct Server {
    world: World,
    index: usize,
}

/// Why a server cannot be called: what a connection to it would say.
pub type Refused = io::Error;

/// The answer of a [`Server`].
pub struct Answer(Result<Arc<Call>, io::ErrorKind>);

// ===== impl World =====

impl World {
    pub(super) fn new(scenario: &Scenario, seed: u64) -> Self {
        let (publisher, watch) = Watch::channel(SERVICE);
        let state = State {
            now: Duration::ZERO,
            rng: Rng::with_seed(seed),
            law: scenario.law,
            service_time: scenario.service_time,
            workers: scenario.workers,
            machines: (0..scenario.servers).map(Machine::new).collect(),
            due: BinaryHeap::new(),
            publisher,
            order: 0,
            counted_from: scenario.warm_up,
            arrived: Arrived::default(),
        };
        state.publish();
        Self {
            state: Arc::new(Mutex::new(state)),
            watch,
        }
    }

    /// What the registry says, as it changes.
    pub fn watch(&self) -> Watch {
        self.watch.clone()
    }

    /// The server behind an instance.
    ///
    /// # Panics
    ///
    /// If the instance is none of this world's.
    pub fn server(&self, instance: &Instance) -> Server {
        let address = instance
            .endpoints
            .first()
            .and_then(EndpointUrl::socket_addr);
        let Some(SocketAddr::V4(address)) = address else {
            panic!("{} is no simulated server", instance.id);
        };
        Server {
            world: self.clone(),
            index: (address.ip().to_bits() - FIRST.to_bits()) as usize,
        }
    }

    /// The server that will be done first with one more call.
    pub fn best(&self) -> Option<Server> {
        let state = &mut *self.state.lock();
        let mut best: Option<(f64, usize, u32, usize)> = None;
        for (index, machine) in state.machines.iter().enumerate() {
            if machine.instance.is_none() || machine.condition != Condition::Up {
                continue;
            }
            let there = machine.working.len() + machine.waiting.len();
            let turns = ((there + 1) as f64 / state.workers as f64).max(1.0);
            let new = (turns * machine.slowness, there, state.rng.u32(..), index);
            if best.is_none_or(|best| new < best) {
                best = Some(new);
            }
        }
        best.map(|(.., index)| Server {
            world: self.clone(),
            index,
        })
    }

    pub(super) fn at(&self, now: Duration) {
        self.state.lock().now = now;
    }

    pub(super) fn next_due(&self) -> Option<Duration> {
        self.state.lock().due.peek().map(|Reverse(due)| due.at)
    }

    /// Finishes what is due first.
    pub(super) fn finish_next(&self) {
        let wake = {
            let state = &mut *self.state.lock();
            let Some(Reverse(due)) = state.due.pop() else {
                return;
            };
            state.finish(&due)
        };
        // Not under the lock: who is woken may call again.
        wake.into_iter().for_each(Waker::wake);
    }

    /// Draws other servers that are slow.
    pub(super) fn slow_down(&self, servers: usize, factor: f64) {
        let state = &mut *self.state.lock();
        let mut order: Vec<usize> = (0..state.machines.len()).collect();
        state.rng.shuffle(&mut order);
        for (place, index) in order.into_iter().enumerate() {
            state.machines[index].slowness = if place < servers { factor } else { 1.0 };
        }
    }

    pub(super) fn fail_fast(&self, index: usize) {
        self.state.lock().machines[index].condition = Condition::FailsFast;
    }

    /// The server leaves the registry, and finishes what it has.
    pub(super) fn leave(&self, index: usize) {
        let state = &mut *self.state.lock();
        state.machines[index].instance = None;
        state.publish();
    }

    /// The server is there again, as another instance.
    pub(super) fn come_back(&self, index: usize) {
        let state = &mut *self.state.lock();
        let machine = &mut state.machines[index];
        machine.incarnation += 1;
        machine.instance = Some(instance(index, machine.incarnation));
        state.publish();
    }

    /// The servers are gone, with all they had.
    pub(super) fn lose(&self, indices: std::ops::Range<usize>) {
        let mut lost = Vec::new();
        {
            let state = &mut *self.state.lock();
            for machine in &mut state.machines[indices] {
                machine.condition = Condition::Down;
                lost.append(&mut machine.working);
                lost.extend(machine.waiting.drain(..));
            }
        }
        let wakers = lost.iter().filter_map(|call| call.end(Progress::Broken));
        wakers.for_each(Waker::wake);
    }

    pub(super) fn arrived(&self) -> Arrived {
        self.state.lock().arrived
    }
}

// ===== impl State =====

impl State {
    fn publish(&self) {
        let there = self
            .machines
            .iter()
            .filter_map(|machine| machine.instance.clone());
        self.publisher.publish(snapshot(there));
    }

    fn take_in(&mut self, index: usize) -> Result<Arc<Call>, io::ErrorKind> {
        let call = Arc::new(Call {
            state: Mutex::new((Progress::Waiting, None)),
        });
        let machine = &mut self.machines[index];
        if self.now >= self.counted_from {
            let troubled = machine.slowness > 1.0 || machine.condition != Condition::Up;
            self.arrived.all += 1;
            self.arrived.troubled += u64::from(troubled);
        }
        match machine.condition {
            Condition::Down => return Err(io::ErrorKind::ConnectionRefused),
            Condition::FailsFast => self.schedule(index, FAST, call.clone()),
            Condition::Up if machine.working.len() < self.workers => {
                self.begin(index, call.clone())
            }
            Condition::Up => machine.waiting.push_back(call.clone()),
        }
        Ok(call)
    }

    fn begin(&mut self, index: usize, call: Arc<Call>) {
        let work = self.law.draw(&mut self.rng) * self.machines[index].slowness;
        self.machines[index].working.push(call.clone());
        self.schedule(index, work, call);
    }

    /// `work` is in service times.
    fn schedule(&mut self, machine: usize, work: f64, call: Arc<Call>) {
        self.order += 1;
        self.due.push(Reverse(Due {
            at: self.now + self.service_time.mul_f64(work),
            order: self.order,
            machine,
            call,
        }));
    }

    fn finish(&mut self, due: &Due) -> Option<Waker> {
        let machine = &mut self.machines[due.machine];
        if machine.condition == Condition::FailsFast {
            return due
                .call
                .end(Progress::Answered(StatusCode::SERVICE_UNAVAILABLE));
        }
        // It was lost meanwhile.
        let place = machine
            .working
            .iter()
            .position(|call| Arc::ptr_eq(call, &due.call))?;
        machine.working.swap_remove(place);
        if let Some(next) = machine.waiting.pop_front() {
            self.begin(due.machine, next);
        }
        due.call.end(Progress::Answered(StatusCode::OK))
    }
}

// ===== impl Machine =====

impl Machine {
    fn new(index: usize) -> Self {
        Self {
            condition: Condition::Up,
            slowness: 1.0,
            working: Vec::new(),
            waiting: VecDeque::new(),
            instance: Some(instance(index, 0)),
            incarnation: 0,
        }
    }
}

fn instance(index: usize, incarnation: u16) -> Arc<Instance> {
    let host = Ipv4Addr::from_bits(FIRST.to_bits() + index as u32);
    let address = SocketAddr::from((host, PORT + incarnation));
    Arc::new(Instance::at(
        SERVICE,
        EndpointUrl::new(Scheme::Http, address),
    ))
}

// ===== impl Call =====

impl Call {
    fn end(&self, progress: Progress) -> Option<Waker> {
        let (state, waker) = &mut *self.state.lock();
        *state = progress;
        waker.take()
    }
}

// ===== impl Due =====

impl PartialEq for Due {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other).is_eq()
    }
}

impl Eq for Due {}

impl PartialOrd for Due {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Due {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        (self.at, self.order).cmp(&(other.at, other.order))
    }
}

// ===== impl Server =====

impl Server {
    /// Its place in the world.
    pub fn index(&self) -> usize {
        self.index
    }
}

impl Service<Request<()>> for Server {
    type Response = Response<Full<Bytes>>;
    type Error = Refused;
    type Future = Answer;

    /// An error while no connection to it could be made.
    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Refused>> {
        let state = self.world.state.lock();
        Poll::Ready(match state.machines[self.index].condition {
            Condition::Down => Err(io::ErrorKind::ConnectionRefused.into()),
            Condition::Up | Condition::FailsFast => Ok(()),
        })
    }

    fn call(&mut self, _: Request<()>) -> Answer {
        Answer(self.world.state.lock().take_in(self.index))
    }
}

// ===== impl Answer =====

impl Answer {
    /// Of nobody.
    pub(super) fn refused() -> Self {
        Self(Err(io::ErrorKind::ConnectionRefused))
    }
}

impl Future for Answer {
    type Output = Result<Response<Full<Bytes>>, Refused>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let call = match &self.0 {
            Ok(call) => call,
            Err(kind) => return Poll::Ready(Err((*kind).into())),
        };
        let (progress, waker) = &mut *call.state.lock();
        match progress {
            Progress::Waiting => {
                *waker = Some(cx.waker().clone());
                Poll::Pending
            }
            Progress::Broken => Poll::Ready(Err(io::ErrorKind::ConnectionReset.into())),
            Progress::Answered(status) => {
                let mut response = Response::new(Full::new(Bytes::from_static(b"done")));
                *response.status_mut() = *status;
                Poll::Ready(Ok(response))
            }
        }
    }
}
