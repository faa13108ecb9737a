//! XAES-256-GCM (C2SP): AES-256-GCM with nonces of 192 bits, which may be random for 2^80 messages. The first half of the nonce
//! makes a key of the message's own (by the counter mode of SP 800-108 with CMAC), the second half is GCM's nonce.

use aes_kw::KeyInit;
use aes_kw::aes::Aes256Enc;
use aes_kw::cipher::BlockCipherEncrypt;
use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, Nonce, Tag, UnboundKey};
use zeroize::Zeroizing;

/// A key, expanded. Wiped when dropped.
#[derive(Clone)]
pub struct Xaes256Gcm {
    cipher: Aes256Enc,
    /// What CMAC mixes with a last block that is whole (SP 800-38B section 6.1).
    subkey: Zeroizing<[u8; BLOCK_BYTES]>,
}

impl Xaes256Gcm {
    /// Expands a key.
    pub fn new(key: &[u8; 32]) -> Self {
        let cipher = Aes256Enc::new(key.into());
        let mut subkey = Zeroizing::new([0; BLOCK_BYTES]);
        cipher.encrypt_block((&mut *subkey).into());
        // Doubled in the field, without a branch.
        let l = Zeroizing::new(u128::from_be_bytes(*subkey));
        *subkey = ((*l << 1) ^ ((*l >> 127) * 0x87)).to_be_bytes();
        Self { cipher, subkey }
    }

    /// Encrypts where it stands: the tag. `None` if the library fails.
    pub fn seal(&self, nonce: &[u8; NONCE_BYTES], aad: &[u8], in_out: &mut [u8]) -> Option<Tag> {
        let (key, nonce) = self.of_message(nonce)?;
        key.seal_in_place_separate_tag(nonce, Aad::from(aad), in_out).ok()
    }

    /// Decrypts where it stands, with the tag at its end: the plaintext. `None` if it is not authentic.
    pub fn open<'a>(
        &self,
        nonce: &[u8; NONCE_BYTES],
        aad: &[u8],
        in_out: &'a mut [u8],
    ) -> Option<&'a mut [u8]> {
        let (key, nonce) = self.of_message(nonce)?;
        key.open_in_place(nonce, Aad::from(aad), in_out).ok()
    }

    fn of_message(&self, nonce: &[u8; NONCE_BYTES]) -> Option<(LessSafeKey, Nonce)> {
        let (for_key, for_gcm) = nonce.split_at(NONCE_BYTES / 2);
        let mut key = Zeroizing::new([0; 2 * BLOCK_BYTES]);
        for (counter, half) in (1..).zip(key.chunks_exact_mut(BLOCK_BYTES)) {
            half[..4].copy_from_slice(&[0, counter, b'X', 0]);
            half[4..].copy_from_slice(for_key);
            half.iter_mut().zip(self.subkey.iter()).for_each(|(byte, other)| *byte ^= other);
            self.cipher.encrypt_block(half.try_into().ok()?);
        }
        let key = UnboundKey::new(&AES_256_GCM, key.as_slice()).ok()?;
        Some((LessSafeKey::new(key), Nonce::try_assume_unique_for_key(for_gcm).ok()?))
    }
}

/// Bytes of a nonce.
pub const NONCE_BYTES: usize = 24;
const BLOCK_BYTES: usize = 16;

#[cfg(test)]
mod tests {
    use super::*;

    /// The specification's two vectors: the first one's subkey is made without the reduction, the other's with it.
    #[test]
    fn xaes_gives_the_published_ciphertexts() {
        let nonce = b"ABCDEFGHIJKLMNOPQRSTUVWX";
        for (byte, aad, expected) in [
            (1, "", "ce546ef63c9cc60765923609b33a9a1974e96e52daf2fcf7075e2271"),
            (3, "c2sp.org/XAES-256-GCM", "986ec1832593df5443a179437fd083bf3fdb41abd740a21f71eb769d"),
        ] {
            let key = Xaes256Gcm::new(&[byte; 32]);
            let mut bytes = b"XAES-256-GCM".to_vec();
            let tag = key.seal(nonce, aad.as_bytes(), &mut bytes).expect("seal");
            bytes.extend_from_slice(tag.as_ref());
            assert_eq!(hex::encode(&bytes), expected);
            assert_eq!(key.open(nonce, b"other", &mut bytes.clone()), None);
            let opened = key.open(nonce, aad.as_bytes(), &mut bytes).expect("open");
            assert_eq!(opened, b"XAES-256-GCM");
        }
    }
}
