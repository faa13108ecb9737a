//! Over gRPC: one stream for each calling thread.

mod connection;
mod messages;
mod regions;

use bytes::Bytes;
use cryptoki_sys::{CKR_DATA_LEN_RANGE, CKR_DEVICE_ERROR};
use hsm_emulator::units::mechanism::Mechanism;
use hsm_emulator::units::{Attributes, Error, KeyBlob, Result};
use hsm_proto::grep11 as wire;
use hsm_proto::tokens as proto;
use hsm_proto::tokens::request::Call;
use hsm_proto::tokens::response::Answer;
use zeroize::Zeroizing;

use self::connection::Connections;
use self::messages::{
    bytes, grant as grant_bytes, key, mechanism as message, parse_key, template, user as user_number,
};
use super::{Backend, Changes, Grant, ObjectId, Put, Token, User};
use crate::config::tls::Tls;
use crate::config::{ApiKey, Endpoint};

/// An HSM somewhere else.
pub struct RemoteBackend {
    connections: Connections,
}

impl RemoteBackend {
    /// Connects at the first call.
    ///
    /// # Errors
    /// `CKR_FUNCTION_FAILED` if the API key can't be sent.
    pub fn new(endpoints: &[Endpoint], api_key: &ApiKey, tls: &Tls) -> Result<Self> {
        Ok(Self { connections: Connections::new(endpoints, api_key, tls)? })
    }
}

/// Takes the one kind of answer that a request has.
macro_rules! expect {
    ($answer:expr, $kind:ident) => {
        match $answer? {
            Answer::$kind(answer) => answer,
            _ => return Err(unexpected()),
        }
    };
}

impl Backend for RemoteBackend {
    fn random(&self, out: &mut [u8]) -> Result<()> {
        self.connections.random(out)
    }

    fn generate_key(&self, mechanism: &Mechanism, attributes: &Attributes) -> Result<KeyBlob> {
        let request = wire::GenerateKeyRequest { mech: message(mechanism), template: template(attributes) };
        parse_key(expect!(self.connections.call(Call::GenerateKey(request)), GenerateKey).key)
    }

    fn generate_key_pair(
        &self,
        mechanism: &Mechanism,
        public: &Attributes,
        private: &Attributes,
    ) -> Result<(KeyBlob, KeyBlob)> {
        let request = wire::GenerateKeyPairRequest {
            mech: message(mechanism),
            priv_key_template: template(private),
            pub_key_template: template(public),
        };
        let answer = expect!(self.connections.call(Call::GenerateKeyPair(request)), GenerateKeyPair);
        Ok((parse_key(answer.pub_key)?, parse_key(answer.priv_key)?))
    }

    fn create_object(&self, attributes: &Attributes) -> Result<KeyBlob> {
        let request = proto::CreateObjectRequest { template: template(attributes) };
        KeyBlob::parse(&expect!(self.connections.call(Call::CreateObject(request)), CreateObject).object)
    }

    fn change_object(&self, object: &KeyBlob, changes: &Attributes, copy: bool) -> Result<KeyBlob> {
        let object = bytes(object);
        if copy {
            let request = proto::CopyObjectRequest { object, changes: template(changes) };
            KeyBlob::parse(&expect!(self.connections.call(Call::CopyObject(request)), CopyObject).object)
        } else {
            let request = wire::SetAttributeValueRequest { object, attributes: template(changes) };
            let answer = self.connections.call(Call::SetAttributeValue(request));
            KeyBlob::parse(&expect!(answer, SetAttributeValue).object)
        }
    }

    fn sealed_attribute(&self, object: &KeyBlob, kind: u64) -> Result<Zeroizing<Vec<u8>>> {
        let request = wire::GetAttributeValueRequest {
            object: bytes(object),
            attributes: template(&Attributes::new().with(kind, [])),
        };
        let answer = expect!(self.connections.call(Call::GetAttributeValue(request)), GetAttributeValue);
        let value = answer.attributes.get(&kind).and_then(messages::value_bytes);
        value.map(Zeroizing::new).ok_or_else(unexpected)
    }

    fn encrypt(&self, mechanism: &Mechanism, key_blob: &KeyBlob, plaintext: &[u8]) -> Result<Vec<u8>> {
        let request = wire::EncryptSingleRequest {
            mech: message(mechanism),
            plain: data(plaintext)?,
            key: key(key_blob),
        };
        Ok(expect!(self.connections.call(Call::Encrypt(request)), Encrypt).ciphered.into())
    }

    fn decrypt(
        &self,
        mechanism: &Mechanism,
        key_blob: &KeyBlob,
        ciphertext: &[u8],
    ) -> Result<Zeroizing<Vec<u8>>> {
        let request = wire::DecryptSingleRequest {
            mech: message(mechanism),
            ciphered: data(ciphertext)?,
            key: key(key_blob),
        };
        let plain = expect!(self.connections.call(Call::Decrypt(request)), Decrypt).plain;
        Ok(Zeroizing::new(plain.into()))
    }

    fn sign(&self, mechanism: &Mechanism, key_blob: &KeyBlob, input: &[u8]) -> Result<Vec<u8>> {
        let request =
            wire::SignSingleRequest { mech: message(mechanism), data: data(input)?, priv_key: key(key_blob) };
        Ok(expect!(self.connections.call(Call::Sign(request)), Sign).signature.into())
    }

    fn verify(
        &self,
        mechanism: &Mechanism,
        key_blob: &KeyBlob,
        input: &[u8],
        signature: &[u8],
    ) -> Result<()> {
        let request = wire::VerifySingleRequest {
            mech: message(mechanism),
            data: data(input)?,
            signature: data(signature)?,
            pub_key: key(key_blob),
        };
        expect!(self.connections.call(Call::Verify(request)), Verify);
        Ok(())
    }

    fn wrap_key(&self, mechanism: &Mechanism, wrapping_key: &KeyBlob, wrapped: &KeyBlob) -> Result<Vec<u8>> {
        let request = wire::WrapKeyRequest {
            mech: message(mechanism),
            key: key(wrapped),
            ke_k: key(wrapping_key),
            mac_key: None,
        };
        Ok(expect!(self.connections.call(Call::WrapKey(request)), WrapKey).wrapped.into())
    }

    fn unwrap_key(
        &self,
        mechanism: &Mechanism,
        unwrapping_key: &KeyBlob,
        wrapped: &[u8],
        attributes: &Attributes,
    ) -> Result<KeyBlob> {
        let request = wire::UnwrapKeyRequest {
            wrapped: data(wrapped)?,
            mech: message(mechanism),
            template: template(attributes),
            ke_k: key(unwrapping_key),
            mac_key: None,
        };
        parse_key(expect!(self.connections.call(Call::UnwrapKey(request)), UnwrapKey).unwrapped)
    }

    fn derive_key(&self, mechanism: &Mechanism, base: &KeyBlob, attributes: &Attributes) -> Result<KeyBlob> {
        let request = wire::DeriveKeyRequest {
            mech: message(mechanism),
            data: Bytes::new(),
            template: template(attributes),
            base_key: key(base),
        };
        parse_key(expect!(self.connections.call(Call::DeriveKey(request)), DeriveKey).new_key)
    }

    fn encapsulate_key(
        &self,
        mechanism: &Mechanism,
        key: &KeyBlob,
        attributes: &Attributes,
    ) -> Result<(Vec<u8>, KeyBlob)> {
        let request = proto::EncapsulateKeyRequest {
            mechanism: message(mechanism),
            key: bytes(key),
            template: template(attributes),
        };
        let answer = expect!(self.connections.call(Call::EncapsulateKey(request)), EncapsulateKey);
        Ok((answer.encapsulated.into(), KeyBlob::parse(&answer.object)?))
    }

    fn decapsulate_key(
        &self,
        mechanism: &Mechanism,
        key: &KeyBlob,
        encapsulated: &[u8],
        attributes: &Attributes,
    ) -> Result<KeyBlob> {
        let request = proto::DecapsulateKeyRequest {
            mechanism: message(mechanism),
            key: bytes(key),
            encapsulated: data(encapsulated)?,
            template: template(attributes),
        };
        let answer = expect!(self.connections.call(Call::DecapsulateKey(request)), DecapsulateKey);
        KeyBlob::parse(&answer.object)
    }

    fn tokens(&self) -> Result<Vec<Token>> {
        let request = Call::ListTokens(proto::ListTokensRequest {});
        let answer = expect!(self.connections.call(request), ListTokens);
        Ok(answer.tokens.into_iter().map(messages::token).collect())
    }

    fn init_token(&self, serial: Option<&str>, so_pin: &[u8], label: &str) -> Result<Token> {
        let request = proto::InitTokenRequest {
            serial: serial.unwrap_or_default().to_owned(),
            so_pin: secret(so_pin),
            label: label.to_owned(),
        };
        Ok(messages::token(expect!(self.connections.call_once(Call::InitToken(request)), InitToken)))
    }

    fn login(&self, serial: &str, user: User, pin: &[u8]) -> Result<Grant> {
        let request =
            proto::LoginRequest { serial: serial.to_owned(), user: user_number(user), pin: secret(pin) };
        let answer = expect!(self.connections.call_once(Call::Login(request)), Login);
        Ok(Grant::new(&answer.grant))
    }

    fn init_pin(&self, grant: &Grant, pin: &[u8]) -> Result<()> {
        let request = proto::InitPinRequest { grant: grant_bytes(Some(grant)), pin: secret(pin) };
        expect!(self.connections.call_once(Call::InitPin(request)), InitPin);
        Ok(())
    }

    fn trust_object(&self, grant: &Grant, object: &KeyBlob) -> Result<KeyBlob> {
        let request = proto::TrustObjectRequest { grant: grant_bytes(Some(grant)), object: bytes(object) };
        KeyBlob::parse(&expect!(self.connections.call(Call::TrustObject(request)), TrustObject).object)
    }

    fn set_pin(&self, serial: &str, user: User, old: &[u8], new: &[u8]) -> Result<()> {
        let request = proto::SetPinRequest {
            serial: serial.to_owned(),
            user: user_number(user),
            old_pin: secret(old),
            new_pin: secret(new),
        };
        expect!(self.connections.call_once(Call::SetPin(request)), SetPin);
        Ok(())
    }

    fn put_objects(&self, serial: &str, grant: Option<&Grant>, objects: &[Put<'_>]) -> Result<u64> {
        let Some((first, more)) = objects.split_first() else { return Err(unexpected()) };
        let stored =
            |put: &Put<'_>| proto::StoredObject { id: put.id.to_vec().into(), object: bytes(put.object) };
        let proto::StoredObject { id, object } = stored(first);
        let request = proto::PutObjectRequest {
            serial: serial.to_owned(),
            grant: grant_bytes(grant),
            id,
            object,
            replaces: first.replaces.map(bytes).unwrap_or_default(),
            more: more.iter().map(stored).collect(),
        };
        Ok(expect!(self.connections.call_once(Call::PutObject(request)), PutObject).revision)
    }

    fn delete_object(&self, serial: &str, grant: Option<&Grant>, id: ObjectId) -> Result<u64> {
        let request = proto::DeleteObjectRequest {
            serial: serial.to_owned(),
            grant: grant_bytes(grant),
            id: Bytes::copy_from_slice(&id),
        };
        Ok(expect!(self.connections.call_once(Call::DeleteObject(request)), DeleteObject).revision)
    }

    fn changes(&self, serial: &str, grant: Option<&Grant>, since: u64) -> Result<Changes> {
        let request = proto::ChangesRequest { serial: serial.to_owned(), grant: grant_bytes(grant), since };
        let answer = expect!(self.connections.call(Call::Changes(request)), Changes);
        let id = |bytes: &Bytes| ObjectId::try_from(bytes.as_ref()).map_err(|_| unexpected());
        let stored =
            answer.stored.iter().map(|object| Ok((id(&object.id)?, KeyBlob::parse(&object.object)?)));
        Ok(Changes {
            revision: answer.revision,
            stored: stored.collect::<Result<_>>()?,
            deleted: answer.deleted.iter().map(id).collect::<Result<_>>()?,
            more: answer.more,
        })
    }
}

/// Copies what the application lent, before it travels.
///
/// # Errors
/// `CKR_DATA_LEN_RANGE` beyond what a message carries.
fn data(bytes: &[u8]) -> Result<Bytes> {
    if bytes.len() > MAX_DATA_BYTES {
        return Err(Error::new(CKR_DATA_LEN_RANGE, "at most 64 MiB in one call to a remote HSM"));
    }
    Ok(Bytes::copy_from_slice(bytes))
}

/// A secret on its way: its copy here is wiped when the message is gone.
fn secret(bytes: &[u8]) -> Bytes {
    Bytes::from_owner(Zeroizing::new(bytes.to_vec()))
}

fn unexpected() -> Error {
    Error::new(CKR_DEVICE_ERROR, "the HSM's answer does not fit the request")
}

/// 64 MiB, and a tag.
const MAX_DATA_BYTES: usize = (64 << 20) + 16;
