//! Random numbers (section 5.15).

use cryptoki_sys::*;
use hsm_emulator::units::{Error, Result};
use zeroize::Zeroizing;

use crate::module::Module;

/// `C_GenerateRandom`.
///
/// # Errors
/// `CKR_ARGUMENTS_BAD` for more than 64 MiB; the backend's.
pub fn generate_random(module: &Module, len: usize) -> Result<Zeroizing<Vec<u8>>> {
    if len > MAX_BYTES {
        return Err(Error::new(CKR_ARGUMENTS_BAD, "at most 64 MiB of random bytes in one call"));
    }
    let mut bytes = Zeroizing::new(vec![0; len]);
    module.backend.random(&mut bytes)?;
    Ok(bytes)
}

const MAX_BYTES: usize = 64 << 20;
