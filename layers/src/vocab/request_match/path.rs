//! Comparing the path.

use regex::bytes::Regex;

use super::{super::config::ConfigError, config::PathMatch, value::full_match};

#[derive(Debug)]
pub(super) enum Path {
    Exact(Box<str>),
    /// Without a `/` at its end.
    Prefix(Box<str>),
    Regex(Regex),
}

// ===== impl Path =====

impl Path {
    pub(super) fn compile(config: &PathMatch) -> Result<Self, ConfigError> {
        Ok(match config {
            PathMatch::Exact(path) => Self::Exact(plain("exact", path)?.into()),
            PathMatch::PathPrefix(prefix) => {
                let prefix = plain("pathPrefix", prefix)?;
                Self::Prefix(prefix.strip_suffix('/').unwrap_or(prefix).into())
            }
            PathMatch::Regex(pattern) => {
                Self::Regex(full_match(pattern, false).map_err(|error| error.at("regex"))?)
            }
        })
    }

    pub(super) fn matches(&self, path: &str) -> bool {
        match self {
            Self::Exact(exact) => path == &**exact,
            Self::Prefix(prefix) => path
                .strip_prefix(&**prefix)
                // What follows must be a border; `/` as a prefix is all borders, and is not `*`.
                .is_some_and(|rest| rest.starts_with('/') || rest.is_empty() && !prefix.is_empty()),
            Self::Regex(regex) => regex.is_match(path.as_bytes()),
        }
    }
}

/// Refuses a path that a router would not dispatch as it is written; Gateway API refuses the same.
fn plain<'a>(field: &str, path: &'a str) -> Result<&'a str, ConfigError> {
    let lower = path.to_ascii_lowercase();
    let odd = ["//", "/./", "/../", "%2f", "?", "#"]
        .iter()
        .any(|odd| lower.contains(odd))
        || ["/.", "/.."].iter().any(|odd| lower.ends_with(odd))
        || !path.bytes().all(|byte| byte.is_ascii_graphic());
    if odd || !path.starts_with('/') {
        let expected = "a path that begins with `/`, without empty or dot segments, encoded \
                        slashes, query or fragment, other characters percent-encoded";
        return Err(ConfigError::new(field, path, expected));
    }
    Ok(path)
}
