//! GREP11's messages in the units' words.

use std::collections::HashMap;

use bytes::Bytes;
use cryptoki_sys::{
    CK_OBJECT_CLASS, CKA_CLASS, CKA_PUBLIC_EXPONENT, CKR_ARGUMENTS_BAD, CKR_MECHANISM_PARAM_INVALID,
};
use hsm_proto::grep11 as wire;
use hsm_proto::grep11::attribute_value::OneAttr;
use hsm_proto::grep11::hkdf_parm::Salt as WireSalt;
use hsm_proto::grep11::mechanism::Parameter as WireParameter;
use hsm_proto::grep11::sp800108_segment::Segment as WireSegment;

use crate::units::mechanism::kdf::{Hkdf, Number, Pbkdf2, Salt, Segment, Sp800108};
use crate::units::mechanism::{Mechanism, OtherKey, Parameter, Secret};
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
        Some(WireParameter::NumberParameter(number)) => Parameter::Number(*number),
        Some(WireParameter::RsaaesParameter(p)) => {
            let oaep = p
                .oaep
                .as_ref()
                .ok_or_else(|| Error::new(CKR_MECHANISM_PARAM_INVALID, "the parameter of OAEP is missing"))?;
            let (digest, label) = (oaep.hash_mech, oaep.encoding_parm.to_vec());
            Parameter::RsaAes { aes_bits: p.aes_bits, digest, mgf: mgf(oaep.mgf), label }
        }
        Some(WireParameter::KeyParameter(bytes)) => Parameter::Key(OtherKey::Blob(blob(bytes)?)),
        Some(WireParameter::AesccmParameter(p)) => Parameter::Ccm {
            data_len: p.data_byte_count,
            nonce: p.nonce.to_vec(),
            aad: p.aad.to_vec(),
            tag_bytes: p.tag_byte_count,
        },
        Some(WireParameter::HkdfParameter(p)) => Parameter::Hkdf(hkdf(p)?),
        Some(WireParameter::Sp800108Parameter(p)) => Parameter::Sp800108(Sp800108 {
            prf: p.prf,
            segments: p.segments.iter().map(segment).collect::<Result<_>>()?,
            iv: p.iv.to_vec(),
        }),
        Some(WireParameter::Pbkdf2Parameter(p)) => Parameter::Pbkdf2(Pbkdf2 {
            prf: p.prf,
            salt: p.salt.to_vec(),
            iterations: p.iterations,
            password: Secret::new(&p.password),
        }),
        Some(WireParameter::SignContextParameter(p)) => {
            Parameter::SignContext { hedge: p.hedge, context: p.context.to_vec() }
        }
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

fn hkdf(message: &wire::HkdfParm) -> Result<Hkdf> {
    let salt = match &message.salt {
        None => Salt::Null,
        Some(WireSalt::SaltData(bytes)) => Salt::Data(bytes.to_vec()),
        Some(WireSalt::SaltKey(bytes)) => Salt::Key(OtherKey::Blob(blob(bytes)?)),
    };
    Ok(Hkdf {
        extract: message.extract,
        expand: message.expand,
        digest: message.hash_mech,
        salt,
        info: message.info.to_vec(),
    })
}

fn segment(message: &wire::Sp800108Segment) -> Result<Segment> {
    let number =
        |number: &wire::Sp800108Number| Number { little_endian: number.little_endian, bits: number.bits };
    Ok(match &message.segment {
        Some(WireSegment::Iteration(true)) => Segment::Iteration,
        Some(WireSegment::Counter(counter)) => Segment::Counter(number(counter)),
        Some(WireSegment::KeyLength(length)) => {
            Segment::Length { whole_blocks: false, number: number(length) }
        }
        Some(WireSegment::BlocksLength(length)) => {
            Segment::Length { whole_blocks: true, number: number(length) }
        }
        Some(WireSegment::Data(bytes)) => Segment::Bytes(bytes.to_vec()),
        Some(WireSegment::Key(bytes)) => Segment::Key(OtherKey::Blob(blob(bytes)?)),
        Some(WireSegment::Iteration(false)) | None => {
            return Err(Error::new(CKR_MECHANISM_PARAM_INVALID, "a segment of SP 800-108 is empty"));
        }
    })
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
    Ok(template.iter().map(|(kind, found)| (*kind, value(*kind, found))).collect())
}

fn value(kind: u64, value: &wire::AttributeValue) -> Vec<u8> {
    match &value.one_attr {
        Some(OneAttr::AttributeB(bytes)) => bytes.to_vec(),
        Some(OneAttr::AttributeTf(flag)) => vec![u8::from(*flag)],
        // A big integer (PKCS #11 v3.1 section 2.1.2), as IBM's clients send it.
        Some(OneAttr::AttributeI(number)) if kind == CKA_PUBLIC_EXPONENT => {
            number.to_be_bytes().into_iter().skip_while(|byte| *byte == 0).collect()
        }
        Some(OneAttr::AttributeI(number)) => number.to_le_bytes().to_vec(),
        None => Vec::new(),
    }
}

/// The class of object that a template wants.
pub fn class(template: &HashMap<u64, wire::AttributeValue>) -> Option<CK_OBJECT_CLASS> {
    let class = value(CKA_CLASS, template.get(&CKA_CLASS)?);
    class.try_into().ok().map(CK_OBJECT_CLASS::from_le_bytes)
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
