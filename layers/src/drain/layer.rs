//! The layer: its shared state, and the ways to make it.

use std::{fmt, sync::Arc, time::Duration};

use tokio::{
    sync::{Notify, watch},
    time::Instant,
};
use tower_layer::Layer;

use super::{
    Drain,
    config::DrainConfig,
    course::{Course, DrainState},
    door::Door,
    handle::DrainHandle,
};
use crate::vocab::{
    config::ConfigError,
    live::{Glance, Live},
    metrics::{self, Collect, Registered, Sink},
    shard::Counter,
};

/// Takes no new calls once it is told to, and finishes those that there are. The [module](super) is the page.
///
/// One layer is one state: put clones of it on all servers of a process.
#[derive(Clone)]
pub struct DrainLayer {
    shared: Arc<Registered<Shared>>,
}

/// Makes a [`DrainLayer`] step by step.
#[derive(Debug, Clone, Default)]
#[must_use]
pub struct DrainBuilder {
    config: DrainConfig,
}

/// What all clones share.
pub(super) struct Shared {
    config: Live<Option<DrainConfig>>,
    glance: Glance,
    door: Door,
    pub(super) course: watch::Sender<Course>,
    /// Told of the end of each call once this is not serving any more.
    pub(super) ended: Notify,
    pub(super) refused: Counter,
}

// ===== impl DrainLayer =====

impl DrainLayer {
    /// Makes the layer from its options.
    ///
    /// # Errors
    ///
    /// When an option is out of range; the error names it.
    pub fn new(config: DrainConfig) -> Result<Self, ConfigError> {
        Self::live(config.into())
    }

    /// Makes the layer from options that may change while it runs. They are read when the process starts to leave.
    ///
    /// # Errors
    ///
    /// When an option is out of range. From then on an invalid change is refused.
    pub fn live(config: Live<DrainConfig>) -> Result<Self, ConfigError> {
        Self::optional(config.some())
    }

    /// Makes the layer from options that may come and go as well: without options calls are neither counted nor
    /// refused, and a handle that is told to leave goes by the default times.
    ///
    /// # Errors
    ///
    /// When an option is out of range. From then on an invalid change is refused.
    pub fn optional(config: Live<Option<DrainConfig>>) -> Result<Self, ConfigError> {
        let shared = Shared {
            config: config.derive(DrainConfig::compile)?,
            glance: Glance::default(),
            door: Door::default(),
            course: watch::Sender::new(Course::Serving),
            ended: Notify::new(),
            refused: Counter::new(),
        };
        Ok(Self {
            shared: Arc::new(metrics::register(shared)),
        })
    }

    /// Starts with the default options.
    pub fn builder() -> DrainBuilder {
        DrainBuilder::default()
    }

    /// To start leaving, and to wait for the end.
    pub fn handle(&self) -> DrainHandle {
        DrainHandle::new(self.shared.clone())
    }
}

impl Default for DrainLayer {
    fn default() -> Self {
        Self::new(DrainConfig::default()).expect("the default options are in range")
    }
}

impl fmt::Debug for DrainLayer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DrainLayer")
            .field("config", &*self.shared.config.get())
            .field("state", &self.shared.state())
            .finish_non_exhaustive()
    }
}

impl<S> Layer<S> for DrainLayer {
    type Service = Drain<S>;

    fn layer(&self, inner: S) -> Drain<S> {
        Drain::new(inner, self.shared.clone())
    }
}

// ===== impl Shared: calls =====

impl Shared {
    #[inline]
    pub(super) fn is_on(&self) -> bool {
        let is_on = |config: &Option<_>| config.is_some().into();
        self.glance.bits(&self.config, is_on) != 0
    }

    #[inline]
    pub(super) fn entered(&self) {
        self.door.enter();
    }

    #[inline]
    pub(super) fn left(&self) {
        self.door.leave();
        if self.is_told() {
            self.ended.notify_waiters();
        }
    }

    /// Whether HTTP/1 connections are to be closed.
    #[inline]
    pub(super) fn is_told(&self) -> bool {
        self.door.is_told()
    }

    /// Whether a call that has [entered](Self::entered) is to be refused.
    #[inline]
    pub(super) fn refuses(&self) -> bool {
        self.is_told() && self.is_refusing()
    }

    #[cold]
    fn is_refusing(&self) -> bool {
        matches!(self.course_now(), Course::Refusing { .. })
    }
}

// ===== impl Shared: leaving =====

impl Shared {
    /// What holds now.
    ///
    /// NOTE: that time has made a lame duck refuse is written down by whoever sees it first, so that the lock of the
    /// course puts each call before that or after it.
    pub(super) fn course_now(&self) -> Course {
        let course = *self.course.borrow();
        if course.at(Instant::now()) == course {
            return course;
        }
        self.change(|course| course)
    }

    /// Takes a step, and gives where that has led.
    pub(super) fn change(&self, step: impl FnOnce(Course) -> Course) -> Course {
        let mut reached = Course::Serving;
        self.course.send_if_modified(|course| {
            let next = step(course.at(Instant::now()));
            reached = next;
            std::mem::replace(course, next) != next
        });
        reached
    }

    /// The next step is to be seen by calls.
    pub(super) fn tell(&self) {
        self.door.tell();
    }

    /// For how long calls are taken yet, and how long those in flight have after that.
    pub(super) fn times(&self) -> (Duration, Duration) {
        let config = self.config.get();
        let config = config
            .as_ref()
            .map(|config| (config.lame_duck, config.limit));
        config.unwrap_or_else(|| {
            let default = DrainConfig::default();
            (default.lame_duck, default.limit)
        })
    }

    /// Calls whose response body has not ended. Once calls are refused it is never less than there are.
    pub(super) fn in_flight(&self) -> u64 {
        self.door.in_flight()
    }

    pub(super) fn state(&self) -> DrainState {
        let now = Instant::now();
        match self.course.borrow().at(now) {
            Course::Serving => DrainState::Serving,
            Course::LameDuck { .. } => DrainState::LameDuck,
            Course::Refusing { until } if until <= now || self.in_flight() == 0 => {
                DrainState::Drained
            }
            Course::Refusing { .. } => DrainState::Draining,
        }
    }
}

impl Collect for Shared {
    fn collect(&self, out: &mut dyn Sink) {
        let config = self.config.get();
        let Some(config) = &*config else {
            return;
        };
        let labels = [("policy", config.name.as_str())];
        let in_flight = self.in_flight() as f64;
        out.gauge(
            "mesh_drain_in_flight",
            "Calls in flight",
            &labels,
            in_flight,
        );
        let help = "Calls refused because the process is leaving";
        let refused = self.refused.sum();
        out.counter("mesh_drain_refused_total", help, &labels, refused);
        let now = self.state();
        for state in DrainState::ALL {
            let labels = [("policy", config.name.as_str()), ("state", state.label())];
            let is = f64::from(u8::from(state == now));
            out.gauge(
                "mesh_drain_state",
                "Drain layers in this state",
                &labels,
                is,
            );
        }
    }
}

// ===== impl DrainBuilder =====

impl DrainBuilder {
    /// How long calls in flight have from the first refusal on. Default 30 s.
    pub fn limit(mut self, limit: Duration) -> Self {
        self.config.limit = limit;
        self
    }

    /// How long new calls are taken after the start, while callers learn of it. Default not at all.
    pub fn lame_duck(mut self, time: Duration) -> Self {
        self.config.lame_duck = time;
        self
    }

    /// The label `policy` of the metrics. Default `default`.
    pub fn name(mut self, name: impl Into<String>) -> Self {
        self.config.name = name.into();
        self
    }

    /// Makes the layer.
    ///
    /// # Errors
    ///
    /// When an option is out of range; the error names it.
    pub fn build(self) -> Result<DrainLayer, ConfigError> {
        DrainLayer::new(self.config)
    }
}
