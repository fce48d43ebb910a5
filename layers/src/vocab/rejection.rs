//! A refusal made by this process, rendered for the protocol of the request.
//!
//! | refusal | HTTP | gRPC |
//! |---|---|---|
//! | [`RateLimited`](Reason::RateLimited) | 429 | RESOURCE_EXHAUSTED |
//! | [`CircuitOpen`](Reason::CircuitOpen), [`ConcurrencyLimit`](Reason::ConcurrencyLimit), [`Draining`](Reason::Draining), [`NoEndpoint`](Reason::NoEndpoint) | 503 | UNAVAILABLE |
//! | [`DeadlineExceeded`](Reason::DeadlineExceeded) | 504 | DEADLINE_EXCEEDED |
//! | [`Unauthenticated`](Reason::Unauthenticated) | 401 | UNAUTHENTICATED |
//! | [`PermissionDenied`](Reason::PermissionDenied) | 403 | PERMISSION_DENIED |
//! | [`InvalidRequest`](Reason::InvalidRequest) | 400 | INVALID_ARGUMENT |
//! | [`Panicked`](Reason::Panicked) | 500 | INTERNAL |
//! | [`BodyTooLarge`](Reason::BodyTooLarge) | 413 | RESOURCE_EXHAUSTED |
//! | [`KeyInFlight`](Reason::KeyInFlight) | 409 | ABORTED |
//! | [`KeyReused`](Reason::KeyReused) | 422 | INVALID_ARGUMENT |
//! | [`AnswerNotKept`](Reason::AnswerNotKept) | 409 | ALREADY_EXISTS |
//!
//! HTTP callers get the status, `Retry-After` in whole seconds (rounded up: a client that comes back
//! a second late succeeds, one that comes back early fails again) and a problem document (RFC 9457).
//! gRPC callers get HTTP 200 in trailers-only form with `grpc-status`, `grpc-message` and, in
//! `grpc-status-details-bin`, `google.rpc.ErrorInfo` and `google.rpc.RetryInfo`.
//!
//! The response also carries the [`Rejection`] as an extension, so that callers and outer layers in
//! this process can tell it from an answer of the peer. Over the wire it is an ordinary 503 or
//! UNAVAILABLE, with the reason in its body or details.
//!
//! ```
//! use std::time::Duration;
//! use tower_mesh_layers::{CallKind, Reason, Rejection};
//!
//! let rejection = Rejection::new("rate_limit", Reason::RateLimited, "100 calls per second")
//!     .retry_after(Duration::from_millis(1200));
//! let response = rejection.into_response::<http_body_util::Empty<bytes::Bytes>>(CallKind::HTTP);
//! assert_eq!(response.status(), 429);
//! assert_eq!(response.headers()["retry-after"], "2");
//! assert!(response.extensions().get::<Rejection>().is_some());
//! ```

mod proto;

use std::{borrow::Cow, fmt, time::Duration};

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Response, StatusCode, header};
use http_body_util::Full;

use super::{
    classify::{CallKind, RETRY_MARK},
    grpc::{self, Code},
    outcome::{Outcome, Pushback},
    tracked::ResponseBody,
};

/// The domain of `google.rpc.ErrorInfo`: it makes [`Reason::as_str`] unique.
pub const ERROR_DOMAIN: &str = "tower-mesh";

/// Why a call was refused. The [module](self) says how each is rendered.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Reason {
    /// A rate limit is used up.
    RateLimited,
    /// A circuit breaker is open.
    CircuitOpen,
    /// Too many calls are in flight.
    ConcurrencyLimit,
    /// The process is shutting down.
    Draining,
    /// No endpoint is known, or none may be used.
    NoEndpoint,
    /// The deadline has passed.
    DeadlineExceeded,
    /// No credentials, or bad ones.
    Unauthenticated,
    /// The caller is known, and not allowed.
    PermissionDenied,
    /// A header that this layer must read is malformed.
    InvalidRequest,
    /// The handler panicked.
    Panicked,
    /// A body is larger than it may be.
    BodyTooLarge,
    /// The first call with this idempotency key is not over.
    KeyInFlight,
    /// The idempotency key came with another request before.
    KeyReused,
    /// The call with this idempotency key was made, and its answer is not there to be given again.
    AnswerNotKept,
}

/// A refusal made by this process. The [module](self) says how it is rendered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rejection {
    layer: &'static str,
    reason: Reason,
    detail: Cow<'static, str>,
    retry: Option<Pushback>,
    outcome: Outcome,
}

// ===== impl Reason =====

impl Reason {
    /// The stable name, the same in problem documents, `ErrorInfo`, metrics and logs.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::RateLimited => "RATE_LIMITED",
            Self::CircuitOpen => "CIRCUIT_OPEN",
            Self::ConcurrencyLimit => "CONCURRENCY_LIMIT",
            Self::Draining => "DRAINING",
            Self::NoEndpoint => "NO_ENDPOINT",
            Self::DeadlineExceeded => "DEADLINE_EXCEEDED",
            Self::Unauthenticated => "UNAUTHENTICATED",
            Self::PermissionDenied => "PERMISSION_DENIED",
            Self::InvalidRequest => "INVALID_REQUEST",
            Self::Panicked => "PANICKED",
            Self::BodyTooLarge => "BODY_TOO_LARGE",
            Self::KeyInFlight => "IDEMPOTENCY_KEY_IN_FLIGHT",
            Self::KeyReused => "IDEMPOTENCY_KEY_REUSED",
            Self::AnswerNotKept => "ANSWER_NOT_KEPT",
        }
    }

    /// The status for HTTP callers.
    pub const fn http_status(self) -> StatusCode {
        match self {
            Self::RateLimited => StatusCode::TOO_MANY_REQUESTS,
            Self::CircuitOpen | Self::ConcurrencyLimit | Self::Draining | Self::NoEndpoint => {
                StatusCode::SERVICE_UNAVAILABLE
            }
            Self::DeadlineExceeded => StatusCode::GATEWAY_TIMEOUT,
            Self::Unauthenticated => StatusCode::UNAUTHORIZED,
            Self::PermissionDenied => StatusCode::FORBIDDEN,
            Self::InvalidRequest => StatusCode::BAD_REQUEST,
            Self::Panicked => StatusCode::INTERNAL_SERVER_ERROR,
            Self::BodyTooLarge => StatusCode::PAYLOAD_TOO_LARGE,
            Self::KeyInFlight | Self::AnswerNotKept => StatusCode::CONFLICT,
            Self::KeyReused => StatusCode::UNPROCESSABLE_ENTITY,
        }
    }

    /// The status for gRPC callers.
    pub const fn grpc_code(self) -> Code {
        match self {
            Self::RateLimited | Self::BodyTooLarge => Code::RESOURCE_EXHAUSTED,
            Self::CircuitOpen | Self::ConcurrencyLimit | Self::Draining | Self::NoEndpoint => {
                Code::UNAVAILABLE
            }
            Self::DeadlineExceeded => Code::DEADLINE_EXCEEDED,
            Self::Unauthenticated => Code::UNAUTHENTICATED,
            Self::PermissionDenied => Code::PERMISSION_DENIED,
            Self::InvalidRequest | Self::KeyReused => Code::INVALID_ARGUMENT,
            Self::KeyInFlight => Code::ABORTED,
            Self::AnswerNotKept => Code::ALREADY_EXISTS,
            Self::Panicked => Code::INTERNAL,
        }
    }
}

// ===== impl Rejection =====

impl Rejection {
    /// A refusal by `layer` (its metric name, such as `rate_limit`), with a text for a human.
    pub fn new(layer: &'static str, reason: Reason, detail: impl Into<Cow<'static, str>>) -> Self {
        Self {
            layer,
            reason,
            detail: detail.into(),
            retry: None,
            outcome: Outcome::Ignored,
        }
    }

    /// Says how outer layers of this process count it, where it is no plain refusal: the peer was
    /// called and did not answer in time, say. Without this it is [`Outcome::Ignored`].
    #[must_use]
    pub fn counts_as(mut self, outcome: Outcome) -> Self {
        self.outcome = outcome;
        self
    }

    /// Says when to call again.
    #[must_use]
    pub fn retry_after(mut self, wait: Duration) -> Self {
        self.retry = Some(Pushback::After(wait));
        self
    }

    /// Says that no hop above may retry this: `grpc-retry-pushback-ms: -1`, `x-mesh-retry: never`.
    #[must_use]
    pub fn retry_never(mut self) -> Self {
        self.retry = Some(Pushback::Never);
        self
    }

    /// The layer that refused.
    pub fn layer(&self) -> &'static str {
        self.layer
    }

    /// Why it refused.
    pub fn reason(&self) -> Reason {
        self.reason
    }

    /// The text for a human.
    pub fn detail(&self) -> &str {
        &self.detail
    }

    /// How outer layers of this process count it.
    pub fn outcome(&self) -> Outcome {
        self.outcome
    }

    /// When to call again, if the layer knows.
    pub fn pushback(&self) -> Option<Pushback> {
        self.retry
    }

    /// Renders the refusal for a call, with itself as an extension.
    pub fn into_response<B>(self, call: CallKind) -> Response<ResponseBody<B>> {
        let mut response = if call.is_grpc() {
            self.render_grpc()
        } else {
            self.render_http()
        };
        response.extensions_mut().insert(self);
        response.map(|body| ResponseBody::Rejected { body })
    }

    fn render_http(&self) -> Response<Full<Bytes>> {
        let body = Bytes::from(self.problem().to_string());
        let mut response = Response::new(Full::new(body));
        *response.status_mut() = self.reason.http_status();
        let headers = response.headers_mut();
        headers.insert(
            header::CONTENT_TYPE,
            HeaderValue::from_static("application/problem+json"),
        );
        match self.retry {
            Some(Pushback::After(wait)) => {
                headers.insert(header::RETRY_AFTER, whole_seconds(wait).into());
            }
            Some(Pushback::Never) => {
                headers.insert(RETRY_MARK, HeaderValue::from_static("never"));
            }
            None => {}
        }
        response
    }

    /// The problem document (RFC 9457) with `reason`, `layer` and `retryable` as extension members.
    fn problem(&self) -> serde_json::Value {
        let status = self.reason.http_status();
        serde_json::json!({
            "type": "about:blank",
            "title": status.canonical_reason(),
            "status": status.as_u16(),
            "detail": &*self.detail,
            "reason": self.reason.as_str(),
            "layer": self.layer,
            "retryable": !matches!(self.retry, Some(Pushback::Never)),
        })
    }

    fn render_grpc(&self) -> Response<Full<Bytes>> {
        let mut response = Response::new(Full::default());
        let headers = response.headers_mut();
        headers.insert(
            header::CONTENT_TYPE,
            HeaderValue::from_static("application/grpc"),
        );
        self.write_grpc_status(headers);
        response
    }

    /// Writes `grpc-status` and its company into a head or into trailers.
    pub fn write_grpc_status(&self, headers: &mut HeaderMap) {
        let code = self.reason.grpc_code();
        headers.insert(grpc::STATUS, code.to_header_value());
        headers.insert(grpc::MESSAGE, grpc::encode_message(&self.detail));
        headers.insert(grpc::STATUS_DETAILS, self.status_details(code));
        match self.retry {
            Some(Pushback::After(wait)) => {
                // Signed on the other side, where a number that does not fit means "never".
                let millis = i32::try_from(wait.as_nanos().div_ceil(1_000_000)).unwrap_or(i32::MAX);
                headers.insert(grpc::RETRY_PUSHBACK, millis.into());
            }
            Some(Pushback::Never) => {
                headers.insert(grpc::RETRY_PUSHBACK, HeaderValue::from_static("-1"));
            }
            None => {}
        }
    }

    /// `google.rpc.Status { code, message, details: [ErrorInfo, RetryInfo] }`, as base64.
    fn status_details(&self, code: Code) -> HeaderValue {
        let mut info = proto::Message::default();
        info.text(1, self.reason.as_str())
            .text(2, ERROR_DOMAIN)
            .message(3, &{
                let mut entry = proto::Message::default();
                entry.text(1, "layer").text(2, self.layer);
                entry
            });
        let mut status = proto::Message::default();
        status.number(1, code.as_u8().into()).text(2, &self.detail);
        status.message(3, &info.into_any("google.rpc.ErrorInfo"));
        if let Some(Pushback::After(wait)) = self.retry {
            let mut delay = proto::Message::default();
            delay
                .number(1, wait.as_secs().min(proto::MOST_SECONDS))
                .number(2, wait.subsec_nanos().into());
            let mut retry = proto::Message::default();
            retry.message(1, &delay);
            status.message(3, &retry.into_any("google.rpc.RetryInfo"));
        }
        HeaderValue::try_from(proto::base64(status.as_bytes()))
            .expect("base64 is a valid header value")
    }
}

impl fmt::Display for Rejection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{}: {} ({})",
            self.layer,
            self.detail,
            self.reason.as_str()
        )
    }
}

impl std::error::Error for Rejection {}

/// Whole seconds, rounded up, at least one: `Retry-After: 0` would invite the caller right back.
pub(crate) fn whole_seconds(wait: Duration) -> u64 {
    let started = u64::from(wait.subsec_nanos() > 0);
    wait.as_secs().saturating_add(started).max(1)
}

#[cfg(test)]
mod tests {
    use http_body_util::Empty;

    use super::*;
    use crate::vocab::{
        classify::{Classifier, Classify, Head, pushback},
        outcome::Outcome,
    };

    const REASONS: [Reason; 14] = [
        Reason::RateLimited,
        Reason::CircuitOpen,
        Reason::ConcurrencyLimit,
        Reason::Draining,
        Reason::NoEndpoint,
        Reason::DeadlineExceeded,
        Reason::Unauthenticated,
        Reason::PermissionDenied,
        Reason::InvalidRequest,
        Reason::Panicked,
        Reason::BodyTooLarge,
        Reason::KeyInFlight,
        Reason::KeyReused,
        Reason::AnswerNotKept,
    ];

    fn render(rejection: &Rejection, call: CallKind) -> Response<ResponseBody<Empty<Bytes>>> {
        rejection.clone().into_response(call)
    }

    #[test]
    fn every_reason_reaches_both_protocols() {
        for reason in REASONS {
            let rejection = Rejection::new("test", reason, "because");
            let http = render(&rejection, CallKind::HTTP);
            assert_eq!(http.status(), reason.http_status());
            let grpc = render(&rejection, CallKind::GRPC);
            assert_eq!(grpc.status(), StatusCode::OK);
            assert_eq!(grpc.headers()["content-type"], "application/grpc");
            assert_eq!(Code::from_headers(grpc.headers()), Some(reason.grpc_code()));
        }
    }

    #[test]
    fn a_rejection_never_counts_against_the_peer() {
        for call in [CallKind::HTTP, CallKind::GRPC] {
            let response = render(&Rejection::new("test", Reason::NoEndpoint, ""), call);
            assert!(matches!(
                Classifier.head(call, &response),
                Head::Decided(Outcome::Ignored)
            ));
        }
    }

    #[test]
    fn retry_after_is_rounded_up_and_never_zero() {
        for (millis, seconds, pushback_ms) in [
            (0, "1", "0"),
            (1, "1", "1"),
            (1000, "1", "1000"),
            (1001, "2", "1001"),
        ] {
            let rejection = Rejection::new("test", Reason::RateLimited, "")
                .retry_after(Duration::from_millis(millis));
            assert_eq!(
                render(&rejection, CallKind::HTTP).headers()["retry-after"],
                seconds
            );
            let grpc = render(&rejection, CallKind::GRPC);
            assert_eq!(grpc.headers()["grpc-retry-pushback-ms"], pushback_ms);
        }
    }

    #[test]
    fn a_wait_without_end_is_rendered_within_the_range_of_each_field() {
        let rejection = Rejection::new("test", Reason::RateLimited, "").retry_after(Duration::MAX);
        let http = render(&rejection, CallKind::HTTP);
        assert_eq!(http.headers()["retry-after"], u64::MAX.to_string().as_str());
        // Clients read it as a signed number of 32 bits, and what does not fit as "never".
        let grpc = render(&rejection, CallKind::GRPC);
        assert_eq!(grpc.headers()["grpc-retry-pushback-ms"], "2147483647");
    }

    #[test]
    fn never_is_understood_by_our_own_classifier_on_both_protocols() {
        let rejection = Rejection::new("test", Reason::CircuitOpen, "").retry_never();
        for call in [CallKind::HTTP, CallKind::GRPC] {
            assert_eq!(
                pushback(render(&rejection, call).headers()),
                Some(Pushback::Never)
            );
        }
    }

    #[tokio::test]
    async fn the_problem_document_escapes_its_detail() {
        use http_body_util::BodyExt;
        let rejection = Rejection::new("test", Reason::RateLimited, "a \"quoted\"\nline");
        let body = render(&rejection, CallKind::HTTP)
            .into_body()
            .collect()
            .await
            .unwrap();
        let problem: serde_json::Value = serde_json::from_slice(&body.to_bytes()).unwrap();
        assert_eq!(problem["detail"], "a \"quoted\"\nline");
        assert_eq!(problem["status"], 429);
        assert_eq!(problem["reason"], "RATE_LIMITED");
    }

    #[cfg(feature = "tonic")]
    #[test]
    fn tonic_reads_the_status_and_its_details() {
        let rejection = Rejection::new("rate_limit", Reason::RateLimited, "50% für alle")
            .retry_after(Duration::from_millis(1500));
        let response = render(&rejection, CallKind::GRPC);
        let status = tonic::Status::from_header_map(response.headers()).unwrap();
        assert_eq!(status.code(), tonic::Code::ResourceExhausted);
        assert_eq!(status.message(), "50% für alle");
        let details = status.details();
        let contains = |text: &[u8]| details.windows(text.len()).any(|window| window == text);
        for part in [
            "google.rpc.ErrorInfo",
            "RATE_LIMITED",
            ERROR_DOMAIN,
            "google.rpc.RetryInfo",
        ] {
            assert!(contains(part.as_bytes()), "{part}");
        }
        // RetryInfo { retry_delay: Duration { seconds: 1, nanos: 500_000_000 } }
        assert!(contains(&[
            0x0a, 0x08, 0x08, 0x01, 0x10, 0x80, 0xca, 0xb5, 0xee, 0x01
        ]));
    }
}
