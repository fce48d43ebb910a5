//! Shares, and who moves when they change.

use proptest::prelude::*;

use super::super::{
    draw::{Rendezvous, Weights},
    sticky::hash_of,
};

const USERS: u64 = 2_000;

fn hash(user: u64) -> u64 {
    hash_of(&format!("user-{user}"))
}

fn seeds(arms: usize) -> Vec<u64> {
    (0..arms)
        .map(|arm| hash_of(&format!("arm-{arm}")))
        .collect()
}

fn rendezvous(weights: &[u32]) -> Rendezvous {
    Rendezvous::new(
        seeds(weights.len())
            .into_iter()
            .zip(weights.iter().copied()),
    )
}

/// Which arm every user has.
fn arms(weights: &[u32]) -> Vec<usize> {
    let arms = rendezvous(weights);
    (0..USERS).map(|user| arms.pick(hash(user))).collect()
}

fn weights() -> impl Strategy<Value = Vec<u32>> {
    let weights = prop::collection::vec(prop_oneof![0..10_u32, 0..10_000_u32], 2..8);
    weights.prop_filter("a sum of 0", |weights| {
        weights.iter().any(|&weight| weight > 0)
    })
}

fn two_weights() -> impl Strategy<Value = (Vec<u32>, Vec<u32>)> {
    (weights(), weights()).prop_map(|(mut before, mut after)| {
        let arms = before.len().min(after.len());
        before.truncate(arms);
        after.truncate(arms);
        before[0] = before[0].max(1);
        after[0] = after[0].max(1);
        (before, after)
    })
}

/// How many of `all` an arm may differ from its share: five standard deviations.
fn tolerance(share: f64, all: f64) -> f64 {
    5.0 * (all * share * (1.0 - share)).sqrt() + 1.0
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn growing_one_arm_moves_users_to_it_and_nowhere_else(
        before in weights(), arm in any::<prop::sample::Index>(), growth in 1..100_000_u32,
    ) {
        let grown = arm.index(before.len());
        let mut after = before.clone();
        after[grown] += growth;
        for (from, to) in arms(&before).into_iter().zip(arms(&after)) {
            prop_assert!(from == to || to == grown, "{from} to {to}");
        }
    }

    #[test]
    fn users_move_only_to_arms_that_have_grown_against_theirs((before, after) in two_weights()) {
        let ratio = |a: u32, b: u32| u64::from(a) * u64::from(b);
        for (from, to) in arms(&before).into_iter().zip(arms(&after)) {
            let grown = ratio(after[to], before[from]) > ratio(after[from], before[to]);
            prop_assert!(from == to || grown, "{from} to {to}");
        }
    }

    #[test]
    fn the_order_of_the_arms_makes_no_difference(weights in weights(), turn in 1..8_usize) {
        let mut named: Vec<_> = seeds(weights.len()).into_iter().zip(weights).collect();
        let one = Rendezvous::new(named.iter().copied());
        let of_one = |user| named[one.pick(hash(user))];
        let chosen: Vec<_> = (0..USERS).map(of_one).collect();
        let turn = turn % named.len();
        named.rotate_left(turn);
        let other = Rendezvous::new(named.iter().copied());
        for (user, chosen) in chosen.into_iter().enumerate() {
            prop_assert_eq!(named[other.pick(hash(user as u64))], chosen);
        }
    }

    #[test]
    fn every_arm_has_its_share_of_the_users(weights in weights()) {
        let sum: f64 = weights.iter().map(|&weight| f64::from(weight)).sum();
        let mut count = vec![0; weights.len()];
        arms(&weights).into_iter().for_each(|arm| count[arm] += 1);
        for (&count, &weight) in count.iter().zip(&weights) {
            let share = f64::from(weight) / sum;
            let off = (f64::from(count) - share * USERS as f64).abs();
            prop_assert!(off <= tolerance(share, USERS as f64), "{count} of {share}");
            prop_assert!(weight > 0 || count == 0);
        }
    }

    #[test]
    fn a_random_number_finds_each_arm_as_often_as_its_weight_says(weights in weights()) {
        let drawn = Weights::new(&weights);
        let sum: u64 = weights.iter().map(|&weight| u64::from(weight)).sum();
        let mut count = vec![0; weights.len()];
        for point in 0..sum {
            // The first number that falls on this point of the line.
            let random = (u128::from(point) << 64).div_ceil(u128::from(sum));
            count[drawn.pick(random as u64)] += 1;
        }
        prop_assert_eq!(count, weights);
    }
}

#[test]
fn the_ends_of_the_line_have_an_arm() {
    for weights in [
        &[0, 7][..],
        &[7, 0],
        &[0, 1, 0],
        &[u32::MAX, 0],
        &[1, u32::MAX - 1],
    ] {
        let drawn = Weights::new(weights);
        let sticky = rendezvous(weights);
        for random in [0, 1, u64::MAX / 2, u64::MAX - 1, u64::MAX] {
            assert!(weights[drawn.pick(random)] > 0, "{weights:?} {random}");
            assert!(weights[sticky.pick(random)] > 0, "{weights:?} {random}");
        }
    }
}

#[test]
fn an_arm_of_one_part_in_a_thousand_has_its_users() {
    let arms = rendezvous(&[999, 1]);
    let found = (0..1_000_000)
        .filter(|&user| arms.pick(hash(user)) == 1)
        .count();
    assert!(found.abs_diff(1_000) < 160, "{found}");
}
