//! Keeping a mesh on its configuration file.

use std::{
    path::{Path, PathBuf},
    sync::{Arc, Weak},
};

use tokio::sync::watch;
use tower_mesh_discovery::document::{FileError, Text, Watched};
use tower_mesh_layers::{
    ConfigError,
    metrics::{Collect, Sink},
};

use super::Inner;
use crate::config::MeshConfig;

/// What became of the edits of a configuration file so far.
#[derive(Debug, Clone, Default)]
#[non_exhaustive]
pub struct Reloads {
    /// Edits that were put into force.
    pub applied: u64,
    /// Edits that were refused.
    pub refused: u64,
    /// Why the file as it is now is not in force; `None` while it is.
    pub error: Option<FileError>,
}

/// Whether an edit changed anything.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Edit {
    Applied,
    /// Another text, but the same configuration.
    Same,
}

/// The file that a mesh is on.
pub(super) struct ConfigFile {
    _watched: Watched<Edit>,
}

/// What is counted of reloads.
pub(super) struct ReloadStats(pub(super) watch::Sender<Reloads>);

/// Reads and checks a configuration file, and makes something of it. Blocks.
pub(super) fn read<T>(
    path: &Path,
    make: impl FnOnce(MeshConfig) -> Result<T, ConfigError>,
) -> Result<T, FileError> {
    Text::load(path, |text| {
        let config = text.read()?;
        make(config).map_err(|error| text.refuse(error))
    })
}

// ===== impl ConfigFile =====

impl ConfigFile {
    /// Watches the file, and sets the mesh to whatever valid configuration it has, for as long as the
    /// mesh is there.
    pub(super) fn watch(path: PathBuf, mesh: Weak<Inner>) -> Self {
        let inner = mesh.clone();
        let make = move |text: Text<'_>| {
            let config: MeshConfig = text.read()?;
            match inner.upgrade() {
                Some(mesh) => apply(&mesh, config).map_err(|error| text.refuse(error)),
                None => Ok(Edit::Same),
            }
        };
        let watched = Watched::spawn(path, Watched::<Edit>::DEFAULT_POLL, make);
        let mut contents = watched.contents();
        // Ends with the watch, which the mesh holds.
        tokio::spawn(async move {
            while let Some(edit) = contents.next().await {
                let Some(mesh) = mesh.upgrade() else { return };
                mesh.reloads.note(edit);
            }
        });
        Self { _watched: watched }
    }
}

fn apply(mesh: &Inner, config: MeshConfig) -> Result<Edit, ConfigError> {
    if mesh.state.get().config == config {
        return Ok(Edit::Same);
    }
    mesh.config.set(config).map(|()| Edit::Applied)
}

// ===== impl ReloadStats =====

impl ReloadStats {
    fn note(&self, edit: Result<Arc<Edit>, FileError>) {
        self.0.send_modify(|reloads| match edit {
            Ok(edit) => {
                reloads.error = None;
                if *edit == Edit::Applied {
                    reloads.applied += 1;
                    tracing::info!("the configuration has changed");
                }
            }
            Err(error) => {
                tracing::error!(%error, "the configuration is refused: the last good one stays");
                reloads.refused += 1;
                reloads.error = Some(error);
            }
        });
    }
}

impl Collect for ReloadStats {
    fn collect(&self, out: &mut dyn Sink) {
        let reloads = self.0.borrow();
        let help = "Edits of the configuration";
        for (result, count) in [("applied", reloads.applied), ("refused", reloads.refused)] {
            out.counter(
                "mesh_config_reloads_total",
                help,
                &[("result", result)],
                count,
            );
        }
        let valid = if reloads.error.is_none() { 1.0 } else { 0.0 };
        let help = "Whether the configuration as it is written now is in force";
        out.gauge("mesh_config_valid", help, &[], valid);
    }
}

impl Default for ReloadStats {
    fn default() -> Self {
        Self(watch::Sender::new(Reloads::default()))
    }
}
