//! The handle of a registered instance.

use std::{
    fmt,
    future::{Future, pending},
    sync::{Arc, Weak},
};

use parking_lot::Mutex;
use tokio::{sync::watch, task::JoinHandle, time::Instant};
use tower_mesh_layers::{config::ConfigError, metrics};

use super::{
    Register, RegisterConfig, RegisterError,
    config::check,
    driver::{Driver, Orders, Phase, Shown},
    metrics::Stats,
};
use crate::instance::{Instance, Status};

/// Where a [`Registration`] stands. The [module](super) shows how they follow each other.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum State {
    /// It was not in the registry yet; that is tried.
    Registering,
    /// It is in the registry.
    Registered,
    /// It was, and is not any more, although the process is there; it is tried to return.
    Lapsed {
        /// Since when.
        since: Instant,
    },
    /// It is about to leave.
    Draining,
    /// It is over.
    Closed,
}

/// An instance that is kept registered by a task for as long as this handle lives. See the
/// [module](super).
#[must_use = "an instance is deregistered when its registration is dropped"]
pub struct Registration {
    orders: Arc<watch::Sender<Orders>>,
    state: watch::Receiver<State>,
    drained: watch::Receiver<bool>,
    last_error: Arc<Mutex<Option<RegisterError>>>,
    driver: JoinHandle<Result<(), RegisterError>>,
}

// ===== impl State =====

impl State {
    pub(super) const NAMES: [&str; 5] =
        ["registering", "registered", "lapsed", "draining", "closed"];

    /// As the label of the metric has it: `registering`, `registered`, `lapsed`, `draining`,
    /// `closed`.
    pub fn as_str(self) -> &'static str {
        let position = match self {
            Self::Registering => 0,
            Self::Registered => 1,
            Self::Lapsed { .. } => 2,
            Self::Draining => 3,
            Self::Closed => 4,
        };
        Self::NAMES[position]
    }
}

impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

// ===== impl Registration =====

impl Registration {
    /// Begins to register `instance` with `registry`, and keeps it registered.
    ///
    /// Returns at once; [`registered`](Self::registered) waits until it is done.
    ///
    /// # Errors
    ///
    /// A [`ConfigError`] that names the field when the instance or the configuration is refused. That
    /// the registry cannot be reached is no error: it is tried for ever.
    ///
    /// # Panics
    ///
    /// Outside of a tokio runtime.
    pub fn start(
        registry: impl Register,
        instance: Instance,
        config: RegisterConfig,
    ) -> Result<Self, ConfigError> {
        Self::start_with(Arc::new(registry), instance, config, fastrand::Rng::new())
    }

    pub(crate) fn start_with(
        registry: Arc<dyn Register>,
        instance: Instance,
        config: RegisterConfig,
        rng: fastrand::Rng,
    ) -> Result<Self, ConfigError> {
        config.validate()?;
        check(&instance)?;
        let service = instance.service.clone();
        let (phase, hurry) = (Phase::Serve, false);
        let instance = Arc::new(instance);
        let (orders, ordered) = watch::channel(Orders {
            instance,
            phase,
            hurry,
        });
        let (state_tx, state) = watch::channel(State::Registering);
        let (drained_tx, drained) = watch::channel(false);
        let last_error = Arc::default();
        let shown = Shown {
            state: state_tx,
            drained: drained_tx,
            last_error: Arc::clone(&last_error),
            stats: metrics::register(Stats::new(service, state.clone())),
        };
        let driver = Driver::new(registry, config, ordered, shown, rng);
        let driver = tokio::spawn(driver.run());
        Ok(Self {
            orders: Arc::new(orders),
            state,
            drained,
            last_error,
            driver,
        })
    }

    /// What the registry is told, but for the status while it drains.
    pub fn instance(&self) -> Arc<Instance> {
        Arc::clone(&self.orders.borrow().instance)
    }

    /// Where it stands now.
    pub fn state(&self) -> State {
        *self.state.borrow()
    }

    /// Where it stands, as it changes.
    pub fn states(&self) -> watch::Receiver<State> {
        self.state.clone()
    }

    /// Why the last write to the registry failed; `None` after one that succeeded.
    pub fn last_error(&self) -> Option<RegisterError> {
        self.last_error.lock().clone()
    }

    /// Waits until it is in the registry, or on its way out. Cancel safe.
    ///
    /// It waits for as long as the registry cannot be written; [`last_error`](Self::last_error) tells
    /// why, and `tokio::time::timeout` sets a limit.
    pub async fn registered(&self) {
        let there = |state: &State| !matches!(state, State::Registering | State::Lapsed { .. });
        let _ = self.state.clone().wait_for(there).await;
    }

    /// Changes what the registry is told: weight, metadata, endpoints and so on. It is written at
    /// once, or when the registry can be reached again.
    ///
    /// `change` may run again when another thread changed the instance meanwhile.
    ///
    /// # Errors
    ///
    /// A [`ConfigError`] when the instance would be refused, or has another service or id: those
    /// need a registration of their own. Nothing is changed then.
    pub fn update(&self, change: impl Fn(&mut Instance)) -> Result<(), ConfigError> {
        loop {
            let before = self.instance();
            let mut changed = (*before).clone();
            change(&mut changed);
            for (path, new, old) in [
                ("instance.service", &changed.service, &before.service),
                ("instance.id", &changed.id, &before.id),
            ] {
                if new != old {
                    let expected = format!("`{old}`, as it was registered");
                    return Err(ConfigError::new(path, new, expected));
                }
            }
            check(&changed)?;
            let changed = Arc::new(changed);
            let mut done = false;
            self.orders.send_if_modified(|orders| {
                done = Arc::ptr_eq(&orders.instance, &before);
                if done {
                    orders.instance = Arc::clone(&changed);
                }
                done
            });
            if done {
                return Ok(());
            }
        }
    }

    /// Changes the status that the registry is told. Unlike [`drain`](Self::drain) this can be taken
    /// back.
    pub fn set_status(&self, status: Status) {
        self.orders
            .send_modify(|orders| Arc::make_mut(&mut orders.instance).status = status);
    }

    /// Marks the instance as draining, and waits for the drain time, so that callers turn to other
    /// instances before this one refuses them. Heartbeats go on until it is [closed](Self::close).
    ///
    /// It begins when the future is first polled, and goes on when it is dropped. The future keeps
    /// nothing alive: it ends early when the registration is dropped.
    pub fn drain(&self) -> impl Future<Output = ()> + Send + 'static + use<> {
        self.drain_until(pending())
    }

    /// As [`drain`](Self::drain), but for no longer than `enough` takes.
    pub fn drain_until<F>(&self, enough: F) -> impl Future<Output = ()> + Send + 'static + use<F>
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let (orders, mut drained) = (Arc::downgrade(&self.orders), self.drained.clone());
        async move {
            advance(&orders, Phase::Drain, false);
            tokio::select! {
                biased;
                _ = drained.wait_for(|drained| *drained) => {}
                () = enough => advance(&orders, Phase::Drain, true),
            }
        }
    }

    /// Takes the instance out of the registry: marks it as draining, waits for the drain time (unless
    /// it [has drained](Self::drain)), and deregisters.
    ///
    /// It takes at most the drain time and the `deregisterTimeout`. When this future is dropped, the
    /// drain time ends at once and the rest goes on in the background.
    ///
    /// # Errors
    ///
    /// The last [`RegisterError`] when the record could not be taken out in time. It lapses then.
    pub async fn close(self) -> Result<(), RegisterError> {
        advance(&Arc::downgrade(&self.orders), Phase::Close, false);
        // `self.orders` lives until the end: that it is gone would mean that nobody waits.
        let Self {
            orders: _orders,
            driver,
            ..
        } = self;
        driver
            .await
            .unwrap_or_else(|error| Err(RegisterError::unavailable(error)))
    }
}

impl fmt::Debug for Registration {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let instance = self.instance();
        f.debug_struct("Registration")
            .field("service", &instance.service)
            .field("id", &instance.id)
            .field("state", &self.state())
            .finish_non_exhaustive()
    }
}

/// Goes on to `phase`, if the registration is still there and not further.
fn advance(orders: &Weak<watch::Sender<Orders>>, phase: Phase, hurry: bool) {
    let Some(orders) = orders.upgrade() else {
        return;
    };
    orders.send_modify(|orders| {
        orders.phase = orders.phase.max(phase);
        orders.hurry |= hurry;
    });
}
