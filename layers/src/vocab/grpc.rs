//! The bits of the gRPC protocol that a layer needs: status codes, `grpc-status`, `grpc-timeout`.
//!
//! Sources: [gRPC over HTTP/2](https://github.com/grpc/grpc/blob/master/doc/PROTOCOL-HTTP2.md) and
//! [status codes](https://github.com/grpc/grpc/blob/master/doc/statuscodes.md).

use std::{fmt, time::Duration};

use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, header};

use super::headers::find;

/// `grpc-status`: the outcome of a call, in trailers or in the head of a trailers-only response.
pub const STATUS: HeaderName = HeaderName::from_static("grpc-status");
/// `grpc-message`: percent-encoded text for a human.
pub const MESSAGE: HeaderName = HeaderName::from_static("grpc-message");
/// `grpc-status-details-bin`: base64 of a `google.rpc.Status`.
pub const STATUS_DETAILS: HeaderName = HeaderName::from_static("grpc-status-details-bin");
/// `grpc-timeout`: what is left of the caller's deadline.
pub const TIMEOUT: HeaderName = HeaderName::from_static("grpc-timeout");
/// `grpc-retry-pushback-ms`: when the server wants the next attempt; negative means never.
pub const RETRY_PUSHBACK: HeaderName = HeaderName::from_static("grpc-retry-pushback-ms");
/// `grpc-previous-rpc-attempts`: how many attempts came before this one.
pub const PREVIOUS_ATTEMPTS: HeaderName = HeaderName::from_static("grpc-previous-rpc-attempts");

/// A gRPC status code. Values above 16 arrive as [`Code::UNKNOWN`].
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Code(u8);

macro_rules! codes {
    ($($value:literal $name:ident $doc:literal,)*) => {
        impl Code {
            $(#[doc = $doc] pub const $name: Self = Self($value);)*

            /// The name as the specification writes it, such as `RESOURCE_EXHAUSTED`.
            pub const fn name(self) -> &'static str {
                match self.0 { $($value => stringify!($name),)* _ => "UNKNOWN" }
            }
        }
        const TEXTS: &[&str] = &[$(stringify!($value)),*];
    };
}

codes! {
    0 OK "The call succeeded.",
    1 CANCELLED "The caller gave up.",
    2 UNKNOWN "An error without a code, or with one that is not known.",
    3 INVALID_ARGUMENT "The request is wrong, whatever the state of the system.",
    4 DEADLINE_EXCEEDED "Time ran out.",
    5 NOT_FOUND "No such entity.",
    6 ALREADY_EXISTS "The entity is there already.",
    7 PERMISSION_DENIED "The caller is known, and not allowed.",
    8 RESOURCE_EXHAUSTED "A quota or a limit is used up.",
    9 FAILED_PRECONDITION "The system is not in the state that the call needs.",
    10 ABORTED "A conflict, such as a failed transaction.",
    11 OUT_OF_RANGE "Past the valid range.",
    12 UNIMPLEMENTED "No such method.",
    13 INTERNAL "An invariant of the system is broken.",
    14 UNAVAILABLE "The service is not there now; try again.",
    15 DATA_LOSS "Data is lost for good.",
    16 UNAUTHENTICATED "The caller is not known.",
}

// ===== impl Code =====

impl Code {
    /// The number on the wire.
    pub const fn as_u8(self) -> u8 {
        self.0
    }

    /// The code with this number; [`Code::UNKNOWN`] above 16.
    pub const fn from_u8(value: u8) -> Self {
        if value <= 16 {
            Self(value)
        } else {
            Self::UNKNOWN
        }
    }

    /// Reads `grpc-status` from a response's head or trailers; `None` where it is absent.
    ///
    /// A value that is not a number from 0 to 16 is [`Code::UNKNOWN`], as the protocol says.
    pub fn from_headers(headers: &HeaderMap) -> Option<Self> {
        static NAME: HeaderName = STATUS;
        find(headers, &NAME).map(|value| match value.as_bytes() {
            [digit @ b'0'..=b'9'] => Self(digit - b'0'),
            [b'1', digit @ b'0'..=b'6'] => Self(10 + digit - b'0'),
            _ => Self::UNKNOWN,
        })
    }

    /// What an HTTP status means to a gRPC client when there is no `grpc-status`.
    ///
    /// Source: <https://github.com/grpc/grpc/blob/master/doc/http-grpc-status-mapping.md>.
    pub fn from_http(status: StatusCode) -> Self {
        match status.as_u16() {
            400 => Self::INTERNAL,
            401 => Self::UNAUTHENTICATED,
            403 => Self::PERMISSION_DENIED,
            404 => Self::UNIMPLEMENTED,
            429 | 502 | 503 | 504 => Self::UNAVAILABLE,
            _ => Self::UNKNOWN,
        }
    }

    /// The code as a header value, without an allocation.
    pub fn to_header_value(self) -> HeaderValue {
        HeaderValue::from_static(TEXTS[usize::from(self.0)])
    }
}

impl fmt::Debug for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl fmt::Display for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Whether a content type announces gRPC: `application/grpc`, `application/grpc+…` or
/// `application/grpc;…`. grpc-web (`application/grpc-web`) is HTTP to us.
pub fn is_grpc(headers: &HeaderMap) -> bool {
    const GRPC: &[u8] = b"application/grpc";
    let Some(value) = find(headers, &header::CONTENT_TYPE) else {
        return false;
    };
    let value = value.as_bytes();
    value.len() >= GRPC.len()
        && is_same(&value[..GRPC.len()], GRPC)
        && matches!(value.get(GRPC.len()), None | Some(b'+' | b';' | b' '))
}

/// Media types know no case; nearly all are sent in lower case, and those compare in two steps.
fn is_same(value: &[u8], name: &[u8]) -> bool {
    value == name || value.eq_ignore_ascii_case(name)
}

/// Whether a request is a gRPC call: those are always POST, so other methods need no look at a header.
#[inline]
pub fn is_call(method: &Method, headers: &HeaderMap) -> bool {
    *method == Method::POST && is_grpc(headers)
}

/// A `grpc-timeout` that does not follow the grammar.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("grpc-timeout must be 1 to 8 digits and one of the units H, M, S, m, u, n")]
pub struct InvalidTimeout;

/// Reads a `grpc-timeout` value: one to eight digits and a unit (`H`, `M`, `S`, `m`, `u`, `n`).
///
/// # Errors
///
/// [`InvalidTimeout`] when the value does not follow that grammar.
pub fn parse_timeout(value: &HeaderValue) -> Result<Duration, InvalidTimeout> {
    let (unit, digits) = value.as_bytes().split_last().ok_or(InvalidTimeout)?;
    if digits.is_empty() || digits.len() > 8 || !digits.iter().all(u8::is_ascii_digit) {
        return Err(InvalidTimeout);
    }
    let amount = digits
        .iter()
        .fold(0, |sum, digit| sum * 10 + u64::from(digit - b'0'));
    Ok(match unit {
        b'H' => Duration::from_secs(amount * 3600),
        b'M' => Duration::from_secs(amount * 60),
        b'S' => Duration::from_secs(amount),
        b'm' => Duration::from_millis(amount),
        b'u' => Duration::from_micros(amount),
        b'n' => Duration::from_nanos(amount),
        _ => return Err(InvalidTimeout),
    })
}

/// Writes a `grpc-timeout` value in the finest unit that fits eight digits, rounded down so that a
/// hop never gets more time than there is.
pub fn format_timeout(timeout: Duration) -> HeaderValue {
    const MOST: u32 = 99_999_999;
    let (seconds, nanos) = (timeout.as_secs(), timeout.subsec_nanos());
    let (amount, unit) = match u32::try_from(seconds).unwrap_or(u32::MAX) {
        0 if nanos <= MOST => (nanos, b'n'),
        seconds @ 0..100 => (seconds * 1_000_000 + nanos / 1_000, b'u'),
        seconds @ 100..100_000 => (seconds * 1_000 + nanos / 1_000_000, b'm'),
        seconds => (seconds.min(MOST), b'S'), // at most three years
    };
    let mut text = [0_u8; 9];
    let mut at = text.len() - 1;
    text[at] = unit;
    let mut rest = amount;
    loop {
        at -= 1;
        text[at] = b'0' + (rest % 10) as u8;
        rest /= 10;
        if rest == 0 {
            break;
        }
    }
    HeaderValue::from_bytes(&text[at..]).expect("digits and a letter are a valid header value")
}

/// Percent-encodes a `grpc-message`: everything but printable ASCII, and `%` itself.
pub fn encode_message(message: &str) -> HeaderValue {
    use fmt::Write;
    let mut encoded = String::with_capacity(message.len());
    for byte in message.bytes() {
        match byte {
            b' '..=b'~' if byte != b'%' => encoded.push(byte as char),
            _ => write!(encoded, "%{byte:02X}").expect("writing to a string cannot fail"),
        }
    }
    HeaderValue::try_from(encoded).expect("printable ASCII is a valid header value")
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn grpc_is_told_by_its_content_type() {
        let is = |value: &'static str| {
            is_grpc(&HeaderMap::from_iter([(
                header::CONTENT_TYPE,
                HeaderValue::from_static(value),
            )]))
        };
        for value in [
            "application/grpc",
            "application/grpc+proto",
            "application/grpc;v=1",
            "Application/gRPC",
        ] {
            assert!(is(value), "{value}");
        }
        for value in [
            "application/grpc-web",
            "application/grpcx",
            "application/json",
            "",
        ] {
            assert!(!is(value), "{value}");
        }
        assert!(!is_grpc(&HeaderMap::new()));
    }

    #[test]
    fn status_is_read_as_the_protocol_says() {
        let read = |value: &'static str| {
            Code::from_headers(&HeaderMap::from_iter([(
                STATUS,
                HeaderValue::from_static(value),
            )]))
        };
        for number in 0..=16 {
            let code = Code::from_u8(number);
            assert_eq!(read(TEXTS[usize::from(number)]), Some(code));
            assert_eq!(code.to_header_value(), number.to_string().as_str());
        }
        for value in ["17", "-1", "", "01", "OK", "100"] {
            assert_eq!(read(value), Some(Code::UNKNOWN), "{value}");
        }
        assert_eq!(Code::from_headers(&HeaderMap::new()), None);
    }

    #[test]
    fn timeouts_outside_the_grammar_are_refused() {
        for value in [
            "",
            "S",
            "1",
            "123456789S",
            "1.5S",
            "-1S",
            "+1S",
            "1 S",
            "1s",
            "0x1S",
            "1S ",
        ] {
            assert_eq!(
                parse_timeout(&HeaderValue::from_static(value)),
                Err(InvalidTimeout),
                "{value}"
            );
        }
        let hours = parse_timeout(&HeaderValue::from_static("99999999H")).unwrap();
        assert_eq!(hours, Duration::from_secs(99_999_999 * 3600));
    }

    #[test]
    fn messages_are_percent_encoded() {
        assert_eq!(encode_message("50% für\n"), "50%25 f%C3%BCr%0A");
    }

    #[test]
    fn a_timeout_is_written_in_the_finest_unit_that_fits() {
        for (timeout, expected) in [
            (Duration::ZERO, "0n"),
            (Duration::from_nanos(99_999_999), "99999999n"),
            (Duration::from_millis(100), "100000u"),
            (Duration::new(99, 999_999_999), "99999999u"),
            (Duration::from_secs(100), "100000m"),
            (Duration::new(99_999, 999_999_999), "99999999m"),
            (Duration::from_secs(100_000), "100000S"),
            (Duration::MAX, "99999999S"),
        ] {
            assert_eq!(format_timeout(timeout), expected, "{timeout:?}");
        }
    }

    proptest! {
        #[test]
        fn a_written_timeout_never_grants_more_time(nanos in 0..99_999_999_000_000_000_u64) {
            let timeout = Duration::from_nanos(nanos);
            let read = parse_timeout(&format_timeout(timeout)).unwrap();
            prop_assert!(read <= timeout);
            prop_assert!(timeout - read <= timeout / 99_999 + Duration::from_nanos(1));
        }

        #[test]
        fn no_header_panics(bytes in proptest::collection::vec(any::<u8>(), 0..20)) {
            if let Ok(value) = HeaderValue::from_bytes(&bytes) {
                let _ = parse_timeout(&value);
                let _ = Code::from_headers(&HeaderMap::from_iter([(STATUS, value)]));
            }
        }
    }
}
