//! Added CPU: the thread's CPU clock over short slices, base and cases interleaved, differences taken in pairs.
//!
//! Neighbours on a shared machine come and go within seconds; two slices that lie 2 ms apart have the same ones.

use std::time::Duration;

use tokio::runtime::{Builder, Runtime};

use super::clock;
use super::stats::{median, quantile};

const SLICE_NANOS: f64 = 2e6;
const ROUNDS: usize = 120;
const HEARTBEAT: Duration = Duration::from_millis(50);
const WARM_UP_OPS: u32 = 2_000;

/// Makes as many calls as it is told, one after another.
pub(crate) type Loop<'a> = &'a mut dyn FnMut(u32);

/// CPU that a case adds to the bare service, in nanoseconds per call.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Added {
    /// Median of the paired differences.
    pub(crate) median: f64,
    /// Difference of the tenth percentiles: what it costs when nobody disturbs.
    pub(crate) p10: f64,
}

/// Costs of all `cases` over the first of them.
pub(crate) fn added(cases: &mut [Loop<'_>]) -> Vec<Added> {
    let samples = block_on(async {
        let mut ops = Vec::new();
        for case in cases.iter_mut() {
            case(WARM_UP_OPS);
            ops.push((SLICE_NANOS / nanos_per_op(case, WARM_UP_OPS)) as u32 + 1);
        }
        let mut samples = vec![Vec::with_capacity(ROUNDS); cases.len()];
        for round in 0..ROUNDS {
            for index in order(cases.len(), round) {
                samples[index].push(nanos_per_op(cases[index], ops[index]));
                // Timers and tasks that a layer may have left get their turn, outside the slices.
                tokio::task::yield_now().await;
            }
        }
        samples
    });
    let base = &samples[0];
    let base_p10 = quantile(base, 0.1).expect("rounds were run");
    let cost = |case: &Vec<f64>| {
        let pairs: Vec<f64> = case
            .iter()
            .zip(base)
            .map(|(case, base)| case - base)
            .collect();
        Added {
            median: median(&pairs).expect("rounds were run"),
            p10: quantile(case, 0.1).expect("rounds were run") - base_p10,
        }
    };
    samples.iter().map(cost).collect()
}

/// Runs the measured calls in a runtime like a host's.
pub(crate) fn block_on<F: Future>(calls: F) -> F::Output {
    let runtime = Builder::new_current_thread().enable_all().build();
    busy(runtime.expect("a runtime")).block_on(async {
        // The pending timer must have been seen by the driver.
        tokio::task::yield_now().await;
        // A host polls each call in a fresh task budget. Here one poll makes thousands of calls, and without a budget
        // left, tokio's locks and timers would do nothing but stay pending.
        tokio::task::coop::unconstrained(calls).await
    })
}

/// Gives the runtime a timer that is always pending. Without one, every timeout of a call would be the earliest and
/// wake the timer driver by a system call; on a host with traffic it rarely is.
pub(crate) fn busy(runtime: Runtime) -> Runtime {
    runtime.spawn(async {
        loop {
            tokio::time::sleep(HEARTBEAT).await;
        }
    });
    runtime
}

fn nanos_per_op(case: Loop<'_>, ops: u32) -> f64 {
    let start = clock::thread_cpu();
    case(ops);
    (clock::thread_cpu() - start) as f64 / f64::from(ops)
}

/// Every case is first, last and next to the base equally often.
pub(crate) fn order(cases: usize, round: usize) -> impl Iterator<Item = usize> {
    (0..cases).map(move |place| {
        let place = if round.is_multiple_of(2) {
            place
        } else {
            cases - 1 - place
        };
        (place + round / 2) % cases
    })
}
