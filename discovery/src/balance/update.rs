//! Following the registry: from sets of instances to sets of endpoints.

use std::{
    collections::HashSet,
    pin::pin,
    sync::{Arc, Weak},
    time::Duration,
};

use futures_util::future::{Either, select};
use tower_mesh_layers::{Protocol, transport::BoxError};

use super::{
    endpoint::{Endpoint, Member},
    set::{Members, Shared},
};
use crate::{
    endpoint::MakeEndpoint,
    instance::{EndpointUrl, Instance, Status},
    resolve::{Snapshot, Watch},
};

/// At most one new set in this time: a registry that changes all the time must not keep us busy.
const PACE: Duration = Duration::from_millis(100);

/// Makes and keeps the endpoints of one service.
pub(super) struct Updater<M: MakeEndpoint> {
    make: M,
    protocol: Option<Protocol>,
    /// In the order of their instances' ids, as a snapshot is.
    known: Vec<Arc<Member<M::Service>>>,
    /// Those that could not be made, so that it is said once.
    unmade: HashSet<(String, EndpointUrl)>,
}

// ===== impl Updater =====

impl<M: MakeEndpoint> Updater<M> {
    pub(super) fn new(make: M, protocol: Option<Protocol>) -> Self {
        Self {
            make,
            protocol,
            known: Vec::new(),
            unmade: HashSet::new(),
        }
    }

    /// Runs until the last clone of the balancer is dropped.
    pub(super) async fn run(mut self, shared: Weak<Shared<M::Service>>, mut watch: Watch) {
        let Some(mut changes) = shared.upgrade().map(|shared| shared.settings.changes()) else {
            return;
        };
        loop {
            let (next, change) = (pin!(watch.changed()), pin!(changes.changed()));
            let set = match select(next, change).await {
                Either::Left((set, _)) => Some(set),
                Either::Right(_) => None,
            };
            let Some(shared) = shared.upgrade() else {
                return;
            };
            match set {
                Some(set) => {
                    self.apply(&shared, &set);
                    drop(shared);
                    // The latest of the sets that come meanwhile is applied after it.
                    tokio::time::sleep(PACE).await;
                }
                None => shared.reconfigure(),
            }
        }
    }

    fn apply(&mut self, shared: &Arc<Shared<M::Service>>, set: &Snapshot) {
        let (mut up, mut draining, mut known) = (Vec::new(), Vec::new(), Vec::new());
        let mut before = std::mem::take(&mut self.known).into_iter().peekable();
        for instance in set
            .iter()
            .filter(|instance| instance.status != Status::Down)
        {
            let Some(url) = instance.address(self.protocol) else {
                continue;
            };
            // Both lists are in the order of the ids, so what comes before it is gone.
            while let Some(gone) =
                before.next_if(|member| member.endpoint.instance().id < instance.id)
            {
                gone.endpoint.remove();
            }
            let same = |member: &Arc<Member<M::Service>>| {
                member.endpoint.instance().id == instance.id && member.endpoint.url() == url
            };
            let member = match before.next_if(same) {
                Some(member) => {
                    member.endpoint.set_instance(instance.clone());
                    member
                }
                None => match self.member(shared, instance, url) {
                    Some(member) => member,
                    None => continue,
                },
            };
            match instance.status {
                Status::Draining => draining.push(member.clone()),
                _ => up.push(member.clone()),
            }
            known.push(member);
        }
        before.for_each(|gone| gone.endpoint.remove());
        known.shrink_to_fit();
        self.known = known;
        self.unmade
            .retain(|(id, _)| set.binary_search_by(|instance| instance.id.cmp(id)).is_ok());
        // Better one that is about to go than none.
        if up.is_empty() {
            up = std::mem::take(&mut draining);
        }
        tracing::debug!(
            service = %shared.service,
            endpoints = up.len(),
            draining = draining.len(),
            "endpoints updated"
        );
        shared.replace(Members::from(up), Members::from(draining));
    }

    /// A new endpoint; `None` where it cannot be made.
    fn member(
        &mut self,
        shared: &Arc<Shared<M::Service>>,
        instance: &Arc<Instance>,
        url: &EndpointUrl,
    ) -> Option<Arc<Member<M::Service>>> {
        let service = match self.make.make_endpoint(instance, url) {
            Ok(service) => service,
            Err(error) => {
                if self.unmade.insert((instance.id.clone(), url.clone())) {
                    let error: BoxError = error.into();
                    tracing::warn!(
                        service = %shared.service,
                        instance = %instance.id,
                        endpoint = %url,
                        error = %error,
                        "endpoint left out: it cannot be made"
                    );
                }
                return None;
            }
        };
        let decay = shared.settings.get().decay;
        Some(Arc::new(Member {
            endpoint: Endpoint::new(instance.clone(), url.clone(), shared.epoch, decay),
            service,
            owner: Arc::downgrade(shared),
        }))
    }
}
