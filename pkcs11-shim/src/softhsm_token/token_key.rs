//! The key of a SoftHSM token: what its private objects are encrypted with. It is stored encrypted under each PIN.

use openssl::memcmp;
use openssl::sha::{Sha256, sha256};
use openssl::symm::{Cipher, decrypt};
use zeroize::{Zeroize, Zeroizing};

use super::Malformed;

/// A token's key, of AES-256.
pub struct TokenKey(Zeroizing<[u8; 32]>);

impl TokenKey {
    /// Opens a PIN's record: a salt, an initialisation vector, and the key behind a mark, encrypted in AES-256-CBC under a
    /// key that follows from PIN and salt. `None`: the PIN is wrong, or the record is damaged; nobody can tell.
    ///
    /// # Errors
    /// It is too short to be one.
    pub fn open(record: &[u8], pin: &[u8]) -> Result<Option<Self>, Malformed> {
        let (salt, encrypted) =
            record.split_first_chunk::<SALT_BYTES>().ok_or(Malformed("a PIN's record is cut short"))?;
        let Ok(plaintext) = decrypt_cbc(&derive(pin, salt), encrypted) else { return Ok(None) };
        match plaintext.split_first_chunk::<{ MARK.len() }>() {
            Some((mark, key)) if memcmp::eq(mark, MARK) => {
                Ok(<[u8; 32]>::try_from(key).ok().map(|key| Self(key.into())))
            }
            _ => Ok(None),
        }
    }

    /// Decrypts a value of a private object. An empty one is not encrypted.
    ///
    /// # Errors
    /// It was not encrypted under this key.
    pub fn decrypt(&self, value: &[u8]) -> Result<Zeroizing<Vec<u8>>, Malformed> {
        if value.is_empty() {
            return Ok(Zeroizing::default());
        }
        decrypt_cbc(&self.0, value)
    }
}

/// The first bytes are the initialisation vector.
fn decrypt_cbc(key: &[u8; 32], value: &[u8]) -> Result<Zeroizing<Vec<u8>>, Malformed> {
    const NOT_OURS: Malformed = Malformed("a value does not decrypt under the token's key");
    let (iv, ciphertext) = value.split_first_chunk::<16>().ok_or(NOT_OURS)?;
    decrypt(Cipher::aes_256_cbc(), key, Some(iv), ciphertext).map(Zeroizing::new).map_err(|_| NOT_OURS)
}

/// SHA-256 of salt and PIN, hashed again and again; the salt's last byte says how often.
fn derive(pin: &[u8], salt: &[u8; SALT_BYTES]) -> Zeroizing<[u8; 32]> {
    let mut first = Sha256::new();
    first.update(salt);
    first.update(pin);
    let mut key = Zeroizing::new(first.finish());
    for _ in 1..BASE_ROUNDS + u32::from(salt[SALT_BYTES - 1]) {
        let mut next = sha256(key.as_slice());
        key.copy_from_slice(&next);
        next.zeroize();
    }
    key
}

const SALT_BYTES: usize = 8;
const BASE_ROUNDS: u32 = 1500;
const MARK: &[u8; 3] = b"RJR";

#[cfg(test)]
mod tests {
    use openssl::symm::encrypt;

    use super::*;

    /// A record as SoftHSM 2.6.1 wrote it for the PIN 1234.
    const RECORD: &str = "820f865e9d061e47c45f097703c8309fa4a8d1b2d9087e990fe960ba5c6876c4caa3d9b0\
        76b9001b50cc1536cb7261ba423144907f6eee1ac795f59d8bcdd361479714690a3f7fed";

    fn encrypted(key: &[u8; 32], plaintext: &[u8]) -> Vec<u8> {
        let iv = [9; 16];
        let ciphertext = encrypt(Cipher::aes_256_cbc(), key, Some(&iv), plaintext).expect("encrypted");
        [&iv[..], &ciphertext].concat()
    }

    #[test]
    fn softhsms_record_opens_with_its_pin_alone() {
        let record = hex::decode(RECORD).expect("hexadecimal");
        assert!(TokenKey::open(&record, b"1234").expect("a record").is_some());
        assert!(TokenKey::open(&record, b"1235").expect("a record").is_none());
        for cut in 0..record.len() {
            assert!(!matches!(TokenKey::open(&record[..cut], b"1234"), Ok(Some(_))));
        }
    }

    #[test]
    fn values_decrypt_and_foreign_ones_do_not() {
        let salt = [3; SALT_BYTES];
        let record =
            [&salt[..], &encrypted(&derive(b"1234", &salt), &[MARK, &[7; 32][..]].concat())].concat();
        let key = TokenKey::open(&record, b"1234").expect("a record").expect("the PIN");
        assert_eq!(*key.decrypt(&encrypted(&[7; 32], b"value")).expect("own"), b"value");
        assert!(key.decrypt(&[]).expect("empty").is_empty());
        assert!(key.decrypt(&[1; 15]).is_err());
        assert!(key.decrypt(&[1; 40]).is_err());
    }
}
