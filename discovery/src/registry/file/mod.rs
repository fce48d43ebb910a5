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

mod document;
mod write;

use std::{
    io,
    path::{Path, PathBuf},
    sync::{Arc, Weak},
    time::Duration,
};

use futures_util::stream;
use parking_lot::Mutex;

use self::document::Document;
pub use self::write::write_atomic;
pub use crate::document::FileError;
use crate::{
    document::{Text, Watched},
    instance::Instance,
    resolve::{Answers, Resolve, ResolveError},
};

/// A registry in a watched file. See the [module](self).
///
/// All services that are followed at one time share one watch of the file.
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
    source: Mutex<Weak<Watched<Document>>>,
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
        Self {
            path: path.into(),
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

    fn source(&self) -> Arc<Watched<Document>> {
        let mut slot = self.source.lock();
        if let Some(source) = slot.upgrade().filter(|source| source.is_alive()) {
            return source;
        }
        let source = Arc::new(Watched::spawn(&self.path, self.poll, Document::parse));
        *slot = Arc::downgrade(&source);
        source
    }
}

impl Resolve for FileRegistry {
    fn resolve(&self, service: &str) -> Answers {
        let (source, service) = (self.source(), service.to_owned());
        let contents = source.contents();
        Box::pin(stream::unfold(
            (source, contents, service),
            async |(source, mut contents, service)| {
                let answer = match contents.next().await? {
                    Ok(document) => Ok(document.instances(&service)),
                    Err(error) => Err(ResolveError::invalid(error)),
                };
                Some((answer, (source, contents, service)))
            },
        ))
    }
}

#[cfg(test)]
mod tests;
