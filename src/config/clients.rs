//! The clients of a configuration: what holds for all of them, and what single ones say.

use std::{collections::BTreeMap, fmt};

use serde::{Deserialize, Deserializer, Serialize, de};
use tower_mesh_discovery::{balance::BalanceConfig, instance::check_name};
use tower_mesh_layers::{
    body_limit::BodyLimitConfig,
    circuit_breaker::BreakerConfig,
    concurrency_limit::ConcurrencyLimitConfig,
    config::{ConfigError, nearest},
    deadline::DeadlineConfig,
    hedge::HedgeConfig,
    metadata::MetadataConfig,
    rate_limit::RateLimitConfig,
    request_metrics::MetricsConfig,
    retry::RetryConfig,
};

use super::{SpansConfig, section::Section};
use crate::client::ClientConfig;

/// Options of the clients: those of all under `defaults`, and those of single ones under their names.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ClientsConfig {
    /// Those of every client.
    pub defaults: ClientConfig,
    /// What single clients say instead, by the names of their services.
    #[serde(flatten)]
    pub named: BTreeMap<String, NamedClientConfig>,
}

/// What a single client says instead of the defaults. A section that is there stands in the place of
/// the whole section of the defaults; `off` leaves it out.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct NamedClientConfig {
    /// The name of the registry that knows this service.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub registry: Option<String>,
    /// Which calls have spans.
    #[serde(skip_serializing_if = "Section::is_inherited")]
    pub trace: Section<SpansConfig>,
    /// What is counted and timed of calls.
    #[serde(skip_serializing_if = "Section::is_inherited")]
    pub metrics: Section<MetricsConfig>,
    /// What metadata calls carry.
    #[serde(skip_serializing_if = "Section::is_inherited")]
    pub metadata: Section<MetadataConfig>,
    /// How long calls may take.
    #[serde(skip_serializing_if = "Section::is_inherited")]
    pub deadline: Section<DeadlineConfig>,
    /// How many calls may be under way at once.
    #[serde(skip_serializing_if = "Section::is_inherited")]
    pub concurrency_limit: Section<ConcurrencyLimitConfig>,
    /// How many calls may be made.
    #[serde(skip_serializing_if = "Section::is_inherited")]
    pub rate_limit: Section<RateLimitConfig>,
    /// When to send a slow call a second time.
    #[serde(skip_serializing_if = "Section::is_inherited")]
    pub hedge: Section<HedgeConfig>,
    /// When to try again.
    #[serde(skip_serializing_if = "Section::is_inherited")]
    pub retry: Section<RetryConfig>,
    /// When to stop trying.
    #[serde(skip_serializing_if = "Section::is_inherited")]
    pub circuit_breaker: Section<BreakerConfig>,
    /// How many bytes requests and responses of an attempt may have.
    #[serde(skip_serializing_if = "Section::is_inherited")]
    pub body_limit: Section<BodyLimitConfig>,
    /// How an endpoint is picked.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub balance: Option<BalanceConfig>,
}

// ===== impl ClientsConfig =====

impl ClientsConfig {
    const DEFAULTS: &str = "defaults";

    /// What counts for a client.
    pub fn of(&self, service: &str) -> ClientConfig {
        match self.named.get(service) {
            Some(named) => named.over(&self.defaults),
            None => self.defaults.clone(),
        }
    }
}

/// By hand: every other key is the name of a service, and a slip of the hand in `defaults` must not be.
impl<'de> Deserialize<'de> for ClientsConfig {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visitor;

        impl<'de> de::Visitor<'de> for Visitor {
            type Value = ClientsConfig;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("`defaults` and the names of services")
            }

            fn visit_map<A: de::MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut clients = ClientsConfig::default();
                let mut has_defaults = false;
                while let Some(name) = map.next_key::<String>()? {
                    let is_new = if name == ClientsConfig::DEFAULTS {
                        clients.defaults = map.next_value()?;
                        !std::mem::replace(&mut has_defaults, true)
                    } else {
                        check_client(&name).map_err(de::Error::custom)?;
                        let previous = clients.named.insert(name.clone(), map.next_value()?);
                        previous.is_none()
                    };
                    if !is_new {
                        let error = ConfigError::new("", name, "every client once");
                        return Err(de::Error::custom(error));
                    }
                }
                Ok(clients)
            }
        }

        deserializer.deserialize_map(Visitor)
    }
}

fn check_client(name: &str) -> Result<(), ConfigError> {
    if nearest(name, [ClientsConfig::DEFAULTS]).is_some() {
        let expected = "`defaults`, or the name of a service that cannot be mistaken for it";
        return Err(ConfigError::new("", name, expected));
    }
    check_name("", name)
}

#[cfg(feature = "schema")]
impl schemars::JsonSchema for ClientsConfig {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "ClientsConfig".into()
    }

    fn json_schema(generator: &mut schemars::SchemaGenerator) -> schemars::Schema {
        let defaults = generator.subschema_for::<ClientConfig>();
        let named = generator.subschema_for::<NamedClientConfig>();
        let service = generator.subschema_for::<super::schema::Name>();
        schemars::json_schema!({
            "description": "`defaults`, and what single clients say instead, by the names of their services.",
            "type": "object",
            "properties": {
                Self::DEFAULTS: { "allOf": [defaults], "description": "Those of every client." },
            },
            "additionalProperties": named,
            // The slip that is made most; `check_client` knows the others.
            "propertyNames": { "allOf": [service, { "not": { "const": "default" } }] },
        })
    }
}

// ===== impl NamedClientConfig =====

impl NamedClientConfig {
    fn over(&self, defaults: &ClientConfig) -> ClientConfig {
        let registry = self.registry.clone();
        ClientConfig {
            registry: registry.or_else(|| defaults.registry.clone()),
            trace: self.trace.over(&defaults.trace),
            metrics: self.metrics.over(&defaults.metrics),
            metadata: self.metadata.over(&defaults.metadata),
            deadline: self.deadline.over(&defaults.deadline),
            concurrency_limit: self.concurrency_limit.over(&defaults.concurrency_limit),
            rate_limit: self.rate_limit.over(&defaults.rate_limit),
            route: defaults.route.clone(),
            hedge: self.hedge.over(&defaults.hedge),
            retry: self.retry.over(&defaults.retry),
            circuit_breaker: self.circuit_breaker.over(&defaults.circuit_breaker),
            body_limit: self.body_limit.over(&defaults.body_limit),
            balance: self
                .balance
                .clone()
                .unwrap_or_else(|| defaults.balance.clone()),
        }
    }
}

/// A whole configuration: nothing is left to the defaults but the registry, where it names none.
impl From<ClientConfig> for NamedClientConfig {
    fn from(config: ClientConfig) -> Self {
        Self {
            registry: config.registry,
            trace: config.trace.into(),
            metrics: config.metrics.into(),
            metadata: config.metadata.into(),
            deadline: config.deadline.into(),
            concurrency_limit: config.concurrency_limit.into(),
            rate_limit: config.rate_limit.into(),
            hedge: config.hedge.into(),
            retry: config.retry.into(),
            circuit_breaker: config.circuit_breaker.into(),
            body_limit: config.body_limit.into(),
            balance: Some(config.balance),
        }
    }
}
