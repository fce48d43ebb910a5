use std::time::Duration;

use tower_mesh_layers::config::Ratio;

use super::*;
use crate::balance::Picker;

fn small() -> Scenario {
    Scenario {
        clients: 10,
        servers: 20,
        duration: Duration::from_secs(6),
        warm_up: Duration::from_secs(2),
        ..Scenario::default()
    }
}

fn slow() -> Scenario {
    small().with_trouble(
        "slow",
        Trouble::Slow {
            share: Ratio::percent(20),
            factor: 3.0,
            every: Duration::from_secs(5),
        },
    )
}

fn ours() -> Ours {
    Ours::new("p2c-ewma", Picker::p2c_ewma)
}

fn ms(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1e3
}

#[test]
fn one_seed_tells_one_story() {
    let scenario = slow();
    let tell = |seed| {
        let outcome = run(&scenario, &ours(), seed).unwrap();
        (outcome.arrived, outcome.troubled, outcome.quantile(0.99))
    };
    assert_eq!(tell(1), tell(1));
    assert_ne!(tell(1), tell(2));
}

#[test]
fn as_many_calls_come_as_the_load_says() {
    let outcome = run(&small(), &Oracle, 3).unwrap();
    // 20 servers of 4 workers at 10 ms can do 8,000 calls a second; 70 % of them for 4 s.
    let expected = 0.7 * 8_000.0 * 4.0;
    let seen = outcome.arrived as f64 / expected;
    assert!((0.97..1.03).contains(&seen), "{seen}");
    assert_eq!(outcome.failed, 0);
}

#[test]
fn a_server_that_is_alone_is_the_queue_of_the_textbook() {
    // M/M/1: the time in the system is exponential, with mean 1 / (1 - load) service times.
    let scenario = Scenario {
        clients: 1,
        servers: 1,
        workers: 1,
        load: 0.5,
        duration: Duration::from_secs(400),
        ..Scenario::default()
    };
    let outcome = run(&scenario, &ours(), 5).unwrap();
    let median = ms(outcome.quantile(0.5)) / (20.0 * std::f64::consts::LN_2);
    let p99 = ms(outcome.quantile(0.99)) / (20.0 * 100_f64.ln());
    assert!((0.93..1.07).contains(&median), "{median}");
    assert!((0.85..1.15).contains(&p99), "{p99}");
}

#[test]
fn a_failing_server_is_told_apart() {
    let scenario = small().with_trouble("fail-fast", Trouble::FailFast);
    let ours = run(&scenario, &ours(), 1).unwrap();
    assert_eq!(ours.failed, ours.troubled);
    let robin = Ours::new("round-robin", Picker::round_robin);
    let robin = run(&scenario, &robin, 1).unwrap();
    for outcome in [ours, robin] {
        // Ejections keep it far below the twentieth part that is its share.
        assert!(outcome.failed > 0 && outcome.troubled_share() < 0.01);
    }
}

#[test]
fn a_rolling_restart_costs_no_call() {
    let every = Duration::from_millis(100);
    let away = Duration::from_millis(500);
    let scenario = small().with_trouble("rolling", Trouble::RollingRestart { every, away });
    let outcome = run(&scenario, &ours(), 1).unwrap();
    assert_eq!(outcome.failed, 0);
    assert!(outcome.answers() > 20_000);
}

#[test]
fn of_a_lost_zone_only_what_it_had_is_lost() {
    let trouble = Trouble::ZoneLost {
        share: Ratio::percent(20),
        after: Duration::from_secs(1),
        noticed: Duration::from_secs(1),
    };
    let scenario = small().with_trouble("zone", trouble);
    let outcome = run(&scenario, &ours(), 1).unwrap();
    // Four servers with up to four calls each, and some that wait.
    assert!((1..=64).contains(&outcome.failed), "{}", outcome.failed);
}

#[test]
fn a_bad_scenario_is_refused_with_the_field() {
    let scenario = Scenario {
        workers: 0,
        ..Scenario::default()
    };
    let error = run(&scenario, &Oracle, 1).unwrap_err();
    assert_eq!(error.to_string(), "workers: got `0`, expected 1 to 100000");
}
