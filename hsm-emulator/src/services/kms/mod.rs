//! Root keys: Key Protect's service without its HTTP face.

pub mod lifecycle;
pub mod root_keys;
