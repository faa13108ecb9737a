//! ETags: the MD5 of the plaintext, and S3's digest of digests for multipart objects.
//!
//! MD5 bounds the speed of an upload, so the fastest kernel is used; it is checked
//! against the reference implementation when the process starts and left aside
//! if the two ever differ. MD5 protects nothing here: it is what S3 clients compare.

use std::sync::OnceLock;

use md5::Digest as _;

/// The MD5 of a stream.
pub struct Md5(Kernel);

enum Kernel {
    Fast(Box<md5_simd::Md5>),
    Reference(Box<md5::Md5>),
}

impl Md5 {
    /// An empty stream.
    pub fn new() -> Self {
        if fast_kernel_agrees() {
            Self(Kernel::Fast(Box::new(md5_simd::Md5::new())))
        } else {
            Self::reference()
        }
    }

    /// The reference implementation.
    pub fn reference() -> Self {
        Self(Kernel::Reference(Box::new(md5::Md5::new())))
    }

    /// Adds bytes.
    pub fn update(&mut self, bytes: &[u8]) {
        match &mut self.0 {
            Kernel::Fast(kernel) => kernel.update(bytes),
            Kernel::Reference(kernel) => kernel.update(bytes),
        }
    }

    /// The digest of everything added.
    pub fn finish(self) -> [u8; 16] {
        match self.0 {
            Kernel::Fast(kernel) => kernel.finalize(),
            Kernel::Reference(kernel) => kernel.finalize().into(),
        }
    }
}

impl Default for Md5 {
    fn default() -> Self {
        Self::new()
    }
}

/// The ETag of a multipart object: MD5 of the parts' MD5s, a dash, the number of parts.
/// `None` if a part's ETag is not an MD5 in hexadecimal.
pub fn multipart_etag<'a>(parts: impl Iterator<Item = &'a str>) -> Option<String> {
    let mut md5 = Md5::new();
    let mut count = 0;
    for part in parts {
        let mut digest = [0; 16];
        hex::decode_to_slice(part, &mut digest).ok()?;
        md5.update(&digest);
        count += 1;
    }
    Some(format!("{}-{count}", hex::encode(md5.finish())))
}

/// Compares both kernels once on every length around the block size and on longer input, in uneven steps.
fn fast_kernel_agrees() -> bool {
    static AGREES: OnceLock<bool> = OnceLock::new();
    *AGREES.get_or_init(|| {
        let input: Vec<u8> = (0..4096_u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
        let lengths = (0..=260).chain([511, 512, 513, 1023, 1024, 1025, 4095, 4096]);
        let agrees = lengths.into_iter().all(|length| {
            let mut fast = md5_simd::Md5::new();
            input[..length].chunks(61).for_each(|chunk| fast.update(chunk));
            let whole = md5_simd::digest(&input[..length]);
            let reference: [u8; 16] = md5::Md5::digest(&input[..length]).into();
            fast.finalize() == reference && whole == reference
        });
        if !agrees {
            tracing::warn!("the fast MD5 kernel disagrees with the reference on this processor: not used");
        }
        agrees
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn fast_kernel_is_in_use() {
        assert!(fast_kernel_agrees());
    }

    #[test]
    fn multipart_etag_is_md5_of_md5s() {
        // From AWS's documentation of a two-part upload of "a" and "b".
        let a = hex::encode(md5::Md5::digest(b"a"));
        let b = hex::encode(md5::Md5::digest(b"b"));
        let mut both = md5::Md5::digest(b"a").to_vec();
        both.extend(md5::Md5::digest(b"b"));
        let want = format!("{}-2", hex::encode(md5::Md5::digest(&both)));
        assert_eq!(multipart_etag([a.as_str(), b.as_str()].into_iter()), Some(want));
        assert_eq!(multipart_etag(["not hex"].into_iter()), None);
    }

    proptest! {
        #[test]
        fn kernels_agree(input in proptest::collection::vec(any::<u8>(), 0..200_000), step in 1_usize..70_000) {
            let (mut fast, mut reference) = (Md5::new(), Md5::reference());
            input.chunks(step).for_each(|chunk| fast.update(chunk));
            reference.update(&input);
            prop_assert_eq!(fast.finish(), reference.finish());
        }
    }
}
