//! Whose call it is: the hash of a header or a cookie.

use std::hash::Hasher;

use http::{HeaderMap, HeaderName, header};
use twox_hash::XxHash64;

use super::config::{StickyConfig, StickyKey};
use crate::vocab::config::ConfigError;

/// Where callers are named, and with what they are mixed.
#[derive(Debug)]
pub(super) struct Identify {
    keys: Box<[Source]>,
    /// Has seen the salt.
    salted: XxHash64,
}

#[derive(Debug)]
enum Source {
    Header(HeaderName),
    Cookie(Box<[u8]>),
}

/// XXH64 with the seed 0: the same in every process and every language.
pub(super) fn hash_of(text: &str) -> u64 {
    XxHash64::oneshot(0, text.as_bytes())
}

// ===== impl Identify =====

impl Identify {
    pub(super) fn compile(config: &StickyConfig, rule: &str) -> Result<Self, ConfigError> {
        if config.key.is_empty() {
            return Err(ConfigError::new(
                "key",
                "[]",
                "at least one header or cookie",
            ));
        }
        let keys = config.key.iter().enumerate().map(|(at, key)| {
            Source::compile(key).map_err(|error| error.at(format_args!("key[{at}]")))
        });
        let mut salted = XxHash64::with_seed(0);
        salted.write(config.salt.as_deref().unwrap_or(rule).as_bytes());
        Ok(Self {
            keys: keys.collect::<Result<_, _>>()?,
            salted,
        })
    }

    /// The hash of the salt and the first key that is there.
    pub(super) fn hash(&self, headers: &HeaderMap) -> Option<u64> {
        let key = self.keys.iter().find_map(|source| source.find(headers))?;
        let mut hasher = self.salted.clone();
        hasher.write(key);
        Some(hasher.finish())
    }
}

// ===== impl Source =====

impl Source {
    fn compile(key: &StickyKey) -> Result<Self, ConfigError> {
        match key {
            StickyKey::Header(name) => match name.parse() {
                Ok(name) => Ok(Self::Header(name)),
                Err(_) => Err(ConfigError::new(
                    "header",
                    name,
                    "the name of an HTTP header",
                )),
            },
            // The characters of a cookie's name are those of a header's (RFC 6265 section 4.1.1).
            StickyKey::Cookie(name) if HeaderName::from_bytes(name.as_bytes()).is_ok() => {
                Ok(Self::Cookie(name.as_bytes().into()))
            }
            StickyKey::Cookie(name) => {
                Err(ConfigError::new("cookie", name, "the name of a cookie"))
            }
        }
    }

    fn find<'a>(&self, headers: &'a HeaderMap) -> Option<&'a [u8]> {
        let value = match self {
            Self::Header(name) => headers.get(name)?.as_bytes(),
            Self::Cookie(name) => cookie(headers, name)?,
        };
        (!value.is_empty()).then_some(value)
    }
}

/// The value of the first cookie with this name. HTTP/2 may send each cookie in a line of its own
/// (RFC 9113 section 8.2.3).
fn cookie<'a>(headers: &'a HeaderMap, name: &[u8]) -> Option<&'a [u8]> {
    headers.get_all(header::COOKIE).iter().find_map(|line| {
        let pairs = line.as_bytes().split(|&byte| byte == b';');
        let mut values = pairs.map(|pair| pair.trim_ascii());
        values.find_map(|pair| pair.strip_prefix(name)?.strip_prefix(b"="))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hash(config: &StickyConfig, lines: &[(&'static str, &str)]) -> Option<u64> {
        let mut headers = HeaderMap::new();
        for (name, value) in lines {
            headers.append(*name, value.parse().unwrap());
        }
        Identify::compile(config, "rule").unwrap().hash(&headers)
    }

    fn user_or_session() -> StickyConfig {
        StickyConfig::header("x-user")
            .or(StickyKey::Cookie("sid".to_owned()))
            .salt("")
    }

    #[test]
    fn it_is_xxh64_over_salt_and_key() {
        // The vectors of the reference implementation.
        assert_eq!(hash_of(""), 0xef46_db37_51d8_e999);
        assert_eq!(hash_of("a"), 0xd24e_c4f1_a98c_6e5b);
        assert_eq!(
            hash(&user_or_session(), &[("x-user", "a")]),
            Some(hash_of("a"))
        );
        let salted = user_or_session().salt("carts-2.0/");
        assert_eq!(
            hash(&salted, &[("x-user", "a")]),
            Some(hash_of("carts-2.0/a"))
        );
        let by_rule = StickyConfig::header("x-user");
        assert_eq!(hash(&by_rule, &[("x-user", "a")]), Some(hash_of("rulea")));
    }

    #[test]
    fn the_first_key_that_is_there_counts() {
        let seven = Some(hash_of("7"));
        let config = user_or_session();
        assert_eq!(hash(&config, &[("cookie", "sid=7")]), seven);
        assert_eq!(
            hash(&config, &[("x-user", "7"), ("cookie", "sid=8")]),
            seven
        );
        assert_eq!(hash(&config, &[("x-user", "7"), ("x-user", "8")]), seven);
        // Empty is missing: or all who are not logged in would be one caller.
        assert_eq!(hash(&config, &[("x-user", ""), ("cookie", "sid=7")]), seven);
        assert_eq!(hash(&config, &[("x-user", ""), ("cookie", "sid=")]), None);
        assert_eq!(hash(&config, &[("cookie", "user=7")]), None);
    }

    #[test]
    fn cookies_are_found_wherever_they_stand() {
        let seven = Some(hash_of("7"));
        let config = user_or_session();
        for line in [
            "sid=7",
            "a=b; sid=7",
            " sid=7 ;a=b",
            "xsid=1; sid=7; sid=8",
            "sid; sid=7",
        ] {
            assert_eq!(hash(&config, &[("cookie", line)]), seven, "{line}");
        }
        assert_eq!(
            hash(&config, &[("cookie", "a=b"), ("cookie", "sid=7")]),
            seven
        );
        for line in ["SID=7", "sid =7", "xsid=7", "sid"] {
            assert_eq!(hash(&config, &[("cookie", line)]), None, "{line}");
        }
    }

    #[test]
    fn a_key_that_cannot_be_there_is_refused() {
        for (config, message) in [
            (
                StickyConfig::default(),
                "key: got `[]`, expected at least one header or cookie",
            ),
            (
                StickyConfig::header("x user"),
                "key[0].header: got `x user`, expected the name of an HTTP header",
            ),
            (
                StickyConfig::header("a").or(StickyKey::Cookie("a=b".to_owned())),
                "key[1].cookie: got `a=b`, expected the name of a cookie",
            ),
        ] {
            assert_eq!(
                Identify::compile(&config, "").unwrap_err().to_string(),
                message
            );
        }
    }
}
