//! The accounting: how many bytes may still pass, and what can be promised of a body under that.

use http_body::SizeHint;

/// How many bytes may still pass.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Budget(u64);

/// What is known of a body before it is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Known {
    /// It fits.
    Fits,
    /// It does not.
    TooLarge,
    /// It has to be counted.
    Nothing,
}

// ===== impl Budget =====

impl Budget {
    pub(super) fn new(bytes: u64) -> Self {
        Self(bytes)
    }

    /// Takes the bytes of a frame, all of them or none.
    #[inline]
    pub(super) fn take(&mut self, bytes: u64) -> bool {
        match self.0.checked_sub(bytes) {
            Some(left) => {
                self.0 = left;
                true
            }
            None => false,
        }
    }

    /// What a body says of itself.
    #[inline]
    pub(super) fn judge(self, hint: &SizeHint) -> Known {
        if hint.lower() > self.0 {
            Known::TooLarge
        } else if hint.upper().is_some_and(|upper| upper <= self.0) {
            Known::Fits
        } else {
            Known::Nothing
        }
    }

    /// What can be promised of a body that says this of itself.
    ///
    /// NOTE: never an exact length for a body that may be cut. hyper would promise it to the caller, stop at it, and so
    /// make what was cut look complete.
    pub(super) fn promise(self, hint: &SizeHint) -> SizeHint {
        if self.judge(hint) == Known::Fits {
            return *hint;
        }
        let mut promise = SizeHint::new();
        promise.set_upper(self.0.max(1));
        promise.set_lower(hint.lower().min(self.0.saturating_sub(1)));
        promise
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn hint(lower: u64, upper: Option<u64>) -> SizeHint {
        let mut hint = SizeHint::new();
        hint.set_lower(lower);
        if let Some(upper) = upper {
            hint.set_upper(upper);
        }
        hint
    }

    proptest! {
        #[test]
        fn what_passes_is_the_longest_run_of_frames_that_fits(
            limit in 0..10_000_u64,
            frames in proptest::collection::vec(0..2_000_u64, 0..50),
        ) {
            let mut budget = Budget::new(limit);
            let passed: u64 = frames.iter().take_while(|&&bytes| budget.take(bytes)).sum();
            prop_assert!(passed <= limit);
            let mut sum = 0;
            let fits = frames.iter().take_while(|&&bytes| { sum += bytes; sum <= limit });
            prop_assert_eq!(passed, fits.sum::<u64>());
            prop_assert_eq!(budget, Budget::new(limit - passed));
        }

        #[test]
        fn what_is_judged_and_promised_is_so(
            limit in 0..100_u64,
            lower in 0..120_u64,
            more in proptest::option::of(0..120_u64),
            length in 0..120_u64,
        ) {
            let upper = more.map(|more| lower + more);
            prop_assume!(lower <= length && upper.is_none_or(|upper| length <= upper));
            let (budget, hint) = (Budget::new(limit), hint(lower, upper));
            match budget.judge(&hint) {
                Known::Fits => prop_assert!(length <= limit),
                Known::TooLarge => prop_assert!(length > limit),
                Known::Nothing => {}
            }
            let promise = budget.promise(&hint);
            let passes = length.min(limit);
            prop_assert!(promise.upper().is_none_or(|upper| passes <= upper));
            if length <= limit {
                prop_assert!(promise.lower() <= length);
            } else {
                // What is cut must not look complete.
                prop_assert_eq!(promise.exact(), None);
            }
        }
    }
}
