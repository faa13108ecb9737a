//! The PKCS #11 library with the HSM in another process.
#![allow(clippy::unwrap_used)]

mod pkcs11_server;
mod pkcs11_suite;

use pkcs11_server::Server as Hsm;
