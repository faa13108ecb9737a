//! Operations on buckets.

use s3s::{S3Request, S3Response, dto::*};

use super::{Front, convert};
use crate::{
    error::{Error, Result},
    front::ibm,
    objects::list::{ListQuery, ListedObject},
};

type Answer<T> = Result<S3Response<T>>;

impl Front {
    pub(super) fn owner(&self) -> Owner {
        Owner { display_name: Some(self.owner.clone()), id: Some(self.owner.clone()) }
    }

    pub(super) async fn create_bucket(
        &self,
        req: S3Request<CreateBucketInput>,
    ) -> Answer<CreateBucketOutput> {
        ibm::check_service_instance(&req.headers, &self.owner)?;
        let location = req
            .input
            .create_bucket_configuration
            .and_then(|configuration| configuration.location_constraint)
            .map(|location| location.as_str().trim().to_owned())
            .unwrap_or_default();
        if location.len() > 64
            || !location.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_'))
        {
            return Err(Error::new(
                "InvalidLocationConstraint",
                400,
                "Container storage location with specified provisioning code not available",
            ));
        }
        let root_key = ibm::root_key_of_new_bucket(&req.headers)?;
        self.storage.create_bucket(&req.input.bucket, &location, root_key.as_deref()).await?;
        let output = CreateBucketOutput { location: Some(format!("/{}", req.input.bucket)) };
        Ok(S3Response::new(output))
    }

    pub(super) async fn delete_bucket(
        &self,
        req: S3Request<DeleteBucketInput>,
    ) -> Answer<DeleteBucketOutput> {
        self.storage.delete_bucket(&req.input.bucket).await?;
        Ok(S3Response::with_status(DeleteBucketOutput {}, http::StatusCode::NO_CONTENT))
    }

    pub(super) async fn head_bucket(&self, req: S3Request<HeadBucketInput>) -> Answer<HeadBucketOutput> {
        let bucket = self.storage.buckets.get(&req.input.bucket)?;
        let mut response = S3Response::new(HeadBucketOutput::default());
        ibm::show_root_key(&bucket, &mut response.headers);
        Ok(response)
    }

    pub(super) async fn list_buckets(&self, req: S3Request<ListBucketsInput>) -> Answer<ListBucketsOutput> {
        ibm::check_service_instance(&req.headers, &self.owner)?;
        let ListBucketsInput { prefix, continuation_token, max_buckets, .. } = req.input;
        let max = usize::try_from(max_buckets.unwrap_or(10_000)).unwrap_or(0).clamp(1, 10_000);
        let (wanted, after) = (prefix.clone().unwrap_or_default(), continuation_token.unwrap_or_default());
        let mut buckets = self.storage.buckets.list();
        buckets.retain(|bucket| bucket.name.starts_with(&wanted) && bucket.name > after);
        let next = buckets.get(max).and_then(|_| buckets.get(max - 1)).map(|bucket| bucket.name.clone());
        let shown = buckets.into_iter().take(max).map(|bucket| Bucket {
            name: Some(bucket.name.clone()),
            creation_date: Some(convert::timestamp(bucket.created)),
            bucket_region: None,
        });
        Ok(S3Response::new(ListBucketsOutput {
            buckets: Some(shown.collect()),
            owner: Some(self.owner()),
            continuation_token: next,
            prefix,
        }))
    }

    pub(super) async fn get_bucket_location(
        &self,
        req: S3Request<GetBucketLocationInput>,
    ) -> Answer<GetBucketLocationOutput> {
        let bucket = self.storage.buckets.get(&req.input.bucket)?;
        let location = Some(bucket.location.clone()).filter(|location| !location.is_empty());
        Ok(S3Response::new(GetBucketLocationOutput {
            location_constraint: location.map(BucketLocationConstraint::from),
        }))
    }

    pub(super) async fn get_bucket_versioning(
        &self,
        req: S3Request<GetBucketVersioningInput>,
    ) -> Answer<GetBucketVersioningOutput> {
        self.storage.buckets.get(&req.input.bucket)?;
        Ok(S3Response::new(GetBucketVersioningOutput::default()))
    }

    pub(super) async fn list_objects(&self, req: S3Request<ListObjectsInput>) -> Answer<ListObjectsOutput> {
        let input = req.input;
        let encode = convert::encoder(input.encoding_type.as_ref())?;
        let query = ListQuery {
            prefix: input.prefix.clone().unwrap_or_default(),
            delimiter: input.delimiter.clone(),
            after: input.marker.clone().unwrap_or_default(),
            max: convert::max_entries(input.max_keys, "maxKeys")?,
        };
        let max = query.max;
        let bucket = self.storage.buckets.get(&input.bucket)?;
        let found = self.storage.list_objects(&input.bucket, query).await?;
        let owner = self.owner();
        let contents =
            found.entries.into_iter().map(|(key, object)| listed(encode(&key), object, Some(owner.clone())));
        let mut response = S3Response::new(ListObjectsOutput {
            name: Some(input.bucket),
            prefix: Some(encode(&input.prefix.unwrap_or_default())),
            marker: Some(encode(&input.marker.unwrap_or_default())),
            max_keys: Some(max as i32),
            is_truncated: Some(found.next.is_some()),
            contents: Some(contents.collect()),
            common_prefixes: Some(common_prefixes(found.common_prefixes, encode)),
            delimiter: input.delimiter.as_deref().map(encode),
            next_marker: found.next.as_deref().map(encode),
            encoding_type: input.encoding_type,
            request_charged: None,
        });
        ibm::show_root_key(&bucket, &mut response.headers);
        Ok(response)
    }

    /// Buckets are unversioned: every object is its version `null`.
    pub(super) async fn list_object_versions(
        &self,
        req: S3Request<ListObjectVersionsInput>,
    ) -> Answer<ListObjectVersionsOutput> {
        let input = req.input;
        let encode = convert::encoder(input.encoding_type.as_ref())?;
        let query = ListQuery {
            prefix: input.prefix.clone().unwrap_or_default(),
            delimiter: input.delimiter.clone(),
            after: input.key_marker.clone().unwrap_or_default(),
            max: convert::max_entries(input.max_keys, "maxKeys")?,
        };
        let max = query.max;
        let found = self.storage.list_objects(&input.bucket, query).await?;
        let owner = self.owner();
        let version = |(key, object): (String, ListedObject)| {
            let Object { checksum_algorithm, checksum_type, e_tag, key, last_modified, owner, size, .. } =
                listed(encode(&key), object, Some(owner.clone()));
            ObjectVersion {
                checksum_algorithm,
                checksum_type,
                e_tag,
                is_latest: Some(true),
                key,
                last_modified,
                owner,
                restore_status: None,
                size,
                storage_class: Some(ObjectVersionStorageClass::from_static(
                    ObjectVersionStorageClass::STANDARD,
                )),
                version_id: Some("null".to_owned()),
            }
        };
        let after_a_key =
            found.next.is_some() && found.next.as_ref() == found.entries.last().map(|(key, _)| key);
        Ok(S3Response::new(ListObjectVersionsOutput {
            versions: Some(found.entries.into_iter().map(version).collect()),
            common_prefixes: Some(common_prefixes(found.common_prefixes, encode)),
            delete_markers: None,
            delimiter: input.delimiter.as_deref().map(encode),
            encoding_type: input.encoding_type,
            is_truncated: Some(found.next.is_some()),
            key_marker: Some(encode(&input.key_marker.unwrap_or_default())),
            max_keys: Some(max as i32),
            name: Some(input.bucket),
            next_key_marker: found.next.as_deref().map(encode),
            next_version_id_marker: after_a_key.then(|| "null".to_owned()),
            prefix: Some(encode(&input.prefix.unwrap_or_default())),
            request_charged: None,
            version_id_marker: input.version_id_marker,
        }))
    }

    pub(super) async fn list_objects_v2(
        &self,
        req: S3Request<ListObjectsV2Input>,
    ) -> Answer<ListObjectsV2Output> {
        let input = req.input;
        let encode = convert::encoder(input.encoding_type.as_ref())?;
        let after = match &input.continuation_token {
            Some(token) => hex::decode(token)
                .ok()
                .and_then(|bytes| String::from_utf8(bytes).ok())
                .ok_or_else(|| Error::invalid_argument("The continuation token provided is incorrect"))?,
            None => input.start_after.clone().unwrap_or_default(),
        };
        let query = ListQuery {
            prefix: input.prefix.clone().unwrap_or_default(),
            delimiter: input.delimiter.clone(),
            after,
            max: convert::max_entries(input.max_keys, "maxKeys")?,
        };
        let max = query.max;
        let bucket = self.storage.buckets.get(&input.bucket)?;
        let found = self.storage.list_objects(&input.bucket, query).await?;
        let owner = input.fetch_owner.unwrap_or(false).then(|| self.owner());
        let count = found.entries.len() + found.common_prefixes.len();
        let contents =
            found.entries.into_iter().map(|(key, object)| listed(encode(&key), object, owner.clone()));
        let mut response = S3Response::new(ListObjectsV2Output {
            name: Some(input.bucket),
            prefix: Some(encode(&input.prefix.unwrap_or_default())),
            max_keys: Some(max as i32),
            key_count: Some(count as i32),
            continuation_token: input.continuation_token,
            is_truncated: Some(found.next.is_some()),
            next_continuation_token: found.next.map(hex::encode),
            contents: Some(contents.collect()),
            common_prefixes: Some(common_prefixes(found.common_prefixes, encode)),
            delimiter: input.delimiter.as_deref().map(encode),
            encoding_type: input.encoding_type,
            start_after: input.start_after.as_deref().map(encode),
            request_charged: None,
        });
        ibm::show_root_key(&bucket, &mut response.headers);
        Ok(response)
    }
}

fn listed(key: String, object: ListedObject, owner: Option<Owner>) -> Object {
    let checksum = object.attributes.as_ref().and_then(|attributes| attributes.checksum.as_ref());
    Object {
        checksum_algorithm: checksum
            .map(|checksum| vec![ChecksumAlgorithm::from_static(checksum.algorithm.name())]),
        checksum_type: convert::checksum_type(checksum),
        e_tag: object.attributes.map(|attributes| convert::etag(attributes.etag)),
        key: Some(key),
        last_modified: Some(convert::timestamp(object.modified)),
        owner,
        restore_status: None,
        size: Some(object.size.cast_signed()),
        storage_class: Some(ObjectStorageClass::from_static(ObjectStorageClass::STANDARD)),
    }
}

pub(super) fn common_prefixes(prefixes: Vec<String>, encode: fn(&str) -> String) -> Vec<CommonPrefix> {
    prefixes.iter().map(|prefix| CommonPrefix { prefix: Some(encode(prefix)) }).collect()
}
