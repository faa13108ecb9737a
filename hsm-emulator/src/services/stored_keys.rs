//! Where sealed blobs lie in the keystore: the one place that knows all of them, for re-encryption.

use std::collections::HashMap;

use aws_lc_rs::digest::{SHA256, digest};
use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use serde_json::Value;
use subtle::ConstantTimeEq;

use crate::keystore::Record;
use crate::units::{Error, KeyBlob, Result, Rotation, VerificationPattern, Verifier, vendor};

/// Root keys: JSON with the blobs of their versions, in base64.
pub const ROOT_KEY: &str = "root-key";
/// Tokens: JSON with two sealed PIN records, in base64.
pub const TOKEN: &str = "token";
/// Token objects, under `object/<serial of the token>`: a blob, and its 32-byte binding to the place.
pub const OBJECT_OF: &str = "object/";

/// What becomes of the sealed values of a record: by the hexadecimal digest of the old bytes, the new ones in
/// base64. A value that no master key at hand opens has none, and stays as it is.
pub type Replacements = HashMap<String, Option<String>>;

/// The kind under which a token's objects are stored.
pub fn objects_of(serial: &str) -> String {
    format!("{OBJECT_OF}{serial}")
}

/// Does a record of this kind hold sealed values?
pub fn is_sealed(kind: &str) -> bool {
    kind == ROOT_KEY || kind == TOKEN || kind.starts_with(OBJECT_OF)
}

/// The sealed values in a record. What should be one and is damaged counts as one that cannot be opened.
pub fn sealed_values(record: &Record) -> Vec<Vec<u8>> {
    match json(record) {
        Some(mut json) => texts(&record.kind, &mut json).into_iter().map(|text| value(text)).collect(),
        None => vec![record.body.clone()],
    }
}

/// Re-encrypts the sealed values of a record.
///
/// # Errors
/// The unit's own; a damaged value is none of them.
pub fn reencrypt(rotation: &Rotation, record: &Record) -> Result<Replacements> {
    let mut replacements = Replacements::new();
    for old in sealed_values(record) {
        let new = match record.kind.strip_prefix(OBJECT_OF) {
            Some(serial) => reencrypt_object(rotation, serial, record, &old),
            None => KeyBlob::parse(&old).and_then(|blob| Ok(rotation.rewrap(&blob)?.as_bytes().to_vec())),
        };
        let new = match new {
            Ok(new) => Some(BASE64.encode(new)),
            Err(error) if is_about_value(&error) => {
                tracing::error!(%error, kind = record.kind, id = record.id, "a stored key is left as it is");
                None
            }
            Err(error) => return Err(error),
        };
        replacements.insert(fingerprint(&old), new);
    }
    Ok(replacements)
}

fn reencrypt_object(rotation: &Rotation, serial: &str, record: &Record, old: &[u8]) -> Result<Vec<u8>> {
    let moved = || Error::new(vendor::CKR_IBM_BLOBKEY_CONFLICT, "the stored object was altered or moved");
    let id = hex::decode(&record.id).map_err(|_| moved())?;
    let place = [serial.as_bytes(), &id];
    let (blob, binding) = old.split_last_chunk::<32>().ok_or_else(moved)?;
    let blob = KeyBlob::parse(blob)?;
    let new = rotation.rewrap(&blob)?;
    if !bool::from(rotation.old_binding(&place, &blob).ct_eq(binding)) {
        return Err(moved());
    }
    Ok([new.as_bytes(), &rotation.new_binding(&place, &new)].concat())
}

/// Is it the value's fault? With both master keys at hand, what they do not open is damaged, or was under
/// another one before.
fn is_about_value(error: &Error) -> bool {
    matches!(error.code, vendor::CKR_IBM_BLOBKEY_CONFLICT | vendor::CKR_IBM_WKID_MISMATCH)
}

/// Is this new value of a record under the master key with this pattern, and, as far as `verifier` can tell, whole?
/// A value that stays is under none.
pub fn is_good(
    pattern: &VerificationPattern,
    verifier: Option<&Verifier>,
    record: &Record,
    new: &str,
) -> bool {
    let Ok(new) = BASE64.decode(new) else { return false };
    let place = record.kind.strip_prefix(OBJECT_OF);
    let (blob, binding) = match place {
        Some(_) => match new.split_last_chunk::<32>() {
            Some((blob, binding)) => (blob, Some(binding)),
            None => return false,
        },
        None => (new.as_slice(), None),
    };
    let Ok(blob) = KeyBlob::parse(blob) else { return false };
    if blob.wrapping_key_id() != pattern.wrapping_key_id() {
        return false;
    }
    let Some(verifier) = verifier else { return true };
    let is_bound = |serial: &str, binding: &[u8; 32]| {
        let id = hex::decode(&record.id);
        id.is_ok_and(|id| bool::from(verifier.binding(&[serial.as_bytes(), &id], &blob).ct_eq(binding)))
    };
    let is_in_place = place.zip(binding).is_none_or(|(serial, binding)| is_bound(serial, binding));
    is_in_place && verifier.opens(&blob)
}

/// Lets the values stay that have no replacement.
pub fn keep_others(record: &Record, replacements: &mut Replacements) {
    for old in sealed_values(record) {
        replacements.entry(fingerprint(&old)).or_insert(None);
    }
}

/// The record's body with its sealed values replaced; `None` if one is not among the replacements.
pub fn replace(record: &Record, replacements: &Replacements) -> Option<Vec<u8>> {
    let Some(mut json) = json(record) else {
        return match replacements.get(&fingerprint(&record.body))? {
            Some(new) => BASE64.decode(new).ok(),
            None => Some(record.body.clone()),
        };
    };
    for text in texts(&record.kind, &mut json) {
        if let Some(new) = replacements.get(&fingerprint(&value(text)))? {
            *text = Value::String(new.clone());
        }
    }
    serde_json::to_vec(&json).ok()
}

/// The record's JSON; `None` if the whole of it is one value.
fn json(record: &Record) -> Option<Value> {
    if record.kind.starts_with(OBJECT_OF) {
        return None;
    }
    serde_json::from_slice(&record.body).ok()
}

/// The JSON strings that hold sealed values.
fn texts<'a>(kind: &str, json: &'a mut Value) -> Vec<&'a mut Value> {
    if kind == ROOT_KEY {
        let versions = json.get_mut("versions").and_then(Value::as_array_mut);
        return versions.into_iter().flatten().filter_map(|version| version.get_mut("blob")).collect();
    }
    let Some(token) = json.as_object_mut() else { return Vec::new() };
    token
        .iter_mut()
        .filter(|(name, _)| matches!(name.as_str(), "so" | "user"))
        .filter_map(|(_, pin)| pin.get_mut("record"))
        .collect()
}

/// A sealed value; the text itself if it is not in base64.
fn value(text: &Value) -> Vec<u8> {
    let text = text.as_str().unwrap_or_default();
    BASE64.decode(text).unwrap_or_else(|_| text.as_bytes().to_vec())
}

fn fingerprint(value: &[u8]) -> String {
    hex::encode(digest(&SHA256, value))
}
