//! PINs: from the command line, or asked for twice at the terminal.

use std::io::{self, Write};

use cryptoki::session::UserType;
use cryptoki::types::AuthPin;
use hsm_emulator::secret_input;
use hsm_emulator::services::pins::{MAX_BYTES, MIN_BYTES};
use zeroize::Zeroizing;

use crate::cli::Secret;
use crate::error::Error;

/// The PIN of a user: the given one if it can be one, else what is typed.
pub fn of(user: UserType, given: Option<&Secret>) -> Result<Secret, Error> {
    let name = if matches!(user, UserType::So) { "SO" } else { "user" };
    match given {
        Some(pin) if fits(pin) => Ok(pin.clone()),
        _ => typed(name).map_err(|_| Error::new(format!("Could not get {name} PIN"))),
    }
}

/// The PIN, for the functions of the library.
pub fn for_library(pin: &Secret) -> AuthPin {
    AuthPin::from(pin.as_str())
}

fn typed(name: &str) -> Result<Secret, secret_input::Error> {
    let title = if name == "SO" { "SO" } else { "User" };
    loop {
        println!("=== {title} PIN ({MIN_BYTES}-{MAX_BYTES} characters) ===");
        let pin = ask(&format!("Please enter {name} PIN: "))?;
        if !fits(&pin) {
            eprintln!("ERROR: The length of the PIN is out of range.");
            continue;
        }
        if *ask(&format!("Please reenter {name} PIN: "))? == *pin {
            return Ok(pin);
        }
        eprintln!("ERROR: The entered PINs are not equal.");
    }
}

fn ask(prompt: &str) -> Result<Zeroizing<String>, secret_input::Error> {
    print!("{prompt}");
    io::stdout().flush().ok();
    secret_input::from_standard_input()
}

fn fits(pin: &str) -> bool {
    (MIN_BYTES..=MAX_BYTES).contains(&pin.len())
}
