//! A PKCS #11 library on the HSM emulator, embedded in the process or remote over gRPC.

pub mod backend;
