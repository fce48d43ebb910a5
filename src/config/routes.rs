//! The routes of a configuration: which arm of a service calls go to.

use serde::{Deserialize, Serialize};
use tower_mesh_layers::{
    config::ConfigError,
    route::{RouteConfig, RouteLayer, RuleConfig},
};

/// The rules for calls to one service; [`RuleConfig`] has what a rule may say.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct HostRoutes {
    /// The name of the service that is called.
    #[cfg_attr(feature = "schema", schemars(with = "super::schema::Name"))]
    pub host: String,
    /// The first that a call matches decides; where none does, it goes to any endpoint.
    pub rules: Vec<RuleConfig>,
}

/// The rules for calls to a service; `None` where it has none.
pub(super) fn of(routes: &[HostRoutes], service: &str) -> Option<RouteConfig> {
    let rules = routes.iter().find(|routes| routes.host == service)?;
    Some(RouteConfig::new(rules.rules.iter().cloned()))
}

pub(super) fn check(routes: &[HostRoutes]) -> Result<(), ConfigError> {
    for (at, HostRoutes { host, rules }) in routes.iter().enumerate() {
        let here = |error: ConfigError| error.at(format_args!("routes[{at}]"));
        tower_mesh_discovery::instance::check_name("host", host).map_err(here)?;
        if let Some(first) = routes[..at].iter().position(|other| other.host == *host) {
            let expected = format!("a service that routes[{first}] is not for");
            return Err(here(ConfigError::new("host", host, expected)));
        }
        RouteLayer::new(RouteConfig::new(rules.iter().cloned())).map_err(here)?;
    }
    Ok(())
}
