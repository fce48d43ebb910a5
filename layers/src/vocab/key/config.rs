//! How a key is written in a file: one part, or a list of them.

use std::fmt;

use http::HeaderName;
use serde::{
    Deserialize, Deserializer, Serialize, Serializer,
    de::{
        self, IntoDeserializer, MapAccess, SeqAccess,
        value::{MapAccessDeserializer, StrDeserializer},
    },
};

use super::{ClientIp, Key, Part};

/// The parts as they are written.
#[derive(Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase")]
enum PartConfig {
    /// All calls together.
    Global,
    /// The gRPC method, or the HTTP method and route.
    Operation,
    /// The host that is called.
    Authority,
    /// The value of this header.
    Header(String),
    /// The authenticated caller.
    Identity,
    /// The address of the client, behind trusted proxies.
    ClientIp(ClientIp),
}

// ===== impl PartConfig =====

impl PartConfig {
    fn parse<E: de::Error>(self) -> Result<Key, E> {
        Ok(match self {
            Self::Global => Key::global(),
            Self::Operation => Key::operation(),
            Self::Authority => Key::authority(),
            Self::Header(name) => {
                Key::header(name).map_err(|error| E::custom(error.at("header")))?
            }
            Self::Identity => Key::identity(),
            Self::ClientIp(client) => client.into(),
        })
    }
}

impl From<&Part> for PartConfig {
    fn from(part: &Part) -> Self {
        match part {
            Part::Operation => Self::Operation,
            Part::Authority => Self::Authority,
            Part::Header(name) => Self::Header(HeaderName::as_str(name).to_owned()),
            Part::Identity => Self::Identity,
            Part::ClientIp(client) => Self::ClientIp(*client),
        }
    }
}

// ===== impl Key =====

impl Serialize for Key {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self.parts.as_slice() {
            [] => PartConfig::Global.serialize(serializer),
            [part] => PartConfig::from(part).serialize(serializer),
            parts => serializer.collect_seq(parts.iter().map(PartConfig::from)),
        }
    }
}

impl<'de> Deserialize<'de> for Key {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(KeyVisitor)
    }
}

/// Told apart by hand: serde's untagged enums would answer a typo with "no variant matched".
struct KeyVisitor;

impl<'de> de::Visitor<'de> for KeyVisitor {
    type Value = Key;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(
            "a key: `global`, `operation`, `authority`, `identity`, `header: <name>`, \
             `clientIp: { trustedHops: <number> }`, or a list of them",
        )
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<Key, E> {
        match text {
            "clientIp" => Ok(Key::client_ip(0)),
            _ => {
                let text: StrDeserializer<'_, E> = text.into_deserializer();
                PartConfig::deserialize(text)?.parse()
            }
        }
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Key, A::Error> {
        let part = PartConfig::deserialize(MapAccessDeserializer::new(&mut map))?;
        // An enum stops reading behind its value, and some parsers need the end to be read as well.
        match map.next_key::<String>()? {
            None => part.parse(),
            Some(_) => Err(de::Error::custom("write a list for a key of several parts")),
        }
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut parts: A) -> Result<Key, A::Error> {
        let mut key = parts.next_element::<Key>()?.ok_or_else(|| {
            de::Error::custom("an empty list is no key; write `global` for one that all share")
        })?;
        while let Some(part) = parts.next_element::<Key>()? {
            key = key.and(part);
        }
        Ok(key)
    }
}

#[cfg(feature = "schema")]
impl schemars::JsonSchema for Key {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Key".into()
    }

    fn json_schema(generator: &mut schemars::SchemaGenerator) -> schemars::Schema {
        let mut part = PartConfig::json_schema(generator);
        part.remove("description");
        let key = generator.subschema_for::<Self>();
        schemars::json_schema!({
            "description": "What tells calls apart: one part, or a list of them that count together.",
            "anyOf": [
                part,
                { "const": "clientIp", "description": "The address of the connection's peer." },
                { "type": "array", "items": key, "minItems": 1 },
            ],
        })
    }
}
