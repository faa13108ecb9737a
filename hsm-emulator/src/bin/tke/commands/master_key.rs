//! `cryptounit-mk` and its companions: the master key registers.

use hsm_emulator::units::command::{Command, RegisterState, UnitStatus, UnitType};
use hsm_emulator::units::{KeyPart, MasterKey, TransportedKey, VerificationPattern};

use super::key_parts;
use super::state::{self, plain};
use crate::batch::Batch;
use crate::cli::KeyNumbers;
use crate::error::{Error, Result};
use crate::workstation::{Queried, Workstation};

/// Prints both registers.
pub fn list(workstation: &mut Workstation) -> Result<()> {
    let units = workstation.selected()?;
    show(workstation, &units);
    Ok(())
}

/// Prints both registers of these units.
pub fn show(workstation: &mut Workstation, units: &[Queried]) {
    let output = &mut workstation.desk.output;
    state::show_new_register(output, &workstation.instance, units, plain);
    output.line("");
    state::show_current_register(output, &workstation.instance, units, plain);
}

fn show_new(workstation: &mut Workstation) -> Result<()> {
    let units = workstation.selected()?;
    state::show_new_register(&mut workstation.desk.output, &workstation.instance, &units, plain);
    Ok(())
}

/// Loads the new register from two or three key parts.
pub fn load(workstation: &mut Workstation, given: &KeyNumbers) -> Result<()> {
    let units = workstation.selected()?;
    let files = workstation.desk.files.key_parts()?;
    key_parts::show(&mut workstation.desk)?;
    let numbers = workstation.desk.prompt.numbers(
        "\nEnter the KEYNUM values of the master key parts you wish to load.\n2 or 3 values must be specified, separated \
         by spaces.",
        given.keynum.as_deref(),
        "--keynum",
    )?;
    if !(2..=3).contains(&numbers.len()) {
        return Err(Error::new(format!("2 or 3 KEYNUM values are needed, not {}.", numbers.len())));
    }
    let chosen: Vec<_> =
        numbers.iter().map(|number| key_parts::find(&files, *number)).collect::<Result<_>>()?;
    workstation.unlock(&units, |status| usize::from(!status.in_imprint_mode()))?;
    let mut parts: Vec<KeyPart> = Vec::new();
    for (number, file) in numbers.iter().zip(chosen) {
        let question = format!("Enter the password for key file {number}");
        let password = workstation.desk.prompt.password(&question)?;
        let part = file.unlock(&password);
        let key = format!("KEYNUM {number}, the master key part {:?}", file.description());
        parts.push(part.map_err(|error| error.of_key(key))?);
    }
    let key =
        MasterKey::from_parts(&parts).ok_or_else(|| Error::new("The key parts cancel each other out."))?;
    let pattern = *key.verification_pattern();
    let has_it = |status: &UnitStatus| status.new_register.verification_pattern() == Some(pattern);
    workstation.for_each_or_repeat(&Batch::new(&units, has_it), |workstation, unit| {
        let importer = workstation.execute(unit.at, Command::GenerateImporterKey)?;
        let transported = parts.iter().map(|part| TransportedKey::wrap(part, &importer));
        let transported = transported.collect::<Result<_, _>>()?;
        let loaded = workstation.execute(unit.at, Command::ImportMasterKey(transported))?;
        if VerificationPattern::from_bytes(&loaded) == Some(pattern) {
            return Ok(());
        }
        Err(Error::new(format!(
            "Crypto unit {} has loaded another master key than it was sent.",
            unit.number
        )))
    })?;
    workstation
        .desk
        .output
        .line("OK\nThe new master key register has been loaded in the selected crypto units.");
    show_new(workstation)
}

/// Commits what is in the new register.
pub fn commit(workstation: &mut Workstation) -> Result<()> {
    let units = workstation.selected()?;
    let pattern = common_pending(&units)?;
    let is_committed = |status: &UnitStatus| status.new_register.state == RegisterState::FullCommitted;
    workstation.execute_all(&units, is_committed, |_| Command::CommitMasterKey(pattern))?;
    workstation
        .desk
        .output
        .line("OK\nThe new master key register has been committed in the selected crypto units.");
    show_new(workstation)
}

/// The verification pattern that all new registers show.
fn common_pending(units: &[Queried]) -> Result<VerificationPattern> {
    let mut common: Option<(u64, VerificationPattern)> = None;
    for unit in units {
        let pattern = unit.status.new_register.verification_pattern().ok_or_else(|| {
            Error::new(format!(
                "The new master key register of crypto unit {} is empty.\nLoad it with 'tke cryptounit-mk-load'.",
                unit.number
            ))
        })?;
        let (first, expected) = *common.get_or_insert((unit.number, pattern));
        if pattern != expected {
            return Err(Error::new(format!(
                "The new master key registers of crypto units {first} and {} hold different master keys.\nLoad the same \
                 key parts into all selected crypto units with 'tke cryptounit-mk-load'.",
                unit.number
            )));
        }
    }
    common.map(|(_, pattern)| pattern).ok_or_else(|| Error::new("No crypto units are selected."))
}

/// Makes the committed master key the current one.
pub fn set_immediate(workstation: &mut Workstation) -> Result<()> {
    let units = workstation.selected()?;
    let unprepared = unprepared(workstation, &units)?;
    workstation.desk.prompt.confirm(&format!(
        "Warning!  Key storage of the service instance must have been prepared for the new master key: this command \
         re-encrypts nothing, and key storage may become unusable.\n{unprepared}Do you want to continue?",
    ))?;
    let committed: Vec<VerificationPattern> = units
        .iter()
        .filter(|unit| unit.status.new_register.state == RegisterState::FullCommitted)
        .filter_map(|unit| unit.status.new_register.verification_pattern())
        .collect();
    let is_set = |status: &UnitStatus| {
        let current = status.current_register.verification_pattern();
        status.new_register.state == RegisterState::Empty
            && current.is_some_and(|current| committed.contains(&current))
    };
    let batch = Batch::new(&units, is_set);
    workstation.unlock_for(&batch, |_| Command::SetImmediate)?;
    workstation.for_each_or_repeat(&batch, |workstation, unit| {
        match unit.status.new_register.verification_pattern() {
            Some(pattern) => workstation.set_immediate(unit.at, &pattern),
            // The unit says why not.
            None => workstation.execute(unit.at, Command::SetImmediate).map(drop),
        }
    })?;
    workstation.desk.output.line("OK\nSet immediate completed successfully in the selected crypto units.");
    list(workstation)
}

/// What the service says about key storage, where another master key is about to be replaced.
fn unprepared(workstation: &mut Workstation, units: &[Queried]) -> Result<String> {
    let replaced = units.iter().filter(|unit| unit.status.current_register.state == RegisterState::Valid);
    let mut pending = replaced.filter_map(|unit| unit.status.new_register.verification_pattern());
    let Some(pending) = pending.next() else { return Ok(String::new()) };
    let storage = workstation.connection.reencryption()?;
    if storage.verification_pattern == pending.to_hex() {
        return Ok(match storage.complete {
            true if storage.left_out == 0 => String::new(),
            true => format!(
                "{} of {} stored keys could not be re-encrypted and will be lost: the service's log names them. Restore \
                 them from a backup and use 'tke cryptounit-mk-rotate' instead.\n",
                storage.left_out, storage.total
            ),
            false => format!(
                "Only {} of {} stored keys have been re-encrypted under this master key: use 'tke cryptounit-mk-rotate' \
                 instead.\n",
                storage.done, storage.total
            ),
        });
    }
    // With the first operational unit that sets it, the service has moved on to this master key.
    for at in 0..workstation.units.len() {
        let moved = |status: UnitStatus| {
            status.unit_type == UnitType::Operational
                && status.current_register.verification_pattern() == Some(pending)
        };
        if workstation.query(at).is_ok_and(moved) {
            return Ok(String::new());
        }
    }
    Ok("Nothing has been re-encrypted under this master key: to keep what is stored, use 'tke cryptounit-mk-rotate' \
        instead.\n"
        .to_owned())
}

/// Empties the new register.
pub fn clear_new(workstation: &mut Workstation) -> Result<()> {
    let units = workstation.selected()?;
    workstation.desk.prompt.confirm(
        "Warning!  If key storage is being re-encrypted under the new master key, the rotation cannot be finished without \
         it.\nAre you sure you want to clear the new master key register of the selected crypto units?",
    )?;
    let is_empty = |status: &UnitStatus| status.new_register.state == RegisterState::Empty;
    workstation.execute_all(&units, is_empty, |_| Command::ClearNew)?;
    workstation
        .desk
        .output
        .line("OK\nThe new master key register has been cleared in the selected crypto units.");
    show_new(workstation)
}

/// Empties the current register.
pub fn clear_current(workstation: &mut Workstation) -> Result<()> {
    let units = workstation.selected()?;
    workstation.desk.prompt.confirm(
        "Warning!  Key storage is unusable until the same master key is loaded again.\nAre you sure you want to clear the \
         current master key register of the selected crypto units?",
    )?;
    let is_empty = |status: &UnitStatus| status.current_register.state == RegisterState::Empty;
    workstation.execute_all(&units, is_empty, |_| Command::ClearCurrent)?;
    workstation
        .desk
        .output
        .line("OK\nThe current master key register has been cleared in the selected crypto units.");
    let units = workstation.selected()?;
    state::show_current_register(&mut workstation.desk.output, &workstation.instance, &units, plain);
    Ok(())
}
