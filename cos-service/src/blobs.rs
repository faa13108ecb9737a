//! Blobs too large for the metadata database: one file each, named by a random UUID.
//!
//! A blob is written to `tmp/`, fsynced, renamed to `blobs/<2 hex digits>/<uuid>`, and its
//! directory fsynced, all before the metadata that names it is committed. A file is never
//! written in place and never named after a key.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Write},
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
    sync::Arc,
};

use uuid::Uuid;

use crate::error::{Error, Result};

/// The directories of the blobs.
#[derive(Debug, Clone)]
pub struct Blobs {
    root: Arc<PathBuf>,
    tmp: Arc<PathBuf>,
}

impl Blobs {
    /// Opens the directories under `state`, creating what is missing, and removes unfinished files.
    pub fn open(state: &Path) -> Result<Self> {
        let (root, tmp) = (state.join("blobs"), state.join("tmp"));
        fs::create_dir_all(&root)?;
        fs::create_dir_all(&tmp)?;
        for shard in 0..=255_u8 {
            let path = root.join(format!("{shard:02x}"));
            if !path.is_dir() {
                fs::create_dir(path)?;
            }
        }
        let mut unfinished = 0;
        for entry in fs::read_dir(&tmp)? {
            fs::remove_file(entry?.path())?;
            unfinished += 1;
        }
        if unfinished > 0 {
            tracing::info!(unfinished, "removed unfinished uploads");
        }
        for directory in [&root, &tmp, &state.to_owned()] {
            sync_directory(directory)?;
        }
        Ok(Self { root: Arc::new(root), tmp: Arc::new(tmp) })
    }

    /// Begins a blob.
    pub fn create(&self, id: Uuid) -> Result<UnfinishedBlob> {
        let path = self.tmp.join(id.to_string());
        let file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path)?;
        Ok(UnfinishedBlob { blobs: self.clone(), id, path, file })
    }

    /// Opens a blob for reading.
    pub fn open_blob(&self, id: Uuid) -> Result<File> {
        File::open(self.path(id)).map_err(|source| match source.kind() {
            io::ErrorKind::NotFound => Error::damaged(format_args!("blob {id} has no file")),
            _ => Error::from(source),
        })
    }

    /// Deletes a blob; one that is gone already is no error.
    pub fn delete(&self, id: Uuid) -> Result<()> {
        match fs::remove_file(self.path(id)) {
            Err(source) if source.kind() != io::ErrorKind::NotFound => Err(source.into()),
            _ => Ok(()),
        }
    }

    /// Deletes what can be deleted, and returns it.
    pub fn delete_all(&self, mut ids: Vec<Uuid>) -> Vec<Uuid> {
        let wanted = ids.len();
        let mut first_error = None;
        ids.retain(|id| self.delete(*id).map_err(|error| first_error.get_or_insert(error).status).is_ok());
        if let Some(error) = first_error {
            tracing::warn!(%error, count = wanted - ids.len(), "files cannot be deleted; trying again later");
        }
        ids
    }

    /// Every blob that has a file, with its size in bytes.
    pub fn list(&self) -> Result<Vec<(Uuid, u64)>> {
        let mut found = Vec::new();
        for shard in fs::read_dir(self.root.as_path())? {
            for entry in fs::read_dir(shard?.path())? {
                let entry = entry?;
                let id = entry.file_name().to_str().and_then(|name| Uuid::parse_str(name).ok());
                if let Some(id) = id {
                    found.push((id, entry.metadata()?.len()));
                }
            }
        }
        Ok(found)
    }

    fn shard(&self, id: Uuid) -> PathBuf {
        self.root.join(format!("{:02x}", id.as_bytes()[0]))
    }

    fn path(&self, id: Uuid) -> PathBuf {
        self.shard(id).join(id.to_string())
    }
}

/// A blob being written; dropped, it is gone.
#[derive(Debug)]
pub struct UnfinishedBlob {
    blobs: Blobs,
    id: Uuid,
    path: PathBuf,
    file: File,
}

impl UnfinishedBlob {
    /// Appends bytes.
    pub fn write(&mut self, bytes: &[u8]) -> Result<()> {
        Ok(self.file.write_all(bytes)?)
    }

    /// A second handle, to write back early what is in the page cache.
    pub fn handle(&self) -> Result<File> {
        Ok(self.file.try_clone()?)
    }

    /// Makes the blob durable under its name. After a failed fsync the file is given up:
    /// the kernel may have dropped what it could not write.
    pub fn place(self) -> Result<PlacedBlob> {
        self.file.sync_data()?;
        let placed = PlacedBlob { blobs: self.blobs.clone(), id: self.id, kept: false };
        fs::rename(&self.path, self.blobs.path(self.id))?;
        sync_directory(&self.blobs.shard(self.id))?;
        Ok(placed)
    }
}

impl Drop for UnfinishedBlob {
    fn drop(&mut self) {
        // After a rename there is nothing under this name any more.
        let _ = fs::remove_file(&self.path);
    }
}

/// A durable blob that no metadata names yet; dropped without [`Self::keep`], it is deleted.
#[derive(Debug)]
pub struct PlacedBlob {
    blobs: Blobs,
    id: Uuid,
    kept: bool,
}

impl PlacedBlob {
    /// To be called once a change that names the blob has run: from here on the file stays, whatever
    /// happens to this process. The next start removes it if no row names it.
    pub fn keep(mut self) -> Uuid {
        self.kept = true;
        self.id
    }
}

impl Drop for PlacedBlob {
    fn drop(&mut self) {
        if !self.kept
            && let Err(error) = self.blobs.delete(self.id)
        {
            tracing::warn!(%error, blob = %self.id, "an unused blob was not deleted");
        }
    }
}

fn sync_directory(path: &Path) -> Result<()> {
    Ok(File::open(path)?.sync_all()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_kept_blobs_stay() {
        let dir = tempfile::tempdir().unwrap();
        let blobs = Blobs::open(dir.path()).unwrap();
        let [kept, dropped, unfinished] = [(); 3].map(|()| Uuid::new_v4());
        let write = |id| {
            let mut blob = blobs.create(id).unwrap();
            blob.write(b"bytes").unwrap();
            blob
        };
        write(kept).place().unwrap().keep();
        drop(write(dropped).place().unwrap());
        std::mem::forget(write(unfinished));
        assert_eq!(blobs.list().unwrap(), [(kept, 5)]);
        assert_eq!(fs::read_dir(dir.path().join("tmp")).unwrap().count(), 1);
        Blobs::open(dir.path()).unwrap();
        assert_eq!(fs::read_dir(dir.path().join("tmp")).unwrap().count(), 0);
        blobs.delete(kept).unwrap();
        blobs.delete(kept).unwrap();
        assert_eq!(blobs.open_blob(kept).unwrap_err().status, 500);
    }
}
