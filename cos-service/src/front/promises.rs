//! Headers that promise a client something that is not kept here: better refused than ignored.

use http::{HeaderMap, HeaderValue};

use crate::{
    content::checksum::Algorithm,
    error::{Error, Result},
};

/// Refuses a write with a header that has no effect here, and whose sender relies on one.
pub fn refuse_unsupported(headers: &HeaderMap) -> Result<()> {
    for (name, value) in headers {
        if let Some(what) = unsupported(name.as_str(), value.to_str().unwrap_or_default().trim()) {
            return Err(Error::not_implemented(what));
        }
    }
    Ok(())
}

fn unsupported(name: &str, value: &str) -> Option<&'static str> {
    let checksum =
        |name: &str| Algorithm::ALL.iter().any(|algorithm| name.eq_ignore_ascii_case(algorithm.header()));
    let what = match name {
        _ if name.starts_with("x-amz-object-lock-") => "Object Lock",
        _ if name.starts_with("retention-") => "Immutable Object Storage",
        _ if name.starts_with("x-amz-grant-") => "An access control list",
        "x-amz-acl" if !matches!(value, "private" | "bucket-owner-full-control") => {
            "A canned ACL other than private"
        }
        "x-amz-bucket-object-lock-enabled" if value.eq_ignore_ascii_case("true") => "Object Lock",
        "x-amz-checksum-algorithm" | "x-amz-checksum-mode" | "x-amz-checksum-type" => return None,
        _ if name.starts_with("x-amz-checksum-") && !checksum(name) => "This checksum algorithm",
        "x-amz-object-ownership" if value != "BucketOwnerEnforced" => {
            "Object ownership other than BucketOwnerEnforced"
        }
        "x-amz-storage-class" if value != "STANDARD" => "A storage class other than STANDARD",
        "x-amz-tagging" => "Object tagging",
        "x-amz-trailer" if !checksum(value) => "A trailer other than one checksum",
        "x-amz-website-redirect-location" => "A website redirect",
        "x-amz-write-offset-bytes" => "Appending to objects",
        _ => return None,
    };
    Some(what)
}

/// Refuses a request that expects the bucket, or the source of a copy, to be somebody else's.
pub fn check_expected_owner(headers: &HeaderMap, owner: &str) -> Result<()> {
    let expected = ["x-amz-expected-bucket-owner", "x-amz-source-expected-bucket-owner"];
    match expected
        .iter()
        .filter_map(|name| headers.get(*name))
        .all(|given| given.as_bytes() == owner.as_bytes())
    {
        true => Ok(()),
        false => {
            Err(Error::new("AccessDenied", 403, "Access Denied").because("another bucket owner was expected"))
        }
    }
}

/// Server-side encryption headers of an object. What a bucket does is decided when it is created.
pub fn refuse_object_encryption(headers: &HeaderMap, keyed: bool) -> Result<()> {
    let given = |part: &str| headers.keys().any(|name| name.as_str().contains(part));
    let customer = given("server-side-encryption-customer");
    if customer && keyed {
        return Err(Error::new(
            "BadRequest",
            400,
            "Server-Side Encryption with Customer-Provided Keys is not supported while Key Protect is enabled.",
        ));
    }
    if customer {
        return Err(Error::not_implemented("Server-side encryption with customer-provided keys"));
    }
    match headers.get("x-amz-server-side-encryption").map(HeaderValue::as_bytes) {
        Some(b"AES256") if !keyed => Err(Error::new(
            "NotImplemented",
            501,
            "This bucket has no root key, so its objects are not encrypted. Create a bucket with \
             ibm-sse-kp-encryption-algorithm and ibm-sse-kp-customer-root-key-crn for objects that are.",
        )),
        None | Some(b"AES256") if given("server-side-encryption-aws-kms-key-id") => {
            Err(Error::invalid_argument("The key of an object is that of its bucket and cannot be chosen."))
        }
        None | Some(b"AES256") => Ok(()),
        Some(_) => Err(Error::invalid_argument(
            "Requests specifying Server-Side Encryption with Customer-Provided Keys must provide an appropriate secret key.",
        )),
    }
}

#[cfg(test)]
mod tests {
    use http::HeaderName;

    use super::*;

    fn with(name: &'static str, value: &'static str) -> HeaderMap {
        HeaderMap::from_iter([(HeaderName::from_static(name), HeaderValue::from_static(value))])
    }

    fn status(outcome: Result<()>) -> u16 {
        outcome.err().map_or(200, |error| error.status)
    }

    #[test]
    fn promises_that_are_not_kept_are_refused() {
        for (name, value) in [
            ("x-amz-object-lock-mode", "GOVERNANCE"),
            ("x-amz-bucket-object-lock-enabled", "True"),
            ("retention-period", "1"),
            ("x-amz-grant-read", "id=1"),
            ("x-amz-tagging", "a=b"),
            ("x-amz-acl", "public-read"),
            ("x-amz-storage-class", "GLACIER"),
            ("x-amz-checksum-xxhash64", "1"),
            ("x-amz-trailer", "x-amz-checksum-sha512"),
            ("x-amz-trailer", "x-amz-checksum-crc32,x-amz-checksum-sha1"),
            ("x-amz-write-offset-bytes", "0"),
        ] {
            assert_eq!(status(refuse_unsupported(&with(name, value))), 501, "{name}: {value}");
        }
        for (name, value) in [
            ("x-amz-meta-retention-period", "1"),
            ("x-amz-acl", "private"),
            ("x-amz-storage-class", "STANDARD"),
            ("x-amz-checksum-sha256", "1"),
            ("x-amz-checksum-algorithm", "SHA256"),
            ("x-amz-trailer", "x-amz-checksum-CRC64NVME"),
            ("x-amz-bucket-object-lock-enabled", "false"),
        ] {
            assert_eq!(status(refuse_unsupported(&with(name, value))), 200, "{name}: {value}");
        }
    }

    #[test]
    fn encryption_is_promised_only_where_it_is_done() {
        let sse = |value| with("x-amz-server-side-encryption", value);
        assert_eq!(status(refuse_object_encryption(&sse("AES256"), true)), 200);
        assert_eq!(status(refuse_object_encryption(&sse("AES256"), false)), 501);
        assert_eq!(status(refuse_object_encryption(&sse("aws:kms"), true)), 400);
        let key = with("x-amz-server-side-encryption-aws-kms-key-id", "1");
        assert_eq!(status(refuse_object_encryption(&key, true)), 400);
        let customer = with("x-amz-server-side-encryption-customer-algorithm", "AES256");
        assert_eq!(status(refuse_object_encryption(&customer, true)), 400);
        assert_eq!(status(refuse_object_encryption(&customer, false)), 501);
    }

    #[test]
    fn an_expected_owner_must_be_the_owner() {
        for name in ["x-amz-expected-bucket-owner", "x-amz-source-expected-bucket-owner"] {
            assert_eq!(status(check_expected_owner(&with(name, "me"), "me")), 200);
            assert_eq!(status(check_expected_owner(&with(name, "other"), "me")), 403);
        }
    }
}
