//! The embedded keystore: SQLite in WAL mode, every commit synced to disk before it is acknowledged.
//!
//! Several processes may open one database. Within a process, commits that wait at the same time share one
//! transaction, so one fsync serves them all: whoever gets the connection first writes for everybody.

mod replication;

pub use replication::Inflow;

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use parking_lot::{ArcMutexGuard, RawMutex};
use rusqlite::{Connection, OpenFlags, OptionalExtension, Row, TransactionBehavior, params};

use super::gate::{Gate, Importance};
use super::{Change, Changes, Effect, Error, Expect, Record, Result, Write};

/// A keystore in one file.
pub struct SqliteKeystore {
    path: PathBuf,
    gate: Gate,
    waiting: Mutex<Vec<Arc<Commit>>>,
    /// `None` after a fork, until it is used again.
    writer: Slot,
    /// See `writer`.
    reader: Slot,
}

/// The keystore while nobody else writes. What it writes becomes durable together, or not at all.
pub struct Transaction<'a>(rusqlite::Transaction<'a>);

type Slot = Arc<parking_lot::Mutex<Option<Connection>>>;

/// A keystore with its connections closed, and nobody able to open one, until this is dropped.
pub struct Suspended {
    _writer: ArcMutexGuard<RawMutex, Option<Connection>>,
    _reader: ArcMutexGuard<RawMutex, Option<Connection>>,
}

/// A batch on its way to the disk.
struct Commit {
    writes: Vec<Write>,
    outcome: Mutex<Option<Result<u64>>>,
}

impl SqliteKeystore {
    /// Opens the database, making it if need be.
    ///
    /// # Errors
    /// [`Error::Schema`] if it is newer than this program, [`Error::Database`] if SQLite cannot open it.
    pub fn open(path: &Path) -> Result<Self> {
        let writer = connect(path, OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_CREATE)?;
        migrate(&writer)?;
        let reader = connect(path, OpenFlags::SQLITE_OPEN_READ_WRITE)?;
        let slot = |connection| Arc::new(parking_lot::Mutex::new(Some(connection)));
        let waiting = Mutex::default();
        let gate = Gate::default();
        Ok(Self { path: path.to_owned(), gate, waiting, writer: slot(writer), reader: slot(reader) })
    }

    /// Who may write.
    pub fn gate(&self) -> &Gate {
        &self.gate
    }

    /// Closes the connections, before a fork: SQLite keeps its locks by process, and a child that inherited open
    /// connections would believe that it holds locks which it does not. They are opened again when they are
    /// needed.
    pub fn suspend(&self) -> Suspended {
        let (mut writer, mut reader) = (self.writer.lock_arc(), self.reader.lock_arc());
        drop((writer.take(), reader.take()));
        Suspended { _writer: writer, _reader: reader }
    }

    /// A record.
    ///
    /// # Errors
    /// [`Error::Database`].
    pub fn get(&self, kind: &str, id: &str) -> Result<Option<Record>> {
        let mut slot = self.reader.lock();
        Ok(get(self.connection(&mut slot)?, kind, id)?)
    }

    /// All records of a kind, ordered by id.
    ///
    /// # Errors
    /// [`Error::Database`].
    pub fn scan(&self, kind: &str) -> Result<Vec<Record>> {
        let mut slot = self.reader.lock();
        let reader = self.connection(&mut slot)?;
        let mut statement = reader.prepare_cached(SCAN)?;
        let records = statement.query_map(params![kind], record)?.collect::<rusqlite::Result<_>>()?;
        Ok(records)
    }

    /// Is there such a record of a kind? Reads no further than to the first.
    ///
    /// # Errors
    /// [`Error::Database`].
    pub fn any(&self, kind: &str, wanted: impl Fn(&Record) -> bool) -> Result<bool> {
        let mut slot = self.reader.lock();
        let reader = self.connection(&mut slot)?;
        let mut statement = reader.prepare_cached(SCAN)?;
        for found in statement.query_map(params![kind], record)? {
            if wanted(&found?) {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// The ids of all records of a kind, in order.
    ///
    /// # Errors
    /// [`Error::Database`].
    pub fn ids(&self, kind: &str) -> Result<Vec<String>> {
        let mut slot = self.reader.lock();
        let reader = self.connection(&mut slot)?;
        let mut statement = reader.prepare_cached("SELECT id FROM records WHERE kind = ?1 ORDER BY id")?;
        let ids = statement.query_map(params![kind], |row| row.get(0))?.collect::<rusqlite::Result<_>>()?;
        Ok(ids)
    }

    /// The kinds of which there are records, in alphabetical order.
    ///
    /// # Errors
    /// [`Error::Database`].
    pub fn kinds(&self) -> Result<Vec<String>> {
        let mut slot = self.reader.lock();
        let reader = self.connection(&mut slot)?;
        // From kind to kind: DISTINCT would read every record.
        let mut statement = reader.prepare_cached(
            "WITH RECURSIVE kinds (kind) AS (
                 SELECT MIN(kind) FROM records
                 UNION ALL
                 SELECT (SELECT MIN(kind) FROM records WHERE kind > kinds.kind) FROM kinds WHERE kind IS NOT NULL
             ) SELECT kind FROM kinds WHERE kind IS NOT NULL",
        )?;
        let kinds = statement.query_map([], |row| row.get(0))?.collect::<rusqlite::Result<_>>()?;
        Ok(kinds)
    }

    /// Writes all or nothing, durably, and in both regions of a pair. The revision of the last change.
    ///
    /// # Errors
    /// [`Error::Conflict`] if a precondition does not hold, [`Error::NotPrimary`], [`Error::PartnerLost`],
    /// [`Error::Unacknowledged`], [`Error::Database`].
    pub fn commit(&self, writes: Vec<Write>) -> Result<u64> {
        self.commit_as(writes, Importance::Lasting)
    }

    /// The same, for what may be lost with a region.
    ///
    /// # Errors
    /// As [`Self::commit`].
    pub fn commit_as(&self, writes: Vec<Write>, importance: Importance) -> Result<u64> {
        let revision = self.commit_here(writes, importance)?;
        self.gate.committed(revision, importance)?;
        Ok(revision)
    }

    /// The same without waiting for the partner: [`Gate::outcome`] says when it may be acknowledged.
    ///
    /// # Errors
    /// As [`Self::commit`], but [`Error::Unacknowledged`].
    pub fn commit_here(&self, writes: Vec<Write>, importance: Importance) -> Result<u64> {
        self.gate.admit(importance)?;
        self.write_with_others(writes)
    }

    fn write_with_others(&self, writes: Vec<Write>) -> Result<u64> {
        let commit = Arc::new(Commit { writes, outcome: Mutex::default() });
        lock(&self.waiting).push(commit.clone());
        let mut slot = self.writer.lock();
        if lock(&commit.outcome).is_none() {
            // Nobody wrote it while this thread waited for the connection: write it, and all that wait with it.
            let group = std::mem::take(&mut *lock(&self.waiting));
            write_group(self.connection(&mut slot), &group, self.gate.fence());
        }
        drop(slot);
        let outcome = lock(&commit.outcome).take();
        outcome.unwrap_or_else(|| Err(Error::Database("a commit was interrupted".into())))
    }

    /// Runs `work` while nobody else writes, and makes durable what it has written if it succeeds. What must
    /// happen to many records, however often others change them, is done here: there is no conflict.
    ///
    /// # Errors
    /// Those of `work`, and as [`Self::commit`].
    pub fn transaction<T, E: From<Error>>(
        &self,
        work: impl FnOnce(&Transaction<'_>) -> std::result::Result<T, E>,
    ) -> std::result::Result<T, E> {
        self.gate.admit(Importance::Lasting)?;
        let (outcome, revision) = self.transaction_here(|transaction| {
            check_fence(&transaction.0, self.gate.fence())?;
            let before = transaction.head()?;
            let outcome = work(transaction)?;
            let after = transaction.head()?;
            Ok::<_, E>((outcome, if after > before { after } else { 0 }))
        })?;
        self.gate.committed(revision, Importance::Lasting)?;
        Ok(outcome)
    }

    /// A transaction that the gate does not watch: for what the partner sends, and for what is no record.
    ///
    /// # Errors
    /// Those of `work`, and [`Error::Database`].
    pub fn transaction_here<T, E: From<Error>>(
        &self,
        work: impl FnOnce(&Transaction<'_>) -> std::result::Result<T, E>,
    ) -> std::result::Result<T, E> {
        let mut slot = self.writer.lock();
        let connection = self.connection(&mut slot)?;
        let begun =
            connection.transaction_with_behavior(TransactionBehavior::Immediate).map_err(Error::from)?;
        let transaction = Transaction(begun);
        let outcome = work(&transaction)?;
        transaction.0.commit().map_err(Error::from)?;
        Ok(outcome)
    }

    /// What is kept beside the records, in this region alone.
    ///
    /// # Errors
    /// [`Error::Database`].
    pub fn local(&self, name: &str) -> Result<Option<Vec<u8>>> {
        let mut slot = self.reader.lock();
        Ok(local(self.connection(&mut slot)?, name)?)
    }

    /// The position of the last change.
    ///
    /// # Errors
    /// [`Error::Database`].
    pub fn head(&self) -> Result<u64> {
        let mut slot = self.reader.lock();
        Ok(head(self.connection(&mut slot)?)?)
    }

    /// Moves the write-ahead log into the database and empties it, so that no deleted body stays in it.
    ///
    /// # Errors
    /// [`Error::Database`], also if a reader of another process keeps the log in use.
    pub fn erase_log(&self) -> Result<()> {
        let mut slot = self.writer.lock();
        let writer = self.connection(&mut slot)?;
        let busy: bool = writer.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |row| row.get(0))?;
        if busy {
            return Err(Error::Database(
                "deleted, but another process keeps the old log from being erased".into(),
            ));
        }
        Ok(())
    }

    /// Changes to records of a kind after a revision; after 0, the records that there are. At most about
    /// 16 MiB at once.
    ///
    /// # Errors
    /// [`Error::Database`].
    pub fn changes(&self, kind: &str, since: u64) -> Result<Changes> {
        let mut slot = self.reader.lock();
        let reader = self.connection(&mut slot)?;
        // One transaction: what is read and the revision belong together.
        let transaction = reader.transaction()?;
        let head = head(&transaction)?;
        let mut found = Changes { revision: head, ..Changes::default() };
        if head == since {
            return Ok(found);
        }
        let mut statement = transaction.prepare_cached(
            "SELECT MAX(c.revision), c.id, r.version, r.body FROM changes c
             LEFT JOIN records r ON r.kind = c.kind AND r.id = c.id
             WHERE c.kind = ?1 AND c.revision > ?2 AND (?2 > 0 OR r.version IS NOT NULL) GROUP BY c.id ORDER BY 1",
        )?;
        let mut rows = statement.query(params![kind, since as i64])?;
        let mut bytes = 0;
        while let Some(row) = rows.next()? {
            if bytes > MAX_CHANGES_BYTES {
                found.more = true;
                found.revision = found.changes.last().map_or(since, |change: &Change| change.revision);
                break;
            }
            let id: String = row.get(1)?;
            let record = match row.get::<_, Option<i64>>(2)? {
                Some(version) => {
                    let body: Vec<u8> = row.get(3)?;
                    bytes += body.len();
                    Some(Record { kind: kind.to_owned(), id: id.clone(), version: version as u64, body })
                }
                None => None,
            };
            found.changes.push(Change { revision: row.get::<_, i64>(0)? as u64, id, record });
        }
        Ok(found)
    }

    fn connection<'a>(&self, slot: &'a mut Option<Connection>) -> Result<&'a mut Connection> {
        match slot {
            Some(connection) => Ok(connection),
            None => Ok(slot.insert(connect(&self.path, OpenFlags::SQLITE_OPEN_READ_WRITE)?)),
        }
    }
}

impl Transaction<'_> {
    /// A record.
    ///
    /// # Errors
    /// [`Error::Database`].
    pub fn get(&self, kind: &str, id: &str) -> Result<Option<Record>> {
        Ok(get(&self.0, kind, id)?)
    }

    /// The position of the last change.
    ///
    /// # Errors
    /// [`Error::Database`].
    pub fn head(&self) -> Result<u64> {
        Ok(head(&self.0)?)
    }

    /// What is kept beside the records, in this region alone.
    ///
    /// # Errors
    /// [`Error::Database`].
    pub fn local(&self, name: &str) -> Result<Option<Vec<u8>>> {
        Ok(local(&self.0, name)?)
    }

    /// Puts something beside the records. It is in no change log and stays in this region.
    ///
    /// # Errors
    /// [`Error::Database`].
    pub fn set_local(&self, name: &str, value: &[u8]) -> Result<()> {
        set_local(&self.0, name, value)
    }

    /// Takes something away from beside the records.
    ///
    /// # Errors
    /// [`Error::Database`].
    pub fn remove_local(&self, name: &str) -> Result<()> {
        self.0.prepare_cached("DELETE FROM local WHERE name = ?1")?.execute(params![name])?;
        Ok(())
    }

    /// Leaves a gap in the log before the next change: positions that another region may have given away since the last
    /// one that it sent are never given twice.
    ///
    /// # Errors
    /// [`Error::Database`].
    pub fn leave_gap(&self) -> Result<()> {
        self.0.execute("UPDATE sqlite_sequence SET seq = seq + ?1 WHERE name = 'changes'", [LOG_GAP])?;
        Ok(())
    }

    /// From now on only who has this number at the gate may write; 0 is everybody.
    ///
    /// # Errors
    /// [`Error::Database`].
    pub fn set_fence(&self, fence: i64) -> Result<()> {
        set_local(&self.0, FENCE, &fence.to_be_bytes())
    }

    /// One write.
    ///
    /// # Errors
    /// [`Error::Conflict`] if its precondition does not hold, [`Error::Database`].
    pub fn write(&self, write: &Write) -> Result<()> {
        match apply(&self.0, write)? {
            Ok(_) => Ok(()),
            Err((kind, id)) => Err(Error::Conflict { kind, id }),
        }
    }
}

fn connect(path: &Path, flags: OpenFlags) -> Result<Connection> {
    let connection = Connection::open_with_flags(path, flags | OpenFlags::SQLITE_OPEN_NO_MUTEX)?;
    connection.busy_timeout(BUSY_TIMEOUT)?;
    connection.pragma_update(None, "journal_mode", "WAL")?;
    connection.pragma_update(None, "synchronous", "FULL")?;
    // What is deleted is overwritten, in the database and, once checkpointed, in the log.
    connection.pragma_update(None, "secure_delete", "ON")?;
    connection.set_prepared_statement_cache_capacity(32);
    Ok(connection)
}

fn migrate(connection: &Connection) -> Result<()> {
    let found: i64 = connection.query_row("PRAGMA user_version", [], |row| row.get(0))?;
    if found > SCHEMA_VERSION {
        return Err(Error::Schema { found, known: SCHEMA_VERSION });
    }
    if found < SCHEMA_VERSION {
        connection.execute_batch(SCHEMA)?;
    }
    Ok(())
}

/// One transaction for the group, one savepoint for each commit: a conflict undoes only its own.
fn write_group(connection: Result<&mut Connection>, group: &[Arc<Commit>], fence: i64) {
    let outcomes = connection.and_then(|connection| try_write_group(connection, group, fence));
    for (i, commit) in group.iter().enumerate() {
        let outcome = match &outcomes {
            Ok(outcomes) => match &outcomes[i] {
                Ok(revision) => Ok(*revision),
                Err((kind, id)) => Err(Error::Conflict { kind: kind.clone(), id: id.clone() }),
            },
            Err(Error::NotPrimary) => Err(Error::NotPrimary),
            Err(Error::Database(text)) => Err(Error::Database(text.clone())),
            Err(error) => Err(Error::Database(error.to_string())),
        };
        *lock(&commit.outcome) = Some(outcome);
    }
}

type Outcome = std::result::Result<u64, (String, String)>;

fn try_write_group(connection: &mut Connection, group: &[Arc<Commit>], fence: i64) -> Result<Vec<Outcome>> {
    let mut transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    check_fence(&transaction, fence)?;
    let mut outcomes = Vec::with_capacity(group.len());
    for commit in group {
        let savepoint = transaction.savepoint()?;
        let mut outcome = Ok(0);
        for write in &commit.writes {
            match apply(&savepoint, write)? {
                Ok(revision) => outcome = outcome.map(|last| revision.max(last)),
                conflict => {
                    outcome = conflict;
                    break;
                }
            }
        }
        if outcome.is_ok() {
            savepoint.commit()?;
        } else {
            savepoint.finish()?;
        }
        outcomes.push(outcome);
    }
    transaction.commit()?;
    Ok(outcomes)
}

fn apply(connection: &Connection, write: &Write) -> rusqlite::Result<Outcome> {
    let current: Option<i64> = connection
        .prepare_cached("SELECT version FROM records WHERE kind = ?1 AND id = ?2")?
        .query_row(params![write.kind, write.id], |row| row.get(0))
        .optional()?;
    let holds = match (write.expect, current) {
        (Expect::Any, _) | (Expect::Absent, None) | (Expect::Present, Some(_)) => true,
        (Expect::Version(expected), Some(version)) => expected == version as u64,
        _ => false,
    };
    if !holds {
        return Ok(Err((write.kind.clone(), write.id.clone())));
    }
    match &write.effect {
        Effect::Keep => return Ok(Ok(0)),
        Effect::Delete if current.is_none() => return Ok(Ok(0)),
        Effect::Put(body) => connection.prepare_cached(PUT)?.execute(params![
            write.kind,
            write.id,
            current.unwrap_or(0) + 1,
            body
        ])?,
        Effect::Delete => connection.prepare_cached(DELETE)?.execute(params![write.kind, write.id])?,
    };
    connection
        .prepare_cached("INSERT INTO changes (kind, id) VALUES (?1, ?2)")?
        .execute(params![write.kind, write.id])?;
    Ok(Ok(connection.last_insert_rowid() as u64))
}

/// Refuses a process that does not know in whose hands the keystore is.
fn check_fence(connection: &Connection, fence: i64) -> Result<()> {
    let found = local(connection, FENCE)?;
    let found = found.and_then(|bytes| bytes.try_into().ok()).map_or(0, i64::from_be_bytes);
    if found == fence { Ok(()) } else { Err(Error::NotPrimary) }
}

fn head(connection: &Connection) -> rusqlite::Result<u64> {
    let head: i64 = connection
        .prepare_cached("SELECT COALESCE(MAX(revision), 0) FROM changes")?
        .query_row([], |row| row.get(0))?;
    Ok(head as u64)
}

fn local(connection: &Connection, name: &str) -> rusqlite::Result<Option<Vec<u8>>> {
    connection
        .prepare_cached("SELECT value FROM local WHERE name = ?1")?
        .query_row(params![name], |row| row.get(0))
        .optional()
}

fn set_local(connection: &Connection, name: &str, value: &[u8]) -> Result<()> {
    connection
        .prepare_cached("INSERT OR REPLACE INTO local (name, value) VALUES (?1, ?2)")?
        .execute(params![name, value])?;
    Ok(())
}

fn get(connection: &Connection, kind: &str, id: &str) -> rusqlite::Result<Option<Record>> {
    connection
        .prepare_cached("SELECT kind, id, version, body FROM records WHERE kind = ?1 AND id = ?2")?
        .query_row(params![kind, id], record)
        .optional()
}

fn record(row: &Row<'_>) -> rusqlite::Result<Record> {
    Ok(Record {
        kind: row.get(0)?,
        id: row.get(1)?,
        version: row.get::<_, i64>(2)? as u64,
        body: row.get(3)?,
    })
}

/// A panic while holding a lock leaves an open transaction, which SQLite rolls back: the data is sound.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

const SCAN: &str = "SELECT kind, id, version, body FROM records WHERE kind = ?1 ORDER BY id";
const PUT: &str = "INSERT OR REPLACE INTO records (kind, id, version, body) VALUES (?1, ?2, ?3, ?4)";
const DELETE: &str = "DELETE FROM records WHERE kind = ?1 AND id = ?2";
/// In `local`: see [`Transaction::set_fence`].
const FENCE: &str = "fence";
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
/// Bodies in one answer of [`SqliteKeystore::changes`], in bytes, give or take one body.
const MAX_CHANGES_BYTES: usize = 16 << 20;
/// More changes than a region makes between two epochs.
const LOG_GAP: i64 = 1 << 32;
pub(super) const BUSY_TIMEOUT: Duration = Duration::from_secs(10);

#[cfg(test)]
mod tests {
    use super::*;

    pub(super) fn write(id: &str, expect: Expect, body: Option<&[u8]>) -> Write {
        let effect = body.map_or(Effect::Delete, |body| Effect::Put(body.into()));
        Write { kind: "k".into(), id: id.into(), expect, effect }
    }

    #[test]
    fn a_batch_is_written_whole_or_not_at_all() {
        let dir = tempfile::tempdir().expect("dir");
        let keystore = SqliteKeystore::open(&dir.path().join("k")).expect("open");
        keystore.commit(vec![write("a", Expect::Absent, Some(b"1"))]).expect("first");
        let batch = vec![write("b", Expect::Absent, Some(b"2")), write("a", Expect::Version(7), Some(b"3"))];
        assert!(matches!(keystore.commit(batch), Err(Error::Conflict { .. })));
        assert!(keystore.get("k", "b").expect("read").is_none());
        assert_eq!(keystore.get("k", "a").expect("read").map(|r| r.body), Some(b"1".to_vec()));
    }

    #[test]
    fn the_change_log_tells_each_record_once() {
        let dir = tempfile::tempdir().expect("dir");
        let path = dir.path().join("k");
        let keystore = SqliteKeystore::open(&path).expect("open");
        keystore.commit(vec![write("a", Expect::Absent, Some(b"1"))]).expect("1");
        let seen = keystore.changes("k", 0).expect("all").revision;
        keystore.commit(vec![write("a", Expect::Version(1), Some(b"2"))]).expect("2");
        keystore.commit(vec![write("b", Expect::Absent, Some(b"1"))]).expect("3");
        keystore.commit(vec![write("b", Expect::Present, None)]).expect("4");
        // A second process sees the same.
        let other = SqliteKeystore::open(&path).expect("open again");
        let found = other.changes("k", seen).expect("changes");
        let changes = found.changes;
        assert_eq!((found.revision, found.more), (4, false));
        assert_eq!(changes.len(), 2);
        assert_eq!(changes[0].record.as_ref().map(|r| (r.version, r.body.clone())), Some((2, b"2".to_vec())));
        assert_eq!((changes[1].id.as_str(), &changes[1].record), ("b", &None));
        assert!(other.changes("k", 4).expect("none").changes.is_empty());
        let all = other.changes("k", 0).expect("all").changes;
        assert_eq!(all.len(), 1, "who starts anew need not hear of what is gone");
    }

    #[test]
    fn a_long_log_comes_in_pieces() {
        let dir = tempfile::tempdir().expect("dir");
        let keystore = SqliteKeystore::open(&dir.path().join("k")).expect("open");
        let body = vec![7; 3 << 20];
        for i in 0..20 {
            keystore.commit(vec![write(&i.to_string(), Expect::Absent, Some(&body))]).expect("commit");
        }
        let (mut since, mut ids, mut pieces) = (0, Vec::new(), 0);
        loop {
            let found = keystore.changes("k", since).expect("changes");
            assert!(found.changes.len() < 10);
            ids.extend(found.changes.into_iter().map(|change| change.id));
            (since, pieces) = (found.revision, pieces + 1);
            if !found.more {
                break;
            }
        }
        assert_eq!((ids.len(), since), (20, 20));
        assert!(pieces > 2);
    }

    #[test]
    fn a_write_that_keeps_only_checks() {
        let dir = tempfile::tempdir().expect("dir");
        let keystore = SqliteKeystore::open(&dir.path().join("k")).expect("open");
        keystore.commit(vec![write("a", Expect::Absent, Some(b"1"))]).expect("first");
        let keep = |expect| Write { kind: "k".into(), id: "a".into(), expect, effect: Effect::Keep };
        keystore
            .commit(vec![keep(Expect::Version(1)), write("b", Expect::Absent, Some(b"2"))])
            .expect("holds");
        let refused = keystore.commit(vec![keep(Expect::Version(2)), write("c", Expect::Absent, Some(b"3"))]);
        assert!(matches!(refused, Err(Error::Conflict { .. })));
        assert_eq!(keystore.get("k", "a").expect("read").map(|record| record.version), Some(1));
    }

    #[test]
    fn a_transaction_is_written_whole_or_not_at_all() {
        let dir = tempfile::tempdir().expect("dir");
        let keystore = SqliteKeystore::open(&dir.path().join("k")).expect("open");
        keystore.commit(vec![write("a", Expect::Absent, Some(b"1"))]).expect("first");
        let attempt = |expect| {
            keystore.transaction(|transaction| {
                assert_eq!(transaction.get("k", "a")?.map(|a| a.version), Some(1));
                transaction.write(&write("b", Expect::Absent, Some(b"2")))?;
                transaction.write(&write("a", expect, Some(b"3")))
            })
        };
        assert!(matches!(attempt(Expect::Version(7)), Err(Error::Conflict { .. })));
        assert_eq!(keystore.ids("k").expect("ids"), ["a"]);
        attempt(Expect::Version(1)).expect("holds");
        assert_eq!(keystore.ids("k").expect("ids"), ["a", "b"]);
        assert_eq!(keystore.kinds().expect("kinds"), ["k"]);
        assert!(keystore.any("k", |record| record.body == b"3").expect("any"));
        assert!(!keystore.any("k", |record| record.body == b"1").expect("any"));
    }

    #[test]
    fn deleting_what_is_not_there_changes_nothing() {
        let dir = tempfile::tempdir().expect("dir");
        let keystore = SqliteKeystore::open(&dir.path().join("k")).expect("open");
        let a = write("a", Expect::Absent, Some(b"1"));
        let revision = keystore.commit(vec![a, write("b", Expect::Any, None)]).expect("commit");
        assert_eq!(revision, 1);
        assert_eq!(keystore.changes("k", 0).expect("changes").revision, 1);
    }

    /// As if another process had the database open for reading while something secret is deleted.
    #[test]
    fn an_erasure_that_a_reader_prevents_is_reported() {
        let dir = tempfile::tempdir().expect("dir");
        let path = dir.path().join("k");
        let keystore = SqliteKeystore::open(&path).expect("open");
        let writer = keystore.writer.lock();
        writer.as_ref().expect("open").busy_timeout(Duration::from_millis(10)).expect("timeout");
        drop(writer);
        keystore.commit(vec![write("a", Expect::Absent, Some(b"1"))]).expect("commit");
        let mut other = Connection::open(&path).expect("open");
        let reading = other.transaction().expect("transaction");
        reading.query_row("SELECT COUNT(*) FROM records", [], |_| Ok(())).expect("read");
        keystore.commit(vec![write("a", Expect::Present, None)]).expect("commit");
        assert!(keystore.erase_log().is_err());
        drop(reading);
        keystore.erase_log().expect("nobody reads");
    }

    #[test]
    fn concurrent_commits_are_all_there_and_none_is_lost() {
        let dir = tempfile::tempdir().expect("dir");
        let keystore = SqliteKeystore::open(&dir.path().join("k")).expect("open");
        std::thread::scope(|scope| {
            for thread in 0..8 {
                let keystore = &keystore;
                scope.spawn(move || {
                    for i in 0..50 {
                        let id = format!("{thread}-{i}");
                        keystore.commit(vec![write(&id, Expect::Absent, Some(b"x"))]).expect("commit");
                    }
                });
            }
        });
        assert_eq!(keystore.scan("k").expect("scan").len(), 400);
    }

    #[test]
    fn a_suspended_keystore_goes_on_where_it_was() {
        let dir = tempfile::tempdir().expect("dir");
        let keystore = SqliteKeystore::open(&dir.path().join("k")).expect("open");
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
    fn only_who_knows_the_fence_writes() {
        let dir = tempfile::tempdir().expect("dir");
        let path = dir.path().join("k");
        let keystore = SqliteKeystore::open(&path).expect("open");
        keystore.transaction_here(|transaction| transaction.set_fence(3)).expect("fence");
        keystore.gate().set(crate::keystore::Mode::Alone, 3);
        keystore.commit(vec![write("a", Expect::Absent, Some(b"1"))]).expect("knows it");
        let other = SqliteKeystore::open(&path).expect("open");
        let refused = other.commit(vec![write("b", Expect::Absent, Some(b"1"))]);
        assert!(matches!(refused, Err(Error::NotPrimary)));
        let refused: Result<()> = other.transaction(|_| Ok(()));
        assert!(matches!(refused, Err(Error::NotPrimary)));
    }

    #[test]
    fn a_newer_schema_is_refused() {
        let dir = tempfile::tempdir().expect("dir");
        let path = dir.path().join("k");
        drop(SqliteKeystore::open(&path).expect("open"));
        Connection::open(&path).expect("open").pragma_update(None, "user_version", 9).expect("set");
        assert!(matches!(SqliteKeystore::open(&path), Err(Error::Schema { found: 9, known: 2 })));
    }
}
