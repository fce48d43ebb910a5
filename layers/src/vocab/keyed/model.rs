//! A model of the bound: loom runs its own source, with loom's atomics in place of the real ones. The rest
//! of the map is under locks.

use loom::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
};

use self::room::Room;
use crate::loom_sync::all_orders;

mod sync {
    pub(super) use loom::sync::atomic::{AtomicUsize, Ordering};
}

#[allow(
    clippy::duplicate_mod,
    dead_code,
    reason = "the same source over other atomics"
)]
#[path = "room.rs"]
mod room;

#[test]
fn there_are_never_more_than_there_may_be_and_what_is_not_kept_goes_back() {
    const CAP: usize = 1;
    all_orders(3, || {
        let len = Arc::new(AtomicUsize::new(0));
        let keeps = |len: &AtomicUsize| {
            let room = Room::take(len, CAP);
            room.map(Room::keep).is_some()
        };
        let (kept, dropped) = (len.clone(), len.clone());
        let kept = thread::spawn(move || keeps(&kept));
        let dropped = thread::spawn(move || drop(Room::take(&dropped, CAP)));
        let own = keeps(&len);
        dropped.join().unwrap();
        let both = [own, kept.join().unwrap()];
        assert_ne!(both, [true, true]);
        let count = both.into_iter().filter(|kept| *kept).count();
        assert_eq!(len.load(Ordering::Relaxed), count);
    });
}
