//! Multipart uploads. Each attempt to upload a part is a blob with a data key of its own;
//! completion moves rows and copies nothing.

use std::sync::Arc;

use uuid::Uuid;

use crate::{
    buckets::Bucket,
    content::{
        checksum::{self, Algorithm, Checksum, Kind},
        etag::multipart_etag,
    },
    error::{Error, Result},
    keys::seal::{Identity, Seal},
    metadata::{
        now_millis,
        tables::{self, PartRow, UploadRow},
    },
    objects::{
        attributes::{self, Attributes, Headers, PartAttributes, UploadAttributes, content_id},
        conditions::Conditions,
        ingest::{Received, Upload},
        list::{ListQuery, Listing, page},
        put::{Written, check_existing, check_key, new_row, total_size},
    },
    storage::Storage,
};

/// Highest part number.
pub const MAX_PARTS: u16 = 10_000;
/// Least size of every part but the last, in bytes: 5 MiB.
pub const MIN_PART: u64 = 5 << 20;
/// Largest object, in bytes: 10 TiB (IBM's limit).
pub const MAX_OBJECT: u64 = 10 << 40;

/// A part as a completion names it.
#[derive(Debug, Clone)]
pub struct NamedPart {
    /// Its number.
    pub number: i32,
    /// Its ETag without quotes.
    pub etag: String,
    /// Its checksum, base64, if given.
    pub checksum: Option<(Algorithm, String)>,
}

/// What a client may claim about the whole when it completes an upload.
#[derive(Debug, Clone, Default)]
pub struct ClaimedWhole {
    /// The object's checksum, base64.
    pub checksum: Option<(Algorithm, String)>,
    /// The object's size in bytes.
    pub size: Option<u64>,
}

/// An upload in progress.
#[derive(Debug, Clone)]
pub struct FoundUpload {
    /// Its id.
    pub id: Uuid,
    /// The algorithm of its checksums.
    pub attributes: UploadAttributes,
}

/// A part in a listing.
#[derive(Debug, Clone)]
pub struct ListedPart {
    /// Its number.
    pub number: u16,
    /// Plaintext bytes.
    pub size: u64,
    /// Milliseconds since 1970.
    pub modified: i64,
    /// ETag and checksum.
    pub attributes: PartAttributes,
}

impl Storage {
    /// Begins an upload.
    pub async fn create_upload(
        &self,
        bucket: &str,
        key: &str,
        headers: Headers,
        checksum: (Option<Algorithm>, Option<Kind>),
    ) -> Result<FoundUpload> {
        check_key(key)?;
        headers.check()?;
        let bucket = self.buckets.get(bucket)?;
        let seal = self.seal(&bucket).await?;
        let algorithm = checksum.0.unwrap_or(Algorithm::Crc64nvme);
        let default_kind = if algorithm == Algorithm::Crc64nvme { Kind::FullObject } else { Kind::Composite };
        let kind = checksum.1.unwrap_or(default_kind);
        if (kind == Kind::FullObject && !algorithm.can_be_joined())
            || (kind == Kind::Composite && algorithm == Algorithm::Crc64nvme)
        {
            return Err(Error::invalid_request(format!(
                "The {} checksum type cannot be used with the {} checksum algorithm.",
                kind.name(),
                algorithm.name()
            )));
        }
        let found = FoundUpload {
            id: Uuid::new_v4(),
            attributes: UploadAttributes { headers, algorithm, kind, chosen: checksum.0.is_some() },
        };
        let identity = Identity::upload(bucket.id, found.id, key);
        let row = UploadRow {
            id: found.id,
            key: key.to_owned(),
            initiated: now_millis(),
            attributes: attributes::seal(&seal, &identity, &found.attributes)?,
        };
        let id = bucket.id;
        self.metadata
            .commit(move |db| {
                if !tables::bucket_exists(db, id)? {
                    return Err(Error::no_such_bucket());
                }
                tables::insert_upload(db, id, &row)
            })
            .await?;
        Ok(found)
    }

    /// An upload in progress.
    pub async fn upload(&self, bucket: &str, key: &str, upload: &str) -> Result<FoundUpload> {
        let bucket = self.buckets.get(bucket)?;
        let seal = self.seal(&bucket).await?;
        let id = upload_id(upload)?;
        let (bucket, key) = (bucket.id, key.to_owned());
        self.metadata.read(move |db| open_upload(db, &seal, bucket, &key, id)).await
    }

    /// Stores a part. A second attempt takes the place of the first.
    pub async fn upload_part(
        &self,
        bucket: &str,
        key: &str,
        upload: &FoundUpload,
        number: i32,
        body: Upload,
    ) -> Result<Written> {
        let number = part_number(number)?;
        let bucket = self.buckets.get(bucket)?;
        // Spares the client the upload.
        self.seal(&bucket).await?;
        let received = self.receive(&bucket, body).await?;
        let Received { mut blob, placed, etag, checksum } = received;
        // Asked for anew: the key may have died meanwhile.
        let seal = self.seal(&bucket).await?;
        blob.position = u32::from(number);
        let attributes = PartAttributes { etag: etag.clone(), checksum: checksum.value.clone() };
        let written = Written { etag, checksum: Some(checksum), modified: now_millis(), size: blob.size };
        let part = PartRow {
            number,
            blob: blob.id,
            size: blob.size,
            modified: written.modified,
            attributes: attributes::seal(
                &seal,
                &Identity::part(bucket.id, upload.id, number, blob.id),
                &attributes,
            )?,
        };
        let (id, bucket, key) = (upload.id, bucket.id, key.to_owned());
        self.metadata
            .commit_blob(placed, move |db| {
                tables::upload(db, bucket, &key, id)?.ok_or_else(Error::no_such_upload)?;
                tables::put_part(db, id, &part)?;
                tables::insert_blob(db, id, &blob)
            })
            .await?;
        Ok(written)
    }

    /// The parts of an upload after a number, and whether there are more.
    pub async fn list_parts(
        &self,
        bucket: &str,
        key: &str,
        upload: &str,
        after: u16,
        max: u32,
    ) -> Result<(FoundUpload, Vec<ListedPart>, bool)> {
        let bucket = self.buckets.get(bucket)?;
        let seal = self.seal(&bucket).await?;
        let id = upload_id(upload)?;
        let (bucket, key) = (bucket.id, key.to_owned());
        self.metadata
            .read(move |db| {
                let upload = open_upload(db, &seal, bucket, &key, id)?;
                let mut rows = tables::parts(db, id, after, max + 1)?;
                let more = rows.len() > max as usize;
                rows.truncate(max as usize);
                let parts = rows
                    .into_iter()
                    .map(|row| {
                        let attributes = open_part(&seal, bucket, id, &row)?;
                        Ok(ListedPart {
                            number: row.number,
                            size: row.size,
                            modified: row.modified,
                            attributes,
                        })
                    })
                    .collect::<Result<_>>()?;
                Ok((upload, parts, more))
            })
            .await
    }

    /// Uploads in progress after a key and, for that key, after an upload id. Needs no key.
    pub async fn list_uploads(
        &self,
        bucket: &str,
        query: ListQuery,
        after_upload: Option<String>,
    ) -> Result<Listing<UploadRow>> {
        let bucket = self.buckets.get(bucket)?.id;
        self.metadata
            .read(move |db| {
                // Several uploads may share a key: they are told apart behind a byte that sorts before all others.
                let suffix = |row: &UploadRow| format!("{}\0{}", row.key, row.id);
                let mut query = query;
                query.after = match (&after_upload, query.after.is_empty()) {
                    (Some(upload), false) => format!("{}\0{upload}", query.after),
                    (None, false) => format!("{}\0\u{7f}", query.after),
                    _ => String::new(),
                };
                let mut found = page(&query, key_of, |from, visit| {
                    let first_key = from.split(|byte| *byte == 0).next().unwrap_or_default();
                    tables::scan_uploads(db, bucket, first_key, |row| {
                        let name = suffix(&row);
                        name.as_bytes() < from || visit(name, row)
                    })
                })?;
                for (name, row) in &mut found.entries {
                    name.clone_from(&row.key);
                }
                Ok(found)
            })
            .await
    }

    /// Drops an upload and its parts. Needs no key.
    pub async fn abort_upload(&self, bucket: &str, key: &str, upload: &str) -> Result<()> {
        let bucket = self.buckets.get(bucket)?.id;
        let id = upload_id(upload)?;
        let key = key.to_owned();
        self.metadata
            .commit(move |db| {
                tables::upload(db, bucket, &key, id)?.ok_or_else(Error::no_such_upload)?;
                tables::delete_upload(db, id)
            })
            .await
    }

    /// Makes an object of the named parts, in one transaction.
    pub async fn complete_upload(
        &self,
        bucket: &str,
        key: &str,
        upload: &str,
        named: Vec<NamedPart>,
        claimed: ClaimedWhole,
        conditions: Conditions,
    ) -> Result<Written> {
        check_named(&named)?;
        let bucket = self.buckets.get(bucket)?;
        let seal = self.seal(&bucket).await?;
        let completion = Completion {
            bucket,
            key: key.to_owned(),
            upload: upload_id(upload)?,
            seal,
            named,
            claimed,
            conditions,
        };
        self.metadata.commit(move |db| completion.run(db)).await
    }
}

struct Completion {
    bucket: Arc<Bucket>,
    key: String,
    upload: Uuid,
    seal: Seal,
    named: Vec<NamedPart>,
    claimed: ClaimedWhole,
    conditions: Conditions,
}

impl Completion {
    fn run(self, db: &rusqlite::Connection) -> Result<Written> {
        let bucket = self.bucket.id;
        let upload = match open_upload(db, &self.seal, bucket, &self.key, self.upload) {
            Err(error) if error.code == "NoSuchUpload" => return self.earlier_result(db, error),
            outcome => outcome?.attributes,
        };
        check_existing(db, &self.seal, bucket, &self.key, &self.conditions)?;
        let chosen = self.choose(db, &upload)?;
        let sums: Vec<_> = chosen.iter().map(|(row, part)| (part.checksum.clone(), row.size)).collect();
        let checksum = checksum::join(upload.algorithm, upload.kind, &sums)?;
        self.check_claims(&checksum, sums.iter().map(|(_, size)| size).sum())?;
        let etag = multipart_etag(chosen.iter().map(|(_, part)| part.etag.as_str()))
            .ok_or_else(|| Error::damaged("a part's ETag is not an MD5"))?;

        let by_id: std::collections::HashMap<_, _> =
            tables::blobs_without_content(db, self.upload)?.into_iter().map(|blob| (blob.id, blob)).collect();
        let blobs = chosen
            .iter()
            .map(|(row, _)| by_id.get(&row.blob).cloned().ok_or_else(|| Error::damaged("a part has no blob")))
            .collect::<Result<Vec<_>>>()?;
        let size =
            total_size(&blobs).filter(|size| *size <= MAX_OBJECT).ok_or_else(Error::entity_too_large)?;
        let written =
            Written { etag: etag.clone(), checksum: Some(checksum.clone()), modified: now_millis(), size };
        let attributes = Attributes {
            etag,
            headers: upload.headers,
            checksum: Some(checksum),
            part_count: Some(blobs.len() as u32),
            upload: Some(self.upload.to_string()),
            content: content_id(&blobs),
        };
        let object = new_row(&self.seal, bucket, &self.key, &attributes, &written)?;
        tables::put_object(db, bucket, &self.key, &object)?;
        for (position, blob) in blobs.iter().enumerate() {
            tables::move_blob(db, blob.id, object.id, position as u32)?;
        }
        tables::delete_upload(db, self.upload)?;
        Ok(written)
    }

    /// The parts that were named, checked against those that were uploaded.
    fn choose(
        &self,
        db: &rusqlite::Connection,
        upload: &UploadAttributes,
    ) -> Result<Vec<(PartRow, PartAttributes)>> {
        let rows = tables::parts(db, self.upload, 0, u32::from(MAX_PARTS))?;
        let mut rows = rows
            .into_iter()
            .map(|row| (i32::from(row.number), row))
            .collect::<std::collections::HashMap<_, _>>();
        let last = self.named.len() - 1;
        let mut chosen = Vec::with_capacity(self.named.len());
        for (index, named) in self.named.iter().enumerate() {
            let row = rows.remove(&named.number).ok_or_else(invalid_part)?;
            let part = open_part(&self.seal, self.bucket.id, self.upload, &row)?;
            if part.etag != named.etag {
                return Err(invalid_part());
            }
            if let Some((algorithm, value)) = &named.checksum
                && (*algorithm != upload.algorithm || *value != part.checksum)
            {
                return Err(invalid_part());
            }
            if index != last && row.size < MIN_PART {
                return Err(Error::new(
                    "EntityTooSmall",
                    400,
                    "Your proposed upload is smaller than the minimum allowed object size.",
                ));
            }
            chosen.push((row, part));
        }
        Ok(chosen)
    }

    fn check_claims(&self, checksum: &Checksum, size: u64) -> Result<()> {
        if let Some((algorithm, value)) = &self.claimed.checksum {
            // A composite value may come without the number of parts.
            let bare = checksum.value.split_once('-').map_or(checksum.value.as_str(), |(bare, _)| bare);
            if *algorithm != checksum.algorithm || (*value != checksum.value && value != bare) {
                return Err(Error::bad_digest(algorithm.header()));
            }
        }
        if self.claimed.size.is_some_and(|claimed| claimed != size) {
            return Err(Error::invalid_request(
                "The provided 'x-amz-mp-object-size' header does not match what was computed.",
            ));
        }
        Ok(())
    }

    /// A completion whose answer was lost comes again: the object tells whether it is its result.
    fn earlier_result(&self, db: &rusqlite::Connection, missing: Error) -> Result<Written> {
        let Some(object) = tables::object(db, self.bucket.id, &self.key)? else { return Err(missing) };
        let attributes = attributes::of_object(&self.seal, self.bucket.id, &self.key, &object)?;
        if attributes.upload != Some(self.upload.to_string()) {
            return Err(missing);
        }
        Ok(Written {
            etag: attributes.etag,
            checksum: attributes.checksum,
            modified: object.modified,
            size: object.size,
        })
    }
}

/// The key in the name of an entry of a list of uploads.
fn key_of(name: &str) -> &str {
    name.rsplit_once('\0').map_or(name, |(key, _)| key)
}

fn open_upload(
    db: &rusqlite::Connection,
    seal: &Seal,
    bucket: Uuid,
    key: &str,
    id: Uuid,
) -> Result<FoundUpload> {
    let row = tables::upload(db, bucket, key, id)?.ok_or_else(Error::no_such_upload)?;
    let attributes = attributes::open(seal, &Identity::upload(bucket, id, key), &row.attributes)?;
    Ok(FoundUpload { id, attributes })
}

fn open_part(seal: &Seal, bucket: Uuid, upload: Uuid, row: &PartRow) -> Result<PartAttributes> {
    attributes::open(seal, &Identity::part(bucket, upload, row.number, row.blob), &row.attributes)
}

fn upload_id(text: &str) -> Result<Uuid> {
    Uuid::parse_str(text).map_err(|_| Error::no_such_upload())
}

fn part_number(number: i32) -> Result<u16> {
    u16::try_from(number).ok().filter(|number| (1..=MAX_PARTS).contains(number)).ok_or_else(|| {
        Error::invalid_argument("Part number must be an integer between 1 and 10000, inclusive")
    })
}

fn check_named(named: &[NamedPart]) -> Result<()> {
    if named.is_empty() || named.len() > usize::from(MAX_PARTS) {
        return Err(Error::new(
            "MalformedXML",
            400,
            "The XML you provided was not well-formed or did not validate against our published schema",
        ));
    }
    if named.windows(2).any(|pair| pair[0].number >= pair[1].number) {
        return Err(Error::new(
            "InvalidPartOrder",
            400,
            "The list of parts was not in ascending order. The parts list must be specified in order by part number.",
        ));
    }
    Ok(())
}

fn invalid_part() -> Error {
    Error::new(
        "InvalidPart",
        400,
        "One or more of the specified parts could not be found. The part may not have been uploaded, or the specified entity tag may not match the part's entity tag.",
    )
}
