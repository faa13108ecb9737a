//! Wycheproof's test vectors through the PKCS #11 library: what is valid must pass, what is not must not.
//!
//! `wycheproof LIBRARY SLOT PIN SECTION...`; the slot is a number, and its token has the user's PIN; sections are
//! `secret-keys`, `derivation`, `signatures`, `agreement`, `rsa-encryption`, `post-quantum`. Prints a line for each set of
//! vectors, and ends with an error if one of them went wrong.

mod aead;
mod agreement;
mod derivation;
mod post_quantum;
mod raw;
mod rsa_encryption;
mod score;
mod secret_keys;
mod signatures;

use cryptoki::context::{CInitializeArgs, CInitializeFlags, Pkcs11};
use cryptoki::session::UserType;
use cryptoki::slot::Slot;
use cryptoki::types::AuthPin;

use raw::Calls;
use score::Score;

type Error = Box<dyn std::error::Error>;

fn main() -> Result<(), Error> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [library, slot, pin, sections @ ..] = arguments.as_slice() else {
        return Err("wycheproof LIBRARY SLOT PIN SECTION...".into());
    };
    let pkcs11 = Pkcs11::new(library)?;
    pkcs11.initialize(CInitializeArgs::new(CInitializeFlags::OS_LOCKING_OK))?;
    let session = pkcs11.open_rw_session(Slot::try_from(slot.parse::<u64>()?)?)?;
    session.login(UserType::User, Some(&AuthPin::new(pin.as_str().into())))?;

    let calls = Calls::new(library, &session)?;
    let mut score = Score::default();
    for section in sections {
        match section.as_str() {
            "secret-keys" => secret_keys::run(&calls, &mut score)?,
            "signatures" => signatures::run(&calls, &mut score)?,
            "derivation" => derivation::run(&session, &mut score)?,
            "post-quantum" => post_quantum::run(&session, &mut score)?,
            "agreement" => agreement::run(&session, &mut score)?,
            "rsa-encryption" => rsa_encryption::run(&session, &mut score)?,
            other => return Err(format!("no such section: {other}").into()),
        }
    }
    score.finish()
}
