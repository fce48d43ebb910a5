//! What travels with one call: the [`CallContext`].
//!
//! It is one request extension, inserted once by the outermost layer of ours (one allocation, three
//! where the request had no extension yet) and read by all others. A layer on the server side also
//! makes a part of it *current* while it polls the handler and the response body, so that client
//! calls made in there inherit the deadline, the metadata and the identity: the [`Ambient`].
//!
//! ```text
//!   request ──► server layers ──► handler ──► client layers ──► next hop
//!               insert, enter()    current()   get_or_insert()
//! ```
//!
//! ```
//! use tower_mesh_layers::CallContext;
//!
//! let mut request = http::Request::new(());
//! let context = CallContext::get_or_insert(request.extensions_mut());
//! assert_eq!(context.attempt.number, 1);
//! assert!(CallContext::current().is_none());
//! ```

mod metadata;
pub mod picked;
mod task;
#[cfg(test)]
mod tests;

use std::{
    cell::{Cell, RefCell},
    mem,
    num::NonZeroU64,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use http::Extensions;
use tokio::time::Instant;

#[allow(unused_imports, reason = "for the layers that read metadata")]
pub(crate) use self::metadata::{Entry, is_never_propagated};
pub use self::{
    metadata::{GLOBAL_PREFIX, LOCAL_PREFIX, Metadata, MetadataError, Scope},
    task::{InContext, WithContext, spawn},
};
pub use super::decision::{RouteArm, RouteDecision, RouteFallback, Subset};

thread_local! {
    static CURRENT: Cell<Plain> = const { Cell::new(Plain::NONE) };
    static CURRENT_SHARED: RefCell<Shared> =
        const { RefCell::new(Shared { metadata: None, identity: None }) };
}

/// What travels with one call. A clone allocates nothing.
#[derive(Debug, Clone)]
pub struct CallContext {
    /// When the outermost layer first saw the call: the one clock read that all layers share.
    pub start: Instant,
    /// When the caller will have given up.
    pub deadline: Option<Instant>,
    /// What must be over by the deadline.
    pub deadline_covers: Covers,
    /// Metadata that is propagated to the next hop.
    pub metadata: Option<Arc<Metadata>>,
    /// Who the caller is, as authenticated at this hop.
    pub identity: Option<Arc<Identity>>,
    /// Where the routing layer sends this call.
    pub route: Option<RouteDecision>,
    /// Which attempt this is, and which endpoints were tried before.
    pub attempt: Attempt,
    /// The revision of the configuration that the whole call is served with; 0 where none is pinned.
    pub revision: u64,
}

/// The part of a handler's context that the calls made in it inherit.
///
/// It changes places with what is current around every poll, so most of it is plain data.
#[derive(Debug, Clone)]
pub struct Ambient {
    plain: Plain,
    shared: Shared,
}

/// Puts what was current back, panic or not.
#[must_use]
pub(crate) struct Entered<'a>(&'a mut Ambient);

#[derive(Debug, Clone, Copy)]
struct Plain {
    deadline: Option<Instant>,
    covers: Covers,
    revision: u64,
    /// Whether this is anything at all, and not what is current where no layer of ours is.
    is_some: bool,
    /// Whether there is anything in the [`Shared`] beside it.
    is_shared: bool,
}

#[derive(Debug, Clone, Default)]
struct Shared {
    metadata: Option<Arc<Metadata>>,
    identity: Option<Arc<Identity>>,
}

/// What must be over by the deadline of a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Covers {
    /// The whole call, up to the end of the response body.
    #[default]
    Call,
    /// The response head; its body may take as long as it likes.
    Head,
}

/// Which attempt of a call this is.
#[derive(Debug, Clone, Copy)]
pub struct Attempt {
    /// 1 for the first.
    pub number: u32,
    /// The endpoints that earlier attempts went to.
    pub tried: Tried,
}

/// The last four endpoints that were tried: more attempts than that are rare, and then the oldest
/// endpoint has had the longest time to recover.
#[derive(Debug, Clone, Copy, Default)]
pub struct Tried {
    ids: [Option<EndpointId>; 4],
    next: u8,
    /// The attempt is meant for the last of them once more.
    again: bool,
}

/// Names an endpoint within this process; never reused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct EndpointId(NonZeroU64);

/// An authenticated caller.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Identity {
    /// The name: a SPIFFE ID, the subject of a token, the name of a key.
    pub subject: Box<str>,
    /// How it was proven.
    pub method: AuthMethod,
}

/// How an [`Identity`] was proven.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum AuthMethod {
    /// A client certificate.
    Mtls,
    /// A signed token.
    Token,
    /// A shared secret.
    Key,
}

// ===== impl CallContext =====

impl CallContext {
    /// A context that starts now.
    pub fn new() -> Self {
        Self {
            start: Instant::now(),
            deadline: None,
            deadline_covers: Covers::Call,
            metadata: None,
            identity: None,
            route: None,
            attempt: Attempt {
                number: 1,
                tried: Tried::default(),
            },
            revision: 0,
        }
    }

    /// The context of a request, where an outer layer inserted one.
    #[inline]
    pub fn get(extensions: &Extensions) -> Option<&Self> {
        extensions.get()
    }

    /// The context of a request to change; inserted where there is none yet. A new one inherits the
    /// deadline, the metadata and the identity of the context that is current.
    pub fn get_or_insert(extensions: &mut Extensions) -> &mut Self {
        // Two look-ups where it is there, since the borrow checker cannot see through the third way.
        if extensions.get::<Self>().is_none() {
            extensions.insert(Self::inherited());
        }
        extensions.get_mut().expect("just inserted")
    }

    /// A context that starts now, with what is inherited from the current one.
    pub(crate) fn inherited() -> Self {
        let mut context = Self::new();
        if let Some(Ambient { plain, shared }) = Self::current() {
            (context.deadline, context.deadline_covers) = (plain.deadline, plain.covers);
            (context.metadata, context.identity) = (shared.metadata, shared.identity);
            context.revision = plain.revision;
        }
        context
    }

    /// What calls that are made while this one is handled inherit.
    pub fn ambient(&self) -> Ambient {
        Ambient {
            plain: Plain {
                deadline: self.deadline,
                covers: self.deadline_covers,
                revision: self.revision,
                is_some: true,
                is_shared: self.metadata.is_some() || self.identity.is_some(),
            },
            shared: Shared {
                metadata: self.metadata.clone(),
                identity: self.identity.clone(),
            },
        }
    }

    /// What is current on this task, if a server layer of ours is above.
    pub fn current() -> Option<Ambient> {
        let plain = CURRENT.get();
        plain.is_some.then(|| Ambient {
            plain,
            shared: if plain.is_shared {
                CURRENT_SHARED.with_borrow(Shared::clone)
            } else {
                Shared::default()
            },
        })
    }

    /// Changes the metadata of what is current, for the calls that are made from here on; `None` where
    /// nothing is. What others hold of it stays as it is.
    pub fn change_metadata<R>(change: impl FnOnce(&mut Metadata) -> R) -> Option<R> {
        let mut plain = CURRENT.get();
        if !plain.is_some {
            return None;
        }
        // Before the change: if that panics, what is shared must still leave with its scope.
        plain.is_shared = true;
        CURRENT.set(plain);
        // Taken out meanwhile, so that whatever the closure enters and leaves finds nothing borrowed.
        let mut metadata = CURRENT_SHARED
            .with_borrow_mut(|shared| shared.metadata.take())
            .unwrap_or_default();
        let result = change(Arc::make_mut(&mut metadata));
        CURRENT_SHARED.with_borrow_mut(|shared| shared.metadata = Some(metadata));
        Some(result)
    }

    /// Whether something is current that calls inherit more of than its deadline.
    #[inline]
    #[allow(dead_code, reason = "for the layers that send metadata")]
    pub(crate) fn inherits_shared() -> bool {
        CURRENT.get().is_shared
    }

    /// The deadline of what is [`current`](Self::current).
    #[inline]
    pub fn current_deadline() -> Option<Instant> {
        CURRENT.get().deadline
    }

    /// What is left until the deadline; `None` where there is no deadline.
    pub fn remaining(&self, now: Instant) -> Option<Duration> {
        self.deadline
            .map(|deadline| deadline.saturating_duration_since(now))
    }

    /// Moves the deadline forward, never back.
    pub fn shorten_deadline(&mut self, deadline: Instant) {
        self.deadline = Some(
            self.deadline
                .map_or(deadline, |current| current.min(deadline)),
        );
    }
}

impl Default for CallContext {
    fn default() -> Self {
        Self::new()
    }
}

// ===== impl Ambient =====

impl Ambient {
    /// When the caller will have given up.
    pub fn deadline(&self) -> Option<Instant> {
        self.plain.deadline
    }

    /// What is left until the deadline; `None` where there is no deadline.
    pub fn remaining(&self, now: Instant) -> Option<Duration> {
        self.deadline()
            .map(|deadline| deadline.saturating_duration_since(now))
    }

    /// Takes the deadline out: what inherits this has all the time it wants.
    pub fn clear_deadline(&mut self) {
        self.plain.deadline = None;
    }

    /// The same without the deadline, for work that outlives the call.
    #[must_use]
    pub fn without_deadline(mut self) -> Self {
        self.clear_deadline();
        self
    }

    /// Replaces the metadata.
    pub fn set_metadata(&mut self, metadata: Option<Arc<Metadata>>) {
        self.shared.metadata = metadata;
        self.plain.is_shared = self.shared.metadata.is_some() || self.shared.identity.is_some();
    }

    /// Whether there is nothing to inherit.
    #[inline]
    pub fn is_empty(&self) -> bool {
        let Plain {
            deadline,
            revision,
            is_shared,
            ..
        } = self.plain;
        deadline.is_none() && revision == 0 && !is_shared
    }

    /// Metadata that is propagated to the next hop.
    pub fn metadata(&self) -> Option<&Arc<Metadata>> {
        self.shared.metadata.as_ref()
    }

    /// Who the handler's caller is.
    pub fn identity(&self) -> Option<&Arc<Identity>> {
        self.shared.identity.as_ref()
    }

    /// The revision of the configuration that the handler's call is served with.
    pub fn revision(&self) -> u64 {
        self.plain.revision
    }

    /// Makes this current while `run` runs. A layer does so around every poll of what is below it.
    pub fn enter<R>(&mut self, run: impl FnOnce() -> R) -> R {
        let _entered = self.entered();
        run()
    }

    /// Makes this current until the guard is dropped, in reverse order of entering. Unlike a closure
    /// it does not have to take the request in, and so copies none.
    #[inline]
    pub(crate) fn entered(&mut self) -> Entered<'_> {
        self.exchange();
        Entered(self)
    }

    /// Changes places with what is current, so that no count of a shared part is touched.
    #[inline]
    fn exchange(&mut self) {
        let is_shared = CURRENT.with(|current| {
            let outer = current.replace(self.plain);
            let is_shared = self.plain.is_shared | outer.is_shared;
            self.plain = outer;
            is_shared
        });
        if is_shared {
            self.exchange_shared();
        }
    }

    #[cold]
    fn exchange_shared(&mut self) {
        CURRENT_SHARED.with_borrow_mut(|shared| mem::swap(shared, &mut self.shared));
    }
}

impl Default for Ambient {
    /// Nothing to inherit.
    fn default() -> Self {
        Self {
            plain: Plain {
                is_some: true,
                ..Plain::NONE
            },
            shared: Shared::default(),
        }
    }
}

impl Drop for Entered<'_> {
    #[inline]
    fn drop(&mut self) {
        self.0.exchange();
    }
}

impl Plain {
    const NONE: Self = Self {
        deadline: None,
        covers: Covers::Call,
        revision: 0,
        is_some: false,
        is_shared: false,
    };
}

// ===== impl Tried =====

impl Tried {
    /// Remembers an endpoint.
    pub fn push(&mut self, id: EndpointId) {
        self.ids[usize::from(self.next) % self.ids.len()] = Some(id);
        self.next = (self.next + 1) % self.ids.len() as u8;
        self.again = false;
    }

    /// Means the attempt for the last endpoint once more, until another is [pushed](Self::push).
    pub fn stay(&mut self) {
        self.again = true;
    }

    /// The endpoint that the attempt is to go to once more, as long as it is there.
    #[inline]
    pub fn again(&self) -> Option<EndpointId> {
        if self.again { self.last() } else { None }
    }

    fn last(&self) -> Option<EndpointId> {
        let before = usize::from(self.next).checked_sub(1);
        self.ids[before.unwrap_or(self.ids.len() - 1)]
    }

    /// Whether an endpoint was tried.
    pub fn contains(&self, id: EndpointId) -> bool {
        self.ids.contains(&Some(id))
    }

    /// Whether nothing was tried yet.
    pub fn is_empty(&self) -> bool {
        self.ids[0].is_none()
    }
}

// ===== impl EndpointId =====

impl EndpointId {
    /// The next name.
    #[allow(clippy::new_without_default, reason = "every call gives another one")]
    pub fn new() -> Self {
        static NEXT: AtomicU64 = AtomicU64::new(1);
        let id = NEXT.fetch_add(1, Ordering::Relaxed);
        Self(NonZeroU64::new(id).expect("a process does not make 2^64 endpoints"))
    }
}

// ===== impl Identity =====

impl Identity {
    /// An authenticated caller.
    pub fn new(subject: impl Into<Box<str>>, method: AuthMethod) -> Self {
        Self {
            subject: subject.into(),
            method,
        }
    }
}
