//! Scalars that configurations are written in, and the one error they are refused with.
//!
//! Every layer is configured by a plain struct with serde (camelCase, unknown fields refused). Its
//! scalars are the same everywhere: a duration is written `600ms` or `1m30s`, a ratio `20%`, a number of
//! bytes `64KiB`. A value that does not parse or is out of range is a [`ConfigError`], which names the
//! field, the value and what is allowed.
//!
//! ```
//! use tower_mesh_layers::config::{ConfigError, Ratio};
//!
//! let half: Ratio = "50%".parse()?;
//! assert_eq!(half.as_f64(), 0.5);
//!
//! let refused = "150%".parse::<Ratio>().unwrap_err().at("retry.budget.ratio");
//! assert_eq!(
//!     refused.to_string(),
//!     "retry.budget.ratio: got `150%`, expected a percentage from 0% to 100%"
//! );
//! # Ok::<(), ConfigError>(())
//! ```

mod byte_size;
mod hint;

use std::{fmt, str::FromStr, time::Duration};

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

pub use self::{
    byte_size::ByteSize,
    hint::{did_you_mean, nearest},
};

/// A configuration value that was refused: which field, what it was, and what is allowed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConfigError {
    path: String,
    value: String,
    expected: String,
}

// ===== impl ConfigError =====

impl ConfigError {
    /// Refuses `value` at `path` (fields joined by dots, list positions as `[2]`).
    pub fn new(
        path: impl Into<String>,
        value: impl fmt::Display,
        expected: impl Into<String>,
    ) -> Self {
        Self {
            path: path.into(),
            value: value.to_string(),
            expected: expected.into(),
        }
    }

    /// Puts `prefix` in front of the path, as an error travels out of a nested section.
    #[must_use]
    pub fn at(mut self, prefix: impl fmt::Display) -> Self {
        let prefix = prefix.to_string();
        if prefix.is_empty() {
            return self;
        }
        self.path = match self.path.as_str() {
            "" => prefix,
            path if path.starts_with('[') => format!("{prefix}{path}"),
            path => format!("{prefix}.{path}"),
        };
        self
    }

    /// The field that was refused, from the root of the document; empty for the document itself.
    pub fn path(&self) -> &str {
        &self.path
    }

    /// The value as it was written.
    pub fn value(&self) -> &str {
        &self.value
    }

    /// What would have been accepted.
    pub fn expected(&self) -> &str {
        &self.expected
    }
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if !self.path.is_empty() {
            write!(f, "{}: ", self.path)?;
        }
        write!(f, "got `{}`, expected {}", self.value, self.expected)
    }
}

impl std::error::Error for ConfigError {}

/// Refuses `value` unless it lies in `range`; the message gives the bounds.
///
/// # Errors
///
/// A [`ConfigError`] at `path` when the value is outside the range.
pub fn in_range<T: PartialOrd + fmt::Display>(
    path: &str,
    value: T,
    range: std::ops::RangeInclusive<T>,
) -> Result<T, ConfigError> {
    if range.contains(&value) {
        return Ok(value);
    }
    let expected = format!("{} to {}", range.start(), range.end());
    Err(ConfigError::new(path, value, expected))
}

/// Refuses a duration outside `range`; the message gives the bounds as they are written in a file.
///
/// # Errors
///
/// A [`ConfigError`] at `path` when the duration is outside the range.
pub fn duration_in_range(
    path: &str,
    value: Duration,
    range: std::ops::RangeInclusive<Duration>,
) -> Result<Duration, ConfigError> {
    if range.contains(&value) {
        return Ok(value);
    }
    let expected = format!(
        "{} to {}",
        duration::display(*range.start()),
        duration::display(*range.end())
    );
    Err(ConfigError::new(path, duration::display(value), expected))
}

/// A share from 0 to 1, written as a percentage: `20%`, `0.5%`.
#[derive(Debug, Clone, Copy, PartialEq, PartialOrd, Default)]
pub struct Ratio(f64);

// ===== impl Ratio =====

impl Ratio {
    /// Nothing: 0%.
    pub const ZERO: Self = Self(0.0);
    /// All: 100%.
    pub const ONE: Self = Self(1.0);

    const EXPECTED: &'static str = "a percentage from 0% to 100%";

    /// A whole number of percent. Fails to compile in a `const` when above 100.
    ///
    /// # Panics
    ///
    /// If `percent` is above 100.
    pub const fn percent(percent: u8) -> Self {
        assert!(percent <= 100, "a ratio is at most 100%");
        Self(percent as f64 / 100.0)
    }

    /// A share from 0.0 to 1.0.
    ///
    /// # Errors
    ///
    /// A [`ConfigError`] when `share` is outside, or not a number.
    pub fn new(share: f64) -> Result<Self, ConfigError> {
        if (0.0..=1.0).contains(&share) {
            return Ok(Self(share));
        }
        Err(ConfigError::new(
            "",
            format_args!("{}%", share * 100.0),
            Self::EXPECTED,
        ))
    }

    /// The share, from 0.0 to 1.0.
    pub const fn as_f64(self) -> f64 {
        self.0
    }

    /// This share of `n`, rounded down.
    pub fn of(self, n: usize) -> usize {
        // The small term keeps 0.29 * 100 at 29: the product is a hair below the whole number.
        (self.0 * n as f64 + 1e-9).floor() as usize
    }
}

impl fmt::Display for Ratio {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Rounded to a millionth of a percent, so that 29% is not shown as 28.999999999999996%.
        write!(f, "{}%", (self.0 * 1e8).round() / 1e6)
    }
}

impl FromStr for Ratio {
    type Err = ConfigError;

    fn from_str(text: &str) -> Result<Self, ConfigError> {
        let refused = || ConfigError::new("", text, Self::EXPECTED);
        let number = text
            .trim()
            .strip_suffix('%')
            .ok_or_else(refused)?
            .trim_end();
        if !number.starts_with(|c: char| c.is_ascii_digit()) {
            return Err(refused()); // `+5%`, `inf%` and `NaN%` would parse as floats
        }
        let percent: f64 = number.parse().map_err(|_| refused())?;
        Self::new(percent / 100.0).map_err(|_| refused())
    }
}

impl Serialize for Ratio {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Ratio {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserialize_text(deserializer, Self::EXPECTED)
    }
}

/// Durations as they are written in a file: `600ms`, `1.5s`, `1m30s`.
///
/// Units are `ns`, `us`, `ms`, `s`, `m`, `h`, largest first, and every number needs one (a bare `0`
/// is the exception). Use it on a field with `#[serde(with = "tower_mesh_layers::config::duration")]`.
pub mod duration {
    use super::{ConfigError, Deserializer, Duration, Serializer, fmt};

    const EXPECTED: &str = "a duration such as `600ms`, `1.5s` or `1m30s`";
    /// Largest first: a text must name them in this order.
    const UNITS: [(&str, u64); 6] = [
        ("h", 3_600_000_000_000),
        ("m", 60_000_000_000),
        ("s", 1_000_000_000),
        ("ms", 1_000_000),
        ("us", 1_000),
        ("ns", 1),
    ];

    /// Parses a duration.
    ///
    /// # Errors
    ///
    /// A [`ConfigError`] when a number has no unit, a unit is unknown, repeated or out of order, or
    /// the sum does not fit 584 years.
    pub fn parse(text: &str) -> Result<Duration, ConfigError> {
        parse_nanos(text.trim())
            .map(Duration::from_nanos)
            .ok_or_else(|| ConfigError::new("", text, EXPECTED))
    }

    fn parse_nanos(mut rest: &str) -> Option<u64> {
        if rest == "0" {
            return Some(0);
        }
        let (mut total, mut next_unit, mut any) = (0_u64, 0, false);
        while !rest.is_empty() {
            let digits = rest.find(|c: char| !c.is_ascii_digit() && c != '.')?;
            let (number, tail) = rest.split_at(digits);
            let unit_len = tail
                .find(|c: char| !c.is_ascii_alphabetic())
                .unwrap_or(tail.len());
            let (unit, tail) = tail.split_at(unit_len);
            let at = UNITS.iter().position(|(name, _)| *name == unit)?;
            if at < next_unit {
                return None;
            }
            total = total.checked_add(scale(number, UNITS[at].1)?)?;
            (next_unit, any, rest) = (at + 1, true, tail);
        }
        any.then_some(total)
    }

    /// `number` (digits, at most one point) times `unit`, exactly; a part below 1 ns is cut off.
    fn scale(number: &str, unit: u64) -> Option<u64> {
        let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
        if whole.is_empty() || number.ends_with('.') || fraction.contains('.') {
            return None;
        }
        let mut total = whole.parse::<u64>().ok()?.checked_mul(unit)?;
        let mut place = unit;
        for digit in fraction.bytes() {
            place /= 10;
            total = total.checked_add(u64::from(digit - b'0') * place)?;
        }
        Some(total)
    }

    /// Shows a duration in the form that [`parse`] reads.
    pub fn display(duration: Duration) -> impl fmt::Display {
        struct Display(Duration);
        impl fmt::Display for Display {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                let mut nanos = u64::try_from(self.0.as_nanos()).unwrap_or(u64::MAX);
                if nanos == 0 {
                    return f.write_str("0s");
                }
                for (unit, size) in UNITS {
                    if nanos >= size {
                        write!(f, "{}{unit}", nanos / size)?;
                        nanos %= size;
                    }
                }
                Ok(())
            }
        }
        Display(duration)
    }

    /// For `#[serde(with = ...)]`.
    ///
    /// # Errors
    ///
    /// Those of the serializer.
    pub fn serialize<S: Serializer>(duration: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&display(*duration))
    }

    /// For `#[serde(with = ...)]`.
    ///
    /// # Errors
    ///
    /// When the text is not a duration.
    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Duration, D::Error> {
        super::deserialize_with(deserializer, EXPECTED, parse)
    }

    /// The same for an optional field (add `#[serde(default)]`).
    pub mod option {
        use super::{Deserializer, Duration, Serializer, display};

        /// For `#[serde(with = ...)]`.
        ///
        /// # Errors
        ///
        /// Those of the serializer.
        pub fn serialize<S: Serializer>(
            duration: &Option<Duration>,
            serializer: S,
        ) -> Result<S::Ok, S::Error> {
            match duration {
                Some(duration) => serializer.collect_str(&display(*duration)),
                None => serializer.serialize_none(),
            }
        }

        /// For `#[serde(with = ...)]`.
        ///
        /// # Errors
        ///
        /// When the text is not a duration.
        pub fn deserialize<'de, D: Deserializer<'de>>(
            deserializer: D,
        ) -> Result<Option<Duration>, D::Error> {
            #[derive(serde::Deserialize)]
            struct Text(#[serde(with = "super")] Duration);
            let value = <Option<Text> as serde::Deserialize>::deserialize(deserializer)?;
            Ok(value.map(|text| text.0))
        }
    }
}

/// Deserializes any scalar that is written as text and parsed by [`FromStr`].
pub(crate) fn deserialize_text<'de, T, D>(
    deserializer: D,
    expected: &'static str,
) -> Result<T, D::Error>
where
    T: FromStr<Err = ConfigError>,
    D: Deserializer<'de>,
{
    deserialize_with(deserializer, expected, T::from_str)
}

fn deserialize_with<'de, T, D>(
    deserializer: D,
    expected: &'static str,
    parse: fn(&str) -> Result<T, ConfigError>,
) -> Result<T, D::Error>
where
    D: Deserializer<'de>,
{
    struct Visitor<T>(&'static str, fn(&str) -> Result<T, ConfigError>);

    impl<T> de::Visitor<'_> for Visitor<T> {
        type Value = T;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str(self.0)
        }

        fn visit_str<E: de::Error>(self, text: &str) -> Result<T, E> {
            (self.1)(text).map_err(E::custom)
        }

        // A bare number has no unit, so it is refused; `0` is the one that needs none.
        fn visit_u64<E: de::Error>(self, number: u64) -> Result<T, E> {
            (self.1)(&number.to_string()).map_err(E::custom)
        }

        fn visit_i64<E: de::Error>(self, number: i64) -> Result<T, E> {
            (self.1)(&number.to_string()).map_err(E::custom)
        }

        fn visit_f64<E: de::Error>(self, number: f64) -> Result<T, E> {
            (self.1)(&number.to_string()).map_err(E::custom)
        }
    }

    deserializer.deserialize_any(Visitor(expected, parse))
}

#[cfg(test)]
mod tests;
