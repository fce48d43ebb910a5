//! From the caller's trace, and into the next hop's, through OpenTelemetry's own propagators.

use http::HeaderMap;
use opentelemetry::{Context, trace::TraceContextExt};
use tracing::Span;
use tracing_opentelemetry::OpenTelemetrySpanExt;

use crate::vocab::propagation;

/// Makes a span a part of the caller's trace, or links it to that of one who is not trusted.
pub(super) fn adopt(span: &Span, headers: &HeaderMap, trusted: impl FnOnce() -> bool) {
    // What is there already has been begun by a layer further out, and continues the caller's.
    if Context::map_current(|current| current.has_active_span()) {
        return;
    }
    let Some(caller) = propagation::caller(headers) else {
        return;
    };
    if trusted() {
        // Fails where nobody exports the span: then there is nothing to be part of.
        let parent = Context::current().with_remote_span_context(caller);
        let _ = span.set_parent(parent);
    } else {
        span.add_link(caller);
    }
}

/// Writes the trace context of a span.
pub(super) fn inject(span: &Span, headers: &mut HeaderMap) {
    let context = span.context();
    if context.has_active_span() {
        propagation::inject(&context, headers);
    }
}
