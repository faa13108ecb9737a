//! The PKCS #11 library with the HSM in another process.
#![allow(clippy::unwrap_used)]

mod pkcs11_fixture;
mod pkcs11_suite;

use pkcs11_fixture::Server as Hsm;
