//! The way out: metadata, ranges, and a stream of verified plaintext.

use std::{fs::File, ops::Range, os::unix::fs::FileExt, sync::Arc};

use bytes::Bytes;
use futures::{FutureExt, StreamExt, TryStreamExt, stream};
use tokio::task::spawn_blocking;
use uuid::Uuid;

use crate::{
    buckets::Bucket,
    content::{
        checksum,
        segments::{HEADER_LEN, Layout, Opener},
    },
    error::{Error, Result},
    keys::{
        seal::{Identity, Seal},
        secret::DataKey,
    },
    metadata::tables::{self, BlobRow, ObjectRow},
    objects::{
        Body,
        attributes::{self, Attributes, content_id},
        put::{check_key, total_size},
    },
    readers::Pinned,
    storage::Storage,
};

/// An object that was found, and may be read.
pub struct FoundObject {
    /// Plaintext bytes.
    pub size: u64,
    /// Milliseconds since 1970.
    pub modified: i64,
    /// The opened attributes.
    pub attributes: Attributes,
    bucket: Arc<Bucket>,
    blobs: Vec<BlobRow>,
    pinned: Pinned,
}

impl FoundObject {
    /// The bytes of a part, counted from 1 in the order of completion. An object that was not
    /// uploaded in parts has one.
    pub fn part(&self, number: i32) -> Result<Range<u64>> {
        let index = usize::try_from(number).ok().and_then(|number| number.checked_sub(1));
        let blob = index.and_then(|index| Some((index, self.blobs.get(index)?)));
        let (index, blob) = blob.ok_or_else(|| {
            Error::new("InvalidPartNumber", 416, "The requested partnumber is not satisfiable")
        })?;
        let start = self.blobs[..index].iter().map(|blob| blob.size).sum();
        Ok(start..start + blob.size)
    }
}

/// A byte range as a client asks for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ByteRange {
    /// From the first byte on, to the last (inclusive) if given.
    From(u64, Option<u64>),
    /// So many bytes from the end.
    Last(u64),
}

impl ByteRange {
    /// The bytes of an object of `size` that this selects.
    pub fn resolve(self, size: u64) -> Result<Range<u64>> {
        let range = match self {
            Self::From(first, last) => first..last.map_or(size, |last| last.saturating_add(1).min(size)),
            Self::Last(count) => size.saturating_sub(count)..size,
        };
        if range.is_empty() {
            return Err(Error::new("InvalidRange", 416, "The requested range is not satisfiable")
                .with_header(http::header::CONTENT_RANGE, format!("bytes */{size}")));
        }
        Ok(range)
    }
}

/// Plaintext that is read and released in one go.
const CHUNK: u64 = 1024 * 1024;
/// Chunks that are read ahead of the client.
const READ_AHEAD: usize = 2;

impl Storage {
    /// Finds an object, without touching its content.
    pub async fn head_object(&self, bucket: &str, key: &str) -> Result<FoundObject> {
        self.find(bucket, key, false).await
    }

    /// Finds an object, to be read.
    pub async fn get_object(&self, bucket: &str, key: &str) -> Result<FoundObject> {
        self.find(bucket, key, true).await
    }

    async fn find(&self, bucket: &str, key: &str, content: bool) -> Result<FoundObject> {
        check_key(key)?;
        let bucket = self.buckets.get(bucket)?;
        let seal = self.seal(&bucket).await?;
        let looking = self.readers.look();
        let (id, key) = (bucket.id, key.to_owned());
        let (object, attributes, blobs) = self
            .metadata
            .read(move |db| {
                let object = tables::object(db, id, &key)?.ok_or_else(Error::no_such_key)?;
                let attributes = attributes::of_object(&seal, id, &key, &object)?;
                let blobs = if content { sources(db, &object, &attributes)? } else { Vec::new() };
                Ok((object, attributes, blobs))
            })
            .await?;
        let pinned =
            looking.pin(blobs.iter().filter(|blob| blob.inline.is_none()).map(|blob| blob.id).collect());
        Ok(FoundObject { size: object.size, modified: object.modified, attributes, bucket, blobs, pinned })
    }

    /// Streams a range of an object. What the first chunk needs is read and verified before this
    /// returns; damage further on ends the stream with an error.
    pub async fn read(self: &Arc<Self>, object: FoundObject, range: Range<u64>) -> Result<Body> {
        let mut pieces = Vec::new();
        let mut start = 0;
        for row in object.blobs {
            let end = start + row.size;
            let (from, to) = (range.start.max(start), range.end.min(end));
            if from < to {
                pieces.push((row, from - start..to - start));
            }
            start = end;
        }
        let (storage, bucket) = (Arc::clone(self), object.bucket);
        let mut unopened = pieces.len();
        let mut pinned = Some(Arc::new(object.pinned));
        let mut body = stream::iter(pieces)
            .then(move |(row, wanted)| {
                // The names of the blobs must stay valid until the last file is open, and no longer.
                unopened -= 1;
                let pinned = if unopened == 0 { pinned.take() } else { pinned.clone() };
                let (storage, bucket) = (Arc::clone(&storage), Arc::clone(&bucket));
                async move {
                    let _pinned = pinned;
                    let seal = storage.seal(&bucket).await?;
                    let (blobs, id) = (storage.blobs.clone(), bucket.id);
                    let blob = if row.inline.is_some() {
                        OpenBlob::new(row, id, &seal, None)?
                    } else {
                        spawn_blocking(move || {
                            let file = blobs.open_blob(row.id)?;
                            OpenBlob::new(row, id, &seal, Some(file))
                        })
                        .await??
                    };
                    Ok::<_, Error>(storage.read_blob(bucket, blob, wanted))
                }
            })
            .try_flatten()
            .boxed();
        match body.next().await {
            None => Ok(stream::empty().boxed()),
            Some(first) => Ok(stream::iter([Ok(first?)]).chain(body).boxed()),
        }
    }

    fn read_blob(self: Arc<Self>, bucket: Arc<Bucket>, blob: OpenBlob, wanted: Range<u64>) -> Body {
        if let Content::Inline(_) = blob.content {
            return stream::once(async move { blob.chunk(wanted) }).boxed();
        }
        // Plain bytes have no tags: a read of the whole blob checks their CRC before its last chunk is released.
        let mut crc = (blob.opener.is_none() && wanted == (0..blob.size)).then(|| {
            (crc_fast::Digest::new(crc_fast::CrcAlgorithm::Crc64Nvme), 0_u64, blob.crc64.unwrap_or_default())
        });
        let blob = Arc::new(blob);
        let total = blob.size;
        stream::iter(blob.chunks(wanted))
            .map(move |range| {
                let blob = Arc::clone(&blob);
                async move { spawn_blocking(move || blob.chunk(range)).await? }.boxed()
            })
            .buffered(READ_AHEAD)
            .and_then(move |bytes| {
                // The lease holds for a download in progress as well, and for what was read ahead of it.
                let (storage, bucket) = (Arc::clone(&self), Arc::clone(&bucket));
                async move {
                    storage.seal(&bucket).await?;
                    Ok(bytes)
                }
            })
            .and_then(move |bytes| {
                let outcome = match &mut crc {
                    None => Ok(bytes),
                    Some((digest, seen, expected)) => {
                        digest.update(&bytes);
                        *seen += bytes.len() as u64;
                        if *seen == total && digest.finalize() != *expected {
                            Err(Error::damaged("the checksum of plain bytes differs"))
                        } else {
                            Ok(bytes)
                        }
                    }
                };
                futures::future::ready(outcome)
            })
            .boxed()
    }
}

fn sources(db: &rusqlite::Connection, object: &ObjectRow, attributes: &Attributes) -> Result<Vec<BlobRow>> {
    let blobs = tables::blobs_of(db, object.id)?;
    if total_size(&blobs) != Some(object.size) || content_id(&blobs) != attributes.content {
        return Err(Error::damaged(format_args!(
            "the blobs of object {} are not those that were stored",
            object.id
        )));
    }
    Ok(blobs)
}

/// A blob that is open for reading.
struct OpenBlob {
    content: Content,
    opener: Option<Opener>,
    size: u64,
    crc64: Option<u64>,
}

enum Content {
    Inline(Bytes),
    File(File),
}

impl OpenBlob {
    fn new(row: BlobRow, bucket: Uuid, seal: &Seal, file: Option<File>) -> Result<Self> {
        let data_key = match (&row.data_key, seal.is_keyed()) {
            (Some(sealed), true) => {
                Some(DataKey::from_slice(&seal.open(&Identity::data_key(bucket, row.id), sealed)?)?)
            }
            (None, false) => None,
            _ => {
                let id = row.id;
                return Err(Error::damaged(format_args!("blob {id} is of another kind than its bucket")));
            }
        };
        let content = match (row.inline, file) {
            (Some(bytes), _) => Content::Inline(bytes.into()),
            (None, Some(file)) => Content::File(file),
            (None, None) => return Err(Error::internal("a blob was not opened")),
        };
        let found = match &content {
            Content::Inline(bytes) => bytes.len() as u64,
            Content::File(file) => file.metadata()?.len(),
        };
        if found != row.stored {
            return Err(Error::damaged(format_args!(
                "blob {} has {found} bytes instead of {}",
                row.id, row.stored
            )));
        }
        let mut blob = Self { content, opener: None, size: row.size, crc64: row.crc64 };
        match data_key {
            Some(key) => {
                let layout = Layout::new(row.segment, row.size)?;
                if layout.stored() != row.stored {
                    return Err(Error::damaged(format_args!(
                        "blob {} has another length than its content",
                        row.id
                    )));
                }
                let mut header = [0; HEADER_LEN];
                blob.read_at(&mut header, 0)?;
                let identity = Identity::content(bucket, row.id);
                blob.opener = Some(Opener::new(key.expose_secret(), identity.as_bytes(), &header, layout)?);
            }
            None if row.stored != row.size => {
                return Err(Error::damaged(format_args!(
                    "blob {} has another length than its content",
                    row.id
                )));
            }
            None => {
                if let Content::Inline(bytes) = &blob.content
                    && blob.crc64 != Some(checksum::crc64(bytes))
                {
                    return Err(Error::damaged(format_args!("the checksum of blob {} differs", row.id)));
                }
            }
        }
        Ok(blob)
    }

    /// Cuts a range where segments end, in steps of about [`CHUNK`].
    fn chunks(&self, wanted: Range<u64>) -> Vec<Range<u64>> {
        let mut chunks = Vec::new();
        let mut start = wanted.start;
        while start < wanted.end {
            let mut end = wanted.end.min(start + CHUNK);
            if end < wanted.end
                && let Some(opener) = &self.opener
            {
                let border = opener.layout().plaintext(opener.layout().segment_of(end)).start;
                // A segment larger than the step is taken whole.
                end = if border > start {
                    border
                } else {
                    opener.layout().plaintext(opener.layout().segment_of(start)).end
                };
            }
            chunks.push(start..end.min(wanted.end));
            start = end;
        }
        chunks
    }

    /// Verified plaintext of a range.
    fn chunk(&self, wanted: Range<u64>) -> Result<Bytes> {
        let Some(opener) = &self.opener else {
            if let Content::Inline(bytes) = &self.content {
                return Ok(bytes.slice(wanted.start as usize..wanted.end as usize));
            }
            let mut bytes = vec![0; (wanted.end - wanted.start) as usize];
            self.read_at(&mut bytes, wanted.start)?;
            return Ok(bytes.into());
        };
        let layout = opener.layout();
        let (first, last) = (layout.segment_of(wanted.start), layout.segment_of(wanted.end - 1));
        let stored = layout.ciphertext(first).start..layout.ciphertext(last).end;
        let mut plaintext = Vec::new();
        if let Content::Inline(bytes) = &self.content {
            opener.open(first, last, &bytes[stored.start as usize..stored.end as usize], &mut plaintext)?;
        } else {
            let mut ciphertext = vec![0; (stored.end - stored.start) as usize];
            self.read_at(&mut ciphertext, stored.start)?;
            opener.open(first, last, &ciphertext, &mut plaintext)?;
        }
        let offset = layout.plaintext(first).start;
        Ok(Bytes::from(plaintext).slice((wanted.start - offset) as usize..(wanted.end - offset) as usize))
    }

    fn read_at(&self, buffer: &mut [u8], offset: u64) -> Result<()> {
        match &self.content {
            Content::Inline(bytes) => {
                let end = offset as usize + buffer.len();
                let slice =
                    bytes.get(offset as usize..end).ok_or_else(|| Error::damaged("a blob is too short"))?;
                buffer.copy_from_slice(slice);
                Ok(())
            }
            Content::File(file) => file
                .read_exact_at(buffer, offset)
                .map_err(|e| Error::damaged(format_args!("a blob can't be read: {e}"))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges() {
        let resolve = |range: ByteRange, size| range.resolve(size).ok();
        assert_eq!(resolve(ByteRange::From(0, None), 5), Some(0..5));
        assert_eq!(resolve(ByteRange::From(1, Some(3)), 5), Some(1..4));
        assert_eq!(resolve(ByteRange::From(1, Some(u64::MAX)), 5), Some(1..5));
        assert_eq!(resolve(ByteRange::From(5, None), 5), None);
        assert_eq!(resolve(ByteRange::Last(2), 5), Some(3..5));
        assert_eq!(resolve(ByteRange::Last(9), 5), Some(0..5));
        assert_eq!(resolve(ByteRange::Last(0), 5), None);
        assert_eq!(resolve(ByteRange::Last(1), 0), None);
    }
}
