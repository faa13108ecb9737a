//! The nonce of an AEAD message, and who makes it (version 3.0 section 6.13.3, `CK_GENERATOR_FUNCTION`).

use cryptoki_sys::*;
use hsm_emulator::units::{Error, Result};

use crate::arguments::OutExact;
use crate::module::Module;

/// What a message's parameter says of its nonce.
pub struct Nonce<'a> {
    /// What the caller gives, as far as it is used: all of it, or what holds the fixed bits.
    pub given: Vec<u8>,
    /// Bits of it that stay as they are, from the first one on.
    pub fixed_bits: usize,
    /// `CKG_*`.
    pub generator: CK_GENERATOR_FUNCTION,
    /// Where a generated nonce goes; it has the nonce's length.
    pub out: OutExact<'a>,
}

/// Makes nonces for one operation. No two from a counter are the same.
#[derive(Clone, Default)]
pub struct NonceGenerator {
    /// The first nonce of `CKG_GENERATE_COUNTER_XOR`, with which the counter is mixed.
    base: Option<Vec<u8>>,
    /// Where `CKG_GENERATE_COUNTER` began: somewhere, so that operations with the same key don't begin at the same place.
    start: Option<u64>,
    made: u64,
}

impl NonceGenerator {
    /// The nonce for the next message; one that was made here is given to the caller.
    ///
    /// # Errors
    /// `CKR_MECHANISM_PARAM_INVALID`, also when a counter is used up.
    pub fn next(&mut self, module: &Module, nonce: &Nonce<'_>) -> Result<Vec<u8>> {
        let len = nonce.out.len();
        let made = match nonce.generator {
            CKG_NO_GENERATE => return Ok(nonce.given.clone()),
            CKG_GENERATE | CKG_GENERATE_RANDOM => {
                if 8 * len - nonce.fixed_bits < MIN_RANDOM_BITS {
                    return Err(invalid(
                        "too few bits of the nonce are left for a random one: 64 are needed",
                    ));
                }
                let mut bytes = vec![0; len];
                module.backend.random(&mut bytes)?;
                keep_fixed(bytes, nonce)
            }
            CKG_GENERATE_COUNTER => {
                let start = match self.start {
                    Some(start) => start,
                    None => {
                        let mut bytes = [0; 8];
                        module.backend.random(&mut bytes)?;
                        *self.start.insert(u64::from_be_bytes(bytes))
                    }
                };
                let count = self.count(8 * len - nonce.fixed_bits)?;
                keep_fixed(at_the_end(len, start.wrapping_add(count)), nonce)
            }
            CKG_GENERATE_COUNTER_XOR => {
                let base = self.base.get_or_insert_with(|| nonce.given.clone()).clone();
                if base.len() != len {
                    return Err(invalid("the length of the nonce has changed"));
                }
                let count = self.count(8 * len - nonce.fixed_bits)?;
                base.iter().zip(at_the_end(len, count)).map(|(base, count)| base ^ count).collect()
            }
            _ => return Err(invalid("no such generator of nonces")),
        };
        nonce.out.deliver(&made)?;
        Ok(made)
    }

    /// Counts the messages, as far as so many bits can tell them apart.
    fn count(&mut self, bits: usize) -> Result<u64> {
        if bits < 64 && self.made >> bits != 0 {
            return Err(invalid("the counter of the nonces is used up"));
        }
        let count = self.made;
        self.made += 1;
        Ok(count)
    }
}

/// `bytes` behind the fixed bits that the caller gives.
fn keep_fixed(mut bytes: Vec<u8>, nonce: &Nonce<'_>) -> Vec<u8> {
    for (i, (byte, given)) in bytes.iter_mut().zip(&nonce.given).enumerate() {
        let fixed = nonce.fixed_bits.saturating_sub(8 * i).min(8);
        let mask = !(0xff_u32 >> fixed) as u8;
        *byte = given & mask | *byte & !mask;
    }
    bytes
}

fn at_the_end(len: usize, number: u64) -> Vec<u8> {
    let mut bytes = vec![0; len.max(8)];
    let end = bytes.len() - 8;
    bytes[end..].copy_from_slice(&number.to_be_bytes());
    bytes.split_off(bytes.len() - len)
}

/// With fewer, two nonces are soon the same, and AES-GCM's key is given away.
const MIN_RANDOM_BITS: usize = 64;

fn invalid(message: &'static str) -> Error {
    Error::new(CKR_MECHANISM_PARAM_INVALID, message)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_stands_at_the_end() {
        assert_eq!(at_the_end(4, 0x0102_0304_0506_0708), [5, 6, 7, 8]);
        assert_eq!(at_the_end(9, 1), [0, 0, 0, 0, 0, 0, 0, 0, 1]);
    }

    #[test]
    fn a_counter_ends_where_its_bits_do() {
        let mut nonces = NonceGenerator::default();
        assert!((0..4).all(|expected| nonces.count(2).is_ok_and(|count| count == expected)));
        assert!(nonces.count(2).is_err());
        assert!(nonces.count(64).is_ok());
    }
}
