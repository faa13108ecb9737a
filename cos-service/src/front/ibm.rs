//! IBM's headers.

use http::{HeaderMap, HeaderValue};

use crate::{
    buckets::Bucket,
    error::{Error, Result},
};

const ALGORITHM: &str = "ibm-sse-kp-encryption-algorithm";
const CUSTOMER_ROOT_KEY_CRN: &str = "ibm-sse-kp-customer-root-key-crn";
/// IBM's SDKs for Python and Java read this name, those for Node and Go the other one.
const CRK_ID: &str = "ibm-sse-kp-crk-id";
const ENABLED: &str = "ibm-sse-kp-enabled";
const SERVICE_INSTANCE: &str = "ibm-service-instance-id";

/// The root key that a bucket is to be created under, from both headers or neither.
pub fn root_key_of_new_bucket(headers: &HeaderMap) -> Result<Option<String>> {
    match (text(headers, ALGORITHM)?, text(headers, CUSTOMER_ROOT_KEY_CRN)?) {
        (None, None) => Ok(None),
        // IBM's documentation shows the value in quotes, the SDKs send it bare.
        (Some(algorithm), Some(crn)) if algorithm.trim_matches('"') == "AES256" => Ok(Some(crn)),
        (Some(_), Some(_)) => Err(Error::invalid_argument(
            "The encryption algorithm specified in ibm-sse-kp-encryption-algorithm is not valid. Supported value: AES256",
        )),
        (None, Some(_)) => Err(Error::invalid_argument(
            "ibm-sse-kp-customer-root-key-crn requires ibm-sse-kp-encryption-algorithm: AES256",
        )),
        (Some(_), None) => Err(Error::invalid_argument(
            "ibm-sse-kp-encryption-algorithm requires ibm-sse-kp-customer-root-key-crn",
        )),
    }
}

/// Checks `ibm-service-instance-id`, a GUID or a whole CRN, against the one instance that there is.
pub fn check_service_instance(headers: &HeaderMap, own: &str) -> Result<()> {
    let Some(given) = text(headers, SERVICE_INSTANCE)? else { return Ok(()) };
    let guid = if given.starts_with("crn:") { given.split(':').nth(7).unwrap_or_default() } else { &given };
    if guid.eq_ignore_ascii_case(own) {
        Ok(())
    } else {
        Err(Error::new("AccessDenied", 403, "Access Denied")
            .because("ibm-service-instance-id names another instance"))
    }
}

/// Shows the root key of a bucket. Lower case `true`: IBM's Python SDK takes anything else for false.
pub fn show_root_key(bucket: &Bucket, headers: &mut HeaderMap) {
    let Some(key) = &bucket.key else { return };
    let Ok(crn) = HeaderValue::from_str(&key.root_key_crn) else { return };
    headers.insert(ENABLED, HeaderValue::from_static("true"));
    headers.insert(CRK_ID, crn.clone());
    headers.insert(CUSTOMER_ROOT_KEY_CRN, crn);
}

fn text(headers: &HeaderMap, name: &str) -> Result<Option<String>> {
    let mut values = headers.get_all(name).iter();
    let Some(value) = values.next() else { return Ok(None) };
    match (value.to_str(), values.next()) {
        (Ok(value), None) => Ok(Some(value.trim().to_owned())),
        _ => Err(Error::invalid_argument(format!("the header {name} is not valid"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(pairs: &[(&'static str, &'static str)]) -> HeaderMap {
        pairs
            .iter()
            .map(|(name, value)| (http::HeaderName::from_static(name), HeaderValue::from_static(value)))
            .collect()
    }

    #[test]
    fn both_key_headers_or_none() {
        assert_eq!(root_key_of_new_bucket(&headers(&[])).unwrap(), None);
        for algorithm in ["AES256", "\"AES256\""] {
            let both = headers(&[(ALGORITHM, algorithm), (CUSTOMER_ROOT_KEY_CRN, "crn:v1")]);
            assert_eq!(root_key_of_new_bucket(&both).unwrap().as_deref(), Some("crn:v1"));
        }
        for bad in [
            &[(ALGORITHM, "AES256")][..],
            &[(CUSTOMER_ROOT_KEY_CRN, "crn")],
            &[(ALGORITHM, "AES128"), (CUSTOMER_ROOT_KEY_CRN, "crn")],
            &[(ALGORITHM, "AES256"), (CUSTOMER_ROOT_KEY_CRN, "crn"), (CUSTOMER_ROOT_KEY_CRN, "two")],
        ] {
            let mut map = HeaderMap::new();
            bad.iter().for_each(|(name, value)| {
                map.append(*name, HeaderValue::from_static(value));
            });
            assert_eq!(root_key_of_new_bucket(&map).unwrap_err().status, 400);
        }
    }

    #[test]
    fn instance_as_guid_or_crn() {
        let own = "11111111-2222-3333-4444-555555555555";
        for good in [
            own,
            "crn:v1:bluemix:public:cloud-object-storage:global:a/acct:11111111-2222-3333-4444-555555555555::",
        ] {
            assert!(check_service_instance(&headers(&[(SERVICE_INSTANCE, good)]), own).is_ok());
        }
        assert!(check_service_instance(&headers(&[]), own).is_ok());
        assert_eq!(
            check_service_instance(&headers(&[(SERVICE_INSTANCE, "other")]), own).unwrap_err().status,
            403
        );
    }
}
