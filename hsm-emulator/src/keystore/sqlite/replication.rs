//! What goes from one region's keystore into another's: the change log in pieces, and the transaction that takes them in.

use parking_lot::{ArcMutexGuard, RawMutex};
use rusqlite::{Connection, params};

use super::{DELETE, PUT, SqliteKeystore, head, local, set_local};
use crate::keystore::{Changed, Error, Piece, Result};

/// A transaction that is filled piece by piece, over several calls. Dropped before its commit, it leaves nothing.
pub struct Inflow(ArcMutexGuard<RawMutex, Option<Connection>>);

impl SqliteKeystore {
    /// Begins to take in what the partner sends. Nobody else writes until it is committed or dropped.
    ///
    /// # Errors
    /// [`Error::Database`].
    pub fn inflow(&self) -> Result<Inflow> {
        let mut slot = self.writer.lock_arc();
        self.connection(&mut slot)?.execute_batch("BEGIN IMMEDIATE")?;
        Ok(Inflow(slot))
    }

    /// The change log after a revision, over all kinds; after 0, everything. At most about a mebibyte at once.
    ///
    /// # Errors
    /// [`Error::Database`].
    pub fn piece(&self, since: u64) -> Result<Piece> {
        let mut slot = self.reader.lock();
        let reader = self.connection(&mut slot)?;
        // One transaction: what is read and the revision belong together.
        let transaction = reader.transaction()?;
        let mut found = Piece { revision: since, ..Piece::default() };
        // What has changed again comes where it changed last, and no call looks at too much of it.
        let mut statement = transaction.prepare_cached(
            "SELECT c.revision, c.kind, c.id, r.version, r.body,
                    EXISTS (SELECT 1 FROM changes l WHERE l.kind = c.kind AND l.id = c.id AND l.revision > c.revision)
             FROM changes c LEFT JOIN records r ON r.kind = c.kind AND r.id = c.id
             WHERE c.revision > ?1 ORDER BY c.revision",
        )?;
        let mut rows = statement.query(params![since as i64])?;
        let (mut bytes, mut seen) = (0, 0);
        while let Some(row) = rows.next()? {
            if bytes > MAX_PIECE_BYTES || seen >= MAX_PIECE_CHANGES {
                found.more = true;
                break;
            }
            seen += 1;
            found.revision = row.get::<_, i64>(0)? as u64;
            if row.get(5)? {
                continue;
            }
            let record = match row.get::<_, Option<i64>>(3)? {
                Some(version) => Some((version as u64, row.get::<_, Vec<u8>>(4)?)),
                None => None,
            };
            let (kind, id): (String, String) = (row.get(1)?, row.get(2)?);
            bytes += kind.len() + id.len() + record.as_ref().map_or(0, |(_, body)| body.len());
            found.changes.push(Changed { revision: found.revision, kind, id, record });
        }
        Ok(found)
    }
}

impl Inflow {
    /// Forgets all records and their log: everything is sent anew.
    ///
    /// # Errors
    /// [`Error::Database`].
    pub fn clear(&self) -> Result<()> {
        Ok(self.connection()?.execute_batch("DELETE FROM records; DELETE FROM changes")?)
    }

    /// Makes a change as the partner has made it: the same version, at the same place of the log.
    ///
    /// # Errors
    /// [`Error::Database`], also if the log is there already.
    pub fn apply(&self, change: &Changed) -> Result<()> {
        let connection = self.connection()?;
        let Changed { revision, kind, id, record } = change;
        match record {
            Some((version, body)) => {
                connection.prepare_cached(PUT)?.execute(params![kind, id, *version as i64, body])?
            }
            None => connection.prepare_cached(DELETE)?.execute(params![kind, id])?,
        };
        connection
            .prepare_cached("INSERT INTO changes (revision, kind, id) VALUES (?1, ?2, ?3)")?
            .execute(params![*revision as i64, kind, id])?;
        Ok(())
    }

    /// The position of the last change.
    ///
    /// # Errors
    /// [`Error::Database`].
    pub fn head(&self) -> Result<u64> {
        Ok(head(self.connection()?)?)
    }

    /// As [`Transaction::local`].
    ///
    /// # Errors
    /// [`Error::Database`].
    pub fn local(&self, name: &str) -> Result<Option<Vec<u8>>> {
        Ok(local(self.connection()?, name)?)
    }

    /// As [`Transaction::set_local`].
    ///
    /// # Errors
    /// [`Error::Database`].
    pub fn set_local(&self, name: &str, value: &[u8]) -> Result<()> {
        set_local(self.connection()?, name, value)
    }

    /// Makes it durable. Nobody else writes until it is dropped.
    ///
    /// # Errors
    /// [`Error::Database`]: then nothing is there.
    pub fn commit(&self) -> Result<()> {
        Ok(self.connection()?.execute_batch("COMMIT")?)
    }

    fn connection(&self) -> Result<&Connection> {
        self.0.as_ref().ok_or_else(|| Error::Database("the connection is closed".into()))
    }
}

impl Drop for Inflow {
    fn drop(&mut self) {
        if let Some(connection) = self.0.as_ref().filter(|connection| !connection.is_autocommit())
            && let Err(error) = connection.execute_batch("ROLLBACK")
        {
            tracing::error!(%error, "what was taken in cannot be rolled back: the connection is closed");
            *self.0 = None;
        }
    }
}

/// Bodies and names in one [`Piece`], in bytes, give or take one body.
const MAX_PIECE_BYTES: usize = 1 << 20;
/// Rows of the log in one [`Piece`], those of records that have changed again too.
const MAX_PIECE_CHANGES: usize = 16_384;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::keystore::Expect;
    use crate::keystore::sqlite::tests::write;

    /// Everything of one keystore in another, piece by piece, from where that one is.
    fn follow(from: &SqliteKeystore, to: &SqliteKeystore) -> usize {
        let (mut pieces, mut since) = (0, to.head().expect("head"));
        let inflow = to.inflow().expect("inflow");
        loop {
            let piece = from.piece(since).expect("piece");
            piece.changes.iter().for_each(|change| inflow.apply(change).expect("apply"));
            (pieces, since) = (pieces + 1, piece.revision);
            if !piece.more {
                inflow.commit().expect("commit");
                return pieces;
            }
        }
    }

    #[test]
    fn a_follower_has_the_same_records_at_the_same_places() {
        let dir = tempfile::tempdir().expect("dir");
        let from = SqliteKeystore::open(&dir.path().join("from")).expect("open");
        let to = SqliteKeystore::open(&dir.path().join("to")).expect("open");
        let body = vec![7; 300 << 10];
        for i in 0..10 {
            from.commit(vec![write(&i.to_string(), Expect::Absent, Some(&body))]).expect("commit");
        }
        from.commit(vec![write("3", Expect::Present, None), write("1", Expect::Version(1), Some(b"2"))])
            .expect("commit");
        assert!(follow(&from, &to) > 1);
        assert_eq!(follow(&from, &to), 1, "nothing is left to follow");
        from.commit(vec![write("1", Expect::Version(2), Some(b"3"))]).expect("commit");
        follow(&from, &to);
        assert_eq!(from.scan("k").expect("scan"), to.scan("k").expect("scan"));
        assert_eq!(to.head().expect("head"), 13);
        let changes = |keystore: &SqliteKeystore| keystore.changes("k", 10).expect("changes").changes;
        assert_eq!(changes(&from), changes(&to));
        // What is not committed is not there.
        let inflow = to.inflow().expect("inflow");
        inflow.clear().expect("clear");
        drop(inflow);
        assert_eq!(to.scan("k").expect("scan").len(), 9);
    }

    #[test]
    fn what_has_changed_often_is_sent_once_and_no_piece_looks_at_all_of_it() {
        let dir = tempfile::tempdir().expect("dir");
        let from = SqliteKeystore::open(&dir.path().join("from")).expect("open");
        let to = SqliteKeystore::open(&dir.path().join("to")).expect("open");
        let writes = (0..2 * MAX_PIECE_CHANGES).map(|_| write("a", Expect::Any, Some(b"1"))).collect();
        from.commit(writes).expect("commit");
        let first = from.piece(0).expect("piece");
        assert_eq!((first.changes.len(), first.revision, first.more), (0, MAX_PIECE_CHANGES as u64, true));
        assert_eq!(follow(&from, &to), 2);
        assert_eq!(from.scan("k").expect("scan"), to.scan("k").expect("scan"));
        assert_eq!(from.head().expect("head"), to.head().expect("head"));
    }
}
