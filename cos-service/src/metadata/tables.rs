//! Rows, and the statements that read and write them.

use rusqlite::{Connection, OptionalExtension, Row, params};
use uuid::Uuid;

use crate::{error::Result, keys::bucket_keys::WrappedKey, metadata::now_millis};

/// A bucket.
#[derive(Debug, Clone)]
pub struct Bucket {
    /// Identity; a bucket made anew under the same name has another.
    pub id: Uuid,
    /// Name.
    pub name: String,
    /// Milliseconds since 1970.
    pub created: i64,
    /// Location constraint as given at creation; empty if none was.
    pub location: String,
    /// `None`: unkeyed.
    pub key: Option<WrappedKey>,
}

/// An object's row.
#[derive(Debug, Clone)]
pub struct ObjectRow {
    /// Identity of this version of the object.
    pub id: Uuid,
    /// Plaintext bytes.
    pub size: u64,
    /// Milliseconds since 1970.
    pub modified: i64,
    /// Sealed attributes.
    pub attributes: Vec<u8>,
}

/// A blob's row.
#[derive(Debug, Clone)]
pub struct BlobRow {
    /// Identity, and file name.
    pub id: Uuid,
    /// Order within its object.
    pub position: u32,
    /// Plaintext bytes.
    pub size: u64,
    /// Bytes at rest.
    pub stored: u64,
    /// Segment size at rest; 0 for plain bytes.
    pub segment: u32,
    /// CRC-64/NVME of plain bytes.
    pub crc64: Option<u64>,
    /// Sealed data key.
    pub data_key: Option<Vec<u8>>,
    /// The bytes at rest, if they are not in a file.
    pub inline: Option<Vec<u8>>,
}

/// A multipart upload's row.
#[derive(Debug, Clone)]
pub struct UploadRow {
    /// Upload id.
    pub id: Uuid,
    /// Key of the object to be.
    pub key: String,
    /// Milliseconds since 1970.
    pub initiated: i64,
    /// Sealed attributes.
    pub attributes: Vec<u8>,
}

/// An uploaded part's row.
#[derive(Debug, Clone)]
pub struct PartRow {
    /// 1 to 10,000.
    pub number: u16,
    /// Its blob.
    pub blob: Uuid,
    /// Plaintext bytes.
    pub size: u64,
    /// Milliseconds since 1970.
    pub modified: i64,
    /// Sealed attributes.
    pub attributes: Vec<u8>,
}

fn uuid(row: &Row<'_>, index: usize) -> rusqlite::Result<Uuid> {
    Ok(Uuid::from_bytes(row.get(index)?))
}

fn bytes(row: &Row<'_>, index: usize) -> rusqlite::Result<u64> {
    row.get::<_, i64>(index).map(i64::cast_unsigned)
}

fn text(row: &Row<'_>, index: usize) -> rusqlite::Result<String> {
    Ok(String::from_utf8_lossy(&row.get::<_, Vec<u8>>(index)?).into_owned())
}

/// Every bucket.
pub fn buckets(db: &Connection) -> Result<Vec<Bucket>> {
    let mut query = db.prepare_cached(
        "SELECT id, name, created, location, root_key_crn, wrapped_key FROM buckets ORDER BY name",
    )?;
    let rows = query.query_map([], |row| {
        let key = match (row.get(4)?, row.get(5)?) {
            (Some(root_key_crn), Some(ciphertext)) => Some(WrappedKey { root_key_crn, ciphertext }),
            _ => None,
        };
        Ok(Bucket { id: uuid(row, 0)?, name: row.get(1)?, created: row.get(2)?, location: row.get(3)?, key })
    })?;
    Ok(rows.collect::<rusqlite::Result<_>>()?)
}

/// Adds a bucket; false if its name is taken.
pub fn insert_bucket(db: &Connection, bucket: &Bucket) -> Result<bool> {
    let key = bucket.key.as_ref();
    let inserted = db.execute(
        "INSERT INTO buckets VALUES (?, ?, ?, ?, ?, ?) ON CONFLICT (name) DO NOTHING",
        params![
            bucket.id.as_bytes(),
            bucket.name,
            bucket.created,
            bucket.location,
            key.map(|key| &key.root_key_crn),
            key.map(|key| &key.ciphertext),
        ],
    )?;
    Ok(inserted == 1)
}

/// Replaces a wrapped bucket key.
pub fn update_wrapped_key(db: &Connection, bucket: Uuid, ciphertext: &str) -> Result<()> {
    db.execute("UPDATE buckets SET wrapped_key = ? WHERE id = ?", params![ciphertext, bucket.as_bytes()])?;
    Ok(())
}

/// Whether a bucket is still there.
pub fn bucket_exists(db: &Connection, bucket: Uuid) -> Result<bool> {
    Ok(db.prepare_cached("SELECT 1 FROM buckets WHERE id = ?")?.exists([bucket.as_bytes()])?)
}

/// Whether a bucket holds neither objects nor uploads.
pub fn bucket_is_empty(db: &Connection, bucket: Uuid) -> Result<bool> {
    let full: bool = db.query_row(
        "SELECT EXISTS (SELECT 1 FROM objects WHERE bucket = ?1) OR EXISTS (SELECT 1 FROM uploads WHERE bucket = ?1)",
        [bucket.as_bytes()],
        |row| row.get(0),
    )?;
    Ok(!full)
}

/// Removes a bucket's row.
pub fn delete_bucket(db: &Connection, bucket: Uuid) -> Result<bool> {
    Ok(db.execute("DELETE FROM buckets WHERE id = ?", [bucket.as_bytes()])? == 1)
}

/// An object.
pub fn object(db: &Connection, bucket: Uuid, key: &str) -> Result<Option<ObjectRow>> {
    let mut query =
        db.prepare_cached("SELECT id, size, modified, attributes FROM objects WHERE bucket = ? AND key = ?")?;
    let row = query
        .query_row(params![bucket.as_bytes(), key.as_bytes()], |row| {
            Ok(ObjectRow {
                id: uuid(row, 0)?,
                size: bytes(row, 1)?,
                modified: row.get(2)?,
                attributes: row.get(3)?,
            })
        })
        .optional()?;
    Ok(row)
}

/// Objects from a key on (inclusive), in byte order of their keys, until `visit` returns false.
pub fn scan_objects(
    db: &Connection,
    bucket: Uuid,
    from: &[u8],
    mut visit: impl FnMut(String, ObjectRow) -> bool,
) -> Result<()> {
    let mut query = db.prepare_cached(
        "SELECT key, id, size, modified, attributes FROM objects WHERE bucket = ? AND key >= ? ORDER BY key",
    )?;
    let mut rows = query.query(params![bucket.as_bytes(), from])?;
    while let Some(row) = rows.next()? {
        let object = ObjectRow {
            id: uuid(row, 1)?,
            size: bytes(row, 2)?,
            modified: row.get(3)?,
            attributes: row.get(4)?,
        };
        if !visit(text(row, 0)?, object) {
            break;
        }
    }
    Ok(())
}

/// Adds an object or takes the place of an older one, whose blobs become garbage.
pub fn put_object(db: &Connection, bucket: Uuid, key: &str, object: &ObjectRow) -> Result<()> {
    if let Some(old) = self::object(db, bucket, key)? {
        discard_blobs_of(db, old.id)?;
    }
    db.prepare_cached("INSERT OR REPLACE INTO objects VALUES (?, ?, ?, ?, ?, ?)")?.execute(params![
        bucket.as_bytes(),
        key.as_bytes(),
        object.id.as_bytes(),
        object.size.cast_signed(),
        object.modified,
        object.attributes,
    ])?;
    Ok(())
}

/// Removes an object; its blobs become garbage.
pub fn delete_object(db: &Connection, bucket: Uuid, key: &str) -> Result<bool> {
    let Some(old) = object(db, bucket, key)? else { return Ok(false) };
    discard_blobs_of(db, old.id)?;
    db.prepare_cached("DELETE FROM objects WHERE bucket = ? AND key = ?")?
        .execute(params![bucket.as_bytes(), key.as_bytes()])?;
    Ok(true)
}

/// Adds a blob to an object version or an upload.
pub fn insert_blob(db: &Connection, owner: Uuid, blob: &BlobRow) -> Result<()> {
    db.prepare_cached("INSERT INTO blobs VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)")?.execute(params![
        blob.id.as_bytes(),
        owner.as_bytes(),
        blob.position,
        blob.size.cast_signed(),
        blob.stored.cast_signed(),
        blob.segment,
        blob.crc64.map(u64::cast_signed),
        blob.data_key,
        blob.inline,
    ])?;
    Ok(())
}

/// The blobs of an object version, in order.
pub fn blobs_of(db: &Connection, owner: Uuid) -> Result<Vec<BlobRow>> {
    blobs(db, owner, true)
}

/// The same as far as they are described: what is inline is left where it is.
pub fn blobs_without_content(db: &Connection, owner: Uuid) -> Result<Vec<BlobRow>> {
    blobs(db, owner, false)
}

fn blobs(db: &Connection, owner: Uuid, content: bool) -> Result<Vec<BlobRow>> {
    let mut query = db.prepare_cached(
        "SELECT id, position, size, stored, segment, crc64, data_key, CASE WHEN ?2 THEN inline END FROM blobs
         WHERE owner = ?1 ORDER BY position",
    )?;
    let rows = query.query_map(params![owner.as_bytes(), content], |row| {
        Ok(BlobRow {
            id: uuid(row, 0)?,
            position: row.get(1)?,
            size: bytes(row, 2)?,
            stored: bytes(row, 3)?,
            segment: row.get(4)?,
            crc64: row.get::<_, Option<i64>>(5)?.map(i64::cast_unsigned),
            data_key: row.get(6)?,
            inline: row.get(7)?,
        })
    })?;
    Ok(rows.collect::<rusqlite::Result<_>>()?)
}

/// Gives a blob to another owner.
pub fn move_blob(db: &Connection, blob: Uuid, owner: Uuid, position: u32) -> Result<()> {
    db.prepare_cached("UPDATE blobs SET owner = ?, position = ? WHERE id = ?")?.execute(params![
        owner.as_bytes(),
        position,
        blob.as_bytes()
    ])?;
    Ok(())
}

/// Removes the blobs of an owner; files are left to the collector.
pub fn discard_blobs_of(db: &Connection, owner: Uuid) -> Result<()> {
    db.prepare_cached(
        "INSERT OR IGNORE INTO garbage SELECT id, ? FROM blobs WHERE owner = ? AND inline IS NULL",
    )?
    .execute(params![now_millis(), owner.as_bytes()])?;
    db.prepare_cached("DELETE FROM blobs WHERE owner = ?")?.execute([owner.as_bytes()])?;
    Ok(())
}

/// Removes one blob; a file is left to the collector.
pub fn discard_blob(db: &Connection, blob: Uuid) -> Result<()> {
    db.prepare_cached(
        "INSERT OR IGNORE INTO garbage SELECT id, ? FROM blobs WHERE id = ? AND inline IS NULL",
    )?
    .execute(params![now_millis(), blob.as_bytes()])?;
    db.prepare_cached("DELETE FROM blobs WHERE id = ?")?.execute([blob.as_bytes()])?;
    Ok(())
}

/// Files to delete whose names come after another, in that order.
pub fn garbage(db: &Connection, after: Uuid, limit: u32) -> Result<Vec<Uuid>> {
    let mut query = db.prepare_cached("SELECT blob FROM garbage WHERE blob > ? ORDER BY blob LIMIT ?")?;
    let rows = query.query_map(params![after.as_bytes(), limit], |row| uuid(row, 0))?;
    Ok(rows.collect::<rusqlite::Result<_>>()?)
}

/// Leaves a file to the collector unless a blob's row names it.
pub fn discard_unnamed(db: &Connection, blob: Uuid) -> Result<()> {
    db.prepare_cached(
        "INSERT OR IGNORE INTO garbage SELECT ?1, ?2 WHERE NOT EXISTS (SELECT 1 FROM blobs WHERE id = ?1)",
    )?
    .execute(params![blob.as_bytes(), now_millis()])?;
    Ok(())
}

/// Forgets files that were deleted.
pub fn forget_garbage(db: &Connection, blobs: &[Uuid]) -> Result<()> {
    let mut delete = db.prepare_cached("DELETE FROM garbage WHERE blob = ?")?;
    for blob in blobs {
        delete.execute([blob.as_bytes()])?;
    }
    Ok(())
}

/// Every blob that must have a file, with its size at rest.
pub fn file_blobs(db: &Connection) -> Result<Vec<(Uuid, u64)>> {
    let mut query = db.prepare_cached("SELECT id, stored FROM blobs WHERE inline IS NULL")?;
    let rows = query.query_map([], |row| Ok((uuid(row, 0)?, bytes(row, 1)?)))?;
    Ok(rows.collect::<rusqlite::Result<_>>()?)
}

/// Adds a multipart upload.
pub fn insert_upload(db: &Connection, bucket: Uuid, upload: &UploadRow) -> Result<()> {
    db.prepare_cached("INSERT INTO uploads VALUES (?, ?, ?, ?, ?)")?.execute(params![
        upload.id.as_bytes(),
        bucket.as_bytes(),
        upload.key.as_bytes(),
        upload.initiated,
        upload.attributes,
    ])?;
    Ok(())
}

/// A multipart upload of this bucket and key.
pub fn upload(db: &Connection, bucket: Uuid, key: &str, id: Uuid) -> Result<Option<UploadRow>> {
    let mut query = db.prepare_cached(
        "SELECT initiated, attributes FROM uploads WHERE id = ? AND bucket = ? AND key = ?",
    )?;
    let row = query
        .query_row(params![id.as_bytes(), bucket.as_bytes(), key.as_bytes()], |row| {
            Ok(UploadRow { id, key: key.to_owned(), initiated: row.get(0)?, attributes: row.get(1)? })
        })
        .optional()?;
    Ok(row)
}

/// Uploads of a bucket from a key on (inclusive), by key and id, until `visit` returns false.
pub fn scan_uploads(
    db: &Connection,
    bucket: Uuid,
    from: &[u8],
    mut visit: impl FnMut(UploadRow) -> bool,
) -> Result<()> {
    let mut query = db.prepare_cached(
        "SELECT id, key, initiated FROM uploads WHERE bucket = ? AND key >= ? ORDER BY key, id",
    )?;
    let mut rows = query.query(params![bucket.as_bytes(), from])?;
    while let Some(row) = rows.next()? {
        let upload = UploadRow {
            id: uuid(row, 0)?,
            key: text(row, 1)?,
            initiated: row.get(2)?,
            attributes: Vec::new(),
        };
        if !visit(upload) {
            break;
        }
    }
    Ok(())
}

/// Removes an upload's rows, with the blobs that still belong to it.
pub fn delete_upload(db: &Connection, upload: Uuid) -> Result<()> {
    discard_blobs_of(db, upload)?;
    db.prepare_cached("DELETE FROM parts WHERE upload = ?")?.execute([upload.as_bytes()])?;
    db.prepare_cached("DELETE FROM uploads WHERE id = ?")?.execute([upload.as_bytes()])?;
    Ok(())
}

/// Adds a part or takes the place of an earlier attempt, whose blob becomes garbage.
pub fn put_part(db: &Connection, upload: Uuid, part: &PartRow) -> Result<()> {
    let old = db
        .prepare_cached("SELECT blob FROM parts WHERE upload = ? AND number = ?")?
        .query_row(params![upload.as_bytes(), part.number], |row| uuid(row, 0))
        .optional()?;
    if let Some(old) = old {
        discard_blob(db, old)?;
    }
    db.prepare_cached("INSERT OR REPLACE INTO parts VALUES (?, ?, ?, ?, ?, ?)")?.execute(params![
        upload.as_bytes(),
        part.number,
        part.blob.as_bytes(),
        part.size.cast_signed(),
        part.modified,
        part.attributes,
    ])?;
    Ok(())
}

/// The parts of an upload after a number, in order.
pub fn parts(db: &Connection, upload: Uuid, after: u16, limit: u32) -> Result<Vec<PartRow>> {
    let mut query = db.prepare_cached(
        "SELECT number, blob, size, modified, attributes FROM parts
         WHERE upload = ? AND number > ? ORDER BY number LIMIT ?",
    )?;
    let rows = query.query_map(params![upload.as_bytes(), after, limit], |row| {
        Ok(PartRow {
            number: row.get(0)?,
            blob: uuid(row, 1)?,
            size: bytes(row, 2)?,
            modified: row.get(3)?,
            attributes: row.get(4)?,
        })
    })?;
    Ok(rows.collect::<rusqlite::Result<_>>()?)
}
