//! Moving a master key from one unit to another: never in clear.
//!
//! The receiving unit makes a fresh P-521 importer key. The sending unit agrees on a secret with it by ECDH
//! with an ephemeral key, derives an AES-256 key with SHA-256 (ANSI X9.63 style: shared secret, counter,
//! 40 random bytes) and wraps the master key with RFC 3394, which gives 40 bytes.

use aes_kw::{KeyInit, KwAes256};
use aws_lc_rs::digest;
use der::Sequence;
use der::asn1::OctetString;
use p521::elliptic_curve::sec1::ToSec1Point;
use p521::{PublicKey, SecretKey};
use zeroize::Zeroizing;

use super::error::{Error, Result, vendor};
use super::master_key::{KeyPart, MASTER_KEY_BYTES};
use super::random;

/// The receiving unit's half. Used for one master key.
pub struct ImporterKey(SecretKey);

/// A master key, or a part of one, on its way to a unit.
#[derive(Clone, Debug, PartialEq, Eq, Sequence)]
pub struct TransportedKey {
    ephemeral_key: OctetString,
    key_material: OctetString,
    wrapped: OctetString,
}

impl TransportedKey {
    /// Wraps a key part for the unit that made this importer key (its uncompressed point).
    ///
    /// # Errors
    /// `CKR_IBM_TRANSPORT_INVALID` if that is no importer key.
    pub fn wrap(part: &KeyPart, importer_public_key: &[u8]) -> Result<Self> {
        let peer = PublicKey::from_sec1_bytes(importer_public_key).map_err(|_| invalid())?;
        let ephemeral = ImporterKey::generate()?;
        let key_material = random::array::<KEY_MATERIAL_BYTES>()?;
        let kek = transport_key(&ephemeral.0, &peer, &key_material);
        let mut wrapped = [0; MASTER_KEY_BYTES + 8];
        kek.wrap_key(part.as_slice(), &mut wrapped).map_err(|_| invalid())?;
        let octets = |bytes: &[u8]| OctetString::new(bytes).map_err(|_| invalid());
        Ok(Self {
            ephemeral_key: octets(&ephemeral.public_key())?,
            key_material: octets(&key_material)?,
            wrapped: octets(&wrapped)?,
        })
    }
}

impl ImporterKey {
    pub(super) fn generate() -> Result<Self> {
        random::p521_scalar(SecretKey::from_slice).map(Self)
    }

    /// What the sending unit needs: the uncompressed point.
    pub fn public_key(&self) -> Vec<u8> {
        self.0.public_key().to_sec1_point(false).as_bytes().to_vec()
    }

    pub(super) fn import(&self, transported: &TransportedKey) -> Result<KeyPart> {
        let peer = PublicKey::from_sec1_bytes(transported.ephemeral_key.as_bytes()).map_err(|_| invalid())?;
        let wrapped = transported.wrapped.as_bytes();
        if wrapped.len() != MASTER_KEY_BYTES + 8
            || transported.key_material.as_bytes().len() != KEY_MATERIAL_BYTES
        {
            return Err(invalid());
        }
        let kek = transport_key(&self.0, &peer, transported.key_material.as_bytes());
        let mut part = Box::new(Zeroizing::new([0; MASTER_KEY_BYTES]));
        kek.unwrap_key(wrapped, part.as_mut_slice()).map_err(|_| invalid())?;
        Ok(part)
    }
}

fn transport_key(own: &SecretKey, peer: &PublicKey, key_material: &[u8]) -> KwAes256 {
    let shared = own.diffie_hellman(peer);
    let mut context = digest::Context::new(&digest::SHA256);
    context.update(shared.raw_secret_bytes());
    context.update(&1u32.to_be_bytes());
    context.update(key_material);
    let mut kek = Zeroizing::new([0; 32]);
    kek.copy_from_slice(context.finish().as_ref());
    KwAes256::new(&(*kek).into())
}

fn invalid() -> Error {
    Error::new(vendor::CKR_IBM_TRANSPORT_INVALID, "the transported master key does not authenticate")
}

const KEY_MATERIAL_BYTES: usize = 40;
