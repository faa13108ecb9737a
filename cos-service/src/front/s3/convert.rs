//! Conversions between the framework's words and ours.

use std::str::FromStr;

use http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use s3s::{S3Error, S3ErrorCode, dto};
use time::OffsetDateTime;

use crate::{
    content::checksum::{Algorithm, Checksum, Kind},
    error::{Error, Result},
    objects::{
        attributes::Headers,
        conditions::{Conditions, Expected},
    },
};

/// An error, for the framework.
pub fn error(error: Error) -> S3Error {
    if error.status >= 500 && error.status != 501 {
        tracing::warn!(code = error.code, detail = error.detail, "a request failed");
    }
    let code = S3ErrorCode::from_bytes(error.code.as_bytes()).unwrap_or(S3ErrorCode::InternalError);
    let mut headers = error.header_map();
    let mut converted = S3Error::with_message(code, error.message);
    converted
        .set_status_code(StatusCode::from_u16(error.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR));
    if !headers.is_empty() {
        // The framework then leaves all headers to us.
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/xml"));
        converted.set_headers(headers);
    }
    converted
}

/// A date.
pub fn timestamp(millis: i64) -> dto::Timestamp {
    let nanos = i128::from(millis) * 1_000_000;
    OffsetDateTime::from_unix_timestamp_nanos(nanos).unwrap_or(OffsetDateTime::UNIX_EPOCH).into()
}

/// A date, in seconds since 1970.
pub fn seconds(timestamp: dto::Timestamp) -> i64 {
    OffsetDateTime::from(timestamp).unix_timestamp()
}

/// An ETag with quotes to be.
pub fn etag(value: String) -> dto::ETag {
    dto::ETag::Strong(value)
}

/// `If-*` headers.
pub fn conditions(
    if_match: Option<dto::ETagCondition>,
    if_none_match: Option<dto::ETagCondition>,
    if_modified_since: Option<dto::Timestamp>,
    if_unmodified_since: Option<dto::Timestamp>,
) -> Conditions {
    let expected = |condition| match condition {
        dto::ETagCondition::Any => Expected::Any,
        dto::ETagCondition::ETag(etag) => Expected::Tag(etag.into_value()),
    };
    Conditions {
        if_match: if_match.map(expected),
        if_none_match: if_none_match.map(expected),
        if_modified_since: if_modified_since.map(seconds),
        if_unmodified_since: if_unmodified_since.map(seconds),
    }
}

/// `If-Unmodified-Since` of a write, which the framework's model lacks.
pub fn unmodified_since(headers: &HeaderMap) -> Option<dto::Timestamp> {
    let value = headers.get(header::IF_UNMODIFIED_SINCE)?.to_str().ok()?;
    dto::Timestamp::parse(dto::TimestampFormat::HttpDate, value).ok()
}

/// `If-Match` or `If-None-Match`, where the framework's model lacks them.
pub fn etag_condition(headers: &HeaderMap, name: &HeaderName) -> Result<Option<dto::ETagCondition>> {
    let parse = |value: &HeaderValue| dto::ETagCondition::parse_http_header(value.as_bytes());
    let invalid = |_| Error::invalid_argument(format!("the header {name} is not an ETag or *"));
    headers.get(name).map(parse).transpose().map_err(invalid)
}

/// Content headers and metadata that come with an object.
pub struct GivenHeaders {
    /// `Content-Type`.
    pub content_type: Option<String>,
    /// `Content-Encoding`.
    pub content_encoding: Option<String>,
    /// `Content-Disposition`.
    pub content_disposition: Option<String>,
    /// `Content-Language`.
    pub content_language: Option<String>,
    /// `Cache-Control`.
    pub cache_control: Option<String>,
    /// `Expires`.
    pub expires: Option<dto::Timestamp>,
    /// `x-amz-meta-*`.
    pub metadata: Option<dto::Metadata>,
}

impl GivenHeaders {
    /// As they are stored. `aws-chunked` was about the request alone.
    pub fn stored(self) -> Headers {
        let content_encoding = self.content_encoding.map(|value| {
            let kept: Vec<_> = value
                .split(',')
                .map(str::trim)
                .filter(|coding| !coding.eq_ignore_ascii_case("aws-chunked"))
                .collect();
            kept.join(",")
        });
        Headers {
            content_type: self.content_type,
            content_encoding: content_encoding.filter(|value| !value.is_empty()),
            content_disposition: self.content_disposition,
            content_language: self.content_language,
            cache_control: self.cache_control,
            expires: self.expires.map(seconds),
            metadata: self
                .metadata
                .unwrap_or_default()
                .into_iter()
                .map(|(name, value)| (name.to_ascii_lowercase(), value))
                .collect(),
        }
    }
}

/// Copies a checksum into the five fields that every output has.
macro_rules! show_checksum {
    ($output:expr, $checksum:expr) => {
        if let Some(checksum) = $checksum {
            use $crate::content::checksum::Algorithm;
            let value = Some(checksum.value.clone());
            match checksum.algorithm {
                Algorithm::Crc32 => $output.checksum_crc32 = value,
                Algorithm::Crc32c => $output.checksum_crc32c = value,
                Algorithm::Crc64nvme => $output.checksum_crc64nvme = value,
                Algorithm::Sha1 => $output.checksum_sha1 = value,
                Algorithm::Sha256 => $output.checksum_sha256 = value,
            }
        }
    };
}
pub(super) use show_checksum;

/// The one checksum among an input's five fields.
macro_rules! given_checksum {
    ($input:expr) => {{
        use $crate::content::checksum::Algorithm;
        $crate::front::s3::convert::only_one([
            (Algorithm::Crc32, $input.checksum_crc32.clone()),
            (Algorithm::Crc32c, $input.checksum_crc32c.clone()),
            (Algorithm::Crc64nvme, $input.checksum_crc64nvme.clone()),
            (Algorithm::Sha1, $input.checksum_sha1.clone()),
            (Algorithm::Sha256, $input.checksum_sha256.clone()),
        ])
    }};
}
pub(super) use given_checksum;

/// At most one checksum may be given.
pub fn only_one(given: [(Algorithm, Option<String>); 5]) -> Result<Option<(Algorithm, String)>> {
    let mut given = given.into_iter().filter_map(|(algorithm, value)| Some((algorithm, value?)));
    let first = given.next();
    if given.next().is_some() {
        return Err(Error::invalid_request(
            "Expecting a single x-amz-checksum- header. Multiple checksum Types are not allowed.",
        ));
    }
    Ok(first)
}

/// `x-amz-checksum-algorithm` or `x-amz-sdk-checksum-algorithm`.
pub fn algorithm(given: Option<&dto::ChecksumAlgorithm>) -> Result<Option<Algorithm>> {
    given.map(|name| Algorithm::from_str(name.as_str())).transpose()
}

/// `x-amz-checksum-type`.
pub fn kind(given: Option<&dto::ChecksumType>) -> Result<Option<Kind>> {
    given
        .map(|name| match name.as_str() {
            "FULL_OBJECT" => Ok(Kind::FullObject),
            "COMPOSITE" => Ok(Kind::Composite),
            _ => Err(Error::invalid_request("Value for x-amz-checksum-type header is invalid.")),
        })
        .transpose()
}

/// `x-amz-checksum-type` of an answer.
pub fn checksum_type(checksum: Option<&Checksum>) -> Option<dto::ChecksumType> {
    checksum.map(|checksum| dto::ChecksumType::from_static(checksum.kind.name()))
}

/// Percent-encodes for `encoding-type=url`.
pub fn url_encode(text: &str) -> String {
    let mut encoded = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.' | b'~' | b'/') {
            encoded.push(char::from(byte));
        } else {
            encoded.push_str(&format!("%{byte:02X}"));
        }
    }
    encoded
}

/// The encoder that a listing asks for.
pub fn encoder(encoding: Option<&dto::EncodingType>) -> Result<fn(&str) -> String> {
    match encoding.map(dto::EncodingType::as_str) {
        None => Ok(str::to_owned),
        Some("url") => Ok(url_encode),
        Some(_) => Err(Error::invalid_argument("Invalid Encoding Method specified in Request")),
    }
}

/// `max-keys` and its relatives: 1000 if absent, at most 1000.
pub fn max_entries(given: Option<i32>, name: &'static str) -> Result<usize> {
    usize::try_from(given.unwrap_or(1000)).map(|max| max.min(1000)).map_err(|_| {
        Error::invalid_argument(format!("Argument {name} must be an integer between 0 and 2147483647"))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn url_encoding_keeps_what_s3_keeps() {
        assert_eq!(url_encode("a b+c/\u{e9}~%"), "a%20b%2Bc/%C3%A9~%25");
    }

    #[test]
    fn aws_chunked_is_not_stored() {
        let given = |encoding: &str| GivenHeaders {
            content_encoding: Some(encoding.to_owned()),
            content_type: None,
            content_disposition: None,
            content_language: None,
            cache_control: None,
            expires: None,
            metadata: None,
        };
        assert_eq!(given("aws-chunked").stored().content_encoding, None);
        assert_eq!(given("gzip, aws-chunked").stored().content_encoding.as_deref(), Some("gzip"));
    }

    #[test]
    fn an_error_with_headers_is_xml_all_the_same() {
        let headers = error(Error::hsm_unreachable("")).headers().cloned().unwrap();
        assert_eq!(headers[header::RETRY_AFTER], "1");
        assert_eq!(headers[header::CONTENT_TYPE], "application/xml");
    }

    #[test]
    fn unknown_codes_survive() {
        let converted = error(Error::new("BadRequest", 400, "text"));
        assert_eq!(converted.code().as_str(), "BadRequest");
        assert_eq!(converted.status_code().map(|status| status.as_u16()), Some(400));
    }
}
