//! The master key, its registers and its verification pattern.

use std::fmt;

use aws_lc_rs::digest;
use subtle::ConstantTimeEq;
use zeroize::Zeroizing;

use super::error::{Error, Result, vendor};
use super::random;

/// A 256-bit AES key under which everything that leaves a unit is sealed.
#[derive(Clone)]
pub struct MasterKey {
    key: Box<Zeroizing<[u8; MASTER_KEY_BYTES]>>,
    pattern: VerificationPattern,
}

impl MasterKey {
    /// A random master key.
    pub fn generate() -> Result<Self> {
        let mut key = Box::new(Zeroizing::new([0; MASTER_KEY_BYTES]));
        random::fill(key.as_mut_slice())?;
        Ok(Self::new(key))
    }

    /// A master key with this value.
    pub fn new(key: Box<Zeroizing<[u8; MASTER_KEY_BYTES]>>) -> Self {
        let pattern = VerificationPattern::of(&key);
        Self { key, pattern }
    }

    /// Combines two or three key parts by XOR, as the unit does when it imports them.
    ///
    /// # Errors
    /// `CKR_ARGUMENTS_BAD` for another number of parts, or if they cancel out.
    pub fn from_parts(parts: &[Box<Zeroizing<[u8; MASTER_KEY_BYTES]>>]) -> Result<Self> {
        if !(2..=3).contains(&parts.len()) {
            return Err(Error::new(cryptoki_sys::CKR_ARGUMENTS_BAD, "a master key has 2 or 3 parts"));
        }
        let mut key = Box::new(Zeroizing::new([0; MASTER_KEY_BYTES]));
        for part in parts {
            for (byte, other) in key.iter_mut().zip(part.iter()) {
                *byte ^= other;
            }
        }
        if bool::from(key.as_slice().ct_eq(&[0; MASTER_KEY_BYTES])) {
            return Err(Error::new(cryptoki_sys::CKR_ARGUMENTS_BAD, "the key parts cancel each other out"));
        }
        Ok(Self::new(key))
    }

    /// What may be shown of it.
    pub fn verification_pattern(&self) -> &VerificationPattern {
        &self.pattern
    }

    /// The first 16 bytes of the verification pattern: what a key blob carries.
    pub fn wrapping_key_id(&self) -> &[u8] {
        &self.pattern.0[..WKID_BYTES]
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

    /// A random key in an empty current register (EP11's random generation at first initialisation).
    ///
    /// # Errors
    /// `CKR_ACTION_PROHIBITED` if the register is full.
    pub fn generate(mut self) -> Result<Self> {
        if self.current.is_some() {
            return Err(refused("the current master key register is not empty"));
        }
        self.current = Some(MasterKey::generate()?);
        Ok(self)
    }

    /// Loads the new register.
    pub fn load(mut self, key: MasterKey) -> Self {
        self.new = NewRegister::FullUncommitted(key);
        self
    }

    /// `Full Uncommitted` to `Full Committed`, if the caller names the right pattern.
    ///
    /// # Errors
    /// `CKR_ACTION_PROHIBITED` if nothing is pending or the pattern differs.
    pub fn commit(mut self, pattern: &VerificationPattern) -> Result<Self> {
        match self.new {
            NewRegister::FullUncommitted(key) if key.verification_pattern() == pattern => {
                self.new = NewRegister::FullCommitted(key);
                Ok(self)
            }
            NewRegister::FullUncommitted(_) => {
                Err(refused("the pending master key has another verification pattern"))
            }
            _ => Err(refused("no master key waits to be committed")),
        }
    }

    /// Moves the committed key to the current register; what was there is gone.
    ///
    /// # Errors
    /// `CKR_ACTION_PROHIBITED` if no key is committed.
    pub fn set_immediate(self) -> Result<Self> {
        match self.new {
            NewRegister::FullCommitted(key) => Ok(Self { current: Some(key), new: NewRegister::Empty }),
            _ => Err(refused("no committed master key in the new register")),
        }
    }
}

fn refused(message: &'static str) -> Error {
    Error::new(cryptoki_sys::CKR_ACTION_PROHIBITED, message)
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
                MasterKey::from_parts(&[a(), b()]).expect("two parts"),
                "40910b8c96ef4c8fcc342a1c45a4135f7a9376fa4b34890991d4e27d",
            ),
            (
                MasterKey::from_parts(&[a(), b(), c()]).expect("three parts"),
                "d921d8da3bfc0e84b38d4b1edba6b463163168c4a0f1562b2d31d684",
            ),
        ];
        for (key, pattern) in cases {
            assert_eq!(key.verification_pattern().to_hex(), format!("{pattern}00000000"));
            assert_eq!(hex::encode(key.wrapping_key_id()), pattern[..32]);
        }
    }

    #[test]
    fn equal_parts_and_wrong_counts_are_refused() {
        let a = || part(|_| 0x11);
        assert!(MasterKey::from_parts(&[a(), a()]).is_err());
        assert!(MasterKey::from_parts(&[a()]).is_err());
        assert!(MasterKey::from_parts(&[a(), a(), a(), a()]).is_err());
    }

    #[test]
    fn a_key_becomes_current_only_by_load_commit_and_set_immediate() {
        let registers = Registers::default();
        let key = MasterKey::generate().expect("random");
        let pattern = *key.verification_pattern();
        let other = *MasterKey::generate().expect("random").verification_pattern();
        assert!(registers.clone().commit(&pattern).is_err());
        let loaded = registers.load(key);
        assert!(loaded.clone().set_immediate().is_err());
        assert!(loaded.clone().commit(&other).is_err());
        let committed = loaded.commit(&pattern).expect("right pattern");
        assert!(committed.clone().commit(&pattern).is_err());
        let done = committed.set_immediate().expect("committed");
        assert_eq!(done.current().expect("valid").verification_pattern(), &pattern);
        assert!(matches!(done.new, NewRegister::Empty));
        assert!(done.generate().is_err());
    }

    #[test]
    fn debug_shows_no_key() {
        let registers = Registers { current: Some(MasterKey::new(part(|_| 0x11))), new: NewRegister::Empty };
        assert!(!format!("{registers:?}").contains("17, 17"));
    }
}
