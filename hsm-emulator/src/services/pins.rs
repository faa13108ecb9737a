//! PINs: Argon2id, sealed by the unit, so that a copied disk alone cannot even be guessed at.

use argon2::{Algorithm, Argon2, Params, Version};
use aws_lc_rs::hmac;
use subtle::ConstantTimeEq;
use zeroize::Zeroizing;

use crate::units::{Attributes, CryptoUnit, Error, KeyBlob, Result, random};
use cryptoki_sys::{CKR_DEVICE_ERROR, CKR_PIN_LEN_RANGE};

/// Seals what is needed to check a PIN: salt, hash and the cost of computing it, tied to its owner.
///
/// # Errors
/// `CKR_PIN_LEN_RANGE` if the PIN has not 4 to 255 bytes.
pub fn seal(unit: &CryptoUnit, owner: &[u8], pin: &[u8]) -> Result<KeyBlob> {
    check_len(pin)?;
    let salt = random::array::<16>()?;
    let secret = Attributes::new()
        .with(OWNER, owner)
        .with(SALT, salt)
        .with_ulong(MEMORY, MEMORY_KIB.into())
        .with_ulong(PASSES, DEFAULT_PASSES.into())
        .with(HASH, hash(pin, &salt, MEMORY_KIB, DEFAULT_PASSES)?.as_slice());
    unit.seal(&Attributes::new().with(PIN_RECORD, []), &secret)
}

/// What shows that a PIN was right: another one once it's set again, even to the same. Salt and hash never leave the unit in
/// clear, so nobody can guess at the PIN by it.
///
/// # Errors
/// As [`verify`].
pub fn proof(unit: &CryptoUnit, owner: &[u8], record: &KeyBlob) -> Result<Zeroizing<[u8; 32]>> {
    let secret = open(unit, owner, record)?;
    let (Some(salt), Some(hash)) = (secret.get(SALT), secret.get(HASH)) else { return Err(damaged()) };
    let mut context = hmac::Context::with_key(&hmac::Key::new(hmac::HMAC_SHA256, hash));
    context.update(b"the PIN was right");
    context.update(salt);
    let mut proof = Zeroizing::new([0; 32]);
    proof.copy_from_slice(context.sign().as_ref());
    Ok(proof)
}

/// Is this the PIN? Takes about 20 ms on purpose.
///
/// # Errors
/// `CKR_DEVICE_ERROR` if the record is not this owner's, and those of opening it.
pub fn verify(unit: &CryptoUnit, owner: &[u8], record: &KeyBlob, pin: &[u8]) -> Result<bool> {
    let secret = open(unit, owner, record)?;
    let cost = |kind| secret.ulong(kind).and_then(|cost| u32::try_from(cost).ok());
    let (Some(salt), Some(expected), Some(memory), Some(passes)) =
        (secret.get(SALT), secret.get(HASH), cost(MEMORY), cost(PASSES))
    else {
        return Err(damaged());
    };
    if pin.len() > MAX_BYTES {
        return Ok(false);
    }
    Ok(hash(pin, salt, memory, passes)?.as_slice().ct_eq(expected).into())
}

/// The secret fields of a PIN's record.
fn open(unit: &CryptoUnit, owner: &[u8], record: &KeyBlob) -> Result<Attributes> {
    let (clear, secret) = unit.unseal(record)?;
    if !clear.contains(PIN_RECORD) || secret.get(OWNER) != Some(owner) {
        return Err(damaged());
    }
    Ok(secret)
}

/// May this be a PIN?
///
/// # Errors
/// `CKR_PIN_LEN_RANGE`.
pub fn check_len(pin: &[u8]) -> Result<()> {
    if (MIN_BYTES..=MAX_BYTES).contains(&pin.len()) {
        return Ok(());
    }
    Err(Error::new(CKR_PIN_LEN_RANGE, "a PIN has 4 to 255 bytes"))
}

/// PINs that this process has found right before, by a hash keyed for this process: test suites that log in
/// thousands of times stay fast, guessing doesn't.
pub struct Recognised(hmac::Key);

impl Recognised {
    /// With a fresh key.
    ///
    /// # Errors
    /// `CKR_DEVICE_ERROR` without randomness.
    pub fn new() -> Result<Self> {
        let key = Zeroizing::new(random::array::<32>()?);
        Ok(Self(hmac::Key::new(hmac::HMAC_SHA256, key.as_slice())))
    }

    /// A fingerprint of PIN and record: another record is another fingerprint.
    pub fn fingerprint(&self, record: &KeyBlob, pin: &[u8]) -> [u8; 32] {
        let mut context = hmac::Context::with_key(&self.0);
        context.update(record.as_bytes());
        context.update(pin);
        let mut fingerprint = [0; 32];
        fingerprint.copy_from_slice(context.sign().as_ref());
        fingerprint
    }
}

fn damaged() -> Error {
    Error::new(CKR_DEVICE_ERROR, "the PIN record is damaged, or another token's")
}

/// Argon2id with one lane.
pub(super) fn hash(pin: &[u8], salt: &[u8], memory_kib: u32, passes: u32) -> Result<Zeroizing<[u8; 32]>> {
    let failed = |_| Error::new(CKR_DEVICE_ERROR, "hashing the PIN or passphrase failed");
    let params = Params::new(memory_kib, passes, 1, Some(32)).map_err(failed)?;
    let mut hash = Zeroizing::new([0; 32]);
    Argon2::new(Algorithm::Argon2id, Version::V0x13, params)
        .hash_password_into(pin, salt, hash.as_mut_slice())
        .map_err(failed)?;
    Ok(hash)
}

/// The shortest and the longest PIN, in bytes.
pub const MIN_BYTES: usize = 4;
/// See [`MIN_BYTES`].
pub const MAX_BYTES: usize = 255;
// OWASP's second recommendation for Argon2id.
const MEMORY_KIB: u32 = 19 * 1024;
const DEFAULT_PASSES: u32 = 2;

// Field numbers inside the sealed record.
const PIN_RECORD: u64 = cryptoki_sys::CKA_VENDOR_DEFINED | 0x4853_0002;
const SALT: u64 = 1;
const HASH: u64 = 2;
const OWNER: u64 = 3;
const MEMORY: u64 = 4;
const PASSES: u64 = 5;
