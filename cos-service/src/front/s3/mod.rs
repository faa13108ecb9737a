//! The only users of the S3 framework's types: they convert and delegate.

mod body;
mod bucket_operations;
mod configuration_operations;
mod convert;
mod multipart_operations;
mod object_operations;

use std::sync::Arc;

use s3s::{
    S3, S3Request, S3Response, S3Result,
    config::{S3Config, StaticConfigProvider},
    dto::*,
    host::{S3Host, VirtualHost},
    service::{S3Service, S3ServiceBuilder},
    validation::NameValidation,
};

use crate::{
    buckets,
    front::{auth::Credentials, extended_list::ExtendedList, operations::Operations},
    storage::Storage,
};

pub use convert::{error as to_s3_error, max_entries};

/// Largest XML document that is read, in bytes: 10,000 parts with their checksums.
const MAX_XML: usize = 8 * 1024 * 1024;
/// Allowed difference of clocks, in seconds.
const MAX_SKEW_SECS: u32 = 15 * 60;

/// S3 on top of [`Storage`].
pub struct Front {
    storage: Arc<Storage>,
    owner: String,
}

/// Builds the S3 service. `domains` are the names below which a bucket may stand in `Host`.
pub fn service(storage: Arc<Storage>, credentials: &Credentials, domains: Vec<String>) -> S3Service {
    let mut config = S3Config::default();
    config.xml_max_body_size = MAX_XML;
    config.presigned_url_max_skew_time_secs = MAX_SKEW_SECS;
    let owner = credentials.service_instance_id.clone();
    let extended = ExtendedList { storage: Arc::clone(&storage), owner: owner.clone() };
    let mut builder = S3ServiceBuilder::new(Front { storage, owner: owner.clone() });
    builder.set_route(extended);
    builder.set_config(Arc::new(StaticConfigProvider::new(Arc::new(config))));
    builder.set_auth(credentials.clone());
    builder.set_access(Operations { owner });
    builder.set_host(Domains(domains));
    builder.set_validation(Names);
    builder.build()
}

struct Names;

impl NameValidation for Names {
    fn validate_bucket_name(&self, name: &str) -> bool {
        buckets::is_valid_name(name)
    }
}

/// Takes `bucket.domain[:port]` apart; any other host means path style.
struct Domains(Vec<String>);

impl S3Host for Domains {
    fn parse_host_header<'a>(&'a self, host: &'a str) -> S3Result<VirtualHost<'a>> {
        let name = host.rsplit_once(':').map_or(host, |(name, _)| name);
        let found = self.0.iter().find_map(|domain| name.strip_suffix(domain.as_str())?.strip_suffix('.'));
        Ok(match found {
            Some(bucket) => VirtualHost::new(host).with_bucket(bucket),
            None => VirtualHost::new(host),
        })
    }
}

macro_rules! delegate {
    ($($operation:ident: $input:ident -> $output:ident;)*) => {
        #[async_trait::async_trait]
        impl S3 for Front {
            $(
                async fn $operation(&self, req: S3Request<$input>) -> S3Result<S3Response<$output>> {
                    self.$operation(req).await.map_err(convert::error)
                }
            )*
        }
    };
}

delegate! {
    create_bucket: CreateBucketInput -> CreateBucketOutput;
    delete_bucket: DeleteBucketInput -> DeleteBucketOutput;
    head_bucket: HeadBucketInput -> HeadBucketOutput;
    list_buckets: ListBucketsInput -> ListBucketsOutput;
    get_bucket_location: GetBucketLocationInput -> GetBucketLocationOutput;
    get_bucket_versioning: GetBucketVersioningInput -> GetBucketVersioningOutput;
    get_bucket_acl: GetBucketAclInput -> GetBucketAclOutput;
    get_bucket_cors: GetBucketCorsInput -> GetBucketCorsOutput;
    get_bucket_encryption: GetBucketEncryptionInput -> GetBucketEncryptionOutput;
    get_bucket_lifecycle_configuration: GetBucketLifecycleConfigurationInput -> GetBucketLifecycleConfigurationOutput;
    get_bucket_policy: GetBucketPolicyInput -> GetBucketPolicyOutput;
    get_bucket_replication: GetBucketReplicationInput -> GetBucketReplicationOutput;
    get_bucket_tagging: GetBucketTaggingInput -> GetBucketTaggingOutput;
    get_bucket_website: GetBucketWebsiteInput -> GetBucketWebsiteOutput;
    get_object_acl: GetObjectAclInput -> GetObjectAclOutput;
    get_object_lock_configuration: GetObjectLockConfigurationInput -> GetObjectLockConfigurationOutput;
    get_object_tagging: GetObjectTaggingInput -> GetObjectTaggingOutput;
    get_public_access_block: GetPublicAccessBlockInput -> GetPublicAccessBlockOutput;
    list_object_versions: ListObjectVersionsInput -> ListObjectVersionsOutput;
    list_objects: ListObjectsInput -> ListObjectsOutput;
    list_objects_v2: ListObjectsV2Input -> ListObjectsV2Output;
    put_object: PutObjectInput -> PutObjectOutput;
    get_object: GetObjectInput -> GetObjectOutput;
    head_object: HeadObjectInput -> HeadObjectOutput;
    delete_object: DeleteObjectInput -> DeleteObjectOutput;
    delete_objects: DeleteObjectsInput -> DeleteObjectsOutput;
    copy_object: CopyObjectInput -> CopyObjectOutput;
    create_multipart_upload: CreateMultipartUploadInput -> CreateMultipartUploadOutput;
    upload_part: UploadPartInput -> UploadPartOutput;
    upload_part_copy: UploadPartCopyInput -> UploadPartCopyOutput;
    list_parts: ListPartsInput -> ListPartsOutput;
    list_multipart_uploads: ListMultipartUploadsInput -> ListMultipartUploadsOutput;
    complete_multipart_upload: CompleteMultipartUploadInput -> CompleteMultipartUploadOutput;
    abort_multipart_upload: AbortMultipartUploadInput -> AbortMultipartUploadOutput;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buckets_in_host_names() {
        let domains = Domains(vec!["localhost".to_owned()]);
        let bucket = |host| domains.parse_host_header(host).unwrap().bucket().map(str::to_owned);
        assert_eq!(bucket("my-bucket.localhost:9000").as_deref(), Some("my-bucket"));
        assert_eq!(bucket("my.bucket.localhost").as_deref(), Some("my.bucket"));
        assert_eq!(bucket("localhost:9000"), None);
        assert_eq!(bucket("notlocalhost"), None);
        assert_eq!(bucket("elsewhere.example"), None);
    }
}
