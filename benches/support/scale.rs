//! Two threads in tight loops on one shared layer: how much faster than one.
//!
//! Each thread is pinned, and a slice counts only if both threads kept their cores and ran at the same time. A layer
//! that parks on a lock leaves its core and is filtered out by construction; then all slices are used, and the table
//! says so. It bounds the worst case: a real call does other work between two visits to a layer.

use std::hint;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use super::clock;
use super::cpu::busy;
use super::drive::Ops;
use super::stats::median;
use super::subjects::Subject;
use super::traffic::{Scenario, Template};

const SLICE_NANOS: u64 = 1_500_000;
const SLICES_PER_BATCH: usize = 20;
/// Wall time for one case. On a busy machine the threads wait for each other's core most of the time.
const PATIENCE_NANOS: u64 = 1_500_000_000;
/// Fewer are no measurement; as many are enough to stop early.
const WANTED: usize = 40;
const MINIMUM: usize = 5;
const MIN_ON_CPU: f64 = 0.97;
const MIN_OVERLAP: f64 = 0.85;
const WARM_UP_OPS: u32 = 2_000;
/// Calls between two looks at the clock.
const CHUNK: u32 = 32;

#[derive(Clone, Copy, Debug)]
pub(crate) struct Scale {
    /// Throughput of two threads over that of one.
    pub(crate) speedup: f64,
    /// CPU of a call while both threads run, in nanoseconds.
    pub(crate) nanos: f64,
    pub(crate) clean: usize,
    pub(crate) slices: usize,
    /// False: too few clean slices, all of them were used.
    pub(crate) filtered: bool,
}

#[derive(Clone, Copy, Debug)]
struct Slice {
    start: u64,
    end: u64,
    cpu: u64,
    ops: u64,
}

/// One slice of the first thread alone, and one of both.
#[derive(Clone, Copy, Debug)]
struct Pair {
    alone: Slice,
    first: Slice,
    second: Slice,
}

/// A barrier that keeps its core: a sleeping one would wake the threads at different times.
#[derive(Debug, Default)]
struct SpinBarrier(AtomicUsize);

/// `None` on a machine with one core, or when there is nothing to measure.
///
/// Every batch has a layer of its own, so that no quota is used up.
pub(crate) fn two_threads(subject: &Subject, scenario: Scenario) -> Option<Scale> {
    let cores = clock::cores();
    let cores = [*cores.first()?, *cores.get(1)?];
    let mut pairs = Vec::new();
    let begin = clock::wall();
    while clock::wall() - begin < PATIENCE_NANOS {
        let case = (subject.make)(scenario.protocol)?;
        pairs.extend(batch(&*case, scenario, cores));
        if pairs.iter().filter(|pair| pair.is_clean()).count() >= WANTED {
            break;
        }
    }
    let clean: Vec<Pair> = pairs.iter().copied().filter(Pair::is_clean).collect();
    let filtered = clean.len() >= MINIMUM;
    let used = if filtered { &clean } else { &pairs };
    let both: Vec<f64> = used
        .iter()
        .map(|pair| pair.first.rate() + pair.second.rate())
        .collect();
    let nanos: Vec<f64> = used.iter().map(Pair::nanos_per_op).collect();
    let alone: Vec<f64> = used.iter().map(|pair| pair.alone.rate()).collect();
    let speedup = median(&both)? / median(&alone)?;
    Some(Scale {
        speedup,
        nanos: median(&nanos)?,
        clean: clean.len(),
        slices: pairs.len(),
        filtered,
    })
}

fn batch(case: &dyn Ops, scenario: Scenario, cores: [usize; 2]) -> Vec<Pair> {
    // The layers' timers need a runtime. Its one worker drives them and is idle otherwise.
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build();
    let runtime = busy(runtime.expect("a runtime"));
    let handle = runtime.handle();
    let barrier = Arc::new(SpinBarrier::default());
    let (first, second) = (case.fork(), case.fork());
    thread::scope(|scope| {
        let other = Arc::clone(&barrier);
        let second = scope.spawn(move || {
            let _entered = handle.enter();
            clock::pin(cores[1]);
            let template = Template::new(scenario);
            second.run(&template, WARM_UP_OPS);
            let slice = |_| {
                other.wait();
                other.wait();
                slice(&*second, &template)
            };
            (0..SLICES_PER_BATCH).map(slice).collect::<Vec<Slice>>()
        });
        let first = scope.spawn(move || {
            let _entered = handle.enter();
            clock::pin(cores[0]);
            let template = Template::new(scenario);
            first.run(&template, WARM_UP_OPS);
            let slices = |_| {
                barrier.wait();
                let alone = slice(&*first, &template);
                barrier.wait();
                (alone, slice(&*first, &template))
            };
            (0..SLICES_PER_BATCH)
                .map(slices)
                .collect::<Vec<(Slice, Slice)>>()
        });
        let second = second.join().expect("the second thread");
        let first = first.join().expect("the first thread");
        let pair = |((alone, first), second)| Pair {
            alone,
            first,
            second,
        };
        first.into_iter().zip(second).map(pair).collect()
    })
}

fn slice(case: &dyn Ops, template: &Template) -> Slice {
    let (start, cpu) = (clock::wall(), clock::thread_cpu());
    let mut ops = 0;
    loop {
        case.run(template, CHUNK);
        ops += u64::from(CHUNK);
        let end = clock::wall();
        if end - start >= SLICE_NANOS {
            return Slice {
                start,
                end,
                cpu: clock::thread_cpu() - cpu,
                ops,
            };
        }
    }
}

// ===== impl Slice =====

impl Slice {
    fn nanos(&self) -> f64 {
        (self.end - self.start) as f64
    }

    fn rate(&self) -> f64 {
        self.ops as f64 / self.nanos()
    }

    fn kept_its_core(&self) -> bool {
        self.cpu as f64 >= self.nanos() * MIN_ON_CPU
    }
}

// ===== impl Pair =====

impl Pair {
    /// CPU of both threads over the calls of both.
    fn nanos_per_op(&self) -> f64 {
        let Self { first, second, .. } = self;
        (first.cpu + second.cpu) as f64 / (first.ops + second.ops) as f64
    }

    fn is_clean(&self) -> bool {
        let Self {
            alone,
            first,
            second,
        } = self;
        let shared = first
            .end
            .min(second.end)
            .saturating_sub(first.start.max(second.start));
        let overlap = shared as f64 / first.nanos().max(second.nanos());
        [alone, first, second].into_iter().all(Slice::kept_its_core) && overlap >= MIN_OVERLAP
    }
}

// ===== impl SpinBarrier =====

impl SpinBarrier {
    /// Returns when both threads have come.
    fn wait(&self) {
        let ticket = self.0.fetch_add(1, Ordering::AcqRel);
        let full = (ticket / 2 + 1) * 2;
        while self.0.load(Ordering::Acquire) < full {
            hint::spin_loop();
        }
    }
}
