//! Generated code for the public gRPC contract. The `.proto` files beside it are the documentation.
#![forbid(unsafe_code)]
#![allow(missing_docs, unused_qualifications, clippy::all)]

/// IBM's GREP11 messages (field numbers as in IBM's `server.proto`).
pub mod grep11 {
    tonic::include_proto!("grep11");
}

// The generated code finds messages of other packages by this nesting.
mod hsm {
    pub mod failover {
        pub mod v1 {
            tonic::include_proto!("hsm.failover.v1");
        }
    }
    pub mod kms {
        pub mod v1 {
            tonic::include_proto!("hsm.kms.v1");
        }
    }
    pub mod tke {
        pub mod v1 {
            tonic::include_proto!("hsm.tke.v1");
        }
    }
    pub mod tokens {
        pub mod v1 {
            tonic::include_proto!("hsm.tokens.v1");
        }
    }
}

mod secrets;

pub use hsm::failover::v1 as failover;
pub use hsm::kms::v1 as kms;
pub use hsm::tke::v1 as tke;
pub use hsm::tokens::v1 as tokens;

/// The encoded file descriptors, for gRPC server reflection.
pub const FILE_DESCRIPTOR_SET: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/descriptors.bin"));
