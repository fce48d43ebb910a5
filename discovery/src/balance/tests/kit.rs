//! The contract of layers, held by a balancer over one endpoint.

use tower_layer::Layer;
use tower_mesh_layers::test_util::{
    Probe,
    contract::{Contract, Rule},
};

use super::*;

/// Puts a balancer over the service. It makes a new one each time, which no layer of ours may.
#[derive(Clone, Default)]
struct Balanced {
    made: Arc<Mutex<Vec<Balance<One>>>>,
}

/// The same service for every instance.
struct One(Probe);

impl MakeEndpoint for One {
    type Service = Probe;
    type Error = std::convert::Infallible;

    fn make_endpoint(&self, _: &Instance, _: &EndpointUrl) -> Result<Probe, Self::Error> {
        Ok(self.0.clone())
    }
}

impl Layer<Probe> for Balanced {
    type Service = Balance<One>;

    fn layer(&self, inner: Probe) -> Balance<One> {
        let (publisher, watch) = Watch::channel("orders");
        publisher.publish(snapshot([instance(0)]));
        let balance = Balance::builder(watch).endpoints(One(inner)).build();
        self.made.lock().push(balance.clone());
        balance
    }
}

fn held(balanced: &Balanced) -> usize {
    let made = balanced.made.lock();
    let views = made.iter().flat_map(|balance| balance.endpoints());
    views.map(|view| view.in_flight as usize).sum()
}

#[test]
fn a_balancer_keeps_the_contract_of_layers() {
    Contract::new(Balanced::default)
        .held(held)
        .waive(Rule::Reapplication) // a balancer is no layer: its state is where it was built
        .check();
}
