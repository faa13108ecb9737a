//! The servers: gRPC and health. They convert and delegate.

pub mod access;
pub mod grpc;
pub mod server;
