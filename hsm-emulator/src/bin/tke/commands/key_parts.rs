//! `mks`, `mk-add`, `mk-rm`: master key parts in files.

use hsm_emulator::secret_input;
use hsm_emulator::units::{KeyPart, MASTER_KEY_BYTES, random};
use zeroize::Zeroizing;

use crate::cli::{KeyNumber, NewKeyPart};
use crate::error::{Error, Result};
use crate::files::KeyPartFile;
use crate::table::{Cell, Table};
use crate::workstation::Desk;

/// Prints the key parts.
pub fn list(desk: &mut Desk) -> Result<()> {
    show(desk)
}

/// Prints the key parts.
pub fn show(desk: &mut Desk) -> Result<()> {
    let parts = desk.files.key_parts()?;
    let mut table = Table::new(&["KEYNUM", "DESCRIPTION", "VERIFICATION PATTERN"]);
    for (number, part) in &parts {
        let pattern = Cell::Pattern(Some(part.verification_pattern()?));
        table.push(vec![Cell::Number(*number), Cell::Text(part.description().to_owned()), pattern]);
    }
    if parts.is_empty() {
        desk.output.line("No files containing an EP11 master key part were found.");
        desk.output.line("\nTo make one, use 'tke mk-add'.");
        desk.output.set("master_key_parts", Vec::<u64>::new());
    } else {
        desk.output.table("master_key_parts", &table);
    }
    Ok(())
}

/// Makes a key part.
pub fn add(desk: &mut Desk, new: &NewKeyPart) -> Result<()> {
    let part = value(desk, new)?;
    let question = "Enter a description for the key part:";
    let description = desk.prompt.text(question, new.description.as_deref(), "--description")?;
    let password = desk.prompt.new_password("Enter a password to protect the key part:")?;
    let number = desk.files.add_key_part(&KeyPartFile::new(&description, part, &password)?)?;
    desk.output.set("keynum", number);
    desk.output
        .line("OK\nA key part was created.\nThe available EP11 master key parts on this workstation are:\n");
    show(desk)
}

fn value(desk: &mut Desk, new: &NewKeyPart) -> Result<KeyPart> {
    let mut part: KeyPart = Box::new(Zeroizing::new([0; MASTER_KEY_BYTES]));
    if new.random {
        random::fill(part.as_mut_slice())?;
        return Ok(part);
    }
    let digits = match &new.value_file {
        Some(path) => secret_input::read(path)?,
        None => desk.prompt.password("Enter the key part value:")?,
    };
    hex::decode_to_slice(digits.trim(), part.as_mut_slice())
        .map_err(|_| Error::new("A key part value has 64 hexadecimal digits."))?;
    Ok(part)
}

/// Deletes a key part.
pub fn remove(desk: &mut Desk, key: &KeyNumber) -> Result<()> {
    show(desk)?;
    let question = "\nEnter the KEYNUM of the master key part you wish to delete:";
    let number = desk.prompt.number(question, key.keynum, "--keynum")?;
    if !desk.files.has_key_part(number)? {
        return Err(unknown(number));
    }
    desk.prompt.confirm(&format!(
        "Warning!  A master key cannot be loaded again without all of its parts.\nAre you sure you want to delete KEYNUM \
         {number}?"
    ))?;
    desk.files.remove_key_part(number)?;
    desk.output.line("OK\nThe key part was deleted.\n");
    show(desk)
}

/// The part with this KEYNUM.
pub fn find(parts: &[(u64, KeyPartFile)], number: u64) -> Result<&KeyPartFile> {
    let found = parts.iter().find(|(known, _)| *known == number).map(|(_, file)| file);
    found.ok_or_else(|| unknown(number))
}

fn unknown(number: u64) -> Error {
    Error::new(format!("There is no master key part with KEYNUM {number}. See 'tke mks'."))
}
