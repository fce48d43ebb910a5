//! How long single calls take.

use fastrand::Rng;
use serde::{Deserialize, Serialize};

/// How the work of single calls differs from the mean.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[non_exhaustive]
pub enum Law {
    /// As in a memoryless queue: many short calls, some long ones.
    #[default]
    Exponential,
    /// All alike.
    Constant,
    /// Heavier at the far end than exponential: the logarithm is normally distributed, with a standard deviation of 1.
    LogNormal,
    /// One call in ten takes ten times as long as the others.
    Bimodal,
}

impl Law {
    /// All of them.
    pub const ALL: [Self; 4] = [
        Self::Exponential,
        Self::Constant,
        Self::LogNormal,
        Self::Bimodal,
    ];

    /// Its name in a scenario.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Exponential => "exponential",
            Self::Constant => "constant",
            Self::LogNormal => "logNormal",
            Self::Bimodal => "bimodal",
        }
    }

    /// One draw; the mean of many is 1.
    pub fn draw(self, rng: &mut Rng) -> f64 {
        match self {
            Self::Exponential => exponential(rng),
            Self::Constant => 1.0,
            // The mean of a log-normal variable is exp(m + s^2 / 2): with s = 1, m is -1/2.
            Self::LogNormal => (normal(rng) - 0.5).exp(),
            // 0.9 * x + 0.1 * 10 x = 1.
            Self::Bimodal if rng.f64() < 0.1 => 10.0 / 1.9,
            Self::Bimodal => 1.0 / 1.9,
        }
    }
}

/// The time to the next event of a Poisson process of rate 1.
pub(super) fn exponential(rng: &mut Rng) -> f64 {
    // `f64` may be 0 and never 1.
    -(1.0 - rng.f64()).ln()
}

/// Box and Muller's transform.
fn normal(rng: &mut Rng) -> f64 {
    let radius = (2.0 * exponential(rng)).sqrt();
    radius * (std::f64::consts::TAU * rng.f64()).cos()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_mean_of_every_law_is_one() {
        for law in Law::ALL {
            let mut rng = Rng::with_seed(7);
            let draws = 400_000;
            let mean = (0..draws).map(|_| law.draw(&mut rng)).sum::<f64>() / f64::from(draws);
            assert!((mean - 1.0).abs() < 0.02, "{law:?} {mean}");
        }
    }
}
