//! Balancers against each other, simulated: ours, tower's, and an oracle that sees every queue.
//!
//! ```text
//! cargo run --release --example balancers                          # all scenes, 20 seeds: some minutes
//! cargo run --release --example balancers -- --seeds 5 slow        # scenes whose names begin so
//! cargo run --release --example balancers -- --law bimodal --from 1000
//! cargo run --release --example balancers -- --scenario scene.yaml # your own; tower_mesh::discovery::sim has the fields
//! ```
//!
//! Each number is the median over the seeds, with the least and the most of them. A seed gives all balancers the same
//! arrivals.

#![allow(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "it talks to a person"
)]
#![allow(unreachable_pub, reason = "an executable exports nothing")]

mod contenders;
mod options;
mod scenes;
mod table;

use std::{
    process::ExitCode,
    sync::atomic::{AtomicUsize, Ordering::Relaxed},
    thread,
};

use tower_mesh::discovery::sim::{Outcome, Scenario, run};

use crate::{contenders::CONTENDERS, options::Options, table::Table};

type Error = Box<dyn std::error::Error + Send + Sync>;
type Result<T, E = Error> = std::result::Result<T, E>;

fn main() -> ExitCode {
    match tell() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("balancers: {error}");
            ExitCode::FAILURE
        }
    }
}

fn tell() -> Result<()> {
    let options = Options::parse(std::env::args().skip(1))?;
    for scenario in options.scenarios()? {
        scenario.validate()?;
        let mut table = Table::new(&scenario, options.seeds);
        for contender in CONTENDERS {
            table.show(contender.name, &outcomes(&scenario, contender, &options)?);
        }
    }
    Ok(())
}

/// A run for each seed, on all cores.
fn outcomes(
    scenario: &Scenario,
    contender: contenders::Entry,
    options: &Options,
) -> Result<Vec<Outcome>> {
    let threads = thread::available_parallelism().map_or(1, usize::from);
    let next = AtomicUsize::new(0);
    let work = || {
        let mut done = Vec::new();
        loop {
            let number = next.fetch_add(1, Relaxed);
            if number >= options.seeds {
                return Ok(done);
            }
            table::progress(contender.name, number, options.seeds);
            let seed = options.from + number as u64;
            done.push(run(scenario, &*(contender.make)(), seed)?);
        }
    };
    let done: Result<Vec<Vec<Outcome>>> = thread::scope(|scope| {
        let threads: Vec<_> = (0..threads).map(|_| scope.spawn(work)).collect();
        let join = |thread: thread::ScopedJoinHandle<'_, _>| thread.join().expect("no panic");
        threads.into_iter().map(join).collect()
    });
    Ok(done?.into_iter().flatten().collect())
}
