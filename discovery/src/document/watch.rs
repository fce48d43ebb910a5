//! A file that is read again whenever it changes.

use std::{
    io,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use tokio::{sync::watch, task::AbortHandle, time};

use super::{
    error::FileError,
    eye::{Eye, SETTLE},
    parse::{Text, make_of},
};

/// The last content, good or bad; `None` before the first look.
type Loaded<T> = Option<Result<Arc<T>, FileError>>;

/// A file that is read again whenever it changes. The watch ends when this is dropped.
#[derive(Debug)]
pub struct Watched<T> {
    loaded: watch::Receiver<Loaded<T>>,
    task: AbortHandle,
}

/// The contents of a [`Watched`] file, one after the other.
#[derive(Debug)]
pub struct Contents<T>(watch::Receiver<Loaded<T>>);

// ===== impl Watched =====

impl<T: Send + Sync + 'static> Watched<T> {
    /// How often a file is read without being told, by default: 5 s.
    pub const DEFAULT_POLL: Duration = Duration::from_secs(5);

    /// Watches a file, which need not be there yet. `make` makes a value of its text; `poll` is how
    /// often it is read without being told of a change.
    ///
    /// # Panics
    ///
    /// Outside a tokio runtime.
    pub fn spawn<F>(path: impl Into<PathBuf>, poll: Duration, make: F) -> Self
    where
        F: Fn(Text<'_>) -> Result<T, FileError> + Send + 'static,
    {
        let (sender, loaded) = watch::channel(None);
        let task = tokio::spawn(follow(path.into(), poll, make, sender)).abort_handle();
        Self { loaded, task }
    }

    /// Every content from now on, the present one first.
    pub fn contents(&self) -> Contents<T> {
        let mut loaded = self.loaded.clone();
        loaded.mark_changed();
        Contents(loaded)
    }

    pub(crate) fn is_alive(&self) -> bool {
        !self.task.is_finished()
    }
}

impl<T> Drop for Watched<T> {
    fn drop(&mut self) {
        self.task.abort();
    }
}

// ===== impl Contents =====

impl<T> Contents<T> {
    /// The next content, good or bad, the newest where there were several; `None` when the watch has
    /// ended. Cancel safe.
    pub async fn next(&mut self) -> Option<Result<Arc<T>, FileError>> {
        loop {
            self.0.changed().await.ok()?;
            let content = self.0.borrow_and_update().clone();
            if content.is_some() {
                return content;
            }
        }
    }
}

/// Publishes every settled content of the file that differs from the one before, for ever.
async fn follow<T, F>(path: PathBuf, poll: Duration, make: F, sender: watch::Sender<Loaded<T>>)
where
    F: Fn(Text<'_>) -> Result<T, FileError>,
{
    let mut eye = Eye::new(path.clone());
    let mut published = None;
    let mut told = true;
    loop {
        let (text, fingerprint) = eye.look().await;
        if published != Some(fingerprint) {
            // The first look finds a file that somebody may be writing just now, and a change that
            // only the poll saw has no events to wait for: look twice.
            if eye.is_stirring(SETTLE).await || eye.look().await.1 != fingerprint {
                eye.settle().await;
                told = true;
                continue;
            }
            published = Some(fingerprint);
            sender.send_replace(Some(load(&path, &text, &make)));
            if !told {
                // The change was not reported: this watch is deaf. The next look opens another.
                eye.close();
                told = true;
                continue;
            }
        }
        told = time::timeout(poll, eye.stirs()).await.is_ok();
        if told {
            eye.settle().await;
        }
    }
}

fn load<T>(
    path: &Path,
    text: &io::Result<String>,
    make: impl FnOnce(Text<'_>) -> Result<T, FileError>,
) -> Result<Arc<T>, FileError> {
    make_of(path, text, make).map(Arc::new)
}
