//! What is known about one endpoint, and the guard that learns it.

use std::{
    fmt,
    sync::{
        Arc, OnceLock, Weak,
        atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use arc_swap::ArcSwap;
use parking_lot::Mutex;
use tokio::time::Instant;
use tower_mesh_layers::{
    CallGuard, EndpointId, FailureKind, Outcome, Pushback,
    context::picked,
    metrics::{self, Registered},
};

use super::{
    choice::Picked,
    eject::{Health, Standing},
    ewma::{Decay, Ewma},
    metrics::EndpointStats,
    set::Shared,
};
use crate::instance::{EndpointUrl, Instance};

/// What a call is assumed to take at an endpoint that has calls in flight and no answer yet.
const COLD_NANOS: f32 = 30e6;
/// Above every real cost: between two endpoints that failed just now, the rest decides.
const PENALTY_NANOS: f32 = 1e13;
/// The longest pushback that is honoured, as in linkerd2-proxy: a peer must not shut itself out.
const MAX_PUSHBACK: Duration = Duration::from_secs(300);
/// The first gRPC message that comes this much later than the head belongs to a stream.
const UNARY_GRACE: Duration = Duration::from_secs(1);

/// One endpoint: an address of an instance, and what calls to it have shown.
///
/// It lives as long as the instance keeps its id and this URL; other changes of the instance do not
/// touch what is known about it.
// In this order: what every call reads and writes comes first, next to the counts of the `Arc` around
// it. A call then takes one cache line or two from other threads, and a large set is smaller by a third
// than with a line of its own for each.
#[repr(C)]
pub struct Endpoint {
    ewma: Ewma,
    in_flight: AtomicU32,
    decay: AtomicU32,
    /// Since `epoch`; 0 for no penalty.
    penalised_until_ms: AtomicU64,
    id: EndpointId,
    /// From the first outcome on: many endpoints of a large set are never called.
    stats: OnceLock<Registered<EndpointStats>>,
    troubled: AtomicBool,
    removed: AtomicBool,
    epoch: Instant,
    url: EndpointUrl,
    /// The instance's: read for every endpoint of a set at once.
    weight: AtomicU32,
    instance: ArcSwap<Instance>,
    health: Mutex<Health>,
}

/// An endpoint, its service, and the way back to the set for the rare case that it must be taken out.
#[repr(C)] // the endpoint first
pub(super) struct Member<S> {
    pub(super) endpoint: Endpoint,
    pub(super) service: S,
    pub(super) owner: Weak<Shared<S>>,
}

/// Held by one call to an endpoint: counts it in flight, and learns from its outcome.
pub struct EndpointGuard<S: Send + Sync + 'static> {
    member: Arc<Member<S>>,
    start: Instant,
    /// From the start to the response head.
    head: Option<Duration>,
    /// The start in the balancer's time; like the stamps of averages, it wraps after 49 days.
    start_ms: u32,
    trial: bool,
    /// The request was given to the endpoint.
    sent: bool,
    /// A success was told at the head.
    succeeded: bool,
    measured: bool,
}

/// Not by `as_nanos`, which has 128 bits: turning them into a float is a library call.
fn nanos(duration: Duration) -> f32 {
    duration.as_secs() as f32 * 1e9 + duration.subsec_nanos() as f32
}

/// In whole milliseconds. Not by `as_millis`, which divides 128 bits.
pub(super) fn millis(duration: Duration) -> u64 {
    duration.as_secs() * 1_000 + u64::from(duration.subsec_millis())
}

// ===== impl Endpoint =====

impl Endpoint {
    pub(super) fn new(
        instance: Arc<Instance>,
        url: EndpointUrl,
        epoch: Instant,
        decay: Decay,
    ) -> Self {
        Self {
            ewma: Ewma::default(),
            in_flight: AtomicU32::new(0),
            decay: AtomicU32::new(decay.to_bits()),
            penalised_until_ms: AtomicU64::new(0),
            id: EndpointId::new(),
            stats: OnceLock::new(),
            troubled: AtomicBool::new(false),
            removed: AtomicBool::new(false),
            epoch,
            url,
            weight: AtomicU32::new(instance.weight),
            instance: ArcSwap::new(instance),
            health: Mutex::new(Health::new()),
        }
    }

    /// Its name within this process.
    pub fn id(&self) -> EndpointId {
        self.id
    }

    /// Tells the layers above that a call goes here.
    #[inline]
    pub(super) fn note_pick(&self) {
        picked::record(self.id);
        if picked::is_traced() {
            self.record_pick();
        }
    }

    #[cold]
    fn record_pick(&self) {
        let span = tracing::Span::current();
        if let Some(host) = self.url.host() {
            span.record("server.address", host);
        }
        if let Some(port) = self.url.port() {
            span.record("server.port", i64::from(port));
        }
        if let Some(path) = self.url.unix_path() {
            span.record("server.address", tracing::field::display(path.display()));
        }
        span.record("mesh.endpoint", tracing::field::display(&self.url));
    }

    /// The address.
    pub fn url(&self) -> &EndpointUrl {
        &self.url
    }

    /// The instance it belongs to, as the registry last described it.
    pub fn instance(&self) -> Arc<Instance> {
        self.instance.load_full()
    }

    /// The share of the calls that it is to get, relative to the others: at least 1.
    pub fn weight(&self) -> u32 {
        self.weight.load(Relaxed).max(1)
    }

    /// Calls whose response body has not ended.
    pub fn in_flight(&self) -> u32 {
        self.in_flight.load(Relaxed)
    }

    /// The average latency, decayed until `now`; `None` before the first answer.
    pub fn latency(&self, now: Instant) -> Option<Duration> {
        let nanos = self.ewma.get(self.ms(now) as u32, self.decay())?;
        Some(Duration::from_nanos(nanos as u64))
    }

    /// Whether a call failed so recently that another endpoint should be preferred.
    pub(super) fn is_penalised(&self, now_ms: u64) -> bool {
        now_ms < self.penalised_until_ms.load(Relaxed)
    }

    /// The expected price of one more call: latency times calls in flight, in nanoseconds. Each call
    /// in flight counts as `scale` calls.
    #[inline]
    pub(super) fn cost(&self, now_ms: u64, scale: f32) -> f32 {
        let in_flight = self.in_flight.load(Relaxed);
        let latency = match self.ewma.get(now_ms as u32, self.decay()) {
            Some(latency) => latency,
            // Unknown and idle: one call should find out. Unknown and busy: one call is finding out.
            None if in_flight == 0 => 0.0,
            None => COLD_NANOS,
        };
        let penalty = if self.is_penalised(now_ms) {
            PENALTY_NANOS
        } else {
            0.0
        };
        latency * (in_flight as f32 * scale + 1.0) + penalty
    }

    fn decay(&self) -> Decay {
        Decay::from_bits(self.decay.load(Relaxed))
    }

    pub(super) fn set_decay(&self, decay: Decay) {
        self.decay.store(decay.to_bits(), Relaxed);
    }

    pub(super) fn set_instance(&self, instance: Arc<Instance>) {
        self.weight.store(instance.weight, Relaxed);
        self.instance.store(instance);
    }

    /// The balancer's time: milliseconds since it was built.
    pub(super) fn ms(&self, now: Instant) -> u64 {
        millis(now.saturating_duration_since(self.epoch))
    }

    pub(super) fn penalise(&self, now: Instant, time: Duration) {
        let until = self.ms(now) + millis(time);
        self.penalised_until_ms.fetch_max(until, Relaxed);
    }

    /// What is known about latency starts anew; only a peer's own wish to be left alone stays.
    pub(super) fn recovered(&self, latency: Duration, now: Instant) {
        self.ewma.reset(nanos(latency), self.ms(now) as u32);
        self.penalised_until_ms.store(0, Relaxed);
    }

    pub(super) fn removed(&self) -> bool {
        self.removed.load(Relaxed)
    }

    pub(super) fn remove(&self) {
        self.removed.store(true, Relaxed);
    }

    pub(super) fn standing(&self) -> Standing {
        self.health.lock().standing()
    }

    pub(super) fn is_in(&self) -> bool {
        self.standing() == Standing::In
    }

    /// Changes the health, and keeps the flag by which successes pass it over.
    pub(super) fn with_health<R>(&self, change: impl FnOnce(&mut Health) -> R) -> R {
        let mut health = self.health.lock();
        let result = change(&mut health);
        self.troubled.store(health.is_troubled(), Relaxed);
        result
    }

    fn is_troubled(&self) -> bool {
        self.troubled.load(Relaxed)
    }

    /// What calls came to; `None` before the first.
    pub(super) fn stats(&self) -> Option<&EndpointStats> {
        self.stats.get().map(|stats| &**stats)
    }

    fn stats_to_write(&self) -> &EndpointStats {
        self.stats.get_or_init(|| {
            let service = self.instance.load().service.clone();
            metrics::register(EndpointStats::new(service, &self.url))
        })
    }

    #[cfg(test)]
    pub(super) fn pretend(&self, latency: Duration, in_flight: u32) {
        self.observe(latency, 0);
        self.in_flight.store(in_flight, Relaxed);
    }

    #[inline]
    fn observe(&self, latency: Duration, now_ms: u32) {
        self.ewma.observe(nanos(latency), now_ms, self.decay());
    }

    fn observe_at_least(&self, latency: Duration, now_ms: u32) {
        self.ewma
            .observe_at_least(nanos(latency), now_ms, self.decay());
    }
}

impl fmt::Debug for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Endpoint")
            .field("url", &self.url)
            .field("in_flight", &self.in_flight())
            .field("health", &self.health.lock())
            .finish_non_exhaustive()
    }
}

// ===== impl EndpointGuard =====

impl<S: Send + Sync + 'static> EndpointGuard<S> {
    pub(super) fn new(picked: Picked<S>) -> Self {
        picked.member.endpoint.in_flight.fetch_add(1, Relaxed);
        Self {
            member: picked.member,
            start: picked.at,
            head: None,
            start_ms: picked.at_ms as u32,
            trial: picked.trial,
            sent: false,
            succeeded: false,
            measured: false,
        }
    }

    pub(super) fn member(&self) -> &Arc<Member<S>> {
        &self.member
    }

    /// The request is about to be given to the endpoint.
    pub(super) fn sent(&mut self) {
        self.sent = true;
    }

    /// Takes a latency that ends now into the average.
    #[inline]
    fn observe(&self, latency: Duration) {
        self.member.endpoint.observe(latency, self.ms(latency));
    }

    /// The balancer's time so long after the start, or the millisecond before.
    #[inline]
    fn ms(&self, elapsed: Duration) -> u32 {
        self.start_ms.wrapping_add(millis(elapsed) as u32)
    }

    #[inline]
    fn measure(&mut self, latency: Duration) {
        if self.sent && !std::mem::replace(&mut self.measured, true) {
            let stats = self.member.endpoint.stats_to_write();
            stats.latency.record(latency);
        }
    }

    fn succeed(&mut self, now: Instant) {
        if std::mem::replace(&mut self.succeeded, true) || !self.member.endpoint.is_troubled() {
            return;
        }
        if let Some(owner) = self.member.owner.upgrade() {
            owner.succeeded(&self.member, self.start, now);
        }
    }

    fn count_failure(&self) {
        if self.sent {
            self.member
                .endpoint
                .stats_to_write()
                .failures
                .fetch_add(1, Relaxed);
        }
    }

    fn fail(&self, kind: FailureKind, now: Instant) {
        self.count_failure();
        let Some(owner) = self.member.owner.upgrade() else {
            return;
        };
        match kind {
            FailureKind::Connect => owner.refused(&self.member, now),
            kind => owner.failed(&self.member, kind, self.start, now),
        }
    }

    fn overloaded(&self, pushback: Option<Pushback>, now: Instant) {
        self.count_failure();
        let Some(owner) = self.member.owner.upgrade() else {
            return;
        };
        let wait = match pushback {
            Some(Pushback::After(wait)) => wait.min(MAX_PUSHBACK),
            Some(Pushback::Never) | None => Duration::ZERO,
        };
        let wait = wait.max(owner.settings.get().config.penalty);
        self.member.endpoint.penalise(now, wait);
    }
}

impl<S: Send + Sync + 'static> CallGuard for EndpointGuard<S> {
    fn head(&mut self, outcome: Option<Outcome>) {
        match outcome {
            Some(Outcome::Success) => {
                let now = Instant::now();
                let latency = now - self.start;
                self.head = Some(latency);
                self.observe(latency);
                self.measure(latency);
                // A plain HTTP call is decided here: a trial need not wait for a long body.
                self.succeed(now);
            }
            None => {
                let latency = Instant::now() - self.start;
                self.head = Some(latency);
                self.observe(latency);
                if self.trial {
                    self.member
                        .endpoint
                        .with_health(|health| health.trial_answered());
                }
            }
            // The end follows, and knows what to do.
            Some(_) => {}
        }
    }

    fn first_frame(&mut self) {
        // Measured at the head, or not a success at all.
        if self.measured {
            return;
        }
        let Some(head) = self.head else {
            return;
        };
        let latency = Instant::now() - self.start;
        if latency.saturating_sub(head) <= UNARY_GRACE {
            self.observe(latency);
            self.measure(latency);
        }
    }

    fn end(mut self, outcome: Outcome) {
        match outcome {
            Outcome::Success => {
                if self.succeeded && self.measured {
                    return; // all was said at the head
                }
                let now = Instant::now();
                self.measure(self.head.unwrap_or_else(|| now - self.start));
                self.succeed(now);
            }
            // A failure says nothing of how long an answer takes: it has its penalty instead.
            Outcome::Failure(kind) => {
                let now = Instant::now();
                self.measure(now - self.start);
                self.fail(kind, now);
            }
            Outcome::Overload(pushback) => {
                let now = Instant::now();
                self.measure(now - self.start);
                // Busy is alive: it ends a trial, and the penalty keeps the load off.
                if self.trial {
                    self.succeed(now);
                }
                self.overloaded(pushback, now);
            }
            Outcome::Cancelled => {
                let now = Instant::now();
                if self.head.is_none() {
                    let elapsed = now - self.start;
                    let now_ms = self.ms(elapsed);
                    self.member.endpoint.observe_at_least(elapsed, now_ms);
                }
                self.count_unmeasured();
                self.abandon_trial(now);
            }
            Outcome::Ignored => {
                self.count_unmeasured();
                self.abandon_trial(Instant::now());
            }
        }
    }
}

impl<S: Send + Sync + 'static> EndpointGuard<S> {
    fn count_unmeasured(&self) {
        if self.sent && !self.measured {
            self.member
                .endpoint
                .stats_to_write()
                .unmeasured
                .fetch_add(1, Relaxed);
        }
    }

    /// The trial call proved nothing.
    fn abandon_trial(&self, now: Instant) {
        if self.trial
            && !self.succeeded
            && let Some(owner) = self.member.owner.upgrade()
        {
            owner.trial_abandoned(&self.member, now);
        }
    }
}

impl<S: Send + Sync + 'static> Drop for EndpointGuard<S> {
    fn drop(&mut self) {
        self.member.endpoint.in_flight.fetch_sub(1, Relaxed);
    }
}

impl<S: Send + Sync + 'static> fmt::Debug for EndpointGuard<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EndpointGuard")
            .field("endpoint", &self.member.endpoint)
            .field("start", &self.start)
            .finish_non_exhaustive()
    }
}
