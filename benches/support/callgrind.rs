//! Instructions and allocations per call, counted by callgrind in a child process of this binary.
//!
//! Callgrind collects only inside `measured_op`, so set-up costs and hash seeds stay out. Allocations are its calls
//! to the C allocator: no counting allocator slows down the timed part. It sees no kernel time and no cache misses.

mod profile;

use std::env;
use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};

pub(crate) use self::profile::Profile;
use super::cpu::{Loop, block_on};

/// A case is counted over both; they must agree, else the count hangs on something outside the call.
const OPS: [u32; 2] = [2_000, 4_000];
const WARM_UP_OPS: u32 = 500;
/// The environment variable that tells a child which cases to run.
pub(crate) const CHILD: &str = "TOWER_MESH_BENCH_CALLGRIND";

/// What one call costs.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Counted {
    pub(crate) instructions: f64,
    pub(crate) allocations: f64,
    /// Relative difference of the instruction counts of the two runs.
    pub(crate) disagreement: f64,
}

/// Counts `cases` cases in one child, which must run exactly those, each by [`count_here`].
///
/// # Errors
///
/// If valgrind cannot be run, or what it wrote cannot be read.
pub(crate) fn count(cases: usize, only: &str) -> Result<Vec<Counted>, String> {
    let folder = tempfile::tempdir().map_err(|error| error.to_string())?;
    let dumps = folder.path().join("dump");
    let program = env::current_exe().map_err(|error| error.to_string())?;
    let output = Command::new("valgrind")
        .args([
            "--tool=callgrind",
            "--collect-atstart=no",
            "--compress-pos=no",
            "-q",
        ])
        .args([
            "--toggle-collect=*measured_op*",
            "--dump-before=*end_of_count*",
        ])
        .arg(format!("--callgrind-out-file={}", dumps.display()))
        .arg(program)
        .env(CHILD, only)
        .stdin(Stdio::null())
        .output()
        .map_err(|error| format!("valgrind cannot be run ({error}): install valgrind"))?;
    if !output.status.success() {
        return Err(format!(
            "{}: {}",
            output.status,
            String::from_utf8_lossy(&output.stderr)
        ));
    }
    (0..cases)
        .map(|case| read_case(folder.path(), case))
        .collect()
}

/// The child's side: runs one case, which makes as many calls as it is told, to be dumped after its warm-up and after
/// each count.
pub(crate) fn count_here(case: Loop<'_>) {
    block_on(async {
        for ops in [WARM_UP_OPS, OPS[0], OPS[1]] {
            case(ops);
            end_of_count(ops);
            tokio::task::yield_now().await;
        }
    });
}

/// Callgrind writes a dump when this is called.
#[inline(never)]
fn end_of_count(ops: u32) {
    std::hint::black_box(ops);
}

/// Dumps are numbered from 1 in the order they were written, three for each case.
fn read_case(folder: &Path, case: usize) -> Result<Counted, String> {
    let read = |count: usize| {
        let file = folder.join(format!("dump.{}", case * 3 + count + 2));
        let text = fs::read_to_string(&file)
            .map_err(|error| format!("{}: {error}: did the child run it?", file.display()))?;
        let ops = f64::from(OPS[count]);
        let profile = Profile::parse(&text)?;
        Ok::<_, String>((
            profile.instructions as f64 / ops,
            profile.allocations as f64 / ops,
        ))
    };
    let (short, long) = (read(0)?, read(1)?);
    Ok(Counted {
        instructions: long.0,
        allocations: long.1,
        disagreement: (long.0 - short.0).abs() / long.0.max(1.0),
    })
}
