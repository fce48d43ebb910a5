//! What a span is told on the way, and at its end.

use http::{HeaderMap, Response};
use tracing::Span;

use super::span::Kind;
use crate::vocab::{classify::CallKind, outcome::Outcome, semconv::Answered, tracked::CallGuard};

/// Holds the span of a call, and tells it how the call ends.
#[derive(Debug)]
pub struct SpanGuard {
    span: Span,
    answered: Answered,
}

// ===== impl SpanGuard =====

impl SpanGuard {
    pub(super) fn new(span: Span, kind: Kind, call: CallKind) -> Self {
        Self {
            span,
            answered: Answered::nothing_yet(call, kind == Kind::Server),
        }
    }
}

impl CallGuard for SpanGuard {
    fn answer<B>(&mut self, response: &Response<B>) {
        let status = i64::from(response.status().as_u16());
        self.span.record("http.response.status_code", status);
        if let Some(rejection) = self.answered.head(response) {
            let reason = rejection.reason().as_str();
            self.span.record("mesh.rejection.layer", rejection.layer());
            self.span.record("mesh.rejection.reason", reason);
        }
    }

    fn trailers(&mut self, trailers: &HeaderMap) {
        self.answered.trailers(trailers);
    }

    fn end(self, outcome: Outcome) {
        if let Some(code) = self.answered.code() {
            let number = i64::from(code.as_u8());
            self.span.record("rpc.grpc.status_code", number);
        }
        if let Some(error) = self.answered.error(outcome) {
            self.span.record("error.type", error.kind().as_str());
            if error.is_failure {
                self.span.record("otel.status_code", "ERROR");
            }
        }
    }
}
