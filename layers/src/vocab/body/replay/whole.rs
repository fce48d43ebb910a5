//! Bodies that are there as a whole, and need no wrapper.

use bytes::Bytes;
use http_body::Body;
use http_body_util::{Empty, Full};

use super::{Again, Replay, ReplayLimits, limits::Reserved};

/// What is kept of a [`Full`] body.
#[derive(Debug)]
pub struct SavedFull(KeptFull);

#[derive(Debug)]
enum KeptFull {
    Empty,
    /// Too long, or all together are.
    Lost,
    Bytes {
        body: Full<Bytes>,
        _kept: Reserved,
    },
}

impl Replay for Full<Bytes> {
    type Saved = SavedFull;

    fn save(self, limits: &ReplayLimits) -> (Self, SavedFull) {
        let saved = SavedFull::of(&self, limits);
        (self, saved)
    }

    #[inline]
    fn save_as_it_is(&self, limits: &ReplayLimits) -> Option<SavedFull> {
        Some(SavedFull::of(self, limits))
    }

    fn again(saved: &SavedFull) -> Again<Self> {
        match &saved.0 {
            KeptFull::Empty => Again::Body(Self::default()),
            KeptFull::Bytes { body, .. } => Again::Body(body.clone()),
            KeptFull::Lost => Again::Lost,
        }
    }
}

impl SavedFull {
    /// Keeps the bytes, and wraps nothing. They count towards the limits, since without this they
    /// could be freed as soon as they are sent.
    #[inline]
    fn of(body: &Full<Bytes>, limits: &ReplayLimits) -> Self {
        if body.is_end_stream() {
            return Self(KeptFull::Empty);
        }
        let mut kept = limits.reserve_nothing();
        let length = body.size_hint().exact().unwrap_or(u64::MAX);
        Self(
            if kept.grow(usize::try_from(length).unwrap_or(usize::MAX)) {
                KeptFull::Bytes {
                    body: body.clone(),
                    _kept: kept,
                }
            } else {
                KeptFull::Lost
            },
        )
    }
}

impl Replay for Empty<Bytes> {
    type Saved = ();

    fn save(self, _: &ReplayLimits) -> (Self, ()) {
        (self, ())
    }

    #[inline]
    fn save_as_it_is(&self, _: &ReplayLimits) -> Option<()> {
        Some(())
    }

    fn again((): &()) -> Again<Self> {
        Again::Body(Self::new())
    }
}
