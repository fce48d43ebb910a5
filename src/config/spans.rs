//! The section `trace` of a client or of the server.

use serde::{Deserialize, Serialize};
use tower_mesh_layers::{
    client_addr::ClientIp, metadata::MetadataConfig, request_match::MatchConfig,
    trace::TraceConfig, trust::Trust,
};

/// Which calls have spans. Whose traces are continued, and whether traces go on to those that are called,
/// is said by the section `metadata` beside it: by its `trust`, `client` and `traceContext`. Where that
/// section is `off`, neither.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct SpansConfig {
    /// Calls without a span, such as health checks: those that any of these matches. Default none.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub exclude: Vec<MatchConfig>,
}

// ===== impl SpansConfig =====

impl SpansConfig {
    /// The options of a trace layer around a metadata layer with these: one edge for both.
    pub(crate) fn around(&self, metadata: Option<&MetadataConfig>) -> TraceConfig {
        let edge = metadata.filter(|metadata| metadata.trace_context);
        TraceConfig {
            trust: edge.map_or(Trust::None, |edge| edge.trust.clone()),
            client: edge.map_or_else(ClientIp::default, |edge| edge.client),
            propagate: edge.is_some(),
            exclude: self.exclude.clone(),
        }
    }
}
