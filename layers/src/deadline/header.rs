//! How long the caller waits, as its headers say.

use std::{collections::BTreeMap, time::Duration};

use http::{HeaderMap, HeaderName, HeaderValue};
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};

use crate::vocab::{config::duration, grpc};

/// What the number in a timeout header means.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub enum TimeoutUnit {
    /// Whole nanoseconds, as in go-micro's `timeout`.
    #[serde(rename = "ns")]
    Nanoseconds,
    /// Whole microseconds.
    #[serde(rename = "us")]
    Microseconds,
    /// Whole milliseconds, as in Envoy's `x-envoy-expected-rq-timeout-ms`.
    #[serde(rename = "ms")]
    Milliseconds,
    /// Whole seconds.
    #[serde(rename = "s")]
    Seconds,
    /// No bare number, but a duration as in a configuration: `1.5s`, `600ms`.
    #[serde(rename = "text")]
    Text,
}

/// No caller waits longer; it keeps absurd numbers within what a clock can express.
const LONGEST: Duration = Duration::from_secs(365 * 24 * 3600);

/// Looked up in every request: a constant would be made and dropped each time.
pub(super) static GRPC_TIMEOUT: HeaderName = grpc::TIMEOUT;

/// A header besides `grpc-timeout` that is read.
pub(super) struct Accepted {
    pub(super) name: HeaderName,
    pub(super) unit: TimeoutUnit,
}

/// What the headers of a request ask for.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Asked {
    /// The shortest time that any of them gives.
    pub(super) timeout: Option<Duration>,
    /// `grpc-timeout` cannot be read.
    pub(super) malformed_grpc: bool,
    /// Another header cannot be read.
    pub(super) malformed_other: bool,
}

/// A configured timeout as a `grpc-timeout`; `None` where there are too many different ones.
///
/// A value on the heap has a count, and all threads would contend for it with each call. So these are
/// constants: made once for each timeout, and never freed.
pub(super) fn constant(timeout: Duration) -> Option<&'static HeaderValue> {
    // Some 100 bytes each. They come from configurations, and those seldom change.
    const MOST: usize = 1_000;
    static KNOWN: Mutex<BTreeMap<Duration, &HeaderValue>> = Mutex::new(BTreeMap::new());
    let mut known = KNOWN.lock();
    if !known.contains_key(&timeout) && known.len() < MOST {
        let text = grpc::format_timeout(timeout).to_str().ok()?.to_owned();
        let value = HeaderValue::from_static(Box::leak(text.into_boxed_str()));
        known.insert(timeout, Box::leak(Box::new(value)));
    }
    known.get(&timeout).copied()
}

// ===== impl Asked =====

impl Asked {
    /// Takes the value of a `grpc-timeout` into account.
    pub(super) fn grpc(&mut self, value: &HeaderValue) {
        match grpc::parse_timeout(value) {
            Ok(timeout) => self.no_longer_than(timeout),
            Err(_) => self.malformed_grpc = true,
        }
    }

    /// Takes the headers in `accept` into account.
    pub(super) fn others(&mut self, headers: &HeaderMap, accept: &[Accepted]) {
        for Accepted { name, unit } in accept {
            match headers.get(name).map(|value| unit.parse(value)) {
                Some(Some(timeout)) => self.no_longer_than(timeout),
                Some(None) => self.malformed_other = true,
                None => {}
            }
        }
    }

    fn no_longer_than(&mut self, timeout: Duration) {
        let most = self.timeout.unwrap_or(LONGEST);
        self.timeout = Some(timeout.min(most));
    }
}

// ===== impl TimeoutUnit =====

impl TimeoutUnit {
    fn parse(self, value: &HeaderValue) -> Option<Duration> {
        let text = value.to_str().ok()?.trim();
        if self == Self::Text {
            return duration::parse(text).ok();
        }
        if !text.starts_with(|first: char| first.is_ascii_digit()) {
            return None; // `+5` would parse
        }
        let number = text.parse().ok()?;
        Some(match self {
            Self::Nanoseconds => Duration::from_nanos(number),
            Self::Microseconds => Duration::from_micros(number),
            Self::Milliseconds => Duration::from_millis(number),
            Self::Seconds | Self::Text => Duration::from_secs(number),
        })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn asked(headers: &[(&'static str, &str)]) -> Asked {
        let accept = [
            ("x-ms", TimeoutUnit::Milliseconds),
            ("x-text", TimeoutUnit::Text),
        ]
        .map(|(name, unit)| Accepted {
            name: HeaderName::from_static(name),
            unit,
        });
        let headers = headers.iter().map(|(name, value)| {
            (
                HeaderName::from_static(name),
                HeaderValue::from_str(value).unwrap(),
            )
        });
        read(&headers.collect(), &accept)
    }

    fn read(headers: &HeaderMap, accept: &[Accepted]) -> Asked {
        let mut asked = Asked::default();
        if let Some(value) = headers.get(&GRPC_TIMEOUT) {
            asked.grpc(value);
        }
        asked.others(headers, accept);
        asked
    }

    #[test]
    fn the_shortest_of_all_headers_counts() {
        for (headers, millis) in [
            (&[][..], None),
            (&[("grpc-timeout", "2S")], Some(2_000)),
            (&[("grpc-timeout", "2S"), ("x-ms", "300")], Some(300)),
            (
                &[
                    ("grpc-timeout", "200m"),
                    ("x-ms", "300"),
                    ("x-text", "1.5s"),
                ],
                Some(200),
            ),
            (&[("x-text", "1.5s"), ("unlisted", "1")], Some(1_500)),
            (&[("x-ms", "0")], Some(0)),
        ] {
            let expected = Asked {
                timeout: millis.map(Duration::from_millis),
                ..Asked::default()
            };
            assert_eq!(asked(headers), expected, "{headers:?}");
        }
    }

    #[test]
    fn what_cannot_be_read_is_told_and_hides_nothing() {
        for value in [
            "",
            "5",
            "m",
            "-5m",
            "123456789m",
            "5x",
            "1.5S",
            "5 m",
            "5mm",
        ] {
            let asked = asked(&[("grpc-timeout", value), ("x-ms", "300")]);
            assert!(asked.malformed_grpc && !asked.malformed_other, "{value}");
            assert_eq!(asked.timeout, Some(Duration::from_millis(300)));
        }
        for value in ["", "-1", "+1", "1.5", "5ms", "99999999999999999999"] {
            let asked = asked(&[("grpc-timeout", "2S"), ("x-ms", value)]);
            assert!(asked.malformed_other && !asked.malformed_grpc, "{value}");
            assert_eq!(asked.timeout, Some(Duration::from_secs(2)));
        }
    }

    #[test]
    fn equal_timeouts_share_one_constant() {
        let [first, second] = [(); 2].map(|()| constant(Duration::from_millis(1234)).unwrap());
        assert!(std::ptr::eq(first, second));
        assert_eq!(first, "1234000u");
    }

    proptest! {
        #[test]
        fn no_value_makes_it_panic(bytes in proptest::collection::vec(any::<u8>(), 0..24)) {
            if let Ok(value) = HeaderValue::from_bytes(&bytes) {
                let mut headers = HeaderMap::new();
                for name in ["grpc-timeout", "x-ns", "x-us", "x-ms", "x-s", "x-text"] {
                    headers.insert(name, value.clone());
                }
                let accept = [
                    ("x-ns", TimeoutUnit::Nanoseconds),
                    ("x-us", TimeoutUnit::Microseconds),
                    ("x-ms", TimeoutUnit::Milliseconds),
                    ("x-s", TimeoutUnit::Seconds),
                    ("x-text", TimeoutUnit::Text),
                ]
                .map(|(name, unit)| Accepted { name: HeaderName::from_static(name), unit });
                read(&headers, &accept);
            }
        }
    }
}
