//! Who is compared.

use std::time::Duration;

use http::Request;
use tower::{
    balance::p2c,
    load::{CompleteOnResponse, PeakEwmaDiscover, PendingRequestsDiscover},
    util::rng::HasherRng,
};
use tower_mesh::discovery::{
    balance::Picker,
    discover::Changes,
    instance::Instance,
    sim::{Client, Contender, Oracle, Ours, World},
};

/// A way to balance, made anew for each run.
#[derive(Clone, Copy)]
pub struct Entry {
    pub name: &'static str,
    pub make: fn() -> Box<dyn Contender>,
}

pub const CONTENDERS: [Entry; 5] = [
    Entry {
        name: "oracle",
        make: || Box::new(Oracle),
    },
    Entry {
        name: "tower-mesh p2c-ewma",
        make: || Box::new(Ours::new("tower-mesh p2c-ewma", Picker::p2c_ewma)),
    },
    Entry {
        name: "tower-mesh round-robin",
        make: || Box::new(Ours::new("tower-mesh round-robin", Picker::round_robin)),
    },
    Entry {
        name: "tower p2c peak-ewma",
        make: || Box::new(Tower(Load::PeakEwma)),
    },
    Entry {
        name: "tower p2c pending",
        make: || Box::new(Tower(Load::Pending)),
    },
];

/// tower's power of two choices, over our registry.
struct Tower(Load);

enum Load {
    PeakEwma,
    Pending,
}

/// What tower takes a server for that was not called yet: three service times.
const DEFAULT_RTT: Duration = Duration::from_millis(30);
/// Finagle's default, and ten times longer than a slow server's answers.
const DECAY: Duration = Duration::from_secs(10);

impl Contender for Tower {
    fn name(&self) -> &str {
        match self.0 {
            Load::PeakEwma => "tower p2c peak-ewma",
            Load::Pending => "tower p2c pending",
        }
    }

    fn client(&self, world: &World, seed: u64) -> Client {
        let servers = world.clone();
        let endpoints = Changes::new(world.watch(), move |instance: &Instance| {
            servers.server(instance)
        });
        let (endpoints, completion) = (Box::pin(endpoints), CompleteOnResponse::default());
        let rng = HasherRng::with_hasher(Seeded(seed));
        match self.0 {
            Load::PeakEwma => {
                let loaded =
                    PeakEwmaDiscover::new::<Request<()>>(endpoints, DEFAULT_RTT, DECAY, completion);
                Client::new(p2c::Balance::from_rng(loaded, rng))
            }
            Load::Pending => {
                let loaded = PendingRequestsDiscover::new(endpoints, completion);
                Client::new(p2c::Balance::from_rng(loaded, rng))
            }
        }
    }
}

/// tower's generator hashes a counter; with this hasher the numbers come from the seed.
#[derive(Clone, Copy)]
struct Seeded(u64);

struct SeededHasher(fastrand::Rng);

impl std::hash::BuildHasher for Seeded {
    type Hasher = SeededHasher;

    fn build_hasher(&self) -> SeededHasher {
        SeededHasher(fastrand::Rng::with_seed(self.0))
    }
}

impl std::hash::Hasher for SeededHasher {
    fn write(&mut self, bytes: &[u8]) {
        let number = bytes
            .iter()
            .fold(0, |number, &byte| number << 8 | u64::from(byte));
        self.0 = fastrand::Rng::with_seed(self.0.u64(..) ^ number);
    }

    fn finish(&self) -> u64 {
        self.0.clone().u64(..)
    }
}
