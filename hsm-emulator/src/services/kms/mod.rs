//! Root keys: Key Protect's service without its HTTP face.

pub mod lifecycle;
mod on_its_way;
pub mod root_keys;
