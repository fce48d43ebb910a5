//! A registry in a file, which is watched: YAML, TOML or JSON, as its extension says.
//!
//! ```yaml
//! # registry.yaml
//! version: 1
//! services:
//!   orders:
//!     - id: orders-1
//!       endpoints: ["http://10.0.0.1:8080", "grpc://10.0.0.1:9090"]
//!       locality: { region: eu-west-1, zone: eu-west-1a }
//!     - endpoints: ["http://10.0.0.2:8080"]
//!       weight: 50
//!       status: draining
//! ```
//!
//! The fields are those of an [`Instance`](crate::instance). `service` may be left out, since the
//! list says it, and so may `id`, which then is the first endpoint's URL. Unknown fields are refused.
//!
//! An edit counts once the file has been still for a moment, as the page of [`document`](crate::document)
//! says, and all of it is valid. Otherwise the last good content stays in force, and the error, with
//! file, line, column, path in the document, value and what is allowed, goes to the log and to
//! [`Health`](crate::resolve::Health). A YAML or TOML file must end with a line break.
//!
//! # Registering
//!
//! [`Register`]ed instances are kept next to that file, in `registry.yaml.leases.json`. The file that
//! people write is never written: its comments and its layout stay, an editor that has it open is not
//! overtaken by a heartbeat every few seconds, and a mistake in it stops no heartbeat. Readers put both
//! together. Of two records with one id, what people wrote counts, so an instance can be drained by
//! hand. Where all instances register there need not be another file.
//!
//! ```
//! use tower_mesh_discovery::{instance::Instance, register::RegisterConfig, registry::RegistryUrl};
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # let dir = tempfile::tempdir()?;
//! # let url = format!("file:{}?grace=0s", dir.path().join("registry.yaml").display());
//! let registry = url.parse::<RegistryUrl>()?.open();
//! let instance = Instance::at("orders", "http://10.0.0.1:8080".parse()?);
//! let registration = registry.register(instance, RegisterConfig::default())?;
//!
//! let mut orders = registry.resolver("orders")?.watch();
//! while orders.changed().await.is_empty() {}
//! # drop(registration);
//! # Ok(())
//! # }
//! ```
//!
//! * **Several processes** write in turn, under an advisory lock on `registry.yaml.lock`, which the
//!   operating system gives back when its holder dies. The lease file is replaced in one step, so no
//!   reader sees half of it. Others' records stay as they are, also what another version of this
//!   library added to them.
//! * **A lease file that cannot be read** (by whoever edited it) is left alone: registering fails with
//!   the [`FileError`], and is tried again, until somebody mends or removes it.
//! * **A process that was killed** leaves a record behind that lapses: every record says when it
//!   expires. Readers ignore it from then on; the next write of anybody drops it an hour later.
//! * **Clocks**: the time of expiry is the writer's wall clock, which the processes should share (one
//!   host, or NTP). A reader compares it with its own only on its first look. After that a record
//!   that changed is good for one TTL by the reader's monotonic clock, so a clock that jumps ends no
//!   lease.
//! * **Size**: a heartbeat writes the whole file, and whoever follows it reads it again, at most every
//!   50 ms. What instances of one process ask for while a write is under way is one write, so a process may
//!   have hundreds of them; but each process writes for itself. It is meant for some dozens of processes:
//!   a host, a development machine, a test.

mod document;
mod lease;
mod merge;
mod write;

use std::{
    io,
    path::{Path, PathBuf},
    sync::{Arc, Weak},
    time::Duration,
};

use futures_util::stream;
use parking_lot::Mutex;

pub use self::write::write_atomic;
use self::{document::Document, merge::Follower};
pub use crate::document::FileError;
use crate::{
    document::{Text, Watched},
    instance::Instance,
    register::{Lease, Register, Written},
    resolve::{Answers, Resolve},
};

/// A registry in a watched file. See the [module](self).
///
/// All services that are followed at one time share one watch of its files.
///
/// ```
/// use tower_mesh_discovery::{
///     instance::Instance,
///     registry::FileRegistry,
///     resolve::Resolver,
/// };
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let dir = tempfile::tempdir()?;
/// let path = dir.path().join("registry.json");
/// FileRegistry::write(&path, &[Instance::at("orders", "http://10.0.0.1:8080".parse()?)])?;
///
/// let mut orders = Resolver::new(FileRegistry::new(&path), "orders").watch();
/// assert_eq!(orders.changed().await.len(), 1);
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct FileRegistry {
    path: PathBuf,
    poll: Duration,
    /// Alive while a service is followed.
    source: Mutex<Weak<Sources>>,
    store: lease::Store,
}

/// What is followed: the file that people write, and what is registered.
#[derive(Debug)]
struct Sources {
    written: Watched<Document>,
    registered: lease::Watched,
}

// ===== impl FileRegistry =====

impl FileRegistry {
    /// How often the file is read without being told, by default: 5 s.
    pub const DEFAULT_POLL: Duration = Duration::from_secs(5);
    /// How often it may be read at most: every 100 ms.
    pub const MIN_POLL: Duration = Duration::from_millis(100);

    /// The registry in `path`, which need not be there yet. Nothing is read before a service is
    /// followed.
    pub fn new(path: impl Into<PathBuf>) -> Self {
        let path = path.into();
        Self {
            store: lease::Store::new(&path),
            path,
            poll: Self::DEFAULT_POLL,
            source: Mutex::new(Weak::new()),
        }
    }

    /// How often the file is read without being told of a change; at least
    /// [`MIN_POLL`](Self::MIN_POLL).
    #[must_use]
    pub fn poll(mut self, every: Duration) -> Self {
        self.poll = every.max(Self::MIN_POLL);
        self
    }

    /// Checks a file as it is now, without following it. Blocks.
    ///
    /// # Errors
    ///
    /// The [`FileError`] that following it would report.
    pub fn check(path: impl AsRef<Path>) -> Result<(), FileError> {
        Text::load(path.as_ref(), Document::parse).map(drop)
    }

    /// Replaces a registry file with `instances`, in one step. It is written as JSON, which a
    /// `.yaml` file may hold as well. Blocks.
    ///
    /// # Errors
    ///
    /// Those of the file system; `InvalidInput` for another extension or an instance that reading
    /// would refuse.
    pub fn write(path: impl AsRef<Path>, instances: &[Instance]) -> io::Result<()> {
        let path = path.as_ref();
        let text = document::render(instances);
        Text::new(path, &text)
            .and_then(Document::parse)
            .map_err(|error| io::Error::new(io::ErrorKind::InvalidInput, error))?;
        write_atomic(path, &text)
    }

    fn sources(&self) -> Arc<Sources> {
        let mut slot = self.source.lock();
        if let Some(sources) = slot.upgrade().filter(|sources| sources.are_alive()) {
            return sources;
        }
        let sources = Arc::new(Sources {
            written: Watched::spawn(&self.path, self.poll, Document::parse),
            registered: lease::Watched::spawn(&self.path, self.poll),
        });
        *slot = Arc::downgrade(&sources);
        sources
    }
}

impl Resolve for FileRegistry {
    fn resolve(&self, service: &str) -> Answers {
        let follower = Follower::new(self.sources(), service);
        Box::pin(stream::unfold(follower, async |mut follower| {
            Some((follower.next().await?, follower))
        }))
    }
}

impl Register for FileRegistry {
    fn put<'a>(&'a self, lease: &'a Lease) -> Written<'a> {
        self.store.put(lease)
    }

    fn renew<'a>(&'a self, lease: &'a Lease) -> Written<'a> {
        self.store.renew(lease)
    }

    fn remove<'a>(&'a self, lease: &'a Lease) -> Written<'a> {
        self.store.remove(lease)
    }
}

// ===== impl Sources =====

impl Sources {
    fn are_alive(&self) -> bool {
        self.written.is_alive() && self.registered.is_alive()
    }
}

#[cfg(test)]
mod register_tests;
#[cfg(test)]
mod tests;
