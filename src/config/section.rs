//! A section of a configuration that may be switched off: `retry: off`.

use std::{fmt, marker::PhantomData};

use serde::{
    Deserialize, Deserializer, Serialize, Serializer,
    de::{self, value::MapAccessDeserializer},
};

/// What a client of its own says about a section of the defaults.
#[derive(Debug, Clone, Default, PartialEq)]
pub enum Section<T> {
    /// Nothing: the defaults count.
    #[default]
    Inherit,
    /// `off`: without it, whatever the defaults say.
    Off,
    /// In the place of the whole section of the defaults.
    Set(T),
}

// ===== impl Section =====

impl<T: Clone> Section<T> {
    /// What counts, where the defaults say this.
    pub fn over(&self, default: &Option<T>) -> Option<T> {
        match self {
            Self::Inherit => default.clone(),
            Self::Off => None,
            Self::Set(section) => Some(section.clone()),
        }
    }

    pub(super) fn is_inherited(&self) -> bool {
        matches!(self, Self::Inherit)
    }
}

impl<T> From<Option<T>> for Section<T> {
    fn from(section: Option<T>) -> Self {
        section.map_or(Self::Off, Self::Set)
    }
}

impl<T: Serialize> Serialize for Section<T> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Inherit => serializer.serialize_none(),
            Self::Off => serializer.serialize_str(OFF),
            Self::Set(section) => section.serialize(serializer),
        }
    }
}

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Section<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserialize(deserializer).map(Self::from)
    }
}

#[cfg(feature = "schema")]
impl<T: schemars::JsonSchema> schemars::JsonSchema for Section<T> {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        format!("Section_of_{}", T::schema_name()).into()
    }

    fn inline_schema() -> bool {
        true
    }

    fn json_schema(generator: &mut schemars::SchemaGenerator) -> schemars::Schema {
        let section = generator.subschema_for::<T>();
        schemars::json_schema!({
            "anyOf": [
                section,
                { "enum": [OFF, false, null], "description": "Without it." },
            ],
        })
    }
}

// ===== for `#[serde(with = "section")]` =====

const OFF: &str = "off";

/// A section, or `off`.
pub(crate) fn serialize<T, S>(section: &Option<T>, serializer: S) -> Result<S::Ok, S::Error>
where
    T: Serialize,
    S: Serializer,
{
    match section {
        Some(section) => section.serialize(serializer),
        None => serializer.serialize_str(OFF),
    }
}

/// A section, or `off`.
pub(crate) fn deserialize<'de, T, D>(deserializer: D) -> Result<Option<T>, D::Error>
where
    T: Deserialize<'de>,
    D: Deserializer<'de>,
{
    struct Visitor<T>(PhantomData<T>);

    impl<'de, T: Deserialize<'de>> de::Visitor<'de> for Visitor<T> {
        type Value = Option<T>;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("a section, or `off`")
        }

        fn visit_str<E: de::Error>(self, text: &str) -> Result<Option<T>, E> {
            match text {
                OFF => Ok(None),
                _ => Err(E::invalid_value(de::Unexpected::Str(text), &self)),
            }
        }

        // `off` is a boolean in YAML 1.1, and people write `false` where there is an `off`.
        fn visit_bool<E: de::Error>(self, on: bool) -> Result<Option<T>, E> {
            match on {
                false => Ok(None),
                true => Err(E::invalid_value(de::Unexpected::Bool(on), &self)),
            }
        }

        fn visit_unit<E: de::Error>(self) -> Result<Option<T>, E> {
            Ok(None)
        }

        fn visit_map<A: de::MapAccess<'de>>(self, map: A) -> Result<Option<T>, A::Error> {
            T::deserialize(MapAccessDeserializer::new(map)).map(Some)
        }
    }

    deserializer.deserialize_any(Visitor(PhantomData))
}
