//! Writes the lease file, one process at a time.

use std::{
    fs::{self, File, OpenOptions},
    io,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use fs4::{FileExt, TryLockError};
use tokio::{
    sync::{Mutex, OwnedMutexGuard},
    task, time,
};

use super::{Leases, path_of, wall, with_suffix};
use crate::{
    document::{Text, read},
    register::{Lease, Register, RegisterError, Written},
    registry::file::write::write_and_rename,
};

/// How long at most between two looks at a lock that somebody else has. It is held for a few
/// milliseconds.
const LOCK_PAUSE: Duration = Duration::from_millis(10);

/// The lease file, for writing.
///
/// The lock is an advisory one on a file of its own, since the lease file is replaced by every write.
/// The operating system gives it back when its holder dies, however it dies. Waiting is asking again
/// and not a blocked thread, which could not be given up when the holder is stopped.
#[derive(Debug)]
pub(in super::super) struct Store {
    leases: PathBuf,
    lock: PathBuf,
    temporary: PathBuf,
    /// Writes of this process come one after the other, in the order that they were asked for; also
    /// those that nobody waits for any more.
    turn: Arc<Mutex<()>>,
}

/// The right to write. Given back on drop.
struct Locked {
    _lock: File,
    _turn: OwnedMutexGuard<()>,
}

// ===== impl Store =====

impl Store {
    pub(in super::super) fn new(registry: &Path) -> Self {
        let leases = path_of(registry);
        Self {
            lock: with_suffix(registry, ".lock"),
            temporary: with_suffix(&leases, ".tmp"),
            leases,
            turn: Arc::default(),
        }
    }

    /// Reads the leases, changes them, and writes them back, while nobody else does.
    ///
    /// A file that cannot be read as leases is left as it is.
    async fn write<F>(&self, change: F) -> Result<(), RegisterError>
    where
        F: FnOnce(&mut Leases, u64) -> Result<(), RegisterError> + Send + 'static,
    {
        let locked = self.lock().await?;
        let (leases, temporary) = (self.leases.clone(), self.temporary.clone());
        blocking(move || {
            let _locked = locked;
            let mut content = load(&leases)?;
            let now = wall();
            change(&mut content, now)?;
            content.sweep(now);
            // Left over when a writer was killed. Nobody else is writing now.
            let _ = fs::remove_file(&temporary);
            write_and_rename(&temporary, &leases, &content.render())
                .map_err(|error| failed("written", &leases, &error))
        })
        .await
    }

    async fn lock(&self) -> Result<Locked, RegisterError> {
        let turn = Arc::clone(&self.turn).lock_owned().await;
        loop {
            let path = self.lock.clone();
            let lock =
                blocking(move || try_lock(&path).map_err(|error| failed("locked", &path, &error)));
            if let Some(lock) = lock.await? {
                return Ok(Locked {
                    _lock: lock,
                    _turn: turn,
                });
            }
            // Random, so that several that wait do not ask in step.
            time::sleep(LOCK_PAUSE.mul_f64(fastrand::f64())).await;
        }
    }
}

impl Register for Store {
    fn put<'a>(&'a self, lease: &'a Lease) -> Written<'a> {
        let lease = lease.clone();
        Box::pin(self.write(move |leases, now| leases.put(&lease, now)))
    }

    fn renew<'a>(&'a self, lease: &'a Lease) -> Written<'a> {
        let lease = lease.clone();
        Box::pin(self.write(move |leases, now| leases.renew(&lease, now)))
    }

    fn remove<'a>(&'a self, lease: &'a Lease) -> Written<'a> {
        let lease = lease.clone();
        Box::pin(self.write(move |leases, now| leases.leave(&lease, now)))
    }
}

/// Opens the lock file, which stays for ever: whoever removed it might remove it from under another.
fn try_lock(path: &Path) -> io::Result<Option<File>> {
    let file = OpenOptions::new()
        .create(true)
        .truncate(false)
        .write(true)
        .open(path)?;
    match FileExt::try_lock(&file) {
        Ok(()) => Ok(Some(file)),
        Err(TryLockError::WouldBlock) => Ok(None),
        Err(TryLockError::Error(error)) => Err(error),
    }
}

fn load(path: &Path) -> Result<Leases, RegisterError> {
    match read(path) {
        Ok(text) => Text::new(path, &text)
            .and_then(Leases::parse)
            .map_err(RegisterError::refused),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Leases::default()),
        Err(error) => Err(failed("read", path, &error)),
    }
}

fn failed(what: &str, path: &Path, error: &io::Error) -> RegisterError {
    let path = path.display();
    RegisterError::unavailable(io::Error::new(
        error.kind(),
        format!("{path}: cannot be {what}: {error}"),
    ))
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, RegisterError> + Send + 'static,
) -> Result<T, RegisterError> {
    let done = task::spawn_blocking(work).await;
    done.unwrap_or_else(|error| Err(RegisterError::unavailable(error)))
}
