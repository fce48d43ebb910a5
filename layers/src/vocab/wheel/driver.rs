//! The task that moves the wheel's time.
//!
//! ```text
//!   none ── a timer registers ──► looking ── something waits ──► asleep until the next tick
//!    ▲                             │   ▲                          │
//!    │ nothing waits, wheel        │   └── time, or a timer that ─┘
//!    └─ dropped, runtime gone ─────┘       is due before
//! ```

use std::{
    future::Future,
    pin::Pin,
    sync::{Arc, Weak},
    task::{Context, Poll, Waker},
};

use tokio::{
    runtime::Handle,
    time::{Instant, Sleep, sleep_until},
};

use super::{Inner, lookout::NEVER};

/// The driver's task. It holds the wheel weakly, or the wheel would never be dropped.
struct Driver {
    wheel: Weak<Inner>,
    sleep: Option<Pin<Box<Sleep>>>,
    due: Vec<Waker>,
    ended: bool,
}

// ===== impl Inner =====

impl Inner {
    /// Makes sure that a driver looks at `tick` or before.
    #[cold]
    pub(super) fn look_at(self: &Arc<Self>, tick: u64) {
        // NOTE: a runtime that is shutting down drops the task within `spawn`, and that locks again.
        let (sleeping, runtime) = self.lookout.look_at(tick, Handle::current);
        if let Some(sleeping) = sleeping {
            sleeping.wake();
        }
        if let Some(runtime) = runtime {
            runtime.spawn(Driver {
                wheel: Arc::downgrade(self),
                sleep: None,
                due: Vec::new(),
                ended: false,
            });
        }
    }

    /// Wakes everything that is due. Returns the tick to look at next; `None` ends the driver.
    fn look(&self, due: &mut Vec<Waker>, driver: &Waker) -> Option<u64> {
        self.lookout.begin();
        let now = self.tick_before(Instant::now());
        let mut next = NEVER;
        for shard in self.shards.iter() {
            let mut shard = shard.lock();
            shard.slots.advance(now, due);
            next = next.min(shard.slots.next_tick().unwrap_or(NEVER));
            drop(shard);
            due.drain(..).for_each(Waker::wake);
        }

        self.lookout.settle(next, driver)
    }

    /// The driver was dropped with its runtime. Tasks that wait on other runtimes have to know: their
    /// next poll starts a new driver.
    fn driver_lost(&self) {
        self.lookout.lost();
        let mut waiting = Vec::new();
        for shard in self.shards.iter() {
            shard.lock().slots.take_items(&mut waiting);
            waiting.drain(..).for_each(Waker::wake);
        }
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        if let Some(sleeping) = self.lookout.sleeping() {
            sleeping.wake();
        }
    }
}

// ===== impl Driver =====

impl Future for Driver {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let this = &mut *self;
        loop {
            let Some(wheel) = this.wheel.upgrade() else {
                return Poll::Ready(());
            };
            let Some(next) = wheel.look(&mut this.due, cx.waker()) else {
                this.ended = true;
                return Poll::Ready(());
            };
            let wake_at = wheel.time_of(next);
            // Not held while asleep: the last handle of the layer must be able to drop it.
            drop(wheel);

            let sleep = this
                .sleep
                .get_or_insert_with(|| Box::pin(sleep_until(wake_at)));
            if sleep.deadline() != wake_at {
                sleep.as_mut().reset(wake_at);
            }
            if sleep.as_mut().poll(cx).is_pending() {
                return Poll::Pending;
            }
        }
    }
}

impl Drop for Driver {
    fn drop(&mut self) {
        if !self.ended
            && let Some(wheel) = self.wheel.upgrade()
        {
            wheel.driver_lost();
        }
    }
}
