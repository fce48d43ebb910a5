//! The default classifier.

use std::time::{Duration, SystemTime};

use http::{HeaderMap, HeaderName, Response, StatusCode, header};

use super::{CallKind, Classify, ClassifyEnd, Head, Protocol};
use crate::vocab::{
    grpc::{self, Code},
    outcome::{FailureKind, Outcome, Pushback},
    rejection::Rejection,
    transport::Diagnosis,
};

/// `x-mesh-retry: never`: this answer must not be retried by any hop above.
pub const RETRY_MARK: HeaderName = HeaderName::from_static("x-mesh-retry");

/// The default classifier: the table in [`outcome`](crate::outcome).
#[derive(Debug, Clone, Copy, Default)]
pub struct Classifier;

/// How the default classifier judges the end of a body.
#[derive(Debug, Clone, Copy)]
pub struct DefaultEnd(Protocol);

// ===== impl Classifier =====

impl Classify for Classifier {
    type End = DefaultEnd;

    fn head<B>(&self, call: CallKind, response: &Response<B>) -> Head<DefaultEnd> {
        if let Some(rejection) = response.extensions().get::<Rejection>() {
            return Head::Decided(rejection.outcome());
        }
        let (status, headers) = (response.status(), response.headers());
        if call.is_grpc() {
            match Code::from_headers(headers) {
                Some(code) => return Head::Decided(grpc_outcome(code, headers)),
                // A proxy in between answered in plain HTTP: the gRPC client sees the mapped code.
                None if status != StatusCode::OK => {
                    return Head::Decided(
                        http_outcome(status, headers)
                            .unwrap_or_else(|| grpc_outcome(Code::from_http(status), headers)),
                    );
                }
                None => {}
            }
        } else if let Some(outcome) = http_outcome(status, headers) {
            return Head::Decided(outcome);
        }
        Head::Open(DefaultEnd(call.protocol))
    }
}

// ===== impl DefaultEnd =====

impl ClassifyEnd for DefaultEnd {
    #[inline]
    fn provisional(&self) -> Option<Outcome> {
        match self.0 {
            Protocol::Http => Some(Outcome::Success),
            Protocol::Grpc => None,
        }
    }

    #[inline]
    fn end(self, trailers: Option<&HeaderMap>) -> Outcome {
        match self.0 {
            Protocol::Http => Outcome::Success,
            Protocol::Grpc => match trailers.and_then(|trailers| {
                Code::from_headers(trailers).map(|code| grpc_outcome(code, trailers))
            }) {
                Some(outcome) => outcome,
                None => Outcome::Failure(FailureKind::MissingStatus),
            },
        }
    }

    fn error(self, diagnosis: Diagnosis) -> Outcome {
        // A body that fails for a reason we cannot read has still been cut short.
        match diagnosis.kind {
            FailureKind::Other => Outcome::Failure(FailureKind::Reset),
            kind => Outcome::Failure(kind),
        }
    }

    fn dropped(self) -> Outcome {
        match self.0 {
            // What the head decided stands: the answer was good, the caller needed no more of it.
            Protocol::Http => Outcome::Success,
            Protocol::Grpc => Outcome::Cancelled,
        }
    }
}

/// `None` for every status that is no failure.
#[inline]
fn http_outcome(status: StatusCode, headers: &HeaderMap) -> Option<Outcome> {
    if status.as_u16() < 429 {
        return None;
    }
    http_failure(status, headers)
}

#[cold]
fn http_failure(status: StatusCode, headers: &HeaderMap) -> Option<Outcome> {
    match status.as_u16() {
        499 => Some(Outcome::Cancelled),
        429 => Some(Outcome::Overload(pushback(headers))),
        500 | 502..=504 => Some(match pushback(headers) {
            // `never` alone says nothing of load: a breaker above us answered for a dead peer.
            None | Some(Pushback::Never) => Outcome::Failure(FailureKind::Http(status)),
            after => Outcome::Overload(after),
        }),
        _ => None,
    }
}

fn grpc_outcome(code: Code, headers: &HeaderMap) -> Outcome {
    match code {
        Code::CANCELLED => Outcome::Cancelled,
        Code::RESOURCE_EXHAUSTED => Outcome::Overload(pushback(headers)),
        Code::DEADLINE_EXCEEDED => Outcome::Failure(FailureKind::Timeout),
        Code::UNKNOWN | Code::INTERNAL | Code::UNAVAILABLE | Code::DATA_LOSS => {
            match pushback(headers) {
                None | Some(Pushback::Never) => Outcome::Failure(FailureKind::Grpc(code)),
                after => Outcome::Overload(after),
            }
        }
        _ => Outcome::Success,
    }
}

/// Reads when the peer wants to be called again: `x-mesh-retry: never`, `grpc-retry-pushback-ms`
/// (negative or unreadable means never, as gRFC A6 says), `Retry-After` in seconds or as a date.
pub fn pushback(headers: &HeaderMap) -> Option<Pushback> {
    if headers.get(RETRY_MARK).is_some_and(|mark| mark == "never") {
        return Some(Pushback::Never);
    }
    if let Some(millis) = headers.get(grpc::RETRY_PUSHBACK) {
        let millis = millis
            .to_str()
            .ok()
            .and_then(|text| text.parse::<u32>().ok());
        return Some(millis.map_or(Pushback::Never, |millis| {
            Pushback::After(Duration::from_millis(millis.into()))
        }));
    }
    let after = headers.get(header::RETRY_AFTER)?.to_str().ok()?.trim();
    if !after.is_empty() && after.bytes().all(|byte| byte.is_ascii_digit()) {
        return Some(Pushback::After(Duration::from_secs(
            after.parse().unwrap_or(u64::MAX),
        )));
    }
    // NOTE: the one place where the wall clock is right, since the peer's date is on it.
    let date = parse_http_date(after)?;
    Some(Pushback::After(
        date.duration_since(SystemTime::now()).unwrap_or_default(),
    ))
}

/// Reads the preferred form of an HTTP date, `Sun, 06 Nov 1994 08:49:37 GMT` (RFC 9110 §5.6.7). The
/// obsolete forms are ignored, as no server of the last twenty years writes them.
fn parse_http_date(text: &str) -> Option<SystemTime> {
    const MONTHS: [&str; 12] = [
        "Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec",
    ];
    let mut words = text.split(' ');
    words.next()?.strip_suffix(',')?;
    let day: u64 = words.next()?.parse().ok()?;
    let name = words.next()?;
    let month = 1 + MONTHS.iter().position(|month| *month == name)? as u64;
    let year: u64 = words.next()?.parse().ok()?;
    let mut clock = words
        .next()?
        .split(':')
        .map(|part| part.parse::<u64>().ok());
    let (hours, minutes, seconds) = (clock.next()??, clock.next()??, clock.next()??);
    let in_range = (1970..=9999).contains(&year)
        && (1..=31).contains(&day)
        && hours < 24
        && minutes < 60
        && seconds <= 60;
    if !in_range || words.next() != Some("GMT") {
        return None;
    }
    // Days since 1970-01-01 in the Gregorian calendar, with March as the first month of the year.
    let (shifted_year, shifted_month) = if month > 2 {
        (year, month - 3)
    } else {
        (year - 1, month + 9)
    };
    let leap_days = shifted_year / 4 - shifted_year / 100 + shifted_year / 400;
    let days = shifted_year * 365 + leap_days + (153 * shifted_month + 2) / 5 + day - 719_469;
    let seconds = ((days * 24 + hours) * 60 + minutes) * 60 + seconds;
    Some(SystemTime::UNIX_EPOCH + Duration::from_secs(seconds))
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;
    use proptest::prelude::*;

    use super::*;

    fn response(status: u16, headers: &[(&'static str, &str)]) -> Response<()> {
        let mut response = Response::new(());
        *response.status_mut() = StatusCode::from_u16(status).unwrap();
        for (name, value) in headers {
            response
                .headers_mut()
                .insert(*name, HeaderValue::from_str(value).unwrap());
        }
        response
    }

    fn decided(call: CallKind, status: u16, headers: &[(&'static str, &str)]) -> Option<Outcome> {
        match Classifier.head(call, &response(status, headers)) {
            Head::Decided(outcome) => Some(outcome),
            Head::Open(_) => None,
        }
    }

    #[test]
    fn http_statuses_follow_the_table() {
        for status in 200..600 {
            let outcome = decided(CallKind::HTTP, status, &[]);
            let code = StatusCode::from_u16(status).unwrap();
            match status {
                429 => assert_eq!(outcome, Some(Outcome::Overload(None))),
                499 => assert_eq!(outcome, Some(Outcome::Cancelled)),
                500 | 502 | 503 | 504 => {
                    assert_eq!(outcome, Some(Outcome::Failure(FailureKind::Http(code))))
                }
                _ => assert_eq!(outcome, None, "{status}"),
            }
        }
    }

    #[test]
    fn pushback_turns_a_failure_into_an_overload_and_leaves_a_success() {
        let after = |seconds| Some(Pushback::After(Duration::from_secs(seconds)));
        let wait = [("retry-after", "3")];
        assert_eq!(
            decided(CallKind::HTTP, 503, &wait),
            Some(Outcome::Overload(after(3)))
        );
        assert_eq!(decided(CallKind::HTTP, 202, &wait), None);
        let wait = [("grpc-status", "14"), ("grpc-retry-pushback-ms", "3000")];
        assert_eq!(
            decided(CallKind::GRPC, 200, &wait),
            Some(Outcome::Overload(after(3)))
        );
        let never = [("x-mesh-retry", "never")];
        let failure = Outcome::Failure(FailureKind::Http(StatusCode::SERVICE_UNAVAILABLE));
        assert_eq!(decided(CallKind::HTTP, 503, &never), Some(failure));
    }

    #[test]
    fn grpc_codes_follow_the_table_in_the_head_and_in_trailers() {
        for number in 0..=16 {
            let code = Code::from_u8(number);
            let expected = match number {
                1 => Outcome::Cancelled,
                4 => Outcome::Failure(FailureKind::Timeout),
                8 => Outcome::Overload(None),
                2 | 13 | 14 | 15 => Outcome::Failure(FailureKind::Grpc(code)),
                _ => Outcome::Success,
            };
            let head = decided(CallKind::GRPC, 200, &[("grpc-status", &number.to_string())]);
            assert_eq!(head, Some(expected));
            let trailers = HeaderMap::from_iter([(grpc::STATUS, code.to_header_value())]);
            assert_eq!(DefaultEnd(Protocol::Grpc).end(Some(&trailers)), expected);
        }
    }

    #[test]
    fn a_grpc_stream_must_end_with_a_status() {
        let end = DefaultEnd(Protocol::Grpc);
        let missing = Outcome::Failure(FailureKind::MissingStatus);
        assert_eq!(end.end(None), missing);
        assert_eq!(end.end(Some(&HeaderMap::new())), missing);
        assert_eq!(end.dropped(), Outcome::Cancelled);
        assert_eq!(DefaultEnd(Protocol::Http).end(None), Outcome::Success);
        assert_eq!(DefaultEnd(Protocol::Http).dropped(), Outcome::Success);
    }

    #[test]
    fn plain_http_under_a_grpc_call_is_mapped() {
        let unavailable = Outcome::Failure(FailureKind::Http(StatusCode::SERVICE_UNAVAILABLE));
        assert_eq!(decided(CallKind::GRPC, 503, &[]), Some(unavailable));
        // 404 means UNIMPLEMENTED to a gRPC client: an answer, not a failure of the peer.
        assert_eq!(decided(CallKind::GRPC, 404, &[]), Some(Outcome::Success));
        assert_eq!(
            decided(CallKind::GRPC, 302, &[]),
            Some(Outcome::Failure(FailureKind::Grpc(Code::UNKNOWN)))
        );
    }

    #[test]
    fn pushback_is_read_in_every_spelling() {
        let read =
            |name: &'static str, value: &str| pushback(response(200, &[(name, value)]).headers());
        let after = |duration| Some(Pushback::After(duration));
        assert_eq!(read("retry-after", "120"), after(Duration::from_secs(120)));
        assert_eq!(
            read("retry-after", "99999999999999999999"),
            after(Duration::from_secs(u64::MAX))
        );
        assert_eq!(read("retry-after", "soon"), None);
        assert_eq!(read("retry-after", "-1"), None);
        assert_eq!(
            read("retry-after", "Sun, 06 Nov 1994 08:49:37 GMT"),
            after(Duration::ZERO)
        );
        assert_eq!(
            read("grpc-retry-pushback-ms", "250"),
            after(Duration::from_millis(250))
        );
        for never in ["-1", "x", "", "1.5"] {
            assert_eq!(
                read("grpc-retry-pushback-ms", never),
                Some(Pushback::Never),
                "{never}"
            );
        }
        assert_eq!(read("x-mesh-retry", "never"), Some(Pushback::Never));
    }

    #[test]
    fn http_dates_are_on_the_wall_clock() {
        let since = |text| {
            parse_http_date(text)
                .map(|at| at.duration_since(SystemTime::UNIX_EPOCH).unwrap().as_secs())
        };
        assert_eq!(since("Thu, 01 Jan 1970 00:00:00 GMT"), Some(0));
        assert_eq!(since("Sun, 06 Nov 1994 08:49:37 GMT"), Some(784_111_777));
        assert_eq!(since("Thu, 29 Feb 2024 12:00:00 GMT"), Some(1_709_208_000));
        for text in [
            "",
            "Sun",
            "Sun, 06 Nov 1994",
            "Sun, 06 Foo 1994 08:49:37 GMT",
            "Sun, 06 Nov 1994 08:49:37 UTC",
        ] {
            assert_eq!(since(text), None, "{text}");
        }
    }

    proptest! {
        #[test]
        fn no_answer_panics(status in 100_u16..1000, name in 0_usize..5, bytes in proptest::collection::vec(any::<u8>(), 0..40)) {
            let name = ["retry-after", "grpc-status", "grpc-retry-pushback-ms", "x-mesh-retry", "content-type"][name];
            let mut response = response(200, &[]);
            *response.status_mut() = StatusCode::from_u16(status).unwrap();
            if let Ok(value) = HeaderValue::from_bytes(&bytes) {
                response.headers_mut().insert(name, value);
            }
            let _ = Classifier.head(CallKind::HTTP, &response);
            let _ = Classifier.head(CallKind::GRPC, &response);
        }
    }
}
