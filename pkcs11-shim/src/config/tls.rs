//! What a connection by TLS needs: whom to trust, and how to prove oneself.

use std::fs;
use std::path::{Path, PathBuf};

use hsm_emulator::units::Result;
use zeroize::Zeroizing;

use super::bad;

/// Certificates in PEM.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Tls {
    /// The authority of the HSM's certificate; `None`: those that the system trusts.
    pub authority: Option<Vec<u8>>,
    /// Certificate and private key of the application, for an HSM that wants them (mutual TLS).
    pub identity: Option<(Vec<u8>, Zeroizing<Vec<u8>>)>,
}

/// Where they are.
#[derive(Default)]
pub struct TlsFiles {
    /// The authority's certificate.
    pub authority: Option<PathBuf>,
    /// The application's certificate.
    pub certificate: Option<PathBuf>,
    /// Its private key.
    pub key: Option<PathBuf>,
}

impl TlsFiles {
    /// Reads them.
    ///
    /// # Errors
    /// `CKR_FUNCTION_FAILED` with the reason; a certificate without a key, or a key without a certificate, is one.
    pub fn read(&self) -> Result<Tls> {
        let identity = match (&self.certificate, &self.key) {
            (Some(certificate), Some(key)) => Some((read(certificate)?, Zeroizing::new(read(key)?))),
            (None, None) => None,
            _ => return Err(bad("a client certificate and its key go together".into())),
        };
        Ok(Tls { authority: self.authority.as_deref().map(read).transpose()?, identity })
    }
}

impl std::fmt::Debug for Tls {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Tls")
    }
}

fn read(path: &Path) -> Result<Vec<u8>> {
    fs::read(path).map_err(|e| bad(format!("cannot read {}: {e}", path.display())))
}
