//! Trace context in headers, through OpenTelemetry's own propagators.
//!
//! Whatever was set by `opentelemetry::global::set_text_map_propagator` is used; where nothing was, it
//! reads and writes nothing.

#![allow(dead_code, reason = "for the layers that propagate traces")]

use http::{HeaderMap, HeaderName, HeaderValue};
use opentelemetry::{
    Context, global,
    propagation::{Extractor, Injector},
    trace::{SpanContext, TraceContextExt},
};

/// The span that a request was sent from. The baggage beside it is not looked at.
pub(crate) fn caller(headers: &HeaderMap) -> Option<SpanContext> {
    let carrier = TraceOnly(Carrier(headers));
    let extracted = global::get_text_map_propagator(|propagator| {
        propagator.extract_with_context(&Context::new(), &carrier)
    });
    let span = extracted.span().span_context().clone();
    span.is_valid().then_some(span)
}

/// Writes a context, and gives the names of the headers that the propagator sees to.
pub(crate) fn inject(context: &Context, headers: &mut HeaderMap) -> Vec<HeaderName> {
    global::get_text_map_propagator(|propagator| {
        propagator.inject_context(context, &mut CarrierMut(headers));
        let fields = propagator.fields();
        fields.filter_map(|field| field.parse().ok()).collect()
    })
}

/// Headers to read a context from.
pub(crate) struct Carrier<'a>(pub(crate) &'a HeaderMap);

/// The same without the baggage, which may be long and is not a trace's.
struct TraceOnly<'a>(Carrier<'a>);

struct CarrierMut<'a>(&'a mut HeaderMap);

// ===== impl Carrier =====

impl Extractor for Carrier<'_> {
    fn get(&self, key: &str) -> Option<&str> {
        self.0.get(key)?.to_str().ok()
    }

    fn keys(&self) -> Vec<&str> {
        self.0.keys().map(HeaderName::as_str).collect()
    }

    fn get_all(&self, key: &str) -> Option<Vec<&str>> {
        let values = self.0.get_all(key).iter();
        let values: Vec<_> = values.filter_map(|value| value.to_str().ok()).collect();
        (!values.is_empty()).then_some(values)
    }
}

// ===== impl TraceOnly =====

impl Extractor for TraceOnly<'_> {
    fn get(&self, key: &str) -> Option<&str> {
        if is_baggage(key) {
            return None;
        }
        self.0.get(key)
    }

    fn keys(&self) -> Vec<&str> {
        let mut keys = self.0.keys();
        keys.retain(|key| !is_baggage(key));
        keys
    }

    fn get_all(&self, key: &str) -> Option<Vec<&str>> {
        if is_baggage(key) {
            return None;
        }
        self.0.get_all(key)
    }
}

fn is_baggage(key: &str) -> bool {
    key.eq_ignore_ascii_case("baggage")
}

// ===== impl CarrierMut =====

impl Injector for CarrierMut<'_> {
    fn set(&mut self, key: &str, value: String) {
        let (Ok(name), Ok(value)) = (HeaderName::try_from(key), HeaderValue::try_from(value))
        else {
            return;
        };
        if value.is_empty() {
            // As an empty trace state comes. What was there is of another span.
            self.0.remove(name);
        } else {
            self.0.insert(name, value);
        }
    }
}
