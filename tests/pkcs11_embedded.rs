//! The PKCS #11 library with the HSM inside its process.
#![allow(clippy::unwrap_used)]

mod pkcs11_suite;

/// A state directory, and the environment that names it.
struct Hsm {
    state: tempfile::TempDir,
}

impl Hsm {
    fn start() -> Self {
        Self { state: tempfile::tempdir().unwrap() }
    }

    fn environment(&self) -> Vec<(&'static str, String)> {
        vec![("HSM_PKCS11_STATE", self.state.path().to_str().unwrap().to_owned())]
    }
}
