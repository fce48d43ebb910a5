//! Writes the lease file, one process at a time.

use std::{
    fmt,
    fs::{self, File, OpenOptions},
    io,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use fs4::{FileExt, TryLockError};
use tokio::{
    sync::{Mutex, OwnedMutexGuard, oneshot},
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
///
/// What is asked for while a write is under way or waits for the lock goes into the next one, all
/// together. So a process with many instances writes no more often than the disk can take it.
#[derive(Debug)]
pub(in super::super) struct Store {
    leases: PathBuf,
    lock: PathBuf,
    temporary: PathBuf,
    /// What the next write will change, in the order that it was asked for.
    asked: Arc<parking_lot::Mutex<Vec<Asked>>>,
    /// Writes of this process come one after the other; also those that nobody waits for any more.
    turn: Arc<Mutex<()>>,
}

/// A change that waits to be written.
struct Asked {
    change: Change,
    answer: oneshot::Sender<Result<(), RegisterError>>,
}

/// Changes the leases, given the time, or refuses and leaves them as they are.
type Change = Box<dyn FnOnce(&mut Leases, u64) -> Result<(), RegisterError> + Send>;

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
            asked: Arc::default(),
            turn: Arc::default(),
        }
    }

    /// Has the leases changed, by the write that comes next.
    async fn write<F>(&self, change: F) -> Result<(), RegisterError>
    where
        F: FnOnce(&mut Leases, u64) -> Result<(), RegisterError> + Send + 'static,
    {
        let (answer, mut answered) = oneshot::channel();
        let change = Box::new(change);
        {
            let mut asked = self.asked.lock();
            // Of a lock that nobody ever got, what was given up would pile up.
            asked.retain(|asked| !asked.answer.is_closed());
            asked.push(Asked { change, answer });
        }
        let turn = Arc::clone(&self.turn).lock_owned().await;
        // Whoever had the turn before may have written this as well.
        if let Ok(result) = answered.try_recv() {
            return result;
        }
        let locked = self.lock(turn).await?;
        let (leases, temporary) = (self.leases.clone(), self.temporary.clone());
        let asked = Arc::clone(&self.asked);
        blocking(move || {
            let _locked = locked;
            let asked = std::mem::take(&mut *asked.lock());
            write_all(asked, &leases, &temporary);
            Ok(())
        })
        .await?;
        let lost = || Err(RegisterError::unavailable("the write was lost"));
        answered.await.unwrap_or_else(|_| lost())
    }

    async fn lock(&self, turn: OwnedMutexGuard<()>) -> Result<Locked, RegisterError> {
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

// ===== impl Asked =====

impl fmt::Debug for Asked {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Asked").finish_non_exhaustive()
    }
}

/// Makes all changes in one write, and answers to all who asked for them and still wait.
fn write_all(asked: Vec<Asked>, leases: &Path, temporary: &Path) {
    let mut content = match load(leases) {
        Ok(content) => content,
        Err(error) => return answer_all(asked.into_iter().map(|asked| asked.answer), &Err(error)),
    };
    let now = wall();
    let mut made = Vec::new();
    for Asked { change, answer } in asked {
        // What was given up must not be written at some later time.
        if answer.is_closed() {
            continue;
        }
        match change(&mut content, now) {
            Ok(()) => made.push(answer),
            refused => answer_all([answer], &refused),
        }
    }
    if !made.is_empty() {
        content.sweep(now);
        answer_all(made, &replace(&content, leases, temporary));
    }
}

fn answer_all(
    answers: impl IntoIterator<Item = oneshot::Sender<Result<(), RegisterError>>>,
    result: &Result<(), RegisterError>,
) {
    for answer in answers {
        // Nobody may be waiting any more.
        let _ = answer.send(result.clone());
    }
}

fn replace(content: &Leases, leases: &Path, temporary: &Path) -> Result<(), RegisterError> {
    // Left over when a writer was killed. Nobody else is writing now.
    let _ = fs::remove_file(temporary);
    write_and_rename(temporary, leases, &content.render())
        .map_err(|error| failed("written", leases, &error))
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

/// A file that cannot be read as leases is an error, and left as it is.
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
