//! `sigkeys`, `sigkey-add`, `sigkey-rm`, `sigkey-sel`: signature keys in files.

use hsm_emulator::units::{Administrator, SubjectKeyIdentifier, generate_signature_key};
use p521::ecdsa::SigningKey;
use serde_json::json;

use crate::cli::{KeyNumber, KeyNumbers, NewSignatureKey};
use crate::error::{self, Error, Result};
use crate::files::{SignatureKeyFile, SigningServiceKey};
use crate::signer;
use crate::signing_service::SigningService;
use crate::table::{Cell, Table};
use crate::workstation::Desk;

/// Prints the signature keys.
pub fn list(desk: &mut Desk) -> Result<()> {
    if !defers_to_service(desk)? {
        return show(desk);
    }
    let named = desk.files.signing_service_keys()?;
    let entry = |entry: &SigningServiceKey| json!({ "key": entry.key, "has_token": entry.token.is_some() });
    desk.output.set("signing_service_keys", named.iter().map(entry).collect::<Vec<_>>());
    Ok(())
}

/// Prints the signature keys and which are selected.
pub fn show(desk: &mut Desk) -> Result<()> {
    let keys = desk.files.signature_keys()?;
    let mut table = Table::new(&["KEYNUM", "DESCRIPTION", "SUBJECT KEY IDENTIFIER"]);
    let mut numbers = Vec::new();
    for (number, key) in &keys {
        let id = key.subject_key_identifier()?;
        table.push(vec![Cell::Number(*number), Cell::Text(key.name().to_owned()), Cell::Identifier(id)]);
        numbers.push((id.to_hex(), *number));
    }
    let selected = desk.files.selected_signature_keys()?;
    let number_of = |id: &String| numbers.iter().find(|(known, _)| known == id).map(|(_, number)| *number);
    let selected: Vec<u64> = selected.iter().filter_map(number_of).collect();
    if keys.is_empty() {
        desk.output.line("No files containing a signature key were found.");
        desk.output.line("\nTo make one, use 'tke sigkey-add'.");
        desk.output.set("signature_keys", Vec::<u64>::new());
    } else {
        desk.output.table("signature_keys", &table);
        desk.output.line(&format!("\n{}", selection_sentence(&selected)));
    }
    desk.output.set("selected", selected);
    Ok(())
}

fn selection_sentence(selected: &[u64]) -> String {
    match selected {
        [] => "No KEYNUM are selected as current signature keys.".to_owned(),
        [number] => format!("KEYNUM {number} is selected as the current signature key."),
        numbers => format!("KEYNUM {} are selected as the current signature keys.", error::numbers(numbers)),
    }
}

/// Makes a signature key.
pub fn add(desk: &mut Desk, new: &NewSignatureKey) -> Result<()> {
    if defers_to_service(desk)? {
        return Ok(());
    }
    let (file, _) = create(desk, new.name.as_deref())?;
    let number = desk.files.add_signature_key(&file)?;
    desk.output.set("keynum", number);
    desk.output
        .line("OK\nA signature key was created.\nThe available signature keys on this workstation are:\n");
    show(desk)
}

/// Asks for a name and a password, and makes a signature key; it is not stored yet.
pub fn create(desk: &mut Desk, name: Option<&str>) -> Result<(SignatureKeyFile, SigningKey)> {
    let question = "\nEnter an administrator name to be associated with the signature key:";
    let name = desk.prompt.text(question, name, "--name")?;
    protect(desk, &name)
}

/// Makes a signature key for this administrator, under a password that is asked for.
pub fn protect(desk: &mut Desk, name: &str) -> Result<(SignatureKeyFile, SigningKey)> {
    let key = generate_signature_key()?;
    Administrator::new(name, key.verifying_key())?;
    let password = desk.prompt.new_password("Enter a password to protect the signature key:")?;
    Ok((SignatureKeyFile::new(name, &key, &password)?, key))
}

/// Deletes a signature key.
pub fn remove(desk: &mut Desk, key: &KeyNumber) -> Result<()> {
    if defers_to_service(desk)? {
        return Ok(());
    }
    show(desk)?;
    let question = "\nEnter the KEYNUM of the signature key you wish to delete:";
    let number = desk.prompt.number(question, key.keynum, "--keynum")?;
    if !desk.files.has_signature_key(number)? {
        return Err(unknown(number));
    }
    let keys = desk.files.signature_keys()?;
    let intact = keys.iter().find(|(known, _)| *known == number);
    let whose = intact.map_or("a damaged key file".to_owned(), |(_, file)| file.name().to_owned());
    desk.prompt.confirm(&format!(
        "Warning!  Crypto units whose thresholds need the signature of {whose} can then not be administered any \
         more.\nAre you sure you want to delete KEYNUM {number}?",
    ))?;
    desk.files.remove_signature_key(number)?;
    desk.output.line("OK\nThe signature key was deleted.\n");
    show(desk)
}

/// Selects the keys that sign from now on, in place of those selected before.
pub fn select(desk: &mut Desk, keys: &KeyNumbers) -> Result<()> {
    if defers_to_service(desk)? {
        return Ok(());
    }
    show(desk)?;
    let question = "\nEnter the KEYNUM values to select as current signature keys, separated by spaces:";
    let numbers = desk.prompt.numbers(question, keys.keynum.as_deref(), "--keynum")?;
    let ids: Vec<SubjectKeyIdentifier> = unlock(desk, &numbers)?
        .iter()
        .map(|(file, _)| file.subject_key_identifier())
        .collect::<Result<_>>()?;
    desk.files.select_signature_keys(&ids)?;
    desk.output.line(&match numbers.as_slice() {
        [] => "OK\nNo KEYNUM are selected as current signature keys.".to_owned(),
        [number] => format!("OK\nKEYNUM {number} has been made the current signature key."),
        numbers => {
            format!("OK\nKEYNUM {} have been made the current signature keys.", error::numbers(numbers))
        }
    });
    desk.output.set("selected", numbers);
    Ok(())
}

/// Asks for the passwords of these keys.
pub fn unlock(desk: &mut Desk, numbers: &[u64]) -> Result<Vec<(SignatureKeyFile, SigningKey)>> {
    let mut keys = Vec::new();
    for number in numbers {
        let file = find(desk.files.signature_keys()?, *number)?;
        let password = desk.prompt.password(&format!("Enter the password for KEYNUM {number}:"))?;
        let key = signer::unlock(*number, &file, &password)?;
        keys.push((file, key));
    }
    Ok(keys)
}

/// The key with this KEYNUM.
pub fn find(keys: Vec<(u64, SignatureKeyFile)>, number: u64) -> Result<SignatureKeyFile> {
    let found = keys.into_iter().find(|(known, _)| *known == number).map(|(_, file)| file);
    found.ok_or_else(|| unknown(number))
}

fn unknown(number: u64) -> Error {
    Error::new(format!("There is no signature key with KEYNUM {number}. See 'tke sigkeys'."))
}

/// With a signing service, signature keys are not in files.
fn defers_to_service(desk: &mut Desk) -> Result<bool> {
    let Some(service) = SigningService::from_environment()? else { return Ok(false) };
    let text = "TKE_SIGNSERV_URL is set: the signing service holds the signature keys. Nothing was done.";
    desk.output.line(text);
    desk.output.set("message", text);
    desk.output.set("signing_service", service.address());
    Ok(true)
}
