//! Which arm: the algorithms, without state.
//!
//! Both take a number and give the place of an arm, so that shares can be proven without a request.

/// Arms, each of which is drawn as often as its weight says.
#[derive(Debug)]
pub(super) struct Weights {
    /// Where the part of each ends, on a line as long as the sum.
    ends: Box<[u32]>,
}

/// Arms among which a hash always finds the same one.
///
/// Every arm draws a number for the hash, and the best one wins: rendezvous hashing (D. Thaler and
/// C. Ravishankar, 1998), with a logarithm for the weights (J. Schindelhauer and G. Schomaker,
/// 2005): the numbers are waiting times at rates as high as the weights, of which arm `i` has the
/// shortest with the chance that its weight has of the sum.
///
/// An arm's number depends on its own weight and nothing else. So where one weight grows and the
/// others stay, only that arm's number gets better: callers move to it, none away from it, and none
/// between the others. As only the ratios count, the same holds when the weights are written with
/// another sum: a caller leaves an arm only for one that has grown against it. The order of the
/// arms does not matter.
#[derive(Debug)]
pub(super) struct Rendezvous {
    arms: Box<[Contender]>,
}

#[derive(Debug)]
struct Contender {
    place: usize,
    /// Makes its numbers differ from those of the others.
    seed: u64,
    /// One by its weight.
    scale: f64,
}

// ===== impl Weights =====

impl Weights {
    /// The sum must be above 0, and fit.
    pub(super) fn new(weights: &[u32]) -> Self {
        let mut end = 0;
        let ends = weights.iter().map(|weight| {
            end += weight;
            end
        });
        Self {
            ends: ends.collect(),
        }
    }

    /// The arm for a random number.
    #[inline]
    pub(super) fn pick(&self, random: u64) -> usize {
        let sum = self.ends.last().copied().unwrap_or(1);
        // Lemire's multiplication instead of a division; the bias is the sum in 2^64.
        let point = ((u128::from(random) * u128::from(sum)) >> 64) as u32;
        let place = self.ends.iter().position(|&end| point < end);
        place.unwrap_or(0)
    }
}

// ===== impl Rendezvous =====

impl Rendezvous {
    /// Arms by the hash of their names, with their weights; those with the weight 0 get nothing.
    pub(super) fn new(arms: impl IntoIterator<Item = (u64, u32)>) -> Self {
        let arms = arms.into_iter().enumerate();
        let arms = arms.filter(|(_, (_, weight))| *weight > 0);
        Self {
            arms: arms
                .map(|(place, (seed, weight))| Contender {
                    place,
                    seed,
                    scale: 1.0 / f64::from(weight),
                })
                .collect(),
        }
    }

    /// The arm for a caller.
    #[inline]
    pub(super) fn pick(&self, hash: u64) -> usize {
        let (mut best, mut place) = (f64::NEG_INFINITY, 0);
        for arm in &self.arms {
            // From just above 0 to 1, of which the logarithm is finite.
            let uniform = ((mix(hash ^ arm.seed) >> 11) + 1) as f64 * (1.0 / (1u64 << 53) as f64);
            // The waiting time, below zero: the nearest to it is the shortest.
            let score = uniform.ln() * arm.scale;
            if score > best {
                (best, place) = (score, arm.place);
            }
        }
        place
    }
}

/// Every bit of the result depends on every bit of `x`: the finalizer of splitmix64 (G. Steele, D.
/// Lea and C. Flood, 2014), by D. Stafford's constants.
#[inline]
const fn mix(mut x: u64) -> u64 {
    x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}
