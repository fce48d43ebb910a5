//! Where in a text the value of a path stands.
//!
//! A value is checked after it was read, and what then is refused has a path but no line any more. So
//! the text is read once more, up to that path: an error is raised there, and the parser says where.

use std::{cell::Cell, fmt};

use serde::{
    Deserializer,
    de::{self, DeserializeSeed, IgnoredAny, MapAccess, SeqAccess},
};

use super::parse::Format;

/// Line and column, both from 1, of the value at `path`, such as `clients.orders.retry.maxAttempts` or
/// `services.orders[0].weight`; of the nearest one around it where it is not written.
pub(super) fn locate(format: Format, text: &str, path: &str) -> Option<(u64, u64)> {
    let (mut path, value) = (path, Cell::new(None));
    loop {
        let walk = Walk {
            path,
            value: &value,
        };
        match format.read(text, walk).err() {
            Some(found) => return found.position,
            // Not written there: what is around it is.
            None => path = parent(path)?,
        }
    }
}

/// The value at `path` as it is written, unless that is a list or a map.
pub(super) fn value(format: Format, text: &str, path: &str) -> Option<String> {
    let value = Cell::new(None);
    let walk = Walk {
        path,
        value: &value,
    };
    let _ = format.read(text, walk);
    value.into_inner()
}

/// The path of what a value is in; `None` for the document.
fn parent(path: &str) -> Option<&str> {
    let end = path.rfind(['.', '['])?;
    Some(&path[..end])
}

/// Goes down a path, and raises an error at its end.
#[derive(Clone, Copy)]
struct Walk<'p> {
    path: &'p str,
    /// What stands at its end.
    value: &'p Cell<Option<String>>,
}

// ===== impl Walk =====

impl<'p> Walk<'p> {
    /// What is left of the path below `key`. Keys may have dots in them, so the path is compared with
    /// them and not split.
    fn below(self, key: &str) -> Option<Walk<'p>> {
        let rest = self.path.strip_prefix(key)?;
        let path = match rest.as_bytes().first() {
            None | Some(b'[') => rest,
            Some(b'.') => &rest[1..],
            Some(_) => return None,
        };
        Some(Walk { path, ..self })
    }
}

impl<'de> DeserializeSeed<'de> for Walk<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

macro_rules! found_or_missing {
    ($($visit:ident: $type:ty,)+) => {
        $(fn $visit<E: de::Error>(self, value: $type) -> Result<(), E> {
            if self.path.is_empty() {
                self.value.set(Some(value.to_string()));
            }
            self.arrived()
        })+
    };
}

impl Walk<'_> {
    fn arrived<E: de::Error>(self) -> Result<(), E> {
        if self.path.is_empty() {
            Err(E::custom("found"))
        } else {
            Ok(())
        }
    }
}

impl<'de> de::Visitor<'de> for Walk<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("anything")
    }

    found_or_missing! {
        visit_bool: bool,
        visit_i64: i64,
        visit_i128: i128,
        visit_u64: u64,
        visit_u128: u128,
        visit_f64: f64,
        visit_str: &str,
    }

    fn visit_unit<E: de::Error>(self) -> Result<(), E> {
        self.arrived()
    }

    fn visit_none<E: de::Error>(self) -> Result<(), E> {
        self.arrived()
    }

    fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        self.deserialize(deserializer)
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        self.arrived()?;
        while let Some(key) = map.next_key::<String>()? {
            match self.below(&key) {
                Some(below) => map.next_value_seed(below)?,
                None => map.next_value::<IgnoredAny>().map(drop)?,
            }
        }
        Ok(())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<(), A::Error> {
        self.arrived()?;
        let mut index = 0;
        loop {
            let more = match self.below(&format!("[{index}]")) {
                Some(below) => seq.next_element_seed(below)?.is_some(),
                None => seq.next_element::<IgnoredAny>()?.is_some(),
            };
            if !more {
                return Ok(());
            }
            index += 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const YAML: &str = "\
clients:
  shop.Orders:
    retry:
      maxAttempts: 99
rules:
  - name: a
  - name: b
    weight: -1
";
    const TOML: &str = "\
[clients.\"shop.Orders\".retry]
maxAttempts = 99

[[rules]]
name = \"a\"
[[rules]]
name = \"b\"
weight = -1
";
    const JSON: &str = r#"{
  "clients": { "shop.Orders": { "retry": {
    "maxAttempts": 99 } } },
  "rules": [ { "name": "a" },
    { "name": "b",
      "weight": -1 } ]
}"#;

    #[test]
    fn a_path_is_found_in_every_format() {
        for (path, yaml, toml, json) in [
            ("clients.shop.Orders.retry.maxAttempts", 4, 2, 3),
            ("rules[1].weight", 8, 8, 6),
            ("rules[0].name", 6, 5, 4),
        ] {
            for (format, text, line) in [
                (Format::Yaml, YAML, yaml),
                (Format::Toml, TOML, toml),
                (Format::Json, JSON, json),
            ] {
                let found = locate(format, text, path).map(|(line, _)| line);
                assert_eq!(found, Some(line), "{path} in {format:?}");
            }
        }
    }

    #[test]
    fn what_is_not_written_is_where_it_would_be() {
        let line = |path| locate(Format::Yaml, YAML, path).map(|(line, _)| line);
        assert_eq!(line("rules[1].sticky.salt"), line("rules[1]"));
        assert_eq!(
            line("clients.shop.Orders.retry.budget.ratio"),
            line("clients.shop.Orders.retry")
        );
        assert_eq!(line("nowhere"), None);
        assert_eq!(
            locate(Format::Json, "", "a"),
            Some((1, 0)),
            "cannot be read at all"
        );
    }
}
