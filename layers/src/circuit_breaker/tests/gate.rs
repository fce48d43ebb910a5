use fastrand::Rng;
use proptest::prelude::{prop_assert, prop_assert_eq, proptest};

use std::time::Duration;

use crate::circuit_breaker::{
    BreakerConfig, BreakerState,
    gate::{Gate, Permit, Probe, Refused, open_time},
};

const SECOND: u64 = 1_000_000;
const FAILED: Probe = Probe::Failed(None);

fn config(probes: u32) -> BreakerConfig {
    BreakerConfig {
        probes,
        open_time: Duration::from_secs(1),
        max_open_time: Duration::from_secs(30),
        stable_time: Duration::from_secs(10),
        probation: Duration::from_secs(2),
        ..BreakerConfig::default()
    }
}

fn admit(gate: &Gate, config: &BreakerConfig, now: u64) -> Result<Permit, Refused> {
    gate.admit(config, || now).0
}

/// A gate that is open, and when its open time is over.
fn open(config: &BreakerConfig) -> (Gate, u64) {
    let gate = Gate::new(Rng::with_seed(7));
    let permit = admit(&gate, config, 0).unwrap();
    assert!(gate.trip(permit, config, 0, None));
    let Err(Refused(Some(wait))) = admit(&gate, config, 0) else {
        panic!("not open")
    };
    (gate, wait)
}

#[test]
fn the_open_time_doubles_up_to_its_cap_and_is_jittered_upwards() {
    let (config, mut rng) = (config(1), Rng::with_seed(1));
    for (opened, least) in [(0, 1), (1, 2), (4, 16), (5, 30), (31, 30), (40, 30)] {
        for _ in 0..100 {
            let open = open_time(&config, opened, &mut rng).as_secs_f64();
            assert!(
                (f64::from(least)..f64::from(least) * 1.5).contains(&open),
                "{opened}: {open}"
            );
        }
        let exact = BreakerConfig {
            jitter: crate::Ratio::ZERO,
            ..config.clone()
        };
        let open = open_time(&exact, opened, &mut rng);
        assert_eq!(open, Duration::from_secs(least as u64));
    }
}

#[test]
fn exactly_the_permitted_probes_pass_and_all_must_succeed() {
    let config = config(3);
    let (gate, later) = open(&config);
    let probes: Vec<_> = (0..100)
        .filter_map(|_| admit(&gate, &config, later).ok())
        .collect();
    assert_eq!(probes.len(), 3);
    assert_eq!(gate.probe(probes[0], Probe::Passed, &config, later), None);
    assert_eq!(gate.probe(probes[1], Probe::Passed, &config, later), None);
    assert!(
        admit(&gate, &config, later).is_err(),
        "a passed probe must not free a slot"
    );
    let closed = Some(BreakerState::Closed);
    assert_eq!(gate.probe(probes[2], Probe::Passed, &config, later), closed);
    assert_eq!(gate.state(), BreakerState::Closed);
}

#[test]
fn a_result_of_an_earlier_generation_changes_nothing() {
    let config = config(1);
    let (gate, later) = open(&config);
    let stale = admit(&gate, &config, later).unwrap();
    gate.probe(stale, FAILED, &config, later);
    for probe in [Probe::Passed, FAILED, Probe::Returned, Probe::Streaming] {
        assert_eq!(gate.probe(stale, probe, &config, later), None);
        assert_eq!(gate.state(), BreakerState::Open);
    }
    assert!(!gate.trip(stale, &config, later, None));
}

#[test]
fn silence_fails_a_probe_and_a_living_stream_passes_it() {
    let config = config(1);
    for (heads, state) in [(0, BreakerState::Open), (1, BreakerState::Closed)] {
        let (gate, later) = open(&config);
        let probe = admit(&gate, &config, later).unwrap();
        for _ in 0..heads {
            gate.probe(probe, Probe::Streaming, &config, later);
        }
        assert_eq!(
            admit(&gate, &config, later + 2 * SECOND - 1),
            Err(Refused(None))
        );
        let _ = admit(&gate, &config, later + 2 * SECOND);
        assert_eq!(gate.state(), state);
    }
}

#[test]
fn a_silent_probe_fails_whatever_became_of_the_others() {
    let config = config(2);
    let (gate, later) = open(&config);
    let mut stream = admit(&gate, &config, later).unwrap();
    let _silent = admit(&gate, &config, later).unwrap();
    gate.probe(stream, Probe::Streaming, &config, later);
    stream.streaming = true;
    gate.probe(stream, Probe::Passed, &config, later);
    let _ = admit(&gate, &config, later + 2 * SECOND);
    assert_eq!(gate.state(), BreakerState::Open);
}

#[test]
fn enough_good_probes_close_it_although_one_failed() {
    let config = BreakerConfig {
        success_threshold: Some(2),
        ..config(3)
    };
    let (gate, later) = open(&config);
    let probes: Vec<_> = (0..3)
        .map(|_| admit(&gate, &config, later).unwrap())
        .collect();
    for (permit, probe, entered) in [
        (probes[0], FAILED, None),
        (probes[1], Probe::Passed, None),
        (probes[2], Probe::Passed, Some(BreakerState::Closed)),
    ] {
        assert_eq!(gate.probe(permit, probe, &config, later), entered);
    }
}

#[test]
fn it_opens_as_soon_as_enough_good_probes_cannot_come() {
    let config = BreakerConfig {
        success_threshold: Some(2),
        ..config(3)
    };
    let (gate, later) = open(&config);
    let probes: Vec<_> = (0..3)
        .map(|_| admit(&gate, &config, later).unwrap())
        .collect();
    assert_eq!(gate.probe(probes[0], FAILED, &config, later), None);
    assert!(
        admit(&gate, &config, later).is_err(),
        "a failed probe must not free a slot"
    );
    let open = Some(BreakerState::Open);
    assert_eq!(gate.probe(probes[1], FAILED, &config, later), open);
    assert_eq!(gate.probe(probes[2], Probe::Passed, &config, later), None);
}

#[test]
fn a_reload_in_half_open_does_not_ask_for_other_probes() {
    let (one, three) = (config(1), config(3));
    let (gate, later) = open(&one);
    let probe = admit(&gate, &one, later).unwrap();
    gate.probe(probe, Probe::Passed, &three, later);
    assert_eq!(gate.state(), BreakerState::Closed);
}

#[test]
fn a_flapping_peer_is_probed_less_and_less_until_it_is_stable() {
    // One second up, one second down, for a minute (failure class R6).
    let config = config(1);
    let gate = Gate::new(Rng::with_seed(3));
    let (mut opens, mut last) = (0, BreakerState::Closed);
    for now in (0..60 * SECOND).step_by(10_000) {
        let up = (now / SECOND).is_multiple_of(2);
        if let Ok(permit) = admit(&gate, &config, now) {
            match (permit.probe, up) {
                (true, true) => _ = gate.probe(permit, Probe::Passed, &config, now),
                (true, false) => _ = gate.probe(permit, FAILED, &config, now),
                (false, true) => {}
                (false, false) => _ = gate.trip(permit, &config, now, None),
            }
        }
        opens += u32::from(gate.state() == BreakerState::Open && last != BreakerState::Open);
        last = gate.state();
    }
    assert!(opens <= 7, "opened {opens} times");
}

#[test]
fn force_holds_until_reset() {
    let config = config(1);
    let gate = Gate::new(Rng::with_seed(1));
    let before = admit(&gate, &config, 0).unwrap();
    gate.force(BreakerState::ForcedOpen, 0);
    assert_eq!(admit(&gate, &config, u64::MAX / 4), Err(Refused(None)));
    gate.force(BreakerState::ForcedClosed, 0);
    let permit = admit(&gate, &config, 0).unwrap();
    assert!(
        !gate.trip(permit, &config, 0, None),
        "a forced gate must not trip"
    );
    gate.force(BreakerState::Closed, 0);
    assert!(
        !gate.trip(before, &config, 0, None),
        "a call from before the reset must not trip it"
    );
    assert_eq!(gate.state(), BreakerState::Closed);
}

proptest! {
    /// Failure class R5: whatever becomes of the probes, the slots add up.
    #[test]
    fn no_slot_is_lost(probes in 1_u32..6, fates in proptest::collection::vec(0_u8..3, 1..200)) {
        let config = config(probes);
        let (gate, later) = open(&config);
        let mut held = Vec::new();
        for fate in fates {
            match fate {
                0 => held.extend(admit(&gate, &config, later).ok()),
                1 => if let Some(permit) = held.pop() {
                    gate.probe(permit, Probe::Returned, &config, later);
                },
                _ => prop_assert!(held.len() <= probes as usize),
            }
        }
        for permit in held.drain(..) {
            gate.probe(permit, Probe::Returned, &config, later);
        }
        let free = (0..100).filter(|_| admit(&gate, &config, later).is_ok()).count();
        prop_assert_eq!(free, probes as usize);
    }
}
