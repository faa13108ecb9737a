//! What a region proves itself with to its partner: a certificate of its own making, which the partner was given.

use std::fs;
use std::io;
use std::path::Path;

use rcgen::{CertificateParams, DistinguishedName, DnType, KeyPair};
use tonic::transport::{Certificate, ClientTlsConfig, Identity, ServerTlsConfig};
use zeroize::Zeroizing;

use crate::durable_file;

/// A certificate and its private key, in PEM.
pub struct Credentials {
    /// For the partner.
    pub certificate: String,
    key: Zeroizing<String>,
}

impl Credentials {
    /// New ones. The key is P-256, and the certificate is its own authority.
    ///
    /// # Errors
    /// Without randomness.
    pub fn generate() -> io::Result<Self> {
        let made = || {
            let key = KeyPair::generate()?;
            let mut params = CertificateParams::new(vec![NAME.to_owned()])?;
            params.distinguished_name = DistinguishedName::new();
            params.distinguished_name.push(DnType::CommonName, format!("{NAME} {}", uuid::Uuid::new_v4()));
            let certificate = params.self_signed(&key)?.pem();
            Ok::<_, rcgen::Error>(Self { certificate, key: Zeroizing::new(key.serialize_pem()) })
        };
        made().map_err(io::Error::other)
    }

    /// Those in this directory; made on first use.
    ///
    /// # Errors
    /// The disk's.
    pub fn open(dir: &Path) -> io::Result<Self> {
        match fs::read_to_string(dir.join(CERTIFICATE)) {
            Ok(certificate) => {
                let key = Zeroizing::new(fs::read_to_string(dir.join(KEY))?);
                Ok(Self { certificate, key })
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                let credentials = Self::generate()?;
                credentials.store(dir)?;
                Ok(credentials)
            }
            Err(error) => Err(error),
        }
    }

    /// From PEM.
    pub fn new(certificate: String, key: Zeroizing<String>) -> Self {
        Self { certificate, key }
    }

    /// The private key, in PEM.
    pub fn key(&self) -> &str {
        &self.key
    }

    /// Keeps them. The certificate comes last: without it there are none.
    ///
    /// # Errors
    /// The disk's.
    pub fn store(&self, dir: &Path) -> io::Result<()> {
        durable_file::create_dir(dir)?;
        durable_file::replace(&dir.join(KEY), self.key.as_bytes())?;
        durable_file::replace(&dir.join(CERTIFICATE), self.certificate.as_bytes())
    }

    /// For a listener that lets only the partner in.
    pub fn server(&self, partner: &str) -> ServerTlsConfig {
        ServerTlsConfig::new().identity(self.identity()).client_ca_root(Certificate::from_pem(partner))
    }

    /// For a connection to the partner alone.
    pub fn client(&self, partner: &str) -> ClientTlsConfig {
        ClientTlsConfig::new()
            .identity(self.identity())
            .ca_certificate(Certificate::from_pem(partner))
            .domain_name(NAME)
    }

    fn identity(&self) -> Identity {
        Identity::from_pem(&self.certificate, self.key.as_bytes())
    }
}

/// The name in every certificate: which one it is counts, not what it says.
const NAME: &str = "region.hsm-emulator";
const CERTIFICATE: &str = "certificate.pem";
const KEY: &str = "key.pem";
/// Directory of the credentials, in the state directory.
pub const PAIR_DIR: &str = "pair";
