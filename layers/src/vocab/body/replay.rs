//! Request bodies that can be sent again.
//!
//! A body is a stream: once an attempt has taken a frame, it is gone. [`ReplayBody`] keeps the frames
//! that pass, so that a second attempt gets them again, and then whatever the first did not take. It
//! keeps no copy (a frame is a shared `Bytes`), and it buffers nothing ahead: a frame passes when it
//! comes, whether anybody will want it again or not.
//!
//! ```text
//!   attempt 1: ReplayBody ──► frames pass, and are kept ──┐ at its end, or when it is dropped
//!                                                         ▼
//!                                                  slot (in Saved)
//!                                                         │ again()
//!   attempt 2: ReplayBody ◄──────────────────────────────┘ kept frames first, then the rest
//! ```
//!
//! # One owner at a time
//!
//! The kept frames and the rest of the body *move*: into the slot when an attempt's body ends or is
//! dropped, out of it when the next attempt begins. So there is no lock per frame, and two attempts
//! can never race for the rest. An attempt that was given up but lives on somewhere (hyper drops the
//! body of a cancelled HTTP/2 stream a little later) still owns it all: then the body is
//! [in use](Again::InUse). The idea of moving on drop is that of linkerd2-proxy's replay body.
//!
//! # Limits
//!
//! | | default | above it |
//! |---|---|---|
//! | bytes of one body | 64 KiB | the body streams on, byte for byte, and cannot be sent again |
//! | bytes of all bodies together | 64 MiB | the same |
//!
//! A body that announces more than the first limit is not wrapped at all, nor is one that is at its
//! end already.
//!
//! ```
//! use bytes::Bytes;
//! use http_body_util::{BodyExt, Full, combinators::UnsyncBoxBody};
//! use tower_mesh_layers::body::{Again, Replay, ReplayLimits};
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() {
//! let limits = ReplayLimits::new(64 * 1024, 64 * 1024 * 1024);
//! type Body = UnsyncBoxBody<Bytes, std::convert::Infallible>;
//! let body: Body = Full::from("hello").boxed_unsync();
//!
//! let (first, saved) = body.save(&limits);
//! assert_eq!(first.collect().await.unwrap().to_bytes(), "hello");
//! let Again::Body(second) = Body::again(&saved) else { panic!("in use, or too long") };
//! assert_eq!(second.collect().await.unwrap().to_bytes(), "hello");
//! # }
//! ```

mod limits;
#[cfg(test)]
mod model;
mod whole;

use std::{
    fmt,
    pin::Pin,
    sync::{
        Arc,
        atomic::{
            AtomicBool,
            Ordering::{Acquire, Release},
        },
    },
    task::{Context, Poll, ready},
};

use bytes::{Bytes, BytesMut};
use http::HeaderMap;
use http_body::{Body, Frame, SizeHint};
use parking_lot::Mutex;

use self::limits::Reserved;
pub use self::{
    limits::{ReplayConfig, ReplayLimits},
    whole::SavedFull,
};
use super::WrapBody;

/// What the limits are made of; the tests put loom's in their place.
mod sync {
    pub(super) use std::sync::atomic::{AtomicUsize, Ordering};
}

/// Above this many kept frames they are merged, so that a body of tiny frames does not cost many
/// times its length: 256 frames are 8 KiB of bookkeeping.
const MOST_FRAMES: usize = 256;

/// A body that can be sent again, for retry and hedging.
#[diagnostic::on_unimplemented(
    message = "a request body of type `{Self}` cannot be sent again",
    note = "use a boxed body (axum's, tonic's, reqwest's, `BoxBody`, `UnsyncBoxBody`) or `Full<Bytes>`",
    note = "`hyper::body::Incoming` cannot be rebuilt: map it with `axum::body::Body::new`"
)]
pub trait Replay: Body<Data = Bytes> + Sized {
    /// What is kept to send the body again.
    type Saved;

    /// Gives the body for the first attempt, and what later attempts need.
    fn save(self, limits: &ReplayLimits) -> (Self, Self::Saved);

    /// What later attempts need, where the first can have the body as it is; else `None`, and nothing
    /// is kept: then [`save`](Self::save) has to take it. For a body that is already a part of a
    /// request, which is large to move.
    fn save_as_it_is(&self, limits: &ReplayLimits) -> Option<Self::Saved> {
        let _ = limits;
        None
    }

    /// The body for another attempt, from its first byte.
    fn again(saved: &Self::Saved) -> Again<Self>;
}

/// Whether a body can be sent again.
#[derive(Debug)]
pub enum Again<B> {
    /// Yes; here it is.
    Body(B),
    /// Not now: an attempt that was given up still holds it.
    InUse,
    /// Never: it is longer than the limit, or its source failed.
    Lost,
}

/// A body whose frames are kept as they pass. The [module](self) says how.
pub struct ReplayBody<B> {
    slot: Arc<Slot<B>>,
    /// `None` once it was given back: the body is at its end.
    state: Option<State<B>>,
    /// The next of the kept frames to send; after the last one come those of the rest.
    next: usize,
    /// Bytes of the kept frames that are still to be sent.
    ahead: u64,
    /// Set while the rest is polled: found set on drop, the rest panicked and is of no use.
    polling: bool,
}

/// What is kept of a body that was wrapped in a [`ReplayBody`].
pub struct Saved<B>(Kept<B>);

enum Kept<B> {
    /// It was at its end from the start.
    Ended,
    /// It was too long from the start.
    TooLong,
    Wrapped(Arc<Slot<B>>),
}

/// Where an attempt puts the body for the next one.
struct Slot<B> {
    state: Mutex<Option<State<B>>>,
    /// Set for good when the body cannot be sent again.
    lost: AtomicBool,
}

/// A body that is partly sent.
struct State<B> {
    /// What was sent; empty when it cannot be sent again.
    frames: Vec<Bytes>,
    kept: Reserved,
    trailers: Option<HeaderMap>,
    /// What no attempt has taken yet; `None` at the end.
    rest: Option<B>,
}

// ===== impl Slot =====

impl<B> Slot<B> {
    fn lose(&self) {
        self.lost.store(true, Release);
    }

    fn is_lost(&self) -> bool {
        self.lost.load(Acquire)
    }
}

// ===== impl State =====

impl<B> State<B> {
    /// Keeps a frame that was just taken from the rest; `false` when it is too much.
    fn keep(&mut self, data: &Bytes) -> bool {
        if !self.kept.grow(data.len()) {
            return false;
        }
        if !data.is_empty() {
            self.frames.push(data.clone());
        }
        if self.frames.len() > MOST_FRAMES {
            let mut merged = BytesMut::with_capacity(self.kept.bytes());
            self.frames
                .drain(..)
                .for_each(|frame| merged.extend_from_slice(&frame));
            self.frames.push(merged.freeze());
        }
        true
    }

    fn forget(&mut self) {
        self.frames = Vec::new();
        self.kept.release();
    }
}

// ===== impl ReplayBody =====

impl<B> ReplayBody<B> {
    /// Wraps a body whose frames are to be kept.
    fn first(rest: B, limits: &ReplayLimits) -> (Self, Arc<Slot<B>>) {
        let slot = Arc::new(Slot {
            state: Mutex::new(None),
            lost: AtomicBool::new(false),
        });
        let state = State {
            frames: Vec::new(),
            kept: limits.reserve_nothing(),
            trailers: None,
            rest: Some(rest),
        };
        (Self::resume(slot.clone(), state), slot)
    }

    /// A body at its end.
    fn ended() -> Self {
        let slot = Arc::new(Slot {
            state: Mutex::new(None),
            lost: AtomicBool::new(true),
        });
        Self {
            slot,
            state: None,
            next: 0,
            ahead: 0,
            polling: false,
        }
    }

    fn resume(slot: Arc<Slot<B>>, state: State<B>) -> Self {
        Self {
            slot,
            ahead: state.kept.bytes() as u64,
            state: Some(state),
            next: 0,
            polling: false,
        }
    }

    /// Puts the body where the next attempt finds it. To this one it is at its end.
    fn give_back(&mut self) {
        if let Some(state) = self.state.take() {
            *self.slot.state.lock() = Some(state);
        }
    }
}

impl<B: Body<Data = Bytes> + Unpin> ReplayBody<B> {
    /// The next frame that was sent before. After the last piece the body is given back, since a
    /// caller may not poll a body that is at its end.
    fn next_kept(&mut self) -> Option<Frame<Bytes>> {
        let state = self.state.as_mut()?;
        let data = state.frames.get(self.next)?.clone();
        self.next += 1;
        self.ahead -= data.len() as u64;
        let over = state.rest.is_none() && state.trailers.is_none();
        if over && self.next == state.frames.len() {
            self.give_back();
        }
        Some(Frame::data(data))
    }

    /// A frame that no attempt has sent yet.
    fn took(&mut self, frame: Option<&Frame<Bytes>>) {
        let Some(state) = self.state.as_mut() else {
            return;
        };
        if let Some(data) = frame.and_then(Frame::data_ref) {
            // With nobody left who could ask for it (the answer was passed up), keeping ends too.
            let wanted = !self.slot.is_lost() && Arc::strong_count(&self.slot) > 1;
            if !(wanted && state.keep(data)) {
                self.slot.lose();
                state.forget();
            }
            self.next = state.frames.len();
            if state.rest.as_ref().is_some_and(B::is_end_stream) {
                state.rest = None;
                self.give_back();
            }
            return;
        }
        if let Some(trailers) = frame.and_then(Frame::trailers_ref) {
            state.trailers = Some(trailers.clone());
        }
        state.rest = None;
        self.give_back();
    }
}

impl<B: Body<Data = Bytes> + Unpin> Body for ReplayBody<B> {
    type Data = Bytes;
    type Error = B::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, B::Error>>> {
        let this = self.get_mut();
        if let Some(frame) = this.next_kept() {
            return Poll::Ready(Some(Ok(frame)));
        }
        let Some(state) = this.state.as_mut() else {
            return Poll::Ready(None);
        };
        let Some(rest) = state.rest.as_mut() else {
            let trailers = state.trailers.clone();
            this.give_back();
            return Poll::Ready(trailers.map(|trailers| Ok(Frame::trailers(trailers))));
        };
        this.polling = true;
        let polled = Pin::new(rest).poll_frame(cx);
        this.polling = false;
        let polled = ready!(polled);
        match &polled {
            Some(Ok(frame)) => this.took(Some(frame)),
            None => this.took(None),
            // NOTE: a source that failed has no more to give, so the next attempt would fail as well.
            Some(Err(_)) => {
                this.slot.lose();
                this.state = None;
            }
        }
        Poll::Ready(polled)
    }

    fn is_end_stream(&self) -> bool {
        // NOTE: false while kept trailers are due: `tonic::body::Body::new` swaps an ended body for an
        // empty one, and hyper does not poll it.
        let Some(state) = &self.state else {
            return true;
        };
        self.next == state.frames.len()
            && match &state.rest {
                Some(rest) => rest.is_end_stream(),
                None => state.trailers.is_none(),
            }
    }

    fn size_hint(&self) -> SizeHint {
        let Some(state) = &self.state else {
            return SizeHint::with_exact(0);
        };
        let rest = match &state.rest {
            Some(rest) => rest.size_hint(),
            None => SizeHint::with_exact(0),
        };
        let mut hint = SizeHint::new();
        hint.set_lower(rest.lower().saturating_add(self.ahead));
        if let Some(upper) = rest.upper().and_then(|upper| upper.checked_add(self.ahead)) {
            hint.set_upper(upper);
        }
        hint
    }
}

impl<B> Drop for ReplayBody<B> {
    fn drop(&mut self) {
        if self.polling {
            self.slot.lose();
        } else {
            self.give_back();
        }
    }
}

impl<B> fmt::Debug for ReplayBody<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ReplayBody")
            .field("kept", &self.state.as_ref().map(|state| state.kept.bytes()))
            .field("ahead", &self.ahead)
            .finish_non_exhaustive()
    }
}

impl<B> fmt::Debug for Saved<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match &self.0 {
            Kept::Ended => "Saved(empty)",
            Kept::TooLong => "Saved(too long)",
            Kept::Wrapped(_) => "Saved(wrapped)",
        })
    }
}

// ===== impl Replay =====

impl<B> Replay for B
where
    B: Body<Data = Bytes> + WrapBody<ReplayBody<B>> + Unpin,
{
    type Saved = Saved<B>;

    fn save(self, limits: &ReplayLimits) -> (Self, Saved<B>) {
        if let Some(saved) = self.save_as_it_is(limits) {
            return (self, saved);
        }
        let (body, slot) = ReplayBody::first(self, limits);
        (B::wrap(body), Saved(Kept::Wrapped(slot)))
    }

    #[inline]
    fn save_as_it_is(&self, limits: &ReplayLimits) -> Option<Saved<B>> {
        if self.is_end_stream() {
            return Some(Saved(Kept::Ended));
        }
        let too_long = self.size_hint().lower() > limits.per_body() as u64;
        too_long.then_some(Saved(Kept::TooLong))
    }

    fn again(saved: &Saved<B>) -> Again<B> {
        let slot = match &saved.0 {
            Kept::Ended => return Again::Body(B::wrap(ReplayBody::ended())),
            Kept::TooLong => return Again::Lost,
            Kept::Wrapped(slot) => slot,
        };
        // In this order: a body is lost before it is given back, or while it is in use.
        let state = slot.state.lock().take();
        match state {
            _ if slot.is_lost() => Again::Lost,
            Some(state) => Again::Body(B::wrap(ReplayBody::resume(slot.clone(), state))),
            None => Again::InUse,
        }
    }
}

#[cfg(test)]
mod tests;
