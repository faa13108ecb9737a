//! The one thread that writes.

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{
        Mutex, PoisonError,
        mpsc::{self, RecvTimeoutError},
    },
    thread::JoinHandle,
    time::Duration,
};

use rusqlite::Connection;
use tokio::sync::oneshot;
use uuid::Uuid;

use crate::{
    blobs::PlacedBlob,
    error::{Error, Result},
    metadata::tables,
};

/// A change, and the blob that it names.
struct Change {
    placed: Option<PlacedBlob>,
    run: Box<dyn FnOnce(&Connection) -> Outcome + Send>,
}

/// Whether a change is to stay, and what to call when it is known how the transaction ended.
type Outcome = (bool, Reply);
type Reply = Box<dyn FnOnce(Result<()>) + Send>;

/// Hands changes to the writing thread.
pub struct Writer {
    queue: Mutex<Option<mpsc::Sender<Change>>>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

/// Changes that share a transaction, at most.
const MAX_BATCH: usize = 512;
/// How long the files of a failed transaction wait for the next change to be judged with.
const DOUBT: Duration = Duration::from_secs(5);

impl Writer {
    /// Starts the thread.
    pub fn start(mut connection: Connection) -> Result<Self> {
        connection.set_prepared_statement_cache_capacity(128);
        let (queue, changes) = mpsc::channel::<Change>();
        let thread = std::thread::Builder::new().name("metadata-writer".to_owned()).spawn(move || {
            let mut doubtful = Vec::new();
            loop {
                let first = if doubtful.is_empty() {
                    changes.recv().map_err(|_| RecvTimeoutError::Disconnected)
                } else {
                    changes.recv_timeout(DOUBT)
                };
                let batch = match first {
                    Ok(first) => std::iter::once(first).chain(changes.try_iter()).take(MAX_BATCH).collect(),
                    Err(RecvTimeoutError::Timeout) => Vec::new(),
                    Err(RecvTimeoutError::Disconnected) => break,
                };
                run_batch(&mut connection, batch, &mut doubtful);
            }
            if let Err(error) = connection.execute_batch("PRAGMA wal_checkpoint(TRUNCATE)") {
                tracing::warn!(%error, "the last checkpoint failed; it will be made up for at the next start");
            }
        })?;
        Ok(Self { queue: Mutex::new(Some(queue)), thread: Mutex::new(Some(thread)) })
    }

    /// See [`super::Metadata::commit_blob`].
    pub async fn commit<T: Send + 'static>(
        &self,
        placed: Option<PlacedBlob>,
        change: impl FnOnce(&Connection) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let (reply, answer) = oneshot::channel();
        let run = Box::new(move |connection: &Connection| {
            let outcome = change(connection);
            let keep = outcome.is_ok();
            let reply = move |committed: Result<()>| {
                // A client that went away needs no answer.
                drop(reply.send(outcome.and_then(|value| committed.map(|()| value))));
            };
            (keep, Box::new(reply) as Reply)
        });
        let queue = self.queue.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let stopped = || Error::internal("the metadata writer has stopped");
        queue.ok_or_else(stopped)?.send(Change { placed, run }).map_err(|_| stopped())?;
        answer.await.map_err(|_| Error::internal("a change of the metadata was given up"))?
    }

    /// Whether the thread runs.
    pub fn is_alive(&self) -> bool {
        let thread = self.thread.lock().unwrap_or_else(PoisonError::into_inner);
        thread.as_ref().is_some_and(|thread| !thread.is_finished())
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner).take();
        let thread = self.thread.lock().unwrap_or_else(PoisonError::into_inner).take();
        if thread.is_some_and(|thread| thread.join().is_err()) {
            tracing::error!("the metadata writer panicked");
        }
    }
}

/// Runs changes in one transaction. Blobs of a transaction that failed are `doubtful`: what it wrote may be in the
/// log all the same, and come back after a crash. The next transaction settles it: it takes the failed one's place in
/// the log, and leaves to the collector what no row names.
fn run_batch(connection: &mut Connection, batch: Vec<Change>, doubtful: &mut Vec<Uuid>) {
    let mut replies = Vec::with_capacity(batch.len());
    let mut kept = Vec::new();
    let committed = (|| -> Result<()> {
        let mut transaction =
            connection.transaction_with_behavior(rusqlite::TransactionBehavior::Immediate)?;
        for blob in doubtful.iter() {
            tables::discard_unnamed(&transaction, *blob)?;
        }
        for Change { placed, run } in batch {
            let mut savepoint = transaction.savepoint()?;
            // One change that panics must not end all writing.
            let Ok((keep, reply)) = catch_unwind(AssertUnwindSafe(|| run(&savepoint))) else {
                tracing::error!("a change of the metadata panicked");
                savepoint.rollback()?;
                continue;
            };
            replies.push(reply);
            if keep {
                kept.extend(placed.map(PlacedBlob::keep));
                savepoint.commit()?;
            } else {
                savepoint.rollback()?;
            }
        }
        Ok(transaction.commit()?)
    })();
    match &committed {
        Ok(()) => doubtful.clear(),
        Err(error) => {
            tracing::error!(%error, "a metadata transaction failed");
            doubtful.extend(kept);
        }
    }
    for reply in replies {
        reply(committed.as_ref().map(|_| ()).map_err(|e| Error::internal(format_args!("metadata: {e}"))));
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::{
        blobs::Blobs,
        metadata::{Metadata, schema, tables::BlobRow},
    };

    #[tokio::test(flavor = "multi_thread")]
    async fn a_failed_change_leaves_nothing_and_spares_the_others() {
        let dir = tempfile::tempdir().unwrap();
        let metadata = Metadata::open(&dir.path().join("m")).unwrap();
        let insert = |i: i64, fail: bool| {
            metadata.commit(move |db| {
                db.execute("INSERT INTO garbage VALUES (?, 0)", [i])?;
                if fail { Err(Error::no_such_key()) } else { Ok(i) }
            })
        };
        let all = futures::future::join_all((0..100).map(|i| insert(i, i % 3 == 0))).await;
        assert_eq!(all.iter().filter(|outcome| outcome.is_ok()).count(), 66);
        let count: i64 = metadata
            .read(|db| Ok(db.query_row("SELECT count(*) FROM garbage", [], |row| row.get(0))?))
            .await
            .unwrap();
        assert_eq!(count, 66);
    }

    /// A change that panicked used to end the thread: every later write failed, and nothing showed it.
    #[tokio::test(flavor = "multi_thread")]
    async fn a_change_that_panics_leaves_nothing_and_spares_the_others() {
        let (dir, writer, blobs) = writer();
        let insert = |id: Uuid, panics: bool| {
            writer.commit(Some(place(&blobs, id)), move |db| {
                tables::insert_blob(db, Uuid::nil(), &row(id))?;
                assert!(!panics, "as the test wants it");
                Ok(())
            })
        };
        let ids = [(); 6].map(|()| Uuid::new_v4());
        let all = ids.iter().enumerate().map(|(number, id)| insert(*id, number % 2 == 1));
        let all = futures::future::join_all(all).await;
        assert_eq!(
            all.iter().map(Result::is_ok).collect::<Vec<_>>(),
            [true, false, true, false, true, false]
        );
        assert!(writer.is_alive());
        assert_eq!(files(&blobs), [ids[0], ids[2], ids[4]].into());
        drop(dir);
    }

    /// A full disk fails COMMIT after the changes have run. Their files used to stay until a restart.
    #[tokio::test(flavor = "multi_thread")]
    async fn a_transaction_that_fails_leaves_no_file_behind() {
        let (_dir, writer, blobs) = writer();
        let put = |id: Uuid, fails: bool| {
            writer.commit(Some(place(&blobs, id)), move |db| {
                tables::insert_blob(db, Uuid::nil(), &row(id))?;
                // Checked by COMMIT alone.
                if fails {
                    db.execute("INSERT INTO child VALUES (1)", [])?;
                }
                Ok(())
            })
        };
        let [before, lost, also_lost, after] = [(); 4].map(|()| Uuid::new_v4());
        put(before, false).await.unwrap();
        assert!(put(lost, true).await.is_err());
        assert!(put(also_lost, true).await.is_err());
        // The outcome of a COMMIT that failed may be unknown: nothing is deleted on its word.
        assert_eq!(files(&blobs), [before, lost, also_lost].into());
        // Even a change that writes nothing: the failed transaction must not come back after a crash.
        writer.commit(None, |_| Ok(())).await.unwrap();
        put(after, false).await.unwrap();
        let garbage = writer.commit(None, |db| tables::garbage(db, Uuid::nil(), 10)).await.unwrap();
        assert_eq!(garbage.into_iter().collect::<std::collections::BTreeSet<_>>(), [lost, also_lost].into());
        // The collector deletes them.
        assert_eq!(files(&blobs), [before, lost, also_lost, after].into());
    }

    fn writer() -> (tempfile::TempDir, Writer, Blobs) {
        let dir = tempfile::tempdir().unwrap();
        let path: &Path = dir.path();
        let connection = Connection::open(path.join("m")).unwrap();
        schema::prepare(&connection).unwrap();
        connection
            .execute_batch(
                "PRAGMA foreign_keys = ON; CREATE TABLE parent (id INTEGER PRIMARY KEY);
                 CREATE TABLE child (parent INTEGER REFERENCES parent DEFERRABLE INITIALLY DEFERRED);",
            )
            .unwrap();
        let blobs = Blobs::open(path).unwrap();
        (dir, Writer::start(connection).unwrap(), blobs)
    }

    fn place(blobs: &Blobs, id: Uuid) -> PlacedBlob {
        blobs.create(id).unwrap().place().unwrap()
    }

    fn row(id: Uuid) -> BlobRow {
        BlobRow { id, position: 0, size: 0, stored: 0, segment: 0, crc64: None, data_key: None, inline: None }
    }

    fn files(blobs: &Blobs) -> std::collections::BTreeSet<Uuid> {
        blobs.list().unwrap().into_iter().map(|(id, _)| id).collect()
    }
}
