//! Models of the total: loom runs the source of the limits, with its atomics in place of the real ones.

use loom::{sync::Arc, thread};

use self::limits::{ReplayLimits, Reserved};
use crate::loom_sync::all_orders;

mod sync {
    pub(super) use loom::sync::atomic::{AtomicUsize, Ordering};
}

#[allow(
    clippy::duplicate_mod,
    dead_code,
    unreachable_pub,
    reason = "the same source over other atomics"
)]
#[path = "limits.rs"]
mod limits;

/// Takes so many bytes, if they are there.
fn take(limits: &ReplayLimits, bytes: usize) -> Option<Reserved> {
    let mut reserved = limits.reserve_nothing();
    reserved.grow(bytes).then_some(reserved)
}

#[test]
fn bodies_together_never_have_more_than_the_total_and_give_all_of_it_back() {
    const TOTAL: usize = 5;
    all_orders(3, || {
        let limits = Arc::new(ReplayLimits::new(TOTAL, TOTAL));
        let others = [3, 2].map(|bytes| {
            let limits = limits.clone();
            thread::spawn(move || take(&limits, bytes))
        });
        let own = take(&limits, 3);
        let others = others.map(|other| other.join().unwrap());
        let all: Vec<_> = others.into_iter().chain([own]).flatten().collect();
        let bytes: usize = all.iter().map(Reserved::bytes).sum();
        assert!(bytes <= TOTAL, "{bytes}");
        assert_eq!(limits.kept(), bytes);
        drop(all);
        assert_eq!(limits.kept(), 0);
        assert!(take(&limits, TOTAL).is_some());
    });
}
