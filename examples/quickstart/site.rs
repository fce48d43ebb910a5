//! The files of the demonstration, in a temporary directory: configuration, registry, certificates,
//! tallies.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use parking_lot::Mutex;
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use tempfile::TempDir;
use tower_mesh::discovery::{
    instance::Instance,
    registry::{FileRegistry, write_atomic},
};

use crate::{Result, tally::TallyReader};

/// The file of the TLS instance's certificate.
pub const CERTIFICATE: &str = "instance.pem";
/// The file of its private key.
pub const KEY: &str = "instance.key";
/// The file of the certificate authority that the mesh trusts, by its configuration.
const AUTHORITY: &str = "authority.pem";

/// The directory, which goes away with this value, and what stands in the registry.
pub struct Site {
    directory: TempDir,
    instances: Mutex<Vec<Instance>>,
}

impl Site {
    /// Makes the directory, the configuration and a certificate.
    pub fn new() -> Result<Self> {
        let site = Self {
            directory: tempfile::Builder::new().prefix("tower-mesh-").tempdir()?,
            instances: Mutex::default(),
        };
        site.issue_certificate()?;
        site.configure("")?;
        Ok(site)
    }

    /// Where everything is.
    pub fn directory(&self) -> &Path {
        self.directory.path()
    }

    /// Where the configuration of the mesh is.
    pub fn config(&self) -> PathBuf {
        self.directory().join("mesh.yaml")
    }

    /// Divides the users of `orders` by these weights, in the configuration.
    pub fn route(&self, stable: &str, canary: &str) -> io::Result<()> {
        let routes = include_str!("routes.yaml")
            .replace("{stable}", stable)
            .replace("{canary}", canary);
        self.configure(&routes)
    }

    fn configure(&self, more: &str) -> io::Result<()> {
        let directory = self.directory().display().to_string();
        let config = include_str!("mesh.yaml").replace("{directory}", &directory);
        write_atomic(self.config(), &(config + more))
    }

    /// Where the registry is.
    pub fn registry(&self) -> PathBuf {
        self.directory().join("registry.json")
    }

    /// What an instance has counted.
    pub fn tally(&self, name: &str) -> TallyReader {
        TallyReader::new(self.directory(), name)
    }

    /// Adds instances to the registry.
    pub fn register<'a>(&self, new: impl IntoIterator<Item = &'a Instance>) -> io::Result<()> {
        let mut instances = self.instances.lock();
        instances.extend(new.into_iter().cloned());
        FileRegistry::write(self.registry(), &instances)
    }

    /// Puts an instance in the place of another one.
    pub fn replace(&self, old: &str, new: &Instance) -> io::Result<()> {
        self.instances.lock().retain(|instance| instance.id != old);
        self.register([new])
    }

    /// Spoils the registry as a careless edit would.
    pub fn corrupt_registry(&self) -> io::Result<()> {
        let text = fs::read_to_string(self.registry())?;
        fs::write(self.registry(), text.replacen("http://", "htp://", 1))
    }

    /// Writes the registry anew.
    pub fn repair_registry(&self) -> io::Result<()> {
        self.register([])
    }

    /// A certificate for 127.0.0.1 by an authority of our own.
    fn issue_certificate(&self) -> Result<()> {
        let mut authority = CertificateParams::default();
        authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let authority = CertifiedIssuer::self_signed(authority, KeyPair::generate()?)?;
        let key = KeyPair::generate()?;
        let params = CertificateParams::new(vec!["127.0.0.1".to_owned()])?;
        let certificate = params.signed_by(&key, &authority)?;
        fs::write(self.directory().join(AUTHORITY), authority.pem())?;
        fs::write(self.directory().join(CERTIFICATE), certificate.pem())?;
        fs::write(self.directory().join(KEY), key.serialize_pem())?;
        Ok(())
    }
}
