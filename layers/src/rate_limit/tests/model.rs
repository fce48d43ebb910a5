//! Models of the counting: all orders in which threads can take tokens, lease them and give them back.
//!
//! loom runs the sources themselves, with its atomics in place of the real ones. The rate is one token an
//! hour, so that the clock has no say.

use std::{num::NonZeroU32, sync::Arc};

use loom::thread::{self, JoinHandle};
use tokio::time::Instant;

use self::{
    gcra::{Cell, Gcra},
    leases::{Leased, Leases},
};
use crate::{
    loom_sync::{all_orders, on_shard},
    rate_limit::{
        limit::{self, Algorithm},
        rate,
    },
};

mod sync {
    pub(super) use loom::sync::atomic::{AtomicU32, AtomicU64, Ordering};

    pub(super) use crate::loom_sync::Sharded;
}

#[allow(
    clippy::duplicate_mod,
    dead_code,
    reason = "the same source over other atomics"
)]
#[path = "../gcra.rs"]
mod gcra;
#[allow(
    clippy::duplicate_mod,
    dead_code,
    reason = "the same source over other atomics"
)]
#[path = "../leases.rs"]
mod leases;

const ONE: NonZeroU32 = NonZeroU32::MIN;
const TWO: NonZeroU32 = NonZeroU32::MIN.saturating_add(1);

/// An algorithm and the state of one limit.
struct Rig<A: Algorithm> {
    algorithm: A,
    state: A::Cell,
}

// ===== impl Rig =====

impl Rig<Gcra> {
    fn exact(burst: u32) -> Arc<Self> {
        let rate = "1/h".parse().unwrap();
        Arc::new(Self {
            algorithm: Gcra::new(rate, burst, 0, None, Instant::now()),
            state: Cell::default(),
        })
    }
}

impl Rig<Leased> {
    fn leased(burst: u32) -> Arc<Self> {
        let rate = "1/h".parse().unwrap();
        Arc::new(Self {
            algorithm: Leased::new(rate, burst, None, Instant::now()),
            state: Leases::default(),
        })
    }
}

impl<A> Rig<A>
where
    A: Algorithm<Cell: Send + Sync> + Send + Sync + 'static,
{
    fn take(&self, tokens: NonZeroU32) -> bool {
        self.algorithm.take(&self.state, tokens).is_ok()
    }

    /// How many of so many calls pass.
    fn pass(&self, calls: u32) -> u32 {
        (0..calls).filter(|_| self.take(ONE)).count() as u32
    }

    /// A thread with this shard.
    fn on<R: 'static>(
        self: &Arc<Self>,
        shard: usize,
        run: impl FnOnce(&Self) -> R + 'static,
    ) -> JoinHandle<R> {
        let rig = self.clone();
        thread::spawn(move || {
            on_shard(shard);
            run(&rig)
        })
    }
}

#[test]
fn of_three_who_want_the_last_two_tokens_two_get_them() {
    all_orders(3, || {
        let rig = Rig::exact(2);
        let others = [0, 1].map(|_| rig.on(0, |rig| rig.pass(1)));
        let own = rig.pass(1);
        let others = others.map(|other| other.join().unwrap());
        assert_eq!(own + others[0] + others[1], 2);
    });
}

#[test]
fn a_token_that_is_given_back_is_there_for_one_more() {
    all_orders(3, || {
        let rig = Rig::exact(1);
        assert!(rig.take(ONE));
        let other = rig.on(0, |rig| rig.pass(1));
        rig.algorithm.give_back(&rig.state, ONE);
        let passed = other.join().unwrap();
        assert_eq!(passed + rig.pass(2), 1);
    });
}

#[test]
fn threads_with_leases_of_their_own_get_the_burst_together() {
    all_orders(2, || {
        let rig = Rig::leased(4);
        let other = rig.on(1, |rig| rig.pass(2));
        let passed = rig.pass(2) + other.join().unwrap();
        assert_eq!(passed, 4, "nobody is refused while there are tokens");
        assert_eq!(rig.pass(1), 0, "and none is made");
    });
}

#[test]
fn threads_that_share_a_lease_lose_no_token_and_make_none() {
    all_orders(2, || {
        let rig = Rig::leased(4);
        let other = rig.on(0, |rig| rig.pass(2));
        let passed = rig.pass(1) + other.join().unwrap();
        assert_eq!(passed + rig.pass(4), 4);
    });
}

#[test]
fn a_call_that_costs_more_than_is_leased_gives_the_lease_back() {
    all_orders(2, || {
        let rig = Rig::leased(8);
        assert!(rig.take(ONE), "and two more in the lease");
        let other = rig.on(0, |rig| 2 * u32::from(rig.take(TWO)));
        let passed = 1 + rig.pass(1) + other.join().unwrap();
        on_shard(1);
        assert_eq!(passed + rig.pass(8), 8);
    });
}

#[test]
fn tokens_that_a_thread_holds_are_found_by_another() {
    all_orders(3, || {
        let rig = Rig::leased(4);
        assert!(rig.take(ONE), "and one more in the lease");
        let others = [1, 1].map(|shard| rig.on(shard, |rig| rig.pass(2)));
        let passed = others.map(|other| other.join().unwrap());
        assert_eq!(1 + passed[0] + passed[1] + rig.pass(1), 4);
    });
}
