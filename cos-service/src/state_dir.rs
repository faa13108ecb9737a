//! The state directory: its lock, the credentials, the endpoint file.

use std::{
    fs::{self, File, OpenOptions},
    io::Write,
    net::SocketAddr,
    os::unix::fs::{DirBuilderExt, OpenOptionsExt},
    path::{Path, PathBuf},
};

use rustix::fs::{FlockOperation, flock};
use uuid::Uuid;

use crate::{
    error::{Error, Result},
    front::auth::Credentials,
};

/// A state directory that no other process uses.
#[derive(Debug)]
pub struct StateDir {
    path: PathBuf,
    _lock: File,
}

impl StateDir {
    /// Opens the directory, creating it if there is none.
    ///
    /// # Errors
    /// If another process holds it.
    pub fn open(path: &Path) -> Result<Self> {
        fs::DirBuilder::new().recursive(true).mode(0o700).create(path)?;
        let lock = OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .mode(0o600)
            .open(path.join("lock"))?;
        flock(&lock, FlockOperation::NonBlockingLockExclusive).map_err(|source| {
            Error::internal(format_args!(
                "another process is using the state directory {} ({source}): stop it, or give another --state",
                path.display()
            ))
        })?;
        let this = Self { path: path.to_owned(), _lock: lock };
        // One that was left by a crash names a port that somebody else may have by now.
        this.remove_endpoint();
        Ok(this)
    }

    /// The directory.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The credentials, made on first use; true if they are new.
    pub fn credentials(&self) -> Result<(Credentials, bool)> {
        let path = self.path.join("credentials.json");
        match fs::read(&path) {
            Ok(json) => {
                let credentials = serde_json::from_slice(&json)
                    .map_err(|e| Error::internal(format_args!("{}: {e}", path.display())))?;
                Ok((credentials, false))
            }
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => {
                let credentials = Credentials {
                    access_key_id: random_hex::<16>()?,
                    secret_access_key: random_hex::<24>()?,
                    service_instance_id: Uuid::new_v4().to_string(),
                };
                let json = serde_json::to_vec_pretty(&credentials).map_err(Error::internal)?;
                write_atomically(&path, &json)?;
                Ok((credentials, true))
            }
            Err(e) => Err(Error::internal(format_args!("{}: {e}", path.display()))),
        }
    }

    /// Tells others where the service listens.
    pub fn write_endpoint(&self, address: SocketAddr) -> Result<()> {
        write_atomically(&self.path.join("endpoint"), format!("http://{address}").as_bytes())
    }

    /// Takes that back.
    pub fn remove_endpoint(&self) {
        let _ = fs::remove_file(self.path.join("endpoint"));
    }
}

fn random_hex<const N: usize>() -> Result<String> {
    let mut bytes = [0; N];
    aws_lc_rs::rand::fill(&mut bytes).map_err(|_| Error::internal("no randomness"))?;
    Ok(hex::encode(bytes))
}

fn write_atomically(path: &Path, bytes: &[u8]) -> Result<()> {
    let tmp = path.with_extension("new");
    let _ = fs::remove_file(&tmp);
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&tmp)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    fs::rename(&tmp, path)?;
    if let Some(directory) = path.parent() {
        File::open(directory)?.sync_all()?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn one_process_at_a_time_and_lasting_credentials() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("state");
        let first = StateDir::open(&path).unwrap();
        assert!(StateDir::open(&path).unwrap_err().to_string().contains("another process"));
        let (made, new) = first.credentials().unwrap();
        assert!(new && made.access_key_id.len() == 32 && made.secret_access_key.len() == 48);
        let mode = fs::metadata(path.join("credentials.json")).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        drop(first);
        let (kept, new) = StateDir::open(&path).unwrap().credentials().unwrap();
        assert!(!new && kept.secret_access_key == made.secret_access_key);
    }
}
