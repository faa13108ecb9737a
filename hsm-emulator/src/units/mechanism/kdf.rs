//! Key derivation functions on MACs: HKDF (RFC 5869; PKCS #11 v3.1 section 6.62), SP 800-108 (section 6.42), and PBKDF2
//! (section 6.41).

use std::sync::OnceLock;

use cryptoki_sys::*;
use openssl::pkcs5::pbkdf2_hmac;
use zeroize::Zeroizing;

use super::{Mechanism, Secret, digest, mac, openssl_error, secret_key};
use crate::units::{Error, Result};

/// What HKDF is to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hkdf {
    /// Do the first step: make a key of fixed length.
    pub extract: bool,
    /// Do the second step: make a key of any length.
    pub expand: bool,
    /// `CKM_*` of the digest.
    pub digest: CK_MECHANISM_TYPE,
    /// Of the first step.
    pub salt: Salt,
    /// Of the second step.
    pub info: Vec<u8>,
}

/// The salt of HKDF.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Salt {
    /// As many zeros as the digest has bytes.
    Null,
    /// These bytes.
    Data(Vec<u8>),
    /// The value of a key.
    Key(super::OtherKey),
}

impl Hkdf {
    /// A key of `wanted` bytes, or of as many as the digest has. `salt_key`: the value of the key that is the salt.
    ///
    /// # Errors
    /// `CKR_MECHANISM_PARAM_INVALID`, `CKR_KEY_SIZE_RANGE`.
    pub(in crate::units) fn derive(
        &self,
        key: &[u8],
        salt_key: Option<&[u8]>,
        wanted: Option<usize>,
    ) -> Result<Zeroizing<Vec<u8>>> {
        let salt_bytes = if let Salt::Data(salt) = &self.salt { salt.len() } else { 0 };
        if self.info.len().max(salt_bytes) > MAX_INPUT_BYTES {
            return Err(bad("salt and info of HKDF have at most 64 KiB"));
        }
        let hash_bytes = digest::message_digest(self.digest).map_err(|_| bad("HKDF wants a digest"))?.size();
        let extracted = if self.extract {
            let zeros = vec![0; hash_bytes];
            let salt = match (&self.salt, salt_key) {
                (Salt::Null, _) => &zeros,
                // As good as zeros, and the cryptographic library takes no empty key.
                (Salt::Data(salt), _) if salt.is_empty() => &zeros,
                (Salt::Data(salt), _) => salt,
                (Salt::Key(_), Some(key)) => key,
                (Salt::Key(_), None) => return Err(bad("the key that is the salt is missing")),
            };
            Zeroizing::new(mac::hmac(self.digest, salt, key)?)
        } else {
            Zeroizing::new(key.to_vec())
        };
        if !self.expand {
            return if self.extract { Ok(extracted) } else { Err(bad("HKDF extracts, expands, or both")) };
        }
        let wanted = check_wanted(wanted.unwrap_or(hash_bytes))?;
        let blocks = wanted.div_ceil(hash_bytes);
        if blocks > 255 {
            return Err(Error::new(CKR_KEY_SIZE_RANGE, "HKDF gives at most 255 times the digest"));
        }
        let mut out = Zeroizing::new(Vec::with_capacity(blocks * hash_bytes));
        let mut input = Zeroizing::new(Vec::with_capacity(hash_bytes + self.info.len() + 1));
        for counter in 1..=blocks as u8 {
            input.truncate(0);
            input.extend_from_slice(&out[out.len().saturating_sub(hash_bytes)..]);
            input.extend_from_slice(&self.info);
            input.push(counter);
            let block = Zeroizing::new(mac::hmac(self.digest, &extracted, &input)?);
            out.extend_from_slice(&block);
        }
        out.truncate(wanted);
        Ok(out)
    }
}

/// What SP 800-108 is to do; the mechanism says in which mode.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sp800108 {
    /// `CKM_*` of the MAC: HMAC or CMAC.
    pub prf: CK_MECHANISM_TYPE,
    /// What the MAC is computed of.
    pub segments: Vec<Segment>,
    /// What feedback mode begins with.
    pub iv: Vec<u8>,
}

/// A part of what the MAC is computed of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Segment {
    /// What was computed before; not in counter mode.
    Iteration,
    /// The number of the block, from 1.
    Counter(Number),
    /// How many bits are derived: those of the key, or of all blocks.
    Length {
        /// Of all blocks.
        whole_blocks: bool,
        /// How it is written.
        number: Number,
    },
    /// These bytes.
    Bytes(Vec<u8>),
    /// The value of a key.
    Key(super::OtherKey),
}

/// How a number is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Number {
    /// The lowest byte first?
    pub little_endian: bool,
    /// 8, 16, 24, 32, and up to 64 for a length.
    pub bits: u64,
}

impl Number {
    /// A counter has up to 32 bits.
    pub const MAX_COUNTER_BITS: u64 = 32;
    /// A length.
    pub const MAX_LENGTH_BITS: u64 = 64;

    fn bytes(self) -> usize {
        self.bits.min(Self::MAX_LENGTH_BITS) as usize / 8
    }

    fn write(self, value: u64, most_bits: u64, out: &mut Vec<u8>) -> Result<()> {
        if self.bits == 0 || self.bits > most_bits || !self.bits.is_multiple_of(8) {
            return Err(bad("a number of SP 800-108 has a width that is not offered"));
        }
        if self.bits < 64 && value >> self.bits != 0 {
            return Err(Error::new(CKR_KEY_SIZE_RANGE, "the number's width does not suffice for the key"));
        }
        let bytes = self.bytes();
        if self.little_endian {
            out.extend_from_slice(&value.to_le_bytes()[..bytes]);
        } else {
            out.extend_from_slice(&value.to_be_bytes()[8 - bytes..]);
        }
        Ok(())
    }
}

impl Sp800108 {
    /// A key of `wanted` bytes, or of as many as the MAC has. `keys`: the values of the keys among the segments.
    ///
    /// # Errors
    /// `CKR_MECHANISM_PARAM_INVALID`, `CKR_KEY_SIZE_RANGE`, `CKR_KEY_TYPE_INCONSISTENT`.
    pub(in crate::units) fn derive(
        &self,
        mode: CK_MECHANISM_TYPE,
        key_type: CK_KEY_TYPE,
        key: &[u8],
        keys: &[Zeroizing<Vec<u8>>],
        wanted: Option<usize>,
    ) -> Result<Zeroizing<Vec<u8>>> {
        let count = |matches: fn(&Segment) -> bool| self.segments.iter().filter(|s| matches(s)).count();
        let iterations = count(|segment| matches!(segment, Segment::Iteration));
        let counters = count(|segment| matches!(segment, Segment::Counter(_)));
        let lengths = count(|segment| matches!(segment, Segment::Length { .. }));
        let fits = match mode {
            CKM_SP800_108_COUNTER_KDF => iterations == 0 && counters == 1,
            _ => iterations == 1 && counters <= 1,
        };
        if mode != CKM_SP800_108_FEEDBACK_KDF && !self.iv.is_empty() {
            return Err(bad("only the feedback mode of SP 800-108 begins with an IV"));
        }
        if !fits || lengths > 1 {
            return Err(bad("the data of SP 800-108 have not what the mode wants, or have it twice"));
        }
        let prf = Mechanism::plain(self.prf);
        let mac_bytes = match mac::bytes(&prf) {
            Some(Ok(bytes)) if mac::is_prf(self.prf) => bytes,
            _ => return Err(bad("the PRF of SP 800-108 is HMAC or CMAC")),
        };
        let ready = OnceLock::new();
        let mac = |input: &[u8]| mac::sign(&prf, key_type, key, input, &ready).map(Zeroizing::new);
        let wanted = check_wanted(wanted.unwrap_or(mac_bytes))?;
        let blocks = wanted.div_ceil(mac_bytes);
        let input = |iteration: Option<&[u8]>, counter: Option<u64>| {
            self.input(iteration, counter, (wanted, blocks * mac_bytes), keys)
        };
        let mut out = Zeroizing::new(Vec::with_capacity(blocks * mac_bytes));
        // What goes into the next block: in feedback mode the last block, in the double pipeline A(i).
        let mut state = match mode {
            CKM_SP800_108_COUNTER_KDF => Zeroizing::default(),
            CKM_SP800_108_FEEDBACK_KDF => Zeroizing::new(self.iv.clone()),
            _ => input(None, None)?,
        };
        for counter in 1..=blocks as u64 {
            if mode == CKM_SP800_108_DOUBLE_PIPELINE_KDF {
                state = mac(&state)?;
            }
            let block = mac(&input(Some(&state), Some(counter))?)?;
            out.extend_from_slice(&block);
            if mode == CKM_SP800_108_FEEDBACK_KDF {
                state = block;
            }
        }
        out.truncate(wanted);
        Ok(out)
    }

    /// One input of the MAC; without iteration variable and counter where there are none.
    fn input(
        &self,
        iteration: Option<&[u8]>,
        counter: Option<u64>,
        (wanted, of_blocks): (usize, usize),
        keys: &[Zeroizing<Vec<u8>>],
    ) -> Result<Zeroizing<Vec<u8>>> {
        if self.segments.len() > MAX_SEGMENTS {
            return Err(bad("the data of SP 800-108 have at most 64 parts"));
        }
        let input_bytes = self.input_bytes(iteration, keys);
        if input_bytes > MAX_INPUT_BYTES {
            return Err(bad("the data of SP 800-108 have at most 64 KiB"));
        }
        // With all the room it needs: a growing vector would leave copies of keys behind.
        let mut input = Zeroizing::new(Vec::with_capacity(input_bytes));
        let mut keys = keys.iter();
        for segment in &self.segments {
            match segment {
                Segment::Iteration => input.extend_from_slice(iteration.unwrap_or_default()),
                Segment::Counter(number) => {
                    if let Some(counter) = counter {
                        number.write(counter, Number::MAX_COUNTER_BITS, &mut input)?;
                    }
                }
                Segment::Length { whole_blocks, number } => {
                    let bytes = if *whole_blocks { of_blocks } else { wanted };
                    number.write(bytes as u64 * 8, Number::MAX_LENGTH_BITS, &mut input)?;
                }
                Segment::Bytes(bytes) => input.extend_from_slice(bytes),
                Segment::Key(_) => {
                    input.extend_from_slice(keys.next().ok_or_else(|| bad("a key of the data is missing"))?);
                }
            }
        }
        Ok(input)
    }

    /// The length of an input, or a little more if there is no counter.
    fn input_bytes(&self, iteration: Option<&[u8]>, keys: &[Zeroizing<Vec<u8>>]) -> usize {
        let bytes = |segment: &Segment| match segment {
            Segment::Iteration => iteration.map_or(0, <[u8]>::len),
            Segment::Counter(number) | Segment::Length { number, .. } => number.bytes(),
            Segment::Bytes(bytes) => bytes.len(),
            Segment::Key(_) => 0,
        };
        let of_keys: usize = keys.iter().map(|key| key.len()).sum();
        self.segments.iter().map(bytes).sum::<usize>() + of_keys
    }
}

/// What PBKDF2 is to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pbkdf2 {
    /// `CKP_PKCS5_PBKD2_HMAC_*`.
    pub prf: u64,
    /// Not secret.
    pub salt: Vec<u8>,
    /// How often the MAC is computed.
    pub iterations: u64,
    /// What the key is made of.
    pub password: Secret,
}

impl Pbkdf2 {
    /// A key of so many bytes.
    ///
    /// # Errors
    /// `CKR_MECHANISM_PARAM_INVALID`.
    pub(in crate::units) fn derive(&self, wanted: usize) -> Result<Zeroizing<Vec<u8>>> {
        let digest = match self.prf {
            CKP_PKCS5_PBKD2_HMAC_SHA1 => CKM_SHA_1,
            CKP_PKCS5_PBKD2_HMAC_SHA224 => CKM_SHA224,
            CKP_PKCS5_PBKD2_HMAC_SHA256 => CKM_SHA256,
            CKP_PKCS5_PBKD2_HMAC_SHA384 => CKM_SHA384,
            CKP_PKCS5_PBKD2_HMAC_SHA512 => CKM_SHA512,
            CKP_PKCS5_PBKD2_HMAC_SHA512_224 => CKM_SHA512_224,
            CKP_PKCS5_PBKD2_HMAC_SHA512_256 => CKM_SHA512_256,
            _ => return Err(bad("the PRF of PBKDF2 is HMAC with SHA-1 or SHA-2")),
        };
        let digest = digest::message_digest(digest)?;
        let blocks = wanted.div_ceil(digest.size()) as u64;
        if self.salt.len() > MAX_INPUT_BYTES {
            return Err(bad("the salt of PBKDF2 has at most 64 KiB"));
        }
        if self.iterations == 0 || self.iterations.saturating_mul(blocks) > MAX_ITERATIONS {
            return Err(bad("PBKDF2 computes its PRF 1 to 10,000,000 times, all blocks together"));
        }
        let mut out = Zeroizing::new(vec![0; wanted]);
        pbkdf2_hmac(self.password.expose_secret(), &self.salt, self.iterations as usize, digest, &mut out)
            .map_err(openssl_error)?;
        Ok(out)
    }
}

fn check_wanted(wanted: usize) -> Result<usize> {
    if (1..=secret_key::MAX_BYTES as usize).contains(&wanted) {
        return Ok(wanted);
    }
    Err(Error::new(CKR_KEY_SIZE_RANGE, "a secret key has 1 to 4096 bytes"))
}

fn bad(message: &'static str) -> Error {
    Error::new(CKR_MECHANISM_PARAM_INVALID, message)
}

/// Some seconds; over all blocks.
const MAX_ITERATIONS: u64 = 10_000_000;
/// What goes into each block beside the key.
pub(super) const MAX_INPUT_BYTES: usize = 64 << 10;
/// Each kind once, and some bytes between them.
const MAX_SEGMENTS: usize = 64;
