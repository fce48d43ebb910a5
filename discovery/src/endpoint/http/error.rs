//! hyper's errors in our words.

use std::error::Error;

use tower_mesh_layers::transport::TransportError;

/// The error of a call that got no response head. `handed_back`: hyper returned the whole request.
pub(super) fn of_call(error: hyper::Error, handed_back: bool) -> TransportError {
    let unsent = handed_back || is_refused(&error);
    let error = of_body(error);
    if unsent { error.unsent() } else { error }
}

/// The error of a response body.
pub(super) fn of_body(error: hyper::Error) -> TransportError {
    if error.is_timeout() {
        TransportError::timeout()
    } else {
        TransportError::reset(error)
    }
}

/// Whether the peer said that it did nothing about the request: REFUSED_STREAM (RFC 9113 §8.7), or a
/// graceful GOAWAY that does not cover the stream (§6.8).
fn is_refused(error: &hyper::Error) -> bool {
    let Some(error) = error
        .source()
        .and_then(|source| source.downcast_ref::<h2::Error>())
    else {
        return false;
    };
    let refused = error.is_reset() && error.reason() == Some(h2::Reason::REFUSED_STREAM);
    let too_late = error.is_go_away() && error.reason() == Some(h2::Reason::NO_ERROR);
    error.is_remote() && (refused || too_late)
}
