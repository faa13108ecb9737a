//! The library's words as messages, and back.

use std::collections::HashMap;

use bytes::Bytes;
use cryptoki_sys::CKZ_DATA_SPECIFIED;
use hsm_emulator::units::mechanism::{Mechanism, Parameter};
use hsm_emulator::units::{Attributes, KeyBlob, Result};
use hsm_proto::grep11 as wire;
use hsm_proto::grep11::attribute_value::OneAttr;
use hsm_proto::grep11::mechanism::Parameter as WireParameter;
use hsm_proto::tokens as proto;

use crate::attribute_kinds::{Representation, representation};
use crate::backend::{Grant, Token, User};

/// A mechanism.
pub fn mechanism(mechanism: &Mechanism) -> Option<wire::Mechanism> {
    let copy = |bytes: &[u8]| Bytes::copy_from_slice(bytes);
    let parameter = match &mechanism.parameter {
        Parameter::None => None,
        Parameter::Bytes(bytes) => Some(WireParameter::ParameterB(copy(bytes))),
        Parameter::Gcm { iv, aad, tag_bits } => Some(WireParameter::AesgcmParameter(wire::AesgcmParm {
            iv: copy(iv),
            aad: copy(aad),
            tag_bits: *tag_bits,
        })),
        Parameter::Ctr { counter_bits, counter_block } => {
            Some(WireParameter::AesctrParameter(wire::AesctrParm {
                counter_bits: *counter_bits,
                counter_block: copy(counter_block),
            }))
        }
        Parameter::Oaep { digest, mgf, label } => Some(WireParameter::RsaoaepParameter(wire::RsaoaepParm {
            hash_mech: *digest,
            mgf: mask(*mgf),
            encoding_parm_type: if label.is_empty() { 0 } else { CKZ_DATA_SPECIFIED as i32 },
            encoding_parm: copy(label),
        })),
        Parameter::Pss { digest, mgf, salt_len } => Some(WireParameter::RsapssParameter(wire::RsapssParm {
            hash_mech: *digest,
            mgf: mask(*mgf),
            salt_byte_count: *salt_len,
        })),
        Parameter::Ecdh1 { kdf, shared_data, public_data } => {
            Some(WireParameter::Ecdh1DeriveParameter(wire::Ecdh1DeriveParm {
                kdf: *kdf,
                shared_data: copy(shared_data),
                public_data: copy(public_data),
            }))
        }
    };
    Some(wire::Mechanism { mechanism: mechanism.kind, parameter })
}

/// A template, each value in the representation that its type has.
pub fn template(attributes: &Attributes) -> HashMap<u64, wire::AttributeValue> {
    attributes
        .iter()
        .map(|(kind, value)| {
            let one_attr = match (representation(kind), value) {
                (Representation::Bool, [byte]) => OneAttr::AttributeTf(*byte != 0),
                (Representation::Ulong, value) if value.len() == 8 => OneAttr::AttributeI(
                    value.first_chunk().copied().map(i64::from_le_bytes).unwrap_or_default(),
                ),
                (_, value) => OneAttr::AttributeB(Bytes::copy_from_slice(value)),
            };
            (kind, wire::AttributeValue { one_attr: Some(one_attr) })
        })
        .collect()
}

/// The bytes of a value of either representation.
pub fn value_bytes(value: &wire::AttributeValue) -> Option<Vec<u8>> {
    Some(match value.one_attr.as_ref()? {
        OneAttr::AttributeB(bytes) => bytes.to_vec(),
        OneAttr::AttributeTf(flag) => vec![u8::from(*flag)],
        OneAttr::AttributeI(number) => number.to_le_bytes().to_vec(),
    })
}

/// A key in a request.
pub fn key(blob: &KeyBlob) -> Option<wire::KeyBlob> {
    Some(wire::KeyBlob { key_blobs: vec![bytes(blob)], ..wire::KeyBlob::default() })
}

/// A blob's bytes.
pub fn bytes(blob: &KeyBlob) -> Bytes {
    Bytes::copy_from_slice(blob.as_bytes())
}

/// A key in an answer.
///
/// # Errors
/// `CKR_DEVICE_ERROR` if it's missing, the blob's own if it's none.
pub fn parse_key(message: Option<wire::KeyBlob>) -> Result<KeyBlob> {
    let bytes = message.and_then(|message| message.key_blobs.into_iter().next());
    KeyBlob::parse(&bytes.ok_or_else(super::unexpected)?)
}

/// A token.
pub fn token(message: proto::Token) -> Token {
    Token {
        serial: message.serial,
        label: message.label,
        user_pin_initialized: message.user_pin_initialized,
        user_pin_failures: message.user_pin_failures,
        so_pin_failures: message.so_pin_failures,
        max_pin_failures: message.max_pin_failures,
    }
}

/// A type of user.
pub fn user(user: User) -> i32 {
    match user {
        User::User => proto::User::User.into(),
        User::So => proto::User::So.into(),
    }
}

/// A grant; empty before login.
pub fn grant(grant: Option<&Grant>) -> Bytes {
    grant.map_or_else(Bytes::new, |grant| Bytes::copy_from_slice(&grant.0))
}

/// `CKG_MGF1_*` has the same numbers on the wire.
fn mask(mgf: u64) -> i32 {
    i32::try_from(mgf).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn templates_keep_their_values() {
        use cryptoki_sys::{CKA_CLASS, CKA_KEY_GEN_MECHANISM, CKA_LABEL, CKA_TOKEN, CKM_SHA_1};
        let attributes = Attributes::new()
            .with_bool(CKA_TOKEN, true)
            .with_ulong(CKA_CLASS, 3)
            .with_ulong(CKA_KEY_GEN_MECHANISM, u64::MAX)
            .with(CKA_LABEL, b"name".to_vec());
        let message = template(&attributes);
        for (kind, value) in attributes.iter() {
            assert_eq!(value_bytes(&message[&kind]).as_deref(), Some(value));
        }
        assert_eq!(mechanism(&Mechanism::plain(CKM_SHA_1)).map(|m| m.mechanism), Some(CKM_SHA_1));
    }
}
