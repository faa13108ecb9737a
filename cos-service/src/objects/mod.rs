//! Objects: writing, reading, listing, multipart uploads, copies.

pub mod attributes;
pub mod conditions;
pub mod get;
pub mod ingest;
pub mod list;
pub mod multipart;
pub mod put;

use bytes::Bytes;
use futures::stream::BoxStream;

use crate::error::Result;

/// The bytes of an object on their way in or out. An error means that what came before is not whole.
pub type Body = BoxStream<'static, Result<Bytes>>;

/// Longest key, in bytes.
pub const MAX_KEY_LEN: usize = 1024;
/// Largest upload in one request, in bytes: 5 GiB.
pub const MAX_SINGLE_PUT: u64 = 5 << 30;
/// Most user metadata, in bytes of names and values.
pub const MAX_METADATA_LEN: usize = 2048;
