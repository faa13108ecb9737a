//! What a region offers, on top of units and keystore.

pub mod activity;
pub mod administration;
pub mod audit;
pub mod backup;
pub mod clock;
pub mod failover;
pub mod kms;
mod nameplate;
pub mod pins;
pub mod reencryption;
pub mod region;
#[cfg(feature = "edge")]
pub mod shared_keystore;
pub mod storage;
pub mod stored_keys;
mod token_deletion;
pub mod tokens;
