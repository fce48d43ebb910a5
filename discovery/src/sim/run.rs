//! The course of one run.

use std::{
    sync::Arc,
    task::{Context, Poll, Wake, Waker},
    time::Duration,
};

use fastrand::Rng;
use parking_lot::Mutex;
use tokio::{runtime::Builder, task::yield_now, time};
use tower_mesh_layers::config::ConfigError;

use super::{
    contender::{Call, Client, Contender},
    law::exponential,
    outcome::Outcome,
    scenario::{Scenario, Trouble},
    world::World,
};

/// Turns of the scheduler in which balancers take in what the registry says.
const SETTLING: usize = 64;

/// One run.
struct Run<'a> {
    scenario: &'a Scenario,
    world: World,
    clients: Vec<Client>,
    rng: Rng,
    now: Duration,
    changes: Vec<Change>,
    calls: Vec<Option<UnderWay>>,
    free: Vec<usize>,
    woken: Arc<Mutex<Vec<usize>>>,
    outcome: Outcome,
}

/// A call that waits for its answer.
struct UnderWay {
    call: Call,
    since: Duration,
    waker: Waker,
}

/// Remembers which call is to go on.
struct Wakeup {
    call: usize,
    woken: Arc<Mutex<Vec<usize>>>,
}

/// Something goes wrong, or right again.
struct Change {
    at: Duration,
    what: What,
}

#[derive(Clone)]
enum What {
    Slow(usize, f64),
    Leave(usize),
    Back(usize),
    Lose(std::ops::Range<usize>),
}

/// Runs a scenario with one way to balance. The same seed gives the same arrivals, and the same work for the n-th call
/// that a server begins.
///
/// # Errors
///
/// A [`ConfigError`] for a field of the scenario that is out of range.
///
/// # Panics
///
/// Inside a tokio runtime: it has one of its own, with a clock of its own.
pub fn run(
    scenario: &Scenario,
    contender: &dyn Contender,
    seed: u64,
) -> Result<Outcome, ConfigError> {
    scenario.validate()?;
    // Our pickers draw from the thread's generator.
    let others = fastrand::u64(..);
    fastrand::seed(seed);
    let runtime = Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build();
    let runtime = runtime.expect("a runtime without I/O needs nothing of the system");
    let outcome = runtime.block_on(async {
        let mut run = Run::new(scenario, contender, seed).await;
        run.go().await;
        run.outcome.finished(run.world.arrived())
    });
    fastrand::seed(others);
    Ok(outcome)
}

// ===== impl Run =====

impl<'a> Run<'a> {
    async fn new(scenario: &'a Scenario, contender: &dyn Contender, seed: u64) -> Self {
        let mut rng = Rng::with_seed(seed);
        let world = World::new(scenario, rng.u64(..));
        if scenario.trouble == Some(Trouble::FailFast) {
            world.fail_fast(0);
        }
        let mut client = |_| contender.client(&world, rng.u64(..));
        let clients = (0..scenario.clients).map(&mut client).collect();
        for _ in 0..SETTLING {
            yield_now().await;
        }
        Self {
            clients,
            world,
            rng,
            now: Duration::ZERO,
            changes: changes(scenario),
            calls: Vec::new(),
            free: Vec::new(),
            woken: Arc::default(),
            outcome: Outcome::default(),
            scenario,
        }
    }

    async fn go(&mut self) {
        let mut next_call = self.until_next_call();
        let mut changes = std::mem::take(&mut self.changes).into_iter().peekable();
        loop {
            let next_change = changes.peek().map_or(Duration::MAX, |change| change.at);
            let next_done = self.world.next_due().unwrap_or(Duration::MAX);
            let next = next_call.min(next_change).min(next_done);
            if next >= self.scenario.duration {
                return;
            }
            self.advance(next).await;
            if next == next_change {
                changes
                    .next()
                    .into_iter()
                    .for_each(|change| self.change(change.what));
                // The balancers hear of it before the next call.
                yield_now().await;
            } else if next == next_done {
                self.world.finish_next();
            } else {
                self.begin();
                next_call = self.now + self.until_next_call();
            }
            self.go_on();
        }
    }

    /// Goes to a time, and lets the tasks of the balancers run.
    async fn advance(&mut self, to: Duration) {
        self.world.at(to);
        let step = to - std::mem::replace(&mut self.now, to);
        if !step.is_zero() {
            time::advance(step).await;
        }
    }

    fn until_next_call(&mut self) -> Duration {
        Duration::from_secs_f64(exponential(&mut self.rng) / self.scenario.rate())
    }

    /// A call arrives at some client.
    fn begin(&mut self) {
        let client = self.rng.usize(..self.clients.len());
        let Some(call) = self.clients[client].begin() else {
            self.ended(self.now, false);
            return;
        };
        let place = self.free.pop().unwrap_or(self.calls.len());
        let woken = self.woken.clone();
        let waker = Waker::from(Arc::new(Wakeup { call: place, woken }));
        let since = self.now;
        let new = Some(UnderWay { call, since, waker });
        match self.calls.get_mut(place) {
            Some(free) => *free = new,
            None => self.calls.push(new),
        }
        self.poll(place);
    }

    /// Polls whatever was woken.
    fn go_on(&mut self) {
        loop {
            let woken = std::mem::take(&mut *self.woken.lock());
            if woken.is_empty() {
                return;
            }
            woken.into_iter().for_each(|call| self.poll(call));
        }
    }

    fn poll(&mut self, place: usize) {
        // It may have ended since it was woken.
        let Some(under_way) = &mut self.calls[place] else {
            return;
        };
        let mut cx = Context::from_waker(&under_way.waker);
        if let Poll::Ready(good) = under_way.call.as_mut().poll(&mut cx) {
            let since = under_way.since;
            self.calls[place] = None;
            self.free.push(place);
            self.ended(since, good);
        }
    }

    fn ended(&mut self, since: Duration, good: bool) {
        if since < self.scenario.warm_up {
            return;
        }
        if good {
            self.outcome.answered(self.now - since);
        } else {
            self.outcome.failed += 1;
        }
    }

    fn change(&mut self, what: What) {
        match what {
            What::Slow(servers, factor) => self.world.slow_down(servers, factor),
            What::Leave(server) => self.world.leave(server),
            What::Back(server) => self.world.come_back(server),
            What::Lose(servers) => self.world.lose(servers),
        }
    }
}

/// What happens in a scenario, in order.
fn changes(scenario: &Scenario) -> Vec<Change> {
    let mut changes = Vec::new();
    let mut add = |at: Duration, what| changes.push(Change { at, what });
    match scenario.trouble {
        Some(Trouble::Slow {
            share,
            factor,
            every,
        }) => {
            let slow = What::Slow(scenario.share(share), factor);
            let mut at = Duration::ZERO;
            while at < scenario.duration {
                add(at, slow.clone());
                at += every;
            }
        }
        Some(Trouble::RollingRestart { every, away }) => {
            for server in 0..scenario.servers {
                let at = scenario.warm_up + every * server as u32;
                add(at, What::Leave(server));
                add(at + away, What::Back(server));
            }
        }
        Some(Trouble::ZoneLost {
            share,
            after,
            noticed,
        }) => {
            let (lost, at) = (scenario.share(share), scenario.warm_up + after);
            add(at, What::Lose(0..lost));
            (0..lost).for_each(|server| add(at + noticed, What::Leave(server)));
        }
        Some(Trouble::FailFast) | None => {}
    }
    changes.sort_by_key(|change| change.at);
    changes
}

// ===== impl Wakeup =====

impl Wake for Wakeup {
    fn wake(self: Arc<Self>) {
        self.woken.lock().push(self.call);
    }
}
