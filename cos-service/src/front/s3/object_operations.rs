//! Operations on objects.

use s3s::{S3Request, S3Response, dto::*};

use super::{
    Front, body,
    convert::{self, GivenHeaders, given_checksum, show_checksum},
};
use crate::{
    content::checksum::Algorithm,
    error::{Error, Result},
    front::promises,
    objects::{
        MAX_SINGLE_PUT,
        get::{ByteRange, FoundObject},
        ingest::Upload,
        put::check_key,
    },
};

/// Copies stored headers into an output, or what the request's `response-*` parameters put in their place.
macro_rules! show_headers {
    ($output:expr, $headers:expr, $input:expr) => {
        let headers = $headers.clone();
        let content_type = $input.response_content_type.or(headers.content_type);
        $output.content_type = content_type.or_else(|| Some("application/octet-stream".to_owned()));
        $output.content_encoding = $input.response_content_encoding.or(headers.content_encoding);
        $output.content_disposition = $input.response_content_disposition.or(headers.content_disposition);
        $output.content_language = $input.response_content_language.or(headers.content_language);
        $output.cache_control = $input.response_cache_control.or(headers.cache_control);
        let expires = headers.expires.map(|seconds| convert::timestamp(seconds.saturating_mul(1000)));
        $output.expires = $input.response_expires.or(expires);
        $output.metadata =
            Some(headers.metadata.into_iter().collect()).filter(|map: &Metadata| !map.is_empty());
    };
}
type Answer<T> = Result<S3Response<T>>;

/// Keys that one multi-object delete may name.
const MAX_DELETES: usize = 1000;

impl Front {
    pub(super) fn is_keyed(&self, bucket: &str) -> Result<bool> {
        Ok(self.storage.buckets.get(bucket)?.key.is_some())
    }

    pub(super) async fn put_object(&self, req: S3Request<PutObjectInput>) -> Answer<PutObjectOutput> {
        let (input, headers) = (req.input, req.headers);
        promises::refuse_object_encryption(&headers, self.is_keyed(&input.bucket)?)?;
        let given = body::Given {
            checksum: given_checksum!(input)?,
            algorithm: convert::algorithm(input.checksum_algorithm.as_ref())?,
            body: input.body,
            length: input.content_length,
            content_md5: input.content_md5,
            headers: &headers,
            trailers: req.trailing_headers,
        };
        let upload = body::upload(given, Algorithm::Crc64nvme)?;
        let conditions = convert::conditions(
            input.if_match,
            input.if_none_match,
            None,
            convert::unmodified_since(&headers),
        );
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
        let written = self.storage.put_object(&input.bucket, &input.key, stored, conditions, upload).await?;
        let mut output = PutObjectOutput {
            e_tag: Some(convert::etag(written.etag)),
            checksum_type: convert::checksum_type(written.checksum.as_ref()),
            ..Default::default()
        };
        show_checksum!(output, &written.checksum);
        Ok(S3Response::new(output))
    }

    pub(super) async fn get_object(&self, req: S3Request<GetObjectInput>) -> Answer<GetObjectOutput> {
        let input = req.input;
        refuse_version(input.version_id.as_deref())?;
        promises::refuse_object_encryption(&req.headers, self.is_keyed(&input.bucket)?)?;
        let found = self.storage.get_object(&input.bucket, &input.key).await?;
        let conditions = convert::conditions(
            input.if_match,
            input.if_none_match,
            input.if_modified_since,
            input.if_unmodified_since,
        );
        conditions.check_read(&found.attributes.etag, found.modified)?;
        let wanted = part_or_range(&found, input.part_number, input.range)?;
        let whole = 0..found.size;
        let range = wanted.clone().unwrap_or(whole.clone());
        let mut output = GetObjectOutput {
            accept_ranges: Some("bytes".to_owned()),
            content_length: Some((range.end - range.start).cast_signed()),
            content_range: wanted
                .is_some()
                .then(|| format!("bytes {}-{}/{}", range.start, range.end.saturating_sub(1), found.size)),
            e_tag: Some(convert::etag(found.attributes.etag.clone())),
            last_modified: Some(convert::timestamp(found.modified)),
            parts_count: input.part_number.and(found.attributes.part_count).map(|count| count as i32),
            ..Default::default()
        };
        show_headers!(output, found.attributes.headers, input);
        // Never on a part of the object: clients would compare it with the part.
        if range == whole && input.checksum_mode.is_some_and(|mode| mode.as_str() == ChecksumMode::ENABLED) {
            show_checksum!(output, &found.attributes.checksum);
            output.checksum_type = convert::checksum_type(found.attributes.checksum.as_ref());
        }
        output.body = Some(body::streaming(self.storage.read(found, range).await?));
        Ok(S3Response::new(output))
    }

    pub(super) async fn head_object(&self, req: S3Request<HeadObjectInput>) -> Answer<HeadObjectOutput> {
        let input = req.input;
        refuse_version(input.version_id.as_deref())?;
        promises::refuse_object_encryption(&req.headers, self.is_keyed(&input.bucket)?)?;
        let found = match input.part_number {
            None => self.storage.head_object(&input.bucket, &input.key).await?,
            Some(_) => self.storage.get_object(&input.bucket, &input.key).await?,
        };
        let conditions = convert::conditions(
            input.if_match,
            input.if_none_match,
            input.if_modified_since,
            input.if_unmodified_since,
        );
        conditions.check_read(&found.attributes.etag, found.modified)?;
        let wanted = part_or_range(&found, input.part_number, input.range)?;
        let range = wanted.clone().unwrap_or(0..found.size);
        let mut output = HeadObjectOutput {
            accept_ranges: Some("bytes".to_owned()),
            content_length: Some((range.end - range.start).cast_signed()),
            content_range: wanted
                .is_some()
                .then(|| format!("bytes {}-{}/{}", range.start, range.end.saturating_sub(1), found.size)),
            e_tag: Some(convert::etag(found.attributes.etag.clone())),
            last_modified: Some(convert::timestamp(found.modified)),
            parts_count: input.part_number.and(found.attributes.part_count).map(|count| count as i32),
            ..Default::default()
        };
        show_headers!(output, found.attributes.headers, input);
        if wanted.is_none() && input.checksum_mode.is_some_and(|mode| mode.as_str() == ChecksumMode::ENABLED)
        {
            show_checksum!(output, &found.attributes.checksum);
            output.checksum_type = convert::checksum_type(found.attributes.checksum.as_ref());
        }
        let mut response = S3Response::new(output);
        if wanted.is_some() {
            response.status = Some(http::StatusCode::PARTIAL_CONTENT);
        }
        Ok(response)
    }

    pub(super) async fn delete_object(
        &self,
        req: S3Request<DeleteObjectInput>,
    ) -> Answer<DeleteObjectOutput> {
        refuse_version(req.input.version_id.as_deref())?;
        let input = &req.input;
        if input.if_match.is_some()
            || input.if_match_size.is_some()
            || input.if_match_last_modified_time.is_some()
        {
            return Err(Error::not_implemented("A conditional delete"));
        }
        self.storage.delete_object(&req.input.bucket, &req.input.key).await?;
        Ok(S3Response::new(DeleteObjectOutput::default()))
    }

    pub(super) async fn delete_objects(
        &self,
        req: S3Request<DeleteObjectsInput>,
    ) -> Answer<DeleteObjectsOutput> {
        let Delete { objects, quiet } = req.input.delete;
        if objects.is_empty() || objects.len() > MAX_DELETES {
            return Err(Error::new(
                "MalformedXML",
                400,
                "The XML you provided was not well-formed or did not validate against our published schema",
            ));
        }
        let mut errors = Vec::new();
        let mut keys = Vec::new();
        for object in objects {
            let conditional =
                object.e_tag.is_some() || object.last_modified_time.is_some() || object.size.is_some();
            let refused = match conditional {
                true => Err(Error::not_implemented("A conditional delete")),
                false => check_key(&object.key).and_then(|()| refuse_version(object.version_id.as_deref())),
            };
            match refused {
                Ok(()) => keys.push(object.key),
                Err(error) => errors.push(s3s::dto::Error {
                    code: Some(error.code.to_owned()),
                    key: Some(object.key),
                    message: Some(error.message.into_owned()),
                    version_id: object.version_id,
                }),
            }
        }
        self.storage.delete_objects(&req.input.bucket, keys.clone()).await?;
        let deleted = keys.into_iter().map(|key| DeletedObject { key: Some(key), ..Default::default() });
        Ok(S3Response::new(DeleteObjectsOutput {
            deleted: (!quiet.unwrap_or(false)).then(|| deleted.collect()),
            errors: (!errors.is_empty()).then_some(errors),
            request_charged: None,
        }))
    }

    pub(super) async fn copy_object(&self, req: S3Request<CopyObjectInput>) -> Answer<CopyObjectOutput> {
        let (input, headers) = (req.input, req.headers);
        promises::refuse_object_encryption(&headers, self.is_keyed(&input.bucket)?)?;
        // The framework's model lacks those of the destination.
        let destination = convert::conditions(
            convert::etag_condition(&headers, &http::header::IF_MATCH)?,
            convert::etag_condition(&headers, &http::header::IF_NONE_MATCH)?,
            None,
            None,
        );
        let conditions = convert::conditions(
            input.copy_source_if_match,
            input.copy_source_if_none_match,
            input.copy_source_if_modified_since,
            input.copy_source_if_unmodified_since,
        );
        let (source_bucket, source_key) = copy_source(&input.copy_source)?;
        let found = self.storage.get_object(source_bucket, source_key).await?;
        conditions.check_copy(&found.attributes.etag, found.modified)?;
        let replace = match input.metadata_directive.as_ref().map(MetadataDirective::as_str) {
            None | Some("COPY") => false,
            Some("REPLACE") => true,
            Some(_) => return Err(Error::invalid_argument("Unknown metadata directive.")),
        };
        if !replace && source_bucket == input.bucket && source_key == input.key {
            return Err(Error::invalid_request(
                "This copy request is illegal because it is trying to copy an object to itself without changing the object's metadata, storage class, website redirect location or encryption attributes.",
            ));
        }
        if found.size > MAX_SINGLE_PUT {
            return Err(Error::invalid_request(
                "The specified copy source is larger than the maximum allowable size for a copy source: 5368709120",
            ));
        }
        let stored = if replace {
            GivenHeaders {
                content_type: input.content_type,
                content_encoding: input.content_encoding,
                content_disposition: input.content_disposition,
                content_language: input.content_language,
                cache_control: input.cache_control,
                expires: input.expires,
                metadata: input.metadata,
            }
            .stored()
        } else {
            found.attributes.headers.clone()
        };
        let kept = found.attributes.checksum.as_ref().map(|checksum| checksum.algorithm);
        let algorithm = convert::algorithm(input.checksum_algorithm.as_ref())?.or(kept);
        let upload = self.upload_of(found, None, algorithm.unwrap_or(Algorithm::Crc64nvme)).await?;
        let written = self.storage.put_object(&input.bucket, &input.key, stored, destination, upload).await?;
        let mut result = CopyObjectResult {
            e_tag: Some(convert::etag(written.etag)),
            last_modified: Some(convert::timestamp(written.modified)),
            checksum_type: convert::checksum_type(written.checksum.as_ref()),
            ..Default::default()
        };
        show_checksum!(result, &written.checksum);
        Ok(S3Response::new(CopyObjectOutput { copy_object_result: Some(result), ..Default::default() }))
    }

    /// An object's content as a body to store elsewhere: decrypted under one key, encrypted under another.
    pub(super) async fn upload_of(
        &self,
        found: FoundObject,
        range: Option<std::ops::Range<u64>>,
        algorithm: Algorithm,
    ) -> Result<Upload> {
        let range = range.unwrap_or(0..found.size);
        let length = Some(range.end - range.start);
        let body = self.storage.read(found, range).await?;
        Ok(Upload { body, length, content_md5: None, algorithm, kept: None, announced: Box::new(|| None) })
    }
}

/// The bytes that a client asks for, if not all.
fn part_or_range(
    found: &FoundObject,
    part: Option<i32>,
    range: Option<Range>,
) -> Result<Option<std::ops::Range<u64>>> {
    match (part, range) {
        (Some(_), Some(_)) => {
            Err(Error::invalid_request("Cannot specify both Range header and partNumber query parameter"))
        }
        (Some(number), None) => found.part(number).map(|range| Some(range).filter(|range| !range.is_empty())),
        (None, Some(Range::Int { first, last })) => {
            ByteRange::From(first, last).resolve(found.size).map(Some)
        }
        (None, Some(Range::Suffix { length })) => ByteRange::Last(length).resolve(found.size).map(Some),
        (None, None) => Ok(None),
    }
}

/// Bucket and key of a copy's source.
pub(super) fn copy_source(source: &CopySource) -> Result<(&str, &str)> {
    match source {
        CopySource::Bucket { bucket, key, version_id } => {
            refuse_version(version_id.as_deref())?;
            Ok((bucket, key))
        }
        _ => Err(Error::not_implemented("A copy source other than bucket and key")),
    }
}

/// Buckets are unversioned: there is only the version `null`.
pub(super) fn refuse_version(version: Option<&str>) -> Result<()> {
    match version {
        None | Some("null" | "") => Ok(()),
        Some(_) => Err(Error::new("NoSuchVersion", 404, "The specified version does not exist.")),
    }
}
