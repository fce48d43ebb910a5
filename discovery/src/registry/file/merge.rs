//! What a reader gets: the records that people wrote, and those that are registered.

use std::sync::Arc;

use super::{
    Sources,
    document::Document,
    lease::{View, Views},
};
use crate::{
    document::{Contents, FileError},
    instance::Instance,
    resolve::{ResolveError, Snapshot, is_same, snapshot},
};

/// Someone who follows a service.
pub(super) struct Follower {
    _sources: Arc<Sources>,
    service: String,
    contents: Contents<Document>,
    views: Views,
    written: Option<Result<Arc<Document>, FileError>>,
    registered: Option<Result<Arc<View>, FileError>>,
    /// The written file was there once.
    known: bool,
    last: Last,
}

/// What the follower was told last.
enum Last {
    Nothing,
    Set(Snapshot),
    Error(String),
}

// ===== impl Follower =====

impl Follower {
    pub(super) fn new(sources: Arc<Sources>, service: &str) -> Self {
        Self {
            contents: sources.written.contents(),
            views: sources.registered.views(),
            _sources: sources,
            service: service.to_owned(),
            written: None,
            registered: None,
            known: false,
            last: Last::Nothing,
        }
    }

    /// The next answer; `None` when the watch has ended.
    pub(super) async fn next(&mut self) -> Option<Result<Snapshot, ResolveError>> {
        loop {
            let edited = tokio::select! {
                content = self.contents.next() => {
                    self.known |= matches!(content, Some(Ok(_)));
                    self.written = Some(content?);
                    true
                }
                view = self.views.next() => {
                    self.registered = Some(view?);
                    false
                }
            };
            let Some(answer) = self.answer() else {
                continue;
            };
            let news = match (&answer, &self.last) {
                (Ok(set), Last::Set(last)) => !is_same(set, last),
                (Err(error), Last::Error(last)) => edited || error.to_string() != *last,
                _ => true,
            };
            if news {
                self.last = match &answer {
                    Ok(set) => Last::Set(Arc::clone(set)),
                    Err(error) => Last::Error(error.to_string()),
                };
                return Some(answer.map_err(ResolveError::invalid));
            }
        }
    }

    /// Both files together; `None` until both were looked at. An error of one is an error of all:
    /// without one half nobody knows the set.
    fn answer(&self) -> Option<Result<Snapshot, FileError>> {
        let (written, registered) = (self.written.as_ref()?, self.registered.as_ref()?);
        let view = match registered {
            Ok(view) => view,
            Err(error) => return Some(Err(error.clone())),
        };
        let document = match written {
            Ok(document) => Some(document),
            // Where all instances register, nobody has to write a file. One that was there and is
            // gone is another matter.
            Err(error) if error.is_missing() && view.exists && !self.known => None,
            Err(error) => return Some(Err(error.clone())),
        };
        let set = document.and_then(|document| document.instances(&self.service));
        let leased = view.instances(&self.service);
        if let (Some(document), None, []) = (document, &set, leased) {
            let (service, near) = (&*self.service, document.nearest(&self.service));
            tracing::warn!(
                service,
                near,
                "the registry file does not have this service"
            );
        }
        // Of two records with one id the first counts: what people wrote.
        let written: &[Arc<Instance>] = set.as_deref().unwrap_or_default();
        Some(Ok(snapshot(written.iter().chain(leased).cloned())))
    }
}
