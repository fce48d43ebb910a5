//! The header: what is a key, and what is not.
//!
//! The draft has a Structured Fields String, `"8e03978e-.."`. Much of what is sent comes from clients of APIs that want it
//! bare, `8e03978e-..`. Both are read, and are the same key.

use std::{fmt, hash::Hasher};

use http::{HeaderMap, HeaderValue};

use crate::vocab::idempotent::KEY;

/// Stripe's limit: seven times a UUID.
pub(super) const LONGEST: usize = 255;

/// How much of a malformed value is shown to who sent it.
const SHOWN: usize = 64;

/// A key as it was sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct IdempotencyKey<'a> {
    /// Between the quotes, if there are any.
    text: &'a [u8],
    is_quoted: bool,
}

/// What cannot be a key.
#[derive(Debug, Clone, Copy)]
pub(super) enum Malformed<'a> {
    Value(&'a HeaderValue),
    /// More than one line: as a list, which the header is not.
    Repeated,
}

/// The key of a request that has the header.
pub(super) fn find(headers: &HeaderMap) -> Result<IdempotencyKey<'_>, Malformed<'_>> {
    let mut lines = headers.get_all(&KEY).iter();
    match (lines.next(), lines.next()) {
        (Some(value), None) => {
            IdempotencyKey::parse(value.as_bytes()).ok_or(Malformed::Value(value))
        }
        _ => Err(Malformed::Repeated),
    }
}

// ===== impl IdempotencyKey =====

impl<'a> IdempotencyKey<'a> {
    pub(super) fn parse(value: &'a [u8]) -> Option<Self> {
        let value = value.trim_ascii();
        let key = match value.strip_prefix(b"\"") {
            Some(rest) => Self::quoted(rest)?,
            None => Self::bare(value)?,
        };
        (1..=LONGEST).contains(&key.bytes().count()).then_some(key)
    }

    /// What follows the opening quote: RFC 8941, section 3.3.3, and parameters (section 3.1.2), which mean nothing here.
    fn quoted(rest: &'a [u8]) -> Option<Self> {
        let (text, parameters) = string(rest)?;
        are_parameters(parameters).then_some(Self {
            text,
            is_quoted: true,
        })
    }

    /// Without what would make it a list, a string or a value with parameters.
    fn bare(text: &'a [u8]) -> Option<Self> {
        let fits = |byte: &u8| byte.is_ascii_graphic() && !b"\",;\\".contains(byte);
        text.iter().all(fits).then_some(Self {
            text,
            is_quoted: false,
        })
    }

    /// The key itself.
    pub(super) fn bytes(self) -> impl Iterator<Item = u8> + 'a {
        let mut text = self.text.iter().copied();
        std::iter::from_fn(move || match text.next()? {
            b'\\' if self.is_quoted => text.next(),
            byte => Some(byte),
        })
    }

    pub(super) fn hash(self, hasher: &mut impl Hasher) {
        let mut key = [0; LONGEST];
        let mut length = 0;
        for (at, byte) in key.iter_mut().zip(self.bytes()) {
            *at = byte;
            length += 1;
        }
        hasher.write_usize(length);
        hasher.write(&key[..length]);
    }
}

/// A string whose opening quote is gone, and what follows it.
fn string(rest: &[u8]) -> Option<(&[u8], &[u8])> {
    let mut bytes = rest.iter().enumerate();
    while let Some((at, byte)) = bytes.next() {
        match byte {
            b'"' => return Some((&rest[..at], &rest[at + 1..])),
            b'\\' => {
                bytes
                    .next()
                    .filter(|(_, escaped)| b"\"\\".contains(escaped))?;
            }
            b' '..=b'~' => {}
            _ => return None,
        }
    }
    None
}

/// `;name`, `;name=value` and so on. A value that is no string is any run of what is in numbers, tokens, binary data.
fn are_parameters(mut rest: &[u8]) -> bool {
    let run =
        |text: &[u8], fits: fn(&u8) -> bool| text.iter().take_while(|&byte| fits(byte)).count();
    while let Some(parameter) = rest.strip_prefix(b";") {
        let parameter = parameter.trim_ascii_start();
        let name = run(parameter, |byte| {
            byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"*_-.".contains(byte)
        });
        if name == 0 || !(parameter[0].is_ascii_lowercase() || parameter[0] == b'*') {
            return false;
        }
        rest = &parameter[name..];
        let Some(value) = rest.strip_prefix(b"=") else {
            continue;
        };
        if let Some(text) = value.strip_prefix(b"\"") {
            let Some((_, after)) = string(text) else {
                return false;
            };
            rest = after;
            continue;
        }
        let length = run(value, |byte| {
            byte.is_ascii_graphic() && !b"\",;\\".contains(byte)
        });
        if length == 0 {
            return false;
        }
        rest = &value[length..];
    }
    rest.is_empty()
}

// ===== impl Malformed =====

impl fmt::Display for Malformed<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the header `{}` ", KEY.as_str())?;
        match self {
            Self::Value(value) => {
                let bytes = value.as_bytes();
                let (shown, more) = match bytes.get(..SHOWN) {
                    Some(start) if bytes.len() > SHOWN => (start, ".."),
                    _ => (bytes, ""),
                };
                write!(f, "is `{}{more}`", shown.escape_ascii())?;
            }
            Self::Repeated => f.write_str("is there more than once")?,
        }
        write!(f, ", allowed is {}", Allowed)
    }
}

/// What the header may be.
pub(super) struct Allowed;

impl fmt::Display for Allowed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "one string of 1 to {LONGEST} printable ASCII characters: `\"8e03978e-40d5-43dd-bc93-6894a57f9324\"`, or the \
             same without quotes if there is none of ` \",;\\` in it"
        )
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn parse(value: &str) -> Option<String> {
        let key = IdempotencyKey::parse(value.as_bytes())?;
        Some(String::from_utf8(key.bytes().collect()).unwrap())
    }

    #[test]
    fn a_key_may_be_quoted_or_not() {
        for (value, key) in [
            (r#""8e03978e-40d5""#, "8e03978e-40d5"),
            ("8e03978e-40d5", "8e03978e-40d5"),
            (r#" "a" "#, "a"),
            (r#""a b""#, "a b"),
            (r#""a\"b\\c""#, r#"a"b\c"#),
            (r#""a,b;c""#, "a,b;c"),
            (r#""a";b"#, "a"),
            (r#""a"; b=1;c="d;\"e";*f=?0;g=:aGk=:;h=t/u"#, "a"),
            ("KG5LxwFBepaKHyUD", "KG5LxwFBepaKHyUD"),
            ("a/b+c==", "a/b+c=="),
        ] {
            assert_eq!(parse(value).as_deref(), Some(key), "{value}");
        }
    }

    #[test]
    fn what_is_no_key_is_refused() {
        for value in [
            "",
            " ",
            r#""""#,
            r#"""#,
            r#""a"#,
            r#""a"b"#,
            r#""a" ;b"#,
            r#""a", "b""#,
            "a, b",
            "a b",
            "a;b",
            r#"a"b"#,
            r#""a\b""#,
            r#""a\"#,
            r#""a";"#,
            r#""a";B"#,
            r#""a";b="#,
            r#""a";b="c"#,
            "\"ä\"",
            "ä",
            "\"\t\"",
        ] {
            assert_eq!(parse(value), None, "{value}");
        }
        assert!(parse(&"a".repeat(LONGEST)).is_some());
        assert!(parse(&"a".repeat(LONGEST + 1)).is_none());
        assert!(parse(&format!("\"{}\"", r#"\""#.repeat(LONGEST))).is_some());
    }

    #[test]
    fn a_refusal_names_header_value_and_what_is_allowed() {
        let long = HeaderValue::from_str(&format!("{}, b", "a".repeat(100))).unwrap();
        let text = Malformed::Value(&long).to_string();
        assert!(
            text.starts_with("the header `idempotency-key` is `aaaa"),
            "{text}"
        );
        assert!(
            text.contains("a..`, allowed is one string of 1 to 255"),
            "{text}"
        );
    }

    proptest! {
        #[test]
        fn whatever_is_written_as_a_string_is_read_as_it_was(key in "[ -~]{1,255}") {
            let written = format!("\"{}\"", key.replace('\\', r"\\").replace('"', r#"\""#));
            prop_assert_eq!(parse(&written), Some(key));
        }
    }
}
