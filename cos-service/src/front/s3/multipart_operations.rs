//! Operations on multipart uploads.

use s3s::{S3Request, S3Response, dto::*};

use super::{
    Front, body,
    bucket_operations::common_prefixes,
    convert::{self, GivenHeaders, given_checksum, show_checksum},
    object_operations::copy_source,
};
use crate::{
    content::checksum::{Algorithm, Checksum, Kind},
    error::{Error, Result},
    front::promises,
    objects::{
        get::ByteRange,
        list::ListQuery,
        multipart::{ClaimedWhole, FoundUpload, NamedPart},
    },
};

type Answer<T> = Result<S3Response<T>>;

impl Front {
    pub(super) async fn create_multipart_upload(
        &self,
        req: S3Request<CreateMultipartUploadInput>,
    ) -> Answer<CreateMultipartUploadOutput> {
        let input = req.input;
        promises::refuse_object_encryption(&req.headers, self.is_keyed(&input.bucket)?)?;
        let algorithm = convert::algorithm(input.checksum_algorithm.as_ref())?;
        let kind = convert::kind(input.checksum_type.as_ref())?;
        let stored = GivenHeaders {
            content_type: input.content_type,
            content_encoding: input.content_encoding,
            content_disposition: input.content_disposition,
            content_language: input.content_language,
            cache_control: input.cache_control,
            expires: input.expires,
            metadata: input.metadata,
        }
        .stored();
        let upload = self.storage.create_upload(&input.bucket, &input.key, stored, (algorithm, kind)).await?;
        let chosen = upload.attributes.chosen;
        Ok(S3Response::new(CreateMultipartUploadOutput {
            bucket: Some(input.bucket),
            key: Some(input.key),
            checksum_algorithm: chosen.then(|| name_of(upload.attributes.algorithm)),
            checksum_type: chosen.then(|| type_of(upload.attributes.kind)),
            upload_id: Some(upload.id.to_string()),
            ..Default::default()
        }))
    }

    pub(super) async fn upload_part(&self, req: S3Request<UploadPartInput>) -> Answer<UploadPartOutput> {
        let (input, headers) = (req.input, req.headers);
        promises::refuse_object_encryption(&headers, self.is_keyed(&input.bucket)?)?;
        let found = self.storage.upload(&input.bucket, &input.key, &input.upload_id).await?;
        let given = body::Given {
            checksum: given_checksum!(input)?,
            algorithm: convert::algorithm(input.checksum_algorithm.as_ref())?,
            body: input.body,
            length: input.content_length,
            content_md5: input.content_md5,
            headers: &headers,
            trailers: req.trailing_headers,
        };
        let upload = body::upload(given, found.attributes.algorithm)?;
        let algorithm = upload.algorithm;
        let upload = fit_algorithm(&found, upload)?;
        let written =
            self.storage.upload_part(&input.bucket, &input.key, &found, input.part_number, upload).await?;
        let mut output = UploadPartOutput { e_tag: Some(convert::etag(written.etag)), ..Default::default() };
        // Only what the client has asked for: it must repeat on completion what it was shown.
        if found.attributes.chosen && algorithm == found.attributes.algorithm {
            show_checksum!(output, &written.checksum);
        }
        Ok(S3Response::new(output))
    }

    pub(super) async fn upload_part_copy(
        &self,
        req: S3Request<UploadPartCopyInput>,
    ) -> Answer<UploadPartCopyOutput> {
        let input = req.input;
        promises::refuse_object_encryption(&req.headers, self.is_keyed(&input.bucket)?)?;
        let target = self.storage.upload(&input.bucket, &input.key, &input.upload_id).await?;
        let (source_bucket, source_key) = copy_source(&input.copy_source)?;
        let found = self.storage.get_object(source_bucket, source_key).await?;
        convert::conditions(
            input.copy_source_if_match,
            input.copy_source_if_none_match,
            input.copy_source_if_modified_since,
            input.copy_source_if_unmodified_since,
        )
        .check_copy(&found.attributes.etag, found.modified)?;
        let range =
            input.copy_source_range.as_deref().map(|text| copy_range(text, found.size)).transpose()?;
        let upload = self.upload_of(found, range, target.attributes.algorithm).await?;
        let written =
            self.storage.upload_part(&input.bucket, &input.key, &target, input.part_number, upload).await?;
        let mut result = CopyPartResult {
            e_tag: Some(convert::etag(written.etag)),
            last_modified: Some(convert::timestamp(written.modified)),
            ..Default::default()
        };
        if target.attributes.chosen {
            show_checksum!(result, &written.checksum);
        }
        Ok(S3Response::new(UploadPartCopyOutput { copy_part_result: Some(result), ..Default::default() }))
    }

    pub(super) async fn list_parts(&self, req: S3Request<ListPartsInput>) -> Answer<ListPartsOutput> {
        let input = req.input;
        let max = convert::max_entries(input.max_parts, "max-parts")?;
        let marker = input.part_number_marker.unwrap_or(0);
        let after = u16::try_from(marker.clamp(0, i32::from(u16::MAX))).unwrap_or(0);
        let (upload, parts, more) =
            self.storage.list_parts(&input.bucket, &input.key, &input.upload_id, after, max as u32).await?;
        let shown = |part: crate::objects::multipart::ListedPart| {
            let checksum = upload.attributes.chosen.then_some(Checksum {
                algorithm: upload.attributes.algorithm,
                value: part.attributes.checksum,
                kind: Kind::FullObject,
            });
            let mut shown = Part {
                e_tag: Some(convert::etag(part.attributes.etag)),
                last_modified: Some(convert::timestamp(part.modified)),
                part_number: Some(i32::from(part.number)),
                size: Some(part.size.cast_signed()),
                ..Default::default()
            };
            show_checksum!(shown, &checksum);
            shown
        };
        let next = parts.last().filter(|_| more).map(|part| i32::from(part.number));
        let chosen = upload.attributes.chosen;
        let owner = self.owner();
        Ok(S3Response::new(ListPartsOutput {
            bucket: Some(input.bucket),
            key: Some(input.key),
            upload_id: Some(input.upload_id),
            initiator: Some(Initiator { display_name: owner.display_name.clone(), id: owner.id.clone() }),
            owner: Some(owner),
            storage_class: Some(StorageClass::from_static(StorageClass::STANDARD)),
            checksum_algorithm: chosen.then(|| name_of(upload.attributes.algorithm)),
            checksum_type: chosen.then(|| type_of(upload.attributes.kind)),
            part_number_marker: Some(marker),
            next_part_number_marker: next,
            max_parts: Some(max as i32),
            is_truncated: Some(more),
            parts: Some(parts.into_iter().map(shown).collect()),
            ..Default::default()
        }))
    }

    pub(super) async fn list_multipart_uploads(
        &self,
        req: S3Request<ListMultipartUploadsInput>,
    ) -> Answer<ListMultipartUploadsOutput> {
        let input = req.input;
        let encode = convert::encoder(input.encoding_type.as_ref())?;
        let query = ListQuery {
            prefix: input.prefix.clone().unwrap_or_default(),
            delimiter: input.delimiter.clone(),
            after: input.key_marker.clone().unwrap_or_default(),
            max: convert::max_entries(input.max_uploads, "max-uploads")?,
        };
        let max = query.max;
        let found = self.storage.list_uploads(&input.bucket, query, input.upload_id_marker.clone()).await?;
        // The last entry is a key and an upload id, or a common prefix.
        let (next_key, next_upload) = match found.next {
            Some(next) => match next.rsplit_once('\0') {
                Some((key, id)) => (Some(key.to_owned()), Some(id.to_owned())),
                None => (Some(next), None),
            },
            None => (None, None),
        };
        let owner = self.owner();
        let shown = found.entries.into_iter().map(|(key, upload)| MultipartUpload {
            key: Some(encode(&key)),
            upload_id: Some(upload.id.to_string()),
            initiated: Some(convert::timestamp(upload.initiated)),
            initiator: Some(Initiator { display_name: owner.display_name.clone(), id: owner.id.clone() }),
            owner: Some(owner.clone()),
            storage_class: Some(StorageClass::from_static(StorageClass::STANDARD)),
            ..Default::default()
        });
        Ok(S3Response::new(ListMultipartUploadsOutput {
            bucket: Some(input.bucket),
            uploads: Some(shown.collect()),
            common_prefixes: Some(common_prefixes(found.common_prefixes, encode)),
            delimiter: input.delimiter.as_deref().map(encode),
            encoding_type: input.encoding_type,
            is_truncated: Some(next_key.is_some()),
            key_marker: input.key_marker.as_deref().map(encode),
            max_uploads: Some(max as i32),
            next_key_marker: next_key.as_deref().map(encode),
            next_upload_id_marker: next_upload,
            prefix: input.prefix.as_deref().map(encode),
            request_charged: None,
            upload_id_marker: input.upload_id_marker,
        }))
    }

    pub(super) async fn complete_multipart_upload(
        &self,
        req: S3Request<CompleteMultipartUploadInput>,
    ) -> Answer<CompleteMultipartUploadOutput> {
        let input = req.input;
        promises::refuse_object_encryption(&req.headers, self.is_keyed(&input.bucket)?)?;
        let claimed = ClaimedWhole {
            checksum: given_checksum!(input)?,
            size: input.mpu_object_size.and_then(|size| u64::try_from(size).ok()),
        };
        let named = input
            .multipart_upload
            .and_then(|upload| upload.parts)
            .unwrap_or_default()
            .into_iter()
            .map(|part| {
                Ok(NamedPart {
                    number: part.part_number.unwrap_or_default(),
                    checksum: given_checksum!(part)?,
                    etag: part.e_tag.map(ETag::into_value).unwrap_or_default(),
                })
            })
            .collect::<Result<_>>()?;
        let conditions = convert::conditions(
            input.if_match,
            input.if_none_match,
            None,
            convert::unmodified_since(&req.headers),
        );
        let written = self
            .storage
            .complete_upload(&input.bucket, &input.key, &input.upload_id, named, claimed, conditions)
            .await?;
        let mut output = CompleteMultipartUploadOutput {
            location: Some(format!("/{}/{}", input.bucket, convert::url_encode(&input.key))),
            bucket: Some(input.bucket),
            key: Some(input.key),
            e_tag: Some(convert::etag(written.etag)),
            checksum_type: convert::checksum_type(written.checksum.as_ref()),
            ..Default::default()
        };
        show_checksum!(output, &written.checksum);
        Ok(S3Response::new(output))
    }

    pub(super) async fn abort_multipart_upload(
        &self,
        req: S3Request<AbortMultipartUploadInput>,
    ) -> Answer<AbortMultipartUploadOutput> {
        let AbortMultipartUploadInput { bucket, key, upload_id, .. } = req.input;
        self.storage.abort_upload(&bucket, &key, &upload_id).await?;
        Ok(S3Response::new(AbortMultipartUploadOutput::default()))
    }
}

/// A part brings its checksum by the upload's algorithm. A client that named none at the start
/// may send any with its parts; it is verified beside the one that is kept.
fn fit_algorithm(
    found: &FoundUpload,
    mut upload: crate::objects::ingest::Upload,
) -> Result<crate::objects::ingest::Upload> {
    if upload.algorithm == found.attributes.algorithm {
        return Ok(upload);
    }
    if found.attributes.chosen {
        return Err(Error::invalid_request(format!(
            "Checksum Type mismatch occurred, expected checksum Type: {}, actual checksum Type: {}",
            found.attributes.algorithm.name().to_ascii_lowercase(),
            upload.algorithm.name().to_ascii_lowercase()
        )));
    }
    upload.kept = Some(found.attributes.algorithm);
    Ok(upload)
}

/// `x-amz-copy-source-range: bytes=first-last`, which must lie within the source.
fn copy_range(text: &str, size: u64) -> Result<std::ops::Range<u64>> {
    let parsed = text.strip_prefix("bytes=").and_then(|range| range.split_once('-'));
    let bounds =
        parsed.and_then(|(first, last)| Some((first.parse::<u64>().ok()?, last.parse::<u64>().ok()?)));
    match bounds {
        Some((first, last)) if first <= last && last < size => {
            ByteRange::From(first, Some(last)).resolve(size)
        }
        Some((first, last)) if first <= last => Err(Error::invalid_argument(format!(
            "Range specified is not valid for source object of size: {size}"
        ))),
        _ => Err(Error::invalid_argument(
            "The x-amz-copy-source-range value must be of the form bytes=first-last where first and last are the zero-based offsets of the first and last bytes to copy",
        )),
    }
}

fn name_of(algorithm: Algorithm) -> ChecksumAlgorithm {
    ChecksumAlgorithm::from_static(algorithm.name())
}

fn type_of(kind: Kind) -> ChecksumType {
    ChecksumType::from_static(kind.name())
}
