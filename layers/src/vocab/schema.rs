//! JSON Schemas of what configurations are written in.
//!
//! The configurations derive [`JsonSchema`]; what is written as text has its schema by hand, here or
//! beside its parser. A schema knows shapes: types, fields, patterns and fixed bounds. What one field says
//! of another, and the bounds of durations, only `validate` knows.

use std::borrow::Cow;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};

use super::{config::Ratio, trust::Cidr};

/// A duration, for fields whose type has no schema of its own:
/// `#[schemars(with = "tower_mesh_layers::schema::Duration")]`.
#[derive(Debug)]
#[non_exhaustive]
pub struct Duration;

/// A name with a `*` at one end or none.
pub(crate) struct Pattern;

/// One HTTP method, or a list of them.
pub(crate) struct Methods;

impl Duration {
    /// The pattern of a duration, as a part of larger ones.
    pub(crate) const PATTERN: &'static str = r"([0-9]+(\.[0-9]+)?(h|ms|m|s|us|ns))+";
}

impl JsonSchema for Duration {
    fn schema_name() -> Cow<'static, str> {
        "Duration".into()
    }

    // Not that of `std::time::Duration`, which has the same name.
    fn schema_id() -> Cow<'static, str> {
        concat!(module_path!(), "::Duration").into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "description": "A time with its units (`h`, `m`, `s`, `ms`, `us`, `ns`; largest first), or 0.",
            "anyOf": [
                {
                    "type": "string",
                    "pattern": format!("^(0|{})$", Self::PATTERN),
                    "examples": ["600ms", "1.5s", "1m30s"],
                },
                { "const": 0 },
            ],
        })
    }
}

impl JsonSchema for Ratio {
    fn schema_name() -> Cow<'static, str> {
        "Ratio".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "description": "A share, as a percentage from 0% to 100%.",
            "type": "string",
            "pattern": r"^(100(\.0+)?|[0-9]{1,2}(\.[0-9]+)?) *%$",
            "examples": ["20%", "0.5%"],
        })
    }
}

impl JsonSchema for Cidr {
    fn schema_name() -> Cow<'static, str> {
        "Cidr".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "description": "An address, or a range of addresses.",
            "type": "string",
            "pattern": "^[0-9A-Fa-f:.]+(/(0|[1-9][0-9]{0,2}))?$",
            "examples": ["10.0.0.0/8", "2001:db8::/32", "127.0.0.1"],
        })
    }
}

impl JsonSchema for Pattern {
    fn schema_name() -> Cow<'static, str> {
        "Pattern".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "description": "A name, `prefix*`, `*suffix` or `*`.",
            "type": "string",
            "pattern": r"^(\*|\*?[^*]+|[^*]+\*)$",
        })
    }
}

impl JsonSchema for Methods {
    fn schema_name() -> Cow<'static, str> {
        "Methods".into()
    }

    fn inline_schema() -> bool {
        true
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        let method = json_schema!({
            "type": "string",
            "pattern": "^[0-9A-Z!#$%&'*+.^_`|~-]+$",
            "examples": ["GET", "POST"],
        });
        json_schema!({ "anyOf": [method, { "type": "array", "items": method }] })
    }
}

/// Says of a comparison that its name and one way to compare must be there.
pub(crate) fn one_comparison(schema: &mut Schema) {
    const WAYS: [&str; 7] = [
        "exact", "in", "prefix", "suffix", "contains", "regex", "present",
    ];
    if let Some(name) = schema.pointer_mut("/properties/name") {
        name.as_object_mut().and_then(|name| name.remove("default"));
    }
    schema.insert("required".to_owned(), serde_json::json!(["name"]));
    let ways = WAYS.map(|way| serde_json::json!({ "required": [way] }));
    schema.insert("oneOf".to_owned(), ways.into_iter().collect());
}

/// Says of a gRPC match that it must name something.
pub(crate) fn service_or_method(schema: &mut Schema) {
    schema.insert("minProperties".to_owned(), 1.into());
}

#[cfg(test)]
mod tests {
    use regex::Regex;

    use super::*;
    use crate::config::duration;

    fn pattern<T: JsonSchema>() -> Regex {
        let schema = schemars::schema_for!(T);
        let text = schema.pointer("/anyOf/0").unwrap_or(schema.as_value());
        Regex::new(text["pattern"].as_str().unwrap()).unwrap()
    }

    #[test]
    fn the_patterns_know_what_the_parsers_read() {
        for text in ["0", "0s", "600ms", "1.5s", "1m30s", "1h2m3s4ms5us6ns"] {
            assert!(duration::parse(text).is_ok(), "{text}");
            assert!(pattern::<Duration>().is_match(text), "{text}");
        }
        for text in ["", "5", "s", "1.s", ".5s", "-1s", "1d", "1 s", "1s "] {
            assert!(!pattern::<Duration>().is_match(text), "{text}");
        }
        for text in ["0%", "20%", "0.5 %", "100%", "100.0%"] {
            assert!(text.parse::<Ratio>().is_ok(), "{text}");
            assert!(pattern::<Ratio>().is_match(text), "{text}");
        }
        for text in ["", "%", "20", "0.2", "101%", "-1%", "NaN%", "1%%"] {
            assert!(text.parse::<Ratio>().is_err(), "{text}");
            assert!(!pattern::<Ratio>().is_match(text), "{text}");
        }
        for text in ["10.0.0.0/8", "::1", "2001:db8::/32", "::/0"] {
            assert!(text.parse::<Cidr>().is_ok(), "{text}");
            assert!(pattern::<Cidr>().is_match(text), "{text}");
        }
        for text in ["", "localhost", "10.0.0.0/", "10.0.0.0/08", "::/+1"] {
            assert!(text.parse::<Cidr>().is_err(), "{text}");
            assert!(!pattern::<Cidr>().is_match(text), "{text}");
        }
        for text in ["a", "*", "a*", "*a", "", "**", "*a*", "a*b"] {
            let is_read = crate::vocab::pattern::Pattern::parse(text).is_ok();
            assert_eq!(pattern::<Pattern>().is_match(text), is_read, "{text}");
        }
    }
}
