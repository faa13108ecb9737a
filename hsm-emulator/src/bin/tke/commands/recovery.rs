//! `auto-mk-recover`, and how a master key goes from a recovery unit to others: never in clear.

use der::Decode;
use hsm_emulator::units::command::{Command, UnitStatus, UnitType};
use hsm_emulator::units::{TransportedKey, VerificationPattern};

use super::{master_key, units};
use crate::batch::Batch;
use crate::cli::AutoRecover;
use crate::error::{self, Error, Result};
use crate::workstation::{Queried, RECOVERY, Workstation};

/// The current master key of a recovery unit for units that have lost it, or never had it.
pub fn recover(workstation: &mut Workstation, what: &AutoRecover) -> Result<()> {
    units::list(workstation);
    let prompt = &workstation.desk.prompt;
    let question = "\nEnter the CRYPTO UNIT NUM of the recovery crypto unit that has the master key:";
    let source = units::find(workstation, prompt.number(question, what.source, "--source")?)?;
    if workstation.units[source].unit_type != RECOVERY {
        return Err(Error::new("Only a recovery crypto unit gives its master key to other crypto units."));
    }
    let question = "\nEnter a list of CRYPTO UNIT NUM that need it, separated by spaces:";
    let numbers = prompt.numbers(question, what.units.as_deref(), "--units")?;
    let targets: Vec<usize> =
        numbers.iter().map(|number| units::find(workstation, *number)).collect::<Result<_>>()?;
    if targets.is_empty() || targets.contains(&source) {
        return Err(Error::new("Name one or more other crypto units."));
    }

    let mut all = workstation.query_all(&[source])?;
    all.extend(workstation.query_all(&targets)?);
    let threshold = all[0].status.signature_threshold;
    for unit in &all {
        if unit.status.in_imprint_mode() {
            return Err(Error::new(format!(
                "Crypto unit {} is in imprint mode.\nAdd its administrators and set its signature thresholds first.",
                unit.number
            )));
        }
        if unit.status.signature_threshold != threshold {
            return Err(Error::new(format!("Crypto unit {} has another signature threshold.", unit.number)));
        }
    }
    let pattern = all[0].status.current_register.verification_pattern();
    if pattern.is_none() {
        return Err(Error::new(format!("Crypto unit {} has no current master key.", all[0].number)));
    }
    check_signers(workstation, &all, threshold)?;
    // A unit that has the master key already would refuse it.
    let needy: Vec<&Queried> = all[1..]
        .iter()
        .filter(|unit| unit.status.current_register.verification_pattern() != pattern)
        .collect();
    for unit in &needy {
        if unit.status.current_register.verification_pattern().is_some() {
            workstation.desk.prompt.confirm(&format!(
                "Warning!  Crypto unit {} has another master key, which will be gone.\nDo you want to continue?",
                unit.number
            ))?;
        }
    }
    let needy: Vec<Queried> = needy.into_iter().cloned().collect();
    warn_of_reencryption(workstation, &needy)?;
    if !needy.is_empty() {
        let concerned = [&all[..1], &needy].concat();
        workstation.unlock(&concerned, |_| threshold as usize)?;
    }
    copy_current(workstation, source, &needy).map_err(|error| {
        error.next(|_| {
            "When the cause is removed, repeat 'tke auto-mk-recover': it leaves alone the crypto units that are done."
                .to_owned()
        })
    })?;
    workstation.desk.output.line("OK\nThe master key is in all these crypto units.");
    let all = workstation.query_all(&targets)?;
    master_key::show(workstation, &all);
    Ok(())
}

/// The new registers are needed for the way. They may hold what a re-encryption needs.
fn warn_of_reencryption(workstation: &mut Workstation, needy: &[Queried]) -> Result<()> {
    if needy.iter().all(|unit| unit.status.new_register.verification_pattern().is_none()) {
        return Ok(());
    }
    let begun = workstation.connection.reencryption()?.verification_pattern;
    let Some(pending) = VerificationPattern::from_hex(&begun) else { return Ok(()) };
    let has_it = |status: &UnitStatus| status.new_register.verification_pattern() == Some(pending);
    let overwritten: Vec<u64> =
        needy.iter().filter(|unit| has_it(&unit.status)).map(|unit| unit.number).collect();
    if overwritten.is_empty() {
        return Ok(());
    }
    let mut kept = None;
    for at in 0..workstation.units.len() {
        let is_needy = needy.iter().any(|unit| unit.at == at);
        if !is_needy
            && workstation.units[at].unit_type == RECOVERY
            && workstation.query(at).is_ok_and(|s| has_it(&s))
        {
            kept.get_or_insert(workstation.units[at].number);
        }
    }
    let afterwards = match kept {
        Some(number) => format!("'tke cryptounit-mk-rotate' brings it back from recovery crypto unit {number}."),
        None => "No other recovery crypto unit has it: without its key parts the re-encryption cannot be finished, only \
                 given up, with 'tke cryptounit-mk-clrnew' and 'tke cryptounit-mk-rotate --cancel'."
            .to_owned(),
    };
    workstation.desk.prompt.confirm(&format!(
        "Warning!  Key storage is being re-encrypted under a new master key, which will be gone from the new master key \
         registers of crypto units: {}\n{afterwards}\nDo you want to continue?",
        error::numbers(&overwritten)
    ))
}

/// Copies the current master key into the current registers of other units.
pub fn copy_current(workstation: &mut Workstation, source: usize, targets: &[Queried]) -> Result<()> {
    let mut done = 0;
    workstation.for_each(&Batch::all(targets), |workstation, target| {
        done += 1;
        workstation.desk.output.progress(&transferring(done, targets.len()));
        let pattern = transfer(workstation, source, target.at, Command::ExportCurrent)?;
        workstation.execute(target.at, Command::CommitMasterKey(pattern))?;
        workstation.set_immediate(target.at, &pattern)
    })
}

/// How far the transfer is.
pub fn transferring(done: usize, of: usize) -> String {
    format!("Transferring the master key value to {done} of {of} crypto units....")
}

/// Moves a master key into another unit's new register.
pub fn transfer(
    workstation: &mut Workstation,
    source: usize,
    target: usize,
    export: fn(Vec<u8>) -> Command,
) -> Result<VerificationPattern> {
    let importer = workstation.execute(target, Command::GenerateImporterKey)?;
    let exported = workstation.execute(source, export(importer))?;
    let transported = TransportedKey::from_der(&exported)?;
    let pattern = workstation.execute(target, Command::ImportMasterKey(vec![transported]))?;
    VerificationPattern::from_bytes(&pattern)
        .ok_or_else(|| Error::new("A crypto unit's answer is malformed."))
}

/// Where random master keys come from.
pub fn first_recovery_unit(units: &[Queried]) -> Result<usize> {
    let found = units.iter().find(|unit| unit.status.unit_type == UnitType::Recovery).map(|unit| unit.at);
    found.ok_or_else(|| {
        Error::new("The service instance has no recovery crypto units.\nUse key files: see 'tke help'.")
    })
}

/// Are enough of the selected signature keys administrators of all these units?
pub fn check_signers(workstation: &mut Workstation, units: &[Queried], threshold: u32) -> Result<()> {
    let signers = workstation.signers()?;
    let common = signers.common(units.iter().map(|unit| &unit.status));
    if common < threshold as usize {
        return Err(Error::new(format!(
            "{threshold} of the selected signature keys must be administrators of all crypto units; {common} are.\n{}, or \
             install them with 'tke cryptounit-admin-add'.",
            signers.advice()
        )));
    }
    Ok(())
}
