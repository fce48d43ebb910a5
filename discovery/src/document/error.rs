//! Why a file was refused.

use std::{
    fmt, io,
    path::{Path, PathBuf},
};

use tower_mesh_layers::config::{ConfigError, did_you_mean};

/// Why a file was refused: where, and what was wrong with what.
#[derive(Debug, Clone)]
pub struct FileError {
    file: PathBuf,
    /// Line and column, both from 1, where the parser knows them.
    position: Option<(u64, u64)>,
    /// The path in the document, `services.orders[0].weight`; empty for the document itself.
    path: String,
    message: String,
    missing: bool,
}

// ===== impl FileError =====

impl FileError {
    pub(super) fn new(
        file: &Path,
        position: Option<(u64, u64)>,
        path: String,
        message: String,
    ) -> Self {
        let path = if path == "." { String::new() } else { path };
        let near = suggestion(&message);
        Self {
            file: file.to_owned(),
            position,
            path,
            message: message + &near,
            missing: false,
        }
    }

    pub(super) fn refused(file: &Path, position: Option<(u64, u64)>, error: ConfigError) -> Self {
        let message = format!("got `{}`, expected {}", error.value(), error.expected());
        Self::new(file, position, error.path().to_owned(), message)
    }

    pub(crate) fn unreadable(file: &Path, error: &io::Error) -> Self {
        let message = format!("cannot be read: {error}");
        Self {
            missing: error.kind() == io::ErrorKind::NotFound,
            ..Self::new(file, None, String::new(), message)
        }
    }

    /// Whether there is no such file.
    #[cfg(feature = "file")]
    pub(crate) fn is_missing(&self) -> bool {
        self.missing
    }

    /// The file.
    pub fn file(&self) -> &Path {
        &self.file
    }

    /// Line and column, both from 1, where the parser knows them.
    pub fn position(&self) -> Option<(u64, u64)> {
        self.position
    }

    /// The path in the document, such as `services.orders[0].weight`; empty for the document itself.
    pub fn path(&self) -> &str {
        &self.path
    }
}

impl fmt::Display for FileError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.file.display())?;
        if let Some((line, column)) = self.position {
            write!(f, ":{line}:{column}")?;
        }
        if !self.path.is_empty() {
            write!(f, ": {}", self.path)?;
        }
        write!(f, ": {}", self.message)
    }
}

impl std::error::Error for FileError {}

/// For ``unknown field `x`, expected one of `a`, `b` `` (one parser leaves out the backticks).
fn suggestion(message: &str) -> String {
    let Some((unknown, known)) = message.split_once("`, expected ") else {
        return String::new();
    };
    let Some((what, name)) = unknown.split_once('`') else {
        return String::new();
    };
    if !what.starts_with("unknown ") {
        return String::new();
    }
    let known = known.strip_prefix("one of ").unwrap_or(known);
    did_you_mean(
        name,
        known.split(['`', ',', ' ']).filter(|word| !word.is_empty()),
    )
}
