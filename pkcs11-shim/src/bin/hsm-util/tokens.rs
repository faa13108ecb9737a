//! Making and deleting tokens.

use cryptoki::error::RvError;
use cryptoki::session::UserType;
use hsm_pkcs11::backend::Backend;
use hsm_pkcs11::backend::embedded::EmbeddedBackend;
use hsm_pkcs11::config::Config;

use crate::cli::Cli;
use crate::error::{Error, code};
use crate::library::{self, Library};
use crate::pin;
use crate::slots::{self, Wanted};

/// `--init-token`.
pub fn initialize(library: Library, cli: &Cli) -> Result<(), Error> {
    let slot = slots::find(&library, cli, true)?;
    let label = cli
        .label
        .as_deref()
        .ok_or_else(|| Error::new("A label for the token must be supplied. Use --label <text>"))?;
    if label.len() > 32 {
        return Err(Error::new("The token label must not have a length greater than 32 chars."));
    }
    let so_pin = pin::for_library(&pin::of(UserType::So, cli.so_pin.as_ref())?);
    let user_pin = pin::for_library(&pin::of(UserType::User, cli.pin.as_ref())?);
    let id = slot.id();
    let pkcs11 = library.pkcs11();
    pkcs11.init_token(slot, &so_pin, label).map_err(|error| {
        Error::verbatim(match code(&error) {
            Some(RvError::SlotIdInvalid) => format!("CKR_SLOT_ID_INVALID: Slot {id} does not exist."),
            Some(RvError::PinIncorrect) => {
                "CKR_PIN_INCORRECT: The given SO PIN does not match the one in the \
                                            token. Needed when reinitializing the token."
                    .to_owned()
            }
            Some(RvError::TokenNotPresent) => {
                "CKR_TOKEN_NOT_PRESENT: The token is not present. Please read the \
                                               HSM manual for further assistance."
                    .to_owned()
            }
            _ => format!("ERROR: Could not initialize the token: {error}"),
        })
    })?;
    let session =
        pkcs11.open_rw_session(slot).map_err(|_| Error::new("Could not open a session with the library."))?;
    session.login(UserType::So, Some(&so_pin)).map_err(|_| Error::new("Could not log in on the token."))?;
    session.init_pin(&user_pin).map_err(|_| Error::new("Could not initialize the user PIN."))?;
    let token = pkcs11
        .get_token_info(slot)
        .map_err(|_| Error::new(format!("Could not get info about the initialized token in slot {id}.")))?;
    drop(session);
    let library = library.reopen()?;
    let now = slots::find_token(&library, &token)?.id();
    if now == id {
        println!("The token has been initialized on slot {now}");
    } else {
        println!("The token has been initialized and is reassigned to slot {now}");
    }
    Ok(())
}

/// `--delete-token`. PKCS #11 has no function for this: the state of the embedded HSM is opened instead.
pub fn delete(cli: &Cli) -> Result<(), Error> {
    let wanted = Wanted::new(cli)?
        .ok_or_else(|| Error::new("A token must be supplied. Use --serial <serial> or --token <label>"))?;
    let Config::Embedded { state } = library::own_settings(cli)?.hsm else {
        return Err(Error::new(
            "The HSM is remote, and deletes tokens for its administrators only: use 'hsm-emulator token delete'",
        ));
    };
    let failed = |error| Error::new(format!("Could not delete the token: {error}"));
    let backend = EmbeddedBackend::open(&state).map_err(failed)?;
    let mut found = Vec::new();
    for token in backend.tokens().map_err(failed)? {
        if wanted.is(&token.serial, &token.label) {
            println!("Found token ({}) with matching {}.", token.serial, wanted.what());
            found.push(token.serial);
        }
    }
    let serial = match &*found {
        [serial] => serial,
        [] => return Err(Error::new("Could not find a token using --serial or --token.")),
        _ => return Err(Error::new("Found multiple matching tokens.")),
    };
    backend.delete_token(serial).map_err(failed)?;
    println!("The token ({}) has been deleted.", state.join(serial).display());
    Ok(())
}
