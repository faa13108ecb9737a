//! The HTTP interfaces, on the same port as gRPC.

pub mod tke;
