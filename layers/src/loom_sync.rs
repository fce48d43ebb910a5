//! What the models put in the place of real locks: loom's, with parking_lot's ways.

/// A lock that loom watches.
#[derive(Debug)]
pub(crate) struct Mutex<T>(loom::sync::Mutex<T>);

// ===== impl Mutex =====

impl<T> Mutex<T> {
    pub(crate) fn new(value: T) -> Self {
        Self(loom::sync::Mutex::new(value))
    }

    pub(crate) fn lock(&self) -> loom::sync::MutexGuard<'_, T> {
        self.0.lock().expect("nobody panics with the lock held")
    }
}
