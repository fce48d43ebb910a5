//! Memory per endpoint: bytes that are alive when everything is set up, as valgrind's DHAT sees them in a child process
//! of this binary.
//!
//! No allocator of our own counts them, which would slow down the timed part; and unlike resident memory it shows the
//! bytes that were asked for. The difference of a large and a small set is taken, so that what does not grow stays out.

use std::env;
use std::fs;
use std::mem;
use std::process::{self, Command, Stdio};
use std::task::{Context, Waker};

use serde_json::Value;
use tower::Service;
use tower_mesh_discovery::resolve::Resolver;

use super::subjects::{self, Balancing, Subject};

/// The environment variable that tells a child what to set up: a state, and how many endpoints.
pub(crate) const CHILD: &str = "TOWER_MESH_BENCH_BYTES";
const FEW: usize = 10;
const MANY: usize = 10_010;

/// What is alive.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum State {
    /// The instances alone, as a registry hands them out.
    Instances,
    /// Ours has taken in its endpoints.
    Ours,
    /// Ours has called each of them: each has statistics.
    OursCalled,
    TowerPeakEwma,
    TowerPending,
}

/// Bytes for each endpoint.
///
/// # Errors
///
/// If valgrind cannot be run, or what it wrote cannot be read.
pub(crate) fn per_endpoint(state: State) -> Result<f64, String> {
    let (few, many) = (alive(state, FEW)?, alive(state, MANY)?);
    Ok((many - few) / (MANY - FEW) as f64)
}

fn alive(state: State, count: usize) -> Result<f64, String> {
    let folder = tempfile::tempdir().map_err(|error| error.to_string())?;
    let file = folder.path().join("heap");
    let program = env::current_exe().map_err(|error| error.to_string())?;
    let output = Command::new("valgrind")
        .args(["--tool=dhat", "-q"])
        .arg(format!("--dhat-out-file={}", file.display()))
        .arg(program)
        .env(CHILD, format!("{} {count}", state.name()))
        .stdin(Stdio::null())
        .output()
        .map_err(|error| format!("valgrind cannot be run ({error}): install valgrind"))?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        return Err(format!("{}: {said}", output.status));
    }
    let text = fs::read_to_string(&file).map_err(|error| error.to_string())?;
    let heap: Value = serde_json::from_str(&text).map_err(|error| error.to_string())?;
    let points = heap["pps"]
        .as_array()
        .ok_or("no allocations in DHAT's file")?;
    // NOTE: `eb` are the bytes that are alive at the end.
    let bytes = points.iter().map(|point| point["eb"].as_u64());
    let bytes = bytes.sum::<Option<u64>>().ok_or("no `eb` in DHAT's file")?;
    Ok(bytes as f64)
}

/// The child's side: sets up what it is told, and ends with all of it alive.
pub(crate) fn hold_here(order: &str) -> ! {
    let (state, count) = order.split_once(' ').expect("a state and a count");
    let count = count.parse().expect("a count");
    let mut cx = Context::from_waker(Waker::noop());
    match State::ALL.into_iter().find(|known| known.name() == state) {
        Some(State::Instances) => {
            mem::forget(Resolver::fixed("orders", subjects::instances(count)))
        }
        Some(State::Ours) => mem::forget(subjects::ours(Balancing::P2cEwma, count)),
        Some(State::OursCalled) => mem::forget(Subject::Ours(Balancing::P2cEwma).make(count)),
        Some(State::TowerPeakEwma) => {
            let mut balance = subjects::tower_peak_ewma(count);
            assert!(balance.poll_ready(&mut cx).is_ready());
            mem::forget(balance);
        }
        Some(State::TowerPending) => {
            let mut balance = subjects::tower_pending(count);
            assert!(balance.poll_ready(&mut cx).is_ready());
            mem::forget(balance);
        }
        None => panic!("there is no state {state:?}"),
    }
    process::exit(0);
}

// ===== impl State =====

impl State {
    const ALL: [Self; 5] = [
        Self::Instances,
        Self::Ours,
        Self::OursCalled,
        Self::TowerPeakEwma,
        Self::TowerPending,
    ];

    fn name(self) -> &'static str {
        match self {
            Self::Instances => "instances",
            Self::Ours => "ours",
            Self::OursCalled => "ours-called",
            Self::TowerPeakEwma => "tower-peak-ewma",
            Self::TowerPending => "tower-pending",
        }
    }
}
