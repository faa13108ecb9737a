//! The gRPC services.

pub mod grep11;
pub mod kms;
pub mod tokens;
