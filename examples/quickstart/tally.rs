//! What an instance counts, so that the count survives SIGKILL.

use std::{
    fs::{File, OpenOptions},
    io::{self, Write},
    path::{Path, PathBuf},
};

/// Counts in a process, in files that others can read: one byte for each event.
///
/// An append is one system call and belongs to the kernel from then on, so nothing that was counted
/// is lost with the process.
#[derive(Debug)]
pub struct Tally {
    received: File,
    answered: File,
}

/// Reads the tally of a process, be it dead or alive.
#[derive(Debug, Clone)]
pub struct TallyReader {
    received: PathBuf,
    answered: PathBuf,
}

impl Tally {
    /// Opens the tally of an instance.
    pub fn open(directory: &Path, name: &str) -> io::Result<Self> {
        let paths = TallyReader::new(directory, name);
        let open = |path| OpenOptions::new().create(true).append(true).open(path);
        Ok(Self {
            received: open(paths.received)?,
            answered: open(paths.answered)?,
        })
    }

    /// A call has come.
    pub fn received(&self) {
        (&self.received)
            .write_all(b".")
            .expect("the tally is writable");
    }

    /// Its answer is about to go.
    pub fn answered(&self) {
        (&self.answered)
            .write_all(b".")
            .expect("the tally is writable");
    }
}

impl TallyReader {
    /// The tally of an instance, which need not have started.
    pub fn new(directory: &Path, name: &str) -> Self {
        Self {
            received: directory.join(format!("{name}.received")),
            answered: directory.join(format!("{name}.answered")),
        }
    }

    /// Calls that have come.
    pub fn received(&self) -> u64 {
        length(&self.received)
    }

    /// Calls that have come and have no answer yet.
    pub fn unanswered(&self) -> u64 {
        // NOTE: in this order, so that an answer in between is not subtracted from too little.
        let answered = length(&self.answered);
        self.received().saturating_sub(answered)
    }
}

fn length(path: &Path) -> u64 {
    path.metadata().map_or(0, |metadata| metadata.len())
}
