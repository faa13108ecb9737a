//! The embedded database: SQLite in WAL mode, every commit synced to disk before it is acknowledged. Several processes
//! may open it.

use std::fs::OpenOptions;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::time::Duration;

use rusqlite::ffi::SQLITE_IOERR_SHMSIZE;
use rusqlite::{Connection, ErrorCode, OpenFlags, OptionalExtension, Row, params};

use super::engine::{Engine, PieceBuilder};
use super::{Change, Changed, Changes, Error, Piece, Record, Result};

/// A connection to a database file.
pub struct Sqlite {
    connection: Connection,
    /// It could not be rolled back.
    is_lost: bool,
}

impl Sqlite {
    /// Opens the database, making it if need be.
    ///
    /// # Errors
    /// [`Error::Schema`] if it is newer than this program, [`Error::Database`] if SQLite cannot open it.
    pub fn create(path: &Path) -> Result<Self> {
        // For its owner alone; SQLite's files beside it become like it. One that is there is never opened: closing it would
        // end the locks that this process has on it (fcntl). What else is wrong, SQLite says.
        let _ = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path);
        let engine = Self::connect(path, OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_CREATE)?;
        let found: i64 = engine.connection.query_row("PRAGMA user_version", [], |row| row.get(0))?;
        if found > SCHEMA_VERSION {
            return Err(Error::Schema { found, known: SCHEMA_VERSION });
        }
        if found < SCHEMA_VERSION {
            engine.connection.execute_batch(SCHEMA)?;
        }
        Ok(engine)
    }

    /// Opens a database that is there.
    ///
    /// # Errors
    /// [`Error::Database`].
    pub fn open(path: &Path) -> Result<Self> {
        Self::connect(path, OpenFlags::SQLITE_OPEN_READ_WRITE)
    }

    fn connect(path: &Path, flags: OpenFlags) -> Result<Self> {
        let connection = Connection::open_with_flags(path, flags | OpenFlags::SQLITE_OPEN_NO_MUTEX)?;
        connection.busy_timeout(BUSY_TIMEOUT)?;
        connection.pragma_update(None, "journal_mode", "WAL")?;
        connection.pragma_update(None, "synchronous", "FULL")?;
        connection.pragma_update(None, "wal_autocheckpoint", LOG_BYTES / PAGE_BYTES)?;
        // What is deleted is overwritten, in the database and, once checkpointed, in the log.
        connection.pragma_update(None, "secure_delete", "ON")?;
        connection.pragma_update(None, "temp_store", "MEMORY")?;
        connection.pragma_update(None, "cache_size", -CACHE_KIB)?;
        connection.set_prepared_statement_cache_capacity(32);
        Ok(Self { connection, is_lost: false })
    }

    fn run(&self, statement: &str) -> Result<()> {
        self.connection.prepare_cached(statement)?.execute([])?;
        Ok(())
    }
}

impl Engine for Sqlite {
    fn begin(&mut self) -> Result<()> {
        self.run("BEGIN IMMEDIATE")
    }

    fn commit(&mut self) -> Result<()> {
        self.run("COMMIT")
    }

    fn roll_back(&mut self) -> Result<()> {
        let outcome = self.run("ROLLBACK");
        self.is_lost |= self.is_in_transaction();
        outcome
    }

    fn set_savepoint(&mut self) -> Result<()> {
        self.run("SAVEPOINT one")
    }

    fn return_to_savepoint(&mut self) -> Result<()> {
        self.run("ROLLBACK TO one")
    }

    fn release_savepoint(&mut self) -> Result<()> {
        self.run("RELEASE one")
    }

    fn is_in_transaction(&self) -> bool {
        !self.connection.is_autocommit()
    }

    fn is_lost(&self) -> bool {
        self.is_lost
    }

    fn get(&mut self, kind: &str, id: &str) -> Result<Option<Record>> {
        let mut statement = self
            .connection
            .prepare_cached("SELECT kind, id, version, body FROM records WHERE kind = ?1 AND id = ?2")?;
        Ok(statement.query_row(params![kind, id], record).optional()?)
    }

    fn version(&mut self, kind: &str, id: &str) -> Result<Option<u64>> {
        let mut statement =
            self.connection.prepare_cached("SELECT version FROM records WHERE kind = ?1 AND id = ?2")?;
        let version: Option<i64> = statement.query_row(params![kind, id], |row| row.get(0)).optional()?;
        Ok(version.map(|version| version as u64))
    }

    fn scan(&mut self, kind: &str, wants_more: &mut dyn FnMut(Record) -> bool) -> Result<()> {
        let mut statement = self
            .connection
            .prepare_cached("SELECT kind, id, version, body FROM records WHERE kind = ?1 ORDER BY id")?;
        for found in statement.query_map(params![kind], record)? {
            if !wants_more(found?) {
                break;
            }
        }
        Ok(())
    }

    fn ids(&mut self, kind: &str) -> Result<Vec<String>> {
        let mut statement =
            self.connection.prepare_cached("SELECT id FROM records WHERE kind = ?1 ORDER BY id")?;
        let ids = statement.query_map(params![kind], |row| row.get(0))?.collect::<rusqlite::Result<_>>()?;
        Ok(ids)
    }

    fn kinds(&mut self) -> Result<Vec<String>> {
        let mut statement = self.connection.prepare_cached(super::engine::KINDS)?;
        let kinds = statement.query_map([], |row| row.get(0))?.collect::<rusqlite::Result<_>>()?;
        Ok(kinds)
    }

    fn put(&mut self, kind: &str, id: &str, version: u64, body: &[u8]) -> Result<()> {
        self.connection
            .prepare_cached(
                "INSERT OR REPLACE INTO records (kind, id, version, body) VALUES (?1, ?2, ?3, ?4)",
            )?
            .execute(params![kind, id, version as i64, body])?;
        Ok(())
    }

    fn remove(&mut self, kind: &str, id: &str) -> Result<()> {
        self.connection
            .prepare_cached("DELETE FROM records WHERE kind = ?1 AND id = ?2")?
            .execute(params![kind, id])?;
        Ok(())
    }

    fn log(&mut self, revision: Option<u64>, kind: &str, id: &str) -> Result<u64> {
        self.connection
            .prepare_cached("INSERT INTO changes (revision, kind, id) VALUES (?1, ?2, ?3)")?
            .execute(params![revision.map(|revision| revision as i64), kind, id])?;
        Ok(self.connection.last_insert_rowid() as u64)
    }

    fn head(&mut self) -> Result<u64> {
        let head: i64 = self
            .connection
            .prepare_cached("SELECT COALESCE(MAX(revision), 0) FROM changes")?
            .query_row([], |row| row.get(0))?;
        Ok(head as u64)
    }

    fn leave_gap(&mut self, places: u64) -> Result<()> {
        self.connection
            .execute("UPDATE sqlite_sequence SET seq = seq + ?1 WHERE name = 'changes'", [places as i64])?;
        Ok(())
    }

    fn clear(&mut self) -> Result<()> {
        Ok(self.connection.execute_batch("DELETE FROM records; DELETE FROM changes")?)
    }

    fn local(&mut self, name: &str) -> Result<Option<Vec<u8>>> {
        let mut statement = self.connection.prepare_cached("SELECT value FROM local WHERE name = ?1")?;
        Ok(statement.query_row(params![name], |row| row.get(0)).optional()?)
    }

    fn set_local(&mut self, name: &str, value: &[u8]) -> Result<()> {
        self.connection
            .prepare_cached("INSERT OR REPLACE INTO local (name, value) VALUES (?1, ?2)")?
            .execute(params![name, value])?;
        Ok(())
    }

    fn remove_local(&mut self, name: &str) -> Result<()> {
        self.connection.prepare_cached("DELETE FROM local WHERE name = ?1")?.execute(params![name])?;
        Ok(())
    }

    fn changes(&mut self, kind: &str, since: u64, max_bytes: usize) -> Result<Changes> {
        // One transaction: what is read and the revision belong together.
        let transaction = self.connection.transaction()?;
        let head: i64 =
            transaction.query_row("SELECT COALESCE(MAX(revision), 0) FROM changes", [], |row| row.get(0))?;
        let mut found = Changes { revision: head as u64, ..Changes::default() };
        if found.revision == since {
            return Ok(found);
        }
        // Bodies are not sorted: they would fill the disk with temporary files.
        let mut last_changes = transaction.prepare_cached(
            "SELECT MAX(revision), id FROM changes WHERE kind = ?1 AND revision > ?2 GROUP BY id ORDER BY 1",
        )?;
        let mut stored = transaction
            .prepare_cached("SELECT kind, id, version, body FROM records WHERE kind = ?1 AND id = ?2")?;
        let mut rows = last_changes.query(params![kind, since as i64])?;
        let mut bytes = 0;
        while let Some(row) = rows.next()? {
            if bytes > max_bytes {
                found.more = true;
                found.revision = found.changes.last().map_or(since, |change: &Change| change.revision);
                break;
            }
            let (revision, id): (i64, String) = (row.get(0)?, row.get(1)?);
            let record = stored.query_row(params![kind, id], record).optional()?;
            if record.is_none() && since == 0 {
                continue;
            }
            bytes += record.as_ref().map_or(0, |record| record.body.len());
            found.changes.push(Change { revision: revision as u64, id, record });
        }
        Ok(found)
    }

    fn piece(&mut self, since: u64, max_bytes: usize, max_places: usize) -> Result<Piece> {
        let mut piece = PieceBuilder::new(since, max_bytes, max_places);
        let mut statement = self.connection.prepare_cached(
            "SELECT c.revision, c.kind, c.id, r.version, r.body,
                    EXISTS (SELECT 1 FROM changes l WHERE l.kind = c.kind AND l.id = c.id AND l.revision > c.revision)
             FROM changes c LEFT JOIN records r ON r.kind = c.kind AND r.id = c.id
             WHERE c.revision > ?1 ORDER BY c.revision",
        )?;
        let mut rows = statement.query(params![since as i64])?;
        while let Some(row) = rows.next()? {
            if piece.is_full() {
                break;
            }
            let revision = row.get::<_, i64>(0)? as u64;
            if row.get(5)? {
                piece.pass(revision);
                continue;
            }
            let record = match row.get::<_, Option<i64>>(3)? {
                Some(version) => Some((version as u64, row.get(4)?)),
                None => None,
            };
            piece.take(Changed { revision, kind: row.get(1)?, id: row.get(2)?, record });
        }
        Ok(piece.finish())
    }

    /// Moves the write-ahead log into the database and empties it. Fails if a reader keeps it in use.
    fn erase_log(&mut self) -> Result<()> {
        let busy: bool =
            self.connection.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |row| row.get(0))?;
        if busy {
            return Err(Error::Database("deleted, but a reader keeps the old log from being erased".into()));
        }
        Ok(())
    }
}

impl From<rusqlite::Error> for Error {
    fn from(error: rusqlite::Error) -> Self {
        match error.sqlite_error().map(|error| (error.code, error.extended_code)) {
            Some((ErrorCode::DiskFull, _) | (_, SQLITE_IOERR_SHMSIZE)) => Self::Full(error.to_string()),
            _ => Self::Database(error.to_string()),
        }
    }
}

fn record(row: &Row<'_>) -> rusqlite::Result<Record> {
    Ok(Record {
        kind: row.get(0)?,
        id: row.get(1)?,
        version: row.get::<_, i64>(2)? as u64,
        body: row.get(3)?,
    })
}

/// Thousands of objects are read in no order.
const CACHE_KIB: i64 = 8 << 10;
/// How long the write-ahead log grows before it is moved into the database.
pub const LOG_BYTES: u32 = 1 << 20;
/// SQLite's default.
const PAGE_BYTES: u32 = 4096;
const SCHEMA_VERSION: i64 = 2;
/// Each statement leaves alone what is there: the schema of every older version becomes this one.
const SCHEMA: &str = "
    BEGIN IMMEDIATE;
    CREATE TABLE IF NOT EXISTS records (
        kind TEXT NOT NULL,
        id TEXT NOT NULL,
        version INTEGER NOT NULL,
        body BLOB NOT NULL,
        PRIMARY KEY (kind, id)
    ) WITHOUT ROWID;
    CREATE TABLE IF NOT EXISTS changes (
        revision INTEGER PRIMARY KEY AUTOINCREMENT,
        kind TEXT NOT NULL,
        id TEXT NOT NULL
    );
    CREATE INDEX IF NOT EXISTS changes_by_kind ON changes (kind, revision);
    CREATE INDEX IF NOT EXISTS changes_by_record ON changes (kind, id, revision);
    CREATE TABLE IF NOT EXISTS local (
        name TEXT PRIMARY KEY,
        value BLOB NOT NULL
    ) WITHOUT ROWID;
    PRAGMA user_version = 2;
    COMMIT;";
/// How long a process waits for another one.
pub const BUSY_TIMEOUT: Duration = Duration::from_secs(10);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::keystore::{Effect, Expect, Keystore, Location, Write};

    fn write(id: &str, expect: Expect, body: Option<&[u8]>) -> Write {
        let effect = body.map_or(Effect::Delete, |body| Effect::Put(body.into()));
        Write { kind: "k".into(), id: id.into(), expect, effect }
    }

    fn open(path: &Path) -> Result<Keystore> {
        Keystore::open(&Location::File(path.to_owned()))
    }

    #[test]
    fn the_files_are_for_their_owner_alone() {
        use std::os::unix::fs::PermissionsExt;
        let dir = tempfile::tempdir().expect("dir");
        let keystore = open(&dir.path().join("k")).expect("open");
        keystore.commit(vec![write("a", Expect::Absent, Some(b"1"))]).expect("commit");
        for name in ["k", "k-wal", "k-shm"] {
            let metadata = dir.path().join(name).metadata().expect(name);
            assert_eq!(metadata.permissions().mode() & 0o077, 0, "{name}");
        }
    }

    /// As if another process had the database open for reading while something secret is deleted.
    #[test]
    fn an_erasure_that_a_reader_prevents_is_reported() {
        let dir = tempfile::tempdir().expect("dir");
        let path = dir.path().join("k");
        drop(open(&path).expect("open"));
        let mut engine = Sqlite::open(&path).expect("open");
        engine.connection.busy_timeout(Duration::from_millis(10)).expect("timeout");
        let keystore = open(&path).expect("open");
        keystore.commit(vec![write("a", Expect::Absent, Some(b"1"))]).expect("commit");
        let mut other = Connection::open(&path).expect("open");
        let reading = other.transaction().expect("transaction");
        reading.query_row("SELECT COUNT(*) FROM records", [], |_| Ok(())).expect("read");
        keystore.commit(vec![write("a", Expect::Present, None)]).expect("commit");
        assert!(engine.erase_log().is_err());
        drop(reading);
        engine.erase_log().expect("nobody reads");
    }

    #[test]
    fn a_suspended_keystore_goes_on_where_it_was() {
        let dir = tempfile::tempdir().expect("dir");
        let keystore = open(&dir.path().join("k")).expect("open");
        keystore.commit(vec![write("a", Expect::Absent, Some(b"1"))]).expect("commit");
        std::thread::scope(|scope| {
            let suspended = keystore.suspend();
            let waiting = scope.spawn(|| keystore.commit(vec![write("b", Expect::Absent, Some(b"2"))]));
            std::thread::sleep(Duration::from_millis(20));
            assert!(!waiting.is_finished());
            drop(suspended);
            waiting.join().expect("thread").expect("commit");
        });
        assert_eq!(keystore.scan("k").expect("scan").len(), 2);
    }

    #[test]
    fn a_newer_schema_is_refused() {
        let dir = tempfile::tempdir().expect("dir");
        let path = dir.path().join("k");
        drop(open(&path).expect("open"));
        Connection::open(&path).expect("open").pragma_update(None, "user_version", 9).expect("set");
        assert!(matches!(open(&path), Err(Error::Schema { found: 9, known: 2 })));
    }
}
