//! What keeps an eye on a file, and tells when its content is worth reading.

use std::{
    ffi::OsString,
    fs::File,
    hash::{DefaultHasher, Hash, Hasher},
    io::{self, Read},
    path::{Path, PathBuf},
    time::Duration,
};

use notify::{
    Event, EventKind, RecommendedWatcher, RecursiveMode, Watcher,
    event::{AccessKind, AccessMode, ModifyKind},
};
use tokio::{sync::mpsc, task, time};

/// How long a file must be still. Writers that replace a file in steps (delete and create, a chain
/// of renames) take microseconds between them; an editor a few milliseconds.
pub(super) const SETTLE: Duration = Duration::from_millis(50);
/// The same while a writer has the file open: it will say when it is done, unless it never closes.
pub(crate) const SETTLE_OPEN: Duration = Duration::from_millis(500);
/// No sane file of this kind is larger; what is larger is the wrong file.
const MAX_BYTES: u64 = 16 << 20;

pub(crate) fn read(path: &Path) -> io::Result<String> {
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
pub(crate) struct Eye {
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
    pub(crate) fn new(path: PathBuf) -> Self {
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
    pub(crate) async fn look(&mut self) -> (io::Result<String>, u64) {
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
    pub(crate) fn close(&mut self) {
        self.watched = None;
    }

    /// Waits until something happens. Cancel safe.
    pub(crate) async fn stirs(&mut self) {
        // Never closed: a sender is in this value.
        if let Some(stir) = self.stirs.recv().await {
            self.open = stir.open;
            if stir.deaf {
                self.close();
            }
        }
    }

    /// Forgets what happened until now: the next look will see it.
    pub(crate) fn catch_up(&mut self) {
        while let Ok(stir) = self.stirs.try_recv() {
            if stir.deaf {
                self.close();
            }
        }
    }

    pub(super) async fn is_stirring(&mut self, within: Duration) -> bool {
        time::timeout(within, self.stirs()).await.is_ok()
    }

    /// Waits until the file has been still for long enough.
    pub(super) async fn settle(&mut self) {
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
