//! `--import-softhsm`: tokens of a SoftHSM, taken over with all that is in them.

use std::path::Path;

use cryptoki::session::UserType;
use hsm_pkcs11::backend::embedded::EmbeddedBackend;
use hsm_pkcs11::config::Config;
use hsm_pkcs11::softhsm_token::SoftHsmToken;

use crate::cli::Cli;
use crate::error::Error;
use crate::library;
use crate::pin;
use crate::slots::Wanted;

/// `--import-softhsm`. PKCS #11 has no function that keeps a token's serial number, or that a key has never left an HSM: the
/// state of the embedded HSM is opened instead.
pub fn run(cli: &Cli, directory: &Path) -> Result<(), Error> {
    let Config::Embedded { state } = library::own_settings(cli)?.hsm else {
        return Err(Error::new("The HSM is remote: tokens are imported into one in this process only"));
    };
    let token =
        choose(SoftHsmToken::list(directory).map_err(Error::new)?, &Wanted::new(cli)?.unwrap_or_default())?;
    let so_pin = pin::of(UserType::So, cli.so_pin.as_ref())?;
    let user_pin = match token.has_user_pin() {
        true => Some(pin::of(UserType::User, cli.pin.as_ref())?),
        false => None,
    };
    let user_pin = user_pin.as_ref().map(|pin| pin.as_bytes());
    let objects = token.open(so_pin.as_bytes(), user_pin.unwrap_or_default()).map_err(Error::new)?;

    let failed = |error| Error::new(format!("Could not import the token: {error}"));
    let backend = EmbeddedBackend::open(&state).map_err(failed)?;
    let mut restoration =
        backend.restoration(&token.serial, &token.label, so_pin.as_bytes(), user_pin).map_err(failed)?;
    let mut refused = Vec::new();
    for object in &objects {
        if let Err(error) = restoration.add(&object.attributes) {
            refused.push(format!("{}: {error}", object.name));
        }
    }
    if !refused.is_empty() && !cli.force {
        return Err(Error::new(format!(
            "Nothing is imported, since this cannot be kept:\n{}\nUse --force to leave it out.",
            refused.join("\n")
        )));
    }
    restoration.commit().map_err(failed)?;
    refused.iter().for_each(|reason| eprintln!("Left out: {reason}"));
    println!(
        "The token {:?} ({}) has been imported with {} objects.",
        token.label,
        token.serial,
        objects.len() - refused.len()
    );
    Ok(())
}

fn choose(tokens: Vec<SoftHsmToken>, wanted: &Wanted<'_>) -> Result<SoftHsmToken, Error> {
    let mut found: Vec<_> =
        tokens.into_iter().filter(|token| wanted.is(&token.serial, &token.label)).collect();
    match found.len() {
        1 => Ok(found.remove(0)),
        0 => Err(Error::new("Could not find a token in the directory.")),
        _ => {
            let list: Vec<_> = found
                .iter()
                .map(|token| format!("{} {:?} ({})", token.serial, token.label, token.directory.display()))
                .collect();
            Err(Error::new(format!("Found multiple tokens: use --serial.\n{}", list.join("\n"))))
        }
    }
}
