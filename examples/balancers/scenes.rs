//! The scenes that come with it.

use std::time::Duration;

use tower_mesh::{
    discovery::sim::{Scenario, Trouble},
    layers::config::Ratio,
};

const fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

/// 50 clients, 100 servers with 4 workers each, 10 ms of work for a call: see [`Scenario`].
pub fn all() -> Vec<Scenario> {
    let slow = |percent, factor| Trouble::Slow {
        share: Ratio::percent(percent),
        factor,
        every: ms(5_000),
    };
    let rolling = Trouble::RollingRestart {
        every: ms(250),
        away: ms(2_000),
    };
    let zone = Trouble::ZoneLost {
        share: Ratio::percent(33),
        after: ms(5_000),
        noticed: ms(1_000),
    };
    let even = Scenario::default;
    vec![
        even(),
        even().with_trouble("slow 20 % x3 at 0.70", slow(20, 3.0)),
        even()
            .with_trouble("slow 20 % x3 at 0.85", slow(20, 3.0))
            .with_load(0.85),
        even().with_trouble("slow 5 % x10", slow(5, 10.0)),
        even().with_trouble("one fails fast", Trouble::FailFast),
        even().with_trouble("rolling restart", rolling),
        even().with_trouble("zone lost", zone).with_load(0.5),
    ]
}
