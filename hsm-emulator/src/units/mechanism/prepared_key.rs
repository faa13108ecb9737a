//! Keys that are open, with what their first use has made ready for the next ones.

use std::ops::Deref;
use std::sync::OnceLock;

use aws_lc_rs::aead::{AES_128_GCM, AES_192_GCM, AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey};
use aws_lc_rs::{agreement, hmac};
use cryptoki_sys::*;
use openssl::nid::Nid;
use openssl::pkey::{PKey, PKeyRef, Private};
use zeroize::Zeroizing;

use super::cipher::{self, MAX_BYTES};
use super::{Mechanism, Parameter, mac};
use crate::units::{Error, Result};

/// The bytes of a secret key, and what is made of them.
pub(in crate::units) struct PreparedKey {
    value: Zeroizing<Vec<u8>>,
    gcm: OnceLock<Option<LessSafeKey>>,
    /// For the first digest that the key is used with: most keys know no other.
    hmac: OnceLock<hmac::Key>,
}

impl PreparedKey {
    pub fn new(value: &[u8]) -> Self {
        Self { value: Zeroizing::new(value.to_vec()), gcm: OnceLock::new(), hmac: OnceLock::new() }
    }

    /// As [`cipher::encrypt`].
    pub fn encrypt(&self, mechanism: &Mechanism, key_type: CK_KEY_TYPE, plaintext: &[u8]) -> Result<Vec<u8>> {
        let Some(Gcm { key, nonce, aad }) =
            self.gcm(mechanism, key_type).filter(|_| plaintext.len() <= MAX_BYTES)
        else {
            return cipher::encrypt(mechanism, key_type, self, plaintext);
        };
        let mut out = Zeroizing::new(Vec::with_capacity(plaintext.len() + TAG_BYTES));
        out.extend_from_slice(plaintext);
        let tag = key
            .seal_in_place_separate_tag(nonce, aad, &mut out)
            .map_err(|_| Error::new(CKR_FUNCTION_FAILED, "the cryptographic library failed"))?;
        out.extend_from_slice(tag.as_ref());
        Ok(std::mem::take(&mut *out))
    }

    /// As [`cipher::decrypt`].
    pub fn decrypt(
        &self,
        mechanism: &Mechanism,
        key_type: CK_KEY_TYPE,
        ciphertext: &[u8],
    ) -> Result<Zeroizing<Vec<u8>>> {
        let fits = (TAG_BYTES..=MAX_BYTES).contains(&ciphertext.len());
        let Some(Gcm { key, nonce, aad }) = self.gcm(mechanism, key_type).filter(|_| fits) else {
            return cipher::decrypt(mechanism, key_type, self, ciphertext);
        };
        let mut out = Zeroizing::new(ciphertext.to_vec());
        let len = key
            .open_in_place(nonce, aad, &mut out)
            .map_err(|_| Error::new(CKR_ENCRYPTED_DATA_INVALID, "the ciphertext does not decrypt"))?
            .len();
        out.truncate(len);
        Ok(out)
    }

    /// As [`mac::sign`].
    pub fn sign(&self, mechanism: &Mechanism, key_type: CK_KEY_TYPE, data: &[u8]) -> Result<Vec<u8>> {
        mac::sign(mechanism, key_type, self, data, &self.hmac)
    }

    /// GCM with the usual lengths: the key is expanded once.
    fn gcm<'a>(&'a self, mechanism: &'a Mechanism, key_type: CK_KEY_TYPE) -> Option<Gcm<'a>> {
        let (CKM_AES_GCM, CKK_AES, Parameter::Gcm { iv, aad, tag_bits: 128 }) =
            (mechanism.kind, key_type, &mechanism.parameter)
        else {
            return None;
        };
        let nonce = Nonce::try_assume_unique_for_key(iv).ok()?;
        let expand = || {
            let algorithm = match self.value.len() {
                16 => &AES_128_GCM,
                24 => &AES_192_GCM,
                32 => &AES_256_GCM,
                _ => return None,
            };
            UnboundKey::new(algorithm, &self.value).ok().map(LessSafeKey::new)
        };
        Some(Gcm { key: self.gcm.get_or_init(expand).as_ref()?, nonce, aad: Aad::from(aad.as_slice()) })
    }
}

impl Deref for PreparedKey {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.value
    }
}

struct Gcm<'a> {
    key: &'a LessSafeKey,
    nonce: Nonce,
    aad: Aad<&'a [u8]>,
}

/// A private key, and what is made of it. Both libraries wipe their own on free.
pub(in crate::units) struct PreparedPrivateKey {
    key: PKey<Private>,
    agreement: OnceLock<Option<agreement::PrivateKey>>,
}

impl PreparedPrivateKey {
    pub fn new(key: PKey<Private>) -> Self {
        Self { key, agreement: OnceLock::new() }
    }

    /// ECDH with a point of one of NIST's curves (SEC 1 section 2.3.3), faster than by OpenSSL: the x-coordinate. `None` if it
    /// can't be had in this way.
    pub fn agree(&self, point: &[u8]) -> Option<Zeroizing<Vec<u8>>> {
        // The library takes X.509 encodings, too, which this is not the place for.
        if !matches!(point, [2..=4, ..]) {
            return None;
        }
        let key = self.agreement.get_or_init(|| nist_key(&self.key)).as_ref()?;
        let peer = agreement::UnparsedPublicKey::new(key.algorithm(), point);
        agreement::agree(key, peer, (), |shared| Ok(Zeroizing::new(shared.to_vec()))).ok()
    }
}

fn nist_key(key: &PKeyRef<Private>) -> Option<agreement::PrivateKey> {
    let key = key.ec_key().ok()?;
    let (curve, scalar_bytes) = match key.group().curve_name()? {
        Nid::X9_62_PRIME256V1 => (&agreement::ECDH_P256, 32),
        Nid::SECP384R1 => (&agreement::ECDH_P384, 48),
        Nid::SECP521R1 => (&agreement::ECDH_P521, 66),
        _ => return None,
    };
    let scalar = Zeroizing::new(key.private_key().to_vec_padded(scalar_bytes).ok()?);
    agreement::PrivateKey::from_private_key(curve, &scalar).ok()
}

impl Deref for PreparedPrivateKey {
    type Target = PKeyRef<Private>;

    fn deref(&self) -> &PKeyRef<Private> {
        &self.key
    }
}

const TAG_BYTES: usize = 16;

#[cfg(test)]
mod tests {
    use super::*;

    fn gcm(iv_bytes: usize, aad: &[u8], tag_bits: u32) -> Mechanism {
        let parameter = Parameter::Gcm { iv: vec![3; iv_bytes], aad: aad.to_vec(), tag_bits };
        Mechanism { kind: CKM_AES_GCM, parameter }
    }

    /// One key goes by the quick way and by the other, in any order.
    #[test]
    fn a_prepared_key_does_as_one_that_is_not() {
        for key_bytes in [16, 24, 32] {
            let value = vec![7; key_bytes];
            let key = PreparedKey::new(&value);
            for (iv_bytes, tag_bits) in [(12, 128), (12, 96), (16, 128), (1, 128), (12, 128)] {
                for (aad, plaintext) in [(&b""[..], &b""[..]), (b"aad", b"plaintext"), (b"", &[9; 100])] {
                    let mechanism = gcm(iv_bytes, aad, tag_bits);
                    let sealed = key.encrypt(&mechanism, CKK_AES, plaintext).expect("encrypt");
                    assert_eq!(
                        sealed,
                        cipher::encrypt(&mechanism, CKK_AES, &value, plaintext).expect("encrypt")
                    );
                    let opened = key.decrypt(&mechanism, CKK_AES, &sealed).expect("decrypt");
                    assert_eq!(opened.as_slice(), plaintext);
                    let mut altered = sealed.clone();
                    altered[sealed.len() - 1] ^= 1;
                    let error = key.decrypt(&mechanism, CKK_AES, &altered).expect_err("altered");
                    assert_eq!(error.code, CKR_ENCRYPTED_DATA_INVALID);
                    let short = &sealed[..tag_bits as usize / 8 - 1];
                    let error = key.decrypt(&mechanism, CKK_AES, short).expect_err("short");
                    assert_eq!(error.code, CKR_ENCRYPTED_DATA_LEN_RANGE);
                }
            }
            assert_eq!(
                key.encrypt(&gcm(12, b"", 128), CKK_DES3, b"").expect_err("no AES key").code,
                cipher::encrypt(&gcm(12, b"", 128), CKK_DES3, &value, b"").expect_err("no AES key").code
            );
        }
    }

    #[test]
    fn a_key_for_one_digest_works_with_another_one() {
        let key = PreparedKey::new(&[7; 32]);
        let mut macs = Vec::new();
        for kind in [CKM_SHA256_HMAC, CKM_SHA512_HMAC, CKM_SHA256_HMAC, CKM_SHA512_HMAC] {
            macs.push(key.sign(&Mechanism::plain(kind), CKK_GENERIC_SECRET, b"data").expect("sign"));
        }
        assert_eq!(macs[0], mac::hmac(CKM_SHA256, &[7; 32], b"data").expect("HMAC"));
        assert_eq!(macs[1], mac::hmac(CKM_SHA512, &[7; 32], b"data").expect("HMAC"));
        assert_eq!(macs[..2], macs[2..]);
    }
}
