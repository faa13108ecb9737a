//! The crypto units: everything inside the tamper boundary.
//!
//! Plain synchronous code: no sockets, no runtime, no clock.

mod attributes;
mod blob;
mod error;
mod master_key;
pub mod mechanism;
pub mod random;

pub use attributes::Attributes;
pub use blob::KeyBlob;
pub use error::{Error, Result, code_name, vendor};
pub use master_key::{MASTER_KEY_BYTES, MasterKey, VerificationPattern};
