//! A sliding window: so many calls in any period, and no burst beside them.
//!
//! GCRA lets a burst pass and the rate on top of it: up to twice the calls that a rate names in the period
//! after a pause. Some quotas are not meant so ("100 an hour, whenever you look"). A log of all calls would be
//! exact, and as large as the quota, for each key. So calls are counted in [`SLOTS`] slots of a period, and
//! the slot that is partly out of the window counts as a whole:
//!
//! ```text
//!             ├──────────── a period ────────────┤ now
//!   │▒▒▒│████│████│████│████│████│████│████│████│██·│
//!     └ counted as well: out a tenth of a period later than a log would have it
//! ```
//!
//! - Never more calls than the rate names in any period.
//! - A call counts for between one period and 1.1 periods.

use std::{array, num::NonZeroU32, time::Duration};

use parking_lot::Mutex;
use tokio::time::Instant;

use super::{
    limit::{Algorithm, Refused},
    rate::Rate,
};

/// Slots of a period. Those of a window are one more, the one that is not over yet.
const SLOTS: usize = 10;

/// A quota. Its state lives in [`Window`]s, which outlive it.
#[derive(Debug)]
pub(super) struct SlidingWindow {
    most: u32,
    slot: Duration,
    epoch: Instant,
}

/// The calls of one key.
#[derive(Debug, Default)]
pub(super) struct Window(Mutex<Counts>);

#[derive(Debug, Default)]
struct Counts {
    /// By the number of the slot, modulo their number.
    slots: [u32; SLOTS + 1],
    /// The latest slot that was counted in.
    latest: u64,
    /// What a slot is long; under another quota the numbers of slots mean something else.
    slot: Duration,
}

// ===== impl SlidingWindow =====

impl SlidingWindow {
    pub(super) fn new(rate: Rate, previous: Option<&Self>, now: Instant) -> Self {
        Self {
            most: rate.calls(),
            slot: rate.period() / SLOTS as u32,
            epoch: previous.map_or(now, |previous| previous.epoch),
        }
    }

    fn slot_at(&self, now: Instant) -> u64 {
        let elapsed = now.saturating_duration_since(self.epoch).as_nanos();
        u64::try_from(elapsed / self.slot.as_nanos().max(1)).unwrap_or(u64::MAX)
    }

    /// Until a slot is out of the window.
    fn until_out(&self, slot: u64, now: Instant) -> Duration {
        let slots = slot + SLOTS as u64 + 1;
        let out = self.slot.as_nanos().saturating_mul(slots.into());
        let elapsed = now.saturating_duration_since(self.epoch).as_nanos();
        let nanos = out.saturating_sub(elapsed);
        Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX))
    }

    /// When so many tokens will be there.
    #[cold]
    fn refused(&self, counts: &Counts, tokens: u32, now: Instant) -> Refused {
        let mut missing = (counts.sum() + u64::from(tokens)).saturating_sub(self.most.into());
        let oldest = counts.latest.saturating_sub(SLOTS as u64);
        for slot in oldest..=counts.latest {
            missing = missing.saturating_sub(counts.slots[index(slot)].into());
            if missing == 0 {
                let wait = self.until_out(slot, now);
                return Refused { wait };
            }
        }
        Refused::FOR_GOOD
    }
}

impl Algorithm for SlidingWindow {
    type Cell = Window;
    /// The tokens that are left.
    type Taken = u32;

    fn take(&self, window: &Window, tokens: NonZeroU32) -> Result<u32, Refused> {
        let mut counts = window.0.lock();
        // NOTE: the clock is read under the lock, so that time does not run backwards in a window.
        let now = Instant::now();
        counts.advance(self.slot_at(now), self.slot);
        let used = counts.sum() + u64::from(tokens.get());
        let Some(left) = u64::from(self.most).checked_sub(used) else {
            return Err(self.refused(&counts, tokens.get(), now));
        };
        let latest = index(counts.latest);
        counts.slots[latest] += tokens.get();
        Ok(left as u32)
    }

    /// Out of the latest slots: it was not long ago, and where it was, too few calls pass and not too many.
    fn give_back(&self, window: &Window, tokens: NonZeroU32) {
        let mut counts = window.0.lock();
        let mut left = tokens.get();
        for back in 0..=SLOTS as u64 {
            let Some(slot) = counts.latest.checked_sub(back) else {
                return;
            };
            let count = &mut counts.slots[index(slot)];
            let given = left.min(*count);
            *count -= given;
            left -= given;
        }
    }

    fn is_idle(&self, window: &Window) -> bool {
        let mut counts = window.0.lock();
        counts.advance(self.slot_at(Instant::now()), self.slot);
        counts.sum() == 0
    }
}

// ===== impl Counts =====

impl Counts {
    fn sum(&self) -> u64 {
        self.slots.iter().map(|&count| u64::from(count)).sum()
    }

    /// Makes `slot` the latest, and forgets those that are out of the window by then.
    fn advance(&mut self, slot: u64, length: Duration) {
        if self.slot != length {
            // As if all that counts had come just now: nothing is given away by a change of the quota.
            let sum = u32::try_from(self.sum()).unwrap_or(u32::MAX);
            self.slots = array::from_fn(|at| if at == index(slot) { sum } else { 0 });
            (self.latest, self.slot) = (slot, length);
            return;
        }
        let passed = slot.saturating_sub(self.latest).min(SLOTS as u64 + 1);
        for back in 0..passed {
            self.slots[index(slot - back)] = 0;
        }
        self.latest = self.latest.max(slot);
    }
}

fn index(slot: u64) -> usize {
    (slot % (SLOTS as u64 + 1)) as usize
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use tokio::time::advance;

    use super::*;

    const ONE: NonZeroU32 = NonZeroU32::MIN;

    fn window(rate: &str) -> SlidingWindow {
        SlidingWindow::new(rate.parse().unwrap(), None, Instant::now())
    }

    fn admitted(window: &SlidingWindow, cell: &Window, calls: u32) -> u32 {
        (0..calls)
            .filter(|_| window.take(cell, ONE).is_ok())
            .count() as u32
    }

    #[tokio::test(start_paused = true)]
    async fn after_a_pause_there_is_no_more_than_the_quota() {
        let (window, cell) = (window("10/s"), Window::default());
        advance(Duration::from_secs(60)).await;
        let mut total = 0;
        for _ in 0..1_000 {
            total += admitted(&window, &cell, 5);
            advance(Duration::from_millis(1)).await;
        }
        assert_eq!(total, 10, "GCRA with the burst of this rate lets 20 pass");
    }

    #[tokio::test(start_paused = true)]
    async fn who_waits_as_told_gets_in_and_not_before() {
        let (window, cell) = (window("4/s"), Window::default());
        for _ in 0..4 {
            assert!(window.take(&cell, ONE).is_ok());
            advance(Duration::from_millis(130)).await;
        }
        let Refused { wait } = window.take(&cell, ONE).unwrap_err();
        // The first came at 0, and is out when its slot is: at 1.1 s.
        assert_eq!(wait, Duration::from_millis(1_100 - 4 * 130));
        let two = window.take(&cell, NonZeroU32::new(2).unwrap()).unwrap_err();
        assert_eq!(two.wait, wait + Duration::from_millis(100));
        advance(wait - Duration::from_millis(1)).await;
        assert!(window.take(&cell, ONE).is_err());
        advance(Duration::from_millis(1)).await;
        assert!(window.take(&cell, ONE).is_ok());
    }

    #[tokio::test(start_paused = true)]
    async fn another_quota_gives_nothing_away() {
        let cell = Window::default();
        let first = window("100/s");
        assert_eq!(admitted(&first, &cell, 1_000), 100);
        let hourly = SlidingWindow::new("120/h".parse().unwrap(), Some(&first), Instant::now());
        assert_eq!(admitted(&hourly, &cell, 1_000), 20);
        advance(Duration::from_secs(3_600)).await;
        assert_eq!(
            admitted(&hourly, &cell, 1_000),
            0,
            "counted as if they came just now"
        );
        advance(Duration::from_secs(360)).await;
        assert_eq!(admitted(&hourly, &cell, 1_000), 120);
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_given_back_can_be_taken_again() {
        let (window, cell) = (window("5/s"), Window::default());
        assert_eq!(admitted(&window, &cell, 10), 5);
        window.give_back(&cell, NonZeroU32::new(3).unwrap());
        assert_eq!(admitted(&window, &cell, 10), 3);
        window.give_back(&cell, NonZeroU32::new(5).unwrap());
        assert!(window.is_idle(&cell));
    }

    #[tokio::test(start_paused = true)]
    async fn a_window_is_idle_once_all_its_calls_are_out() {
        let (window, cell) = (window("5/s"), Window::default());
        assert!(window.is_idle(&cell));
        window.take(&cell, ONE).unwrap();
        advance(Duration::from_millis(1_099)).await;
        assert!(!window.is_idle(&cell));
        advance(Duration::from_millis(1)).await;
        assert!(window.is_idle(&cell));
    }

    proptest! {
        /// Against a log of all calls: never more in a period, and never fewer than in 1.1 of them.
        #[test]
        fn any_period_has_at_most_the_quota(
            most in 1_u32..20,
            gaps in proptest::collection::vec(0_u64..400, 1..300),
        ) {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_time().start_paused(true).build().unwrap();
            runtime.block_on(async {
                let start = Instant::now();
                let window = SlidingWindow::new(Rate::per_second(most), None, start);
                let (cell, mut log) = (Window::default(), Vec::new());
                for gap in gaps {
                    advance(Duration::from_millis(gap)).await;
                    let now = start.elapsed().as_millis();
                    let within = |period: u128| {
                        log.iter().filter(|&&at| now < at + period).count() as u32
                    };
                    let (in_period, in_longer) = (within(1_000), within(1_100));
                    let passed = window.take(&cell, ONE).is_ok();
                    prop_assert!(!passed || in_period < most);
                    prop_assert!(passed || in_longer >= most);
                    if passed {
                        log.push(now);
                    }
                }
                Ok(())
            })?;
        }
    }
}
