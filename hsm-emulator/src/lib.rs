//! One region of a Hyper Protect Crypto Services instance: crypto units, root keys, PKCS #11 tokens.
#![forbid(unsafe_code)]

pub mod units;
pub mod services;
