//! What a region offers, on top of units and keystore.

pub mod clock;
pub mod kms;
pub mod pins;
pub mod region;
pub mod tokens;
