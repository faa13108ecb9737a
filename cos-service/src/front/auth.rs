//! Who may come in: HMAC credentials, and the checks on signatures that the S3 framework leaves out.

use http::{HeaderMap, Method, Uri, header};
use s3s::{
    S3Error, S3ErrorCode, S3Result,
    auth::{S3Auth, SecretKey},
};
use serde::{Deserialize, Serialize};
use subtle::ConstantTimeEq;

use crate::error::{Error, Result};

/// The HMAC credentials of the service instance.
#[derive(Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Credentials {
    /// 32 hexadecimal digits.
    pub access_key_id: String,
    /// 48 hexadecimal digits.
    pub secret_access_key: String,
    /// GUID of the service instance.
    pub service_instance_id: String,
}

impl std::fmt::Debug for Credentials {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Credentials").field("access_key_id", &self.access_key_id).finish_non_exhaustive()
    }
}

#[async_trait::async_trait]
impl S3Auth for Credentials {
    async fn get_secret_key(&self, access_key: &str) -> S3Result<SecretKey> {
        if bool::from(access_key.as_bytes().ct_eq(self.access_key_id.as_bytes())) {
            Ok(SecretKey::from(self.secret_access_key.clone()))
        } else {
            Err(S3Error::with_message(
                S3ErrorCode::InvalidAccessKeyId,
                "The AWS access key Id you provided does not exist in our records.",
            ))
        }
    }
}

/// What is allowed beyond the signature itself.
#[derive(Debug, Clone)]
pub struct AuthRules {
    /// Whether Signature Version 2 is accepted. The framework compares it in variable time.
    pub allow_sigv2: bool,
    /// Longest life of a presigned URL, in seconds.
    pub presigned_max_secs: u64,
}

/// Headers that a client library may add after signing.
const MAY_BE_UNSIGNED: [&str; 3] = ["x-amz-content-sha256", "x-amzn-trace-id", "x-amz-user-agent"];

impl AuthRules {
    /// Checks a request before the framework verifies its signature.
    pub fn check(&self, method: &Method, uri: &Uri, headers: &HeaderMap) -> Result<()> {
        let mut authorization = headers.get_all(header::AUTHORIZATION).iter();
        let header = authorization.next().map(|value| value.to_str().unwrap_or_default());
        if authorization.next().is_some() {
            return Err(Error::invalid_request("Only one Authorization header is allowed"));
        }
        let query = Query::of(uri);
        let presigned = query.has("X-Amz-Signature");
        if header.is_some() && (presigned || query.has("Signature")) {
            return Err(Error::invalid_argument("Only one auth mechanism allowed"));
        }
        if (query.has("Signature") || header.is_some_and(|value| value.starts_with("AWS ")))
            && !self.allow_sigv2
        {
            return Err(unsupported_mechanism());
        }
        match header {
            None => {}
            Some(value) if value.starts_with("AWS4-HMAC-SHA256 ") => {
                let signed = value.split(',').find_map(|field| field.trim().rsplit_once("SignedHeaders="));
                check_signed(signed.map_or("", |(_, names)| names), headers)?;
            }
            Some(value) if value.starts_with("AWS ") => {}
            Some(value) if value.len() >= 7 && value.as_bytes()[..7].eq_ignore_ascii_case(b"bearer ") => {
                return Err(Error::new("AccessDenied", 403, "Access Denied")
                    .because("IAM tokens are not accepted by this version: use HMAC credentials"));
            }
            Some(_) => return Err(unsupported_mechanism()),
        }
        if presigned {
            let expires = query.get("X-Amz-Expires").and_then(|value| value.parse::<u64>().ok());
            if expires.is_none_or(|seconds| seconds == 0 || seconds > self.presigned_max_secs) {
                return Err(Error::new(
                    "AuthorizationQueryParametersError",
                    400,
                    format!("X-Amz-Expires must be between 1 and {} seconds", self.presigned_max_secs),
                ));
            }
            check_signed(&query.get("X-Amz-SignedHeaders").unwrap_or_default(), headers)?;
        }
        // A form upload would be held in memory whole by the framework.
        let form = headers
            .get(header::CONTENT_TYPE)
            .is_some_and(|value| value.as_bytes().to_ascii_lowercase().starts_with(b"multipart/form-data"));
        if form && method == Method::POST {
            return Err(Error::not_implemented("POST Object"));
        }
        Ok(())
    }
}

/// Headers that change what a request means must be under its signature.
fn check_signed(signed: &str, headers: &HeaderMap) -> Result<()> {
    let signed: Vec<_> = signed.split(';').collect();
    let must_be_signed = |name: &str| {
        name == "host"
            || ((name.starts_with("x-amz-") || name.starts_with("ibm-")) && !MAY_BE_UNSIGNED.contains(&name))
    };
    match headers.keys().find(|name| must_be_signed(name.as_str()) && !signed.contains(&name.as_str())) {
        None => Ok(()),
        Some(name) => Err(Error::new(
            "AccessDenied",
            403,
            format!("There were headers present in the request which were not signed: {name}"),
        )),
    }
}

fn unsupported_mechanism() -> Error {
    Error::invalid_request(
        "The authorization mechanism you have provided is not supported. Please use AWS4-HMAC-SHA256.",
    )
}

/// Query parameters, by name.
pub struct Query<'a>(&'a str);

impl<'a> Query<'a> {
    /// Those of a URI.
    pub fn of(uri: &'a Uri) -> Self {
        Self(uri.query().unwrap_or_default())
    }

    /// Whether a parameter is there, with or without a value.
    pub fn has(&self, name: &str) -> bool {
        self.get(name).is_some()
    }

    /// The decoded names.
    pub fn names(&self) -> impl Iterator<Item = String> + use<'a> {
        let names = self.0.split('&').map(|pair| pair.split('=').next().unwrap_or_default());
        names.filter(|name| !name.is_empty()).map(decode)
    }

    /// The decoded value of a parameter.
    pub fn get(&self, name: &str) -> Option<String> {
        self.0.split('&').find_map(|pair| {
            let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
            (decode(key) == name).then(|| decode(value))
        })
    }
}

/// Percent-decodes; bytes that are no UTF-8 are replaced.
fn decode(text: &str) -> String {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&byte, tail)) = rest.split_first() {
        let escaped =
            (byte == b'%').then(|| tail.get(..2).and_then(|digits| hex::decode(digits).ok())).flatten();
        match escaped {
            Some(decoded) => {
                bytes.extend(decoded);
                rest = &tail[2..];
            }
            None => {
                bytes.push(byte);
                rest = tail;
            }
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    const RULES: AuthRules = AuthRules { allow_sigv2: false, presigned_max_secs: 604_800 };

    fn check(uri: &str, pairs: &[(&'static str, &'static str)]) -> u16 {
        let headers = pairs
            .iter()
            .map(|(name, value)| (http::HeaderName::from_static(name), http::HeaderValue::from_static(value)))
            .collect();
        RULES.check(&Method::GET, &uri.parse().unwrap(), &headers).err().map_or(200, |error| error.status)
    }

    #[test]
    fn mechanisms() {
        let v4 =
            "AWS4-HMAC-SHA256 Credential=a/b/c/s3/aws4_request, SignedHeaders=host;x-amz-date, Signature=00";
        assert_eq!(check("/b", &[]), 200);
        assert_eq!(check("/b", &[("authorization", v4), ("host", "h"), ("x-amz-date", "d")]), 200);
        assert_eq!(check("/b", &[("authorization", v4), ("x-amz-meta-a", "unsigned")]), 403);
        assert_eq!(
            check("/b", &[("authorization", v4), ("ibm-sse-kp-customer-root-key-crn", "unsigned")]),
            403
        );
        assert_eq!(check("/b", &[("authorization", "AWS key:signature")]), 400);
        assert_eq!(check("/b", &[("authorization", "Bearer x")]), 403);
        assert_eq!(check("/b", &[("authorization", "Digest x")]), 400);
        assert_eq!(check("/b?AWSAccessKeyId=a&Signature=b&Expires=1", &[]), 400);
        assert_eq!(check("/b?%53ignature=b", &[]), 400);
        assert_eq!(check("/b?X-Amz-Signature=b", &[("authorization", v4)]), 400);
    }

    #[test]
    fn presigned_life_is_capped() {
        let uri =
            |expires: &str| format!("/b?X-Amz-Signature=b&X-Amz-SignedHeaders=host&X-Amz-Expires={expires}");
        assert_eq!(check(&uri("604800"), &[("host", "h")]), 200);
        for bad in ["604801", "0", "-1", "x", "99999999999999999999999"] {
            assert_eq!(check(&uri(bad), &[]), 400, "{bad}");
        }
        assert_eq!(check(&uri("60"), &[("x-amz-acl", "public-read")]), 403);
    }

    #[test]
    fn debug_hides_the_secret() {
        let credentials = Credentials {
            access_key_id: "id".to_owned(),
            secret_access_key: "secret".to_owned(),
            service_instance_id: "instance".to_owned(),
        };
        assert!(!format!("{credentials:?}").contains("secret"));
    }
}
