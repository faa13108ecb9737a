//! Key bytes in memory.

use std::fmt;

use zeroize::{Zeroize, Zeroizing};

use crate::error::{Error, Result};

/// A bucket key: 32 bytes on a page of their own, kept out of swap where the
/// operating system allows it, wiped on drop.
pub struct BucketKey {
    page: Box<Page>,
    // Unlocks on drop, after `drop` has wiped the page.
    _lock: Option<region::LockGuard>,
}

/// A whole page, so that unlocking one key never unlocks another.
#[repr(align(4096))]
struct Page([u8; 4096]);

impl BucketKey {
    /// Length in bytes.
    pub const LEN: usize = 32;

    /// Moves key bytes to locked memory and wipes the source.
    pub fn new(mut bytes: Vec<u8>) -> Result<Self> {
        if bytes.len() != Self::LEN {
            bytes.zeroize();
            return Err(Error::internal("the HSM returned a bucket key of a wrong length"));
        }
        let mut page = Box::new(Page([0; 4096]));
        let lock = region::lock(page.0.as_ptr(), page.0.len())
            .inspect_err(|source| {
                tracing::warn!(%source, "a bucket key cannot be locked in memory: raise RLIMIT_MEMLOCK");
            })
            .ok();
        page.0[..Self::LEN].copy_from_slice(&bytes);
        bytes.zeroize();
        Ok(Self { page, _lock: lock })
    }

    /// The key bytes.
    pub fn expose_secret(&self) -> &[u8] {
        &self.page.0[..Self::LEN]
    }
}

impl Drop for BucketKey {
    fn drop(&mut self) {
        self.page.0[..Self::LEN].zeroize();
    }
}

impl fmt::Debug for BucketKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("BucketKey(..)")
    }
}

/// The data key of one blob.
pub struct DataKey(Zeroizing<[u8; 32]>);

impl DataKey {
    /// A fresh random key.
    pub fn generate() -> Result<Self> {
        let mut bytes = Zeroizing::new([0; 32]);
        aws_lc_rs::rand::fill(bytes.as_mut_slice()).map_err(|_| Error::internal("no randomness"))?;
        Ok(Self(bytes))
    }

    /// A key that was unsealed.
    pub fn from_slice(bytes: &[u8]) -> Result<Self> {
        let bytes = bytes.try_into().map_err(|_| Error::damaged("a data key has a wrong length"))?;
        Ok(Self(Zeroizing::new(bytes)))
    }

    /// The key bytes.
    pub fn expose_secret(&self) -> &[u8; 32] {
        &self.0
    }
}

impl fmt::Debug for DataKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("DataKey(..)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn debug_shows_no_key_byte() {
        let key = BucketKey::new(vec![0xab; 32]).unwrap();
        assert_eq!(format!("{key:?}"), "BucketKey(..)");
        assert_eq!(format!("{:?}", DataKey::generate().unwrap()), "DataKey(..)");
    }

    #[test]
    fn wrong_length_is_refused() {
        assert!(BucketKey::new(vec![1; 31]).is_err());
    }
}
