//! The port for clients on other machines: everything that the loopback port serves, by TLS.

use std::fs;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use rcgen::{CertificateParams, DnType, KeyPair};
use tonic::transport::{Certificate, Identity, ServerTlsConfig};
use zeroize::Zeroizing;

use crate::durable_file;

/// How to serve by TLS.
#[derive(Clone, Debug)]
pub struct Options {
    /// Any address.
    pub listen: SocketAddr,
    /// Certificate and private key, in PEM. Without, a certificate is made on first use.
    pub certificate: Option<(PathBuf, PathBuf)>,
    /// The authority of the certificates that clients must have (mutual TLS), in PEM.
    pub client_authority: Option<PathBuf>,
}

impl Options {
    /// Reads the files; makes a certificate under the state directory if none is named.
    ///
    /// # Errors
    /// The disk's, with the path.
    pub fn config(&self, state: &Path) -> io::Result<ServerTlsConfig> {
        let (certificate, key) = match &self.certificate {
            Some((certificate, key)) => (certificate.clone(), key.clone()),
            None => own_certificate(&state.join(DIR), self.listen.ip())?,
        };
        let identity = Identity::from_pem(read(&certificate)?, Zeroizing::new(read(&key)?).as_slice());
        let config = ServerTlsConfig::new().identity(identity).timeout(HANDSHAKE_TIMEOUT);
        Ok(match &self.client_authority {
            Some(authority) => config.client_ca_root(Certificate::from_pem(read(authority)?)),
            None => config,
        })
    }
}

/// The paths of a certificate for this machine that is its own authority, and of its key; made on first use.
fn own_certificate(dir: &Path, listen: IpAddr) -> io::Result<(PathBuf, PathBuf)> {
    let (certificate, key) = (dir.join("certificate.pem"), dir.join("key.pem"));
    let host = rustix::system::uname().nodename().to_string_lossy().into_owned();
    let mut names = vec!["localhost".to_owned(), "127.0.0.1".to_owned(), "::1".to_owned(), host];
    if !listen.is_unspecified() && !names.contains(&listen.to_string()) {
        names.push(listen.to_string());
    }
    // Which names it is for: another address needs another certificate, under the same key.
    let list = dir.join("names");
    let wanted = names.join("\n");
    if fs::read_to_string(&list).is_ok_and(|made| made == wanted) {
        return Ok((certificate, key));
    }
    durable_file::create_dir(dir)?;
    let key_pair = match fs::read_to_string(&key).map(Zeroizing::new) {
        Ok(pem) => KeyPair::from_pem(&pem).map_err(io::Error::other)?,
        Err(_) => {
            let made = KeyPair::generate().map_err(io::Error::other)?;
            durable_file::replace(&key, Zeroizing::new(made.serialize_pem()).as_bytes())?;
            made
        }
    };
    let made = || {
        let mut params = CertificateParams::new(names)?;
        params.distinguished_name.push(DnType::CommonName, "HSM emulator");
        Ok::<_, rcgen::Error>(params.self_signed(&key_pair)?.pem())
    };
    durable_file::replace(&certificate, made().map_err(io::Error::other)?.as_bytes())?;
    // The list comes last: without it, all of this is done again.
    durable_file::replace(&list, wanted.as_bytes())?;
    Ok((certificate, key))
}

fn read(path: &Path) -> io::Result<Vec<u8>> {
    fs::read(path).map_err(|e| io::Error::new(e.kind(), format!("{}: {e}", path.display())))
}

/// Who connects and says nothing is not waited for.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);
/// Directory of the certificate that is made, in the state directory.
const DIR: &str = "tls";
/// File with the address that is bound, in the state directory; there while it serves.
pub const ENDPOINT: &str = "tls-endpoint";
