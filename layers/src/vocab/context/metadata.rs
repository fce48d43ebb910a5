//! [`Metadata`]: what callers want those to know who are called, and those that are called by them.
//!
//! An entry has a key, a value and a [`Scope`]. A key may have several values. Its name on the wire is
//! kratos' (`x-md-global-tenant`), and both the key and that name find it:
//!
//! ```
//! use tower_mesh_layers::context::Metadata;
//!
//! let mut metadata = Metadata::new();
//! metadata.set_global("tenant", "a")?;
//! metadata.append_global("tenant", "b")?;
//! metadata.set_local("caller", "checkout")?;
//!
//! assert_eq!(metadata.get("Tenant"), Some("a"));
//! assert_eq!(metadata.values("x-md-global-tenant").count(), 2);
//! assert!(metadata.set_global("authorization", "Bearer 7").is_err());
//! # Ok::<(), tower_mesh_layers::context::MetadataError>(())
//! ```

use http::{HeaderName, HeaderValue};
use smallvec::SmallVec;

/// How the header of an entry begins that travels along the whole chain.
pub const GLOBAL_PREFIX: &str = "x-md-global-";

/// How the header of an entry begins that travels one hop.
pub const LOCAL_PREFIX: &str = "x-md-local-";

/// How the headers of all entries begin.
const PREFIX: &str = "x-md-";

/// Most calls carry fewer entries; these take no allocation of their own.
const FEW: usize = 4;

/// Keys, and names of headers, that are never propagated: credentials are for the hop that they were
/// sent to, and the rest is about one connection
/// ([RFC 9110 section 7.6.1](https://www.rfc-editor.org/rfc/rfc9110#section-7.6.1)).
const NEVER: &[&str] = &[
    "authorization",
    "proxy-authorization",
    "proxy-authenticate",
    "proxy-authentication-info",
    "www-authenticate",
    "cookie",
    "cookie2",
    "set-cookie",
    "set-cookie2",
    "connection",
    "keep-alive",
    "proxy-connection",
    "te",
    "trailer",
    "trailers",
    "transfer-encoding",
    "upgrade",
    "http2-settings",
];

/// Metadata of a call.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Metadata {
    /// The values of a key in a scope stand side by side.
    entries: SmallVec<[Entry; FEW]>,
}

/// One value of a key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Entry {
    pub(crate) scope: Scope,
    /// The name of its header. The key is a part of it, so that what came over the wire is kept and
    /// sent on as it came.
    pub(crate) name: HeaderName,
    pub(crate) value: HeaderValue,
}

/// How far an entry goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Scope {
    /// Along the whole chain: with every call that is made because of this one.
    Global,
    /// With the calls that are made from here, and no further.
    Local,
    /// It came from the caller, and goes no further.
    Received,
    /// Another header, which is passed on under its own name, such as `traceparent`.
    Header,
}

/// Why an entry was not set.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum MetadataError {
    /// The key does not fit into the name of a header.
    #[error(
        "a key of metadata has letters, digits and `-`, `_`, `.` only, and at least one of them"
    )]
    InvalidKey,
    /// The value does not fit into a header.
    #[error("a value of metadata must be without control characters")]
    InvalidValue,
    /// Credentials, and what is about one connection, are never propagated.
    #[error("this key is never propagated")]
    NeverPropagated,
    /// No server layer is around the code that asks.
    #[error("there is no call that is handled here: put a server layer around the handler")]
    NoContext,
}

// ===== impl Metadata =====

impl Metadata {
    /// Without entries.
    pub const fn new() -> Self {
        let entries = SmallVec::new_const();
        Self { entries }
    }

    /// Whether there are no entries.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// How many entries there are.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// The first value of a key that is text, whatever its scope.
    pub fn get(&self, key: &str) -> Option<&str> {
        self.values(key).find_map(text)
    }

    /// The first value of a key that travels along the whole chain.
    pub fn global(&self, key: &str) -> Option<&str> {
        self.of(key, |scope| scope == Scope::Global)
    }

    /// The first value of a key that was sent by the caller for this hop, or that is to be sent to the
    /// next one.
    pub fn local(&self, key: &str) -> Option<&str> {
        self.of(key, |scope| matches!(scope, Scope::Received | Scope::Local))
    }

    /// The name of the calling service, as it says: its entry `caller` for this hop. To know and not
    /// just to be told, ask for the [identity](super::Ambient::identity).
    pub fn caller(&self) -> Option<&str> {
        self.of("caller", |scope| scope == Scope::Received)
    }

    /// All values of a key, whatever their scope.
    pub fn values(&self, key: &str) -> impl Iterator<Item = &HeaderValue> {
        let of_key = self.entries.iter().filter(move |entry| entry.is_of(key));
        of_key.map(|entry| &entry.value)
    }

    /// All entries: scope, key and value.
    pub fn iter(&self) -> impl Iterator<Item = (Scope, &str, &HeaderValue)> {
        let entries = self.entries.iter();
        entries.map(|entry| (entry.scope, entry.key(), &entry.value))
    }

    /// Sets the only value of a key that travels along the whole chain.
    ///
    /// # Errors
    ///
    /// When the key or the value does not fit into a header, or is never propagated.
    pub fn set_global(&mut self, key: &str, value: &str) -> Result<(), MetadataError> {
        self.set(Scope::Global, key, value)
    }

    /// Sets the only value of a key that travels to the next hop.
    ///
    /// # Errors
    ///
    /// When the key or the value does not fit into a header, or is never propagated.
    pub fn set_local(&mut self, key: &str, value: &str) -> Result<(), MetadataError> {
        self.set(Scope::Local, key, value)
    }

    /// Adds a value of a key that travels along the whole chain.
    ///
    /// # Errors
    ///
    /// When the key or the value does not fit into a header, or is never propagated.
    pub fn append_global(&mut self, key: &str, value: &str) -> Result<(), MetadataError> {
        self.push(Entry::new(Scope::Global, key, value.as_bytes())?);
        Ok(())
    }

    /// Adds a value of a key that travels to the next hop.
    ///
    /// # Errors
    ///
    /// When the key or the value does not fit into a header, or is never propagated.
    pub fn append_local(&mut self, key: &str, value: &str) -> Result<(), MetadataError> {
        self.push(Entry::new(Scope::Local, key, value.as_bytes())?);
        Ok(())
    }

    /// Takes all values of a key out, whatever their scope. Says whether there were any.
    pub fn remove(&mut self, key: &str) -> bool {
        let before = self.entries.len();
        self.entries.retain(|entry| !entry.is_of(key));
        self.entries.len() < before
    }

    /// Adds these entries; where a key is there already in the same scope, its values are replaced.
    pub fn extend(&mut self, other: Self) {
        let is_new = |old: &Entry| {
            let same = |new: &Entry| new.scope == old.scope && new.name == old.name;
            other.entries.iter().any(same)
        };
        self.entries.retain(|old| !is_new(old));
        self.entries.extend(other.entries);
    }

    fn set(&mut self, scope: Scope, key: &str, value: &str) -> Result<(), MetadataError> {
        let entry = Entry::new(scope, key, value.as_bytes())?;
        self.entries
            .retain(|other| other.scope != scope || other.name != entry.name);
        self.push(entry);
        Ok(())
    }

    fn of(&self, key: &str, scope: impl Fn(Scope) -> bool) -> Option<&str> {
        let mut entries = self.entries.iter();
        entries.find_map(|entry| {
            let found = scope(entry.scope) && entry.is_of(key);
            found.then(|| text(&entry.value)).flatten()
        })
    }

    /// Adds a value behind those that the key has.
    #[allow(dead_code, reason = "for the layers that read metadata")]
    pub(crate) fn push(&mut self, entry: Entry) {
        let is_sibling = |other: &Entry| other.scope == entry.scope && other.name == entry.name;
        match self.entries.iter().rposition(is_sibling) {
            Some(at) => self.entries.insert(at + 1, entry),
            None => self.entries.push(entry),
        }
    }

    /// Makes every value own its bytes.
    #[allow(dead_code, reason = "for the layers that read metadata")]
    pub(crate) fn copy_values(&mut self) {
        for entry in &mut self.entries {
            let copy = HeaderValue::from_bytes(entry.value.as_bytes());
            let mut copy = copy.expect("it is a value already");
            copy.set_sensitive(entry.value.is_sensitive());
            entry.value = copy;
        }
    }

    #[allow(dead_code, reason = "for the layers that send metadata")]
    pub(crate) fn entries(&self) -> &[Entry] {
        &self.entries
    }
}

fn text(value: &HeaderValue) -> Option<&str> {
    std::str::from_utf8(value.as_bytes()).ok()
}

// ===== impl Entry =====

impl Entry {
    /// An entry under the name that its key has in this scope.
    pub(crate) fn new(scope: Scope, key: &str, value: &[u8]) -> Result<Self, MetadataError> {
        let prefix = match scope {
            Scope::Global => GLOBAL_PREFIX,
            Scope::Local | Scope::Received => LOCAL_PREFIX,
            Scope::Header => "",
        };
        if key.is_empty() {
            return Err(MetadataError::InvalidKey);
        }
        let name = HeaderName::from_bytes([prefix, key].concat().as_bytes());
        let name = name.map_err(|_| MetadataError::InvalidKey)?;
        if is_never_propagated(&name.as_str()[prefix.len()..]) {
            return Err(MetadataError::NeverPropagated);
        }
        let value = HeaderValue::from_bytes(value).map_err(|_| MetadataError::InvalidValue)?;
        Ok(Self { scope, name, value })
    }

    pub(crate) fn key(&self) -> &str {
        key_of(self.name.as_str())
    }

    /// Whether this is its key, or the name of its header.
    fn is_of(&self, key: &str) -> bool {
        let name = self.name.as_str();
        key_of(name).eq_ignore_ascii_case(key) || name.eq_ignore_ascii_case(key)
    }
}

fn key_of(name: &str) -> &str {
    let Some(rest) = name.strip_prefix(PREFIX) else {
        return name;
    };
    let scoped = rest.strip_prefix("global-");
    scoped
        .or_else(|| rest.strip_prefix("local-"))
        .unwrap_or(rest)
}

/// Whether nobody may propagate something under this key, which is in lower case.
pub(crate) fn is_never_propagated(key: &str) -> bool {
    NEVER.contains(&key)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_has_several_values_side_by_side() {
        let mut metadata = Metadata::new();
        metadata.append_global("A", "1").unwrap();
        metadata.append_global("b", "2").unwrap();
        metadata.append_global("a", "3").unwrap();
        metadata.append_local("a", "4").unwrap();
        let all: Vec<_> = metadata
            .iter()
            .map(|(_, key, value)| (key, value.as_bytes()))
            .collect();
        assert_eq!(
            all,
            [("a", &b"1"[..]), ("a", b"3"), ("b", b"2"), ("a", b"4")]
        );
        metadata.set_global("a", "5").unwrap();
        assert_eq!(
            (metadata.global("a"), metadata.local("a")),
            (Some("5"), Some("4"))
        );
        assert!(metadata.remove("a") && !metadata.remove("a"));
        assert_eq!((metadata.len(), metadata.get("b")), (1, Some("2")));
    }

    #[test]
    fn entries_of_another_replace_those_of_the_same_key_and_scope() {
        let (mut metadata, mut other) = (Metadata::new(), Metadata::new());
        metadata.append_global("a", "1").unwrap();
        metadata.append_global("a", "2").unwrap();
        metadata.append_local("a", "3").unwrap();
        other.append_global("a", "4").unwrap();
        other.append_global("a", "5").unwrap();
        metadata.extend(other);
        let all: Vec<_> = metadata.values("a").collect();
        assert_eq!(all, ["3", "4", "5"]);
    }

    #[test]
    fn key_and_header_name_find_an_entry_in_any_case() {
        let mut metadata = Metadata::new();
        metadata.set_global("Tenant", "a").unwrap();
        for key in [
            "tenant",
            "TENANT",
            "x-md-global-tenant",
            "X-MD-Global-Tenant",
        ] {
            assert_eq!(metadata.get(key), Some("a"), "{key}");
        }
        assert_eq!(metadata.get("x-md-local-tenant"), None);
        assert_eq!(metadata.get("enant"), None);
    }

    #[test]
    fn what_does_not_fit_into_a_header_is_refused() {
        let mut metadata = Metadata::new();
        for (key, value, expected) in [
            ("", "1", MetadataError::InvalidKey),
            ("a b", "1", MetadataError::InvalidKey),
            ("ä", "1", MetadataError::InvalidKey),
            ("a", "1\r\nb: 2", MetadataError::InvalidValue),
            ("a", "\0", MetadataError::InvalidValue),
            ("Authorization", "Bearer 7", MetadataError::NeverPropagated),
            ("COOKIE", "a=b", MetadataError::NeverPropagated),
            ("te", "trailers", MetadataError::NeverPropagated),
        ] {
            assert_eq!(metadata.set_global(key, value), Err(expected), "{key}");
            assert_eq!(metadata.append_local(key, value), Err(expected), "{key}");
        }
        assert!(metadata.is_empty());
    }

    #[test]
    fn names_that_are_never_propagated_are_in_the_case_that_header_names_are_in() {
        for name in NEVER {
            assert_eq!(*name, name.to_ascii_lowercase());
        }
    }
}
