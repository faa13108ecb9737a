//! GREP11's messages in the units' words.

use std::collections::HashMap;

use bytes::Bytes;
use cryptoki_sys::{CKA_PUBLIC_EXPONENT, CKR_ARGUMENTS_BAD, CKR_MECHANISM_PARAM_INVALID};
use hsm_proto::grep11 as wire;
use hsm_proto::grep11::attribute_value::OneAttr;
use hsm_proto::grep11::mechanism::Parameter as WireParameter;

use crate::units::mechanism::{Mechanism, Parameter};
use crate::units::{Attributes, Error, KeyBlob, Result, vendor};

/// A mechanism with its parameter.
///
/// # Errors
/// `CKR_ARGUMENTS_BAD` if it is missing, `CKR_MECHANISM_PARAM_INVALID`.
pub fn mechanism(message: Option<&wire::Mechanism>) -> Result<Mechanism> {
    let message = message.ok_or_else(|| Error::new(CKR_ARGUMENTS_BAD, "the mechanism is missing"))?;
    let parameter = match &message.parameter {
        None => Parameter::None,
        Some(WireParameter::ParameterB(bytes)) => Parameter::Bytes(bytes.to_vec()),
        Some(WireParameter::RsaoaepParameter(p)) => {
            Parameter::Oaep { digest: p.hash_mech, mgf: mgf(p.mgf), label: p.encoding_parm.to_vec() }
        }
        Some(WireParameter::RsapssParameter(p)) => {
            Parameter::Pss { digest: p.hash_mech, mgf: mgf(p.mgf), salt_len: p.salt_byte_count }
        }
        Some(WireParameter::Ecdh1DeriveParameter(p)) => Parameter::Ecdh1 {
            kdf: p.kdf,
            shared_data: p.shared_data.to_vec(),
            public_data: p.public_data.to_vec(),
        },
        Some(WireParameter::AesgcmParameter(p)) => {
            Parameter::Gcm { iv: p.iv.to_vec(), aad: p.aad.to_vec(), tag_bits: p.tag_bits }
        }
        Some(WireParameter::AesctrParameter(p)) => Parameter::Ctr {
            counter_bits: p.counter_bits,
            counter_block: p
                .counter_block
                .as_ref()
                .try_into()
                .map_err(|_| Error::new(CKR_MECHANISM_PARAM_INVALID, "a counter block has 16 bytes"))?,
        },
    };
    Ok(Mechanism { kind: message.mechanism, parameter })
}

/// `CKG_MGF1_*` has the same numbers on the wire as in PKCS #11; 0 is refused with the mechanism.
fn mgf(mask: i32) -> u64 {
    u64::try_from(mask).unwrap_or(0)
}

/// A template.
///
/// # Errors
/// `CKR_ARGUMENTS_BAD` if it is longer than any object has attributes.
pub fn attributes(template: &HashMap<u64, wire::AttributeValue>) -> Result<Attributes> {
    if template.len() > MAX_ATTRIBUTES {
        return Err(Error::new(CKR_ARGUMENTS_BAD, "a template has at most 128 attributes"));
    }
    let value = |kind: u64, value: &wire::AttributeValue| match &value.one_attr {
        Some(OneAttr::AttributeB(bytes)) => bytes.to_vec(),
        Some(OneAttr::AttributeTf(flag)) => vec![u8::from(*flag)],
        // A big integer (PKCS #11 v3.1 section 2.1.2), as IBM's clients send it.
        Some(OneAttr::AttributeI(number)) if kind == CKA_PUBLIC_EXPONENT => {
            number.to_be_bytes().into_iter().skip_while(|byte| *byte == 0).collect()
        }
        Some(OneAttr::AttributeI(number)) => number.to_le_bytes().to_vec(),
        None => Vec::new(),
    };
    Ok(template.iter().map(|(kind, found)| (*kind, value(*kind, found))).collect())
}

/// The key of a request.
///
/// # Errors
/// `CKR_IBM_BLOBKEY_CONFLICT` if it is missing or no blob.
pub fn key(message: Option<&wire::KeyBlob>) -> Result<KeyBlob> {
    let bytes = message.and_then(|blob| blob.key_blobs.first());
    blob(bytes.ok_or_else(|| Error::new(vendor::CKR_IBM_BLOBKEY_CONFLICT, "the key is missing"))?)
}

/// A blob.
///
/// # Errors
/// `CKR_IBM_BLOBKEY_CONFLICT`.
pub fn blob(bytes: &Bytes) -> Result<KeyBlob> {
    KeyBlob::parse(bytes)
}

/// The key of an answer.
pub fn key_message(blob: &KeyBlob) -> wire::KeyBlob {
    wire::KeyBlob { key_blobs: vec![bytes(blob)], ..wire::KeyBlob::default() }
}

/// A blob's bytes.
pub fn bytes(blob: &KeyBlob) -> Bytes {
    Bytes::copy_from_slice(blob.as_bytes())
}

/// A refusal.
pub fn error(error: &Error) -> wire::Grep11Error {
    wire::Grep11Error { code: error.code, detail: error.message.to_string(), retry: error.retry }
}

/// More than any object has.
pub const MAX_ATTRIBUTES: usize = 128;
