//! What can go wrong when a mesh is built.

#[cfg(feature = "file")]
use tower_mesh_discovery::document::FileError;
use tower_mesh_layers::ConfigError;

/// A mesh could not be built.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BuildError {
    /// A value of the configuration was refused; the error names its path.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The configuration file was refused, or cannot be read; the error names the place in it.
    #[cfg(feature = "file")]
    #[error(transparent)]
    File(#[from] FileError),
}
