//! The one thread that writes.

use std::{
    sync::{Mutex, PoisonError, mpsc},
    thread::JoinHandle,
};

use rusqlite::Connection;
use tokio::sync::oneshot;

use crate::error::{Error, Result};

/// A change in two steps: run in the transaction, then told how the transaction ended.
type Change = Box<dyn FnOnce(&Connection) -> Outcome + Send>;
type Outcome = (bool, Box<dyn FnOnce(Result<()>) + Send>);

/// Hands changes to the writing thread.
pub struct Writer {
    queue: Mutex<Option<mpsc::Sender<Change>>>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

/// Changes that share a transaction, at most.
const MAX_BATCH: usize = 512;

impl Writer {
    /// Starts the thread.
    pub fn start(mut connection: Connection) -> Result<Self> {
        connection.set_prepared_statement_cache_capacity(128);
        let (queue, changes) = mpsc::channel::<Change>();
        let thread = std::thread::Builder::new().name("metadata-writer".to_owned()).spawn(move || {
            while let Ok(first) = changes.recv() {
                let batch = std::iter::once(first).chain(changes.try_iter()).take(MAX_BATCH).collect();
                run_batch(&mut connection, batch);
            }
            if let Err(error) = connection.execute_batch("PRAGMA wal_checkpoint(TRUNCATE)") {
                tracing::warn!(%error, "the last checkpoint failed; it will be made up for at the next start");
            }
        })?;
        Ok(Self { queue: Mutex::new(Some(queue)), thread: Mutex::new(Some(thread)) })
    }

    /// See [`super::Metadata::commit`].
    pub async fn commit<T: Send + 'static>(
        &self,
        change: impl FnOnce(&Connection) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let (reply, answer) = oneshot::channel();
        let change: Change = Box::new(move |connection| {
            let outcome = change(connection);
            let keep = outcome.is_ok();
            // A client that went away needs no answer.
            (
                keep,
                Box::new(move |committed: Result<()>| {
                    drop(reply.send(outcome.and_then(|v| committed.map(|()| v))))
                }),
            )
        });
        let queue = self.queue.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let stopped = || Error::internal("the metadata writer has stopped");
        queue.ok_or_else(stopped)?.send(change).map_err(|_| stopped())?;
        answer.await.map_err(|_| stopped())?
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

fn run_batch(connection: &mut Connection, batch: Vec<Change>) {
    let mut replies = Vec::with_capacity(batch.len());
    let committed = (|| {
        let mut transaction =
            connection.transaction_with_behavior(rusqlite::TransactionBehavior::Immediate)?;
        for change in batch {
            let mut savepoint = transaction.savepoint()?;
            let (keep, reply) = change(&savepoint);
            replies.push(reply);
            if keep {
                savepoint.commit()?;
            } else {
                savepoint.rollback()?;
            }
        }
        transaction.commit()
    })();
    if let Err(error) = &committed {
        tracing::error!(%error, "a metadata transaction failed");
    }
    for reply in replies {
        reply(committed.as_ref().map(|_| ()).map_err(|e| Error::internal(format_args!("metadata: {e}"))));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metadata::Metadata;

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
}
