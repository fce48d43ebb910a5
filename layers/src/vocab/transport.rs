//! Errors of the transport, and finding them in the errors of any client.
//!
//! A layer must not demand that the inner error implements [`Error`] (a boxed error does not), so it
//! asks for `'static` only and looks through [`Any`] for the error types of the clients that exist,
//! then down the chain of sources.

use std::{any::Any, error::Error, io};

use super::outcome::FailureKind;

/// A boxed error, as tower has it.
pub type BoxError = Box<dyn Error + Send + Sync>;

/// An error of our own endpoints: what went wrong, and whether the request was sent.
#[derive(Debug, thiserror::Error)]
#[error("{}", self.message())]
pub struct TransportError {
    kind: FailureKind,
    unsent: bool,
    #[source]
    source: Option<BoxError>,
}

// ===== impl TransportError =====

impl TransportError {
    /// No connection could be made; nothing was sent.
    pub fn connect(source: impl Into<BoxError>) -> Self {
        Self {
            kind: FailureKind::Connect,
            unsent: true,
            source: Some(source.into()),
        }
    }

    /// The connection broke, and the peer may have seen the request.
    pub fn reset(source: impl Into<BoxError>) -> Self {
        Self {
            kind: FailureKind::Reset,
            unsent: false,
            source: Some(source.into()),
        }
    }

    /// Time ran out, and the peer may have seen the request.
    pub fn timeout() -> Self {
        Self {
            kind: FailureKind::Timeout,
            unsent: false,
            source: None,
        }
    }

    /// Marks the request as never sent, so that it may go to another endpoint whatever its method.
    #[must_use]
    pub fn unsent(mut self) -> Self {
        self.unsent = true;
        self
    }

    /// What went wrong.
    pub fn kind(&self) -> FailureKind {
        self.kind
    }

    /// Whether the peer surely saw nothing of the request.
    pub fn is_unsent(&self) -> bool {
        self.unsent
    }

    fn message(&self) -> &'static str {
        match self.kind {
            FailureKind::Connect => "cannot connect to the endpoint",
            FailureKind::Timeout => "the endpoint did not answer in time",
            _ => "the connection to the endpoint broke",
        }
    }
}

/// What is known about an error of an inner service.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Diagnosis {
    /// How the failure counts.
    pub kind: FailureKind,
    /// Whether the peer surely saw nothing of the request, so that sending it again is always safe.
    pub unsent: bool,
}

/// Finds out what an error of an inner service, or of a body, means.
pub fn diagnose<E: 'static>(error: &E) -> Diagnosis {
    match as_error(error) {
        Some(error) => diagnose_chain(error),
        None => Diagnosis {
            kind: FailureKind::Other,
            unsent: false,
        },
    }
}

/// The error types that hide behind a generic `E: 'static`. The compiler resolves each test at once
/// for a concrete `E`, so only the one that fits is left.
fn as_error(error: &dyn Any) -> Option<&(dyn Error + 'static)> {
    fn find<T: Error + 'static>(error: &dyn Any) -> Option<&(dyn Error + 'static)> {
        error.downcast_ref::<T>().map(|error| error as _)
    }
    if let Some(boxed) = error.downcast_ref::<BoxError>() {
        return Some(&**boxed);
    }
    if let Some(boxed) = error.downcast_ref::<Box<dyn Error + Send>>() {
        return Some(&**boxed);
    }
    let found = find::<TransportError>(error).or_else(|| find::<io::Error>(error));
    #[cfg(feature = "axum")]
    let found = found.or_else(|| find::<axum::Error>(error));
    #[cfg(feature = "tonic")]
    let found = found
        .or_else(|| find::<tonic::transport::Error>(error))
        .or_else(|| find::<tonic::Status>(error));
    #[cfg(feature = "reqwest")]
    let found = found.or_else(|| find::<::reqwest::Error>(error));
    #[cfg(any(feature = "hyper", feature = "reqwest", feature = "tonic"))]
    let found = found.or_else(|| find::<h2::Error>(error));
    #[cfg(feature = "hyper")]
    let found = found
        .or_else(|| find::<hyper::Error>(error))
        .or_else(|| find::<hyper_util::client::legacy::Error>(error));
    found
}

fn diagnose_chain(error: &(dyn Error + 'static)) -> Diagnosis {
    let mut diagnosis = Diagnosis {
        kind: FailureKind::Other,
        unsent: false,
    };
    let mut next = Some(error);
    while let Some(error) = next {
        if let Some(error) = error.downcast_ref::<TransportError>() {
            return Diagnosis {
                kind: error.kind,
                unsent: error.unsent,
            };
        }
        #[cfg(feature = "reqwest")]
        if let Some(error) = error.downcast_ref::<::reqwest::Error>() {
            if error.is_connect() {
                return Diagnosis {
                    kind: FailureKind::Connect,
                    unsent: true,
                };
            }
            if error.is_timeout() {
                return Diagnosis {
                    kind: FailureKind::Timeout,
                    unsent: false,
                };
            }
        }
        #[cfg(feature = "hyper")]
        if let Some(known) = diagnose_hyper(error) {
            return known;
        }
        #[cfg(any(feature = "hyper", feature = "reqwest", feature = "tonic"))]
        if let Some(error) = error.downcast_ref::<h2::Error>() {
            return diagnose_h2(error);
        }
        #[cfg(feature = "tonic")]
        if error.is::<tonic::ConnectError>() {
            return Diagnosis {
                kind: FailureKind::Connect,
                unsent: true,
            };
        }
        next = error.source();
        if let Some(error) = error.downcast_ref::<io::Error>() {
            diagnosis = diagnose_io(error);
            // NOTE: the source of an `io::Error` skips the error that it wraps.
            next = error.get_ref().map(|inner| inner as _);
        }
    }
    diagnosis
}

#[cfg(feature = "hyper")]
fn diagnose_hyper(error: &(dyn Error + 'static)) -> Option<Diagnosis> {
    if let Some(error) = error.downcast_ref::<hyper_util::client::legacy::Error>() {
        return error.is_connect().then_some(Diagnosis {
            kind: FailureKind::Connect,
            unsent: true,
        });
    }
    let error = error.downcast_ref::<hyper::Error>()?;
    if error.is_timeout() {
        return Some(Diagnosis {
            kind: FailureKind::Timeout,
            unsent: false,
        });
    }
    if error.is_user() {
        // NOTE: no look at its source: that may be an error of the request's body, which was on its
        // way by then, and would be taken for one of the connection.
        return Some(Diagnosis {
            kind: FailureKind::Other,
            unsent: false,
        });
    }
    let reset = error.is_incomplete_message() || error.is_closed() || error.is_canceled();
    // `is_canceled`: the request was still in hyper's queue when the connection went away.
    reset.then_some(Diagnosis {
        kind: FailureKind::Reset,
        unsent: error.is_canceled(),
    })
}

#[cfg(any(feature = "hyper", feature = "reqwest", feature = "tonic"))]
fn diagnose_h2(error: &h2::Error) -> Diagnosis {
    // A peer that refuses a stream promises that it has not begun to process it (RFC 9113 §8.7). A
    // GOAWAY promises that only of streams above its last one, which the error does not name.
    let refused =
        error.is_reset() && error.is_remote() && error.reason() == Some(h2::Reason::REFUSED_STREAM);
    match error.get_io().map(diagnose_io) {
        Some(known) if known.kind != FailureKind::Other => known,
        _ => Diagnosis {
            kind: FailureKind::Reset,
            unsent: refused,
        },
    }
}

fn diagnose_io(error: &io::Error) -> Diagnosis {
    use io::ErrorKind as Io;
    match error.kind() {
        Io::ConnectionRefused
        | Io::HostUnreachable
        | Io::NetworkUnreachable
        | Io::AddrNotAvailable
        | Io::NotFound => Diagnosis {
            kind: FailureKind::Connect,
            unsent: true,
        },
        Io::TimedOut => Diagnosis {
            kind: FailureKind::Timeout,
            unsent: false,
        },
        Io::ConnectionReset
        | Io::ConnectionAborted
        | Io::BrokenPipe
        | Io::NotConnected
        | Io::UnexpectedEof => Diagnosis {
            kind: FailureKind::Reset,
            unsent: false,
        },
        _ => Diagnosis {
            kind: FailureKind::Other,
            unsent: false,
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, thiserror::Error)]
    #[error("outer")]
    struct Outer(#[source] io::Error);

    #[test]
    fn the_io_error_is_found_through_boxes_and_sources() {
        let refused = || io::Error::from(io::ErrorKind::ConnectionRefused);
        let expected = Diagnosis {
            kind: FailureKind::Connect,
            unsent: true,
        };
        assert_eq!(diagnose(&refused()), expected);
        let boxed: BoxError = Box::new(Outer(refused()));
        assert_eq!(diagnose(&boxed), expected);

        let reset: BoxError = io::Error::from(io::ErrorKind::ConnectionReset).into();
        assert_eq!(
            diagnose(&reset),
            Diagnosis {
                kind: FailureKind::Reset,
                unsent: false
            }
        );
    }

    #[test]
    fn an_error_of_ours_says_it_itself_however_deep() {
        let error = TransportError::reset("gone").unsent();
        let boxed: BoxError = Box::new(io::Error::other(error));
        assert_eq!(
            diagnose(&boxed),
            Diagnosis {
                kind: FailureKind::Reset,
                unsent: true
            }
        );
    }

    #[test]
    fn an_unknown_error_is_a_failure_that_may_have_been_sent() {
        let expected = Diagnosis {
            kind: FailureKind::Other,
            unsent: false,
        };
        assert_eq!(diagnose(&"just text"), expected);
        assert_eq!(diagnose(&std::convert::Infallible::clone), expected);
    }

    /// The source of our own body may be an error that would mean "not sent" from a transport.
    #[cfg(feature = "hyper")]
    #[tokio::test]
    async fn a_request_body_that_fails_does_not_make_the_request_unsent() {
        use bytes::Bytes;
        use http_body::Frame;
        use http_body_util::StreamBody;

        let (ours, mut theirs) = tokio::io::duplex(4096);
        let (mut sender, connection) =
            hyper::client::conn::http1::handshake(hyper_util::rt::TokioIo::new(ours))
                .await
                .unwrap();
        tokio::spawn(connection);
        tokio::spawn(async move { tokio::io::copy(&mut theirs, &mut tokio::io::sink()).await });
        let frames = [
            Ok(Frame::data(Bytes::from("the first half"))),
            Err(io::Error::from(io::ErrorKind::NotFound)),
        ];
        let body = StreamBody::new(futures_util::stream::iter(frames));
        let error = sender
            .send_request(http::Request::post("/").body(body).unwrap())
            .await
            .unwrap_err();
        let expected = Diagnosis {
            kind: FailureKind::Other,
            unsent: false,
        };
        assert_eq!(diagnose(&error), expected, "{error:?}");
    }
}
