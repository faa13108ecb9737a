//! GREP11's calls: unary for its own clients (`grep11.Crypto`), and on the stream of the PKCS #11 library.

use std::sync::Arc;

use bytes::Bytes;
use cryptoki_sys::{CKA_CHECK_VALUE, CKA_VALUE_LEN, CKM_SLH_DSA, CKR_ARGUMENTS_BAD, CKR_FUNCTION_FAILED};
use hsm_proto::grep11 as wire;
use hsm_proto::grep11::attribute_value::OneAttr;
use prost::Message;
use tokio::sync::Semaphore;
use tonic::{Code, Request, Response, Status};
use tonic_types::pb;
use zeroize::Zeroizing;

use super::grep11::{MAX_ATTRIBUTES, attributes, blob, bytes, error, key, key_message, mechanism};
use crate::services::region::Region;
use crate::services::storage::{is_about_master_key, is_of_unit};
use crate::units::{CryptoUnit, Error, KeyBlob, Result, random};

/// A call that is complete in itself.
pub trait Call {
    /// Its answer.
    type Answer;
    /// How it is to be run.
    const KIND: Kind;

    /// Carries it out in a unit.
    ///
    /// # Errors
    /// The unit's, and `CKR_ARGUMENTS_BAD` for a request that makes no sense.
    fn carry_out(&self, unit: &CryptoUnit) -> Result<Self::Answer>;
}

/// How a call is to be run.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// At once.
    Quick,
    /// So that it does not hold up others.
    Slow,
    /// The same; and its answer is sealed, and the caller's to keep.
    Sealing,
    /// The same, under the master key to come.
    Rewrapping,
}

impl Call for wire::GenerateRandomRequest {
    type Answer = wire::GenerateRandomResponse;
    const KIND: Kind = Kind::Quick;

    fn carry_out(&self, _: &CryptoUnit) -> Result<Self::Answer> {
        if !(1..=MAX_RANDOM_BYTES).contains(&self.len) {
            return Err(Error::new(CKR_ARGUMENTS_BAD, "1 to 1,000,000 random bytes may be asked for"));
        }
        // It may become a key.
        let mut rnd = Zeroizing::new(vec![0; self.len as usize]);
        random::fill(&mut rnd)?;
        Ok(wire::GenerateRandomResponse { rnd: Bytes::from_owner(rnd) })
    }
}

impl Call for wire::EncryptSingleRequest {
    type Answer = wire::EncryptSingleResponse;
    const KIND: Kind = Kind::Quick;

    fn carry_out(&self, unit: &CryptoUnit) -> Result<Self::Answer> {
        let ciphered =
            unit.encrypt(&mechanism(self.mech.as_ref())?, &key(self.key.as_ref())?, &self.plain)?.into();
        Ok(wire::EncryptSingleResponse { ciphered })
    }
}

impl Call for wire::DecryptSingleRequest {
    type Answer = wire::DecryptSingleResponse;
    const KIND: Kind = Kind::Quick;

    fn carry_out(&self, unit: &CryptoUnit) -> Result<Self::Answer> {
        let plain =
            unit.decrypt(&mechanism(self.mech.as_ref())?, &key(self.key.as_ref())?, &self.ciphered)?;
        Ok(wire::DecryptSingleResponse { plain: Bytes::from_owner(plain) })
    }
}

impl Call for wire::SignSingleRequest {
    type Answer = wire::SignSingleResponse;
    const KIND: Kind = Kind::Quick;

    fn carry_out(&self, unit: &CryptoUnit) -> Result<Self::Answer> {
        let signature =
            unit.sign(&mechanism(self.mech.as_ref())?, &key(self.priv_key.as_ref())?, &self.data)?.into();
        Ok(wire::SignSingleResponse { signature })
    }
}

impl Call for wire::VerifySingleRequest {
    type Answer = wire::VerifySingleResponse;
    const KIND: Kind = Kind::Quick;

    fn carry_out(&self, unit: &CryptoUnit) -> Result<Self::Answer> {
        unit.verify(
            &mechanism(self.mech.as_ref())?,
            &key(self.pub_key.as_ref())?,
            &self.data,
            &self.signature,
        )?;
        Ok(wire::VerifySingleResponse {})
    }
}

impl Call for wire::GenerateKeyRequest {
    type Answer = wire::GenerateKeyResponse;
    const KIND: Kind = Kind::Sealing;

    fn carry_out(&self, unit: &CryptoUnit) -> Result<Self::Answer> {
        let made = unit.generate_key(&mechanism(self.mech.as_ref())?, &attributes(&self.template)?)?;
        Ok(wire::GenerateKeyResponse {
            key_bytes: bytes(&made),
            check_sum: check_sum(&made)?,
            key: Some(key_message(&made)),
        })
    }
}

impl Call for wire::GenerateKeyPairRequest {
    type Answer = wire::GenerateKeyPairResponse;
    const KIND: Kind = Kind::Sealing;

    fn carry_out(&self, unit: &CryptoUnit) -> Result<Self::Answer> {
        let (public, private) = (attributes(&self.pub_key_template)?, attributes(&self.priv_key_template)?);
        let (public, private) = unit.generate_key_pair(&mechanism(self.mech.as_ref())?, &public, &private)?;
        Ok(wire::GenerateKeyPairResponse {
            priv_key_bytes: bytes(&private),
            pub_key_bytes: bytes(&public),
            priv_key: Some(key_message(&private)),
            pub_key: Some(key_message(&public)),
        })
    }
}

impl Call for wire::WrapKeyRequest {
    type Answer = wire::WrapKeyResponse;
    const KIND: Kind = Kind::Slow;

    fn carry_out(&self, unit: &CryptoUnit) -> Result<Self::Answer> {
        let wrapped = unit
            .wrap_key(&mechanism(self.mech.as_ref())?, &key(self.ke_k.as_ref())?, &key(self.key.as_ref())?)?
            .into();
        Ok(wire::WrapKeyResponse { wrapped })
    }
}

impl Call for wire::UnwrapKeyRequest {
    type Answer = wire::UnwrapKeyResponse;
    const KIND: Kind = Kind::Sealing;

    fn carry_out(&self, unit: &CryptoUnit) -> Result<Self::Answer> {
        let (mechanism, template) = (mechanism(self.mech.as_ref())?, attributes(&self.template)?);
        let made = unit.unwrap_key(&mechanism, &key(self.ke_k.as_ref())?, &self.wrapped, &template)?;
        Ok(wire::UnwrapKeyResponse {
            unwrapped_bytes: bytes(&made),
            check_sum: check_sum(&made)?,
            unwrapped: Some(key_message(&made)),
        })
    }
}

impl Call for wire::DeriveKeyRequest {
    type Answer = wire::DeriveKeyResponse;
    const KIND: Kind = Kind::Sealing;

    fn carry_out(&self, unit: &CryptoUnit) -> Result<Self::Answer> {
        let (mechanism, template) = (mechanism(self.mech.as_ref())?, attributes(&self.template)?);
        let made = unit.derive_key(&mechanism, &key(self.base_key.as_ref())?, &template)?;
        Ok(wire::DeriveKeyResponse {
            new_key_bytes: bytes(&made),
            check_sum: check_sum(&made)?,
            new_key: Some(key_message(&made)),
        })
    }
}

impl Call for wire::GetAttributeValueRequest {
    type Answer = wire::GetAttributeValueResponse;
    const KIND: Kind = Kind::Slow;

    fn carry_out(&self, unit: &CryptoUnit) -> Result<Self::Answer> {
        let object = blob(&self.object)?;
        if self.attributes.len() > MAX_ATTRIBUTES {
            return Err(Error::new(CKR_ARGUMENTS_BAD, "at most 128 attributes may be asked for"));
        }
        let values = self.attributes.keys().map(|&kind| {
            let value = Bytes::from_owner(unit.attribute(&object, kind)?);
            Ok((kind, wire::AttributeValue { one_attr: Some(OneAttr::AttributeB(value)) }))
        });
        Ok(wire::GetAttributeValueResponse { attributes: values.collect::<Result<_>>()? })
    }
}

impl Call for wire::SetAttributeValueRequest {
    type Answer = wire::SetAttributeValueResponse;
    const KIND: Kind = Kind::Sealing;

    fn carry_out(&self, unit: &CryptoUnit) -> Result<Self::Answer> {
        let changed = unit.change_object(&blob(&self.object)?, &attributes(&self.attributes)?, false)?;
        Ok(wire::SetAttributeValueResponse { object: bytes(&changed) })
    }
}

impl Call for wire::RewrapKeyBlobRequest {
    type Answer = wire::RewrapKeyBlobResponse;
    const KIND: Kind = Kind::Rewrapping;

    fn carry_out(&self, unit: &CryptoUnit) -> Result<Self::Answer> {
        let old = match &self.wrapped_key {
            Some(message) => key(Some(message))?,
            None => blob(&self.wrapped_key_bytes)?,
        };
        let new = unit.rewrap_object(&old)?;
        Ok(wire::RewrapKeyBlobResponse {
            rewrapped_key_bytes: bytes(&new),
            rewrapped_key: Some(key_message(&new)),
        })
    }
}

/// Three bytes of check value and four of the length in bits; nothing for other keys than secret ones.
fn check_sum(key: &KeyBlob) -> Result<Bytes> {
    let attributes = key.attributes()?;
    let (Some(check_value), Some(len)) = (attributes.get(CKA_CHECK_VALUE), attributes.ulong(CKA_VALUE_LEN))
    else {
        return Ok(Bytes::new());
    };
    Ok([check_value, &(len as u32 * 8).to_be_bytes()].concat().into())
}

/// `grep11.Crypto`.
#[derive(Clone)]
pub struct CryptoService {
    region: Arc<Region>,
    slow: Arc<SlowCalls>,
}

impl CryptoService {
    /// In this region.
    pub fn new(region: Arc<Region>) -> Self {
        Self { region, slow: Arc::default() }
    }

    fn answer<C: Call + Message>(&self, call: Request<C>) -> Result<Response<C::Answer>, Status> {
        let call = call.into_inner();
        if C::KIND == Kind::Quick
            && let Some(unit) = quick_unit(&self.region, is_small(&call))
        {
            match call.carry_out(&unit) {
                Err(error) if may_go_elsewhere(&self.region, &error) => {}
                outcome => return outcome.map(Response::new).map_err(|error| status(&error)),
            }
        }
        let region = &self.region;
        let answer = self.slow.run(|| match C::KIND {
            Kind::Sealing => region.patiently(|| region.seal_for_caller(|unit| call.carry_out(unit))),
            Kind::Rewrapping => {
                region.with_another_unit(is_of_unit, || call.carry_out(&*region.rewrapping_unit()?))
            }
            Kind::Quick | Kind::Slow => {
                region.patiently(|| region.with_another_unit(is_of_unit, || call.carry_out(&*region.unit()?)))
            }
        });
        answer.map(Response::new).map_err(|error| status(&error))
    }
}

/// Is it a call with so few data that it's soon done?
pub fn is_small(call: &impl Message) -> bool {
    call.encoded_len() <= QUICK_BYTES
}

/// A unit that soon carries a small call out: other connections of the same worker wait for it.
pub fn quick_unit(region: &Region, is_small: bool) -> Option<Arc<CryptoUnit>> {
    is_small.then(|| region.serving_unit()).flatten().filter(|unit| !unit.is_slow())
}

/// Can another unit, or the same one in a moment, do what one has failed at?
pub fn may_go_elsewhere(region: &Region, error: &Error) -> bool {
    is_of_unit(error) || (is_about_master_key(error) && region.settles())
}

/// SLH-DSA signs for seconds, with some parameter sets.
pub fn is_slow_signature(mechanism: Option<&wire::Mechanism>) -> bool {
    mechanism.is_some_and(|mechanism| mechanism.mechanism == CKM_SLH_DSA)
}

/// Calls that take so long that others must not wait for them: key generation, PINs, the disk, a search for the
/// master key. So many at the same time. (One that waits for the disk alone may run by
/// [`wait_for_one_connection`](crate::edge::workers::wait_for_one_connection).)
pub struct SlowCalls(Semaphore);

impl Default for SlowCalls {
    fn default() -> Self {
        Self(Semaphore::new(MAX_SLOW_CALLS))
    }
}

impl SlowCalls {
    /// Runs one, for a caller who may send any number: more than are run are refused, not queued.
    ///
    /// # Errors
    /// `CKR_FUNCTION_FAILED` if there are too many, and its own.
    pub fn run<T>(&self, call: impl FnOnce() -> Result<T>) -> Result<T> {
        let _permit = self.0.try_acquire().map_err(|_| {
            Error::passing(CKR_FUNCTION_FAILED, "too many slow calls at the same time; try again")
        })?;
        tokio::task::block_in_place(call)
    }

    /// Runs one when it is its turn, for a caller who has one call at a time.
    ///
    /// # Errors
    /// Its own.
    pub async fn run_in_turn<T>(&self, call: impl FnOnce() -> Result<T>) -> Result<T> {
        let _permit =
            self.0.acquire().await.map_err(|_| Error::passing(CKR_FUNCTION_FAILED, "the HSM stops"))?;
        tokio::task::block_in_place(call)
    }
}

/// As GREP11's clients expect it: exactly one detail, and the same code in it as outside.
fn status(refusal: &Error) -> Status {
    let detail = prost_types::Any {
        type_url: "type.googleapis.com/grep11.Grep11Error".to_owned(),
        value: error(refusal).encode_to_vec(),
    };
    let message = refusal.to_string();
    let status = pb::Status { code: Code::Unknown.into(), message: message.clone(), details: vec![detail] };
    Status::with_details(Code::Unknown, message, status.encode_to_vec().into())
}

/// Methods that hand their request to [`CryptoService::answer`].
macro_rules! calls {
    ($($name:ident($request:ident) -> $response:ident;)*) => {
        #[tonic::async_trait]
        impl wire::crypto_server::Crypto for CryptoService {
            $(async fn $name(
                &self,
                request: Request<wire::$request>,
            ) -> Result<Response<wire::$response>, Status> {
                self.answer(request)
            })*
        }
    };
}

calls! {
    generate_random(GenerateRandomRequest) -> GenerateRandomResponse;
    encrypt_single(EncryptSingleRequest) -> EncryptSingleResponse;
    decrypt_single(DecryptSingleRequest) -> DecryptSingleResponse;
    sign_single(SignSingleRequest) -> SignSingleResponse;
    verify_single(VerifySingleRequest) -> VerifySingleResponse;
    generate_key(GenerateKeyRequest) -> GenerateKeyResponse;
    generate_key_pair(GenerateKeyPairRequest) -> GenerateKeyPairResponse;
    wrap_key(WrapKeyRequest) -> WrapKeyResponse;
    unwrap_key(UnwrapKeyRequest) -> UnwrapKeyResponse;
    derive_key(DeriveKeyRequest) -> DeriveKeyResponse;
    get_attribute_value(GetAttributeValueRequest) -> GetAttributeValueResponse;
    set_attribute_value(SetAttributeValueRequest) -> SetAttributeValueResponse;
    rewrap_key_blob(RewrapKeyBlobRequest) -> RewrapKeyBlobResponse;
}

const MAX_RANDOM_BYTES: u64 = 1_000_000;
/// Triple DES takes two milliseconds for so many.
const QUICK_BYTES: usize = 64 << 10;
const MAX_SLOW_CALLS: usize = 128;
