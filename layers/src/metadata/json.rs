//! The JSON of `x-cse-context`: one object, whose values are strings.

use std::fmt::{self, Write};

use serde::de::{Deserializer, MapAccess, Visitor};

/// The keys and values of an object, in order; `None` unless the text is just that: no other kinds of
/// values, no key twice, nothing behind it.
pub(super) fn read(text: &[u8]) -> Option<Vec<(String, String)>> {
    let mut deserializer = serde_json::Deserializer::from_slice(text);
    let entries = deserializer.deserialize_map(Object).ok()?;
    deserializer.end().ok()?;
    Some(entries)
}

struct Object;

impl<'de> Visitor<'de> for Object {
    type Value = Vec<(String, String)>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object of strings")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        /// More is not metadata but a body; and to find a key twice takes the square of it.
        const MOST: usize = 256;
        let mut entries: Self::Value = Vec::new();
        while let Some((key, value)) = map.next_entry::<String, String>()? {
            if entries.len() == MOST || entries.iter().any(|(other, _)| *other == key) {
                return Err(serde::de::Error::custom("not an entry of its own"));
            }
            entries.push((key, value));
        }
        Ok(entries)
    }
}

/// Writes such an object, in printable ASCII: a header has room for nothing else.
pub(super) struct Writer(String);

// ===== impl Writer =====

impl Writer {
    pub(super) fn new() -> Self {
        Self(String::new())
    }

    pub(super) fn entry(&mut self, key: &str, value: &str) {
        self.0.push(if self.0.is_empty() { '{' } else { ',' });
        self.string(key);
        self.0.push(':');
        self.string(value);
    }

    fn string(&mut self, text: &str) {
        self.0.push('"');
        for char in text.chars() {
            match char {
                '"' | '\\' => self.0.extend(['\\', char]),
                ' '..='~' => self.0.push(char),
                _ => {
                    for unit in char.encode_utf16(&mut [0; 2]) {
                        write!(self.0, "\\u{unit:04x}").expect("writing to a string cannot fail");
                    }
                }
            }
        }
        self.0.push('"');
    }

    /// The object; `None` without entries.
    pub(super) fn finish(mut self) -> Option<String> {
        (!self.0.is_empty()).then(|| {
            self.0.push('}');
            self.0
        })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn only_an_object_of_strings_is_read() {
        for (text, expected) in [
            ("{}", Some(&[][..])),
            (r#"{"a":"1","b":"2"}"#, Some(&[("a", "1"), ("b", "2")])),
            (r#" { "a" : "\u00e9\"" } "#, Some(&[("a", "é\"")])),
            (r#"{"a":"1","a":"2"}"#, None),
            (r#"{"a":1}"#, None),
            (r#"{"a":null}"#, None),
            (r#"{"a":{"b":"1"}}"#, None),
            (r#"{"a":"1"} x"#, None),
            (r#"{"a":"1"}{"b":"2"}"#, None),
            (r#"{"a":"1""#, None),
            (r#"{"a":'1'}"#, None),
            (r#"{"a":"\ud800"}"#, None),
            (r#"["a"]"#, None),
            (r#""a""#, None),
            ("", None),
            ("\u{feff}{}", None),
        ] {
            let expected = expected.map(|entries| {
                let owned = entries
                    .iter()
                    .map(|(key, value)| (key.to_string(), value.to_string()));
                owned.collect::<Vec<_>>()
            });
            assert_eq!(read(text.as_bytes()), expected, "{text}");
        }
        assert_eq!(read(b"{\"a\":\"\xff\"}"), None);
        let deep = "[".repeat(100_000);
        assert_eq!(read(deep.as_bytes()), None);
        let many: Vec<_> = (0..257).map(|n| format!("\"{n}\":\"\"")).collect();
        assert_eq!(read(format!("{{{}}}", many.join(",")).as_bytes()), None);
        assert!(read(format!("{{{}}}", many[1..].join(",")).as_bytes()).is_some());
    }

    proptest! {
        #[test]
        fn what_is_written_reads_back_and_fits_into_a_header(
            entries in proptest::collection::btree_map(".{0,12}", ".{0,24}", 1..8),
        ) {
            let mut writer = Writer::new();
            for (key, value) in &entries {
                writer.entry(key, value);
            }
            let text = writer.finish().unwrap();
            prop_assert!(http::HeaderValue::try_from(&text).is_ok());
            prop_assert!(text.is_ascii());
            let mut read = read(text.as_bytes()).unwrap();
            read.sort();
            prop_assert_eq!(read, entries.into_iter().collect::<Vec<_>>());
        }

        #[test]
        fn no_bytes_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200), text in "[{}\\[\\]\",:a\\\\u0-9 ]{0,80}") {
            read(&bytes);
            read(text.as_bytes());
        }
    }
}
