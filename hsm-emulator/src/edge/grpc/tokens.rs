//! `hsm.tokens.v1.Tokens`: the PKCS #11 library's stream, one for each of its calling threads.

use std::pin::Pin;
use std::sync::Arc;

use bytes::Bytes;
use cryptoki_sys::{
    CKM_AES_KEY_GEN, CKM_DES3_KEY_GEN, CKM_DH_PKCS_DERIVE, CKM_EC_EDWARDS_KEY_PAIR_GEN, CKM_EC_KEY_PAIR_GEN,
    CKM_EC_MONTGOMERY_KEY_PAIR_GEN, CKM_GENERIC_SECRET_KEY_GEN, CKO_CERTIFICATE, CKO_DATA, CKO_SECRET_KEY,
    CKR_ARGUMENTS_BAD,
};
use hsm_proto::grep11 as wire;
use hsm_proto::tokens as proto;
use hsm_proto::tokens::request::Call;
use hsm_proto::tokens::response::Answer;
use tokio_stream::{Stream, StreamExt};
use tonic::{Request, Response, Status, Streaming};
use zeroize::Zeroizing;

use super::crypto::{Call as _, SlowCalls, is_slow_signature, is_small, may_go_elsewhere, quick_unit};
use super::grep11::{attributes, blob, bytes, class, error, mechanism};
use super::watched::Watched;
use crate::edge::workers::wait_for_one_connection;
use crate::services::region::Region;
use crate::services::storage::is_of_unit;
use crate::services::tokens::{Grant, ObjectId, Put, Token, Tokens, User};
use crate::units::{CryptoUnit, Error, Result};

/// The service.
#[derive(Clone)]
pub struct TokensService {
    region: Arc<Region>,
    tokens: Arc<Tokens>,
    slow: Arc<SlowCalls>,
}

impl TokensService {
    /// On these tokens.
    pub fn new(region: Arc<Region>, tokens: Arc<Tokens>) -> Self {
        Self { region, tokens, slow: Arc::default() }
    }

    async fn answer(&self, request: proto::Request) -> proto::Response {
        let is_small = is_small(&request);
        let answer = match request.call {
            Some(call) => self.carry_out(call, is_small).await,
            None => Err(Error::new(CKR_ARGUMENTS_BAD, "the request is empty")),
        };
        proto::Response { answer: Some(answer.unwrap_or_else(|e| Answer::Error(error(&e)))) }
    }

    /// One call of a stream. The next one of the same stream waits for its answer.
    async fn carry_out(&self, call: Call, is_small: bool) -> Result<Answer> {
        // Needs no unit: tokens that no master key opens any more must be found, to be deleted.
        if matches!(call, Call::ListTokens(_)) {
            return self.slow.run_in_turn(|| self.list()).await;
        }
        // A look into the file on this machine is not worth another thread.
        if let Call::Changes(request) = &call
            && !self.region.keystore().is_shared()
            && self.tokens.is_unchanged(request.since)
        {
            let revision = request.since;
            return Ok(Answer::Changes(proto::ChangesResponse { revision, ..Default::default() }));
        }
        if !is_slow(&call)
            && let Some(unit) = quick_unit(&self.region, is_small)
        {
            let outcome = if seals(&call) {
                self.region.seal_in(unit, |unit| self.call(unit, &call))
            } else {
                self.call(&unit, &call)
            };
            match outcome {
                Err(error) if may_go_elsewhere(&self.region, &error) => {}
                outcome => return outcome,
            }
        }
        let waits_for_disk = matches!(call, Call::PutObject(_) | Call::DeleteObject(_));
        let call = || {
            self.region.patiently(|| {
                if seals(&call) {
                    return self.region.seal_for_caller(|unit| self.call(unit, &call));
                }
                self.region.with_another_unit(is_of_unit, || self.call(&*self.region.unit()?, &call))
            })
        };
        if !waits_for_disk {
            return self.slow.run_in_turn(call).await;
        }
        // The library has one stream in a connection, which has to wait in any case.
        match wait_for_one_connection(call) {
            Ok(outcome) => outcome,
            Err(call) => self.slow.run_in_turn(call).await,
        }
    }

    fn list(&self) -> Result<Answer> {
        let tokens = self.tokens.list()?.into_iter().map(token).collect();
        Ok(Answer::ListTokens(proto::ListTokensResponse { tokens }))
    }

    fn call(&self, unit: &CryptoUnit, call: &Call) -> Result<Answer> {
        Ok(match call {
            Call::GenerateRandom(r) => Answer::GenerateRandom(r.carry_out(unit)?),
            Call::Encrypt(r) => Answer::Encrypt(r.carry_out(unit)?),
            Call::Decrypt(r) => Answer::Decrypt(r.carry_out(unit)?),
            Call::Sign(r) => Answer::Sign(r.carry_out(unit)?),
            Call::Verify(r) => Answer::Verify(r.carry_out(unit)?),
            Call::GenerateKey(r) => Answer::GenerateKey(r.carry_out(unit)?),
            Call::GenerateKeyPair(r) => Answer::GenerateKeyPair(r.carry_out(unit)?),
            Call::WrapKey(r) => Answer::WrapKey(r.carry_out(unit)?),
            Call::UnwrapKey(r) => Answer::UnwrapKey(r.carry_out(unit)?),
            Call::DeriveKey(r) => Answer::DeriveKey(r.carry_out(unit)?),
            Call::GetAttributeValue(r) => Answer::GetAttributeValue(r.carry_out(unit)?),
            Call::SetAttributeValue(r) => Answer::SetAttributeValue(r.carry_out(unit)?),
            Call::CopyObject(r) => {
                let copy = unit.change_object(&blob(&r.object)?, &attributes(&r.changes)?, true)?;
                Answer::CopyObject(proto::CopyObjectResponse { object: bytes(&copy) })
            }
            Call::CreateObject(r) => {
                let made = unit.create_object(&attributes(&r.template)?)?;
                Answer::CreateObject(proto::CreateObjectResponse { object: bytes(&made) })
            }
            Call::EncapsulateKey(r) => {
                let (encapsulated, made) = unit.encapsulate_key(
                    &mechanism(r.mechanism.as_ref())?,
                    &blob(&r.key)?,
                    &attributes(&r.template)?,
                )?;
                let encapsulated = encapsulated.into();
                Answer::EncapsulateKey(proto::EncapsulateKeyResponse { encapsulated, object: bytes(&made) })
            }
            Call::DecapsulateKey(r) => {
                let made = unit.decapsulate_key(
                    &mechanism(r.mechanism.as_ref())?,
                    &blob(&r.key)?,
                    &r.encapsulated,
                    &attributes(&r.template)?,
                )?;
                Answer::DecapsulateKey(proto::DecapsulateKeyResponse { object: bytes(&made) })
            }
            Call::ListTokens(_) => self.list()?,
            Call::InitToken(r) => {
                let serial = (!r.serial.is_empty()).then_some(r.serial.as_str());
                Answer::InitToken(token(self.tokens.init(serial, &r.so_pin, &r.label)?))
            }
            Call::Login(r) => {
                let Grant(grant) = self.tokens.login(&r.serial, user(r.user()), &r.pin)?;
                let grant = Bytes::from_owner(Zeroizing::new(grant.to_vec()));
                Answer::Login(proto::LoginResponse { grant })
            }
            Call::InitPin(r) => {
                self.tokens.init_pin(&Grant::new(&r.grant), &r.pin)?;
                Answer::InitPin(proto::InitPinResponse {})
            }
            Call::TrustObject(r) => {
                let trusted = self.tokens.trust_object(&Grant::new(&r.grant), &blob(&r.object)?)?;
                Answer::TrustObject(proto::TrustObjectResponse { object: bytes(&trusted) })
            }
            Call::SetPin(r) => {
                self.tokens.set_pin(&r.serial, user(r.user()), &r.old_pin, &r.new_pin)?;
                Answer::SetPin(proto::SetPinResponse {})
            }
            Call::PutObject(r) => {
                let replaces = (!r.replaces.is_empty()).then(|| blob(&r.replaces)).transpose()?;
                let parse = |id, object| Ok((object_id(id)?, blob(object)?));
                let more = r.more.iter().map(|more| parse(&more.id, &more.object));
                let objects: Vec<_> =
                    std::iter::once(parse(&r.id, &r.object)).chain(more).collect::<Result<_>>()?;
                let puts: Vec<_> = objects
                    .iter()
                    .enumerate()
                    .map(|(i, (id, object))| Put {
                        id: *id,
                        object,
                        replaces: replaces.as_ref().filter(|_| i == 0),
                    })
                    .collect();
                let revision = self.tokens.put_objects(&r.serial, grant(&r.grant).as_ref(), &puts)?;
                Answer::PutObject(proto::PutObjectResponse { revision })
            }
            Call::DeleteObject(r) => {
                let revision =
                    self.tokens.delete_object(&r.serial, grant(&r.grant).as_ref(), object_id(&r.id)?)?;
                Answer::DeleteObject(proto::DeleteObjectResponse { revision })
            }
            Call::Changes(r) => {
                let changes = self.tokens.changes(&r.serial, grant(&r.grant).as_ref(), r.since)?;
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
        let service = Arc::new(self.clone());
        let answers = Watched::new(request.into_inner()).then(move |request| {
            let service = service.clone();
            async move { Ok(service.answer(request?).await) }
        });
        Ok(Response::new(Box::pin(answers)))
    }
}

fn is_slow(call: &Call) -> bool {
    let kind = |mechanism: Option<&wire::Mechanism>| mechanism.map(|mechanism| mechanism.mechanism);
    match call {
        Call::Sign(request) => is_slow_signature(request.mech.as_ref()),
        Call::GenerateKey(request) => !matches!(
            kind(request.mech.as_ref()),
            Some(CKM_AES_KEY_GEN | CKM_DES3_KEY_GEN | CKM_GENERIC_SECRET_KEY_GEN)
        ),
        Call::GenerateKeyPair(request) => !matches!(
            kind(request.mech.as_ref()),
            Some(CKM_EC_KEY_PAIR_GEN | CKM_EC_EDWARDS_KEY_PAIR_GEN | CKM_EC_MONTGOMERY_KEY_PAIR_GEN)
        ),
        Call::DeriveKey(request) => kind(request.mech.as_ref()) == Some(CKM_DH_PKCS_DERIVE),
        // Numbers of other keys and of domain parameters are looked at closely.
        Call::CreateObject(request) => {
            !matches!(class(&request.template), Some(CKO_SECRET_KEY | CKO_DATA | CKO_CERTIFICATE))
        }
        _ => !matches!(
            call,
            Call::GenerateRandom(_)
                | Call::Encrypt(_)
                | Call::Decrypt(_)
                | Call::Verify(_)
                | Call::WrapKey(_)
                | Call::GetAttributeValue(_)
                | Call::SetAttributeValue(_)
                | Call::CopyObject(_)
        ),
    }
}

/// Is its answer sealed, and the caller's to keep?
fn seals(call: &Call) -> bool {
    matches!(
        call,
        Call::GenerateKey(_)
            | Call::GenerateKeyPair(_)
            | Call::UnwrapKey(_)
            | Call::DeriveKey(_)
            | Call::SetAttributeValue(_)
            | Call::CopyObject(_)
            | Call::CreateObject(_)
            | Call::EncapsulateKey(_)
            | Call::DecapsulateKey(_)
    )
}

fn user(user: proto::User) -> User {
    match user {
        proto::User::User => User::User,
        proto::User::So => User::So,
    }
}

fn grant(bytes: &Bytes) -> Option<Grant> {
    (!bytes.is_empty()).then(|| Grant::new(bytes))
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
