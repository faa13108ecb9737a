//! The gRPC services.

pub mod kms;
