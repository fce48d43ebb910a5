//! The task that follows the lease file.

use std::{
    io,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use tokio::{
    sync::watch,
    task::AbortHandle,
    time::{self, Instant},
};

use super::{
    Leases, path_of,
    table::{Table, View},
    wall,
};
use crate::document::{Eye, FileError, Text};

/// The least time between two reads. Every write replaces the file whole, so there is no need to wait
/// until it is still; but many instances write it often.
const PAUSE: Duration = Duration::from_millis(50);

/// `None` before the first look.
type Seen = Option<Result<Arc<View>, FileError>>;

/// A lease file that is followed until this is dropped.
#[derive(Debug)]
pub(in super::super) struct Watched {
    seen: watch::Receiver<Seen>,
    task: AbortHandle,
}

/// The views of a [`Watched`] lease file, one after the other.
#[derive(Debug)]
pub(in super::super) struct Views(watch::Receiver<Seen>);

// ===== impl Watched =====

impl Watched {
    pub(in super::super) fn spawn(registry: &Path, poll: Duration) -> Self {
        let (sender, seen) = watch::channel(None);
        let task = tokio::spawn(follow(path_of(registry), poll, sender)).abort_handle();
        Self { seen, task }
    }

    /// Every view from now on, the present one first.
    pub(in super::super) fn views(&self) -> Views {
        let mut seen = self.seen.clone();
        seen.mark_changed();
        Views(seen)
    }

    pub(in super::super) fn is_alive(&self) -> bool {
        !self.task.is_finished()
    }
}

impl Drop for Watched {
    fn drop(&mut self) {
        self.task.abort();
    }
}

// ===== impl Views =====

impl Views {
    /// The next view, the newest where there were several; `None` when the watch has ended. Cancel
    /// safe.
    pub(in super::super) async fn next(&mut self) -> Option<Result<Arc<View>, FileError>> {
        loop {
            self.0.changed().await.ok()?;
            let seen = self.0.borrow_and_update().clone();
            if seen.is_some() {
                return seen;
            }
        }
    }
}

async fn follow(path: PathBuf, poll: Duration, sender: watch::Sender<Seen>) {
    let mut eye = Eye::new(path.clone());
    let mut table = Table::default();
    let (mut known, mut exists, mut told) = (None, false, true);
    loop {
        let (text, fingerprint) = eye.look().await;
        let read = Instant::now();
        if known.replace(fingerprint) != Some(fingerprint) {
            match load(&path, text) {
                Ok(leases) => {
                    exists = leases.is_some();
                    table.update(leases.unwrap_or_default(), read, wall());
                    publish(&sender, table.view(read, exists));
                }
                Err(error) => {
                    sender.send_replace(Some(Err(error)));
                }
            }
            if !told {
                // The change was not reported: this watch is deaf. The next look opens another.
                eye.close();
                told = true;
                continue;
            }
        }
        told = wait(&mut eye, read + poll, &table, &sender, exists).await;
        time::sleep_until(read + PAUSE).await;
        eye.catch_up();
    }
}

/// Waits for a change (true) or the time to look for one (false), and meanwhile lets leases lapse.
async fn wait(
    eye: &mut Eye,
    until: Instant,
    table: &Table,
    sender: &watch::Sender<Seen>,
    exists: bool,
) -> bool {
    loop {
        let expiry = table.next_expiry(Instant::now());
        let next = expiry.map_or(until, |at| at.min(until));
        if time::timeout_at(next, eye.stirs()).await.is_ok() {
            return true;
        }
        if next == until {
            return false;
        }
        // A file that cannot be read ends no lease that it might have renewed.
        if matches!(&*sender.borrow(), Some(Ok(_))) {
            publish(sender, table.view(Instant::now(), exists));
        }
    }
}

fn publish(sender: &watch::Sender<Seen>, view: View) {
    sender.send_if_modified(|seen| {
        let news = !matches!(seen, Some(Ok(before)) if before.is_same(&view));
        if news {
            *seen = Some(Ok(Arc::new(view)));
        }
        news
    });
}

/// `None` is no file.
fn load(path: &Path, text: io::Result<String>) -> Result<Option<Leases>, FileError> {
    match text {
        Ok(text) => Text::new(path, &text).and_then(Leases::parse).map(Some),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(FileError::unreadable(path, &error)),
    }
}
