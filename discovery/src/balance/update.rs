//! Following the registry: from sets of instances to sets of endpoints.

use std::{
    collections::{HashMap, HashSet},
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

type Key = (String, EndpointUrl);

/// Makes and keeps the endpoints of one service.
pub(super) struct Updater<M: MakeEndpoint> {
    make: M,
    protocol: Option<Protocol>,
    known: HashMap<Key, Arc<Member<M::Service>>>,
    /// Those that could not be made, so that it is said once.
    unmade: HashSet<Key>,
}

// ===== impl Updater =====

impl<M: MakeEndpoint> Updater<M> {
    pub(super) fn new(make: M, protocol: Option<Protocol>) -> Self {
        Self {
            make,
            protocol,
            known: HashMap::new(),
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
        let (mut up, mut draining, mut known) = (Vec::new(), Vec::new(), HashMap::new());
        for instance in set.iter() {
            if instance.status == Status::Down {
                continue;
            }
            let Some(url) = instance.address(self.protocol) else {
                continue;
            };
            let key = (instance.id.clone(), url.clone());
            let Some(member) = self.member(shared, instance, &key) else {
                continue;
            };
            match instance.status {
                Status::Draining => draining.push(member.clone()),
                _ => up.push(member.clone()),
            }
            known.insert(key, member);
        }
        let gone = std::mem::replace(&mut self.known, known);
        for (key, member) in gone {
            if !self.known.contains_key(&key) {
                member.endpoint.remove();
            }
        }
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

    /// The endpoint that is there already, or a new one.
    fn member(
        &mut self,
        shared: &Arc<Shared<M::Service>>,
        instance: &Arc<Instance>,
        key: &Key,
    ) -> Option<Arc<Member<M::Service>>> {
        if let Some(member) = self.known.get(key) {
            member.endpoint.set_instance(instance.clone());
            return Some(member.clone());
        }
        let service = match self.make.make_endpoint(instance, &key.1) {
            Ok(service) => service,
            Err(error) => {
                if self.unmade.insert(key.clone()) {
                    let error: BoxError = error.into();
                    tracing::warn!(
                        service = %shared.service,
                        instance = %key.0,
                        endpoint = %key.1,
                        error = %error,
                        "endpoint left out: it cannot be made"
                    );
                }
                return None;
            }
        };
        let decay = shared.settings.get().decay;
        Some(Arc::new(Member {
            endpoint: Endpoint::new(instance.clone(), key.1.clone(), shared.epoch, decay),
            service,
            owner: Arc::downgrade(shared),
        }))
    }
}
