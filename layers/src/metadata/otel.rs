//! The trace of a call, through OpenTelemetry's own propagators.
//!
//! Whatever was set by `opentelemetry::global::set_text_map_propagator` is used. Where nothing was, it
//! does nothing, and the headers are passed on as they came.

use http::{HeaderMap, HeaderName};
use opentelemetry::{
    Context,
    baggage::{Baggage, BaggageExt},
    global,
    trace::TraceContextExt,
};

use crate::vocab::propagation::{self, Carrier};

/// What is to be current in the handler, as far as it is not yet: a layer further out that has begun a
/// span of the caller's trace goes before the caller.
pub(super) fn extract(headers: &HeaderMap) -> Option<Context> {
    let current = Context::current();
    let carrier = Carrier(headers);
    let extracted = global::get_text_map_propagator(|propagator| {
        propagator.extract_with_context(&Context::new(), &carrier)
    });
    let baggage = extracted.baggage();
    let adds_baggage = !baggage.is_empty() && current.baggage().is_empty();
    if current.has_active_span() || !extracted.has_active_span() {
        return adds_baggage.then(|| {
            let entries = baggage.iter();
            let entries = entries.map(|(key, value)| (key.clone(), value.clone()));
            current.with_baggage(entries.collect::<Baggage>())
        });
    }
    let extract = |propagator: &dyn opentelemetry::propagation::TextMapPropagator| {
        propagator.extract_with_context(&current, &carrier)
    };
    Some(global::get_text_map_propagator(extract))
}

/// The headers that a propagator saw to.
#[derive(Debug, Default)]
pub(super) struct Injected(Vec<HeaderName>);

/// Writes the current span and baggage, where there is one or the other.
pub(super) fn inject(headers: &mut HeaderMap) -> Injected {
    let has_any =
        Context::map_current(|current| current.has_active_span() || !current.baggage().is_empty());
    if !has_any {
        return Injected::default();
    }
    Injected(propagation::inject(&Context::current(), headers))
}

// ===== impl Injected =====

impl Injected {
    pub(super) fn contains(&self, name: &HeaderName) -> bool {
        self.0.contains(name)
    }
}
