//! TLS settings, compiled once and shared by every endpoint.

use std::{
    fmt,
    sync::{Arc, OnceLock},
};

use rustls::{ClientConfig, ConfigBuilder, RootCertStore, WantsVerifier};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject};
use tokio_rustls::TlsConnector;
use tower_mesh_layers::config::ConfigError;

use super::config::TlsConfig;

/// Which protocols are offered to the peer (ALPN, RFC 7301).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Offer {
    Any,
    Http1,
    Http2,
}

/// The connectors of all endpoints: one for each offer.
pub(super) struct Tls {
    base: Base,
    connectors: OnceLock<Result<[TlsConnector; 3], String>>,
}

enum Base {
    /// The operating system's certificates are read when the first endpoint with TLS is made:
    /// reading takes milliseconds, and most meshes have none.
    Native(Option<Identity>),
    Ready(Arc<ClientConfig>),
}

type Identity = (Vec<CertificateDer<'static>>, PrivateKeyDer<'static>);

// ===== impl Tls =====

impl Tls {
    pub(super) fn new(config: &TlsConfig) -> Result<Self, ConfigError> {
        let identity = identity(config)?;
        let base = match &config.ca {
            None => Base::Native(identity),
            Some(ca) => {
                let mut roots = RootCertStore::empty();
                let pem = ca.read("ca")?;
                for certificate in certificates("ca", &pem)? {
                    roots
                        .add(certificate)
                        .map_err(|error| ConfigError::new("ca", error, "certificates"))?;
                }
                let client = client(roots, identity)
                    .map_err(|error| ConfigError::new("key", error, "the key of `certificate`"))?;
                Base::Ready(Arc::new(client))
            }
        };
        Ok(Self {
            base,
            connectors: OnceLock::new(),
        })
    }

    /// Ready-made settings; what they say about ALPN is replaced.
    pub(super) fn ready(config: Arc<ClientConfig>) -> Self {
        Self {
            base: Base::Ready(config),
            connectors: OnceLock::new(),
        }
    }

    pub(super) fn connector(&self, offer: Offer) -> Result<TlsConnector, String> {
        match self.connectors.get_or_init(|| self.build()) {
            Ok(connectors) => Ok(connectors[offer as usize].clone()),
            Err(error) => Err(error.clone()),
        }
    }

    fn build(&self) -> Result<[TlsConnector; 3], String> {
        let base = match &self.base {
            Base::Ready(config) => config.clone(),
            Base::Native(identity) => {
                let identity = identity
                    .as_ref()
                    .map(|(chain, key)| (chain.clone(), key.clone_key()));
                Arc::new(client(native_roots()?, identity).map_err(|error| error.to_string())?)
            }
        };
        let offering = |protocols: &[&[u8]]| {
            let mut config = ClientConfig::clone(&base);
            config.alpn_protocols = protocols.iter().map(|name| name.to_vec()).collect();
            TlsConnector::from(Arc::new(config))
        };
        Ok([
            offering(&[b"h2", b"http/1.1"]),
            offering(&[b"http/1.1"]),
            offering(&[b"h2"]),
        ])
    }
}

impl fmt::Debug for Tls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tls").finish_non_exhaustive()
    }
}

fn client(roots: RootCertStore, identity: Option<Identity>) -> Result<ClientConfig, rustls::Error> {
    let builder = builder()?.with_root_certificates(roots);
    match identity {
        None => Ok(builder.with_no_client_auth()),
        Some((chain, key)) => builder.with_client_auth_cert(chain, key),
    }
}

/// The provider is named, since the process-wide one is the application's to choose, or nobody's.
fn builder() -> Result<ConfigBuilder<ClientConfig, WantsVerifier>, rustls::Error> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions()
}

fn native_roots() -> Result<RootCertStore, String> {
    let found = rustls_native_certs::load_native_certs();
    let mut roots = RootCertStore::empty();
    let (added, _) = roots.add_parsable_certificates(found.certs);
    if added == 0 {
        let why = found
            .errors
            .first()
            .map(|error| format!(": {error}"))
            .unwrap_or_default();
        return Err(format!(
            "the system has no root certificates, set `tls.ca`{why}"
        ));
    }
    Ok(roots)
}

fn identity(config: &TlsConfig) -> Result<Option<Identity>, ConfigError> {
    match (&config.certificate, &config.key) {
        (None, None) => Ok(None),
        (Some(certificate), Some(key)) => {
            let chain = certificates("certificate", &certificate.read("certificate")?)?;
            let key = PrivateKeyDer::from_pem_slice(&key.read("key")?)
                .map_err(|error| ConfigError::new("key", error, "a private key in PEM"))?;
            Ok(Some((chain, key)))
        }
        (Some(_), None) => Err(ConfigError::new(
            "key",
            "nothing",
            "the key of `certificate`",
        )),
        (None, Some(_)) => Err(ConfigError::new(
            "certificate",
            "nothing",
            "the certificate of `key`",
        )),
    }
}

fn certificates(path: &str, pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, ConfigError> {
    let refused = |why: String| ConfigError::new(path, why, "certificates in PEM");
    let certificates = CertificateDer::pem_slice_iter(pem)
        .collect::<Result<Vec<_>, _>>()
        .map_err(|error| refused(error.to_string()))?;
    if certificates.is_empty() {
        return Err(refused("no certificate".to_owned()));
    }
    Ok(certificates)
}
