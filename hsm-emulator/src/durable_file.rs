//! Small files that must survive a crash: written whole or not at all, readable by their owner only.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::Path;

/// Replaces a file: temporary file, fsync, rename, fsync of the directory. Mode 0600.
///
/// # Errors
/// Whatever the file system says; the old content is then still there, unless the error [`is_uncertain`].
pub fn replace(path: &Path, content: &[u8]) -> io::Result<()> {
    replace_with(path, |file| file.write_all(content))
}

/// The same of a file that is written piece by piece.
///
/// # Errors
/// As [`replace`], and those of `write`.
pub fn replace_with<E: From<io::Error>>(
    path: &Path,
    write: impl FnOnce(&mut File) -> Result<(), E>,
) -> Result<(), E> {
    let dir = parent(path);
    let mut name = path.file_name().unwrap_or_default().to_os_string();
    name.push(format!(".{}.tmp", std::process::id()));
    let temporary = dir.join(name);
    let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&temporary)?;
    write(&mut file)?;
    file.sync_all()?;
    fs::rename(&temporary, path)?;
    Ok(sync_dir(dir).map_err(|error| io::Error::new(error.kind(), Uncertain(error)))?)
}

/// Makes the names in a directory durable.
///
/// # Errors
/// Whatever the file system says.
pub fn sync_dir(dir: &Path) -> io::Result<()> {
    File::open(dir)?.sync_all()
}

/// Is the new content there, but perhaps not after a power loss?
pub fn is_uncertain(error: &io::Error) -> bool {
    error.get_ref().is_some_and(|inner| inner.is::<Uncertain>())
}

/// The file has its new name, and the directory cannot be synced.
#[derive(Debug, thiserror::Error)]
#[error("replaced, but its directory cannot be synced: {0}")]
struct Uncertain(io::Error);

/// Makes a directory and its parents, mode 0700, each with a durable name.
///
/// # Errors
/// Whatever the file system says.
pub fn create_dir(path: &Path) -> io::Result<()> {
    if path.is_dir() {
        return Ok(());
    }
    let parent = parent(path);
    create_dir(parent)?;
    match fs::DirBuilder::new().mode(0o700).create(path) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists && path.is_dir() => {}
        outcome => outcome?,
    }
    sync_dir(parent)
}

/// Of a name alone, the working directory.
pub fn parent(path: &Path) -> &Path {
    path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."))
}
