//! What there is to say about configurations that a bucket or an object does not have: clients ask before they go on.

use s3s::{S3Request, S3Response, dto::*};

use super::Front;
use crate::error::{Error, Result};

type Answer<T> = Result<S3Response<T>>;

/// Operations that find no configuration: name, input, output, S3's error code and message.
macro_rules! absent {
    ($($operation:ident: $input:ident -> $output:ident, $code:literal, $message:literal;)*) => {
        impl Front {
            $(
                pub(super) async fn $operation(&self, req: S3Request<$input>) -> Answer<$output> {
                    self.storage.buckets.get(&req.input.bucket)?;
                    Err(Error::new($code, 404, $message))
                }
            )*
        }
    };
}

absent! {
    get_bucket_cors: GetBucketCorsInput -> GetBucketCorsOutput,
        "NoSuchCORSConfiguration", "The CORS configuration does not exist";
    get_bucket_lifecycle_configuration:
        GetBucketLifecycleConfigurationInput -> GetBucketLifecycleConfigurationOutput,
        "NoSuchLifecycleConfiguration", "The lifecycle configuration does not exist";
    get_bucket_policy: GetBucketPolicyInput -> GetBucketPolicyOutput,
        "NoSuchBucketPolicy", "The bucket policy does not exist";
    get_bucket_replication: GetBucketReplicationInput -> GetBucketReplicationOutput,
        "ReplicationConfigurationNotFoundError", "The replication configuration was not found";
    get_bucket_tagging: GetBucketTaggingInput -> GetBucketTaggingOutput,
        "NoSuchTagSet", "The TagSet does not exist";
    get_bucket_website: GetBucketWebsiteInput -> GetBucketWebsiteOutput,
        "NoSuchWebsiteConfiguration", "The specified bucket does not have a website configuration";
    get_object_lock_configuration: GetObjectLockConfigurationInput -> GetObjectLockConfigurationOutput,
        "ObjectLockConfigurationNotFoundError", "Object Lock configuration does not exist for this bucket";
    get_public_access_block: GetPublicAccessBlockInput -> GetPublicAccessBlockOutput,
        "NoSuchPublicAccessBlockConfiguration", "The public access block configuration was not found";
}

impl Front {
    /// The root key, in Amazon's words.
    pub(super) async fn get_bucket_encryption(
        &self,
        req: S3Request<GetBucketEncryptionInput>,
    ) -> Answer<GetBucketEncryptionOutput> {
        let bucket = self.storage.buckets.get(&req.input.bucket)?;
        let Some(key) = &bucket.key else {
            return Err(Error::new(
                "ServerSideEncryptionConfigurationNotFoundError",
                404,
                "The server side encryption configuration was not found",
            ));
        };
        let rule = ServerSideEncryptionRule {
            apply_server_side_encryption_by_default: Some(ServerSideEncryptionByDefault {
                kms_master_key_id: Some(key.root_key_crn.clone()),
                sse_algorithm: ServerSideEncryption::from_static(ServerSideEncryption::AWS_KMS),
            }),
            bucket_key_enabled: Some(true),
        };
        let configuration = ServerSideEncryptionConfiguration { rules: vec![rule] };
        Ok(S3Response::new(GetBucketEncryptionOutput {
            server_side_encryption_configuration: Some(configuration),
        }))
    }

    pub(super) async fn get_bucket_acl(
        &self,
        req: S3Request<GetBucketAclInput>,
    ) -> Answer<GetBucketAclOutput> {
        self.storage.buckets.get(&req.input.bucket)?;
        let (grants, owner) = (Some(self.owner_alone()), Some(self.owner()));
        Ok(S3Response::new(GetBucketAclOutput { grants, owner }))
    }

    pub(super) async fn get_object_acl(
        &self,
        req: S3Request<GetObjectAclInput>,
    ) -> Answer<GetObjectAclOutput> {
        super::object_operations::refuse_version(req.input.version_id.as_deref())?;
        self.storage.head_object(&req.input.bucket, &req.input.key).await?;
        let (grants, owner) = (Some(self.owner_alone()), Some(self.owner()));
        Ok(S3Response::new(GetObjectAclOutput { grants, owner, request_charged: None }))
    }

    /// No object has tags.
    pub(super) async fn get_object_tagging(
        &self,
        req: S3Request<GetObjectTaggingInput>,
    ) -> Answer<GetObjectTaggingOutput> {
        super::object_operations::refuse_version(req.input.version_id.as_deref())?;
        self.storage.head_object(&req.input.bucket, &req.input.key).await?;
        Ok(S3Response::new(GetObjectTaggingOutput { tag_set: Vec::new(), version_id: None }))
    }

    /// The grants of the canned ACL `private`.
    fn owner_alone(&self) -> Grants {
        let Owner { display_name, id } = self.owner();
        let type_ = Type::from_static(Type::CANONICAL_USER);
        vec![Grant {
            grantee: Some(Grantee { display_name, email_address: None, id, type_, uri: None }),
            permission: Some(Permission::from_static(Permission::FULL_CONTROL)),
        }]
    }
}
