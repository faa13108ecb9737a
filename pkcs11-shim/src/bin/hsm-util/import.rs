//! `--import`: key pairs, AES keys and certificates from files.

use std::path::Path;

use cryptoki::error::RvError;
use cryptoki::object::{Attribute, AttributeType, ObjectHandle};
use cryptoki::session::{Session, UserType};
use cryptoki_sys::*;
use hsm_emulator::units::Attributes;
use zeroize::Zeroize;

use crate::cli::{Cli, ImportType};
use crate::error::{Error, code};
use crate::library::Library;
use crate::{certificate_file, key_file, pin, slots};

/// `--import`.
pub fn run(library: &Library, cli: &Cli, path: &Path) -> Result<(), Error> {
    let slot = slots::find(library, cli, false)?;
    let label = cli
        .label
        .as_deref()
        .ok_or_else(|| Error::new("A label for the object must be supplied. Use --label <text>"))?;
    let id = cli
        .id
        .as_deref()
        .ok_or_else(|| Error::new("An ID for the object must be supplied. Use --id <hex>"))?;
    let id = object_id(id)?;
    let session = library.pkcs11().open_rw_session(slot).map_err(|error| match code(&error) {
        Some(RvError::SlotIdInvalid) => Error::new("The given slot does not exist."),
        _ => Error::new("Could not open a session on the given slot."),
    })?;
    let pin = pin::for_library(&pin::of(UserType::User, cli.pin.as_ref())?);
    session.login(UserType::User, Some(&pin)).map_err(|error| match code(&error) {
        Some(RvError::PinIncorrect) => Error::new("The given user PIN does not match the one in the token."),
        _ => Error::new("Could not log in on the token."),
    })?;
    let named = Attributes::new().with(CKA_LABEL, label).with(CKA_ID, id).with_bool(CKA_TOKEN, true);
    match cli.import_type() {
        ImportType::Keypair => import_key_pair(&session, cli, path, &named),
        ImportType::Aes => import_aes_key(&session, path, named),
        ImportType::Cert => import_certificate(&session, path, &named),
    }
}

fn import_key_pair(session: &Session, cli: &Cli, path: &Path, named: &Attributes) -> Result<(), Error> {
    let taken = Attributes::new()
        .with_ulong(CKA_CLASS, CKO_PRIVATE_KEY)
        .with(CKA_ID, named.get(CKA_ID).unwrap_or_default());
    let found = session
        .find_objects(&template(&taken))
        .map_err(|_| Error::new("Could not prepare the object search."))?;
    if !found.is_empty() && !cli.force {
        return Err(Error::new(
            "The ID is already assigned to another object. Use --force to override this message.",
        ));
    }
    let key = key_file::read(path, cli.file_pin.as_ref())?;
    let private = create(session, &joined(named, &key.private)).map_err(|error| {
        Error::new(format!(
            "Could not save the private key in the token. Maybe the algorithm is not supported.{}",
            because(&error)
        ))
    })?;
    if !cli.no_public_key {
        create(session, &joined(named, &key.public)).map_err(|error| {
            session.destroy_object(private).ok();
            Error::new(format!("Could not save the public key in the token.{}", because(&error)))
        })?;
    }
    println!("The key pair has been imported.");
    Ok(())
}

/// Says nothing when it is done, as `softhsm2-util` does.
fn import_aes_key(session: &Session, path: &Path, named: Attributes) -> Result<(), Error> {
    let value = key_file::read_bytes(path).map_err(|_| Error::new("Could not open the secret key file."))?;
    let key = named
        .with_ulong(CKA_CLASS, CKO_SECRET_KEY)
        .with_ulong(CKA_KEY_TYPE, CKK_AES)
        .with_bool(CKA_ENCRYPT, true)
        .with_bool(CKA_DECRYPT, true)
        .with_bool(CKA_SENSITIVE, true)
        .with(CKA_VALUE, value.as_slice());
    create(session, &key).map(drop).map_err(|error| {
        Error::new(format!(
            "Could not save the secret key in the token. Maybe the algorithm is not supported.{}",
            because(&error)
        ))
    })
}

fn import_certificate(session: &Session, path: &Path, named: &Attributes) -> Result<(), Error> {
    let certificate = certificate_file::read(path)?;
    create(session, &joined(named, &certificate)).map_err(|error| {
        Error::new(format!("Could not save the certificate in the token.{}", because(&error)))
    })?;
    println!("The certificate has been imported.");
    Ok(())
}

fn create(session: &Session, object: &Attributes) -> cryptoki::error::Result<ObjectHandle> {
    let mut template = template(object);
    let created = session.create_object(&template);
    for attribute in &mut template {
        if let Attribute::VendorDefined((_, value)) = attribute {
            value.zeroize();
        }
    }
    created
}

/// Attributes of any type, by number and bytes.
fn template(attributes: &Attributes) -> Vec<Attribute> {
    let by_number = |(kind, value): (u64, &[u8])| {
        Attribute::VendorDefined((AttributeType::VendorDefined(kind), value.to_vec()))
    };
    attributes.iter().map(by_number).collect()
}

fn joined(named: &Attributes, other: &Attributes) -> Attributes {
    let mut all = named.clone();
    other.iter().for_each(|(kind, value)| all.set(kind, value));
    all
}

fn because(error: &cryptoki::error::Error) -> String {
    code(error).map(|code| format!(" ({code:?})")).unwrap_or_default()
}

fn object_id(text: &str) -> Result<Vec<u8>, Error> {
    let wrong = |what: &str| {
        Error::new(format!("Invalid {what} hex string.\nPlease edit --id <hex> to correct error."))
    };
    if text.len() < 2 || !text.len().is_multiple_of(2) {
        return Err(wrong("length on"));
    }
    hex::decode(text).map_err(|_| wrong("character in"))
}
