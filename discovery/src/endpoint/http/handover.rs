//! Handing a request over to a connection that may just be ending.
//!
//! hyper's `SendRequest` and its connection talk through a channel of tokio. Whoever sends while the
//! receiver is dropped may be too late for its last emptying and too early for a refusal; then the
//! request stays in the channel, unanswered, until the last sender is gone. Lanes keep their senders,
//! so that would be for ever, and the caller with it. On a busy machine, with a peer that closed each
//! connection after twenty answers, one call in 25,000 was lost like that.
//!
//! So the receiver is dropped while nobody sends, and the next one who does is refused.

use std::{
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use parking_lot::RwLock;

/// Keeps the end of a connection and what is sent on it apart. All its lanes share it.
#[derive(Debug, Default)]
pub(super) struct Handover(RwLock<()>);

/// A connection to be driven, which does not end while something is being sent on it.
pub(super) struct Driven<C> {
    connection: Option<C>,
    handover: Arc<Handover>,
}

// ===== impl Handover =====

impl Handover {
    /// Sends, by a closure that must not wait: the lock is shared but for the moment of the end.
    #[inline]
    pub(super) fn send<R>(&self, send: impl FnOnce() -> R) -> R {
        let _open = self.0.read();
        send()
    }
}

// ===== impl Driven =====

impl<C> Driven<C> {
    pub(super) fn new(connection: C) -> Self {
        Self {
            connection: Some(connection),
            handover: Arc::default(),
        }
    }

    pub(super) fn handover(&self) -> Arc<Handover> {
        self.handover.clone()
    }

    pub(super) fn get_ref(&self) -> Option<&C> {
        self.connection.as_ref()
    }
}

impl<C: Future + Unpin> Future for Driven<C> {
    type Output = C::Output;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<C::Output> {
        match &mut self.connection {
            Some(connection) => Pin::new(connection).poll(cx),
            None => Poll::Pending, // only while it is dropped
        }
    }
}

impl<C> Drop for Driven<C> {
    fn drop(&mut self) {
        let _ending = self.handover.0.write();
        self.connection = None;
    }
}

#[cfg(test)]
mod tests {
    use std::{
        sync::{
            Barrier,
            atomic::{AtomicBool, Ordering::SeqCst},
        },
        thread,
        time::Duration,
    };

    use super::*;

    struct Connection(Arc<AtomicBool>);

    impl Drop for Connection {
        fn drop(&mut self) {
            self.0.store(true, SeqCst);
            thread::park_timeout(Duration::from_millis(20));
            self.0.store(false, SeqCst);
        }
    }

    #[test]
    fn nobody_sends_while_a_connection_ends() {
        let (ending, done) = (Arc::<AtomicBool>::default(), AtomicBool::default());
        let driven = Driven::new(Connection(ending.clone()));
        let (handover, under_way) = (driven.handover(), Barrier::new(2));
        thread::scope(|scope| {
            let sender = scope.spawn(|| {
                under_way.wait();
                while !done.load(SeqCst) {
                    handover.send(|| assert!(!ending.load(SeqCst)));
                }
            });
            under_way.wait();
            drop(driven);
            done.store(true, SeqCst);
            sender.join().unwrap();
        });
    }
}
