//! Classifiers of tower-http.

use http::{HeaderMap, Response};
use tower_http::classify::{ClassifiedResponse, ClassifyEos, ClassifyResponse};

use super::{CallKind, Classify, ClassifyEnd, Head};
use crate::vocab::{
    grpc::Code,
    outcome::{FailureKind, Outcome},
    rejection::Rejection,
    transport::Diagnosis,
};

/// Uses a classifier of tower-http: what it calls a failure is a failure.
///
/// ```
/// use http::Response;
/// use tower_http::classify::{ServerErrorsAsFailures, ServerErrorsFailureClass};
/// use tower_mesh_layers::{CallKind, Classify, Head, TowerHttp};
///
/// let classify = TowerHttp::new(ServerErrorsAsFailures::new());
/// let response = Response::builder().status(501).body(())?;
/// assert!(matches!(
///     classify.head(CallKind::HTTP, &response),
///     Head::Decided(outcome) if outcome.is_failure_or_overload()
/// ));
/// # Ok::<(), http::Error>(())
/// ```
#[derive(Debug, Clone, Copy)]
pub struct TowerHttp<C>(C);

/// Judges the end of a body with a classifier of tower-http.
#[derive(Debug, Clone, Copy)]
pub struct TowerHttpEnd<E>(Option<E>);

// ===== impl TowerHttp =====

impl<C> TowerHttp<C> {
    /// Wraps a classifier of tower-http.
    pub fn new(classify: C) -> Self {
        Self(classify)
    }
}

impl<C> Classify for TowerHttp<C>
where
    C: ClassifyResponse + Clone + Send + Sync + 'static,
    C::ClassifyEos: Send + 'static,
{
    type End = TowerHttpEnd<C::ClassifyEos>;

    fn head<B>(&self, _: CallKind, response: &Response<B>) -> Head<Self::End> {
        if let Some(rejection) = response.extensions().get::<Rejection>() {
            return Head::Decided(rejection.outcome());
        }
        match self.0.clone().classify_response(response) {
            ClassifiedResponse::Ready(Ok(())) => Head::Open(TowerHttpEnd(None)),
            ClassifiedResponse::Ready(Err(_)) => {
                let status = FailureKind::Http(response.status());
                Head::Decided(Outcome::Failure(kind(Some(response.headers()), status)))
            }
            ClassifiedResponse::RequiresEos(end) => Head::Open(TowerHttpEnd(Some(end))),
        }
    }

    fn error(&self, _: CallKind, diagnosis: Diagnosis) -> Outcome {
        Outcome::Failure(diagnosis.kind)
    }
}

/// What kind of failure it is that tower-http's classifier saw in these headers or trailers: its own
/// class is a type that we know nothing of.
fn kind(headers: Option<&HeaderMap>, otherwise: FailureKind) -> FailureKind {
    match headers.and_then(Code::from_headers) {
        None | Some(Code::OK) => otherwise,
        Some(Code::DEADLINE_EXCEEDED) => FailureKind::Timeout,
        Some(code) => FailureKind::Grpc(code),
    }
}

// ===== impl TowerHttpEnd =====

impl<E: ClassifyEos + Send + 'static> ClassifyEnd for TowerHttpEnd<E> {
    fn provisional(&self) -> Option<Outcome> {
        self.0.is_none().then_some(Outcome::Success)
    }

    fn end(self, trailers: Option<&HeaderMap>) -> Outcome {
        match self.0.map(|end| end.classify_eos(trailers)) {
            None | Some(Ok(())) => Outcome::Success,
            Some(Err(_)) => Outcome::Failure(kind(trailers, FailureKind::Other)),
        }
    }

    fn error(self, diagnosis: Diagnosis) -> Outcome {
        // tower-http's trait wants the error as `Display`; its classifiers call every error a failure.
        match diagnosis.kind {
            FailureKind::Other => Outcome::Failure(FailureKind::Reset),
            kind => Outcome::Failure(kind),
        }
    }

    fn dropped(self) -> Outcome {
        if self.0.is_some() {
            Outcome::Cancelled
        } else {
            Outcome::Success
        }
    }
}

#[cfg(test)]
mod tests {
    use http::StatusCode;
    use tower_http::classify::{GrpcErrorsAsFailures, ServerErrorsAsFailures};

    use super::*;
    use crate::vocab::grpc;

    fn status(code: Code) -> HeaderMap {
        HeaderMap::from_iter([(grpc::STATUS, code.to_header_value())])
    }

    fn judged<C: Classify>(classify: &C, response: &Response<()>) -> Result<Outcome, C::End> {
        match classify.head(CallKind::GRPC, response) {
            Head::Decided(outcome) => Ok(outcome),
            Head::Open(end) => Err(end),
        }
    }

    /// Of all codes, tower-http calls only OK a success.
    #[test]
    fn a_grpc_status_is_judged_alike_in_the_head_and_in_the_trailers() {
        let classify = TowerHttp::new(GrpcErrorsAsFailures::new());
        let open = || judged(&classify, &Response::new(())).unwrap_err();
        assert_eq!(open().provisional(), None, "nobody knows before the end");
        for code in (0..=16).map(Code::from_u8) {
            let expected = match code {
                Code::OK => Outcome::Success,
                Code::DEADLINE_EXCEEDED => Outcome::Failure(FailureKind::Timeout),
                _ => Outcome::Failure(FailureKind::Grpc(code)),
            };
            assert_eq!(open().end(Some(&status(code))), expected);

            let mut trailers_only = Response::new(());
            *trailers_only.headers_mut() = status(code);
            let outcome = judged(&classify, &trailers_only).unwrap_or_else(|end| end.end(None));
            assert_eq!(outcome, expected);
        }
        // As its documentation has it. Our own classifier calls this a failure.
        assert_eq!(open().end(None), Outcome::Success);
    }

    #[test]
    fn a_stream_that_does_not_come_to_its_end() {
        let classify = TowerHttp::new(GrpcErrorsAsFailures::new());
        let open = || judged(&classify, &Response::new(())).unwrap_err();
        assert_eq!(open().dropped(), Outcome::Cancelled);
        for (kind, expected) in [
            (FailureKind::Timeout, FailureKind::Timeout),
            (FailureKind::Other, FailureKind::Reset),
        ] {
            let diagnosis = Diagnosis {
                kind,
                unsent: false,
            };
            assert_eq!(open().error(diagnosis), Outcome::Failure(expected));
        }
    }

    #[test]
    fn an_http_head_settles_it_unless_the_body_breaks() {
        let classify = TowerHttp::new(ServerErrorsAsFailures::new());
        let mut response = Response::new(());
        let good = || judged(&classify, &response).unwrap_err();
        assert_eq!(good().provisional(), Some(Outcome::Success));
        assert_eq!([good().dropped(), good().end(None)], [Outcome::Success; 2]);
        let reset = Diagnosis {
            kind: FailureKind::Reset,
            unsent: false,
        };
        assert_eq!(good().error(reset), Outcome::Failure(FailureKind::Reset));

        *response.status_mut() = StatusCode::NOT_IMPLEMENTED;
        let expected = Outcome::Failure(FailureKind::Http(StatusCode::NOT_IMPLEMENTED));
        assert_eq!(judged(&classify, &response).unwrap(), expected);
    }

    #[test]
    fn a_refusal_of_this_process_is_none_of_the_peers() {
        let classify = TowerHttp::new(ServerErrorsAsFailures::new());
        let rejection = Rejection::new("rate_limit", crate::Reason::RateLimited, "");
        let refused = rejection.into_response::<()>(CallKind::HTTP).map(drop);
        assert!(refused.status().is_client_error() || refused.status().is_server_error());
        assert_eq!(judged(&classify, &refused).unwrap(), Outcome::Ignored);
    }
}
