//! The crypto units: everything inside the tamper boundary.
//!
//! Plain synchronous code: no sockets, no runtime, no clock.

pub mod administration;
mod administrator;
mod attributes;
mod blob;
pub mod command;
mod control_points;
mod crypto_unit;
mod derivation;
mod encapsulation;
mod error;
mod fault;
mod importer_key;
mod key_cache;
mod master_key;
pub mod mechanism;
pub mod nested_template;
mod objects;
mod operations;
pub mod quorum;
pub mod random;
mod refusal;
mod restored;
mod root_key;
mod rotation;
mod sealed_state;
mod template;
mod xaes;

pub use administrator::{Administrator, MAX_ADMINISTRATORS, SubjectKeyIdentifier, generate_signature_key};
pub use attributes::Attributes;
pub use blob::KeyBlob;
pub use crypto_unit::{CryptoUnit, Executed};
pub use error::{Error, Result, code_name, vendor};
pub use fault::Fault;
pub use importer_key::TransportedKey;
pub use master_key::{KeyPart, MASTER_KEY_BYTES, MasterKey, VerificationPattern};
pub use refusal::Refusal;
pub use root_key::MAX_DATA_KEY_BYTES;
pub use rotation::{Rotation, Verifier};
pub use template::may_be_sealed;
