//! Numbers of bytes.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::ConfigError;

/// A number of bytes, written `64KiB`, `1MiB`, or as a plain number.
///
/// Units are `B`, `KiB`, `MiB`, `GiB` and `TiB`, powers of 1024. `KB`, `MB` and their like are refused: they mean 1000
/// to some and 1024 to others.
///
/// ```
/// use tower_mesh_layers::config::ByteSize;
///
/// let limit: ByteSize = "64KiB".parse()?;
/// assert_eq!(limit.bytes(), 65_536);
/// assert_eq!(limit.to_string(), "64KiB");
/// assert!("64KB".parse::<ByteSize>().is_err());
/// # Ok::<(), tower_mesh_layers::ConfigError>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct ByteSize(u64);

// ===== impl ByteSize =====

impl ByteSize {
    const EXPECTED: &'static str =
        "a number of bytes, such as `65536`, `64KiB` or `1MiB` (units B, KiB, MiB, GiB, TiB)";
    /// Largest first.
    const UNITS: [(&'static str, u64); 5] = [
        ("TiB", 1 << 40),
        ("GiB", 1 << 30),
        ("MiB", 1 << 20),
        ("KiB", 1 << 10),
        ("B", 1),
    ];

    /// So many bytes.
    pub const fn new(bytes: u64) -> Self {
        Self(bytes)
    }

    /// So many times 1,024 bytes, at most [`u64::MAX`] bytes.
    pub const fn kib(number: u64) -> Self {
        Self(number.saturating_mul(1 << 10))
    }

    /// So many times 1,048,576 bytes, at most [`u64::MAX`] bytes.
    pub const fn mib(number: u64) -> Self {
        Self(number.saturating_mul(1 << 20))
    }

    /// How many bytes.
    pub const fn bytes(self) -> u64 {
        self.0
    }

    fn parse(text: &str) -> Option<Self> {
        let digits = text.bytes().take_while(u8::is_ascii_digit).count();
        let (number, unit) = text.split_at(digits);
        let number: u64 = number.parse().ok()?;
        if unit.is_empty() {
            return Some(Self(number));
        }
        let known = Self::UNITS.iter().find(|(name, _)| *name == unit)?;
        number.checked_mul(known.1).map(Self)
    }
}

impl fmt::Display for ByteSize {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let fits = |(_, size): &&(_, u64)| self.0 >= *size && self.0.is_multiple_of(*size);
        match Self::UNITS.iter().find(fits) {
            Some((unit, size)) => write!(f, "{}{unit}", self.0 / size),
            None => f.write_str("0B"),
        }
    }
}

impl FromStr for ByteSize {
    type Err = ConfigError;

    fn from_str(text: &str) -> Result<Self, ConfigError> {
        Self::parse(text.trim()).ok_or_else(|| ConfigError::new("", text, Self::EXPECTED))
    }
}

impl Serialize for ByteSize {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for ByteSize {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        super::deserialize_text(deserializer, Self::EXPECTED)
    }
}

#[cfg(feature = "schema")]
impl schemars::JsonSchema for ByteSize {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "ByteSize".into()
    }

    fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
        schemars::json_schema!({
            "description": "A number of bytes; units are powers of 1024.",
            "anyOf": [
                {
                    "type": "string",
                    "pattern": "^[0-9]+(B|KiB|MiB|GiB|TiB)?$",
                    "examples": ["64KiB", "1MiB"],
                },
                { "type": "integer", "minimum": 0 },
            ],
        })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn sizes_parse_as_written() {
        for (text, bytes) in [
            ("0", 0),
            ("65536", 65_536),
            ("1B", 1),
            ("64KiB", 65_536),
            (" 1MiB ", 1 << 20),
            ("2GiB", 2 << 30),
            ("3TiB", 3 << 40),
            ("18446744073709551615", u64::MAX),
        ] {
            assert_eq!(text.parse::<ByteSize>().unwrap().bytes(), bytes, "{text}");
        }
    }

    #[test]
    fn sizes_that_could_be_misread_are_refused() {
        for text in [
            "",
            "KiB",
            "1KB",
            "1kB",
            "1MB",
            "1K",
            "1Ki",
            "1kib",
            "1.5MiB",
            "-1",
            "+1",
            "1 MiB",
            "0x10",
            "1MiB2",
            "16777216TiB",
            "18446744073709551616",
        ] {
            let error = text.parse::<ByteSize>().unwrap_err();
            assert_eq!(
                (error.value(), error.expected()),
                (text, ByteSize::EXPECTED)
            );
        }
    }

    proptest! {
        #[test]
        fn a_size_reads_back_as_written(bytes: u64, shift in 0..50_u32) {
            let size = ByteSize::new(bytes >> shift << (shift / 2));
            prop_assert_eq!(size.to_string().parse::<ByteSize>().unwrap(), size);
        }

        #[test]
        fn no_text_panics(text in "\\PC{0,12}") {
            let _ = text.parse::<ByteSize>();
        }
    }
}
