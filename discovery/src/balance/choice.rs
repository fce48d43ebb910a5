//! The endpoint of one call: from the whole set, from the arm that the call was sent to, or one
//! whose time out is over and that the call tries.

use std::sync::{Arc, atomic::Ordering::Relaxed};

use tokio::time::Instant;
use tower_mesh_layers::context::{EndpointId, RouteDecision, Subset, Tried};

use super::{
    arms::{self, Route},
    eject::Due,
    endpoint::Member,
    pick::{Candidates, Picker},
    set::{Members, Shared},
};

/// What a call asks of the set.
#[derive(Debug, Clone, Copy)]
pub(super) struct Plan {
    /// Endpoints that this call, or an earlier attempt of it, went to.
    pub(super) tried: Tried,
    /// A first attempt may be used as a trial: a retry has fewer chances left.
    pub(super) first: bool,
}

pub(super) struct Picked<S> {
    pub(super) member: Arc<Member<S>>,
    pub(super) trial: bool,
    pub(super) at: Instant,
    /// The same in the balancer's time, which takes some work to find out.
    pub(super) at_ms: u64,
}

/// Why nothing was picked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Nothing {
    /// No endpoint is known at all.
    Known,
    /// None that a call of this arm may go to.
    OfArm,
}

// ===== impl Shared =====

impl<S: Send + Sync + 'static> Shared<S> {
    /// One endpoint for one call.
    #[inline]
    pub(super) fn pick(
        &self,
        plan: &Plan,
        route: Option<&RouteDecision>,
        now: Instant,
    ) -> Result<Picked<S>, Nothing> {
        let now_ms = self.ms(now);
        let (member, trial) = match route {
            Some(route) if !route.arm().subset.is_everything() => {
                self.pick_of_arm(plan, route, now_ms)?
            }
            _ => self.pick_of_all(plan, route, now_ms)?,
        };
        member.endpoint.note_pick();
        Ok(Picked {
            member,
            trial,
            at: now,
            at_ms: now_ms,
        })
    }

    /// An endpoint, and whether the call is its trial.
    #[inline]
    fn pick_of_all(
        &self,
        plan: &Plan,
        route: Option<&RouteDecision>,
        now_ms: u64,
    ) -> Result<(Arc<Member<S>>, bool), Nothing> {
        if plan.first
            && (self.next_due.load(Relaxed) <= now_ms || self.has_passed_over())
            && let Some(member) = self.trial(now_ms, None)
        {
            return Ok((member, true));
        }
        let set = self.set.load();
        if set.ready.is_empty() {
            return Err(Nothing::Known);
        }
        let member = plan.pick(&set.ready, &set.picker, route, now_ms);
        Ok((member, false))
    }

    /// The same for a call that may go to some of the endpoints.
    fn pick_of_arm(
        &self,
        plan: &Plan,
        route: &RouteDecision,
        now_ms: u64,
    ) -> Result<(Arc<Member<S>>, bool), Nothing> {
        let set = self.set.load();
        if set.members.is_empty() {
            return Err(Nothing::Known);
        }
        let Route {
            to,
            fell_back,
            has_out,
        } = set.route(route.arm());
        // NOTE: not for whatever was passed over. An endpoint of an arm that gets no calls any more
        // would have every call of the others take the lock, for ever.
        if plan.first
            && (self.next_due.load(Relaxed) <= now_ms || has_out && self.has_passed_over())
            && let Some(member) = self.trial(now_ms, Some(&route.arm().subset))
        {
            return Ok((member, true));
        }
        let to = to.ok_or(Nothing::OfArm)?;
        if fell_back {
            self.counts.fell_back.add(1);
        }
        let member = plan.pick(&to.endpoints, &to.picker, Some(route), now_ms);
        Ok((member, false))
    }

    fn has_passed_over(&self) -> bool {
        self.passed_over.load(Relaxed) > 0
    }

    /// The endpoint whose time out is over, if there is one of the subset.
    #[cold]
    fn trial(&self, now_ms: u64, subset: Option<&Subset>) -> Option<Arc<Member<S>>> {
        // Whoever holds the lock may be giving the trial out: no call waits for it.
        let mut roster = self.roster.try_lock()?;
        let settings = self.settings.get();
        let meant = |member: &Member<S>| subset.is_none_or(|subset| arms::belongs(member, subset));
        let mut found = None;
        while let Some(member) = roster.pop_due(now_ms, meant) {
            if member.endpoint.removed() {
                continue;
            }
            match member
                .endpoint
                .with_health(|health| health.due(now_ms, &settings.policy))
            {
                Due::Stale => {}
                Due::Returned => self.returned(&mut roster, &member),
                Due::Trial(again) => {
                    roster.push_due(again, &member);
                    found = Some(member);
                    break;
                }
            }
        }
        self.next_due.store(roster.next_due(), Relaxed);
        self.passed_over.store(roster.passed_over(), Relaxed);
        found
    }
}

// ===== impl Plan =====

impl Plan {
    #[inline]
    fn pick<S>(
        &self,
        endpoints: &Members<S>,
        picker: &Picker,
        route: Option<&RouteDecision>,
        now_ms: u64,
    ) -> Arc<Member<S>> {
        let pick = || {
            picker.get().pick(&Candidates {
                endpoints,
                tried: self.tried,
                route,
                now_ms,
            })
        };
        let index = match self.tried.again() {
            None => pick(),
            Some(id) => position(endpoints, id).unwrap_or_else(pick),
        };
        // A picker of a user's may be wrong; that must not cost the call.
        endpoints.get(index).unwrap_or(&endpoints[0]).clone()
    }
}

/// Where an attempt is to go once more, as long as it is there.
#[cold]
fn position<S>(endpoints: &Members<S>, id: EndpointId) -> Option<usize> {
    endpoints
        .iter()
        .position(|member| member.endpoint.id() == id)
}
