//! The URL that names a registry.

#[cfg(feature = "file")]
use std::path::PathBuf;
use std::{fmt, str::FromStr, sync::Arc, time::Duration};

use futures_util::{StreamExt, stream};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use tower_mesh_layers::config::{ConfigError, did_you_mean, duration, duration_in_range};

#[cfg(feature = "dns")]
use super::dns::{self, DnsRegistry};
#[cfg(feature = "file")]
use super::file::FileRegistry;
use super::memory::MemoryRegistry;
#[cfg(feature = "file")]
use crate::document::Format;
use crate::{
    instance::{EndpointUrl, Instance, check_name},
    register::{Register, RegisterConfig, Registration},
    resolve::{Answers, FailStatic, Resolve, Resolver, snapshot},
};

const HOUR: Duration = Duration::from_secs(3_600);

/// What this build can open, and what it could with another feature.
const SCHEMES: [(&str, Option<&str>); 5] = [
    ("static", None),
    ("memory", None),
    ("file", missing("file", cfg!(feature = "file"))),
    ("dns", missing("dns", cfg!(feature = "dns"))),
    ("dns+srv", missing("dns", cfg!(feature = "dns"))),
];

const fn missing(feature: &'static str, on: bool) -> Option<&'static str> {
    if on { None } else { Some(feature) }
}

/// Follows `service` in the registry that `url` names: parses a [`RegistryUrl`] and opens it.
///
/// ```
/// # #[cfg(feature = "file")] {
/// use tower_mesh_discovery::registry::resolver;
///
/// let orders = resolver("file:./registry.yaml?poll=1s", "orders")?;
/// assert_eq!(orders.service(), "orders");
/// # }
/// # Ok::<(), tower_mesh_layers::config::ConfigError>(())
/// ```
///
/// # Errors
///
/// A [`ConfigError`] when the URL or the service's name is refused. That a registry cannot be
/// reached is no error here: it may be there later.
pub fn resolver(url: &str, service: &str) -> Result<Resolver, ConfigError> {
    url.parse::<RegistryUrl>()?.open().resolver(service)
}

/// The name of a registry, parsed and checked. See the [module](super) for what it may be.
///
/// ```
/// use tower_mesh_discovery::registry::RegistryUrl;
///
/// let url: RegistryUrl = "static:http://10.0.0.1:8080".parse()?;
/// let registry = url.open();
/// let (orders, users) = (registry.resolver("orders")?, registry.resolver("users")?);
/// # Ok::<(), tower_mesh_layers::config::ConfigError>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RegistryUrl {
    text: String,
    kind: Kind,
    grace: Duration,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Kind {
    Static(Vec<EndpointUrl>),
    Memory(String),
    #[cfg(feature = "file")]
    File {
        path: PathBuf,
        poll: Duration,
    },
    #[cfg(feature = "dns")]
    Dns(DnsRegistry),
}

/// An open registry, of which any number of services can be followed, and with which instances can
/// register where it can be written. Clones share it.
#[derive(Clone)]
pub struct Registry {
    source: Arc<dyn Resolve>,
    registrar: Option<Arc<dyn Register>>,
    name: String,
    grace: Duration,
}

// ===== impl RegistryUrl =====

impl RegistryUrl {
    /// Opens the registry. It is not read before a service is followed.
    pub fn open(&self) -> Registry {
        let registry = match &self.kind {
            Kind::Static(urls) => Registry::new(Static(urls.clone())),
            Kind::Memory(name) => Registry::writable(MemoryRegistry::named(name)),
            #[cfg(feature = "file")]
            Kind::File { path, poll } => Registry::writable(FileRegistry::new(path).poll(*poll)),
            #[cfg(feature = "dns")]
            Kind::Dns(registry) => Registry::new(registry.clone()),
        };
        Registry {
            name: self.text.clone(),
            grace: self.grace,
            ..registry
        }
    }
}

impl FromStr for RegistryUrl {
    type Err = ConfigError;

    fn from_str(text: &str) -> Result<Self, ConfigError> {
        let (scheme, rest) = text.split_once(':').ok_or_else(|| {
            ConfigError::new("", text, format!("a URL that begins with {}", schemes()))
        })?;
        let (rest, query) = rest
            .split_once('?')
            .map_or((rest, None), |(a, b)| (a, Some(b)));
        let (kind, grace) = match scheme {
            "static" => {
                Parameters::read(query, &[])?;
                (Kind::Static(addresses(rest)?), FailStatic::DEFAULT_GRACE)
            }
            "memory" => {
                let parameters = Parameters::read(query, &["grace"])?;
                check_name("memory", rest)?;
                let grace = parameters.duration("grace", Duration::ZERO..=HOUR)?;
                let kind = Kind::Memory(rest.to_owned());
                (kind, grace.unwrap_or(FailStatic::DEFAULT_GRACE))
            }
            #[cfg(feature = "file")]
            "file" => {
                let parameters = Parameters::read(query, &["poll", "grace"])?;
                let grace = parameters.duration("grace", Duration::ZERO..=HOUR)?;
                let poll = parameters.duration("poll", FileRegistry::MIN_POLL..=HOUR)?;
                let poll = poll.unwrap_or(FileRegistry::DEFAULT_POLL);
                let kind = Kind::File {
                    path: file_path(rest)?,
                    poll,
                };
                (kind, grace.unwrap_or(FailStatic::DEFAULT_GRACE))
            }
            #[cfg(feature = "dns")]
            "dns" | "dns+srv" => {
                let (registry, grace) = dns::parse(scheme, rest, query)?;
                (Kind::Dns(registry), grace)
            }
            _ => {
                let near = did_you_mean(scheme, SCHEMES.map(|(name, _)| name));
                let expected = format!("a registry's scheme: {}{near}", schemes());
                return Err(ConfigError::new("scheme", scheme, expected));
            }
        };
        Ok(Self {
            text: text.to_owned(),
            kind,
            grace,
        })
    }
}

impl fmt::Display for RegistryUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl Serialize for RegistryUrl {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.text)
    }
}

impl<'de> Deserialize<'de> for RegistryUrl {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?
            .parse()
            .map_err(de::Error::custom)
    }
}

#[cfg(feature = "schema")]
impl schemars::JsonSchema for RegistryUrl {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "RegistryUrl".into()
    }

    /// Of all schemes, also those that this build was made without.
    fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
        let schemes = SCHEMES.map(|(scheme, _)| scheme.replace('+', r"\+"));
        schemars::json_schema!({
            "description": "Where instances are looked up: a scheme, and what the registry needs to know.",
            "type": "string",
            "pattern": format!("^({}):.", schemes.join("|")),
            "examples": [
                "file:./registry.yaml",
                "dns:{service}.internal:8080",
                "dns+srv:_http._tcp.{service}.example.",
                "static:http://10.0.0.1:8080,http://10.0.0.2:8080",
                "memory:example",
            ],
        })
    }
}

// ===== impl Registry =====

impl Registry {
    /// Any source of instances as a registry that is only read.
    pub fn new(source: impl Resolve) -> Self {
        Self {
            grace: source.grace(),
            source: Arc::new(source),
            registrar: None,
            name: String::new(),
        }
    }

    /// Any registry that instances are found in and register with.
    ///
    /// ```
    /// use tower_mesh_discovery::registry::{MemoryRegistry, Registry};
    ///
    /// let shared = MemoryRegistry::new();
    /// let registry = Registry::writable(shared.clone());
    /// ```
    pub fn writable(backend: impl Resolve + Register) -> Self {
        let backend = Arc::new(backend);
        Self {
            registrar: Some(Arc::clone(&backend) as Arc<dyn Register>),
            ..Self::new(backend)
        }
    }

    /// Begins to register `instance`, and keeps it registered: see
    /// [`Registration::start`](crate::register::Registration::start).
    ///
    /// # Errors
    ///
    /// A [`ConfigError`] when the instance or the configuration is refused, or when this registry
    /// cannot be written.
    ///
    /// # Panics
    ///
    /// Outside of a tokio runtime.
    pub fn register(
        &self,
        instance: Instance,
        config: RegisterConfig,
    ) -> Result<Registration, ConfigError> {
        let Some(registrar) = &self.registrar else {
            let expected = "a registry that can be written: `memory:` or `file:`";
            return Err(ConfigError::new("registry", &self.name, expected));
        };
        Registration::start(Arc::clone(registrar), instance, config)
    }

    /// The way to follow `service`.
    ///
    /// # Errors
    ///
    /// A [`ConfigError`] when that cannot be the name of a service.
    pub fn resolver(&self, service: &str) -> Result<Resolver, ConfigError> {
        check_name("service", service)?;
        self.source.check(service)?;
        Ok(Resolver::new(self.clone(), service))
    }

    /// Whether both are handles to the same open registry.
    pub fn is_same(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.source, &other.source)
    }
}

impl Resolve for Registry {
    fn resolve(&self, service: &str) -> Answers {
        self.source.resolve(service)
    }

    fn check(&self, service: &str) -> Result<(), ConfigError> {
        self.source.check(service)
    }

    fn grace(&self) -> Duration {
        self.grace
    }
}

impl fmt::Debug for Registry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Registry")
            .field("name", &self.name)
            .field("grace", &self.grace)
            .finish_non_exhaustive()
    }
}

/// Addresses that are the instances of whatever service is asked for.
struct Static(Vec<EndpointUrl>);

impl Resolve for Static {
    fn resolve(&self, service: &str) -> Answers {
        let answer = snapshot(self.0.iter().map(|url| Instance::at(service, url.clone())));
        Box::pin(stream::iter([Ok(answer)]).chain(stream::pending()))
    }
}

/// `static:`, `file:`, and what another feature would add.
fn schemes() -> String {
    let names = SCHEMES.map(|(scheme, missing)| match missing {
        None => format!("`{scheme}:`"),
        Some(feature) => {
            format!("`{scheme}:` (enable the feature `{feature}` of tower-mesh-discovery)")
        }
    });
    names.join(", ")
}

fn addresses(list: &str) -> Result<Vec<EndpointUrl>, ConfigError> {
    let mut urls: Vec<EndpointUrl> = Vec::new();
    for (i, text) in list.split(',').enumerate() {
        let at = || format!("static[{i}]");
        let url = text
            .trim()
            .parse()
            .map_err(|error: ConfigError| error.at(at()))?;
        if urls.contains(&url) {
            return Err(ConfigError::new(at(), url, "every address once"));
        }
        urls.push(url);
    }
    Ok(urls)
}

/// The path in `file:relative`, `file:/absolute` and `file:///absolute`, with `%XX` decoded.
#[cfg(feature = "file")]
fn file_path(rest: &str) -> Result<PathBuf, ConfigError> {
    let refused = |expected: &str| Err(ConfigError::new("file", rest, expected));
    let path = match rest.strip_prefix("//") {
        None => rest,
        Some(path) if path.starts_with('/') => path,
        Some(_) => {
            return refused(
                "no host: `file:relative/path`, `file:/absolute/path` or `file:///absolute/path`",
            );
        }
    };
    if path.contains('#') {
        return refused("no fragment; a `#` in a file's name is written %23");
    }
    let Some(path) = percent_decode(path) else {
        return refused("%XX with two hexadecimal digits, which decode to UTF-8");
    };
    let path = PathBuf::from(path);
    Format::of(&path).map_err(|error| error.at("file"))?;
    Ok(path)
}

#[cfg(feature = "file")]
fn percent_decode(text: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        bytes.push(match byte {
            b'%' => {
                let mut digit = || char::from(rest.next()?).to_digit(16);
                (digit()? * 16 + digit()?) as u8
            }
            byte => byte,
        });
    }
    String::from_utf8(bytes)
        .ok()
        .filter(|text| !text.contains('\0'))
}

/// The parameters after the `?`: each known, each once.
pub(super) struct Parameters<'a>(Vec<(&'a str, &'a str)>);

// ===== impl Parameters =====

impl<'a> Parameters<'a> {
    pub(super) fn read(query: Option<&'a str>, known: &[&str]) -> Result<Self, ConfigError> {
        let mut read: Vec<(&str, &str)> = Vec::new();
        for pair in query.into_iter().flat_map(|query| query.split('&')) {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            if !known.contains(&name) {
                let allowed = match known {
                    [] => "no parameter".to_owned(),
                    known => format!("one of the parameters `{}`", known.join("`, `")),
                };
                let near = did_you_mean(name, known.iter().copied());
                return Err(ConfigError::new(
                    "parameter",
                    name,
                    format!("{allowed}{near}"),
                ));
            }
            if read.iter().any(|(other, _)| *other == name) {
                return Err(ConfigError::new(name, value, "every parameter once"));
            }
            read.push((name, value));
        }
        Ok(Self(read))
    }

    pub(super) fn get(&self, name: &str) -> Option<&'a str> {
        let (_, value) = self.0.iter().find(|(known, _)| *known == name)?;
        Some(value)
    }

    #[cfg(feature = "dns")]
    pub(super) fn flag(&self, name: &str) -> Result<Option<bool>, ConfigError> {
        match self.get(name) {
            None => Ok(None),
            Some("true") => Ok(Some(true)),
            Some("false") => Ok(Some(false)),
            Some(other) => Err(ConfigError::new(name, other, "true or false")),
        }
    }

    pub(super) fn duration(
        &self,
        name: &str,
        range: std::ops::RangeInclusive<Duration>,
    ) -> Result<Option<Duration>, ConfigError> {
        let Some(value) = self.get(name) else {
            return Ok(None);
        };
        let value = duration::parse(value).map_err(|error| error.at(name))?;
        duration_in_range(name, value, range).map(Some)
    }
}

#[cfg(test)]
mod tests;
