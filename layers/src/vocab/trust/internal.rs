//! Headers that only the mesh may set.

use http::{HeaderMap, HeaderName};

/// Beginnings of header names that only the mesh and its own proxies may set.
///
/// - `x-mesh-`: ours: identity, fault triggers, route overrides, retry marks;
/// - `x-md-`: propagated metadata, spelt as in kratos (`x-md-global-`, `x-md-local-`);
/// - `x-cse-`, `micro-`: context and caller names of go-chassis and go-micro;
/// - `x-forwarded-`: the client's address, host and certificate, as proxies report them;
/// - `x-envoy-`, `l5d-`, `x-istio-`: controls and identities of other meshes: timeouts, retries, faults;
/// - `x-b3-`: Zipkin's trace context.
pub const INTERNAL_PREFIXES: &[&str] = &[
    "x-mesh-",
    "x-md-",
    "x-cse-",
    "micro-",
    "x-forwarded-",
    "x-envoy-",
    "l5d-",
    "x-istio-",
    "x-b3-",
];

/// Header names that only the mesh and its own proxies may set.
///
/// - `forwarded` ([RFC 7239](https://www.rfc-editor.org/rfc/rfc7239)) and its predecessors;
/// - `client-cert`, `client-cert-chain` ([RFC 9440](https://www.rfc-editor.org/rfc/rfc9440)): identity;
/// - `x-original-url`, `x-rewrite-url`: another path than the one that rules were checked against;
/// - `x-mark`: go-chassis' name of the traffic class;
/// - `traceparent`, `tracestate`, `baggage` ([W3C](https://www.w3.org/TR/trace-context/)), `b3` and
///   gRPC's own: an outsider must not write into our traces; a trace layer further out has linked them;
/// - `grpc-previous-rpc-attempts`: whose retries we count.
///
/// Not among them: `grpc-timeout`, since a caller may always give up earlier (the deadline layer takes
/// the shorter one), and `x-request-id`, which an outer layer may just have made.
pub const INTERNAL_HEADERS: &[&str] = &[
    "forwarded",
    "x-real-ip",
    "x-client-ip",
    "true-client-ip",
    "client-cert",
    "client-cert-chain",
    "x-original-url",
    "x-rewrite-url",
    "x-mark",
    "traceparent",
    "tracestate",
    "baggage",
    "b3",
    "grpc-trace-bin",
    "grpc-tags-bin",
    "grpc-previous-rpc-attempts",
];

/// What [`strip_untrusted`] removed.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Stripped {
    /// How many header lines are gone.
    pub dropped: usize,
    /// The name of the first one, for the log.
    pub first: Option<HeaderName>,
}

/// Whether only the mesh may set a header.
#[inline]
pub fn is_internal(name: &HeaderName) -> bool {
    let name = name.as_str();
    // An edge asks this of every header of every call, and most are told by two letters.
    let [first, second, ..] = name.as_bytes() else {
        return false;
    };
    let begins_alike = matches!(
        (first, second),
        (b'x', b'-')
            | (b'm', b'i')
            | (b'l', b'5')
            | (b'f', b'o')
            | (b't', b'r')
            | (b'c', b'l')
            | (b'b', b'a' | b'3')
            | (b'g', b'r')
    );
    begins_alike && is_listed(name)
}

fn is_listed(name: &str) -> bool {
    INTERNAL_PREFIXES
        .iter()
        .any(|prefix| name.starts_with(prefix))
        || INTERNAL_HEADERS.contains(&name)
}

/// Removes the headers that only the mesh may set, all lines of them, from a request of a caller that
/// is not trusted. Allocates only when there are any.
///
/// The headers of proxies are among them. Where a layer further in asks for the client's address
/// behind a proxy, put it into the request as [`ClientAddr`](crate::ClientAddr) first.
pub fn strip_untrusted(headers: &mut HeaderMap) -> Stripped {
    let internal: Vec<HeaderName> = headers
        .keys()
        .filter(|name| is_internal(name))
        .cloned()
        .collect();
    let lines = headers.len();
    for name in &internal {
        headers.remove(name);
    }
    Stripped {
        dropped: lines - headers.len(),
        first: internal.into_iter().next(),
    }
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    #[test]
    fn forged_headers_are_dropped_whatever_their_case_and_number() {
        let forged = [
            "x-md-global-user",
            "X-MD-Local-Tenant",
            "x-mesh-identity",
            "X-Mesh-Fault-Abort",
            "x-mesh-route",
            "x-mesh-retry",
            "x-mesh-timeout",
            "X-Forwarded-For",
            "x-forwarded-host",
            "x-forwarded-proto",
            "x-forwarded-client-cert",
            "FORWARDED",
            "X-Real-IP",
            "client-cert",
            "Client-Cert-Chain",
            "x-original-url",
            "x-envoy-fault-abort-request",
            "x-envoy-upstream-rq-timeout-ms",
            "x-envoy-retry-on",
            "l5d-client-id",
            "X-Cse-Context",
            "Micro-From-Service",
            "x-mark",
            "traceparent",
            "tracestate",
            "Baggage",
            "x-b3-traceid",
            "grpc-previous-rpc-attempts",
        ];
        let mut headers = HeaderMap::new();
        for (at, name) in forged.iter().enumerate() {
            let name: HeaderName = name.parse().unwrap();
            for line in 0..=at % 3 {
                headers.append(&name, HeaderValue::from(line));
            }
        }
        let lines = headers.len();
        assert_eq!(strip_untrusted(&mut headers).dropped, lines);
        assert!(headers.is_empty(), "{headers:?}");
    }

    #[test]
    fn what_callers_may_send_stays() {
        let mut headers = HeaderMap::new();
        for name in [
            "host",
            "authorization",
            "content-type",
            "grpc-timeout",
            "x-request-id",
            "x-tenant",
            "idempotency-key",
            "x-forwarded",
            "x-mes",
            "xx-mesh-identity",
            "b3-x",
            "te",
        ] {
            headers.append(
                name.parse::<HeaderName>().unwrap(),
                HeaderValue::from_static("1"),
            );
        }
        let before = headers.clone();
        assert_eq!(strip_untrusted(&mut headers), Stripped::default());
        assert_eq!(headers, before);
    }

    #[test]
    fn the_first_one_is_named() {
        let mut headers = HeaderMap::new();
        headers.append("x-md-global-user", HeaderValue::from_static("root"));
        let first = strip_untrusted(&mut headers).first.unwrap();
        assert_eq!(first, "x-md-global-user");
    }

    #[test]
    fn no_beginning_of_the_lists_is_passed_over() {
        for name in INTERNAL_HEADERS {
            assert!(is_internal(&HeaderName::from_static(name)), "{name}");
        }
        for prefix in INTERNAL_PREFIXES {
            let name = HeaderName::try_from(format!("{prefix}a")).unwrap();
            assert!(is_internal(&name), "{name}");
        }
    }

    #[test]
    fn the_lists_are_in_the_case_that_header_names_are_in() {
        for name in INTERNAL_PREFIXES.iter().chain(INTERNAL_HEADERS) {
            assert_eq!(*name, name.to_ascii_lowercase());
        }
    }
}
