//! The crypto units: everything inside the tamper boundary.
//!
//! Plain synchronous code: no sockets, no runtime, no clock.

mod attributes;
mod blob;
mod crypto_unit;
mod error;
mod importer_key;
mod key_cache;
mod master_key;
pub mod mechanism;
mod objects;
mod operations;
pub mod random;
mod root_key;
mod sealed_state;
mod template;

pub use attributes::Attributes;
pub use blob::KeyBlob;
pub use crypto_unit::CryptoUnit;
pub use error::{Error, Result, code_name, vendor};
pub use importer_key::{ImporterKey, TransportedKey};
pub use master_key::{MASTER_KEY_BYTES, MasterKey, VerificationPattern};
pub use root_key::MAX_DATA_KEY_BYTES;
