//! The PKCS #11 library with the HSM inside its process.
#![allow(clippy::unwrap_used)]

mod pkcs11_fixture;
mod pkcs11_suite;

/// A state directory, and the environment that names it.
struct Hsm(pkcs11_fixture::Directory);

impl Hsm {
    fn start() -> Self {
        Self(pkcs11_fixture::Directory::new())
    }

    fn environment(&self) -> Vec<(&'static str, String)> {
        vec![("HSM_PKCS11_STATE", self.0.path().to_str().unwrap().to_owned())]
    }
}
