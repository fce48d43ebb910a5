//! What every call must know of a live value, in one word.

use super::{
    Live,
    sync::{AtomicU64, Ordering},
};

/// A few bits of a live value and the revision they are of, in one word.
///
/// A reading of a live value takes a hundred instructions, and to see that these bits still hold takes
/// five. So what every call must know (is this layer on?) is kept like this.
///
/// ```
/// use tower_mesh_layers::{Live, live::Glance};
///
/// let (limit, glance) = (Live::new(Some(3)), Glance::default());
/// let is_on = || glance.bits(&limit, |limit| limit.is_some().into()) != 0;
/// assert!(is_on());
/// limit.set(None)?;
/// assert!(!is_on());
/// # Ok::<(), tower_mesh_layers::ConfigError>(())
/// ```
#[derive(Debug, Default)]
pub struct Glance(AtomicU64);

// ===== impl Glance =====

impl Glance {
    const BITS: u32 = 8;

    /// The bits as of now; `look` finds them, once for each revision of `live` or a few times more.
    #[inline]
    pub fn bits<T: Send + Sync + 'static>(
        &self,
        live: &Live<T>,
        look: impl FnOnce(&T) -> u8,
    ) -> u8 {
        let revision = live.revision();
        let word = self.0.load(Ordering::Acquire);
        if word >> Self::BITS == revision {
            word as u8
        } else {
            self.look_again(live, revision, look)
        }
    }

    /// NOTE: the value is of this revision or a later one. If it is later, or if a call that was held up
    /// here overwrites what a later one found, the revision does not fit and the next call looks again.
    #[cold]
    fn look_again<T: Send + Sync + 'static>(
        &self,
        live: &Live<T>,
        revision: u64,
        look: impl FnOnce(&T) -> u8,
    ) -> u8 {
        let bits = look(&live.get());
        let word = revision << Self::BITS | u64::from(bits);
        self.0.store(word, Ordering::Release);
        bits
    }
}
