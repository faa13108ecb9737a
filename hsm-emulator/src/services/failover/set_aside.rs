//! Changes that nobody acknowledged, kept when a region gives them up for its partner's.

use std::fs::{self, File};
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use serde_json::json;

use crate::durable_file;
use crate::keystore::{self, Keystore};
use crate::services::region::Error;

/// Writes the records that have changed after a position of the log, as they are now, as a line of JSON each. How many,
/// and where. Bodies are sealed by the units: whoever reads the file learns no key.
///
/// # Errors
/// The disk's and the keystore's.
pub fn set_aside(keystore: &Keystore, since: u64, dir: &Path) -> Result<(usize, PathBuf), Error> {
    let disk = |source| Error::Disk { path: dir.to_owned(), source };
    durable_file::create_dir(dir).map_err(disk)?;
    let path = dir.join(format!("{}-{}.jsonl", since + 1, keystore.head()?));
    let mut count = 0;
    let write = |file: &mut File| {
        let (mut lines, mut since) = (BufWriter::new(file), since);
        loop {
            let piece = keystore.piece(since).map_err(io::Error::other)?;
            for change in &piece.changes {
                let record = change.record.as_ref();
                let line = json!({
                    "revision": change.revision, "kind": change.kind, "id": change.id,
                    "version": record.map(|(version, _)| version),
                    "body": record.map(|(_, body)| BASE64.encode(body)),
                });
                writeln!(lines, "{line}")?;
                count += 1;
            }
            since = piece.revision;
            if !piece.more {
                return lines.flush();
            }
        }
    };
    durable_file::replace_with(&path, write).map_err(disk)?;
    Ok((count, path))
}

/// What has been set aside so far, by file name, oldest first.
///
/// # Errors
/// The disk's.
pub fn list(dir: &Path) -> io::Result<Vec<String>> {
    let entries = match fs::read_dir(dir) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error),
    };
    let mut names = entries
        .map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned()))
        .collect::<io::Result<Vec<_>>>()?;
    names.sort();
    Ok(names)
}

/// A record that two regions have differently.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Difference {
    /// Which record.
    pub kind: String,
    /// Which record.
    pub id: String,
}

/// The records that have changed in a keystore after a position, at most `limit` of them.
///
/// # Errors
/// [`keystore::Error::Database`].
pub fn changed_since(keystore: &Keystore, mut since: u64, limit: usize) -> keystore::Result<Vec<Difference>> {
    let mut found = Vec::new();
    loop {
        let piece = keystore.piece(since)?;
        found.extend(piece.changes.into_iter().map(|change| Difference { kind: change.kind, id: change.id }));
        if !piece.more || found.len() >= limit {
            found.truncate(limit);
            return Ok(found);
        }
        since = piece.revision;
    }
}
