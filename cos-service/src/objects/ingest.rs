//! The way in: a body becomes a blob, hashed, checked, encrypted and durable.
//!
//! What fits in one default segment is handled at once and goes into the metadata
//! database. Anything larger flows in chunks: while one is hashed and another encrypted
//! and written, the next arrives from the network. MD5 sets the pace.

use std::fs::File;

use base64::{Engine, prelude::BASE64_STANDARD};
use bytes::Bytes;
use futures::StreamExt;
use tokio::task::{JoinHandle, spawn_blocking};
use uuid::Uuid;

use crate::{
    blobs::{PlacedBlob, UnfinishedBlob},
    buckets::Bucket,
    content::{
        checksum::{self, Algorithm, Checksum},
        etag::Md5,
        segments::{DEFAULT_SEGMENT, HEADER_LEN, Layout, Sealer, TAG_LEN},
    },
    error::{Error, Result},
    frames::Frames,
    keys::{
        seal::{Identity, Seal},
        secret::DataKey,
    },
    metadata::tables::BlobRow,
    objects::{Body, MAX_SINGLE_PUT},
    storage::Storage,
};

/// A body and what the client announced about it.
pub struct Upload {
    /// The bytes.
    pub body: Body,
    /// Number of bytes, if known.
    pub length: Option<u64>,
    /// `Content-MD5`: base64.
    pub content_md5: Option<String>,
    /// The checksum to compute and compare.
    pub algorithm: Algorithm,
    /// Another one to keep in its place, if not the same.
    pub kept: Option<Algorithm>,
    /// Its value as announced, asked for when the body has ended: it may stand in a trailer.
    pub announced: Announced,
}

/// Yields the announced checksum, base64, once the body has been read.
pub type Announced = Box<dyn FnOnce() -> Option<String> + Send>;

/// A blob that is durable, or ready to be inlined, but not yet named by any metadata.
pub struct Received {
    /// Its row.
    pub blob: BlobRow,
    /// Its file, unless it is inline.
    pub placed: Option<PlacedBlob>,
    /// MD5 of the plaintext, in hexadecimal.
    pub etag: String,
    /// The checksum that was computed.
    pub checksum: Checksum,
}

/// Plaintext that still fits in one segment.
const MAX_INLINE: usize = DEFAULT_SEGMENT as usize - HEADER_LEN - TAG_LEN;
/// Plaintext that is hashed and encrypted in one go.
const CHUNK: usize = 1024 * 1024;
/// Bytes after which the page cache is written back, so that the last fsync has little left to do.
const WRITE_BACK: u64 = 8 * 1024 * 1024;

impl Storage {
    /// Receives a body. Nothing is committed, and nothing is left behind on failure. The bucket's key is asked for
    /// when it is needed and not held on to: a slow client must not stretch its lease.
    pub async fn receive(&self, bucket: &Bucket, mut upload: Upload) -> Result<Received> {
        if upload.length.is_some_and(|length| length > MAX_SINGLE_PUT) {
            return Err(Error::entity_too_large());
        }
        let id = Uuid::new_v4();
        let digests = Digests::new(upload.algorithm, upload.kept);
        let (first, ended) = gather(&mut upload.body, MAX_INLINE + 1).await?;
        let (digests, stored) = if ended && total(&first) <= MAX_INLINE {
            seal_inline(&self.seal(bucket).await?, bucket.id, id, digests, &first)?
        } else {
            self.receive_file(bucket, id, digests, first, &mut upload).await?
        };
        check_announced(&digests, stored.blob.size, upload)?;
        let checksum = digests.kept.unwrap_or(digests.checksum);
        Ok(Received { etag: hex::encode(digests.md5), checksum, ..stored })
    }

    async fn receive_file(
        &self,
        bucket: &Bucket,
        id: Uuid,
        digests: Digests,
        first: Vec<Bytes>,
        upload: &mut Upload,
    ) -> Result<(Finished, Received)> {
        let segment = Layout::segment_for(upload.length);
        let file = self.blobs.create(id)?;
        let mut sink = Some(Sink::new(file, &self.seal(bucket).await?, bucket.id, id, segment)?);
        let mut digests = Some(digests);
        let mut hashing: Option<JoinHandle<Digests>> = None;
        let mut writing: Option<JoinHandle<Result<Sink>>> = None;
        let mut syncing: Option<JoinHandle<std::io::Result<()>>> = None;
        let (mut chunk, mut ended) = (first, false);
        let (mut received, mut unsynced) = (0_u64, 0_u64);
        while !chunk.is_empty() || !ended {
            if total(&chunk) < CHUNK && !ended {
                let (more, end) = gather(&mut upload.body, CHUNK - total(&chunk)).await?;
                chunk.extend(more);
                ended = end;
                if chunk.is_empty() {
                    break;
                }
            }
            // A key that has died meanwhile ends the upload here, and not only at its end.
            self.seal(bucket).await?;
            received += total(&chunk) as u64;
            if received > MAX_SINGLE_PUT {
                return Err(Error::entity_too_large());
            }
            let (to_hash, to_write) = (chunk.clone(), std::mem::take(&mut chunk));
            let mut state = match hashing.take() {
                Some(job) => job.await?,
                None => digests.take().ok_or_else(|| Error::internal("digests lost"))?,
            };
            hashing = Some(spawn_blocking(move || {
                to_hash.iter().for_each(|bytes| state.update(bytes));
                state
            }));
            let mut state = match writing.take() {
                Some(job) => job.await??,
                None => sink.take().ok_or_else(|| Error::internal("sink lost"))?,
            };
            unsynced += total(&to_write) as u64;
            if unsynced > WRITE_BACK && syncing.as_ref().is_none_or(JoinHandle::is_finished) {
                if let Some(job) = syncing.take() {
                    job.await??;
                }
                let file: File = state.file.handle()?;
                syncing = Some(spawn_blocking(move || file.sync_data()));
                unsynced = 0;
            }
            writing = Some(spawn_blocking(move || {
                to_write.iter().try_for_each(|bytes| state.write(bytes))?;
                Ok(state)
            }));
        }
        let sink = match writing {
            Some(job) => job.await??,
            None => sink.take().ok_or_else(|| Error::internal("sink lost"))?,
        };
        // The tail is made durable while the last chunk is still being hashed.
        let placing = spawn_blocking(move || sink.finish(id));
        let digests = match hashing {
            Some(job) => job.await?,
            None => digests.take().ok_or_else(|| Error::internal("digests lost"))?,
        };
        if let Some(job) = syncing {
            job.await??;
        }
        Ok((digests.finish(), placing.await??))
    }
}

/// Takes frames until there are `wanted` bytes; true if the body has ended.
async fn gather(body: &mut Body, wanted: usize) -> Result<(Vec<Bytes>, bool)> {
    let (mut frames, mut length) = (Frames::default(), 0);
    while length < wanted {
        let Some(frame) = body.next().await else { return Ok((frames.into_vec(), true)) };
        let frame = frame?;
        length += frame.len();
        frames.push(frame);
    }
    Ok((frames.into_vec(), false))
}

fn total(frames: &[Bytes]) -> usize {
    frames.iter().map(Bytes::len).sum()
}

/// The digests of a body in progress.
struct Digests {
    md5: Md5,
    checksum: checksum::Hasher,
    kept: Option<checksum::Hasher>,
}

struct Finished {
    md5: [u8; 16],
    checksum: Checksum,
    kept: Option<Checksum>,
}

impl Digests {
    fn new(algorithm: Algorithm, kept: Option<Algorithm>) -> Self {
        let kept = kept.map(checksum::Hasher::new);
        Self { md5: Md5::new(), checksum: checksum::Hasher::new(algorithm), kept }
    }

    fn update(&mut self, bytes: &[u8]) {
        // In steps that stay in the cache for the second pass.
        for step in bytes.chunks(32 * 1024) {
            self.md5.update(step);
            self.checksum.update(step);
            if let Some(kept) = &mut self.kept {
                kept.update(step);
            }
        }
    }

    fn finish(self) -> Finished {
        Finished {
            md5: self.md5.finish(),
            checksum: self.checksum.finish(),
            kept: self.kept.map(checksum::Hasher::finish),
        }
    }
}

/// Where the bytes of a larger blob go.
struct Sink {
    file: UnfinishedBlob,
    format: Format,
    stored: u64,
}

enum Format {
    Plain { crc64: Box<crc_fast::Digest> },
    Sealed { sealer: Box<Sealer>, data_key: Vec<u8>, segment: u32 },
}

impl Sink {
    fn new(file: UnfinishedBlob, seal: &Seal, bucket: Uuid, id: Uuid, segment: u32) -> Result<Self> {
        let format = if seal.is_keyed() {
            let (sealer, data_key) = begin_stream(seal, bucket, id, segment)?;
            Format::Sealed { sealer: Box::new(sealer), data_key, segment }
        } else {
            Format::Plain { crc64: Box::new(crc_fast::Digest::new(crc_fast::CrcAlgorithm::Crc64Nvme)) }
        };
        Ok(Self { file, format, stored: 0 })
    }

    fn write(&mut self, bytes: &[u8]) -> Result<()> {
        match &mut self.format {
            Format::Plain { crc64 } => {
                crc64.update(bytes);
                self.stored += bytes.len() as u64;
                self.file.write(bytes)
            }
            Format::Sealed { sealer, .. } => {
                sealer.update(bytes)?;
                if sealer.ready().len() >= CHUNK / 4 {
                    self.stored += sealer.ready().len() as u64;
                    self.file.write(sealer.ready())?;
                    sealer.drain();
                }
                Ok(())
            }
        }
    }

    fn finish(mut self, id: Uuid) -> Result<Received> {
        let mut blob = empty_row(id);
        match self.format {
            Format::Plain { crc64 } => {
                blob.size = self.stored;
                blob.crc64 = Some(crc64.finalize());
            }
            Format::Sealed { sealer, data_key, segment } => {
                blob.size = sealer.size();
                blob.segment = segment;
                blob.data_key = Some(data_key);
                let rest = sealer.finish()?;
                self.stored += rest.len() as u64;
                self.file.write(&rest)?;
            }
        }
        blob.stored = self.stored;
        Ok(Received { blob, placed: Some(self.file.place()?), etag: String::new(), checksum: no_checksum() })
    }
}

fn seal_inline(
    seal: &Seal,
    bucket: Uuid,
    id: Uuid,
    mut digests: Digests,
    frames: &[Bytes],
) -> Result<(Finished, Received)> {
    let mut blob = empty_row(id);
    let plaintext = frames.concat();
    digests.update(&plaintext);
    blob.size = plaintext.len() as u64;
    let inline = if seal.is_keyed() {
        let (mut sealer, data_key) = begin_stream(seal, bucket, id, DEFAULT_SEGMENT)?;
        blob.segment = DEFAULT_SEGMENT;
        blob.data_key = Some(data_key);
        sealer.update(&plaintext)?;
        sealer.finish()?
    } else {
        blob.crc64 = Some(checksum::crc64(&plaintext));
        plaintext
    };
    blob.stored = inline.len() as u64;
    blob.inline = Some(inline);
    Ok((digests.finish(), Received { blob, placed: None, etag: String::new(), checksum: no_checksum() }))
}

/// A new stream under a data key of its own, and that key sealed by the bucket key.
fn begin_stream(seal: &Seal, bucket: Uuid, id: Uuid, segment: u32) -> Result<(Sealer, Vec<u8>)> {
    let data_key = DataKey::generate()?;
    let sealed = seal.seal(&Identity::data_key(bucket, id), data_key.expose_secret())?;
    let sealer = Sealer::new(data_key.expose_secret(), Identity::content(bucket, id).as_bytes(), segment)?;
    Ok((sealer, sealed))
}

fn empty_row(id: Uuid) -> BlobRow {
    BlobRow { id, position: 0, size: 0, stored: 0, segment: 0, crc64: None, data_key: None, inline: None }
}

fn no_checksum() -> Checksum {
    Checksum { algorithm: Algorithm::Crc64nvme, value: String::new(), kind: checksum::Kind::FullObject }
}

fn check_announced(digests: &Finished, size: u64, upload: Upload) -> Result<()> {
    if upload.length.is_some_and(|length| length != size) {
        return Err(Error::incomplete_body("the body's length differs from the announced one"));
    }
    if let Some(content_md5) = upload.content_md5 {
        match BASE64_STANDARD.decode(&content_md5) {
            Ok(announced) if announced.len() == digests.md5.len() => {
                if announced != digests.md5 {
                    return Err(Error::bad_digest("Content-MD5"));
                }
            }
            _ => return Err(Error::new("InvalidDigest", 400, "The Content-MD5 you specified is not valid.")),
        }
    }
    if let Some(announced) = (upload.announced)()
        && announced != digests.checksum.value
    {
        return Err(Error::bad_digest(digests.checksum.algorithm.header()));
    }
    Ok(())
}
