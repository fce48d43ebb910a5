//! The set of endpoints that calls pick from, and the rare changes to it.
//!
//! ```text
//!   update task ──► Roster (a lock) ──rebuild──► Set (immutable) ◄──load── every call
//!   failing calls ─────┘
//! ```
//!
//! A call loads the [`Set`] and takes no lock. Whatever takes an endpoint out or brings it back goes
//! through the roster's lock and publishes a new set, in time that grows with the number of endpoints:
//! that is rare.

use std::{
    sync::{
        Arc, OnceLock, Weak,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering},
    },
    time::Duration,
};

use arc_swap::ArcSwap;
use parking_lot::Mutex;
use tokio::{runtime::Handle, sync::Notify, task::AbortHandle, time::Instant};
use tower_mesh_layers::{
    FailureKind, Live, Ratio,
    metrics::{self, Registered},
};

use super::{
    arms::Arms,
    config::Settings,
    eject::{self, Cause, Standing, Verdict},
    endpoint::{Endpoint, Member, millis},
    metrics::{Counts, Now, Present},
    pick::{Candidates, Endpoints, Picker},
    roster::{NEVER, Roster},
    view,
};

/// A shared list of endpoints.
pub(super) type Members<S> = Arc<[Arc<Member<S>>]>;

/// What every call looks at.
pub(super) struct Set<S> {
    /// All that may be called.
    pub(super) members: Members<S>,
    /// Those that are not out; all of them in a panic.
    pub(super) ready: Members<S>,
    /// Those that finish what they have.
    pub(super) draining: Members<S>,
    /// Too few are left, so all are called.
    pub(super) panic: bool,
    pub(super) panic_threshold: Ratio,
    /// Prepared for those that are ready.
    pub(super) picker: Picker,
    /// To be prepared for arms.
    pub(super) base: Picker,
    pub(super) arms: Arms<S>,
}

/// The state that all clones of a balancer share.
pub(super) struct Shared<S> {
    pub(super) service: Arc<str>,
    pub(super) epoch: Instant,
    pub(super) settings: Live<Settings>,
    /// Where the code named a picker, the configuration's is not used.
    pub(super) picker: Option<Picker>,
    pub(super) set: ArcSwap<Set<S>>,
    /// Told after every new set that is not empty.
    pub(super) changed: Arc<Notify>,
    pub(super) counts: Registered<Counts>,
    /// When the first trial is due, in milliseconds.
    pub(super) next_due: AtomicU64,
    /// How many endpoints are due and wait for a call of their own arm.
    pub(super) passed_over: AtomicUsize,
    pub(super) roster: Mutex<Roster<S>>,
    /// Whether the update task runs.
    started: AtomicBool,
    start: Mutex<Option<Start<S>>>,
    task: OnceLock<AbortHandle>,
}

/// Starts the update task; boxed, since only the task knows how endpoints are made.
pub(super) type Start<S> = Box<dyn FnOnce(Weak<Shared<S>>, &Handle) -> AbortHandle + Send>;

// ===== impl Shared =====

impl<S: Send + Sync + 'static> Shared<S> {
    pub(super) fn new(
        service: Arc<str>,
        settings: Live<Settings>,
        picker: Option<Picker>,
        start: Start<S>,
    ) -> Arc<Self> {
        let running = picker
            .clone()
            .unwrap_or_else(|| settings.get().config.picker.into());
        let none: Members<S> = Arc::new([]);
        Arc::new_cyclic(|this: &Weak<Self>| Self {
            counts: metrics::register(Counts::new(&service, this.clone())),
            service,
            epoch: Instant::now(),
            settings,
            picker,
            set: ArcSwap::from_pointee(Set {
                members: none.clone(),
                ready: none.clone(),
                draining: none,
                panic: false,
                panic_threshold: Ratio::ZERO,
                picker: running.clone(),
                base: running.clone(),
                arms: Arms::new(),
            }),
            changed: Arc::default(),
            next_due: AtomicU64::new(NEVER),
            passed_over: AtomicUsize::new(0),
            roster: Mutex::new(Roster::new(running)),
            started: AtomicBool::new(false),
            start: Mutex::new(Some(start)),
            task: OnceLock::new(),
        })
    }

    /// Starts the update task, or leaves it to a later call where there is no runtime yet.
    #[inline]
    pub(super) fn start(self: &Arc<Self>) {
        if !self.started.load(Ordering::Relaxed) {
            self.start_now();
        }
    }

    #[cold]
    fn start_now(self: &Arc<Self>) {
        let Ok(runtime) = Handle::try_current() else {
            return;
        };
        if let Some(start) = self.start.lock().take() {
            let task = start(Arc::downgrade(self), &runtime);
            self.task.get_or_init(|| task);
            self.started.store(true, Ordering::Relaxed);
        }
    }

    pub(super) fn ms(&self, now: Instant) -> u64 {
        millis(now.saturating_duration_since(self.epoch))
    }

    pub(super) fn succeeded(&self, member: &Arc<Member<S>>, start: Instant, now: Instant) {
        let (started, now_ms) = (self.ms(start), self.ms(now));
        let endpoint = &member.endpoint;
        if endpoint.with_health(|health| health.success(started, now_ms)) == Verdict::Returned {
            endpoint.recovered(now - start, now);
            self.returned(&mut self.roster.lock(), member);
        }
    }

    pub(super) fn failed(
        &self,
        member: &Arc<Member<S>>,
        kind: FailureKind,
        start: Instant,
        now: Instant,
    ) {
        let settings = self.settings.get();
        let (timeout, started) = (kind == FailureKind::Timeout, self.ms(start));
        let (verdict, consecutive) = member.endpoint.with_health(|health| {
            let verdict = health.failure(timeout, started, &settings.policy);
            (verdict, health.consecutive())
        });
        let config = &settings.config;
        let penalty = eject::penalty(
            config.penalty,
            consecutive,
            config.ejection.consecutive_failures,
            config.ejection.base_time,
        );
        member.endpoint.penalise(now, penalty);
        if verdict == Verdict::Condemned {
            self.eject(member, kind, now);
        }
    }

    fn eject(&self, member: &Arc<Member<S>>, kind: FailureKind, now: Instant) {
        let (settings, now_ms) = (self.settings.get(), self.ms(now));
        let mut guard = self.roster.lock();
        let roster = &mut *guard;
        let all = roster.members.len();
        let allowed = settings.config.ejection.max_ejected.of(all);
        let may = eject::may_eject(roster.ejected, all, allowed);
        let until = member.endpoint.with_health(|health| {
            let cause = match health.standing() {
                // Another call was quicker.
                Standing::Out { .. } => return None,
                Standing::In if !may => return None,
                // It was no part of the share before, and so it stays.
                Standing::Trial { cause, .. } if !may => cause,
                _ => Cause::Ejected,
            };
            Some(health.take_out(cause, now_ms, &settings.policy, &mut roster.rng))
        });
        if let Some(until) = until {
            self.counts.ejected.add(1);
            tracing::info!(
                service = %self.service,
                instance = %member.endpoint.instance().id,
                endpoint = %member.endpoint.url(),
                failure = kind.label(),
                for_ms = until - now_ms,
                "endpoint ejected"
            );
            self.out(roster, member, Some(until));
        }
    }

    /// No connection could be made during a call: out, until a later call tries.
    pub(super) fn refused(&self, member: &Arc<Member<S>>, now: Instant) {
        let mut roster = self.roster.lock();
        if let Some(until) = self.take_out_refused(&mut roster, member, now) {
            self.out(&mut roster, member, Some(until));
        }
    }

    /// No connection could be made before a call was sent: out. The caller is to try again after the
    /// time that is returned; `None` where somebody else does.
    pub(super) fn refused_unsent(&self, member: &Arc<Member<S>>, now: Instant) -> Option<Duration> {
        let mut roster = self.roster.lock();
        let until = self.take_out_refused(&mut roster, member, now)?;
        self.out(&mut roster, member, None);
        Some(Duration::from_millis(until - self.ms(now)))
    }

    /// Another attempt to connect failed: the time to wait before the next.
    pub(super) fn still_refused(&self, member: &Arc<Member<S>>, now: Instant) -> Duration {
        let (settings, now_ms) = (self.settings.get(), self.ms(now));
        let mut roster = self.roster.lock();
        let until = member.endpoint.with_health(|health| {
            health.take_out(Cause::Refused, now_ms, &settings.policy, &mut roster.rng)
        });
        Duration::from_millis(until - now_ms)
    }

    fn take_out_refused(
        &self,
        roster: &mut Roster<S>,
        member: &Arc<Member<S>>,
        now: Instant,
    ) -> Option<u64> {
        let (settings, now_ms) = (self.settings.get(), self.ms(now));
        let until = member
            .endpoint
            .with_health(|health| match health.standing() {
                Standing::Out { .. } => None,
                _ => {
                    Some(health.take_out(Cause::Refused, now_ms, &settings.policy, &mut roster.rng))
                }
            })?;
        self.counts.refused.add(1);
        tracing::info!(
            service = %self.service,
            instance = %member.endpoint.instance().id,
            endpoint = %member.endpoint.url(),
            "endpoint refused a connection"
        );
        Some(until)
    }

    /// A connection was made again.
    pub(super) fn reachable(&self, member: &Arc<Member<S>>, now: Instant) {
        let now = self.ms(now);
        if member.endpoint.with_health(|health| health.reachable(now)) == Verdict::Returned {
            self.returned(&mut self.roster.lock(), member);
        }
    }

    pub(super) fn trial_abandoned(&self, member: &Arc<Member<S>>, now: Instant) {
        let (settings, now_ms) = (self.settings.get(), self.ms(now));
        let again = member
            .endpoint
            .with_health(|health| health.trial_abandoned(now_ms, &settings.policy));
        if let Some(again) = again {
            let mut roster = self.roster.lock();
            roster.push_due(again, member);
            self.next_due.store(roster.next_due(), Ordering::Relaxed);
        }
    }

    fn out(&self, roster: &mut Roster<S>, member: &Arc<Member<S>>, due: Option<u64>) {
        if let Some(due) = due {
            roster.push_due(due, member);
            self.next_due.store(roster.next_due(), Ordering::Relaxed);
        }
        self.publish(roster);
    }

    pub(super) fn returned(&self, roster: &mut Roster<S>, member: &Arc<Member<S>>) {
        self.counts.returned.add(1);
        tracing::info!(
            service = %self.service,
            instance = %member.endpoint.instance().id,
            endpoint = %member.endpoint.url(),
            "endpoint returned"
        );
        self.publish(roster);
    }

    /// Puts new endpoints in place of the old.
    pub(super) fn replace(&self, members: Members<S>, draining: Members<S>) {
        let mut roster = self.roster.lock();
        (roster.members, roster.draining) = (members, draining);
        self.publish(&mut roster);
    }

    /// Takes a changed configuration up.
    pub(super) fn reconfigure(&self) {
        let settings = self.settings.get();
        let mut roster = self.roster.lock();
        if self.picker.is_none() {
            roster.picker = settings.config.picker.into();
        }
        for member in roster.members.iter().chain(roster.draining.iter()) {
            member.endpoint.set_decay(settings.decay);
        }
        self.publish(&mut roster);
    }

    /// Makes the set that calls see. The roster's lock is held, so sets follow each other in order.
    fn publish(&self, roster: &mut Roster<S>) {
        roster.tidy();
        self.passed_over
            .store(roster.passed_over(), Ordering::Relaxed);
        let (mut ready, mut ejected) = (Vec::with_capacity(roster.members.len()), 0);
        for member in roster.members.iter() {
            match member.endpoint.standing() {
                Standing::In => ready.push(member.clone()),
                Standing::Out { cause, .. } | Standing::Trial { cause, .. } => {
                    ejected += usize::from(cause == Cause::Ejected);
                }
            }
        }
        roster.ejected = ejected;
        let (all, threshold) = (
            roster.members.len(),
            self.settings.get().config.panic_threshold,
        );
        let panic =
            all > 0 && (ready.is_empty() || (ready.len() as f64) < threshold.as_f64() * all as f64);
        if panic && !self.set.load().panic {
            tracing::warn!(
                service = %self.service,
                endpoints = all,
                left = ready.len(),
                "too few endpoints are left: calling all of them"
            );
        }
        let members = roster.members.clone();
        let ready = if panic || ready.len() == all {
            members.clone()
        } else {
            ready.into()
        };
        let picker = roster.picker.prepared(&Candidates::all(&ready));
        self.set.store(Arc::new(Set {
            ready,
            members,
            draining: roster.draining.clone(),
            panic,
            panic_threshold: threshold,
            picker,
            base: roster.picker.clone(),
            arms: Arms::new(),
        }));
        if all > 0 {
            self.changed.notify_waiters();
        }
    }
}

impl<S: Send + Sync + 'static> Present for Shared<S> {
    fn present(&self) -> Now {
        let (set, now) = (self.set.load(), Instant::now());
        let mut present = Now {
            panic: set.panic,
            ..Now::default()
        };
        view::each(&set, now, |member, state| {
            present.states[state as usize] += 1;
            present.in_flight += u64::from(member.endpoint.in_flight());
        });
        present
    }
}

impl<S> Drop for Shared<S> {
    fn drop(&mut self) {
        if let Some(task) = self.task.get() {
            task.abort();
        }
    }
}

// ===== impl Endpoints =====

impl<S> Endpoints for Members<S> {
    fn count(&self) -> usize {
        self.len()
    }

    fn at(&self, index: usize) -> &Endpoint {
        &self[index].endpoint
    }
}
