//! IBM's `GET /?extended`: the list of buckets with their locations.

use std::{fmt::Write, sync::Arc};

use http::{Extensions, HeaderMap, HeaderValue, Method, Uri, header};
use s3s::{Body, S3Request, S3Response, S3Result, route::S3Route};
use time::{OffsetDateTime, macros::format_description};

use crate::{
    error::Error,
    front::{
        auth::Query,
        ibm, operations,
        outer::escape,
        s3::{self, to_s3_error},
    },
    storage::Storage,
};

/// The route of this one operation.
pub struct ExtendedList {
    /// Where the buckets are.
    pub storage: Arc<Storage>,
    /// GUID of the service instance.
    pub owner: String,
}

#[async_trait::async_trait]
impl S3Route for ExtendedList {
    fn is_match(&self, method: &Method, uri: &Uri, _: &HeaderMap, _: &mut Extensions) -> bool {
        method == Method::GET && uri.path() == "/" && Query::of(uri).has("extended")
    }

    async fn call(&self, req: S3Request<Body>) -> S3Result<S3Response<Body>> {
        operations::check(operations::EXTENDED_LIST, &req.uri).map_err(to_s3_error)?;
        ibm::check_service_instance(&req.headers, &self.owner).map_err(to_s3_error)?;
        let query = Query::of(&req.uri);
        let (prefix, marker) =
            (query.get("prefix").unwrap_or_default(), query.get("marker").unwrap_or_default());
        let max = query.get("max-keys").map(|max| max.parse::<i32>()).transpose().map_err(|_| {
            to_s3_error(Error::invalid_argument("Provided max-keys not an integer or within integer range"))
        })?;
        let max = s3::max_entries(max, "max-keys").map_err(to_s3_error)?;
        let mut response = S3Response::new(Body::from(self.document(&prefix, &marker, max)));
        response.headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/xml"));
        Ok(response)
    }
}

impl ExtendedList {
    fn document(&self, prefix: &str, marker: &str, max: usize) -> String {
        let mut buckets = self.storage.buckets.list();
        buckets.retain(|bucket| bucket.name.starts_with(prefix) && bucket.name.as_str() > marker);
        let truncated = max > 0 && buckets.len() > max;
        buckets.truncate(max);
        let next = buckets.last().filter(|_| truncated);
        let next = next.map(|bucket| format!("<NextMarker>{}</NextMarker>", bucket.name)).unwrap_or_default();
        let owner = escape(&self.owner);
        let mut xml = format!(
            "<?xml version=\"1.0\" encoding=\"UTF-8\"?><ListAllMyBucketsResult xmlns=\"http://s3.amazonaws.com/doc/2006-03-01/\">\
             <Owner><ID>{owner}</ID><DisplayName>{owner}</DisplayName></Owner><IsTruncated>{truncated}</IsTruncated>\
             <MaxKeys>{max}</MaxKeys><Prefix>{}</Prefix><Marker>{}</Marker>{next}<Buckets>",
            escape(prefix),
            escape(marker)
        );
        for bucket in buckets {
            // Writing to a string does not fail.
            let _ = write!(
                xml,
                "<Bucket><Name>{}</Name><CreationDate>{}</CreationDate><LocationConstraint>{}</LocationConstraint></Bucket>",
                bucket.name,
                iso_date(bucket.created),
                escape(&bucket.location)
            );
        }
        xml.push_str("</Buckets></ListAllMyBucketsResult>");
        xml
    }
}

fn iso_date(millis: i64) -> String {
    let format = format_description!("[year]-[month]-[day]T[hour]:[minute]:[second].[subsecond digits:3]Z");
    OffsetDateTime::from_unix_timestamp_nanos(i128::from(millis) * 1_000_000)
        .ok()
        .and_then(|date| date.format(format).ok())
        .unwrap_or_default()
}
