//! A gate that tests open by hand.

use std::{
    future::poll_fn,
    sync::Arc,
    task::{Context, Poll, Waker},
};

use parking_lot::Mutex;

/// Something that stays pending until the test opens it: a readiness, an answer, a frame of a body.
///
/// Clones are the same gate. A gate never wakes anybody before it is opened, so that a wake-up seen
/// while it is shut was made by the layer under test.
#[derive(Debug, Clone, Default)]
pub struct Gate(Arc<Mutex<State>>);

#[derive(Debug, Default)]
struct State {
    open: bool,
    wakers: Vec<Waker>,
}

// ===== impl Gate =====

impl Gate {
    /// A gate that is shut.
    pub fn new() -> Self {
        Self::default()
    }

    /// Opens the gate for good and wakes everybody who waits at it.
    pub fn open(&self) {
        let wakers = {
            let mut state = self.0.lock();
            state.open = true;
            std::mem::take(&mut state.wakers)
        };
        // Outside the lock: a waker may run its task at once.
        wakers.into_iter().for_each(Waker::wake);
    }

    /// Shuts the gate again.
    pub fn shut(&self) {
        self.0.lock().open = false;
    }

    /// Whether the gate is open.
    pub fn is_open(&self) -> bool {
        self.0.lock().open
    }

    /// How many wakers wait at the gate.
    pub fn waiting(&self) -> usize {
        self.0.lock().wakers.len()
    }

    /// Pending until the gate is open.
    pub fn poll_open(&self, cx: &mut Context<'_>) -> Poll<()> {
        let mut state = self.0.lock();
        if state.open {
            return Poll::Ready(());
        }
        if !state.wakers.iter().any(|waker| waker.will_wake(cx.waker())) {
            state.wakers.push(cx.waker().clone());
        }
        Poll::Pending
    }

    /// Waits until the gate is open.
    pub async fn opened(&self) {
        poll_fn(|cx| self.poll_open(cx)).await;
    }
}
