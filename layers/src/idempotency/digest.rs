//! What stands for a key and for a request: 128 bits.
//!
//! Two SipHashes under one random key, told apart by their first byte. Nobody outside can compute them or see them, so
//! nobody can look for two requests that have the same; by chance it takes 2^64 of them. They mean nothing in another
//! process, nor in this one after its end.

use std::hash::{BuildHasher, DefaultHasher, Hasher, RandomState};

/// The random key.
#[derive(Debug, Default)]
pub(super) struct Seed(RandomState);

/// A hash that grows with what is written.
#[derive(Debug, Clone)]
pub(super) struct Digest([DefaultHasher; 2]);

// ===== impl Seed =====

impl Seed {
    pub(super) fn digest(&self) -> Digest {
        Digest([0, 1].map(|half| {
            let mut hasher = self.0.build_hasher();
            hasher.write_u8(half);
            hasher
        }))
    }
}

// ===== impl Digest =====

impl Digest {
    /// Writes something so that it cannot run into what comes next.
    pub(super) fn write_part(&mut self, part: &[u8]) {
        self.write_usize(part.len());
        self.write(part);
    }

    pub(super) fn to_u128(&self) -> u128 {
        let [high, low] = &self.0;
        u128::from(high.finish()) << 64 | u128::from(low.finish())
    }
}

impl Hasher for Digest {
    fn write(&mut self, bytes: &[u8]) {
        for half in &mut self.0 {
            half.write(bytes);
        }
    }

    fn finish(&self) -> u64 {
        self.0[0].finish()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// A body is the same however it is cut into frames.
        #[test]
        fn it_does_not_matter_how_bytes_are_cut(
            bytes in proptest::collection::vec(any::<u8>(), 0..300),
            cuts in proptest::collection::vec(0..300_usize, 0..10),
        ) {
            let seed = Seed::default();
            let (mut whole, mut cut) = (seed.digest(), seed.digest());
            whole.write(&bytes);
            let mut cuts = cuts.into_iter().map(|at| at.min(bytes.len())).collect::<Vec<_>>();
            cuts.extend([0, bytes.len()]);
            cuts.sort_unstable();
            for ends in cuts.windows(2) {
                cut.write(&bytes[ends[0]..ends[1]]);
            }
            prop_assert_eq!(whole.to_u128(), cut.to_u128());
        }
    }

    #[test]
    fn parts_do_not_run_together() {
        let seed = Seed::default();
        let of = |parts: [&str; 2]| {
            let mut digest = seed.digest();
            for part in parts {
                digest.write_part(part.as_bytes());
            }
            digest.to_u128()
        };
        assert_ne!(of(["a", "bc"]), of(["ab", "c"]));
        assert_eq!(of(["a", "bc"]), of(["a", "bc"]));
        assert_ne!((of(["a", "b"]) >> 64) as u64, of(["a", "b"]) as u64);
        assert_ne!(
            Seed::default().digest().to_u128(),
            Seed::default().digest().to_u128()
        );
    }
}
