//! Models of the gate: all orders in which two or three threads can come, give up and report, with all
//! that the memory model lets them see.
//!
//! loom runs the gate's own source, with its atomics and lock in place of the real ones.

use std::time::Duration;

use fastrand::Rng;
use loom::{sync::Arc, thread};

use self::gate::{Gate, Permit, Probe};
use crate::{
    circuit_breaker::{
        config::{self, BreakerConfig},
        state::{self, BreakerState},
    },
    loom_sync::all_orders,
};

mod sync {
    pub(super) use loom::sync::atomic::{AtomicU64, Ordering};

    pub(super) use crate::loom_sync::Mutex;
}

#[allow(
    clippy::duplicate_mod,
    dead_code,
    reason = "the same source over other atomics"
)]
#[path = "../gate.rs"]
mod gate;

const SECOND: u64 = 1_000_000;
const FAILED: Probe = Probe::Failed(None);

/// A gate whose open time is over at one second.
struct Rig {
    gate: Gate,
    config: BreakerConfig,
}

// ===== impl Rig =====

impl Rig {
    fn closed(probes: u32) -> Self {
        let config = BreakerConfig {
            probes,
            open_time: Duration::from_secs(1),
            jitter: crate::Ratio::ZERO,
            ..BreakerConfig::default()
        };
        let gate = Gate::new(Rng::with_seed(1));
        Self { gate, config }
    }

    fn open(probes: u32) -> Self {
        let rig = Self::closed(probes);
        let permit = rig.admit(0).expect("closed");
        assert!(rig.trip(permit, 0));
        rig
    }

    fn admit(&self, now: u64) -> Option<Permit> {
        let closed = self.gate.admit_closed();
        closed.or_else(|| self.gate.admit(&self.config, || now).0.ok())
    }

    fn trip(&self, permit: Permit, now: u64) -> bool {
        self.gate.trip(permit, &self.config, now, None)
    }

    fn probe(&self, permit: Permit, probe: Probe) -> Option<BreakerState> {
        self.gate.probe(permit, probe, &self.config, SECOND)
    }
}

#[test]
fn three_who_come_at_the_instant_of_half_open_get_as_many_probes_as_there_are() {
    for probes in [1, 2] {
        all_orders(3, move || {
            let rig = Arc::new(Rig::open(probes));
            let others: Vec<_> = (0..2)
                .map(|_| {
                    let rig = rig.clone();
                    thread::spawn(move || rig.admit(SECOND).is_some())
                })
                .collect();
            let mut admitted = u32::from(rig.admit(SECOND).is_some());
            for other in others {
                admitted += u32::from(other.join().unwrap());
            }
            assert_eq!(admitted, probes);
        });
    }
}

#[test]
fn a_slot_that_comes_back_is_there_for_one_more() {
    all_orders(3, || {
        let rig = Arc::new(Rig::open(1));
        let first = rig.admit(SECOND).expect("a probe");
        let (returns, comes) = (rig.clone(), rig.clone());
        let returns = thread::spawn(move || returns.probe(first, Probe::Returned));
        let comes = thread::spawn(move || comes.admit(SECOND).is_some());
        assert_eq!(returns.join().unwrap(), None);
        let came = comes.join().unwrap();
        assert_eq!(
            rig.admit(SECOND).is_some(),
            !came,
            "one slot, for one of the two"
        );
    });
}

#[test]
fn of_two_probes_with_different_fates_the_failure_decides_or_comes_too_late_to() {
    all_orders(3, || {
        let rig = Arc::new(Rig::open(2));
        let probes = [(); 2].map(|()| rig.admit(SECOND).expect("a probe"));
        let passes = rig.clone();
        let passes = thread::spawn(move || passes.probe(probes[0], Probe::Passed));
        let failed = rig.probe(probes[1], FAILED);
        // Both must succeed, so in every order this is the end of half-open, and the only one.
        assert_eq!(failed, Some(BreakerState::Open));
        assert_eq!(passes.join().unwrap(), None);
        assert_eq!(rig.gate.state(), BreakerState::Open);
    });
}

#[test]
fn of_two_failures_in_a_closed_gate_one_opens_it() {
    all_orders(3, || {
        let rig = Arc::new(Rig::closed(1));
        let permits = [(); 2].map(|()| rig.admit(0).expect("closed"));
        let other = rig.clone();
        let other = thread::spawn(move || other.trip(permits[0], 0));
        let tripped = rig.trip(permits[1], 0);
        assert!(tripped != other.join().unwrap(), "one transition");
        assert_eq!(rig.gate.state(), BreakerState::Open);
    });
}

#[test]
fn a_result_from_before_the_gate_opened_changes_nothing_whenever_it_comes() {
    all_orders(3, || {
        let rig = Arc::new(Rig::closed(1));
        let [late, opens] = [(); 2].map(|()| rig.admit(0).expect("closed"));
        assert!(rig.trip(opens, 0));
        let (reports, probes) = (rig.clone(), rig.clone());
        let reports = thread::spawn(move || {
            (
                reports.trip(late, SECOND),
                reports.probe(late, Probe::Passed),
            )
        });
        let probes = thread::spawn(move || {
            let probe = probes.admit(SECOND).expect("a probe");
            probes.probe(probe, Probe::Passed)
        });
        assert_eq!(reports.join().unwrap(), (false, None));
        assert_eq!(probes.join().unwrap(), Some(BreakerState::Closed));
        assert_eq!(rig.gate.state(), BreakerState::Closed);
    });
}

#[test]
fn what_an_operator_does_holds_against_a_probe_that_ends() {
    all_orders(3, || {
        let rig = Arc::new(Rig::open(1));
        let probe = rig.admit(SECOND).expect("a probe");
        let other = rig.clone();
        let ends = thread::spawn(move || other.probe(probe, Probe::Passed));
        rig.gate.force(BreakerState::ForcedOpen, SECOND);
        ends.join().unwrap();
        assert_eq!(rig.gate.state(), BreakerState::ForcedOpen);
        assert!(rig.admit(SECOND).is_none());
    });
}
