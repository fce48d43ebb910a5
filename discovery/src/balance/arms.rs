//! The endpoints of a subset, for calls that a routing layer sends to an arm.
//!
//! A [`Set`] does not change, so what belongs to a subset is listed when the first call asks for
//! it, and found by its hash from then on. The lists go with their set.
//!
//! ```text
//!   arm's ready ──none──► fallback's ready ──none──► arm's draining, out ──none──► fallback's ──► refused
//! ```

use std::sync::{Arc, OnceLock};

use tower_mesh_layers::context::{RouteArm, RouteFallback, Subset};

use super::{
    eject::Standing,
    endpoint::Member,
    pick::{Candidates, Picker},
    set::{Members, Set},
};

/// How many subsets a set keeps lists of: more than the arms that one service has at a time. A
/// further one is listed anew for every call.
const KEPT: usize = 32;

/// The lists of a set, by subset.
pub(super) struct Arms<S>(OnceLock<Box<[OnceLock<Arm<S>>]>>);

/// The endpoints of one subset.
pub(super) struct Arm<S> {
    subset: Subset,
    /// Those that calls go to: the ready ones, or all of them in a panic; those that finish what
    /// they have where there are no others.
    pub(super) endpoints: Members<S>,
    /// Whether those are ready, and nobody has to make do with them.
    ready: bool,
    /// Whether one of them is out, so that calls should ask for its trial.
    has_out: bool,
    pub(super) picker: Picker,
}

/// A kept list, or one that there was no room to keep.
pub(super) enum Found<'a, S> {
    Kept(&'a Arm<S>),
    Made(Box<Arm<S>>),
}

/// Where the calls of an arm go.
pub(super) struct Route<'a, S> {
    /// `None` where there is no endpoint for them.
    pub(super) to: Option<Found<'a, S>>,
    /// That is not their own arm.
    pub(super) fell_back: bool,
    /// An endpoint of their own arm is out.
    pub(super) has_out: bool,
}

// ===== impl Arms =====

impl<S> Arms<S> {
    pub(super) const fn new() -> Self {
        Self(OnceLock::new())
    }

    fn get<'a>(&'a self, subset: &Subset, set: &Set<S>) -> Found<'a, S> {
        let slots = self
            .0
            .get_or_init(|| (0..KEPT).map(|_| OnceLock::new()).collect());
        let first = subset.table_hash() as usize;
        for probe in 0..KEPT {
            let slot = &slots[first.wrapping_add(probe) % KEPT];
            let arm = slot.get_or_init(|| Arm::new(subset, set));
            if arm.subset == *subset {
                return Found::Kept(arm);
            }
        }
        Found::Made(Box::new(Arm::new(subset, set)))
    }
}

// ===== impl Arm =====

impl<S> Arm<S> {
    #[cold]
    fn new(subset: &Subset, set: &Set<S>) -> Self {
        let of = |members: &Members<S>| -> Vec<Arc<Member<S>>> {
            let has = |member: &&Arc<Member<S>>| belongs(member, subset);
            members.iter().filter(has).cloned().collect()
        };
        let (mut all, mut ready) = (of(&set.members), of(&set.members));
        ready.retain(|member| member.endpoint.standing() == Standing::In);
        let has_out = ready.len() < all.len();
        let is_ready = !ready.is_empty();
        let panic = (ready.len() as f64) < set.panic_threshold.as_f64() * all.len() as f64;
        let endpoints = if is_ready && !panic {
            ready
        } else if is_ready {
            all
        } else {
            // One that is about to go answers; those that are out most likely do not.
            let draining = of(&set.draining);
            if draining.is_empty() {
                std::mem::take(&mut all)
            } else {
                draining
            }
        };
        let endpoints: Members<S> = endpoints.into();
        let picker = set.base.for_subset().prepared(&Candidates::all(&endpoints));
        Self {
            subset: subset.clone(),
            endpoints,
            ready: is_ready,
            has_out,
            picker,
        }
    }

    fn is_empty(&self) -> bool {
        self.endpoints.is_empty()
    }
}

/// Whether an endpoint is of a subset, as its instance was last described.
pub(super) fn belongs<S>(member: &Member<S>, subset: &Subset) -> bool {
    let instance = member.endpoint.instance();
    subset.matches(|label| instance.label(label))
}

// ===== impl Found =====

impl<S> std::ops::Deref for Found<'_, S> {
    type Target = Arm<S>;

    fn deref(&self) -> &Arm<S> {
        match self {
            Self::Kept(arm) => arm,
            Self::Made(arm) => arm,
        }
    }
}

// ===== impl Set =====

impl<S> Set<S> {
    /// Where a call goes that was sent to an arm.
    pub(super) fn route(&self, arm: &RouteArm) -> Route<'_, S> {
        let own = self.arms.get(&arm.subset, self);
        let has_out = own.has_out;
        let (to, fell_back) = if own.ready {
            (Some(own), false)
        } else {
            self.fall_back(own, &arm.fallback)
        };
        Route {
            to,
            fell_back,
            has_out,
        }
    }

    #[cold]
    fn fall_back<'a>(
        &'a self,
        own: Found<'a, S>,
        fallback: &RouteFallback,
    ) -> (Option<Found<'a, S>>, bool) {
        let subset = match fallback {
            RouteFallback::Subset(subset) => Some(subset.clone()),
            RouteFallback::Any => Some(Subset::default()),
            _ => None,
        };
        let other = subset.map(|subset| self.arms.get(&subset, self));
        match other {
            Some(other) if other.ready || own.is_empty() && !other.is_empty() => {
                (Some(other), true)
            }
            _ if own.is_empty() => (None, false),
            _ => (Some(own), false),
        }
    }
}
