//! S3-compatible storage whose buckets can be encrypted under root keys of an HSM.
//!
//! `front` speaks S3; `storage`, `buckets` and `objects` are what it speaks about; `content`
//! turns bytes into segments and digests; `keys` fetches bucket keys from the HSM and seals
//! records with them; `metadata` and `blobs` are the disk.
#![forbid(unsafe_code)]

pub mod blobs;
pub mod buckets;
pub mod config;
pub mod content;
pub mod error;
pub mod frames;
pub mod front;
pub mod keys;
pub mod locations;
pub mod metadata;
pub mod objects;
pub mod pace;
pub mod readers;
pub mod server;
pub mod state_dir;
pub mod storage;
