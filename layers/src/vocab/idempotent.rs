//! Which requests may reach a peer twice.
//!
//! | | by its method | by its caller's word |
//! |---|---|---|
//! | [repeated](is_idempotent) after a failure | GET, HEAD, OPTIONS, TRACE, PUT, DELETE | an `Idempotency-Key`, [`Idempotent`] |
//! | sent [twice at once](is_safe) | GET, HEAD, OPTIONS, TRACE | the same |
//!
//! A PUT that comes twice leaves what it would once; two at a time may overtake a third. Source: RFC 9110
//! §9.2.1 and §9.2.2.

use http::{Extensions, HeaderMap, HeaderName, Method};

use super::headers::find;

/// `Idempotency-Key`: the peer recognises a request that it has seen.
/// Source: draft-ietf-httpapi-idempotency-key-header.
pub(crate) static KEY: HeaderName = HeaderName::from_static("idempotency-key");

/// Marks a request as safe to repeat, as an extension of the request.
///
/// ```
/// use tower_mesh_layers::Idempotent;
///
/// let mut request = http::Request::post("/search").body(())?;
/// request.extensions_mut().insert(Idempotent);
/// # Ok::<(), http::Error>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Idempotent;

/// Whether a request may be repeated once an attempt is over.
pub fn is_idempotent(method: &Method, headers: &HeaderMap, extensions: &Extensions) -> bool {
    matches!(*method, Method::PUT | Method::DELETE) || is_safe(method, headers, extensions)
}

/// Whether two attempts of a request may be under way at the same time.
pub fn is_safe(method: &Method, headers: &HeaderMap, extensions: &Extensions) -> bool {
    matches!(
        *method,
        Method::GET | Method::HEAD | Method::OPTIONS | Method::TRACE
    ) || extensions.get::<Idempotent>().is_some()
        || find(headers, &KEY).is_some()
}
