//! How a call came out, in the words of OpenTelemetry's semantic conventions.

#![allow(dead_code, reason = "for the layers that tell of calls")]

use http::{HeaderMap, Response, StatusCode};

use super::{
    classify::CallKind,
    grpc::Code,
    outcome::{FailureKind, Outcome},
    rejection::{Reason, Rejection},
};

/// What is known of an answer so far.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Answered {
    is_server: bool,
    is_grpc: bool,
    rejected: Option<Reason>,
    status: Option<StatusCode>,
    code: Option<Code>,
}

/// What went wrong with a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct CallError {
    kind: ErrorType,
    /// Whether whoever is looked at is to blame, caller or handler.
    pub(crate) is_failure: bool,
}

/// The attribute `error.type`: few values.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ErrorType {
    Named(&'static str),
    Status(StatusCode),
}

// ===== impl Answered =====

impl Answered {
    #[inline]
    pub(crate) fn nothing_yet(call: CallKind, is_server: bool) -> Self {
        Self {
            is_server,
            is_grpc: call.is_grpc(),
            rejected: None,
            status: None,
            code: None,
        }
    }

    #[inline]
    pub(crate) fn is_grpc(&self) -> bool {
        self.is_grpc
    }

    /// The HTTP status; `None` where there was no answer.
    pub(crate) fn status(&self) -> Option<StatusCode> {
        self.status
    }

    /// The gRPC status, from the head or the trailers.
    pub(crate) fn code(&self) -> Option<Code> {
        self.code
    }

    /// Reads a head; gives the refusal that it carries.
    #[inline]
    pub(crate) fn head<'a, B>(&mut self, response: &'a Response<B>) -> Option<&'a Rejection> {
        let status = response.status();
        self.status = Some(status);
        if self.is_grpc {
            let mapped = || (status != StatusCode::OK).then(|| Code::from_http(status));
            self.code = Code::from_headers(response.headers()).or_else(mapped);
        }
        let rejection = response.extensions().get::<Rejection>();
        self.rejected = rejection.map(Rejection::reason);
        rejection
    }

    #[inline]
    pub(crate) fn trailers(&mut self, trailers: &HeaderMap) {
        if self.is_grpc {
            self.code = Code::from_headers(trailers).or(self.code);
        }
    }

    /// What went wrong, if anything did.
    #[inline]
    pub(crate) fn error(&self, outcome: Outcome) -> Option<CallError> {
        let is_fine = match self.code {
            Some(code) => code == Code::OK,
            None => self.status.is_some_and(|status| status.as_u16() < 400),
        };
        if is_fine && outcome.is_success() {
            return None;
        }
        self.error_of(outcome)
    }

    #[cold]
    fn error_of(&self, outcome: Outcome) -> Option<CallError> {
        use FailureKind::{Connect, MissingStatus, Other, Reset, Timeout};
        let named = |name, is_failure| {
            let kind = ErrorType::Named(name);
            Some(CallError { kind, is_failure })
        };
        if let Some(reason) = self.rejected {
            // A server that refuses what it may refuse is as well as one whose handler answers so.
            let is_failure = if self.is_grpc {
                self.blames(reason.grpc_code())
            } else {
                !self.is_server || reason.http_status().is_server_error()
            };
            return named(reason.as_str(), is_failure);
        }
        match outcome {
            // How a body broke off says more than its head did.
            Outcome::Failure(kind @ (Connect | Reset | MissingStatus | Other)) => {
                return named(kind.label(), true);
            }
            Outcome::Failure(kind @ Timeout) if self.code.is_none() => {
                return named(kind.label(), true);
            }
            _ => {}
        }
        if let Some(code) = self.code {
            if code != Code::OK {
                return named(code.name(), self.blames(code));
            }
        } else if let Some(status) = self.status
            && status.as_u16() >= if self.is_server { 500 } else { 400 }
        {
            let kind = ErrorType::Status(status);
            let is_failure = true;
            return Some(CallError { kind, is_failure });
        }
        match outcome {
            Outcome::Failure(kind) => named(kind.label(), true),
            Outcome::Cancelled => named("cancelled", false),
            Outcome::Success | Outcome::Overload(_) | Outcome::Ignored => None,
        }
    }

    /// Whether a gRPC status is the fault of the one who is looked at: around a client every one that
    /// is not OK, around a handler those that the conventions list.
    fn blames(&self, code: Code) -> bool {
        !self.is_server
            || [
                Code::UNKNOWN,
                Code::DEADLINE_EXCEEDED,
                Code::UNIMPLEMENTED,
                Code::INTERNAL,
                Code::UNAVAILABLE,
                Code::DATA_LOSS,
            ]
            .contains(&code)
    }
}

// ===== impl CallError =====

impl CallError {
    pub(crate) fn kind(&self) -> ErrorType {
        self.kind
    }
}

// ===== impl ErrorType =====

impl ErrorType {
    pub(crate) fn as_str(&self) -> &str {
        match self {
            Self::Named(name) => name,
            Self::Status(status) => status.as_str(),
        }
    }
}
