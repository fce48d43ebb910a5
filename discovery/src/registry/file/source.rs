//! The task that keeps an eye on a file, and tells when its content is worth reading.

use std::{
    ffi::OsString,
    fs::File,
    hash::{DefaultHasher, Hash, Hasher},
    io::{self, Read},
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use notify::{
    Event, EventKind, RecommendedWatcher, RecursiveMode, Watcher,
    event::{AccessKind, AccessMode, ModifyKind},
};
use tokio::{
    sync::{mpsc, watch},
    task::{self, AbortHandle},
    time,
};

use super::{FileError, document::Document};

/// How long a file must be still. Writers that replace a file in steps (delete and create, a chain
/// of renames) take microseconds between them; an editor a few milliseconds.
const SETTLE: Duration = Duration::from_millis(50);
/// The same while a writer has the file open: it will say when it is done, unless it never closes.
pub(super) const SETTLE_OPEN: Duration = Duration::from_millis(500);
/// No sane registry file is larger; what is larger is the wrong file.
const MAX_BYTES: u64 = 16 << 20;

/// The last content, good or bad; `None` before the first look.
pub(super) type Loaded = Option<Result<Arc<Document>, FileError>>;

/// A watched file. The watch ends when this is dropped.
#[derive(Debug)]
pub(super) struct Source {
    loaded: watch::Receiver<Loaded>,
    task: AbortHandle,
}

// ===== impl Source =====

impl Source {
    pub(super) fn spawn(path: PathBuf, poll: Duration) -> Self {
        let (sender, loaded) = watch::channel(None);
        let task = tokio::spawn(follow(path, poll, sender)).abort_handle();
        Self { loaded, task }
    }

    /// Every content from now on, the present one first.
    pub(super) fn subscribe(&self) -> watch::Receiver<Loaded> {
        let mut loaded = self.loaded.clone();
        loaded.mark_changed();
        loaded
    }

    pub(super) fn is_alive(&self) -> bool {
        !self.task.is_finished()
    }
}

impl Drop for Source {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Publishes every settled content of the file that differs from the one before, for ever.
async fn follow(path: PathBuf, poll: Duration, sender: watch::Sender<Loaded>) {
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
            sender.send_replace(Some(load(&path, text)));
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

fn load(path: &Path, text: io::Result<String>) -> Result<Arc<Document>, FileError> {
    let text = text.map_err(|error| FileError::unreadable(path, &error))?;
    Document::parse(path, &text).map(Arc::new)
}

pub(super) fn read(path: &Path) -> io::Result<String> {
    let mut text = String::new();
    let file = File::open(path)?;
    // A pipe or a device would block for ever.
    if !file.metadata()?.is_file() {
        return Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            "not a regular file",
        ));
    }
    file.take(MAX_BYTES + 1).read_to_string(&mut text)?;
    if text.len() as u64 > MAX_BYTES {
        return Err(io::Error::new(
            io::ErrorKind::FileTooLarge,
            "larger than 16 MiB",
        ));
    }
    Ok(text)
}

/// What tells one content from another; unreadable files differ by their kind of error.
fn fingerprint(text: &io::Result<String>) -> u64 {
    let mut hasher = DefaultHasher::new();
    text.as_ref().map_err(io::Error::kind).hash(&mut hasher);
    hasher.finish()
}

/// Something happened to the file or to a link to it.
struct Stir {
    /// A writer has changed the data and not closed the file yet.
    open: bool,
    /// A watched directory is gone or has another name, and the watch with it.
    deaf: bool,
}

/// Watches the directories that a path leads through.
struct Eye {
    path: PathBuf,
    watched: Option<Watched>,
    sender: mpsc::UnboundedSender<Stir>,
    stirs: mpsc::UnboundedReceiver<Stir>,
    open: bool,
}

struct Watched {
    /// What was watched, so that a change of the links is noticed.
    target: Target,
    _watcher: RecommendedWatcher,
}

/// A path and what it leads to: the directories to watch, and the names in them that matter.
#[derive(Clone, PartialEq, Eq)]
struct Target {
    directories: Vec<PathBuf>,
    names: Vec<OsString>,
}

// ===== impl Eye =====

impl Eye {
    fn new(path: PathBuf) -> Self {
        let (sender, stirs) = mpsc::unbounded_channel();
        Self {
            path,
            watched: None,
            sender,
            stirs,
            open: false,
        }
    }

    /// Reads the file, after making sure that a later change will be reported.
    async fn look(&mut self) -> (io::Result<String>, u64) {
        let (path, watched, sender) = (self.path.clone(), self.watched.take(), self.sender.clone());
        let looked = task::spawn_blocking(move || {
            let target = Target::of(&path);
            let watched = watched
                .filter(|watched| watched.target == target)
                .or_else(|| {
                    let opened = Watched::open(target, sender);
                    opened
                        .inspect_err(|error| {
                            let path = path.display();
                            tracing::debug!(%path, %error, "cannot be watched, so it is polled");
                        })
                        .ok()
                });
            let text = read(&path);
            let fingerprint = fingerprint(&text);
            (watched, text, fingerprint)
        });
        let (watched, text, fingerprint) = looked.await.unwrap_or_else(|error| {
            let text = Err(io::Error::other(error));
            let fingerprint = fingerprint(&text);
            (None, text, fingerprint)
        });
        self.watched = watched;
        (text, fingerprint)
    }

    /// Makes the next look set up the watch anew.
    fn close(&mut self) {
        self.watched = None;
    }

    /// Waits until something happens. Cancel safe.
    async fn stirs(&mut self) {
        // Never closed: a sender is in this value.
        if let Some(stir) = self.stirs.recv().await {
            self.open = stir.open;
            if stir.deaf {
                self.close();
            }
        }
    }

    async fn is_stirring(&mut self, within: Duration) -> bool {
        time::timeout(within, self.stirs()).await.is_ok()
    }

    /// Waits until the file has been still for long enough.
    async fn settle(&mut self) {
        loop {
            let still_for = if self.open { SETTLE_OPEN } else { SETTLE };
            if !self.is_stirring(still_for).await {
                self.open = false;
                return;
            }
        }
    }
}

// ===== impl Watched =====

impl Watched {
    fn open(target: Target, sender: mpsc::UnboundedSender<Stir>) -> notify::Result<Self> {
        let mine = target.clone();
        let mut watcher = notify::recommended_watcher(move |event: notify::Result<Event>| {
            let stir = match event {
                Ok(event) => classify(&event, &mine),
                Err(_) => Some(Stir {
                    open: false,
                    deaf: true,
                }),
            };
            if let Some(stir) = stir {
                let _ = sender.send(stir);
            }
        })?;
        for directory in &target.directories {
            // The directory, not the file: a watch on a file ends when the file is replaced.
            watcher.watch(directory, RecursiveMode::NonRecursive)?;
        }
        Ok(Self {
            target,
            _watcher: watcher,
        })
    }
}

/// What an event means for the file; `None` if nothing.
fn classify(event: &Event, target: &Target) -> Option<Stir> {
    let open = match event.kind {
        EventKind::Access(AccessKind::Close(AccessMode::Write)) => false,
        EventKind::Access(_) | EventKind::Modify(ModifyKind::Metadata(_)) => return None,
        // Only inotify tells when a writer is done; elsewhere nobody would end the wait.
        EventKind::Modify(ModifyKind::Data(_)) => cfg!(target_os = "linux"),
        _ => false,
    };
    let deaf = event
        .paths
        .iter()
        .any(|path| target.directories.contains(path));
    // Kubernetes swaps `..data`, a link to a directory whose name begins with two dots as well.
    let matters = |path: &PathBuf| {
        path.file_name().is_none_or(|name| {
            target.names.iter().any(|known| known == name)
                || name.as_encoded_bytes().starts_with(b"..")
        })
    };
    let stirs = deaf || event.need_rescan() || event.paths.iter().any(matters);
    stirs.then_some(Stir { open, deaf })
}

// ===== impl Target =====

impl Target {
    fn of(path: &Path) -> Self {
        let mut target = Self {
            directories: Vec::new(),
            names: Vec::new(),
        };
        target.add(path);
        // Behind symlinks, what is edited may be elsewhere.
        if let Ok(resolved) = path.canonicalize() {
            target.add(&resolved);
        }
        target
    }

    fn add(&mut self, path: &Path) {
        let parent = match path.parent() {
            Some(parent) if !parent.as_os_str().is_empty() => parent,
            _ => Path::new("."),
        };
        let directory = parent.canonicalize().unwrap_or_else(|_| parent.to_owned());
        self.names.extend(path.file_name().map(OsString::from));
        if !self.directories.contains(&directory) {
            self.directories.push(directory);
        }
    }
}
