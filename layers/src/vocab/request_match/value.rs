//! Comparing the values of headers, query parameters and metadata.

use regex::bytes::{Regex, RegexBuilder};

use super::{
    super::config::ConfigError,
    config::{StringMatch, ValueMatch},
};

/// The most that one compiled regex may take, in bytes.
const REGEX_SIZE: usize = 1 << 20;

#[derive(Debug)]
pub(super) struct Value {
    comparison: Comparison,
    ignore_case: bool,
}

#[derive(Debug)]
enum Comparison {
    In(Vec<Box<[u8]>>),
    Prefix(Box<[u8]>),
    Suffix(Box<[u8]>),
    Contains(Box<[u8]>),
    Regex(Regex),
    Present,
    Absent,
}

// ===== impl Value =====

impl Value {
    pub(super) fn compile(config: &ValueMatch) -> Result<Self, ConfigError> {
        let ignore_case = config.ignore_case;
        let comparison = match &config.value {
            StringMatch::Exact(value) => Comparison::In(vec![bytes(value)]),
            StringMatch::In(values) if values.is_empty() => {
                return Err(ConfigError::new("in", "[]", "at least one value"));
            }
            StringMatch::In(values) => Comparison::In(values.iter().map(bytes).collect()),
            StringMatch::Prefix(part) => Comparison::Prefix(not_empty("prefix", part)?),
            StringMatch::Suffix(part) => Comparison::Suffix(not_empty("suffix", part)?),
            StringMatch::Contains(part) => Comparison::Contains(not_empty("contains", part)?),
            StringMatch::Regex(pattern) => Comparison::Regex(
                full_match(pattern, ignore_case).map_err(|error| error.at("regex"))?,
            ),
            StringMatch::Present => Comparison::Present,
            StringMatch::Absent => Comparison::Absent,
        };
        Ok(Self {
            comparison,
            ignore_case,
        })
    }

    /// Whether one of the values compares, or, for `Absent`, there is none.
    pub(super) fn matches<'a>(&self, mut values: impl Iterator<Item = &'a [u8]>) -> bool {
        match &self.comparison {
            Comparison::Absent => values.next().is_none(),
            Comparison::Present => values.next().is_some(),
            _ => values.any(|value| self.compares(value)),
        }
    }

    fn compares(&self, value: &[u8]) -> bool {
        match &self.comparison {
            Comparison::In(all) => all.iter().any(|one| self.equal(value, one)),
            Comparison::Prefix(prefix) => value
                .split_at_checked(prefix.len())
                .is_some_and(|(start, _)| self.equal(start, prefix)),
            Comparison::Suffix(suffix) => value
                .len()
                .checked_sub(suffix.len())
                .is_some_and(|start| self.equal(&value[start..], suffix)),
            Comparison::Contains(part) => value
                .windows(part.len())
                .any(|window| self.equal(window, part)),
            Comparison::Regex(regex) => regex.is_match(value),
            Comparison::Present => true,
            Comparison::Absent => false,
        }
    }

    fn equal(&self, a: &[u8], b: &[u8]) -> bool {
        if self.ignore_case {
            a.eq_ignore_ascii_case(b)
        } else {
            a == b
        }
    }
}

fn bytes(text: &String) -> Box<[u8]> {
    text.as_bytes().into()
}

/// An empty part is in every value; whoever wants that writes `present: true`.
fn not_empty(field: &str, part: &String) -> Result<Box<[u8]>, ConfigError> {
    if part.is_empty() {
        return Err(ConfigError::new(field, part, "at least one character"));
    }
    Ok(bytes(part))
}

/// Compiles a regex that must match the whole text.
pub(super) fn full_match(pattern: &str, ignore_case: bool) -> Result<Regex, ConfigError> {
    let compile = |pattern: &str| {
        RegexBuilder::new(pattern)
            .case_insensitive(ignore_case)
            .size_limit(REGEX_SIZE)
            .build()
    };
    // On its own first: `a)|(b` is no pattern, though it would be one inside the parentheses.
    compile(pattern)
        .and_then(|_| compile(&format!(r"\A(?:{pattern})\z")))
        .map_err(|error| ConfigError::new("", pattern, format!("a regular expression: {error}")))
}
