//! Answers: which are kept, what is kept of them, and how they are given again.

use std::sync::Arc;

use bytes::Bytes;
use http::{
    HeaderMap, HeaderName, HeaderValue, Response, StatusCode,
    header::{CONNECTION, CONTENT_TYPE, SET_COOKIE, TE, TRAILER, TRANSFER_ENCODING, UPGRADE},
    response,
};

use super::body::AnswerBody;
use crate::vocab::{
    classify::CallKind, grpc::Code, headers, rejection::Rejection, tracked::ResponseBody,
};

/// On each answer that is given again.
static REPLAYED: HeaderName = HeaderName::from_static("idempotency-replayed");

/// What is of a connection and not of an answer: RFC 9110, section 7.6.1.
static HOP_BY_HOP: [HeaderName; 7] = [
    CONNECTION,
    HeaderName::from_static("keep-alive"),
    HeaderName::from_static("proxy-connection"),
    TE,
    TRAILER,
    TRANSFER_ENCODING,
    UPGRADE,
];

/// An answer that is kept.
#[derive(Debug)]
pub(super) struct Answer {
    status: StatusCode,
    headers: HeaderMap,
    data: Bytes,
    trailers: Option<HeaderMap>,
}

// ===== impl Answer =====

impl Answer {
    pub(super) fn new(
        head: &response::Parts,
        data: &Bytes,
        trailers: Option<&HeaderMap>,
    ) -> Arc<Self> {
        Arc::new(Self {
            status: head.status,
            headers: copy(&head.headers, |name| is_kept(name, &head.headers)),
            // Copied: what came may be a small part of a large buffer.
            data: Bytes::copy_from_slice(data),
            trailers: trailers.map(|trailers| copy(trailers, |_| true)),
        })
    }

    pub(super) fn bytes(&self) -> usize {
        let trailers = self.trailers.as_ref().map_or(0, size);
        size(&self.headers) + self.data.len() + trailers
    }

    pub(super) fn replay<B>(&self) -> Response<ResponseBody<AnswerBody<B>>> {
        let body = AnswerBody::whole(self.data.clone(), self.trailers.clone());
        let mut response = Response::new(ResponseBody::inner(body));
        *response.status_mut() = self.status;
        *response.headers_mut() = self.headers.clone();
        let headers = response.headers_mut();
        headers.insert(REPLAYED.clone(), HeaderValue::from_static("true"));
        response
    }
}

/// Whether it may be known how an answer ends, before its end: not that of a stream of events, and not where the
/// connection becomes something else.
pub(super) fn has_end(head: &response::Parts) -> bool {
    let content_type = headers::find(&head.headers, &CONTENT_TYPE);
    let is_events =
        content_type.is_some_and(|value| value.as_bytes().starts_with(b"text/event-stream"));
    !is_events && head.status != StatusCode::SWITCHING_PROTOCOLS
}

/// Whether an answer is one of the handler that did something, or refused to for good. Of a whole answer there are the
/// trailers, if it has any.
///
/// A refusal of a layer, and an answer that means "not now", are of calls that may be made again.
pub(super) fn is_final(
    call: CallKind,
    head: &response::Parts,
    whole: Option<Option<&HeaderMap>>,
) -> bool {
    let not_now = [
        StatusCode::TOO_MANY_REQUESTS,
        StatusCode::SERVICE_UNAVAILABLE,
    ];
    if head.extensions.get::<Rejection>().is_some() || not_now.contains(&head.status) {
        return false;
    }
    if !call.is_grpc() {
        return true;
    }
    let trailers = whole.flatten().and_then(Code::from_headers);
    match trailers.or_else(|| Code::from_headers(&head.headers)) {
        Some(code) => code != Code::UNAVAILABLE && code != Code::RESOURCE_EXHAUSTED,
        // A stream that ends without a status was cut, and nobody knows; one that goes on is an answer.
        None => whole.is_none(),
    }
}

/// The bytes that a head takes where it is kept.
pub(super) fn size_of_head(head: &response::Parts) -> usize {
    size(&head.headers)
}

/// NOTE: no cookies. They are of the browser that asked, and a key that is shared by mistake must not hand on a session.
fn is_kept(name: &HeaderName, all: &HeaderMap) -> bool {
    let is_named = || {
        let named = all.get_all(CONNECTION).iter();
        let mut named = named
            .filter_map(|value| value.to_str().ok())
            .flat_map(|value| value.split(','));
        named.any(|named| named.trim().eq_ignore_ascii_case(name.as_str()))
    };
    name != SET_COOKIE && !HOP_BY_HOP.contains(name) && !is_named()
}

/// Values are copied too: those of a response that is handed on are parts of the buffer it was read into.
fn copy(headers: &HeaderMap, is_kept: impl Fn(&HeaderName) -> bool) -> HeaderMap {
    let kept = headers.iter().filter(|(name, _)| is_kept(name));
    let mut copies = HeaderMap::new();
    for (name, value) in kept {
        let mut copy = HeaderValue::from_bytes(value.as_bytes()).unwrap_or_else(|_| value.clone());
        copy.set_sensitive(value.is_sensitive());
        copies.append(name.clone(), copy);
    }
    copies
}

pub(super) fn size(headers: &HeaderMap) -> usize {
    headers
        .iter()
        .map(|(name, value)| name.as_str().len() + value.len())
        .sum()
}
