//! Files of values that people write and edit while we run: YAML, TOML or JSON, as the extension says.
//!
//! ```text
//!   path ──► Eye (notify, poll) ──settled text──► parse ──► check ──► Watched: value or FileError
//! ```
//!
//! The registry `file:` and the configuration of a mesh are such files. Whatever is wrong with one is a
//! [`FileError`]: it says where (file, line, column, path in the document), what was found, and what is
//! allowed.
//!
//! # When an edit counts
//!
//! Every way to edit a file is seen, through the directory: an atomic rename, delete and create,
//! truncate and write, append, and the `..data` symlink swap of a Kubernetes ConfigMap. An edit
//! counts once the file has been still for 50 ms, its writer closed it (or has been silent for
//! 500 ms), and its content is another than before.
//!
//! A YAML or TOML file must end with a line break: without it a file that was cut off in the middle
//! of a line could not be told from a whole one. Where no change is reported (network file systems,
//! no inotify watches left), the file is read every `poll` time.

mod error;
mod eye;
mod locate;
mod parse;
mod watch;
mod words;

#[cfg(test)]
pub(crate) use self::eye::SETTLE_OPEN;
pub use self::{
    error::FileError,
    parse::{Format, Text},
    watch::Watched,
};
pub(crate) use self::{
    eye::{Eye, read},
    watch::Contents,
};
