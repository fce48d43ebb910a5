//! Whose turn it is, where some are due more often than others: the algorithms, without state.

/// A written cycle has at most this many turns: 8 KiB.
const MAX_TURNS: u64 = 4_096;
/// Writing a cycle may take so many steps (turns times endpoints): about a tenth of a millisecond.
const MAX_STEPS: u64 = 1 << 18;
/// 2^64 divided by the golden ratio.
const GOLDEN: u64 = 0x9e37_79b9_7f4a_7c15;

/// A line on which everyone has a part as long as its weight.
#[derive(Debug)]
pub(super) struct Shares {
    /// Where each part ends.
    ends: Box<[u64]>,
}

/// An endless order in which everyone comes as often as its weight says, and evenly.
#[derive(Debug)]
pub(super) enum Turns {
    /// Smooth weighted round robin, as nginx has it since 1.3.1: a cycle that is written out.
    Cycle(Box<[u16]>),
    /// For cycles that would be long: turn k goes to the owner of the point k/φ (mod 1) on the line.
    /// No ratio is further from all fractions than the golden one, so the points fill every part of
    /// the line evenly (H. Weyl, 1916; the three-gap theorem): what a part gets differs from its
    /// share by a few turns, however many were taken. A queue of earliest deadlines would be as even,
    /// and needs a lock.
    Spread(Shares),
}

// ===== impl Shares =====

impl Shares {
    pub(super) fn new(weights: &[u32]) -> Self {
        let mut end = 0;
        let ends = weights.iter().map(|&weight| {
            end += u64::from(weight.max(1));
            end
        });
        Self {
            ends: ends.collect(),
        }
    }

    fn total(&self) -> u64 {
        self.ends.last().copied().unwrap_or(0)
    }

    /// Who owns a point of the line, which reaches from 0 to 2^64.
    #[inline]
    pub(super) fn owner(&self, point: u64) -> usize {
        let place = ((u128::from(point) * u128::from(self.total())) >> 64) as u64;
        self.ends.partition_point(|&end| end <= place)
    }

    /// Who owns a point of the line that is left when one part is cut out. There are at least two.
    #[inline]
    pub(super) fn other_owner(&self, cut: usize, point: u64) -> usize {
        let start = cut.checked_sub(1).map_or(0, |before| self.ends[before]);
        let length = self.ends[cut] - start;
        let rest = self.total() - length;
        let mut place = ((u128::from(point) * u128::from(rest)) >> 64) as u64;
        if place >= start {
            place += length;
        }
        self.ends.partition_point(|&end| end <= place)
    }
}

// ===== impl Turns =====

impl Turns {
    pub(super) fn new(weights: &[u32]) -> Self {
        let divisor = weights.iter().fold(0, |a, &b| gcd(a, b.max(1)));
        let reduced = |weight: &u32| u64::from(weight.max(&1) / divisor);
        let turns: u64 = weights.iter().map(reduced).sum();
        if turns > MAX_TURNS || turns * weights.len() as u64 > MAX_STEPS {
            return Self::Spread(Shares::new(weights));
        }
        let weights: Vec<i64> = weights
            .iter()
            .map(|weight| reduced(weight) as i64)
            .collect();
        let mut credit = vec![0; weights.len()];
        let turns = (0..turns as i64).map(|_| smooth(&weights, &mut credit, turns as i64));
        Self::Cycle(turns.collect())
    }

    /// Whose turn it is, if this many were before.
    #[inline]
    pub(super) fn at(&self, count: usize) -> usize {
        match self {
            Self::Cycle(turns) => usize::from(turns[count % turns.len()]),
            Self::Spread(shares) => shares.owner((count as u64).wrapping_mul(GOLDEN)),
        }
    }
}

/// Everyone earns its weight, and the one that has most pays for all of it.
fn smooth(weights: &[i64], credit: &mut [i64], total: i64) -> u16 {
    let mut best = 0;
    for (i, weight) in weights.iter().enumerate() {
        credit[i] += weight;
        if credit[i] > credit[best] {
            best = i;
        }
    }
    credit[best] -= total;
    best as u16
}

fn gcd(a: u32, b: u32) -> u32 {
    if b == 0 { a } else { gcd(b, a % b) }
}

#[cfg(test)]
mod tests {
    use proptest::{collection::vec, prelude::*};

    use super::*;

    /// How far anyone was ahead of or behind its share, at worst, in turns.
    fn unevenness(weights: &[u32], turns: usize) -> f64 {
        let order = Turns::new(weights);
        let total: f64 = weights.iter().map(|&weight| f64::from(weight)).sum();
        let (mut counts, mut worst) = (vec![0.0; weights.len()], 0.0_f64);
        for turn in 0..turns {
            counts[order.at(turn)] += 1.0;
            for (count, &weight) in counts.iter().zip(weights) {
                let due = (turn + 1) as f64 * f64::from(weight) / total;
                worst = worst.max((count - due).abs());
            }
        }
        worst
    }

    #[test]
    fn the_order_is_that_of_nginx() {
        let order = |weights: &[u32], turns| -> Vec<usize> {
            let order = Turns::new(weights);
            (0..turns).map(|turn| order.at(turn)).collect()
        };
        assert_eq!(order(&[5, 1, 1], 7), [0, 0, 1, 0, 2, 0, 0]);
        assert_eq!(order(&[60, 40], 10), [0, 1, 0, 1, 0, 0, 1, 0, 1, 0]);
        assert_eq!(order(&[7], 3), [0, 0, 0]);
        assert_eq!(order(&[0, 0], 4), [0, 1, 0, 1]);
    }

    #[test]
    fn a_cycle_is_written_while_it_is_short_and_cheap() {
        let written = |weights: &[u32]| match Turns::new(weights) {
            Turns::Cycle(turns) => Some(turns.len()),
            Turns::Spread(_) => None,
        };
        assert_eq!(written(&[600, 400]), Some(5));
        assert_eq!(written(&[4_095, 1]), Some(4_096));
        assert_eq!(written(&[4_096, 1]), None);
        assert_eq!(written(&[65_535, 65_534]), None);
        assert_eq!(written(&[[1; 127].as_slice(), &[100]].concat()), Some(227));
        assert_eq!(written(&[[1; 1_000].as_slice(), &[2]].concat()), None);
    }

    #[test]
    fn long_cycles_are_as_even_over_many_turns() {
        for weights in [
            vec![65_535, 65_534],
            vec![65_535, 1, 1],
            (1..=300).collect(),
            (0..2_000).map(|i| 1 + i % 7).collect(),
        ] {
            let worst = unevenness(&weights, 50_000);
            assert!(worst < 5.0, "{worst} of {} endpoints", weights.len());
        }
    }

    #[test]
    fn every_point_of_the_line_has_the_owner_it_should() {
        let shares = Shares::new(&[1, 0, 2]); // nobody has nothing
        let owners = [0, 1 << 62, 1 << 63, 3 << 62, u64::MAX].map(|point| shares.owner(point));
        assert_eq!(owners, [0, 1, 2, 2, 2]);
        let shares = Shares::new(&[1, 1, 1]);
        let others =
            |cut| [0, 1 << 62, 1 << 63, u64::MAX].map(|point| shares.other_owner(cut, point));
        assert_eq!(others(0), [1, 1, 2, 2]);
        assert_eq!(others(1), [0, 0, 2, 2]);
        assert_eq!(others(2), [0, 0, 1, 1]);
    }

    proptest! {
        #[test]
        fn everyone_gets_its_share_evenly(weights in vec(1_u32..60, 1..12)) {
            let total: u32 = weights.iter().sum();
            let order = Turns::new(&weights);
            let mut counts = vec![0; weights.len()];
            (0..total as usize).for_each(|turn| counts[order.at(turn)] += 1);
            prop_assert_eq!(&counts, &weights);
            prop_assert!(unevenness(&weights, 2 * total as usize) < 2.0);
        }

        #[test]
        fn no_weights_lead_outside(weights in vec(any::<u16>(), 1..300), count in any::<usize>()) {
            let weights: Vec<u32> = weights.into_iter().map(u32::from).collect();
            prop_assert!(Turns::new(&weights).at(count) < weights.len());
            let shares = Shares::new(&weights);
            let owner = shares.owner(count as u64);
            prop_assert!(owner < weights.len());
            if weights.len() > 1 {
                let other = shares.other_owner(owner, count as u64);
                prop_assert!(other < weights.len() && other != owner);
            }
        }
    }
}
