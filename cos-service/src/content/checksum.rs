//! The additional checksums of S3: CRC32, CRC32C, CRC64NVME, SHA-1, SHA-256.

use std::str::FromStr;

use aws_lc_rs::digest;
use base64::{Engine, prelude::BASE64_STANDARD};
use crc_fast::CrcAlgorithm;
use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};

/// A checksum algorithm, by its S3 name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum Algorithm {
    /// CRC-32 (ISO-HDLC).
    Crc32,
    /// CRC-32C (Castagnoli).
    Crc32c,
    /// CRC-64/NVME: what a server computes when the client names none.
    Crc64nvme,
    /// SHA-1.
    Sha1,
    /// SHA-256.
    Sha256,
}

impl Algorithm {
    /// All of them.
    pub const ALL: [Self; 5] = [Self::Crc32, Self::Crc32c, Self::Crc64nvme, Self::Sha1, Self::Sha256];

    /// As in `x-amz-checksum-algorithm`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Crc32 => "CRC32",
            Self::Crc32c => "CRC32C",
            Self::Crc64nvme => "CRC64NVME",
            Self::Sha1 => "SHA1",
            Self::Sha256 => "SHA256",
        }
    }

    /// The header or trailer that carries a value.
    pub fn header(self) -> &'static str {
        match self {
            Self::Crc32 => "x-amz-checksum-crc32",
            Self::Crc32c => "x-amz-checksum-crc32c",
            Self::Crc64nvme => "x-amz-checksum-crc64nvme",
            Self::Sha1 => "x-amz-checksum-sha1",
            Self::Sha256 => "x-amz-checksum-sha256",
        }
    }

    fn crc(self) -> Option<(CrcAlgorithm, usize)> {
        match self {
            Self::Crc32 => Some((CrcAlgorithm::Crc32IsoHdlc, 4)),
            Self::Crc32c => Some((CrcAlgorithm::Crc32Iscsi, 4)),
            Self::Crc64nvme => Some((CrcAlgorithm::Crc64Nvme, 8)),
            Self::Sha1 | Self::Sha256 => None,
        }
    }

    /// Whether checksums of parts can be joined to the checksum of the whole.
    pub fn can_be_joined(self) -> bool {
        self.crc().is_some()
    }
}

impl FromStr for Algorithm {
    type Err = Error;

    fn from_str(name: &str) -> Result<Self> {
        Self::ALL
            .into_iter()
            .find(|algorithm| algorithm.name().eq_ignore_ascii_case(name))
            .ok_or_else(|| Error::invalid_request("Checksum algorithm provided is unsupported."))
    }
}

/// Whether a checksum covers the bytes of the whole object or the checksums of its parts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum Kind {
    /// Of all bytes.
    FullObject,
    /// Of the parts' checksums; the value ends in `-<number of parts>`.
    Composite,
}

impl Kind {
    /// As in `x-amz-checksum-type`.
    pub fn name(self) -> &'static str {
        match self {
            Self::FullObject => "FULL_OBJECT",
            Self::Composite => "COMPOSITE",
        }
    }
}

/// A checksum as S3 shows it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Checksum {
    /// How it was computed.
    pub algorithm: Algorithm,
    /// Base64; composite values end in `-<number of parts>`.
    pub value: String,
    /// What it covers.
    pub kind: Kind,
}

/// The checksum of a stream.
pub struct Hasher {
    algorithm: Algorithm,
    state: State,
}

enum State {
    Crc(Box<crc_fast::Digest>),
    Sha(digest::Context),
}

impl Hasher {
    /// An empty stream.
    pub fn new(algorithm: Algorithm) -> Self {
        let state = match (algorithm.crc(), algorithm) {
            (Some((crc, _)), _) => State::Crc(Box::new(crc_fast::Digest::new(crc))),
            (None, Algorithm::Sha1) => State::Sha(digest::Context::new(&digest::SHA1_FOR_LEGACY_USE_ONLY)),
            (None, _) => State::Sha(digest::Context::new(&digest::SHA256)),
        };
        Self { algorithm, state }
    }

    /// Adds bytes.
    pub fn update(&mut self, bytes: &[u8]) {
        match &mut self.state {
            State::Crc(state) => state.update(bytes),
            State::Sha(state) => state.update(bytes),
        }
    }

    /// The checksum of everything added.
    pub fn finish(self) -> Checksum {
        let value = match self.state {
            State::Crc(state) => {
                let width = self.algorithm.crc().map_or(8, |(_, width)| width);
                BASE64_STANDARD.encode(&state.finalize().to_be_bytes()[8 - width..])
            }
            State::Sha(state) => BASE64_STANDARD.encode(state.finish()),
        };
        Checksum { algorithm: self.algorithm, value, kind: Kind::FullObject }
    }
}

/// The CRC-64/NVME of a buffer, as a number.
pub fn crc64(bytes: &[u8]) -> u64 {
    crc_fast::checksum(CrcAlgorithm::Crc64Nvme, bytes)
}

/// The checksum of an object made of parts, from the parts' checksums (base64) and sizes in bytes.
pub fn join(algorithm: Algorithm, kind: Kind, parts: &[(String, u64)]) -> Result<Checksum> {
    let damaged = || Error::damaged("a part's checksum is malformed");
    let decoded = parts
        .iter()
        .map(|(value, size)| Ok((BASE64_STANDARD.decode(value).map_err(|_| damaged())?, *size)))
        .collect::<Result<Vec<_>>>()?;
    let value = match (kind, algorithm.crc()) {
        (Kind::Composite, _) => {
            let mut hasher = Hasher::new(algorithm);
            decoded.iter().for_each(|(value, _)| hasher.update(value));
            format!("{}-{}", hasher.finish().value, parts.len())
        }
        (Kind::FullObject, Some((crc, width))) => {
            let mut joined = Hasher::new(algorithm).finish().value;
            let mut total = number(&BASE64_STANDARD.decode(&joined).map_err(|_| damaged())?);
            for (value, size) in &decoded {
                if value.len() != width {
                    return Err(damaged());
                }
                total = crc_fast::checksum_combine(crc, total, number(value), *size);
            }
            joined.clear();
            BASE64_STANDARD.encode_string(&total.to_be_bytes()[8 - width..], &mut joined);
            joined
        }
        (Kind::FullObject, None) => {
            return Err(Error::invalid_request(format!(
                "The FULL_OBJECT checksum type cannot be used with the {} checksum algorithm.",
                algorithm.name()
            )));
        }
    };
    Ok(Checksum { algorithm, value, kind })
}

fn number(big_endian: &[u8]) -> u64 {
    big_endian.iter().fold(0, |number, byte| number << 8 | u64::from(*byte))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sum(algorithm: Algorithm, bytes: &[u8]) -> String {
        let mut hasher = Hasher::new(algorithm);
        hasher.update(bytes);
        hasher.finish().value
    }

    #[test]
    fn known_values() {
        // Check values of the CRC catalogue for "123456789"; SHA from FIPS 180 for "abc".
        assert_eq!(
            sum(Algorithm::Crc32, b"123456789"),
            BASE64_STANDARD.encode(0xcbf4_3926_u32.to_be_bytes())
        );
        assert_eq!(
            sum(Algorithm::Crc32c, b"123456789"),
            BASE64_STANDARD.encode(0xe306_9283_u32.to_be_bytes())
        );
        assert_eq!(
            sum(Algorithm::Crc64nvme, b"123456789"),
            BASE64_STANDARD.encode(0xae8b_1486_0a79_9888_u64.to_be_bytes())
        );
        assert_eq!(sum(Algorithm::Sha1, b"abc"), "qZk+NkcGgWq6PiVxeFDCbJzQ2J0=");
        assert_eq!(sum(Algorithm::Sha256, b"abc"), "ungWv48Bz+pBQUDeXa4iI7ADYaOWF3qctBD/YfIAFa0=");
    }

    #[test]
    fn joined_crc_is_that_of_the_whole() {
        for algorithm in [Algorithm::Crc32, Algorithm::Crc32c, Algorithm::Crc64nvme] {
            let parts = [&b"hello "[..], b"", b"wide ", b"world"];
            let sums: Vec<_> = parts.iter().map(|p| (sum(algorithm, p), p.len() as u64)).collect();
            let whole = join(algorithm, Kind::FullObject, &sums).unwrap();
            assert_eq!(whole.value, sum(algorithm, b"hello wide world"));
        }
    }

    #[test]
    fn composite_names_the_number_of_parts() {
        let parts = [(sum(Algorithm::Sha256, b"a"), 1), (sum(Algorithm::Sha256, b"b"), 1)];
        let composite = join(Algorithm::Sha256, Kind::Composite, &parts).unwrap();
        assert!(composite.value.ends_with("=-2"));
        assert!(join(Algorithm::Sha256, Kind::FullObject, &parts).is_err());
    }
}
