//! What a region offers, on top of units and keystore.

pub mod tokens;
