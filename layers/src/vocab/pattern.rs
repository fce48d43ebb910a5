//! Names with a `*` at one end: `checkout`, `spiffe://mesh/*`, `*.shop.internal`, `*`.

use std::fmt;

use super::config::ConfigError;

/// A name, or the names that begin or end with something. The `*` stands for at least one byte.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Pattern {
    Any,
    Exact(Box<str>),
    Prefix(Box<str>),
    Suffix(Box<str>),
}

// ===== impl Pattern =====

impl Pattern {
    /// Reads a pattern.
    ///
    /// # Errors
    ///
    /// A [`ConfigError`] when the text is empty, or has a `*` anywhere but at one end.
    pub(crate) fn parse(text: &str) -> Result<Self, ConfigError> {
        let pattern = match (text.strip_prefix('*'), text.strip_suffix('*')) {
            _ if text == "*" => Self::Any,
            (Some(suffix), None) => Self::Suffix(suffix.into()),
            (None, Some(prefix)) => Self::Prefix(prefix.into()),
            _ => Self::Exact(text.into()),
        };
        match pattern {
            Self::Any => Ok(pattern),
            Self::Exact(ref name) | Self::Prefix(ref name) | Self::Suffix(ref name)
                if !name.is_empty() && !name.contains('*') =>
            {
                Ok(pattern)
            }
            _ => {
                let expected = "a name, `prefix*`, `*suffix` or `*`";
                Err(ConfigError::new("", text, expected))
            }
        }
    }

    pub(crate) fn matches(&self, name: &[u8]) -> bool {
        self.matches_by(name, |a, b| a == b)
    }

    pub(crate) fn matches_ignore_case(&self, name: &[u8]) -> bool {
        self.matches_by(name, |a, b| a.eq_ignore_ascii_case(b))
    }

    fn matches_by(&self, name: &[u8], equal: impl Fn(&[u8], &[u8]) -> bool) -> bool {
        match self {
            Self::Any => !name.is_empty(),
            Self::Exact(exact) => equal(name, exact.as_bytes()),
            Self::Prefix(prefix) => {
                name.len() > prefix.len() && equal(&name[..prefix.len()], prefix.as_bytes())
            }
            Self::Suffix(suffix) => {
                name.len() > suffix.len()
                    && equal(&name[name.len() - suffix.len()..], suffix.as_bytes())
            }
        }
    }
}

impl fmt::Display for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Any => f.write_str("*"),
            Self::Exact(exact) => f.write_str(exact),
            Self::Prefix(prefix) => write!(f, "{prefix}*"),
            Self::Suffix(suffix) => write!(f, "*{suffix}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_star_stands_for_something() {
        for (pattern, name, expected) in [
            ("checkout", "checkout", true),
            ("checkout", "Checkout", false),
            ("checkout", "checkout2", false),
            ("check*", "checkout", true),
            ("check*", "check", false),
            ("*out", "checkout", true),
            ("*out", "out", false),
            ("*", "checkout", true),
            ("*", "", false),
        ] {
            let pattern = Pattern::parse(pattern).unwrap();
            assert_eq!(
                pattern.matches(name.as_bytes()),
                expected,
                "{pattern:?} {name}"
            );
        }
        assert!(
            Pattern::parse("*.Shop")
                .unwrap()
                .matches_ignore_case(b"A.sHOP")
        );
    }

    #[test]
    fn a_star_elsewhere_is_refused() {
        for text in ["", "**", "*a*", "a*b", "a**"] {
            assert_eq!(Pattern::parse(text).unwrap_err().value(), text);
        }
    }
}
