//! Moving a master key from one unit to another: never in clear.
//!
//! The receiving unit makes a fresh P-521 importer key. The sending unit agrees on a secret with it by ECDH
//! with an ephemeral key, derives an AES-256 key with SHA-256 (ANSI X9.63 style: shared secret, counter,
//! 40 random bytes) and wraps the master key with RFC 3394, which gives 40 bytes.

use aes_kw::{KeyInit, KwAes256};
use aws_lc_rs::digest;
use p521::elliptic_curve::sec1::ToSec1Point;
use p521::{PublicKey, SecretKey};
use zeroize::Zeroizing;

use super::error::{Error, Result, vendor};
use super::master_key::{MASTER_KEY_BYTES, MasterKey};
use super::random;

/// The receiving unit's half. Used once.
pub struct ImporterKey(SecretKey);

/// A master key on its way between two units.
#[derive(Clone, Debug)]
pub struct TransportedKey {
    ephemeral_key: Vec<u8>,
    key_material: [u8; 40],
    wrapped: [u8; MASTER_KEY_BYTES + 8],
}

impl ImporterKey {
    pub(super) fn generate() -> Result<Self> {
        // A random 521-bit string is a scalar below the order with a probability of nearly one half or more.
        for _ in 0..128 {
            let mut bytes = Zeroizing::new(random::array::<66>()?);
            bytes[0] &= 1;
            if let Ok(key) = SecretKey::from_slice(bytes.as_slice()) {
                return Ok(Self(key));
            }
        }
        Err(Error::new(cryptoki_sys::CKR_DEVICE_ERROR, "the random number generator gives no valid scalar"))
    }

    /// What the sending unit needs: the uncompressed point.
    pub fn public_key(&self) -> Vec<u8> {
        self.0.public_key().to_sec1_point(false).as_bytes().to_vec()
    }

    pub(super) fn import(self, transported: &TransportedKey) -> Result<MasterKey> {
        let peer = PublicKey::from_sec1_bytes(&transported.ephemeral_key).map_err(|_| invalid())?;
        let kek = transport_key(&self.0, &peer, &transported.key_material);
        let mut key = Box::new(Zeroizing::new([0; MASTER_KEY_BYTES]));
        kek.unwrap_key(&transported.wrapped, key.as_mut_slice()).map_err(|_| invalid())?;
        Ok(MasterKey::new(key))
    }
}

pub(super) fn export(key: &MasterKey, importer_public_key: &[u8]) -> Result<TransportedKey> {
    let peer = PublicKey::from_sec1_bytes(importer_public_key).map_err(|_| invalid())?;
    let ephemeral = ImporterKey::generate()?;
    let key_material = random::array()?;
    let kek = transport_key(&ephemeral.0, &peer, &key_material);
    let mut wrapped = [0; MASTER_KEY_BYTES + 8];
    kek.wrap_key(key.expose_secret(), &mut wrapped).map_err(|_| invalid())?;
    Ok(TransportedKey { ephemeral_key: ephemeral.public_key(), key_material, wrapped })
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
