//! One operation, and the histograms of what its calls came to.

use std::sync::OnceLock;

use http::Request;

use crate::vocab::{
    classify::CallKind,
    histogram::Histogram,
    key::{grpc_method, method_name},
    metrics::{OVERFLOW, Sink},
    request_ref::RequestRef,
    semconv::ErrorType,
};

/// Results that are told apart: the successes of an operation are of two or three kinds, and its
/// failures of a handful.
const RESULTS: usize = 16;

/// What an operation has no result for.
const OTHER: &str = "_OTHER";

/// Where the layer stands.
#[derive(Debug, Clone)]
pub(super) enum Side {
    Server,
    /// With the name of the service that is called.
    Client(Box<str>),
}

/// What calls of one operation came to.
pub(super) struct Operation {
    name: Name,
    /// In the order in which they were first seen, so that the most frequent one is found at once; a
    /// list that only grows is read without a lock. The last place is for all that found none.
    results: [OnceLock<Box<Counted>>; RESULTS],
}

#[derive(Debug, PartialEq, Eq)]
enum Name {
    Http {
        method: &'static str,
        route: Box<str>,
    },
    Grpc {
        service: Box<str>,
        method: Box<str>,
    },
    /// Those that have no place of their own, over both protocols.
    Overflow,
}

/// How a call came out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct CallResult {
    pub(super) is_grpc: bool,
    /// The HTTP or gRPC status, if there was any.
    pub(super) status: Option<u16>,
    pub(super) error: Option<ErrorType>,
}

struct Counted {
    result: CallResult,
    duration: Histogram,
}

// ===== impl Operation =====

impl Operation {
    pub(super) fn of<B>(call: CallKind, request: &Request<B>) -> Self {
        let about = RequestRef::of(request);
        let name = if call.is_grpc() {
            // NOTE: an `Operation` extension names gRPC calls too, and then tells them apart by itself.
            let path = about.uri.path();
            let (service, method) = match (about.operation_name(), grpc_method(path)) {
                (Some(name), _) => ("", name),
                (None, Some(names)) => names,
                (None, None) => (OTHER, OTHER),
            };
            Name::Grpc {
                service: service.into(),
                method: method.into(),
            }
        } else {
            let route = about.operation_name().or_else(|| about.route());
            Name::Http {
                method: method_name(about.method),
                route: route.unwrap_or_default().into(),
            }
        };
        Self::new(name)
    }

    pub(super) fn overflow() -> Self {
        Self::new(Name::Overflow)
    }

    fn new(name: Name) -> Self {
        Self {
            name,
            results: [const { OnceLock::new() }; RESULTS],
        }
    }

    /// Where the duration of a call is recorded that came out so.
    #[inline]
    pub(super) fn duration(&self, result: CallResult) -> &Histogram {
        for (place, counted) in self.results.iter().enumerate() {
            let is_last = place == RESULTS - 1;
            let counted = counted.get_or_init(|| Box::new(Counted::new(place, is_last, result)));
            if counted.result == result || is_last {
                return &counted.duration;
            }
        }
        unreachable!("the last place is for all that found none")
    }

    pub(super) fn collect(&self, side: &Side, out: &mut dyn Sink) {
        for counted in self.results.iter().map_while(OnceLock::get) {
            self.collect_one(side, counted, out);
        }
    }

    fn collect_one(&self, side: &Side, counted: &Counted, out: &mut dyn Sink) {
        let CallResult {
            is_grpc,
            status,
            error,
        } = counted.result;
        let status = match status {
            Some(OTHER_STATUS) => OTHER.to_owned(),
            Some(status) => status.to_string(),
            None => String::new(),
        };
        let (first, second) = match &self.name {
            Name::Http { method, route } => (*method, &**route),
            Name::Grpc { service, method } => (&**service, &**method),
            Name::Overflow => (OVERFLOW, OVERFLOW),
        };
        let names = if is_grpc {
            ["rpc_service", "rpc_method", "rpc_grpc_status_code"]
        } else {
            [
                "http_request_method",
                "http_route",
                "http_response_status_code",
            ]
        };
        let mut labels = vec![
            (names[0], first),
            (names[1], second),
            (names[2], status.as_str()),
            ("error_type", error.as_ref().map_or("", ErrorType::as_str)),
        ];
        if is_grpc {
            labels.push(("rpc_system", "grpc"));
        }
        let metric = match (side, is_grpc) {
            (Side::Server, false) => "http_server_request_duration_seconds",
            (Side::Server, true) => "rpc_server_call_duration_seconds",
            (Side::Client(_), false) => "http_client_request_duration_seconds",
            (Side::Client(_), true) => "rpc_client_call_duration_seconds",
        };
        if let Side::Client(service) = side {
            labels.push(("server_address", service));
        }
        let help = "Time until the response head, or the first message of a gRPC call";
        out.histogram(metric, help, &labels, &counted.duration.snapshot());
    }
}

/// No status has this number.
const OTHER_STATUS: u16 = u16::MAX;

// ===== impl Counted =====

impl Counted {
    #[cold]
    fn new(place: usize, is_last: bool, result: CallResult) -> Self {
        let result = if is_last {
            CallResult {
                status: Some(OTHER_STATUS),
                error: Some(ErrorType::Named(OTHER)),
                ..result
            }
        } else {
            result
        };
        Self {
            result,
            // Nearly all calls come out as the first one did; only there do cores get in each other's way.
            duration: if place == 0 {
                Histogram::new()
            } else {
                Histogram::unsharded()
            },
        }
    }
}
