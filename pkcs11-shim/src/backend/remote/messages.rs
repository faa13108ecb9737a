//! The library's words as messages, and back.

use std::collections::HashMap;

use bytes::Bytes;
use cryptoki_sys::CKZ_DATA_SPECIFIED;
use hsm_emulator::units::mechanism::kdf::{Number, Salt, Segment};
use hsm_emulator::units::mechanism::{Mechanism, OtherKey, Parameter};
use hsm_emulator::units::{Attributes, KeyBlob, Result};
use hsm_proto::grep11 as wire;
use hsm_proto::grep11::attribute_value::OneAttr;
use hsm_proto::grep11::hkdf_parm::Salt as WireSalt;
use hsm_proto::grep11::mechanism::Parameter as WireParameter;
use hsm_proto::grep11::sp800108_segment::Segment as WireSegment;
use hsm_proto::tokens as proto;

use crate::attribute_kinds::{Representation, representation};
use crate::backend::{Grant, Token, User};

/// A mechanism.
pub fn mechanism(mechanism: &Mechanism) -> Option<wire::Mechanism> {
    let copy = |bytes: &[u8]| Bytes::copy_from_slice(bytes);
    let parameter = match &mechanism.parameter {
        Parameter::None => None,
        Parameter::Bytes(bytes) => Some(WireParameter::ParameterB(copy(bytes))),
        Parameter::Number(number) => Some(WireParameter::NumberParameter(*number)),
        Parameter::Key(key) => Some(WireParameter::KeyParameter(other_key(key))),
        Parameter::Ccm { data_len, nonce, aad, tag_bytes } => {
            Some(WireParameter::AesccmParameter(wire::AesccmParm {
                data_byte_count: *data_len,
                nonce: copy(nonce),
                aad: copy(aad),
                tag_byte_count: *tag_bytes,
            }))
        }
        Parameter::Hkdf(hkdf) => Some(WireParameter::HkdfParameter(wire::HkdfParm {
            extract: hkdf.extract,
            expand: hkdf.expand,
            hash_mech: hkdf.digest,
            info: copy(&hkdf.info),
            salt: match &hkdf.salt {
                Salt::Null => None,
                Salt::Data(bytes) => Some(WireSalt::SaltData(copy(bytes))),
                Salt::Key(key) => Some(WireSalt::SaltKey(other_key(key))),
            },
        })),
        Parameter::Sp800108(kdf) => Some(WireParameter::Sp800108Parameter(wire::Sp800108Parm {
            prf: kdf.prf,
            segments: kdf.segments.iter().map(segment).collect(),
            iv: copy(&kdf.iv),
        })),
        Parameter::Pbkdf2(pbkdf2) => Some(WireParameter::Pbkdf2Parameter(wire::Pbkdf2Parm {
            prf: pbkdf2.prf,
            salt: copy(&pbkdf2.salt),
            iterations: pbkdf2.iterations,
            password: super::secret(pbkdf2.password.expose_secret()),
        })),
        Parameter::SignContext { hedge, context } => {
            let context = copy(context);
            Some(WireParameter::SignContextParameter(wire::SignContextParm { hedge: *hedge, context }))
        }
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
        Parameter::Oaep { digest, mgf, label } => {
            Some(WireParameter::RsaoaepParameter(oaep(*digest, *mgf, label)))
        }
        Parameter::RsaAes { aes_bits, digest, mgf, label } => {
            let oaep = Some(oaep(*digest, *mgf, label));
            Some(WireParameter::RsaaesParameter(wire::RsaaesParm { aes_bits: *aes_bits, oaep }))
        }
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

/// A key within a parameter. A handle, which is nobody's key on the wire, is refused as an empty blob.
fn other_key(key: &OtherKey) -> Bytes {
    match key {
        OtherKey::Blob(blob) => bytes(blob),
        OtherKey::Handle(_) => Bytes::new(),
    }
}

fn segment(segment: &Segment) -> wire::Sp800108Segment {
    let number =
        |number: &Number| wire::Sp800108Number { little_endian: number.little_endian, bits: number.bits };
    let segment = match segment {
        Segment::Iteration => WireSegment::Iteration(true),
        Segment::Counter(counter) => WireSegment::Counter(number(counter)),
        Segment::Length { whole_blocks: false, number: length } => WireSegment::KeyLength(number(length)),
        Segment::Length { whole_blocks: true, number: length } => WireSegment::BlocksLength(number(length)),
        Segment::Bytes(bytes) => WireSegment::Data(Bytes::copy_from_slice(bytes)),
        Segment::Key(key) => WireSegment::Key(other_key(key)),
    };
    wire::Sp800108Segment { segment: Some(segment) }
}

fn oaep(digest: u64, mgf: u64, label: &[u8]) -> wire::RsaoaepParm {
    wire::RsaoaepParm {
        hash_mech: digest,
        mgf: mask(mgf),
        encoding_parm_type: if label.is_empty() { 0 } else { CKZ_DATA_SPECIFIED as i32 },
        encoding_parm: Bytes::copy_from_slice(label),
    }
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
                (_, value) => OneAttr::AttributeB(super::secret(value)),
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
    grant.map_or_else(Bytes::new, |grant| super::secret(&grant.0))
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
