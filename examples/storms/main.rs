//! Six storms, each over a stock stack and over a protected one at the same time.
//!
//! ```text
//! cargo run --release --example storms            # a live table, then storms.png
//! cargo run --release --example storms -- hung    # one storm: the start of its name is enough
//! ```
//!
//! Stock is what teams have without a mesh: a pooled hyper client with tower's timeout and retries that go on until
//! they are used up, and a server without layers. Protected is the same client and server code over layers of this
//! crate. Both take the same open-loop load; what differs in a storm is said at its head, in `scenes/`.

#![allow(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "it talks to a person"
)]
#![allow(unreachable_pub, reason = "an executable exports nothing")]

mod backend;
mod clients;
mod plot;
mod record;
mod scenes;
mod screen;
mod storm;

use std::{path::Path, process::ExitCode};

use crate::{screen::Screen, storm::Told};

type Error = Box<dyn std::error::Error + Send + Sync>;
type Result<T, E = Error> = std::result::Result<T, E>;

const PLOT: &str = "storms.png";

#[tokio::main]
async fn main() -> ExitCode {
    // Handlers panic on purpose here; what that prints would run through the table.
    std::panic::set_hook(Box::new(|_| {}));
    let wanted = std::env::args().nth(1).unwrap_or_default();
    match run(&wanted).await {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("storms: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Says whether everything came as promised.
async fn run(wanted: &str) -> Result<bool> {
    let storms: Vec<_> = scenes::ALL
        .iter()
        .filter(|storm| storm.name.starts_with(wanted))
        .collect();
    if storms.is_empty() {
        let names: Vec<_> = scenes::ALL.iter().map(|storm| storm.name).collect();
        return Err(format!("no storm {wanted:?}: there are {}", names.join(", ")).into());
    }
    let mut screen = Screen::new();
    let mut told: Vec<Told> = Vec::new();
    for storm in storms {
        told.push(storm.run(&mut screen).await?);
    }
    plot::draw(&told, Path::new(PLOT))?;
    println!("\nThe curves are in {PLOT}.\n");
    let mut kept = true;
    for told in &told {
        for promise in told.promises() {
            println!("{promise}");
            kept &= promise.holds;
        }
    }
    Ok(kept)
}
