//! The layers of this crate under the contract, alone and in pairs.

use crate::{
    circuit_breaker::{BreakerConfig, CircuitBreakerLayer},
    rate_limit::RateLimitLayer,
    test_util::{
        Answer,
        contract::{Contract, Tally, pairs},
    },
};

fn breaker() -> Contract<CircuitBreakerLayer> {
    Contract::new(|| CircuitBreakerLayer::new(BreakerConfig::default()).unwrap())
        .clones_per_call(0)
        .tally(|layer| {
            let stats = layer.handle().stats();
            Tally {
                successes: stats.successes,
                failures: stats.failures,
            }
        })
        .shared_limit(10, Answer::status(500), || {
            CircuitBreakerLayer::builder()
                .consecutive_failures(10)
                .build()
                .unwrap()
        })
}

fn rate_limit() -> Contract<RateLimitLayer> {
    let limit = |burst| {
        RateLimitLayer::per_second(burst)
            .burst(burst)
            .build()
            .unwrap()
    };
    Contract::new(move || limit(1_000_000))
        .clones_per_call(0)
        .shared_limit(50, Answer::ok(), move || limit(50))
}

#[test]
fn the_circuit_breaker_keeps_the_contract() {
    breaker().check();
}

#[test]
fn the_rate_limit_keeps_the_contract() {
    rate_limit().check();
}

#[test]
fn the_layers_keep_the_contract_in_pairs() {
    pairs!(breaker(), rate_limit());
}
