//! What is known about buckets, objects, uploads and blobs, in SQLite.
//!
//! One thread writes; all changes that wait for it share one transaction and one
//! fsync. Readers have connections of their own and are never blocked by it.

mod schema;
mod writer;

pub mod tables;

use std::{
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
};

use rusqlite::{Connection, OpenFlags};

use crate::{
    blobs::PlacedBlob,
    error::{Error, Result},
};

/// The metadata database.
#[derive(Clone)]
pub struct Metadata {
    path: Arc<PathBuf>,
    idle_readers: Arc<Mutex<Vec<Connection>>>,
    writer: Arc<writer::Writer>,
}

/// Connections that are kept between reads.
const MAX_IDLE_READERS: usize = 16;

impl Metadata {
    /// Opens the database, creating it if there is none.
    ///
    /// # Errors
    /// If it was written by a newer version of this program.
    pub fn open(path: &Path) -> Result<Self> {
        let connection = Connection::open(path)?;
        schema::prepare(&connection)?;
        let writer = Arc::new(writer::Writer::start(connection)?);
        Ok(Self { path: Arc::new(path.to_owned()), idle_readers: Arc::default(), writer })
    }

    /// Runs a query on a consistent snapshot.
    pub async fn read<T: Send + 'static>(
        &self,
        query: impl FnOnce(&Connection) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let this = self.clone();
        tokio::task::spawn_blocking(move || this.read_blocking(query)).await?
    }

    /// The same, on the calling thread.
    pub fn read_blocking<T>(&self, query: impl FnOnce(&Connection) -> Result<T>) -> Result<T> {
        let idle = self.idle_readers.lock().unwrap_or_else(PoisonError::into_inner).pop();
        let mut connection = match idle {
            Some(connection) => connection,
            None => self.connect()?,
        };
        let snapshot = connection.transaction()?;
        let outcome = query(&snapshot);
        drop(snapshot);
        let mut idle = self.idle_readers.lock().unwrap_or_else(PoisonError::into_inner);
        if idle.len() < MAX_IDLE_READERS {
            idle.push(connection);
        }
        outcome
    }

    /// Runs a change in the next transaction and returns once it is on disk. If it
    /// fails, nothing of it remains; the other changes of that transaction stand.
    pub async fn commit<T: Send + 'static>(
        &self,
        change: impl FnOnce(&Connection) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        self.commit_blob(None, change).await
    }

    /// The same for a change that names a blob. The blob's file goes away with the change.
    pub async fn commit_blob<T: Send + 'static>(
        &self,
        placed: Option<PlacedBlob>,
        change: impl FnOnce(&Connection) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        self.writer.commit(placed, change).await
    }

    /// Whether changes can still be made.
    pub fn is_writable(&self) -> bool {
        self.writer.is_alive()
    }

    fn connect(&self) -> Result<Connection> {
        let connection = Connection::open_with_flags(
            self.path.as_path(),
            OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX,
        )?;
        connection.set_prepared_statement_cache_capacity(64);
        connection.execute_batch(
            "PRAGMA mmap_size = 1073741824; PRAGMA temp_store = MEMORY; PRAGMA cache_size = -4096;",
        )?;
        connection.busy_timeout(std::time::Duration::from_secs(5))?;
        Ok(connection)
    }
}

/// Milliseconds since 1970, UTC.
pub fn now_millis() -> i64 {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    i64::try_from(now.as_millis()).unwrap_or(i64::MAX)
}

fn newer_schema(found: i64, known: i64) -> Error {
    Error::internal(format_args!(
        "the metadata has schema version {found}, this program knows up to {known}: use the newer program"
    ))
}
