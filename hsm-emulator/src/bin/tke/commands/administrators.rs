//! `cryptounit-admins`, `cryptounit-admin-add`, `cryptounit-admin-rm`.

use hsm_emulator::units::command::{Command, UnitStatus};
use hsm_emulator::units::{Administrator, SubjectKeyIdentifier};

use super::signature_keys;
use super::state::{self, plain};
use crate::cli::{AdministratorToAdd, AdministratorToRemove};
use crate::error::{Error, Result};
use crate::signer::unlock;
use crate::signing_service::SigningService;
use crate::table::{Cell, Table};
use crate::workstation::{Desk, Queried, Workstation};

/// Prints who is installed.
pub fn list(workstation: &mut Workstation) -> Result<()> {
    let units = workstation.selected()?;
    show(workstation, &units);
    Ok(())
}

fn show(workstation: &mut Workstation, units: &[Queried]) {
    let instance = &workstation.instance;
    let output = &mut workstation.desk.output;
    if units.iter().all(|unit| unit.status.administrators.is_empty()) {
        output.line(&format!("\nNo crypto unit administrators for service instance {instance}"));
        output.set("service_instance", instance.as_str());
        output.set("crypto_unit_administrators", Vec::<String>::new());
    } else {
        state::show_administrators(output, instance, units, plain);
    }
}

/// Installs one in all selected units.
pub fn add(workstation: &mut Workstation, whom: &AdministratorToAdd) -> Result<()> {
    let units = workstation.selected()?;
    let administrator = match SigningService::from_environment()? {
        Some(_) if whom.keynum.is_some() => {
            return Err(Error::Usage(
                "--keynum: TKE_SIGNSERV_URL is set, and the signing service has no KEYNUM. Use --key and --name."
                    .to_owned(),
            ));
        }
        Some(service) => from_service(&mut workstation.desk, &service, whom)?,
        None if whom.key.is_some() || whom.name.is_some() => {
            return Err(Error::Usage(
                "--key and --name are for a signing service, but TKE_SIGNSERV_URL is not set. Use --keynum."
                    .to_owned(),
            ));
        }
        None => from_file(&mut workstation.desk, whom)?,
    };
    let id = administrator.subject_key_identifier();
    let installed = |status: &UnitStatus| is_installed(status, &id);
    workstation.execute_all(&units, installed, |_| Command::AddAdministrator(administrator.clone()))?;
    workstation.desk.output.line("OK\nThe crypto unit administrator was added to the selected crypto units.");
    let units = workstation.selected()?;
    show(workstation, &units);
    Ok(())
}

fn from_file(desk: &mut Desk, whom: &AdministratorToAdd) -> Result<Administrator> {
    signature_keys::show(desk)?;
    desk.output.line("");
    let number = desk.prompt.number(
        "Enter the KEYNUM of the administrator signature key you wish to load:",
        whom.keynum,
        "--keynum",
    )?;
    let file = signature_keys::find(desk.files.signature_keys()?, number)?;
    let password = desk.prompt.password("Enter the password for the administrator signature key file:")?;
    Ok(Administrator::new(file.name(), unlock(number, &file, &password)?.verifying_key())?)
}

fn from_service(
    desk: &mut Desk,
    service: &SigningService,
    whom: &AdministratorToAdd,
) -> Result<Administrator> {
    let key = desk.prompt.text(
        "Enter the name of the administrator signature key:",
        whom.key.as_deref(),
        "--key",
    )?;
    let token = desk.prompt.password("Enter the token for the administrator signature key:")?;
    let name = desk.prompt.text("Enter an administrator name:", whom.name.as_deref(), "--name")?;
    Ok(Administrator::new(&name, &service.public_key(&key, &token)?)?)
}

/// Has the unit this administrator?
pub fn is_installed(status: &UnitStatus, id: &SubjectKeyIdentifier) -> bool {
    status.administrators.iter().any(|one| one.subject_key_identifier() == *id)
}

/// Removes one from those selected units that have it.
pub fn remove(workstation: &mut Workstation, whom: &AdministratorToRemove) -> Result<()> {
    let mut units = workstation.selected()?;
    let id = choose(&mut workstation.desk, &units, whom.ski.as_deref())?;
    units.retain(|unit| is_installed(&unit.status, &id));
    workstation.execute_all(&units, |_| false, |_| Command::RemoveAdministrator(id))?;
    workstation
        .desk
        .output
        .line("OK\nThe crypto unit administrator was removed from the selected crypto units.");
    let units = workstation.selected()?;
    show(workstation, &units);
    Ok(())
}

fn choose(desk: &mut Desk, units: &[Queried], given: Option<&str>) -> Result<SubjectKeyIdentifier> {
    let mut installed: Vec<&Administrator> = Vec::new();
    for administrator in units.iter().flat_map(|unit| &unit.status.administrators) {
        if installed.iter().all(|one| one.subject_key_identifier() != administrator.subject_key_identifier())
        {
            installed.push(administrator);
        }
    }
    if let Some(given) = given {
        // Tables abbreviate it.
        let digits = given.trim().trim_end_matches("...").to_lowercase();
        if digits.is_empty() {
            return Err(Error::new(
                "--ski: a subject key identifier has 64 hexadecimal digits; give the first ones.",
            ));
        }
        let begins = |one: &&&Administrator| one.subject_key_identifier().to_hex().starts_with(&digits);
        let mut found = installed.iter().filter(begins);
        return match (found.next(), found.next()) {
            (Some(one), None) => Ok(one.subject_key_identifier()),
            (None, _) => {
                Err(Error::new(format!("No administrator's subject key identifier begins with {digits}.")))
            }
            _ => Err(Error::new(format!("{digits} is the beginning of several subject key identifiers."))),
        };
    }
    let mut table = Table::new(&["NUM", "ADMIN NAME", "SUBJECT KEY IDENTIFIER"]);
    for (number, one) in (1..).zip(&installed) {
        let name = Cell::Text(one.name().to_owned());
        table.push(vec![Cell::Number(number), name, Cell::Identifier(one.subject_key_identifier())]);
    }
    table.lines().iter().for_each(|line| desk.output.line(line));
    let number =
        desk.prompt.number("\nEnter the NUM of the administrator you wish to remove:", None, "--ski")?;
    let chosen = usize::try_from(number).ok().and_then(|number| installed.get(number.checked_sub(1)?));
    chosen
        .map(|one| one.subject_key_identifier())
        .ok_or_else(|| Error::new(format!("There is no administrator {number}.")))
}
