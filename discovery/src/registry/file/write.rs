//! Writing a file so that no reader ever sees half of it.

use std::{
    ffi::OsString,
    fs::{self, File},
    io::{self, Write},
    path::Path,
};

/// Replaces the content of `path` in one step: a reader sees all of the old or all of the new.
///
/// The text goes to a new file in the same directory, is flushed to disk, and takes the place of the
/// old file by a rename. Blocks.
///
/// ```no_run
/// tower_mesh_discovery::registry::write_atomic("registry.yaml", "version: 1\nservices: {}\n")?;
/// # Ok::<(), std::io::Error>(())
/// ```
///
/// # Errors
///
/// Those of the file system; the old file is then untouched.
pub fn write_atomic(path: impl AsRef<Path>, text: &str) -> io::Result<()> {
    let path = path.as_ref();
    let name = path.file_name().ok_or(io::ErrorKind::InvalidInput)?;
    // Unique, so that two writers do not fill one file; hidden, so that globs pass it by.
    let mut temporary = OsString::from(".");
    temporary.push(name);
    temporary.push(format!(".{:016x}.tmp", fastrand::u64(..)));
    let temporary = path.with_file_name(temporary);
    let written = write_and_rename(&temporary, path, text);
    if written.is_err() {
        let _ = fs::remove_file(&temporary);
    }
    written
}

pub(super) fn write_and_rename(temporary: &Path, path: &Path, text: &str) -> io::Result<()> {
    let mut file = File::create_new(temporary)?;
    file.write_all(text.as_bytes())?;
    // Without it a crash can leave a renamed but empty file.
    file.sync_all()?;
    drop(file);
    fs::rename(temporary, path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_write_replaces_the_file_and_leaves_nothing_else() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("registry.yaml");
        write_atomic(&path, "one").unwrap();
        write_atomic(&path, "two").unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), "two");
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);

        let absent = dir.path().join("absent/registry.yaml");
        assert_eq!(
            write_atomic(absent, "x").unwrap_err().kind(),
            io::ErrorKind::NotFound
        );
        fs::create_dir(dir.path().join("taken")).unwrap();
        assert!(write_atomic(dir.path().join("taken"), "x").is_err());
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 2);
    }
}
