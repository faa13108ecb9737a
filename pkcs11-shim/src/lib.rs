//! A PKCS #11 library on the HSM emulator, embedded in the process or remote over gRPC.
//!
//! Four layers: [`exports`] (the C functions) -> [`arguments`] (raw pointers become Rust values) ->
//! sessions, objects and operations, one module for each chapter of the standard -> [`backend`].
//! Unsafe code is in the first two, in [`fork`] and in [`signals`] alone.

pub mod appearance;
pub mod arguments;
pub mod attribute_kinds;
pub mod backend;
pub mod catalogue;
pub mod config;
pub mod digest;
pub mod dual;
pub mod encryption;
pub mod exports;
pub mod fork;
mod handle_set;
mod handles;
pub mod key_mgmt;
pub mod local;
pub mod mechanism_names;
pub mod mechanisms;
pub mod message_encryption;
pub mod message_signing;
pub mod module;
pub mod nonce;
pub mod object;
pub mod operation;
pub mod operation_state;
pub mod output;
pub mod random;
pub mod recovery;
pub mod session;
pub mod signals;
pub mod signing;
pub mod slot_token;
pub mod softhsm_conf;
pub mod softhsm_token;
pub mod system_log;
pub mod trace;
pub mod verification;
