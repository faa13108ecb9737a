//! The library in this process, and tokens that are ready for use.

use cryptoki::context::{CInitializeArgs, CInitializeFlags, Pkcs11};
use cryptoki::session::{Session, UserType};
use cryptoki::slot::Slot;
use cryptoki::types::AuthPin;

use super::built;

pub const SO_PIN: &str = "12345678";
pub const USER_PIN: &str = "1234";

/// Says where the HSM is. Nothing else of the process may run yet but what waits for this.
pub fn set_environment(variables: &[(&'static str, String)]) {
    for (name, value) in variables {
        // SAFETY: see above.
        #[allow(unsafe_code)]
        unsafe {
            std::env::set_var(name, value);
        }
    }
}

/// The library, initialised.
pub fn library() -> Pkcs11 {
    let pkcs11 = Pkcs11::new(built("libhsm_pkcs11.so")).expect("the library is built");
    pkcs11.initialize(CInitializeArgs::new(CInitializeFlags::OS_LOCKING_OK)).unwrap();
    pkcs11
}

/// A new token with both PINs.
pub fn new_token(pkcs11: &Pkcs11, label: &str) -> Slot {
    let slot = *pkcs11.get_all_slots().unwrap().last().unwrap();
    pkcs11.init_token(slot, &pin(SO_PIN), label).unwrap();
    let session = pkcs11.open_rw_session(slot).unwrap();
    session.login(UserType::So, Some(&pin(SO_PIN))).unwrap();
    session.init_pin(&pin(USER_PIN)).unwrap();
    session.logout().unwrap();
    slot
}

/// A session of the user.
pub fn user_session(pkcs11: &Pkcs11, slot: Slot) -> Session {
    let session = pkcs11.open_rw_session(slot).unwrap();
    session.login(UserType::User, Some(&pin(USER_PIN))).unwrap();
    session
}

pub fn pin(text: &str) -> AuthPin {
    AuthPin::new(text.into())
}
