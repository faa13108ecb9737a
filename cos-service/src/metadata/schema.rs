//! Tables, and the settings that crash safety rests on.

use rusqlite::Connection;

use crate::{
    error::{Error, Result},
    metadata::newer_schema,
};

/// Version of the tables below, kept in `PRAGMA user_version`.
const VERSION: i64 = 1;

const TABLES: &str = "
CREATE TABLE buckets (
  id           BLOB PRIMARY KEY,            -- UUID
  name         TEXT NOT NULL UNIQUE,
  created      INTEGER NOT NULL,            -- ms since 1970
  location     TEXT NOT NULL,               -- location constraint; empty: default
  root_key_crn TEXT,                        -- NULL: unkeyed
  wrapped_key  TEXT                         -- bucket key, wrapped by the root key
) WITHOUT ROWID;

CREATE TABLE objects (
  bucket     BLOB NOT NULL,
  key        BLOB NOT NULL,                 -- UTF-8; compares bytewise
  id         BLOB NOT NULL,                 -- UUID of this version of the object
  size       INTEGER NOT NULL,              -- plaintext bytes
  modified   INTEGER NOT NULL,              -- ms since 1970
  attributes BLOB NOT NULL,                 -- JSON, sealed in a keyed bucket
  PRIMARY KEY (bucket, key)
) WITHOUT ROWID;

CREATE TABLE blobs (
  id       BLOB PRIMARY KEY,                -- UUID; file name if not inline
  owner    BLOB NOT NULL,                   -- id of the object version or of the upload
  position INTEGER NOT NULL,                -- order within the object; part number
  size     INTEGER NOT NULL,                -- plaintext bytes
  stored   INTEGER NOT NULL,                -- bytes at rest
  segment  INTEGER NOT NULL,                -- segment size at rest; 0: plain bytes
  crc64    INTEGER,                         -- CRC-64/NVME of plain bytes
  data_key BLOB,                            -- sealed by the bucket key
  inline   BLOB                             -- the bytes at rest, if they are not in a file
);
CREATE INDEX blobs_by_owner ON blobs (owner, position);

CREATE TABLE uploads (
  id         BLOB PRIMARY KEY,              -- UUID
  bucket     BLOB NOT NULL,
  key        BLOB NOT NULL,
  initiated  INTEGER NOT NULL,              -- ms since 1970
  attributes BLOB NOT NULL                  -- JSON, sealed in a keyed bucket
) WITHOUT ROWID;
CREATE INDEX uploads_by_key ON uploads (bucket, key, id);

CREATE TABLE parts (
  upload     BLOB NOT NULL,
  number     INTEGER NOT NULL,
  blob       BLOB NOT NULL,
  size       INTEGER NOT NULL,
  modified   INTEGER NOT NULL,
  attributes BLOB NOT NULL,                 -- JSON, sealed in a keyed bucket
  PRIMARY KEY (upload, number)
) WITHOUT ROWID;

CREATE TABLE garbage (
  blob  BLOB PRIMARY KEY,                   -- file to delete
  since INTEGER NOT NULL
) WITHOUT ROWID;
";

/// Applies settings, creates the tables, or refuses a newer schema.
pub fn prepare(connection: &Connection) -> Result<()> {
    let found: i64 = connection.query_row("PRAGMA user_version", [], |row| row.get(0))?;
    if found > VERSION {
        return Err(newer_schema(found, VERSION));
    }
    // The page size counts only before the first table.
    connection.execute_batch(
        "PRAGMA page_size = 8192;
         PRAGMA journal_mode = WAL;
         PRAGMA synchronous = FULL;
         PRAGMA temp_store = MEMORY;
         PRAGMA cache_size = -65536;
         PRAGMA wal_autocheckpoint = 4096;",
    )?;
    let mode: String = connection.query_row("PRAGMA journal_mode", [], |row| row.get(0))?;
    if mode != "wal" {
        return Err(Error::internal(format_args!("SQLite uses journal mode {mode}, not WAL")));
    }
    if found == 0 {
        connection
            .execute_batch(&format!("BEGIN IMMEDIATE; {TABLES} PRAGMA user_version = {VERSION}; COMMIT;"))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_newer_schema_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let connection = Connection::open(dir.path().join("m")).unwrap();
        prepare(&connection).unwrap();
        prepare(&connection).unwrap();
        connection.execute_batch("PRAGMA user_version = 99").unwrap();
        assert!(prepare(&connection).unwrap_err().to_string().contains("99"));
    }
}
