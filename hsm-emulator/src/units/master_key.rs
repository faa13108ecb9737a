//! The master key, its registers and its verification pattern.

use std::fmt;
use std::sync::OnceLock;

use aws_lc_rs::{digest, hkdf, hmac};
use cryptoki_sys::CKR_DEVICE_ERROR;
use subtle::ConstantTimeEq;
use zeroize::Zeroizing;

use super::error::{Error, Result, vendor};
use super::random;
use super::refusal::Refusal;
use super::xaes::Xaes256Gcm;

/// A part of a master key, or a whole one.
pub type KeyPart = Box<Zeroizing<[u8; MASTER_KEY_BYTES]>>;

/// A 256-bit AES key under which everything that leaves a unit is sealed.
#[derive(Clone)]
pub struct MasterKey {
    key: Box<Zeroizing<[u8; MASTER_KEY_BYTES]>>,
    pattern: VerificationPattern,
    /// Made at their first use.
    blob_key: OnceLock<Box<Xaes256Gcm>>,
    binding_key: OnceLock<hmac::Key>,
}

impl MasterKey {
    /// A random master key.
    pub fn generate() -> Result<Self> {
        let mut key = Box::new(Zeroizing::new([0; MASTER_KEY_BYTES]));
        random::fill(key.as_mut_slice())?;
        Ok(Self::new(key))
    }

    /// A master key with this value.
    pub fn new(key: KeyPart) -> Self {
        let pattern = VerificationPattern::of(&key);
        Self { key, pattern, blob_key: OnceLock::new(), binding_key: OnceLock::new() }
    }

    /// Combines key parts by XOR, as the unit does when it imports them; `None` if they cancel out.
    pub fn from_parts(parts: &[KeyPart]) -> Option<Self> {
        let mut key = Box::new(Zeroizing::new([0; MASTER_KEY_BYTES]));
        for part in parts {
            for (byte, other) in key.iter_mut().zip(part.iter()) {
                *byte ^= other;
            }
        }
        let cancelled = bool::from(key.as_slice().ct_eq(&[0; MASTER_KEY_BYTES]));
        (!cancelled).then(|| Self::new(key))
    }

    /// Is it still the key that its verification pattern was made of?
    pub(super) fn is_intact(&self) -> bool {
        VerificationPattern::of(&self.key) == self.pattern
    }

    /// The same with a bit that has changed by itself.
    pub(super) fn corrupted(&self) -> Self {
        let mut key = self.key.clone();
        key[0] ^= 1;
        Self { pattern: self.pattern, ..Self::new(key) }
    }

    /// What may be shown of it.
    pub fn verification_pattern(&self) -> &VerificationPattern {
        &self.pattern
    }

    /// The verification pattern's.
    pub fn wrapping_key_id(&self) -> &[u8] {
        self.pattern.wrapping_key_id()
    }

    /// The key as a single part, for transport.
    pub(super) fn to_part(&self) -> KeyPart {
        self.key.clone()
    }

    /// The key that objects are sealed with ([`super::blob::KeyBlob`]): HKDF-Expand of the master key (RFC 5869).
    ///
    /// # Errors
    /// `CKR_DEVICE_ERROR`.
    pub(super) fn blob_key(&self) -> Result<&Xaes256Gcm> {
        if let Some(key) = self.blob_key.get() {
            return Ok(key);
        }
        let mut key = Zeroizing::new([0; MASTER_KEY_BYTES]);
        hkdf::Prk::new_less_safe(hkdf::HKDF_SHA256, self.expose_secret())
            .expand(&[b"hsm-emulator key blob 2"], hkdf::HKDF_SHA256)
            .and_then(|okm| okm.fill(key.as_mut_slice()))
            .map_err(|_| Error::new(CKR_DEVICE_ERROR, "deriving a key of the master key failed"))?;
        Ok(self.blob_key.get_or_init(|| Box::new(Xaes256Gcm::new(&key))))
    }

    /// The key that ties blobs to their places ([`super::blob::KeyBlob::binding`]).
    pub(super) fn binding_key(&self) -> &hmac::Key {
        self.binding_key.get_or_init(|| {
            let master = hmac::Key::new(hmac::HMAC_SHA256, self.expose_secret());
            let key = hmac::sign(&master, b"hsm-emulator record binding 1");
            hmac::Key::new(hmac::HMAC_SHA256, key.as_ref())
        })
    }

    /// The key itself.
    pub(super) fn expose_secret(&self) -> &[u8; MASTER_KEY_BYTES] {
        &self.key
    }
}

impl fmt::Debug for MasterKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("MasterKey")
    }
}

/// SHA-256(0x01 || master key). Units of the newest hardware report it with the last four bytes zero,
/// so two patterns are equal if their first 28 bytes are.
#[derive(Clone, Copy)]
pub struct VerificationPattern([u8; 32]);

impl VerificationPattern {
    fn of(key: &[u8; MASTER_KEY_BYTES]) -> Self {
        let mut context = digest::Context::new(&digest::SHA256);
        context.update(&[0x01]);
        context.update(key);
        let mut pattern = [0; 32];
        pattern.copy_from_slice(context.finish().as_ref());
        pattern[COMPARED_BYTES..].fill(0);
        Self(pattern)
    }

    /// 32 bytes.
    pub fn from_bytes(bytes: &[u8]) -> Option<Self> {
        bytes.try_into().ok().map(Self)
    }

    /// The bytes.
    pub fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// The first 16 bytes: what a key blob carries.
    pub fn wrapping_key_id(&self) -> &[u8] {
        &self.0[..WKID_BYTES]
    }

    /// 64 hexadecimal digits.
    pub fn to_hex(&self) -> String {
        hex::encode(self.0)
    }

    /// Reads 64 hexadecimal digits.
    pub fn from_hex(digits: &str) -> Option<Self> {
        let mut pattern = [0; 32];
        hex::decode_to_slice(digits, &mut pattern).ok()?;
        Some(Self(pattern))
    }
}

impl PartialEq for VerificationPattern {
    fn eq(&self, other: &Self) -> bool {
        self.0[..COMPARED_BYTES] == other.0[..COMPARED_BYTES]
    }
}

impl Eq for VerificationPattern {}

impl fmt::Debug for VerificationPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.to_hex())
    }
}

/// The new master key register.
#[derive(Clone, Debug, Default)]
pub enum NewRegister {
    /// No key.
    #[default]
    Empty,
    /// A key has been loaded.
    FullUncommitted(MasterKey),
    /// The key has been committed and may become the current one.
    FullCommitted(MasterKey),
}

/// Both registers of a unit.
#[derive(Clone, Debug, Default)]
pub struct Registers {
    /// The key that seals blobs; `None` is `Empty`, else it is `Valid`.
    pub current: Option<MasterKey>,
    /// The key that is to come.
    pub new: NewRegister,
}

impl Registers {
    /// The current master key.
    ///
    /// # Errors
    /// `CKR_IBM_WK_NOT_INITIALIZED`.
    pub fn current(&self) -> Result<&MasterKey> {
        self.current.as_ref().ok_or_else(|| {
            Error::new(vendor::CKR_IBM_WK_NOT_INITIALIZED, "the unit's current master key register is empty")
        })
    }

    /// A random key: in the current register if that is empty, else in the new one if that is. The key's pattern.
    pub fn generate(mut self, key: MasterKey) -> Result<Self, Refusal> {
        if self.current.is_none() {
            self.current = Some(key);
        } else if matches!(self.new, NewRegister::Empty) {
            self.new = NewRegister::FullUncommitted(key);
        } else {
            return Err(Refusal::BOTH_REGISTERS_FULL);
        }
        Ok(self)
    }

    /// Loads the new register, whatever it held. It must not become what the current register holds.
    pub fn load(mut self, key: MasterKey) -> Result<Self, Refusal> {
        if self.current.as_ref().is_some_and(|current| current.verification_pattern() == &key.pattern) {
            return Err(Refusal::SAME_KEY);
        }
        self.new = NewRegister::FullUncommitted(key);
        Ok(self)
    }

    /// `Full Uncommitted` to `Full Committed`, if the caller names the right pattern.
    pub fn commit(mut self, pattern: &VerificationPattern) -> Result<Self, Refusal> {
        match self.new {
            NewRegister::FullUncommitted(key) if key.verification_pattern() == pattern => {
                self.new = NewRegister::FullCommitted(key);
                Ok(self)
            }
            NewRegister::FullUncommitted(_) => Err(Refusal::PATTERN_MISMATCH),
            _ => Err(Refusal::NO_PENDING_KEY),
        }
    }

    /// Moves the committed key to the current register; what was there is gone.
    pub fn set_immediate(self) -> Result<Self, Refusal> {
        match self.new {
            NewRegister::FullCommitted(key) => Ok(Self { current: Some(key), new: NewRegister::Empty }),
            NewRegister::FullUncommitted(_) => Err(Refusal::NO_COMMITTED_KEY),
            NewRegister::Empty => Err(Refusal::NO_PENDING_KEY),
        }
    }

    /// Empties the new register.
    pub fn clear_new(self) -> Self {
        Self { new: NewRegister::Empty, ..self }
    }

    /// Empties the current register: what is sealed under its key can be opened only once it is loaded again.
    pub fn clear_current(self) -> Self {
        Self { current: None, ..self }
    }

    /// The key in the new register, committed or not.
    pub fn pending(&self) -> Option<&MasterKey> {
        match &self.new {
            NewRegister::Empty => None,
            NewRegister::FullUncommitted(key) | NewRegister::FullCommitted(key) => Some(key),
        }
    }

    /// The committed key in the new register.
    pub fn committed(&self) -> Option<&MasterKey> {
        match &self.new {
            NewRegister::FullCommitted(key) => Some(key),
            _ => None,
        }
    }
}

/// Bytes of a master key.
pub const MASTER_KEY_BYTES: usize = 32;
/// Bytes of the pattern that a key blob carries.
pub const WKID_BYTES: usize = 16;
const COMPARED_BYTES: usize = 28;

#[cfg(test)]
mod tests {
    use super::*;

    fn part(byte: impl Fn(usize) -> u8) -> Box<Zeroizing<[u8; 32]>> {
        Box::new(Zeroizing::new(std::array::from_fn(byte)))
    }

    /// Keys A, B and C of the published vectors; the last eight digits are zero on new hardware.
    #[test]
    fn verification_patterns_of_known_keys() {
        let a = || part(|_| 0x11);
        let b = || part(|_| 0x22);
        let c = || part(|i| i as u8);
        let cases = [
            (MasterKey::new(a()), "c2ad0a997751e04066912fa490a9976d6135d221c0df197dfb8c8a7a"),
            (MasterKey::new(b()), "5c1b924542fecd099a9568826bce5018476b3c2a29944c9c7ff6e47f"),
            (MasterKey::new(c()), "491176b0f443c65a7c7d72df47d6cbc0d04e111fb5a619f60d3e7767"),
            (
                MasterKey::from_parts(&[a(), b()]).expect("parts"),
                "40910b8c96ef4c8fcc342a1c45a4135f7a9376fa4b34890991d4e27d",
            ),
            (
                MasterKey::from_parts(&[a(), b(), c()]).expect("parts"),
                "d921d8da3bfc0e84b38d4b1edba6b463163168c4a0f1562b2d31d684",
            ),
        ];
        for (key, pattern) in cases {
            assert_eq!(key.verification_pattern().to_hex(), format!("{pattern}00000000"));
            assert_eq!(hex::encode(key.wrapping_key_id()), pattern[..32]);
        }
    }

    #[test]
    fn equal_parts_cancel_out() {
        let a = || part(|_| 0x11);
        assert!(MasterKey::from_parts(&[a(), a()]).is_none());
        assert!(MasterKey::from_parts(&[a()]).is_some());
    }

    fn registers(current: u8, new: u8) -> Registers {
        let key = |byte| MasterKey::new(part(|_| byte));
        Registers {
            current: (current == 1).then(|| key(0x11)),
            new: match new {
                0 => NewRegister::Empty,
                1 => NewRegister::FullUncommitted(key(0x22)),
                _ => NewRegister::FullCommitted(key(0x22)),
            },
        }
    }

    fn states(registers: &Registers) -> (Option<u8>, &'static str, Option<u8>) {
        let first = |key: &MasterKey| key.expose_secret()[0];
        let new = match registers.new {
            NewRegister::Empty => "Empty",
            NewRegister::FullUncommitted(_) => "Full Uncommitted",
            NewRegister::FullCommitted(_) => "Full Committed",
        };
        (registers.current.as_ref().map(first), new, registers.pending().map(first))
    }

    /// Every event in every state of the registers: the table of tke.md 1.7, cell by cell.
    #[test]
    fn every_transition_of_the_registers() {
        let key = |byte| MasterKey::new(part(|_| byte));
        for current in 0..2 {
            for new in 0..3 {
                let before = registers(current, new);
                let (c, n, p) = states(&before);
                let outcome = |result: Result<Registers, Refusal>| {
                    result.map(|r| {
                        let (c, n, p) = states(&r);
                        (c, n, p)
                    })
                };
                assert_eq!(outcome(before.clone().load(key(0x33))), Ok((c, "Full Uncommitted", Some(0x33))));
                let same = outcome(before.clone().load(key(0x11)));
                let expected = if current == 1 {
                    Err(Refusal::SAME_KEY)
                } else {
                    Ok((None, "Full Uncommitted", Some(0x11)))
                };
                assert_eq!(same, expected);
                let generated = match (current, new) {
                    (0, _) => Ok((Some(0x44), n, p)),
                    (_, 0) => Ok((c, "Full Uncommitted", Some(0x44))),
                    _ => Err(Refusal::BOTH_REGISTERS_FULL),
                };
                assert_eq!(outcome(before.clone().generate(key(0x44))), generated);
                let committed = match new {
                    1 => Ok((c, "Full Committed", p)),
                    _ => Err(Refusal::NO_PENDING_KEY),
                };
                assert_eq!(outcome(before.clone().commit(key(0x22).verification_pattern())), committed);
                let mismatched = match new {
                    1 => Err(Refusal::PATTERN_MISMATCH),
                    _ => Err(Refusal::NO_PENDING_KEY),
                };
                assert_eq!(outcome(before.clone().commit(key(0x55).verification_pattern())), mismatched);
                let set = match new {
                    0 => Err(Refusal::NO_PENDING_KEY),
                    1 => Err(Refusal::NO_COMMITTED_KEY),
                    _ => Ok((Some(0x22), "Empty", None)),
                };
                assert_eq!(outcome(before.clone().set_immediate()), set);
                assert_eq!(states(&before.clone().clear_new()), (c, "Empty", None));
                assert_eq!(states(&before.clear_current()), (None, n, p));
            }
        }
    }

    #[test]
    fn debug_shows_no_key() {
        let registers = Registers { current: Some(MasterKey::new(part(|_| 0x11))), new: NewRegister::Empty };
        assert!(!format!("{registers:?}").contains("17, 17"));
    }
}
