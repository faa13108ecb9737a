//! `hsm.tokens.v1.Tokens`: the PKCS #11 library's stream, one for each of its calling threads.

use std::pin::Pin;
use std::sync::Arc;

use bytes::Bytes;
use cryptoki_sys::{CKR_ARGUMENTS_BAD, CKR_FUNCTION_FAILED};
use hsm_proto::grep11 as wire;
use hsm_proto::grep11::attribute_value::OneAttr;
use hsm_proto::tokens as proto;
use hsm_proto::tokens::request::Call;
use hsm_proto::tokens::response::Answer;
use tokio::sync::Semaphore;
use tokio_stream::{Stream, StreamExt};
use tonic::{Request, Response, Status, Streaming};

use super::grep11::{MAX_ATTRIBUTES, attributes, blob, bytes, error, key, key_message, mechanism};
use crate::services::region::Region;
use crate::services::tokens::{Grant, ObjectId, Token, Tokens, User};
use crate::units::{Error, Result, random};

/// The service.
#[derive(Clone)]
pub struct TokensService {
    region: Arc<Region>,
    tokens: Arc<Tokens>,
    /// Slow calls at the same time; more are refused, not queued.
    slow: Arc<Semaphore>,
}

impl TokensService {
    /// On these tokens.
    pub fn new(region: Arc<Region>, tokens: Arc<Tokens>) -> Self {
        Self { region, tokens, slow: Arc::new(Semaphore::new(MAX_SLOW_CALLS)) }
    }

    fn answer(&self, request: proto::Request) -> proto::Response {
        let call = request.call.ok_or_else(|| Error::new(CKR_ARGUMENTS_BAD, "the request is empty"));
        let answer = call.and_then(|call| {
            if !is_slow(&call) {
                return self.call(call);
            }
            // The disk, a PIN hash or a key generation would hold up the other calls of this thread.
            let _permit = self.slow.try_acquire().map_err(|_| {
                Error::new(CKR_FUNCTION_FAILED, "too many slow calls at the same time; try again")
            })?;
            tokio::task::block_in_place(|| self.call(call))
        });
        proto::Response { answer: Some(answer.unwrap_or_else(|e| Answer::Error(error(&e)))) }
    }

    fn call(&self, call: Call) -> Result<Answer> {
        let unit = self.region.unit()?;
        Ok(match call {
            Call::GenerateRandom(r) => {
                if !(1..=MAX_RANDOM_BYTES).contains(&r.len) {
                    return Err(Error::new(
                        CKR_ARGUMENTS_BAD,
                        "1 to 1,000,000 random bytes may be asked for",
                    ));
                }
                let mut rnd = vec![0; r.len as usize];
                random::fill(&mut rnd)?;
                Answer::GenerateRandom(wire::GenerateRandomResponse { rnd: rnd.into() })
            }
            Call::Encrypt(r) => {
                let ciphered = unit.encrypt(&mechanism(r.mech)?, &key(r.key)?, &r.plain)?.into();
                Answer::Encrypt(wire::EncryptSingleResponse { ciphered })
            }
            Call::Decrypt(r) => {
                let plain = unit.decrypt(&mechanism(r.mech)?, &key(r.key)?, &r.ciphered)?;
                Answer::Decrypt(wire::DecryptSingleResponse { plain: Bytes::from_owner(plain) })
            }
            Call::Sign(r) => {
                let signature = unit.sign(&mechanism(r.mech)?, &key(r.priv_key)?, &r.data)?.into();
                Answer::Sign(wire::SignSingleResponse { signature })
            }
            Call::Verify(r) => {
                unit.verify(&mechanism(r.mech)?, &key(r.pub_key)?, &r.data, &r.signature)?;
                Answer::Verify(wire::VerifySingleResponse {})
            }
            Call::GenerateKey(r) => {
                let made = unit.generate_key(&mechanism(r.mech)?, &attributes(r.template)?)?;
                let key = Some(key_message(&made));
                Answer::GenerateKey(wire::GenerateKeyResponse { key, ..Default::default() })
            }
            Call::GenerateKeyPair(r) => {
                let (public, private) = (attributes(r.pub_key_template)?, attributes(r.priv_key_template)?);
                let (public, private) = unit.generate_key_pair(&mechanism(r.mech)?, &public, &private)?;
                Answer::GenerateKeyPair(wire::GenerateKeyPairResponse {
                    priv_key: Some(key_message(&private)),
                    pub_key: Some(key_message(&public)),
                    ..Default::default()
                })
            }
            Call::WrapKey(r) => {
                let wrapped = unit.wrap_key(&mechanism(r.mech)?, &key(r.ke_k)?, &key(r.key)?)?.into();
                Answer::WrapKey(wire::WrapKeyResponse { wrapped })
            }
            Call::UnwrapKey(r) => {
                let template = attributes(r.template)?;
                let made = unit.unwrap_key(&mechanism(r.mech)?, &key(r.ke_k)?, &r.wrapped, &template)?;
                let unwrapped = Some(key_message(&made));
                Answer::UnwrapKey(wire::UnwrapKeyResponse { unwrapped, ..Default::default() })
            }
            Call::DeriveKey(r) => {
                let made =
                    unit.derive_key(&mechanism(r.mech)?, &key(r.base_key)?, &attributes(r.template)?)?;
                let new_key = Some(key_message(&made));
                Answer::DeriveKey(wire::DeriveKeyResponse { new_key, ..Default::default() })
            }
            Call::GetAttributeValue(r) => {
                let object = blob(&r.object)?;
                if r.attributes.len() > MAX_ATTRIBUTES {
                    return Err(Error::new(CKR_ARGUMENTS_BAD, "at most 128 attributes may be asked for"));
                }
                let values = r.attributes.into_keys().map(|kind| {
                    let value = Bytes::from_owner(unit.sealed_attribute(&object, kind)?);
                    Ok((kind, wire::AttributeValue { one_attr: Some(OneAttr::AttributeB(value)) }))
                });
                let attributes = values.collect::<Result<_>>()?;
                Answer::GetAttributeValue(wire::GetAttributeValueResponse { attributes })
            }
            Call::SetAttributeValue(r) => {
                let changed = unit.change_object(&blob(&r.object)?, &attributes(r.attributes)?, false)?;
                Answer::SetAttributeValue(wire::SetAttributeValueResponse { object: bytes(&changed) })
            }
            Call::CopyObject(r) => {
                let copy = unit.change_object(&blob(&r.object)?, &attributes(r.changes)?, true)?;
                Answer::CopyObject(proto::CopyObjectResponse { object: bytes(&copy) })
            }
            Call::CreateObject(r) => {
                let made = unit.create_object(&attributes(r.template)?)?;
                Answer::CreateObject(proto::CreateObjectResponse { object: bytes(&made) })
            }
            Call::ListTokens(_) => {
                let tokens = self.tokens.list()?.into_iter().map(token).collect();
                Answer::ListTokens(proto::ListTokensResponse { tokens })
            }
            Call::InitToken(r) => {
                let serial = (!r.serial.is_empty()).then_some(r.serial.as_str());
                Answer::InitToken(token(self.tokens.init(serial, &r.so_pin, &r.label)?))
            }
            Call::Login(r) => {
                let grant = self.tokens.login(&r.serial, user(r.user()), &r.pin)?.0.into();
                Answer::Login(proto::LoginResponse { grant })
            }
            Call::InitPin(r) => {
                self.tokens.init_pin(&Grant(r.grant.into()), &r.pin)?;
                Answer::InitPin(proto::InitPinResponse {})
            }
            Call::SetPin(r) => {
                self.tokens.set_pin(&r.serial, user(r.user()), &r.old_pin, &r.new_pin)?;
                Answer::SetPin(proto::SetPinResponse {})
            }
            Call::PutObject(r) => {
                let (grant, id) = (grant(r.grant), object_id(&r.id)?);
                let object = blob(&r.object)?;
                let replaces = (!r.replaces.is_empty()).then(|| blob(&r.replaces)).transpose()?;
                let revision =
                    self.tokens.put_object(&r.serial, grant.as_ref(), id, &object, replaces.as_ref())?;
                Answer::PutObject(proto::PutObjectResponse { revision })
            }
            Call::DeleteObject(r) => {
                let revision =
                    self.tokens.delete_object(&r.serial, grant(r.grant).as_ref(), object_id(&r.id)?)?;
                Answer::DeleteObject(proto::DeleteObjectResponse { revision })
            }
            Call::Changes(r) => {
                let changes = self.tokens.changes(&r.serial, grant(r.grant).as_ref(), r.since)?;
                Answer::Changes(proto::ChangesResponse {
                    revision: changes.revision,
                    more: changes.more,
                    stored: changes
                        .stored
                        .iter()
                        .map(|(id, object)| proto::StoredObject {
                            id: Bytes::copy_from_slice(id),
                            object: bytes(object),
                        })
                        .collect(),
                    deleted: changes.deleted.iter().map(|id| Bytes::copy_from_slice(id)).collect(),
                })
            }
        })
    }
}

#[tonic::async_trait]
impl proto::tokens_server::Tokens for TokensService {
    type OperateStream = Pin<Box<dyn Stream<Item = Result<proto::Response, Status>> + Send>>;

    async fn operate(
        &self,
        request: Request<Streaming<proto::Request>>,
    ) -> Result<Response<Self::OperateStream>, Status> {
        let service = self.clone();
        let answers = request.into_inner().map(move |request| request.map(|request| service.answer(request)));
        Ok(Response::new(Box::pin(answers)))
    }
}

fn is_slow(call: &Call) -> bool {
    !matches!(
        call,
        Call::GenerateRandom(_) | Call::Encrypt(_) | Call::Decrypt(_) | Call::Sign(_) | Call::Verify(_)
    )
}

fn user(user: proto::User) -> User {
    match user {
        proto::User::User => User::User,
        proto::User::So => User::So,
    }
}

fn grant(bytes: Bytes) -> Option<Grant> {
    (!bytes.is_empty()).then(|| Grant(bytes.into()))
}

fn object_id(bytes: &Bytes) -> Result<ObjectId> {
    bytes.as_ref().try_into().map_err(|_| Error::new(CKR_ARGUMENTS_BAD, "an object id has 16 bytes"))
}

fn token(token: Token) -> proto::Token {
    proto::Token {
        serial: token.serial,
        label: token.label,
        user_pin_initialized: token.user_pin_initialized,
        user_pin_failures: token.user_pin_failures,
        so_pin_failures: token.so_pin_failures,
        max_pin_failures: token.max_pin_failures,
    }
}

const MAX_RANDOM_BYTES: u64 = 1_000_000;
const MAX_SLOW_CALLS: usize = 128;
