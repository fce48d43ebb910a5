//! A subscriber for one test, among tests that run at the same time.

use std::sync::LazyLock;

use tracing::{
    Dispatch,
    dispatcher::{self, DefaultGuard},
    subscriber::NoSubscriber,
};

/// Makes `subscriber` the one of this thread until the guard is dropped, also while other tests run.
///
/// While the process has a single subscriber, `tracing` asks the one of whichever thread comes first whether a span
/// or an event is wanted at all, and remembers that for all threads. If that thread belongs to a test without a
/// subscriber, the answer is no, and this test would hear nothing. So there is a second subscriber for ever, which
/// hears nothing, and with two of them `tracing` asks both.
///
/// ```
/// use tower_mesh_layers::test_util::listen;
/// use tracing_subscriber::Registry;
///
/// let _listening = listen(Registry::default());
/// assert!(tracing::enabled!(tracing::Level::TRACE));
/// ```
pub fn listen(subscriber: impl Into<Dispatch>) -> DefaultGuard {
    static SECOND: LazyLock<Dispatch> = LazyLock::new(|| Dispatch::new(NoSubscriber::new()));
    LazyLock::force(&SECOND);
    dispatcher::set_default(&subscriber.into())
}
