//! One region of a Hyper Protect Crypto Services instance: crypto units, root keys, PKCS #11 tokens.
//!
//! `edge -> services -> {units, keystore}`; nothing points upwards.
#![forbid(unsafe_code)]

pub mod durable_file;
#[cfg(feature = "edge")]
pub mod edge;
pub mod keystore;
pub mod secret_input;
pub mod services;
pub mod units;
