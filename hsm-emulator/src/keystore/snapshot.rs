//! A copy of a keystore as it is at one moment, while others write.

use std::path::Path;

use rusqlite::{Connection, OpenFlags, params};

use super::{Error, Keystore, Location, Result};

/// Copies the keystore at `from` into a new file, which has nothing deleted in it and nothing of a pair. Whatever was
/// acknowledged before is in the copy. Nobody waits, but the log cannot be erased until it is done
/// ([`Keystore::erase_log`]).
///
/// # Errors
/// [`Error::Database`].
pub fn take(from: &Location, to: &Path) -> Result<()> {
    match from {
        Location::File(path) => {
            let name = to.to_str().ok_or_else(|| Error::Database(format!("{}: not UTF-8", to.display())))?;
            open(path)?.execute("VACUUM INTO ?1", params![name])?;
        }
        #[cfg(feature = "edge")]
        Location::Postgres(_) => {
            copy(&Keystore::open(from)?, &Keystore::open(&Location::File(to.to_owned()))?)?
        }
    }
    let copy = open(to)?;
    // In memory, so that there is no second file; the copy is made anew if this is cut off.
    copy.pragma_update(None, "journal_mode", "MEMORY")?;
    copy.pragma_update(None, "secure_delete", "ON")?;
    copy.execute("DELETE FROM local", [])?;
    copy.close().map_err(|(_, error)| error.into())
}

/// Puts all records, with their log, in the place of what another keystore holds; at once, or not at all.
///
/// # Errors
/// [`Error::Database`].
pub fn copy(from: &Keystore, to: &Keystore) -> Result<()> {
    let mut inflow = to.inflow()?;
    inflow.clear()?;
    let mut since = 0;
    loop {
        let piece = from.piece(since)?;
        piece.changes.iter().try_for_each(|change| inflow.apply(change))?;
        since = piece.revision;
        if !piece.more {
            return inflow.commit();
        }
    }
}

/// Body and version of a record of a copy.
///
/// # Errors
/// [`Error::Database`].
pub fn record(copy: &Path, kind: &str, id: &str) -> Result<super::Record> {
    let found = open(copy)?.query_row(
        "SELECT version, body FROM records WHERE kind = ?1 AND id = ?2",
        params![kind, id],
        |row| Ok((row.get::<_, i64>(0)?, row.get(1)?)),
    )?;
    Ok(super::Record { kind: kind.to_owned(), id: id.to_owned(), version: found.0 as u64, body: found.1 })
}

fn open(path: &Path) -> Result<Connection> {
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let connection = Connection::open_with_flags(path, flags)?;
    connection.busy_timeout(super::sqlite::BUSY_TIMEOUT)?;
    Ok(connection)
}
