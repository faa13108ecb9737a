//! The keystore: whatever database holds it, commits that wait at the same time share one transaction, so that one fsync
//! serves them all: whoever gets the connection first writes for everybody.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use parking_lot::{ArcMutexGuard, RawMutex};

use super::engine::Engine;
use super::gate::{Gate, Importance};
#[cfg(feature = "edge")]
use super::postgres::{Postgres, Watch};
use super::spare::Spare;
use super::sqlite::Sqlite;
use super::{Changed, Changes, Effect, Error, Expect, Piece, Record, Result, Write};

/// Where a keystore is.
#[derive(Clone, PartialEq, Eq)]
pub enum Location {
    /// A file of the embedded database.
    File(PathBuf),
    /// A PostgreSQL database: a connection string, which may hold a password.
    #[cfg(feature = "edge")]
    Postgres(String),
}

impl fmt::Debug for Location {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File(path) => f.debug_tuple("File").field(path).finish(),
            #[cfg(feature = "edge")]
            Self::Postgres(_) => f.debug_tuple("Postgres").finish_non_exhaustive(),
        }
    }
}

impl Location {
    /// The embedded keystore of the region in `dir`.
    pub fn embedded(dir: &Path) -> Self {
        Self::File(dir.join(FILE))
    }

    /// May other machines use it too?
    pub fn is_shared(&self) -> bool {
        !matches!(self, Self::File(_))
    }

    fn create(&self) -> Result<Box<dyn Engine>> {
        Ok(match self {
            Self::File(path) => Box::new(Sqlite::create(path)?),
            #[cfg(feature = "edge")]
            Self::Postgres(address) => Box::new(Postgres::create(address)?),
        })
    }

    fn open(&self) -> Result<Box<dyn Engine>> {
        Ok(match self {
            Self::File(path) => Box::new(Sqlite::open(path)?),
            #[cfg(feature = "edge")]
            Self::Postgres(address) => Box::new(Postgres::open(address)?),
        })
    }
}

/// A keystore.
pub struct Keystore {
    location: Location,
    gate: Gate,
    /// Of the embedded database.
    spare: Option<Spare>,
    waiting: Mutex<Vec<Arc<Commit>>>,
    writer: Slot,
    /// Opened when threads are at it at the same time.
    readers: [Slot; READERS],
    next_reader: AtomicUsize,
}

/// The keystore while nobody else writes. What it writes becomes durable together, or not at all.
pub struct Transaction<'a>(&'a mut dyn Engine);

/// A transaction that is filled piece by piece, over several calls. Dropped before its commit, it leaves nothing.
pub struct Inflow(ArcMutexGuard<RawMutex, Connection>);

/// A keystore with its connections closed, and nobody able to open one, until this is dropped.
pub struct Suspended {
    _held: Vec<ArcMutexGuard<RawMutex, Connection>>,
}

type Slot = Arc<parking_lot::Mutex<Connection>>;
/// `None` before its first use, after a fork, or after it was lost, until it is used again.
type Connection = Option<Box<dyn Engine>>;

/// A batch on its way to the disk.
struct Commit {
    writes: Vec<Write>,
    outcome: Mutex<Option<Result<u64>>>,
}

impl Keystore {
    /// Opens the keystore, making it if need be.
    ///
    /// # Errors
    /// [`Error::Schema`] if it is newer than this program, [`Error::Database`] if it cannot be opened.
    pub fn open(location: &Location) -> Result<Self> {
        let spare = match location {
            Location::File(path) => Some(Spare::of(path)),
            #[cfg(feature = "edge")]
            Location::Postgres(_) => None,
        };
        let slot = |engine| Arc::new(parking_lot::Mutex::new(engine));
        let keystore = Self {
            location: location.clone(),
            gate: Gate::default(),
            waiting: Mutex::default(),
            writer: slot(Some(with_room(spare.as_ref(), || location.create())?)),
            readers: std::array::from_fn(|_| slot(None)),
            next_reader: AtomicUsize::new(0),
            spare,
        };
        keystore.spare.iter().for_each(Spare::restore);
        Ok(keystore)
    }

    /// Who may write.
    pub fn gate(&self) -> &Gate {
        &self.gate
    }

    /// May other machines use it too?
    pub fn is_shared(&self) -> bool {
        self.location.is_shared()
    }

    /// Tells what other processes change; `None` if there are none, or none that would matter.
    ///
    /// # Errors
    /// [`Error::Database`] if its address is none.
    #[cfg(feature = "edge")]
    pub fn watch(&self) -> Result<Option<Watch>> {
        match &self.location {
            Location::File(_) => Ok(None),
            Location::Postgres(address) => Watch::new(address).map(Some),
        }
    }

    /// Closes the connections, before a fork: SQLite keeps its locks by process, and a child that inherited open
    /// connections would believe that it holds locks which it does not. They are opened again when they are
    /// needed.
    pub fn suspend(&self) -> Suspended {
        let slots = std::iter::once(&self.writer).chain(&self.readers);
        let mut held: Vec<_> = slots.map(|slot| slot.lock_arc()).collect();
        held.iter_mut().for_each(|connection| drop(connection.take()));
        Suspended { _held: held }
    }

    /// A record.
    ///
    /// # Errors
    /// [`Error::Database`].
    pub fn get(&self, kind: &str, id: &str) -> Result<Option<Record>> {
        self.read(|engine| engine.get(kind, id))
    }

    /// All records of a kind, ordered by id.
    ///
    /// # Errors
    /// [`Error::Database`].
    pub fn scan(&self, kind: &str) -> Result<Vec<Record>> {
        self.read(|engine| {
            let mut records = Vec::new();
            engine.scan(kind, &mut |record| {
                records.push(record);
                true
            })?;
            Ok(records)
        })
    }

    /// Is there such a record of a kind? Reads no further than to the first.
    ///
    /// # Errors
    /// [`Error::Database`].
    pub fn any(&self, kind: &str, wanted: impl Fn(&Record) -> bool) -> Result<bool> {
        self.read(|engine| {
            let mut found = false;
            engine.scan(kind, &mut |record| {
                found = wanted(&record);
                !found
            })?;
            Ok(found)
        })
    }

    /// The ids of all records of a kind, in order.
    ///
    /// # Errors
    /// [`Error::Database`].
    pub fn ids(&self, kind: &str) -> Result<Vec<String>> {
        self.read(|engine| engine.ids(kind))
    }

    /// The kinds of which there are records, in alphabetical order.
    ///
    /// # Errors
    /// [`Error::Database`].
    pub fn kinds(&self) -> Result<Vec<String>> {
        self.read(|engine| engine.kinds())
    }

    /// What is kept beside the records, in this region alone.
    ///
    /// # Errors
    /// [`Error::Database`].
    pub fn local(&self, name: &str) -> Result<Option<Vec<u8>>> {
        self.read(|engine| engine.local(name))
    }

    /// The position of the last change.
    ///
    /// # Errors
    /// [`Error::Database`].
    pub fn head(&self) -> Result<u64> {
        self.read(|engine| engine.head())
    }

    /// Changes to records of a kind after a revision; after 0, the records that there are. At most about
    /// 16 MiB at once.
    ///
    /// # Errors
    /// [`Error::Database`].
    pub fn changes(&self, kind: &str, since: u64) -> Result<Changes> {
        self.read(|engine| engine.changes(kind, since, MAX_CHANGES_BYTES))
    }

    /// The change log after a revision, over all kinds; after 0, everything. At most about a mebibyte at once. What has
    /// changed again comes where it changed last.
    ///
    /// # Errors
    /// [`Error::Database`].
    pub fn piece(&self, since: u64) -> Result<Piece> {
        self.read(|engine| engine.piece(since, MAX_PIECE_BYTES, MAX_PIECE_CHANGES))
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
        let Some(spare) = &self.spare else { return self.write_with_others(writes) };
        let makes_room = writes.iter().all(|write| !matches!(write.effect, Effect::Put(_)));
        if !makes_room && importance == Importance::Lasting {
            return self.write_with_others(writes).inspect(|_| spare.restore());
        }
        let outcome = with_room(Some(spare), || self.write_with_others(writes.clone()));
        // What the log has grown by is free again once it is empty.
        if spare.is_missing() && self.erase_log().is_ok() {
            spare.restore();
        }
        outcome
    }

    fn write_with_others(&self, writes: Vec<Write>) -> Result<u64> {
        let commit = Arc::new(Commit { writes, outcome: Mutex::default() });
        lock(&self.waiting).push(commit.clone());
        let mut slot = self.writer.lock();
        if lock(&commit.outcome).is_none() {
            // Nobody wrote it while this thread waited for the connection: write it, and all that wait with it.
            let group = std::mem::take(&mut *lock(&self.waiting));
            write_group(self.begin(&mut slot), &group, self.gate.fence());
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
        work: impl FnOnce(&mut Transaction<'_>) -> std::result::Result<T, E>,
    ) -> std::result::Result<T, E> {
        self.gate.admit(Importance::Lasting)?;
        let (outcome, revision) = self.transaction_here(|transaction| {
            check_fence(transaction.0, self.gate.fence())?;
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
        work: impl FnOnce(&mut Transaction<'_>) -> std::result::Result<T, E>,
    ) -> std::result::Result<T, E> {
        let mut slot = self.writer.lock();
        let mut transaction = self.begin(&mut slot)?;
        let outcome = work(&mut transaction)?;
        transaction.0.commit()?;
        Ok(outcome)
    }

    /// Begins to take in what the partner sends. Nobody else writes until it is committed or dropped.
    ///
    /// # Errors
    /// [`Error::Database`].
    pub fn inflow(&self) -> Result<Inflow> {
        let mut slot = self.writer.lock_arc();
        self.connected(&mut slot, |engine| engine.begin())?;
        Ok(Inflow(slot))
    }

    /// Leaves no deleted body in the database's log. PostgreSQL keeps its log by rules of its own.
    ///
    /// # Errors
    /// [`Error::Database`], also if a reader of another process keeps the log in use.
    pub fn erase_log(&self) -> Result<()> {
        self.connected(&mut self.writer.lock(), |engine| engine.erase_log())
    }

    fn begin<'a>(&self, slot: &'a mut Connection) -> Result<Transaction<'a>> {
        self.connected(slot, |engine| engine.begin())?;
        match slot.as_deref_mut() {
            Some(engine) => Ok(Transaction(engine)),
            None => Err(closed()),
        }
    }

    fn read<T>(&self, work: impl Fn(&mut dyn Engine) -> Result<T>) -> Result<T> {
        let [first, others @ ..] = &self.readers;
        let mut reader = match first.try_lock() {
            Some(reader) if reader.is_some() => reader,
            // As long as nobody else is at it, one connection does.
            Some(reader) => self.writer.try_lock().unwrap_or(reader),
            None => others.iter().find_map(|reader| reader.try_lock()).unwrap_or_else(|| {
                self.readers[self.next_reader.fetch_add(1, Ordering::Relaxed) % READERS].lock()
            }),
        };
        self.connected(&mut reader, work)
    }

    /// Runs what may be done twice; on a new connection, if the old one turns out to be lost.
    fn connected<T>(&self, slot: &mut Connection, work: impl Fn(&mut dyn Engine) -> Result<T>) -> Result<T> {
        if let Some(engine) = slot.as_deref_mut().filter(|engine| !engine.is_lost()) {
            let outcome = work(engine);
            if !engine.is_lost() {
                return outcome;
            }
        }
        *slot = None;
        work(&mut **slot.insert(with_room(self.spare.as_ref(), || self.location.open())?))
    }
}

impl Transaction<'_> {
    /// A record.
    ///
    /// # Errors
    /// [`Error::Database`].
    pub fn get(&mut self, kind: &str, id: &str) -> Result<Option<Record>> {
        self.0.get(kind, id)
    }

    /// The position of the last change.
    ///
    /// # Errors
    /// [`Error::Database`].
    pub fn head(&mut self) -> Result<u64> {
        self.0.head()
    }

    /// What is kept beside the records, in this region alone.
    ///
    /// # Errors
    /// [`Error::Database`].
    pub fn local(&mut self, name: &str) -> Result<Option<Vec<u8>>> {
        self.0.local(name)
    }

    /// Puts something beside the records. It is in no change log and stays in this region.
    ///
    /// # Errors
    /// [`Error::Database`].
    pub fn set_local(&mut self, name: &str, value: &[u8]) -> Result<()> {
        self.0.set_local(name, value)
    }

    /// Takes something away from beside the records.
    ///
    /// # Errors
    /// [`Error::Database`].
    pub fn remove_local(&mut self, name: &str) -> Result<()> {
        self.0.remove_local(name)
    }

    /// Leaves a gap in the log before the next change: positions that another region may have given away since the last
    /// one that it sent are never given twice.
    ///
    /// # Errors
    /// [`Error::Database`].
    pub fn leave_gap(&mut self) -> Result<()> {
        self.0.leave_gap(LOG_GAP)
    }

    /// From now on only who has this number at the gate may write; 0 is everybody.
    ///
    /// # Errors
    /// [`Error::Database`].
    pub fn set_fence(&mut self, fence: i64) -> Result<()> {
        self.0.set_local(FENCE, &fence.to_be_bytes())
    }

    /// One write.
    ///
    /// # Errors
    /// [`Error::Conflict`] if its precondition does not hold, [`Error::Database`].
    pub fn write(&mut self, write: &Write) -> Result<()> {
        match apply(self.0, write)? {
            Ok(_) => Ok(()),
            Err((kind, id)) => Err(Error::Conflict { kind, id }),
        }
    }
}

impl Drop for Transaction<'_> {
    fn drop(&mut self) {
        roll_back(self.0);
    }
}

impl Inflow {
    /// Forgets all records and their log: everything is sent anew.
    ///
    /// # Errors
    /// [`Error::Database`].
    pub fn clear(&mut self) -> Result<()> {
        self.engine()?.clear()
    }

    /// Makes a change as the partner has made it: the same version, at the same place of the log.
    ///
    /// # Errors
    /// [`Error::Database`], also if the log is there already.
    pub fn apply(&mut self, change: &Changed) -> Result<()> {
        let engine = self.engine()?;
        let Changed { revision, kind, id, record } = change;
        match record {
            Some((version, body)) => engine.put(kind, id, *version, body)?,
            None => engine.remove(kind, id)?,
        }
        engine.log(Some(*revision), kind, id)?;
        Ok(())
    }

    /// The position of the last change.
    ///
    /// # Errors
    /// [`Error::Database`].
    pub fn head(&mut self) -> Result<u64> {
        self.engine()?.head()
    }

    /// As [`Transaction::local`].
    ///
    /// # Errors
    /// [`Error::Database`].
    pub fn local(&mut self, name: &str) -> Result<Option<Vec<u8>>> {
        self.engine()?.local(name)
    }

    /// As [`Transaction::set_local`].
    ///
    /// # Errors
    /// [`Error::Database`].
    pub fn set_local(&mut self, name: &str, value: &[u8]) -> Result<()> {
        self.engine()?.set_local(name, value)
    }

    /// Makes it durable. Nobody else writes until it is dropped.
    ///
    /// # Errors
    /// [`Error::Database`]: then nothing is there.
    pub fn commit(&mut self) -> Result<()> {
        self.engine()?.commit()
    }

    fn engine(&mut self) -> Result<&mut dyn Engine> {
        match self.0.as_deref_mut() {
            Some(engine) => Ok(engine),
            None => Err(closed()),
        }
    }
}

impl Drop for Inflow {
    fn drop(&mut self) {
        if let Some(engine) = self.0.as_deref_mut() {
            roll_back(engine);
        }
    }
}

/// A connection whose transaction cannot be rolled back is lost, and the transaction with it.
fn roll_back(engine: &mut dyn Engine) {
    if engine.is_in_transaction()
        && let Err(error) = engine.roll_back()
    {
        tracing::error!(%error, "a transaction cannot be rolled back: its connection is closed");
    }
}

fn closed() -> Error {
    Error::Database("the connection is closed".into())
}

/// Does what must work on a full disk: if there is no room, it gets the spare one.
fn with_room<T>(spare: Option<&Spare>, work: impl Fn() -> Result<T>) -> Result<T> {
    match work() {
        Err(Error::Full(_)) if spare.is_some_and(Spare::give_away) => work(),
        outcome => outcome,
    }
}

/// One transaction for the group, one savepoint for each commit, if there are several: a conflict undoes only its own.
fn write_group(transaction: Result<Transaction<'_>>, group: &[Arc<Commit>], fence: i64) {
    let outcomes = transaction.and_then(|transaction| try_write_group(transaction.0, group, fence));
    for (i, commit) in group.iter().enumerate() {
        let outcome = match &outcomes {
            Ok(outcomes) => match &outcomes[i] {
                Ok(revision) => Ok(*revision),
                Err((kind, id)) => Err(Error::Conflict { kind: kind.clone(), id: id.clone() }),
            },
            Err(Error::NotPrimary) => Err(Error::NotPrimary),
            Err(Error::Full(text)) => Err(Error::Full(text.clone())),
            Err(Error::Database(text)) => Err(Error::Database(text.clone())),
            Err(error) => Err(Error::Database(error.to_string())),
        };
        *lock(&commit.outcome) = Some(outcome);
    }
}

type Outcome = std::result::Result<u64, (String, String)>;

fn try_write_group(engine: &mut dyn Engine, group: &[Arc<Commit>], fence: i64) -> Result<Vec<Outcome>> {
    check_fence(engine, fence)?;
    let mut outcomes = Vec::with_capacity(group.len());
    let is_alone = group.len() == 1;
    for commit in group {
        if !is_alone {
            engine.set_savepoint()?;
        }
        let mut outcome = Ok(0);
        for write in &commit.writes {
            match apply(engine, write)? {
                Ok(revision) => outcome = outcome.map(|last| revision.max(last)),
                conflict => {
                    outcome = conflict;
                    break;
                }
            }
        }
        if outcome.is_err() {
            if is_alone {
                return Ok(vec![outcome]);
            }
            engine.return_to_savepoint()?;
        }
        if !is_alone {
            engine.release_savepoint()?;
        }
        outcomes.push(outcome);
    }
    engine.commit()?;
    Ok(outcomes)
}

fn apply(engine: &mut dyn Engine, write: &Write) -> Result<Outcome> {
    let (kind, id) = (&write.kind, &write.id);
    let current = engine.version(kind, id)?;
    let holds = match (write.expect, current) {
        (Expect::Any, _) | (Expect::Absent, None) | (Expect::Present, Some(_)) => true,
        (Expect::Version(expected), Some(version)) => expected == version,
        _ => false,
    };
    if !holds {
        return Ok(Err((kind.clone(), id.clone())));
    }
    match &write.effect {
        Effect::Keep => return Ok(Ok(0)),
        Effect::Delete if current.is_none() => return Ok(Ok(0)),
        Effect::Put(body) => engine.put(kind, id, current.unwrap_or(0) + 1, body)?,
        Effect::Delete => engine.remove(kind, id)?,
    }
    Ok(Ok(engine.log(None, kind, id)?))
}

/// Refuses a process that does not know in whose hands the keystore is.
fn check_fence(engine: &mut dyn Engine, fence: i64) -> Result<()> {
    let found = engine.local(FENCE)?;
    let found = found.and_then(|bytes| bytes.try_into().ok()).map_or(0, i64::from_be_bytes);
    if found == fence { Ok(()) } else { Err(Error::NotPrimary) }
}

/// A panic while holding a lock leaves an open transaction, which is rolled back: the data is sound.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The embedded keystore's file, in a region's directory.
pub const FILE: &str = "keystore.sqlite";
/// In `local`: see [`Transaction::set_fence`].
const FENCE: &str = "fence";
/// Threads that read at the same time, each by a connection of its own.
const READERS: usize = 4;
/// Bodies in one answer of [`Keystore::changes`], in bytes, give or take one body.
const MAX_CHANGES_BYTES: usize = 16 << 20;
/// Bodies and names in one [`Piece`], in bytes, give or take one body.
const MAX_PIECE_BYTES: usize = 1 << 20;
/// Rows of the log in one [`Piece`], those of records that have changed again too.
const MAX_PIECE_CHANGES: usize = 16_384;
/// More changes than a region makes between two epochs.
const LOG_GAP: u64 = 1 << 32;
