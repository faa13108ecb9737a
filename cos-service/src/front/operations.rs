//! The operations that there are. The S3 framework finds an operation by the query names it
//! knows and takes everything else for a plain one: `PUT /b/k?encryption` would replace the object. So each
//! operation lists the query parameters it understands, and any other is refused before the body is read.

use http::{HeaderMap, Method, Uri};
use s3s::{
    S3Result,
    access::{S3Access, S3AccessContext},
};

use crate::{
    error::{Error, Result},
    front::{auth::Query, promises, s3::to_s3_error},
};

const LIST: [&str; 4] = ["delimiter", "encoding-type", "max-keys", "prefix"];
const READ: [&str; 8] = [
    "partNumber",
    "response-cache-control",
    "response-content-disposition",
    "response-content-encoding",
    "response-content-language",
    "response-content-type",
    "response-expires",
    "versionId",
];

/// Names, as the framework spells them, and what a query may hold: shared names, and an operation's own.
const OPERATIONS: &[(&str, &[&str], &[&str])] = &[
    ("AbortMultipartUpload", &[], &["uploadId"]),
    ("CompleteMultipartUpload", &[], &["uploadId"]),
    ("CopyObject", &[], &[]),
    ("CreateBucket", &[], &[]),
    ("CreateMultipartUpload", &[], &["uploads"]),
    ("DeleteBucket", &[], &[]),
    ("DeleteObject", &[], &["versionId"]),
    ("DeleteObjects", &[], &["delete"]),
    ("GetBucketAcl", &[], &["acl"]),
    ("GetBucketCors", &[], &["cors"]),
    ("GetBucketEncryption", &[], &["encryption"]),
    ("GetBucketLifecycleConfiguration", &[], &["lifecycle"]),
    ("GetBucketLocation", &[], &["location"]),
    ("GetBucketPolicy", &[], &["policy"]),
    ("GetBucketReplication", &[], &["replication"]),
    ("GetBucketTagging", &[], &["tagging"]),
    ("GetBucketVersioning", &[], &["versioning"]),
    ("GetBucketWebsite", &[], &["website"]),
    ("GetObject", &READ, &[]),
    ("GetObjectAcl", &[], &["acl", "versionId"]),
    ("GetObjectLockConfiguration", &[], &["object-lock"]),
    ("GetObjectTagging", &[], &["tagging", "versionId"]),
    ("GetPublicAccessBlock", &[], &["publicAccessBlock"]),
    ("HeadBucket", &[], &[]),
    ("HeadObject", &READ, &[]),
    ("ListBuckets", &[], &["continuation-token", "max-buckets", "prefix"]),
    (EXTENDED_LIST, &[], &["extended", "marker", "max-keys", "prefix"]),
    (
        "ListMultipartUploads",
        &[],
        &["delimiter", "encoding-type", "key-marker", "max-uploads", "prefix", "upload-id-marker", "uploads"],
    ),
    ("ListObjectVersions", &LIST, &["key-marker", "version-id-marker", "versions"]),
    ("ListObjects", &LIST, &["marker"]),
    ("ListObjectsV2", &LIST, &["continuation-token", "fetch-owner", "list-type", "start-after"]),
    ("ListParts", &[], &["max-parts", "part-number-marker", "uploadId"]),
    ("PutObject", &[], &[]),
    ("UploadPart", &[], &["partNumber", "uploadId"]),
    ("UploadPartCopy", &[], &["partNumber", "uploadId"]),
];

/// IBM's operation, which the framework does not know.
pub const EXTENDED_LIST: &str = "ListBucketsExtended";

/// What any request may carry: signatures, and what SDKs add to presigned URLs without a meaning here.
const ANYWHERE: [&str; 16] = [
    "awsaccesskeyid",
    "expires",
    "signature",
    "x-amz-algorithm",
    "x-amz-checksum-crc32",
    "x-amz-checksum-mode",
    "x-amz-content-sha256",
    "x-amz-credential",
    "x-amz-date",
    "x-amz-expires",
    "x-amz-sdk-checksum-algorithm",
    "x-amz-security-token",
    "x-amz-signature",
    "x-amz-signedheaders",
    "x-amz-user-agent",
    "x-id",
];

/// Refuses what is not implemented, once the signature has been verified.
pub struct Operations {
    /// Who owns every bucket.
    pub owner: String,
}

#[async_trait::async_trait]
impl S3Access for Operations {
    async fn check(&self, cx: &mut S3AccessContext<'_>) -> S3Result<()> {
        if cx.credentials().is_none() {
            return Err(to_s3_error(Error::new("AccessDenied", 403, "Access Denied")));
        }
        self.check_all(cx.s3_op().name(), cx.method(), cx.uri(), cx.headers()).map_err(to_s3_error)
    }
}

impl Operations {
    fn check_all(&self, operation: &str, method: &Method, uri: &Uri, headers: &HeaderMap) -> Result<()> {
        check(operation, uri)?;
        promises::check_expected_owner(headers, &self.owner)?;
        match method {
            &Method::PUT | &Method::POST => promises::refuse_unsupported(headers),
            _ => Ok(()),
        }
    }
}

/// Checks that an operation is there and understands the whole query.
pub fn check(operation: &str, uri: &Uri) -> Result<()> {
    let found = OPERATIONS.iter().find(|(name, ..)| *name == operation);
    let Some((_, shared, own)) = found else {
        return Err(Error::not_implemented(operation));
    };
    let understood = |name: &String| {
        own.contains(&name.as_str())
            || shared.contains(&name.as_str())
            || ANYWHERE.contains(&name.to_ascii_lowercase().as_str())
            || is_custom(name)
    };
    match Query::of(uri).names().find(|name| !understood(name)) {
        None => Ok(()),
        Some(name) => Err(Error::not_implemented(&format!("The sub-resource or parameter ?{name}"))),
    }
}

/// Amazon: parameters that begin with `x-` are the client's own, for its logs.
fn is_custom(name: &str) -> bool {
    let name = name.to_ascii_lowercase();
    name.starts_with("x-") && !name.starts_with("x-amz-")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn status(operation: &str, uri: &str) -> u16 {
        check(operation, &uri.parse().unwrap()).err().map_or(200, |error| error.status)
    }

    #[test]
    fn a_query_is_understood_whole_or_refused() {
        assert_eq!(status("PutObject", "/b/k"), 200);
        assert_eq!(status("PutObject", "/b/k?X-Amz-Signature=0&x-id=PutObject"), 200);
        assert_eq!(status("GetObject", "/b/k?x-user=joe"), 200);
        assert_eq!(status("GetObject", "/b/k?response-content-type=a%20b&versionId=null"), 200);
        for query in
            ["encryption", "renameObject", "uploadId=1", "%65ncryption=", "x-amz-acl=public-read", "a&b"]
        {
            assert_eq!(status("PutObject", &format!("/b/k?{query}")), 501, "{query}");
        }
        assert_eq!(status("DeleteBucket", "/b?metadataConfiguration"), 501);
        assert_eq!(status("PutBucketPolicy", "/b?policy"), 501);
        assert_eq!(status("ListObjects", "/b?&prefix=a&"), 200);
    }
}
