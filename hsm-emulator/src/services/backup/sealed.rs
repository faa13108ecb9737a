//! A stream in authenticated segments under a passphrase.
//!
//! Header: 7 bytes magic, 1 byte version; KiB of memory and passes of Argon2id, 4 bytes each; 32 bytes salt; SHA-256 of all
//! that, which tells a damaged header from a wrong passphrase. Then a tag that only the right passphrase has, then
//! segments of 64 KiB, the last one shorter or equal. Each is AES-256-GCM under the passphrase's key, which is this
//! file's alone, with its number and whether it is the last in the nonce, and the header authenticated.

use std::io::{self, Read, Write};

use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey};
use aws_lc_rs::digest::{SHA256, digest};
use zeroize::Zeroizing;

use super::Error;
use crate::services::pins;
use crate::units::random;

/// Seals what is written to it. Without [`Self::finish`], what it has written opens nowhere.
pub(super) struct Sealer<W> {
    out: W,
    key: FileKey,
    segment: u64,
    /// Never reallocated.
    plaintext: Zeroizing<Vec<u8>>,
}

/// Opens what a [`Sealer`] has sealed. No byte comes out before its segment is authenticated.
pub(super) struct Opener<R> {
    input: R,
    key: FileKey,
    segment: u64,
    plaintext: Zeroizing<Vec<u8>>,
    /// Of `plaintext`: has been read.
    read: usize,
    /// The segment that comes next, as it lies in the file; empty at the end.
    ahead: Vec<u8>,
}

/// The key of one file.
struct FileKey {
    key: LessSafeKey,
    header: [u8; HEADER_BYTES],
}

/// What a nonce is for.
#[derive(Clone, Copy)]
enum Place {
    /// The tag that shows the right passphrase.
    Check,
    /// A segment, and another one comes.
    More,
    /// The last segment.
    Last,
}

impl<W: Write> Sealer<W> {
    /// Writes the header.
    pub fn new(mut out: W, passphrase: &[u8]) -> io::Result<Self> {
        let mut header = Vec::with_capacity(HEADER_BYTES);
        header.extend_from_slice(MAGIC);
        header.push(VERSION);
        header.extend_from_slice(&MEMORY_KIB.to_be_bytes());
        header.extend_from_slice(&PASSES.to_be_bytes());
        header.extend_from_slice(&random::array::<SALT_BYTES>().map_err(io::Error::other)?);
        header.extend_from_slice(digest(&SHA256, &header).as_ref());
        let header = header.try_into().map_err(|_| io::Error::other("a header of the wrong length"))?;
        let key = FileKey::derive(header, passphrase).map_err(io::Error::other)?;
        out.write_all(&key.header)?;
        let mut sealer =
            Self { out, key, segment: 0, plaintext: Zeroizing::new(Vec::with_capacity(SEGMENT_BYTES)) };
        sealer.seal(Place::Check)?;
        Ok(sealer)
    }

    /// Ends the stream.
    pub fn finish(mut self) -> io::Result<W> {
        self.seal(Place::Last)?;
        Ok(self.out)
    }

    fn seal(&mut self, place: Place) -> io::Result<()> {
        let nonce = nonce(self.segment, place);
        let tag =
            self.key.key.seal_in_place_separate_tag(nonce, Aad::from(self.key.header), &mut self.plaintext);
        let tag = tag.map_err(|_| io::Error::other("sealing failed"))?;
        self.out.write_all(&self.plaintext)?;
        self.out.write_all(tag.as_ref())?;
        self.plaintext.clear();
        self.segment += u64::from(matches!(place, Place::More));
        Ok(())
    }
}

impl<W: Write> Write for Sealer<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        // Only now it is known that this one is not the last.
        if self.plaintext.len() == SEGMENT_BYTES && !bytes.is_empty() {
            self.seal(Place::More)?;
        }
        let taken = bytes.len().min(SEGMENT_BYTES - self.plaintext.len());
        self.plaintext.extend_from_slice(&bytes[..taken]);
        Ok(taken)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl<R: Read> Opener<R> {
    /// Reads the header.
    ///
    /// # Errors
    /// [`Error::NoBackup`], [`Error::Newer`], [`Error::Header`], [`Error::Passphrase`], [`Error::Read`].
    pub fn new(mut input: R, passphrase: &[u8]) -> Result<Self, Error> {
        let start = read_up_to(&mut input, HEADER_BYTES + TAG_BYTES)?;
        let Some(version) = start.strip_prefix(MAGIC).and_then(|rest| rest.first()) else {
            return Err(Error::NoBackup);
        };
        if *version > VERSION {
            return Err(Error::Newer { found: *version, known: VERSION });
        }
        let (header, tag) = start.split_at_checked(HEADER_BYTES).ok_or(Error::Header)?;
        let header: [u8; HEADER_BYTES] = header.try_into().map_err(|_| Error::Header)?;
        let (content, sum) = header.split_at(HEADER_BYTES - SUM_BYTES);
        if digest(&SHA256, content).as_ref() != sum {
            return Err(Error::Header);
        }
        if tag.len() < TAG_BYTES {
            return Err(Error::CutShort { segment: 0 });
        }
        let key = FileKey::derive(header, passphrase)?;
        key.open(0, Place::Check, tag, &mut []).ok_or(Error::Passphrase)?;
        let ahead = read_up_to(&mut input, SEGMENT_BYTES + TAG_BYTES)?;
        let plaintext = Zeroizing::new(Vec::with_capacity(SEGMENT_BYTES));
        Ok(Self { input, key, segment: 0, plaintext, read: 0, ahead })
    }

    /// Opens the next segment; was there one?
    fn advance(&mut self) -> Result<bool, Error> {
        if self.ahead.is_empty() {
            // A file without a last segment ends before its first one.
            return if self.segment == 0 { Err(Error::CutShort { segment: 0 }) } else { Ok(false) };
        }
        let sealed = std::mem::take(&mut self.ahead);
        self.ahead = read_up_to(&mut self.input, SEGMENT_BYTES + TAG_BYTES)?;
        let segment = self.segment;
        let bytes = sealed.len().checked_sub(TAG_BYTES).ok_or(Error::CutShort { segment })?;
        self.plaintext.resize(bytes, 0);
        self.read = 0;
        let mut open = |place| self.key.open(segment, place, &sealed, &mut self.plaintext);
        let opened = match self.ahead.is_empty() {
            false => open(Place::More).ok_or(Error::Altered { segment }),
            true if open(Place::Last).is_some() => Ok(()),
            true if open(Place::More).is_some() => Err(Error::CutShort { segment: segment + 1 }),
            true => Err(Error::Altered { segment }),
        };
        if opened.is_err() {
            self.plaintext.clear();
        }
        self.segment += 1;
        opened.map(|()| true)
    }
}

impl<R: Read> Read for Opener<R> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        while self.read == self.plaintext.len() {
            if out.is_empty() || !self.advance().map_err(io::Error::other)? {
                return Ok(0);
            }
            // An empty last segment is the end, too.
            if self.plaintext.is_empty() {
                return Ok(0);
            }
        }
        let count = out.len().min(self.plaintext.len() - self.read);
        out[..count].copy_from_slice(&self.plaintext[self.read..self.read + count]);
        self.read += count;
        Ok(count)
    }
}

impl FileKey {
    fn derive(header: [u8; HEADER_BYTES], passphrase: &[u8]) -> Result<Self, Error> {
        let number =
            |at: usize| u32::from_be_bytes([header[at], header[at + 1], header[at + 2], header[at + 3]]);
        let (memory, passes) = (number(COST_AT), number(COST_AT + 4));
        // Whoever wrote the header must not choose how long this takes.
        if memory > MAX_MEMORY_KIB || passes > MAX_PASSES {
            return Err(Error::Header);
        }
        let salt = &header[SALT_AT..SALT_AT + SALT_BYTES];
        let key = pins::hash(passphrase, salt, memory, passes).map_err(|_| Error::Header)?;
        let key = UnboundKey::new(&AES_256_GCM, key.as_slice()).map_err(|_| Error::Header)?;
        Ok(Self { key: LessSafeKey::new(key), header })
    }

    fn open(&self, segment: u64, place: Place, sealed: &[u8], plaintext: &mut [u8]) -> Option<()> {
        let (ciphertext, tag) = sealed.split_at(sealed.len() - TAG_BYTES);
        let aad = Aad::from(self.header);
        self.key.open_separate_gather(nonce(segment, place), aad, ciphertext, tag, plaintext).ok()
    }
}

fn nonce(segment: u64, place: Place) -> Nonce {
    let mut nonce = [0; 12];
    nonce[..8].copy_from_slice(&segment.to_be_bytes());
    nonce[11] = place as u8;
    Nonce::assume_unique_for_key(nonce)
}

/// So many bytes, or all that there are.
fn read_up_to(input: &mut impl Read, bytes: usize) -> Result<Vec<u8>, Error> {
    let mut found = Vec::with_capacity(bytes);
    input.take(bytes as u64).read_to_end(&mut found).map_err(Error::Read)?;
    Ok(found)
}

const MAGIC: &[u8; 7] = b"HSMBKUP";
const VERSION: u8 = 1;
const COST_AT: usize = 8;
const SALT_AT: usize = 16;
const SALT_BYTES: usize = 32;
const SUM_BYTES: usize = 32;
const HEADER_BYTES: usize = SALT_AT + SALT_BYTES + SUM_BYTES;
const TAG_BYTES: usize = 16;
const SEGMENT_BYTES: usize = 64 << 10;
/// A passphrase is guessed at on other people's machines: the second choice of RFC 9106, with one lane.
const MEMORY_KIB: u32 = 64 << 10;
const PASSES: u32 = 3;
const MAX_MEMORY_KIB: u32 = 1 << 20;
const MAX_PASSES: u32 = 16;

#[cfg(test)]
mod tests {
    use super::*;

    fn sealed(content: &[u8]) -> Vec<u8> {
        let mut sealer = Sealer::new(Vec::new(), b"passphrase").expect("header");
        sealer.write_all(content).expect("write");
        sealer.finish().expect("finish")
    }

    fn opened(file: &[u8]) -> Result<Vec<u8>, Error> {
        let mut content = Vec::new();
        let outcome = Opener::new(file, b"passphrase")?.read_to_end(&mut content);
        outcome.map(|_| content).map_err(Error::from)
    }

    #[test]
    fn every_length_comes_back_and_no_cut_passes() {
        for length in [0, 1, SEGMENT_BYTES - 1, SEGMENT_BYTES, SEGMENT_BYTES + 1, 3 * SEGMENT_BYTES] {
            let content: Vec<u8> = (0..length).map(|i| (i % 251) as u8).collect();
            let file = sealed(&content);
            assert_eq!(opened(&file).expect("whole"), content);
            let segment = SEGMENT_BYTES + TAG_BYTES;
            for cut in (0..=file.len() / segment).map(|i| HEADER_BYTES + TAG_BYTES + i * segment) {
                for end in [cut.saturating_sub(1), cut, cut + 1, file.len() - 1]
                    .into_iter()
                    .filter(|e| *e < file.len())
                {
                    assert!(opened(&file[..end]).is_err(), "{length} bytes, cut at {end}");
                }
            }
            assert!(opened(&[file, vec![0]].concat()).is_err(), "something behind the end");
        }
    }

    #[test]
    fn segments_that_were_exchanged_or_left_out_are_refused() {
        let file = sealed(&[7; 4 * SEGMENT_BYTES]);
        let (start, rest) = file.split_at(HEADER_BYTES + TAG_BYTES);
        let parts: Vec<&[u8]> = rest.chunks(SEGMENT_BYTES + TAG_BYTES).collect();
        for order in [[1, 0, 2, 3].as_slice(), &[0, 2, 3], &[0, 1, 1, 2, 3], &[3]] {
            let file: Vec<u8> = start.iter().chain(order.iter().flat_map(|i| parts[*i])).copied().collect();
            assert!(matches!(opened(&file), Err(Error::Altered { .. })));
        }
        let cut = opened(&file[..start.len() + 2 * (SEGMENT_BYTES + TAG_BYTES)]);
        assert!(matches!(cut, Err(Error::CutShort { segment: 2 })));
    }

    #[test]
    fn what_is_wrong_is_named() {
        let file = sealed(b"content");
        assert!(matches!(Opener::new(&file[..], b"another"), Err(Error::Passphrase)));
        assert!(matches!(opened(b"something else"), Err(Error::NoBackup)));
        let flipped = |at: usize| {
            let mut file = file.clone();
            file[at] ^= 1;
            opened(&file)
        };
        let mut newer = file.clone();
        newer[MAGIC.len()] = 2;
        assert!(matches!(opened(&newer), Err(Error::Newer { found: 2, known: VERSION })));
        assert!((COST_AT..HEADER_BYTES).all(|at| matches!(flipped(at), Err(Error::Header))));
        assert!(matches!(flipped(HEADER_BYTES), Err(Error::Passphrase)));
        assert!(matches!(flipped(file.len() - 1), Err(Error::Altered { segment: 0 })));
        // A stranger's header that would take a day.
        let mut costly = file.clone();
        costly[COST_AT] = 0xff;
        let sum = digest(&SHA256, &costly[..HEADER_BYTES - SUM_BYTES]);
        costly[HEADER_BYTES - SUM_BYTES..HEADER_BYTES].copy_from_slice(sum.as_ref());
        assert!(matches!(opened(&costly), Err(Error::Header)));
    }
}
