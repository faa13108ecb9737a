//! Content at rest: AES-256-GCM in segments, as Tink's `AesGcmHkdfStreaming` writes it.
//!
//! ```text
//! header    1 byte header length (40) || 32 bytes salt || 7 bytes nonce prefix
//! key       HKDF-SHA256(data key, salt, info = associated data), 32 bytes
//! segment   ciphertext || 16 bytes tag; nonce = prefix || u32 number, big endian || 1 if last else 0
//! ```
//!
//! Every segment but the last is `segment_size` bytes long at rest; the header
//! counts as part of the first. A moved, swapped, missing or altered segment does
//! not authenticate, and neither does a stream that ends early. No plaintext of a
//! segment is given out before its tag has been checked.

use std::ops::Range;

use aws_lc_rs::{
    aead::{AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey},
    hkdf,
};
use zeroize::Zeroizing;

use crate::error::{Error, Result};

/// Bytes before the first segment's ciphertext.
pub const HEADER_LEN: usize = 40;
/// Bytes that each segment adds.
pub const TAG_LEN: usize = 16;
/// Segment size at rest of most blobs, in bytes.
pub const DEFAULT_SEGMENT: u32 = 64 * 1024;
/// Segment size at rest of blobs of [`LARGE_BLOB`] bytes and more. Not more than this: a segment is copied,
/// encrypted and written while it is in the processor's cache, which saves a tenth of an upload's time.
pub const LARGE_SEGMENT: u32 = 256 * 1024;
/// From this plaintext size on, segments are large.
pub const LARGE_BLOB: u64 = 8 * 1024 * 1024;

const SALT: Range<usize> = 1..33;
const PREFIX: Range<usize> = 33..HEADER_LEN;

/// Where plaintext lies among segments.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Layout {
    /// Segment size at rest, in bytes.
    pub segment: u32,
    /// Plaintext bytes.
    pub size: u64,
}

impl Layout {
    /// The segment size for a blob whose plaintext has `size` bytes, if that is known.
    pub fn segment_for(size: Option<u64>) -> u32 {
        if size.is_some_and(|size| size >= LARGE_BLOB) { LARGE_SEGMENT } else { DEFAULT_SEGMENT }
    }

    /// Checks numbers that come from storage.
    pub fn new(segment: u32, size: u64) -> Result<Self> {
        let layout = Self { segment, size };
        if (segment as usize) <= HEADER_LEN + TAG_LEN || layout.count() > u64::from(u32::MAX) {
            return Err(Error::damaged(format_args!("segments of {segment} bytes for {size} bytes")));
        }
        Ok(layout)
    }

    fn first(&self) -> u64 {
        u64::from(self.segment) - (HEADER_LEN + TAG_LEN) as u64
    }

    fn next(&self) -> u64 {
        u64::from(self.segment) - TAG_LEN as u64
    }

    /// Number of segments; an empty stream has one.
    pub fn count(&self) -> u64 {
        1 + self.size.saturating_sub(self.first()).div_ceil(self.next())
    }

    /// Bytes at rest.
    pub fn stored(&self) -> u64 {
        self.size + HEADER_LEN as u64 + self.count() * TAG_LEN as u64
    }

    /// The segment that holds a plaintext offset.
    pub fn segment_of(&self, offset: u64) -> u64 {
        if offset < self.first() { 0 } else { 1 + (offset - self.first()) / self.next() }
    }

    /// The plaintext of a segment.
    pub fn plaintext(&self, index: u64) -> Range<u64> {
        let start = if index == 0 { 0 } else { self.first() + (index - 1) * self.next() };
        let end = self.first() + index * self.next();
        start.min(self.size)..end.min(self.size)
    }

    /// The ciphertext and tag of a segment, as offsets in the stored blob.
    pub fn ciphertext(&self, index: u64) -> Range<u64> {
        let start = if index == 0 { HEADER_LEN as u64 } else { index * u64::from(self.segment) };
        let plaintext = self.plaintext(index);
        start..start + (plaintext.end - plaintext.start) + TAG_LEN as u64
    }
}

/// Turns plaintext into a stored stream.
pub struct Sealer {
    key: StreamKey,
    segment: usize,
    /// Ciphertext that is ready, then the open segment's plaintext.
    buffer: Vec<u8>,
    /// Where the open segment begins in `buffer`.
    open: usize,
    /// Plaintext bytes that the open segment can hold.
    capacity: usize,
    index: u32,
    size: u64,
}

impl Sealer {
    /// A stream under `data_key`, bound to `associated_data`, with a fresh salt and nonce prefix.
    pub fn new(data_key: &[u8; 32], associated_data: &[u8], segment: u32) -> Result<Self> {
        let mut header = [0; HEADER_LEN];
        aws_lc_rs::rand::fill(&mut header).map_err(|_| Error::internal("no randomness"))?;
        header[0] = HEADER_LEN as u8;
        Self::with_header(data_key, associated_data, segment, header)
    }

    fn with_header(
        data_key: &[u8; 32],
        associated_data: &[u8],
        segment: u32,
        header: [u8; HEADER_LEN],
    ) -> Result<Self> {
        let key = StreamKey::new(data_key, associated_data, &header)?;
        let segment = segment as usize;
        let buffer = header.to_vec();
        let capacity = segment - HEADER_LEN - TAG_LEN;
        Ok(Self { key, segment, buffer, open: HEADER_LEN, capacity, index: 0, size: 0 })
    }

    /// Adds plaintext.
    pub fn update(&mut self, mut plaintext: &[u8]) -> Result<()> {
        self.size += plaintext.len() as u64;
        self.buffer.reserve(plaintext.len() + plaintext.len() / 1024 + self.segment + TAG_LEN);
        while !plaintext.is_empty() {
            let free = self.capacity - (self.buffer.len() - self.open);
            // A full segment is sealed only when more follows: it might be the last.
            if free == 0 {
                self.seal(false)?;
                continue;
            }
            let (now, later) = plaintext.split_at(free.min(plaintext.len()));
            self.buffer.extend_from_slice(now);
            plaintext = later;
        }
        Ok(())
    }

    /// Takes the finished ciphertext out.
    pub fn ready(&self) -> &[u8] {
        &self.buffer[..self.open]
    }

    /// Forgets the ciphertext that [`Self::ready`] showed.
    pub fn drain(&mut self) {
        self.buffer.copy_within(self.open.., 0);
        self.buffer.truncate(self.buffer.len() - self.open);
        self.open = 0;
    }

    /// Seals the last segment and returns what is left to store.
    pub fn finish(mut self) -> Result<Vec<u8>> {
        self.seal(true)?;
        self.open = 0;
        Ok(std::mem::take(&mut self.buffer))
    }

    /// Plaintext bytes so far.
    pub fn size(&self) -> u64 {
        self.size
    }

    fn seal(&mut self, last: bool) -> Result<()> {
        let nonce = self.key.nonce(self.index, last);
        let tag = self
            .key
            .key
            .seal_in_place_separate_tag(nonce, Aad::empty(), &mut self.buffer[self.open..])
            .map_err(|_| Error::internal("encryption failed"))?;
        self.buffer.extend_from_slice(tag.as_ref());
        self.open = self.buffer.len();
        self.capacity = self.segment - TAG_LEN;
        self.index = self.index.checked_add(1).ok_or_else(Error::entity_too_large)?;
        Ok(())
    }
}

impl Drop for Sealer {
    fn drop(&mut self) {
        zeroize::Zeroize::zeroize(&mut self.buffer[self.open..]);
    }
}

/// Reads plaintext back out of a stored stream, any segment first.
pub struct Opener {
    key: StreamKey,
    layout: Layout,
}

impl Opener {
    /// A stream with this header, key and associated data.
    pub fn new(
        data_key: &[u8; 32],
        associated_data: &[u8],
        header: &[u8; HEADER_LEN],
        layout: Layout,
    ) -> Result<Self> {
        if usize::from(header[0]) != HEADER_LEN {
            return Err(Error::damaged("a stored stream has an unknown header"));
        }
        Ok(Self { key: StreamKey::new(data_key, associated_data, header)?, layout })
    }

    /// The layout of the stream.
    pub fn layout(&self) -> &Layout {
        &self.layout
    }

    /// Decrypts consecutive segments, from number `first` to number `last`, and appends their plaintext.
    ///
    /// # Errors
    /// If any of them is not whole or does not authenticate; `plaintext` then holds nothing new.
    pub fn open(&self, first: u64, last: u64, mut ciphertext: &[u8], plaintext: &mut Vec<u8>) -> Result<()> {
        let expected = self.layout.ciphertext(last).end.saturating_sub(self.layout.ciphertext(first).start);
        if ciphertext.len() as u64 != expected {
            return Err(Error::damaged("a stored stream ends early or goes on too long"));
        }
        let begin = plaintext.len();
        let mut index = first;
        plaintext.resize(begin + ciphertext.len(), 0);
        let mut end = begin;
        let mut outcome = Ok(());
        while outcome.is_ok() && !ciphertext.is_empty() {
            let range = self.layout.ciphertext(index);
            let length = (range.end - range.start) as usize;
            let Some((segment, rest)) = ciphertext.split_at_checked(length) else {
                outcome = Err(Error::damaged("a stored stream ends within a segment"));
                break;
            };
            let (body, tag) = segment.split_at(length - TAG_LEN);
            let last = index + 1 == self.layout.count();
            let opened =
                u32::try_from(index).ok().filter(|_| index < self.layout.count()).and_then(|number| {
                    let out = &mut plaintext[end..end + body.len()];
                    self.key
                        .key
                        .open_separate_gather(self.key.nonce(number, last), Aad::empty(), body, tag, out)
                        .ok()
                });
            if opened.is_none() {
                outcome = Err(Error::damaged(format_args!(
                    "segment {index} of a stored stream does not authenticate"
                )));
            } else {
                end += body.len();
            }
            ciphertext = rest;
            index += 1;
        }
        if outcome.is_err() {
            zeroize::Zeroize::zeroize(&mut plaintext[begin..]);
            end = begin;
        }
        plaintext.truncate(end);
        outcome
    }
}

struct StreamKey {
    key: LessSafeKey,
    prefix: [u8; 7],
}

impl StreamKey {
    fn new(data_key: &[u8; 32], associated_data: &[u8], header: &[u8; HEADER_LEN]) -> Result<Self> {
        let derived = hkdf_sha256(data_key, &header[SALT], associated_data)?;
        let key = UnboundKey::new(&AES_256_GCM, derived.as_slice())
            .map_err(|_| Error::internal("key setup failed"))?;
        let mut prefix = [0; 7];
        prefix.copy_from_slice(&header[PREFIX]);
        Ok(Self { key: LessSafeKey::new(key), prefix })
    }

    fn nonce(&self, index: u32, last: bool) -> Nonce {
        let mut nonce = [0; 12];
        nonce[..7].copy_from_slice(&self.prefix);
        nonce[7..11].copy_from_slice(&index.to_be_bytes());
        nonce[11] = u8::from(last);
        Nonce::assume_unique_for_key(nonce)
    }
}

/// HKDF-SHA256 (RFC 5869) with a 32-byte result.
pub fn hkdf_sha256(key: &[u8], salt: &[u8], info: &[u8]) -> Result<Zeroizing<[u8; 32]>> {
    let mut derived = Zeroizing::new([0; 32]);
    hkdf::Salt::new(hkdf::HKDF_SHA256, salt)
        .extract(key)
        .expand(&[info], hkdf::HKDF_SHA256)
        .and_then(|okm| okm.fill(derived.as_mut_slice()))
        .map_err(|_| Error::internal("key derivation failed"))?;
    Ok(derived)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const KEY: [u8; 32] = [7; 32];

    fn seal(plaintext: &[u8], aad: &[u8], segment: u32, step: usize) -> Vec<u8> {
        let mut sealer = Sealer::new(&KEY, aad, segment).unwrap();
        let mut stored = Vec::new();
        for chunk in plaintext.chunks(step.max(1)) {
            sealer.update(chunk).unwrap();
            stored.extend_from_slice(sealer.ready());
            sealer.drain();
        }
        stored.extend(sealer.finish().unwrap());
        stored
    }

    fn open(stored: &[u8], aad: &[u8], layout: Layout) -> Result<Vec<u8>> {
        let header = stored.first_chunk().ok_or_else(|| Error::internal("short"))?;
        let mut plaintext = Vec::new();
        Opener::new(&KEY, aad, header, layout)?.open(
            0,
            layout.count() - 1,
            &stored[HEADER_LEN..],
            &mut plaintext,
        )?;
        Ok(plaintext)
    }

    #[test]
    fn sizes_around_the_segment_borders() {
        for segment in [64_u32, 100, DEFAULT_SEGMENT] {
            let first = segment as usize - HEADER_LEN - TAG_LEN;
            let next = segment as usize - TAG_LEN;
            for size in [0, 1, first - 1, first, first + 1, first + next - 1, first + next, first + next + 1]
            {
                let plaintext: Vec<u8> = (0..size).map(|i| i as u8).collect();
                let layout = Layout::new(segment, size as u64).unwrap();
                let stored = seal(&plaintext, b"aad", segment, 777);
                assert_eq!(stored.len() as u64, layout.stored(), "segment {segment} size {size}");
                assert_eq!(open(&stored, b"aad", layout).unwrap(), plaintext);
            }
        }
    }

    #[test]
    fn other_associated_data_is_refused() {
        let stored = seal(b"hello", b"one", 64, 5);
        assert!(open(&stored, b"two", Layout::new(64, 5).unwrap()).is_err());
    }

    #[test]
    fn two_streams_share_nothing() {
        assert_ne!(seal(b"hello", b"", 64, 5)[..], seal(b"hello", b"", 64, 5)[..]);
    }

    #[derive(serde::Deserialize)]
    struct Vector {
        key: String,
        aad: String,
        segment: u32,
        plaintext: String,
        ciphertext: String,
    }

    /// Made with Tink's own Python package: see `testdata/README.md`.
    #[test]
    fn tink_reads_and_writes_the_same() {
        let vectors: Vec<Vector> =
            serde_json::from_str(include_str!("../../testdata/tink_streaming.json")).unwrap();
        assert!(!vectors.is_empty());
        for vector in vectors {
            let key: [u8; 32] = hex::decode(&vector.key).unwrap().try_into().unwrap();
            let aad = hex::decode(&vector.aad).unwrap();
            let plaintext = hex::decode(&vector.plaintext).unwrap();
            let ciphertext = hex::decode(&vector.ciphertext).unwrap();
            let header: [u8; HEADER_LEN] = ciphertext[..HEADER_LEN].try_into().unwrap();
            let layout = Layout::new(vector.segment, plaintext.len() as u64).unwrap();
            let mut opened = Vec::new();
            let opener = Opener::new(&key, &aad, &header, layout).unwrap();
            opener.open(0, layout.count() - 1, &ciphertext[HEADER_LEN..], &mut opened).unwrap();
            assert_eq!(opened, plaintext);
            let mut sealer = Sealer::with_header(&key, &aad, vector.segment, header).unwrap();
            sealer.update(&plaintext).unwrap();
            assert_eq!(sealer.finish().unwrap(), ciphertext);
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(300))]

        #[test]
        fn round_trip(size in 0_usize..3000, segment in 57_u32..400, step in 1_usize..500) {
            let plaintext: Vec<u8> = (0..size).map(|i| (i * 31) as u8).collect();
            let layout = Layout::new(segment, size as u64).unwrap();
            let stored = seal(&plaintext, b"", segment, step);
            prop_assert_eq!(stored.len() as u64, layout.stored());
            prop_assert_eq!(open(&stored, b"", layout).unwrap(), plaintext);
        }

        #[test]
        fn any_part_opens_alone(size in 1_u64..3000, segment in 57_u32..400, at in any::<prop::sample::Index>()) {
            let plaintext: Vec<u8> = (0..size).map(|i| (i * 31) as u8).collect();
            let layout = Layout::new(segment, size).unwrap();
            let stored = seal(&plaintext, b"", segment, 1000);
            let index = layout.segment_of(at.index(size as usize) as u64);
            let (from, to) = (layout.ciphertext(index), layout.plaintext(index));
            prop_assert!(to.contains(&(at.index(size as usize) as u64)));
            let opener = Opener::new(&KEY, b"", stored.first_chunk().unwrap(), layout).unwrap();
            let mut opened = Vec::new();
            opener.open(index, index, &stored[from.start as usize..from.end as usize], &mut opened).unwrap();
            prop_assert_eq!(&opened[..], &plaintext[to.start as usize..to.end as usize]);
        }

        #[test]
        fn a_flipped_bit_is_refused(size in 0_usize..1000, at in any::<prop::sample::Index>(), bit in 0_u32..8) {
            let plaintext = vec![1; size];
            let mut stored = seal(&plaintext, b"", 100, 1000);
            let at = at.index(stored.len());
            stored[at] ^= 1_u8 << bit;
            prop_assert!(open(&stored, b"", Layout::new(100, size as u64).unwrap()).is_err());
        }

        #[test]
        fn a_truncated_stream_is_refused(size in 0_usize..1000, keep in any::<prop::sample::Index>(), claimed in 0_u64..1000) {
            let plaintext = vec![1; size];
            let stored = seal(&plaintext, b"", 100, 1000);
            let short = &stored[..keep.index(stored.len())];
            prop_assert!(open(short, b"", Layout::new(100, size as u64).unwrap()).is_err());
            // Nor does it pass as a shorter stream.
            prop_assume!(claimed != size as u64);
            let layout = Layout::new(100, claimed).unwrap();
            prop_assert!(open(&stored, b"", layout).is_err());
            prop_assert!(open(short, b"", layout).is_err());
        }

        #[test]
        fn swapped_segments_are_refused(a in 0_u64..9, b in 0_u64..9) {
            prop_assume!(a != b);
            let layout = Layout::new(100, 44 + 84 * 8).unwrap();
            let stored = seal(&vec![1; layout.size as usize], b"", 100, 1000);
            let opener = Opener::new(&KEY, b"", stored.first_chunk().unwrap(), layout).unwrap();
            let from = layout.ciphertext(a);
            let segment = &stored[from.start as usize..from.end as usize];
            prop_assert!(opener.open(b, b, segment, &mut Vec::new()).is_err());
        }
    }
}
