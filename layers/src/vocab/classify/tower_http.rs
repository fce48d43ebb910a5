//! Classifiers of tower-http.

use http::{HeaderMap, Response};
use tower_http::classify::{ClassifiedResponse, ClassifyEos, ClassifyResponse};

use super::{CallKind, Classify, ClassifyEnd, Head};
use crate::vocab::{
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
                Head::Decided(Outcome::Failure(FailureKind::Http(response.status())))
            }
            ClassifiedResponse::RequiresEos(end) => Head::Open(TowerHttpEnd(Some(end))),
        }
    }

    fn error(&self, _: CallKind, diagnosis: Diagnosis) -> Outcome {
        Outcome::Failure(diagnosis.kind)
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
            Some(Err(_)) => Outcome::Failure(FailureKind::Other),
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
