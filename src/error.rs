//! What can go wrong when a mesh is built.

use tower_mesh_layers::ConfigError;

/// A mesh could not be built.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BuildError {
    /// A value of the configuration was refused; the error names its path.
    #[error(transparent)]
    Config(#[from] ConfigError),
}
