//! The gRPC services.

pub mod crypto;
pub mod failover;
pub mod grep11;
pub mod kms;
pub mod tke;
pub mod tokens;
mod watched;
