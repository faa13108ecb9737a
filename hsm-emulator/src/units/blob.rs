//! Key blobs: how keys and other objects leave a unit, sealed under its master key.
//!
//! Layout of format version 2 (numbers big-endian). The first 64 bytes stand where EP11's blobs have
//! theirs, so that tools which look for the wrapping key id find it.
//!
//! | offset | bytes | content |
//! |---|---|---|
//! | 0 | 32 | session identifier: zero, the object is bound to no login session |
//! | 32 | 16 | wrapping key id: the first 16 bytes of the master key's verification pattern |
//! | 48 | 16 | zero (EP11's boolean attributes and mode; ours are among the attributes) |
//! | 64 | 2 | format version, `48 02` |
//! | 66 | 24 | nonce, random |
//! | 90 | 8 | zero |
//! | 98 | 4 | length of the clear attributes |
//! | 102 | .. | clear attributes |
//! | .. | .. | sealed attributes, ciphertext and tag |
//!
//! What is sealed is encrypted by XAES-256-GCM under HKDF-Expand of the master key. Everything before the ciphertext is
//! authenticated with it.
//!
//! Version 1 is read, too: a salt of 32 bytes stands in the place of nonce and zeros, and the attributes are sealed by
//! AES-256-GCM, with a nonce of zeros, under HKDF-SHA256 of the master key with that salt.

use std::fmt;
use std::sync::Arc;

use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey};
use aws_lc_rs::{hkdf, hmac};
use zeroize::Zeroizing;

use super::attributes::Attributes;
use super::error::{Error, Result, vendor};
use super::master_key::{MasterKey, WKID_BYTES};
use super::random;
use super::xaes::NONCE_BYTES;

/// An object sealed under a master key. Cheap to clone.
#[derive(Clone, PartialEq, Eq)]
pub struct KeyBlob(Arc<[u8]>);

impl KeyBlob {
    /// Takes bytes for a blob after checking its structure. That it is authentic shows only when a unit opens it.
    ///
    /// # Errors
    /// `CKR_IBM_BLOBKEY_CONFLICT`.
    pub fn parse(bytes: &[u8]) -> Result<Self> {
        let blob = Self(bytes.into());
        blob.clear_section()?;
        Ok(blob)
    }

    /// The bytes to store or send.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// The attributes in clear.
    ///
    /// # Errors
    /// `CKR_DEVICE_ERROR` if they are damaged.
    pub fn attributes(&self) -> Result<Attributes> {
        Attributes::decode(&self.0[HEADER_BYTES..self.clear_section()?])
    }

    /// Names the master key that the blob is sealed under.
    pub fn wrapping_key_id(&self) -> &[u8] {
        &self.0[WKID_OFFSET..WKID_OFFSET + WKID_BYTES]
    }

    /// The authentication tag: as good as unique to the blob.
    pub(super) fn tag(&self) -> [u8; TAG_BYTES] {
        self.0.last_chunk().copied().unwrap_or_default()
    }

    /// Seals under a master key.
    pub(super) fn seal(master_key: &MasterKey, clear: &Attributes, secret: &Attributes) -> Result<Self> {
        let (clear_len, secret_len) = (clear.encoded_bytes(), secret.encoded_bytes());
        let len = HEADER_BYTES + clear_len + secret_len + TAG_BYTES;
        let mut bytes = Zeroizing::new(Vec::with_capacity(len));
        bytes.resize(WKID_OFFSET, 0);
        bytes.extend_from_slice(master_key.wrapping_key_id());
        bytes.resize(VERSION_OFFSET, 0);
        bytes.extend_from_slice(&VERSION_2);
        let nonce = random::array::<NONCE_BYTES>()?;
        bytes.extend_from_slice(&nonce);
        bytes.resize(CLEAR_LEN_OFFSET, 0);
        bytes.extend_from_slice(&(clear_len as u32).to_be_bytes());
        clear.encode_into(&mut bytes);
        let aad_len = bytes.len();
        // Sealed where it stands: there is no other copy.
        secret.encode_into(&mut bytes);
        let (aad, plaintext) = bytes.split_at_mut(aad_len);
        let tag = master_key
            .blob_key()?
            .seal(&nonce, aad, plaintext)
            .ok_or_else(|| Error::new(cryptoki_sys::CKR_DEVICE_ERROR, "sealing a key blob failed"))?;
        bytes.extend_from_slice(tag.as_ref());
        Ok(Self(bytes.as_slice().into()))
    }

    /// Opens under a master key: (clear, secret) attributes.
    ///
    /// # Errors
    /// `CKR_IBM_WKID_MISMATCH` if it is under another master key, `CKR_IBM_BLOBKEY_CONFLICT` if it was altered.
    pub(super) fn open(&self, master_key: &MasterKey) -> Result<(Attributes, Attributes)> {
        use subtle::ConstantTimeEq;
        if !bool::from(self.wrapping_key_id().ct_eq(master_key.wrapping_key_id())) {
            return Err(Error::new(
                vendor::CKR_IBM_WKID_MISMATCH,
                "the key blob is sealed under a master key that is not the unit's current one",
            ));
        }
        let (aad, sealed) = self.0.split_at(self.clear_section()?);
        let mut sealed = Zeroizing::new(sealed.to_vec());
        let plaintext = match self.0[NONCE_OFFSET..].first_chunk() {
            Some(nonce) if self.version() == VERSION_2 => {
                master_key.blob_key()?.open(nonce, aad, &mut sealed)
            }
            _ => open_version_1(master_key, &self.0[NONCE_OFFSET..CLEAR_LEN_OFFSET], aad, &mut sealed),
        };
        let plaintext = plaintext.ok_or_else(altered)?;
        Ok((self.attributes()?, Attributes::decode(plaintext)?))
    }

    /// Ties the blob to a place: a MAC of both under a key of the master key's.
    pub(super) fn binding(&self, master_key: &MasterKey, place: &[&[u8]]) -> [u8; 32] {
        let mut context = hmac::Context::with_key(master_key.binding_key());
        for part in place.iter().chain([&self.as_bytes()]) {
            context.update(&(part.len() as u64).to_be_bytes());
            context.update(part);
        }
        let mut binding = [0; 32];
        binding.copy_from_slice(context.sign().as_ref());
        binding
    }

    fn version(&self) -> &[u8] {
        &self.0[VERSION_OFFSET..NONCE_OFFSET]
    }

    fn has_known_version(&self) -> bool {
        let zeros = &self.0[NONCE_OFFSET + NONCE_BYTES..CLEAR_LEN_OFFSET];
        self.version() == VERSION_1 || (self.version() == VERSION_2 && zeros.iter().all(|byte| *byte == 0))
    }

    /// Checks the structure; the end of the clear attributes.
    fn clear_section(&self) -> Result<usize> {
        let bytes = &self.0;
        if bytes.len() < HEADER_BYTES + TAG_BYTES {
            return Err(Error::new(vendor::CKR_IBM_BLOBKEY_CONFLICT, "too short for a key blob"));
        }
        if bytes[..WKID_OFFSET].iter().any(|b| *b != 0)
            || bytes[WKID_OFFSET + WKID_BYTES..VERSION_OFFSET].iter().any(|b| *b != 0)
            || !self.has_known_version()
        {
            return Err(Error::new(
                vendor::CKR_IBM_BLOBKEY_CONFLICT,
                "not a key blob of a known format version",
            ));
        }
        let clear_len =
            bytes[CLEAR_LEN_OFFSET..].first_chunk::<4>().map_or(0, |n| u32::from_be_bytes(*n) as usize);
        let clear_end = HEADER_BYTES + clear_len;
        if clear_end + TAG_BYTES > bytes.len() {
            return Err(altered());
        }
        Ok(clear_end)
    }
}

impl fmt::Debug for KeyBlob {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "KeyBlob({} bytes)", self.0.len())
    }
}

fn altered() -> Error {
    Error::new(vendor::CKR_IBM_BLOBKEY_CONFLICT, "the key blob was altered: it does not authenticate")
}

fn open_version_1<'a>(
    master_key: &MasterKey,
    salt: &[u8],
    aad: &[u8],
    in_out: &'a mut [u8],
) -> Option<&'a mut [u8]> {
    let prk = hkdf::Salt::new(hkdf::HKDF_SHA256, salt).extract(master_key.expose_secret());
    let key = UnboundKey::from(prk.expand(&[b"hsm-emulator key blob 1"], &AES_256_GCM).ok()?);
    let nonce = Nonce::assume_unique_for_key([0; 12]);
    LessSafeKey::new(key).open_in_place(nonce, Aad::from(aad), in_out).ok()
}

const WKID_OFFSET: usize = 32;
const VERSION_OFFSET: usize = 64;
const NONCE_OFFSET: usize = 66;
const CLEAR_LEN_OFFSET: usize = 98;
const HEADER_BYTES: usize = 102;
const TAG_BYTES: usize = 16;
const VERSION_1: [u8; 2] = [0x48, 0x01];
const VERSION_2: [u8; 2] = [0x48, 0x02];

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn master_key(byte: u8) -> MasterKey {
        MasterKey::new(Box::new(Zeroizing::new([byte; 32])))
    }

    fn clear() -> Attributes {
        Attributes::new()
            .with_ulong(cryptoki_sys::CKA_CLASS, cryptoki_sys::CKO_SECRET_KEY)
            .with(3, *b"golden")
    }

    fn secret() -> Attributes {
        Attributes::new().with(cryptoki_sys::CKA_VALUE, *b"0123456789abcdef")
    }

    /// Blobs that were made in each format version, under the master key 11 11 .. 11. They must open for ever.
    #[test]
    fn golden_blobs_open() {
        for blob in golden_blobs() {
            assert_eq!(blob.open(&master_key(0x11)).expect("open"), (clear(), secret()));
        }
    }

    fn golden_blobs() -> [KeyBlob; 2] {
        [include_str!("../../testdata/key-blob-v1.hex"), include_str!("../../testdata/key-blob-v2.hex")]
            .map(|golden| KeyBlob::parse(&hex::decode(golden.trim()).expect("hex")).expect("parse"))
    }

    #[test]
    fn another_master_key_is_named_as_the_reason() {
        let blob = KeyBlob::seal(&master_key(0x11), &clear(), &secret()).expect("seal");
        let error = blob.open(&master_key(0x22)).expect_err("other key");
        assert_eq!(error.code, vendor::CKR_IBM_WKID_MISMATCH);
    }

    #[test]
    fn the_secret_part_is_not_in_the_blob_and_no_two_are_alike() {
        let blob = KeyBlob::seal(&master_key(0x11), &clear(), &secret()).expect("seal");
        let other = KeyBlob::seal(&master_key(0x11), &clear(), &secret()).expect("seal");
        assert!(!blob.as_bytes().windows(16).any(|w| w == b"0123456789abcdef"));
        assert_ne!(blob, other);
        assert!(!format!("{blob:?}").contains("golden"));
    }

    /// Every byte of a blob, changed in every possible way that proptest comes up with, makes it refused
    /// with the error that says so.
    #[test]
    fn every_changed_byte_is_noticed() {
        for blob in golden_blobs() {
            for position in 0..blob.as_bytes().len() {
                proptest!(ProptestConfig::with_cases(8), |(flip in 1u8..)| {
                    let mut bytes = blob.as_bytes().to_vec();
                    bytes[position] ^= flip;
                    let refused = KeyBlob::parse(&bytes).and_then(|blob| blob.open(&master_key(0x11)));
                    let code = refused.expect_err("altered").code;
                    let wkid = (WKID_OFFSET..WKID_OFFSET + WKID_BYTES).contains(&position);
                    prop_assert_eq!(
                        code,
                        if wkid { vendor::CKR_IBM_WKID_MISMATCH } else { vendor::CKR_IBM_BLOBKEY_CONFLICT }
                    );
                });
            }
            for len in 0..blob.as_bytes().len() {
                let cut =
                    KeyBlob::parse(&blob.as_bytes()[..len]).and_then(|blob| blob.open(&master_key(0x11)));
                assert_eq!(cut.expect_err("cut").code, vendor::CKR_IBM_BLOBKEY_CONFLICT);
            }
        }
    }

    proptest! {
        #[test]
        fn hostile_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
            let [golden, _] = golden_blobs();
            let of_version = |version: &[u8]| [&golden.as_bytes()[..VERSION_OFFSET], version, &bytes].concat();
            for bytes in [of_version(&VERSION_1), of_version(&VERSION_2), bytes] {
                if let Ok(blob) = KeyBlob::parse(&bytes) {
                    blob.attributes().ok();
                    prop_assert!(blob.open(&master_key(0x11)).is_err());
                }
            }
        }
    }
}
