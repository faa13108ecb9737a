//! What the PKCS #11 library must do, whichever backend it has. Each including test program says which, by
//! its `Hsm`.

mod aes_modes;
mod ciphers;
mod clients;
mod curves;
mod derivations;
mod des;
mod digests;
mod finite_field;
mod functions;
mod interfaces;
mod messages;
mod objects;
mod post_quantum;
mod raw;
mod several_operations;
mod signatures;
mod templates;
mod tokens;

use std::sync::{Mutex, OnceLock, PoisonError};

use cryptoki::context::Pkcs11;
use cryptoki::error::{Error, RvError};
use cryptoki::mechanism::Mechanism;
use cryptoki::object::{Attribute, ObjectHandle};
use cryptoki::session::Session;
use cryptoki::slot::Slot;

use crate::Hsm;
pub use crate::pkcs11_fixture::built;
use crate::pkcs11_fixture::library::{self, library, set_environment};
pub use crate::pkcs11_fixture::library::{SO_PIN, USER_PIN, pin};

/// DER of the object identifiers of P-256, P-384, P-521.
pub const P256: &[u8] = b"\x06\x08\x2a\x86\x48\xce\x3d\x03\x01\x07";
pub const P384: &[u8] = b"\x06\x05\x2b\x81\x04\x00\x22";
pub const P521: &[u8] = b"\x06\x05\x2b\x81\x04\x00\x23";
/// The same of P-192, and of brainpoolP256r1, P320r1, P384r1, P512r1.
pub const P192: &[u8] = b"\x06\x08\x2a\x86\x48\xce\x3d\x03\x01\x01";
pub const BRAINPOOL: [&[u8]; 4] = [
    b"\x06\x09\x2b\x24\x03\x03\x02\x08\x01\x01\x07",
    b"\x06\x09\x2b\x24\x03\x03\x02\x08\x01\x01\x09",
    b"\x06\x09\x2b\x24\x03\x03\x02\x08\x01\x01\x0b",
    b"\x06\x09\x2b\x24\x03\x03\x02\x08\x01\x01\x0d",
];

/// The HSM that all tests of this program share.
pub fn hsm() -> &'static Hsm {
    static HSM: OnceLock<Hsm> = OnceLock::new();
    HSM.get_or_init(Hsm::start)
}

/// The library, initialised.
pub fn pkcs11() -> &'static Pkcs11 {
    static PKCS11: OnceLock<Pkcs11> = OnceLock::new();
    PKCS11.get_or_init(|| {
        set_environment(&hsm().environment());
        library()
    })
}

/// A token of a test's own: login is common to all of a process, and tests run side by side.
pub fn new_token(label: &str) -> Slot {
    while_no_token_is_made(|| library::new_token(pkcs11(), label))
}

/// The last slot is the uninitialised one only until another test makes a token in it.
pub fn while_no_token_is_made<T>(then: impl FnOnce() -> T) -> T {
    static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());
    let _lock = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
    then()
}

/// A session of the user with a new token.
pub fn user_session(label: &str) -> Session {
    library::user_session(pkcs11(), new_token(label))
}

/// The code of a refusal.
pub fn refusal<T>(result: cryptoki::error::Result<T>) -> RvError {
    match result {
        Err(Error::Pkcs11(code, _)) => code,
        Err(other) => panic!("not a return code: {other}"),
        Ok(_) => panic!("was not refused"),
    }
}

/// An AES session key of 32 bytes.
pub fn aes_key(session: &Session) -> ObjectHandle {
    session.generate_key(&Mechanism::AesKeyGen, &[Attribute::ValueLen(32.into())]).unwrap()
}

/// An RSA session key pair: (public, private).
pub fn rsa_pair(session: &Session) -> (ObjectHandle, ObjectHandle) {
    let public = [Attribute::ModulusBits(2048.into()), Attribute::PublicExponent(vec![1, 0, 1])];
    session.generate_key_pair(&Mechanism::RsaPkcsKeyPairGen, &public, &[]).unwrap()
}

/// An EC session key pair: (public, private).
pub fn ec_pair(session: &Session, curve: &[u8]) -> (ObjectHandle, ObjectHandle) {
    let public = [Attribute::EcParams(curve.to_vec())];
    session.generate_key_pair(&Mechanism::EccKeyPairGen, &public, &[]).unwrap()
}
