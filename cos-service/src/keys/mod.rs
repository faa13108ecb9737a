//! Bucket keys: where they come from, how long they stay, what they seal.

pub mod bucket_keys;
pub mod endpoints;
pub mod hsm_client;
pub mod seal;
pub mod secret;
