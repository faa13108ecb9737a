//! The servers: gRPC, HTTP and health. They convert and delegate.

pub mod access;
pub mod grpc;
pub mod pair;
pub mod rest;
pub mod server;
pub mod tls;
pub mod workers;
