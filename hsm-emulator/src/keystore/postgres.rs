//! PostgreSQL, for several processes on several machines.
//!
//! Whoever writes has the one row of `log` locked, so that changes become visible in the order of the log. A change is
//! announced to all who listen on its channel, with the commit.

use std::collections::HashMap;
use std::net::IpAddr;
use std::time::{Duration, Instant};

use openssl::ssl::{SslConnector, SslMethod};
use postgres::config::{Host, SslMode};
use postgres::error::SqlState;
use postgres::fallible_iterator::FallibleIterator;
use postgres::types::ToSql;
use postgres::{Client, Config, Row, Statement};
use postgres_openssl::MakeTlsConnector;
use tokio::runtime::{Handle, RuntimeFlavor};

use super::engine::{Engine, KINDS, PieceBuilder};
use super::{Change, Changed, Changes, Error, Piece, Record, Result};

/// A connection to a database.
pub struct Postgres {
    config: Config,
    session: Session,
    statements: HashMap<&'static str, Statement>,
    transaction: Option<Written>,
}

/// A client that may be used, and dropped, on the threads of an asynchronous runtime as well.
struct Session(Option<Client>);

/// A transaction that has begun.
#[derive(Clone, Copy)]
struct Written {
    /// A random number of its own: it finds its changes again by that, if the connection is lost during the commit.
    mark: i64,
    /// The last place of the log that was given away. The one row of `log` learns it at the end: to change it for every
    /// change would take longer each time.
    last: u64,
    /// The last one that holds a change of this transaction.
    revision: Option<u64>,
    savepoint: Option<(u64, Option<u64>)>,
}

/// Tells what other processes change.
pub struct Watch {
    config: Config,
    session: Option<Session>,
}

impl Postgres {
    /// Connects to a database, and makes its tables if need be.
    ///
    /// # Errors
    /// [`Error::Schema`] if they are newer than this program, [`Error::Database`] if it cannot be reached.
    pub fn create(address: &str) -> Result<Self> {
        let mut engine = Self::open(address)?;
        engine.session.run(|client| {
            let mut transaction = client.transaction()?;
            // Of two that make them at the same time, one does.
            transaction.execute("SELECT pg_advisory_xact_lock($1)", &[&MIGRATION_LOCK])?;
            transaction.batch_execute(FIRST_SCHEMA)?;
            let found: i64 = transaction.query_one("SELECT version FROM hsm.schema", &[])?.get(0);
            for (_, migration) in MIGRATIONS.iter().filter(|(version, _)| *version > found) {
                transaction.batch_execute(migration)?;
            }
            let known = SCHEMA_VERSION;
            if found > known {
                return Ok(Err(Error::Schema { found, known }));
            }
            transaction.execute("UPDATE hsm.schema SET version = $1", &[&known])?;
            transaction.commit()?;
            let fsync: String = client.query_one("SHOW fsync", &[])?.get(0);
            if fsync == "off" {
                tracing::warn!(
                    "the database runs with fsync=off: what is acknowledged is lost if its machine fails"
                );
            }
            Ok(Ok(()))
        })??;
        Ok(engine)
    }

    /// Connects to a database that has the tables.
    ///
    /// # Errors
    /// [`Error::Database`].
    pub fn open(address: &str) -> Result<Self> {
        let config = configure(address)?;
        let session = Session::connect(&config)?;
        Ok(Self { config, session, statements: HashMap::new(), transaction: None })
    }

    fn query(&mut self, sql: &'static str, values: &[&(dyn ToSql + Sync)]) -> Result<Vec<Row>> {
        let statement = self.prepared(sql)?;
        self.session.run(|client| client.query(&statement, values))
    }

    fn query_opt(&mut self, sql: &'static str, values: &[&(dyn ToSql + Sync)]) -> Result<Option<Row>> {
        Ok(self.query(sql, values)?.pop())
    }

    fn execute(&mut self, sql: &'static str, values: &[&(dyn ToSql + Sync)]) -> Result<()> {
        let statement = self.prepared(sql)?;
        self.session.run(|client| client.execute(&statement, values)).map(drop)
    }

    fn written(&mut self) -> Result<&mut Written> {
        self.transaction.as_mut().ok_or_else(|| Error::Database("no transaction has begun".into()))
    }

    fn prepared(&mut self, sql: &'static str) -> Result<Statement> {
        if let Some(statement) = self.statements.get(sql) {
            return Ok(statement.clone());
        }
        let statement = self.session.run(|client| client.prepare(sql))?;
        self.statements.insert(sql, statement.clone());
        Ok(statement)
    }

    /// What is read until `COMMIT` is of one moment.
    fn read<T>(&mut self, work: impl FnOnce(&mut Self) -> Result<T>) -> Result<T> {
        self.session.run(|client| client.batch_execute("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY"))?;
        let outcome = work(self);
        self.session.run(|client| client.batch_execute("COMMIT"))?;
        outcome
    }

    /// After a connection was lost during a commit: did it come about? Whoever is still at it holds the log's lock.
    fn find_out(&mut self, written: Written) -> Result<bool> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let asked = Session::connect(&self.config).and_then(|mut session| {
                let revision = written.revision.map(|revision| revision as i64);
                let found = session.run(|client| {
                    let mut transaction = client.transaction()?;
                    transaction.query_one("SELECT last FROM log FOR UPDATE", &[])?;
                    let sql = "SELECT EXISTS (SELECT 1 FROM changes WHERE revision = $1 AND mark = $2)";
                    transaction.query_one(sql, &[&revision, &written.mark])
                })?;
                Ok(found.get(0))
            });
            match asked {
                Err(_) if Instant::now() < deadline => std::thread::sleep(RETRY),
                outcome => return outcome,
            }
        }
    }
}

impl Engine for Postgres {
    fn begin(&mut self) -> Result<()> {
        let mark = uuid::Uuid::new_v4().as_u64_pair().1 as i64;
        self.session.run(|client| client.batch_execute("BEGIN"))?;
        self.transaction = Some(Written { mark, last: 0, revision: None, savepoint: None });
        let locked = self.query_opt("SELECT last FROM log FOR UPDATE", &[]);
        match locked.and_then(|row| row.ok_or_else(no_log)) {
            Ok(row) => {
                self.written()?.last = number(&row, 0);
                Ok(())
            }
            Err(error) => {
                // It has begun, though.
                self.roll_back().ok();
                Err(error)
            }
        }
    }

    fn commit(&mut self) -> Result<()> {
        let Some(written) = self.transaction.take() else { return Ok(()) };
        let mut end = format!("UPDATE log SET last = {last} WHERE last <> {last};", last = written.last);
        if written.revision.is_some() {
            end += &format!("NOTIFY {CHANNEL};");
        }
        let outcome = self.session.run(|client| client.batch_execute(&(end + "COMMIT")));
        let Err(error) = outcome else { return Ok(()) };
        if !self.is_lost() {
            // Refused: nothing is written.
            self.transaction = Some(written);
            return Err(error);
        }
        match written.revision.map(|_| self.find_out(written)) {
            Some(Ok(true)) => Ok(()),
            Some(Ok(false)) => Err(error),
            Some(Err(_)) | None => Err(Error::Database(format!(
                "{error}; whether the change that was being written lasts is not known: read it again when the database \
                 is back"
            ))),
        }
    }

    fn roll_back(&mut self) -> Result<()> {
        self.transaction = None;
        self.session.run(|client| client.batch_execute("ROLLBACK"))
    }

    fn set_savepoint(&mut self) -> Result<()> {
        let written = self.written()?;
        written.savepoint = Some((written.last, written.revision));
        self.session.run(|client| client.batch_execute("SAVEPOINT one"))
    }

    fn return_to_savepoint(&mut self) -> Result<()> {
        let written = self.written()?;
        if let Some(savepoint) = written.savepoint {
            (written.last, written.revision) = savepoint;
        }
        self.session.run(|client| client.batch_execute("ROLLBACK TO one"))
    }

    fn release_savepoint(&mut self) -> Result<()> {
        self.session.run(|client| client.batch_execute("RELEASE one"))
    }

    fn is_in_transaction(&self) -> bool {
        self.transaction.is_some()
    }

    fn is_lost(&self) -> bool {
        self.session.is_closed()
    }

    fn get(&mut self, kind: &str, id: &str) -> Result<Option<Record>> {
        let sql = "SELECT kind, id, version, body FROM records WHERE kind = $1 AND id = $2";
        Ok(self.query_opt(sql, &[&kind, &id])?.as_ref().map(record))
    }

    fn version(&mut self, kind: &str, id: &str) -> Result<Option<u64>> {
        let sql = "SELECT version FROM records WHERE kind = $1 AND id = $2";
        Ok(self.query_opt(sql, &[&kind, &id])?.map(|row| number(&row, 0)))
    }

    fn scan(&mut self, kind: &str, wants_more: &mut dyn FnMut(Record) -> bool) -> Result<()> {
        let statement =
            self.prepared("SELECT kind, id, version, body FROM records WHERE kind = $1 ORDER BY id")?;
        self.session.run(|client| {
            let mut rows = client.query_raw(&statement, [kind])?;
            while let Some(row) = rows.next()? {
                if !wants_more(record(&row)) {
                    break;
                }
            }
            Ok(())
        })
    }

    fn ids(&mut self, kind: &str) -> Result<Vec<String>> {
        let rows = self.query("SELECT id FROM records WHERE kind = $1 ORDER BY id", &[&kind])?;
        Ok(rows.iter().map(|row| row.get(0)).collect())
    }

    fn kinds(&mut self) -> Result<Vec<String>> {
        Ok(self.query(KINDS, &[])?.iter().map(|row| row.get(0)).collect())
    }

    fn put(&mut self, kind: &str, id: &str, version: u64, body: &[u8]) -> Result<()> {
        self.execute(
            "INSERT INTO records (kind, id, version, body) VALUES ($1, $2, $3, $4)
             ON CONFLICT (kind, id) DO UPDATE SET version = excluded.version, body = excluded.body",
            &[&kind, &id, &(version as i64), &body],
        )
    }

    fn remove(&mut self, kind: &str, id: &str) -> Result<()> {
        self.execute("DELETE FROM records WHERE kind = $1 AND id = $2", &[&kind, &id])
    }

    fn log(&mut self, revision: Option<u64>, kind: &str, id: &str) -> Result<u64> {
        let written = self.written()?;
        let revision = revision.unwrap_or(written.last + 1);
        written.last = written.last.max(revision);
        written.revision = Some(revision);
        let mark = written.mark;
        self.execute(
            "INSERT INTO changes (revision, kind, id, mark) VALUES ($1, $2, $3, $4)",
            &[&(revision as i64), &kind, &id, &mark],
        )?;
        Ok(revision)
    }

    fn head(&mut self) -> Result<u64> {
        let row = self.query_opt("SELECT COALESCE(MAX(revision), 0) FROM changes", &[])?;
        Ok(row.map_or(0, |row| number(&row, 0)))
    }

    fn leave_gap(&mut self, places: u64) -> Result<()> {
        self.written()?.last += places;
        Ok(())
    }

    fn clear(&mut self) -> Result<()> {
        self.session.run(|client| client.batch_execute("DELETE FROM records; DELETE FROM changes"))
    }

    fn local(&mut self, name: &str) -> Result<Option<Vec<u8>>> {
        Ok(self.query_opt("SELECT value FROM local WHERE name = $1", &[&name])?.map(|row| row.get(0)))
    }

    fn set_local(&mut self, name: &str, value: &[u8]) -> Result<()> {
        self.execute(
            "INSERT INTO local (name, value) VALUES ($1, $2) ON CONFLICT (name) DO UPDATE SET value = excluded.value",
            &[&name, &value],
        )
    }

    fn remove_local(&mut self, name: &str) -> Result<()> {
        self.execute("DELETE FROM local WHERE name = $1", &[&name])
    }

    fn changes(&mut self, kind: &str, since: u64, max_bytes: usize) -> Result<Changes> {
        self.read(|engine| {
            let mut found = Changes { revision: engine.head()?, ..Changes::default() };
            if found.revision == since {
                return Ok(found);
            }
            // A row is read if what stands before it has room.
            let rows = engine.query(
                "SELECT revision, id, version, body FROM (
                     SELECT l.revision, l.id, r.version, r.body,
                            SUM(COALESCE(octet_length(r.body), 0)) OVER (ORDER BY l.revision)
                                - COALESCE(octet_length(r.body), 0) AS before
                     FROM (SELECT id, MAX(revision) AS revision FROM changes
                           WHERE kind = $1 AND revision > $2::bigint GROUP BY id) l
                     LEFT JOIN records r ON r.kind = $1 AND r.id = l.id
                     WHERE $2::bigint > 0 OR r.version IS NOT NULL
                 ) c WHERE before <= $3::bigint ORDER BY revision",
                &[&kind, &(since as i64), &(max_bytes as i64)],
            )?;
            for row in rows {
                let id: String = row.get(1);
                let version: Option<i64> = row.get(2);
                let record = version.map(|version| Record {
                    kind: kind.to_owned(),
                    id: id.clone(),
                    version: version as u64,
                    body: row.get(3),
                });
                found.changes.push(Change { revision: number(&row, 0), id, record });
            }
            let last = found.changes.last().map_or(since, |change| change.revision);
            let sql = "SELECT EXISTS (SELECT 1 FROM changes c WHERE kind = $1 AND revision > $2::bigint
                       AND ($3::bigint > 0 OR EXISTS (SELECT 1 FROM records r WHERE r.kind = c.kind AND r.id = c.id)))";
            let more = engine.query_opt(sql, &[&kind, &(last as i64), &(since as i64)])?;
            found.more = more.is_some_and(|row| row.get(0));
            if found.more {
                found.revision = last;
            }
            Ok(found)
        })
    }

    fn piece(&mut self, since: u64, max_bytes: usize, max_places: usize) -> Result<Piece> {
        self.read(|engine| {
            let mut piece = PieceBuilder::new(since, max_bytes, max_places);
            // What has changed again has no body here; a row is read if what stands before it has room, and one more
            // to see that there is more.
            let rows = engine.query(
                "SELECT revision, kind, id, version, body, again FROM (
                     SELECT w.*, COALESCE(SUM(bytes) OVER (ORDER BY revision ROWS BETWEEN UNBOUNDED PRECEDING AND 2 PRECEDING), 0)
                            AS before
                     FROM (
                         SELECT *, CASE WHEN again THEN 0
                                   ELSE octet_length(kind) + octet_length(id) + COALESCE(octet_length(body), 0) END AS bytes
                         FROM (
                             SELECT c.revision, c.kind, c.id, r.version, CASE WHEN l.again THEN NULL ELSE r.body END AS body,
                                    l.again
                             FROM (SELECT * FROM changes WHERE revision > $1::bigint ORDER BY revision LIMIT $3::bigint) c
                             CROSS JOIN LATERAL (SELECT EXISTS (SELECT 1 FROM changes n WHERE n.kind = c.kind
                                 AND n.id = c.id AND n.revision > c.revision) AS again) l
                             LEFT JOIN records r ON r.kind = c.kind AND r.id = c.id
                         ) v
                     ) w
                 ) p WHERE before <= $2::bigint ORDER BY revision",
                &[&(since as i64), &(max_bytes as i64), &(max_places as i64 + 1)],
            )?;
            for row in rows {
                if piece.is_full() {
                    break;
                }
                let revision = number(&row, 0);
                if row.get(5) {
                    piece.pass(revision);
                    continue;
                }
                let version: Option<i64> = row.get(3);
                let record = version.map(|version| (version as u64, row.get(4)));
                piece.take(Changed { revision, kind: row.get(1), id: row.get(2), record });
            }
            Ok(piece.finish())
        })
    }

    /// PostgreSQL keeps what was deleted in its files and its log for as long as it likes.
    fn erase_log(&mut self) -> Result<()> {
        Ok(())
    }
}

impl Session {
    fn connect(config: &Config) -> Result<Self> {
        let mut tls =
            SslConnector::builder(SslMethod::tls()).map_err(|error| Error::Database(error.to_string()))?;
        // For who has set SSL_CERT_FILE.
        tls.set_default_verify_paths().map_err(|error| Error::Database(error.to_string()))?;
        let client = blocking(|| config.connect(MakeTlsConnector::new(tls.build())))?;
        Ok(Self(Some(client)))
    }

    fn run<T>(&mut self, work: impl FnOnce(&mut Client) -> Result<T, postgres::Error>) -> Result<T> {
        let client = self.0.as_mut().ok_or_else(|| Error::Database("the connection is closed".into()))?;
        Ok(blocking(|| work(client))?)
    }

    fn is_closed(&self) -> bool {
        self.0.as_ref().is_none_or(Client::is_closed)
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        blocking(|| self.0 = None);
    }
}

impl Watch {
    /// Of the database at this address; it is connected to when it is needed.
    ///
    /// # Errors
    /// [`Error::Database`] if this is no address.
    pub fn new(address: &str) -> Result<Self> {
        Ok(Self { config: configure(address)?, session: None })
    }

    /// Waits until something may have changed, or `patience` is over. The database has answered by then.
    ///
    /// # Errors
    /// [`Error::Database`] if it does not; what changes meanwhile is not told.
    pub fn wait(&mut self, patience: Duration) -> Result<()> {
        let Some(session) = &mut self.session else {
            let mut session = Session::connect(&self.config)?;
            session.run(|client| client.batch_execute(&format!("LISTEN {CHANNEL}")))?;
            self.session = Some(session);
            return Ok(());
        };
        let outcome = session.run(|client| {
            let mut notifications = client.notifications();
            if notifications.timeout_iter(patience).next()?.is_some() {
                // One look is enough for all of them.
                while notifications.iter().next()?.is_some() {}
            }
            drop(notifications);
            client.batch_execute("")
        });
        if outcome.is_err() {
            self.session = None;
        }
        outcome
    }
}

impl From<postgres::Error> for Error {
    fn from(error: postgres::Error) -> Self {
        let is_full = error.code() == Some(&SqlState::DISK_FULL);
        let mut text = error.to_string();
        let mut source = std::error::Error::source(&error);
        while let Some(error) = source {
            let more = error.to_string();
            if !text.ends_with(&more) {
                text = format!("{text}: {more}");
            }
            source = error.source();
        }
        if is_full { Self::Full(text) } else { Self::Database(text) }
    }
}

/// With limits, so that a database which does not answer is an error, and who dies in a transaction holds up nobody.
fn configure(address: &str) -> Result<Config> {
    let mut config: Config = address
        .parse()
        .map_err(|error: postgres::Error| Error::Database(format!("the address of the keystore: {error}")))?;
    let is_here = |host: &Host| match host {
        Host::Unix(_) => true,
        Host::Tcp(name) => name == "localhost" || name.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback()),
    };
    let is_here =
        config.get_hosts().iter().all(is_here) && config.get_hostaddrs().iter().all(IpAddr::is_loopback);
    match config.get_ssl_mode() {
        SslMode::Prefer if is_here => drop(config.ssl_mode(SslMode::Disable)),
        SslMode::Prefer => drop(config.ssl_mode(SslMode::Require)),
        SslMode::Disable if !is_here => {
            return Err(Error::Database(
                "a database on another machine needs TLS: leave out sslmode=disable".into(),
            ));
        }
        _ => {}
    }
    // What the address says comes last, and counts.
    let options = format!("{SETTINGS} {}", config.get_options().unwrap_or_default());
    config
        .options(&options)
        .application_name("hsm-emulator")
        .connect_timeout(PATIENCE)
        .keepalives_idle(PATIENCE)
        .tcp_user_timeout(PATIENCE);
    Ok(config)
}

/// Runs what blocks, on whatever thread this is.
fn blocking<T>(work: impl FnOnce() -> T) -> T {
    match Handle::try_current().map(|runtime| runtime.runtime_flavor()) {
        Ok(RuntimeFlavor::MultiThread) => tokio::task::block_in_place(work),
        _ => work(),
    }
}

fn no_log() -> Error {
    Error::Database("the table 'hsm.log' has lost its row".into())
}

fn record(row: &Row) -> Record {
    Record { kind: row.get(0), id: row.get(1), version: number(row, 2), body: row.get(3) }
}

fn number(row: &Row, column: usize) -> u64 {
    row.get::<_, i64>(column) as u64
}

/// Where commits are announced.
const CHANNEL: &str = "hsm_changes";
/// How long an answer, a lock or another try may take.
const PATIENCE: Duration = Duration::from_secs(10);
const RETRY: Duration = Duration::from_millis(200);
const SETTINGS: &str = "-c search_path=hsm -c synchronous_commit=on -c statement_timeout=30s -c lock_timeout=10s \
                        -c idle_in_transaction_session_timeout=30s";
/// "hsm-keys", for `pg_advisory_xact_lock`.
const MIGRATION_LOCK: i64 = i64::from_be_bytes(*b"hsm-keys");
const FIRST_SCHEMA: &str = "
    CREATE SCHEMA IF NOT EXISTS hsm;
    CREATE TABLE IF NOT EXISTS hsm.schema (version BIGINT NOT NULL);
    INSERT INTO hsm.schema SELECT 0 WHERE NOT EXISTS (SELECT 1 FROM hsm.schema);";
const SCHEMA_VERSION: i64 = 1;
/// What makes each version from the one before. Names are ordered by their bytes, as SQLite does.
const MIGRATIONS: [(i64, &str); 1] = [(
    1,
    r#"
    CREATE TABLE hsm.records (
        kind TEXT COLLATE "C" NOT NULL,
        id TEXT COLLATE "C" NOT NULL,
        version BIGINT NOT NULL,
        body BYTEA NOT NULL,
        PRIMARY KEY (kind, id)
    );
    CREATE TABLE hsm.changes (
        revision BIGINT PRIMARY KEY,
        kind TEXT COLLATE "C" NOT NULL,
        id TEXT COLLATE "C" NOT NULL,
        mark BIGINT NOT NULL
    );
    CREATE INDEX changes_by_kind ON hsm.changes (kind, revision);
    CREATE INDEX changes_by_record ON hsm.changes (kind, id, revision);
    CREATE TABLE hsm.local (
        name TEXT PRIMARY KEY,
        value BYTEA NOT NULL
    );
    CREATE TABLE hsm.log (last BIGINT NOT NULL);
    INSERT INTO hsm.log VALUES (0);"#,
)];
