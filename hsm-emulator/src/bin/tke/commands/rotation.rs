//! `cryptounit-mk-rotate`, `auto-mk-rotate`: a new master key, and everything stored re-encrypted under it.

use std::thread;
use std::time::Duration;

use hsm_emulator::units::VerificationPattern;
use hsm_emulator::units::command::UnitType::Recovery;
use hsm_emulator::units::command::{Command, RegisterState};
use hsm_proto::tke::{ReencryptProgress, UnitType};

use super::recovery::{self, transfer};
use super::{master_key, units};
use crate::batch::Batch;
use crate::cli::{AutoRotate, DamagedKeys, Rotate};
use crate::error::{self, Error, Result};
use crate::workstation::{Queried, Workstation, activation_order};

/// From the committed new registers, loaded from key parts; or the rest of a rotation that was interrupted.
pub fn rotate(workstation: &mut Workstation, how: &Rotate) -> Result<()> {
    if how.cancel {
        return cancel(workstation);
    }
    workstation.desk.output.line(RESTART);
    workstation.desk.prompt.confirm(
        "The pre-check looks at all crypto units of the service instance; then the master key is rotated.\nDo you want to \
         continue?",
    )?;
    if let Some(unit) = workstation.units.iter().find(|unit| !unit.selected) {
        return Err(pre_check(format!(
            "crypto unit {} is not selected; use 'tke cryptounit-add'",
            unit.number
        )));
    }
    let mut units = workstation.selected()?;
    let threshold = check_common(workstation, &units)?;
    if let Some(begun) = check_begun(workstation, &units)? {
        workstation.unlock(&units, |_| threshold as usize)?;
        bring_over(workstation, &begun)?;
        units = workstation.selected()?;
    }
    let pending = check_committed(&units)?;
    workstation.unlock(&units, |_| 1)?;
    reencrypt_and_set(workstation, units, &pending, false, &how.damaged)
}

/// With a random master key that a recovery unit makes.
pub fn rotate_with_random_key(workstation: &mut Workstation, how: &AutoRotate) -> Result<()> {
    units::list(workstation);
    workstation.desk.output.line(&format!("\n{RESTART}"));
    workstation.desk.prompt.pause()?;
    let units = workstation.query_every()?;
    let threshold = check_common(workstation, &units)?;
    let source = recovery::first_recovery_unit(&units)?;
    if !workstation.connection.reencryption()?.verification_pattern.is_empty() && !how.abandon_reencryption {
        return Err(pre_check(
            "key storage is being re-encrypted under another new master key\nRun 'tke cryptounit-mk-rotate' to finish \
             that, or 'tke cryptounit-mk-rotate --cancel' to give it up without loss. With --abandon-reencryption a new \
             rotation begins, and key storage may become unusable"
                .to_owned(),
        ));
    }
    workstation.unlock(&units, |_| threshold as usize)?;
    workstation.select_every()?;
    units::record(workstation);

    let pending =
        commit_random_key(workstation, source, &units, how.abandon_reencryption).map_err(|error| {
            error.next(|_| "Nothing has been re-encrypted yet. Repeat 'tke auto-mk-rotate'.".to_owned())
        })?;
    workstation.desk.output.progress(&format!(
        "Delaying {} seconds to allow server to discover new master key values",
        how.delay
    ));
    thread::sleep(Duration::from_secs(how.delay));
    reencrypt_and_set(workstation, units, &pending, how.abandon_reencryption, &how.damaged)
}

/// A new master key from one unit, committed in all of them.
fn commit_random_key(
    workstation: &mut Workstation,
    source: usize,
    units: &[Queried],
    abandon_other: bool,
) -> Result<VerificationPattern> {
    // Another operator may have begun to rotate while passwords were asked for here.
    if !workstation.connection.reencryption()?.verification_pattern.is_empty() && !abandon_other {
        return Err(Error::new(
            "Another rotation has begun meanwhile: see 'tke cryptounit-mk'. Nothing has been changed.",
        ));
    }
    workstation.desk.output.progress("Generating a random master key value....");
    if workstation.query(source)?.new_register.state != RegisterState::Empty {
        workstation.execute(source, Command::ClearNew)?;
    }
    workstation.execute(source, Command::GenerateMasterKey)?;
    let pending = workstation.query(source)?.new_register.verification_pattern();
    let pending =
        pending.ok_or_else(|| Error::new("The recovery crypto unit has made no new master key."))?;
    let others: Vec<Queried> = units.iter().filter(|unit| unit.at != source).cloned().collect();
    let mut done = 0;
    workstation.for_each(&Batch::all(&others), |workstation, target| {
        done += 1;
        workstation.desk.output.progress(&recovery::transferring(done, others.len()));
        transfer_pending(workstation, source, target.at, &pending)
    })?;
    workstation.for_each(&Batch::all(units), |workstation, unit| {
        workstation.execute(unit.at, Command::CommitMasterKey(pending)).map(drop)
    })?;
    Ok(pending)
}

fn transfer_pending(
    workstation: &mut Workstation,
    source: usize,
    target: usize,
    pending: &VerificationPattern,
) -> Result<()> {
    if transfer(workstation, source, target, Command::ExportPending)? == *pending {
        return Ok(());
    }
    Err(Error::new("The master key has changed on its way to another crypto unit."))
}

/// Some crypto units have lost the new master key of a re-encryption that has begun, or not committed it; a recovery
/// unit has it.
struct Begun {
    pending: VerificationPattern,
    source: Queried,
    /// They get it again.
    without: Vec<Queried>,
    uncommitted: Vec<Queried>,
}

/// Puts the new master key of the re-encryption back into the crypto units that have lost it.
fn bring_over(workstation: &mut Workstation, begun: &Begun) -> Result<()> {
    let Begun { pending, source, without, uncommitted } = begun;
    let numbers =
        |units: &[Queried]| error::numbers(&units.iter().map(|unit| unit.number).collect::<Vec<_>>());
    workstation.desk.output.progress(&format!(
        "Key storage is being re-encrypted. Recovery crypto unit {} has the new master key, and gives it to: {}",
        source.number,
        numbers(without)
    ));
    let mut done = 0;
    let transferred = workstation.for_each(&Batch::all(without), |workstation, target| {
        done += 1;
        workstation.desk.output.progress(&recovery::transferring(done, without.len()));
        transfer_pending(workstation, source.at, target.at, pending)
    });
    let committed = transferred.and_then(|()| {
        workstation.for_each(&Batch::all(&[without.as_slice(), uncommitted].concat()), |workstation, unit| {
            workstation.execute(unit.at, Command::CommitMasterKey(*pending)).map(drop)
        })
    });
    committed.map_err(|error| {
        error.next(|_| "When the cause is removed, repeat 'tke cryptounit-mk-rotate'.".to_owned())
    })
}

/// Gives up a re-encryption that has begun.
fn cancel(workstation: &mut Workstation) -> Result<()> {
    let begun = workstation.connection.reencryption()?.verification_pattern;
    if begun.is_empty() {
        return Err(Error::new("Key storage is not being re-encrypted: there is nothing to cancel."));
    }
    workstation.desk.prompt.confirm(&format!(
        "Key storage is being re-encrypted under the new master key with the verification pattern\n{begun}.\nThat is given \
         up. Nothing is lost: key storage stays under the current master key.\nDo you want to continue?"
    ))?;
    workstation.connection.cancel_reencryption(begun)?;
    workstation
        .desk
        .output
        .line("OK\nThe re-encryption is cancelled; key storage is under the current master key.");
    Ok(())
}

/// Those that are powered off, or have lost their master keys, do not know what follows.
fn name_absent(workstation: &mut Workstation) -> Result<()> {
    for unit in workstation.connection.list_units()?.units {
        let known = workstation.units.iter().find(|known| known.hsm_id == unit.hsm_id);
        if let Some(known) = known.filter(|_| unit.r#type() == UnitType::Operational && unit.state != RUNNING)
        {
            workstation.desk.output.progress(&format!(
                "Warning!  Crypto unit {} takes no part in the re-encryption: {}.",
                known.number, unit.state
            ));
        }
    }
    Ok(())
}

/// The common end.
fn reencrypt_and_set(
    workstation: &mut Workstation,
    mut units: Vec<Queried>,
    pending: &VerificationPattern,
    abandon_other: bool,
    damaged: &DamagedKeys,
) -> Result<()> {
    workstation.desk.output.progress("Master key rotation started.");
    name_absent(workstation)?;
    let Workstation { connection, desk, .. } = workstation;
    let reencrypted = connection.reencrypt(pending.to_hex(), abandon_other, |progress| {
        desk.output.progress(&format!("Re-encrypted {} of {} keys.", progress.done, progress.total));
    });
    let reencrypted = reencrypted.map_err(|error| {
        // Only a service that answers can say that it has not begun.
        let begun =
            connection.reencryption().map_or(true, |storage| !storage.verification_pattern.is_empty());
        error.next(|_| match begun {
            true => "Key storage may be re-encrypted in part. Run 'tke cryptounit-mk-rotate' to go on; or 'tke \
                     cryptounit-mk-clrnew', then 'tke cryptounit-mk-rotate --cancel', to give it up without \
                     loss.\nWarning!  'tke cryptounit-mk-setimm' or another new master key would make key storage \
                     unusable now."
                .to_owned(),
            false => format!(
                "Nothing has been re-encrypted. See 'tke cryptounit-mk'; when the cause is removed, repeat 'tke {}'.",
                desk.command
            ),
        })
    })?;
    let ReencryptProgress { left_out, total, .. } = reencrypted;
    desk.output.set("reencrypted", reencrypted.done);
    desk.output.set("left_out", left_out);
    if left_out > 0 {
        // The old master key is nowhere once it is replaced: what is restored afterwards cannot be opened.
        if !damaged.without_damaged_keys {
            return Err(Error::DamagedKeys { left_out, total });
        }
        desk.output.progress(&format!(
            "Warning!  {left_out} of {total} stored keys are damaged or under another master key, and are lost. The \
             service's log names them."
        ));
    }
    desk.output.progress("KMS CRK rewrap successful, waiting on cryptounit-mk-setimm");
    units.sort_by_key(activation_order);
    let set = workstation
        .for_each(&Batch::all(&units), |workstation, unit| workstation.set_immediate(unit.at, pending));
    set.map_err(|error| {
        error.next(|outcome| match error::numbers(&outcome.done) {
            done if done.is_empty() => "Key storage is re-encrypted under the new master key. When the cause is removed, \
                                        run 'tke cryptounit-mk-setimm': it is safe to answer y."
                .to_owned(),
            done => format!(
                "Key storage is under the new master key. When the cause is removed, take the crypto units that have it \
                 out of the selection with 'tke cryptounit-rm --units \"{done}\"', then run 'tke \
                 cryptounit-mk-setimm': it is safe to answer y."
            ),
        })
    })?;
    workstation.desk.output.line("OK\nMaster key rotation successful.");
    master_key::list(workstation)
}

/// Out of imprint mode, one threshold, one current master key, and enough common administrators who can sign here.
/// The threshold.
fn check_common(workstation: &mut Workstation, units: &[Queried]) -> Result<u32> {
    let Some(first) = units.first() else { return Err(pre_check("there are no crypto units".to_owned())) };
    let threshold = first.status.signature_threshold;
    for unit in units {
        let number = unit.number;
        if unit.status.in_imprint_mode() {
            return Err(pre_check(format!("crypto unit {number} is in imprint mode")));
        }
        if unit.status.signature_threshold != threshold {
            return Err(pre_check(format!("crypto unit {number} has another signature threshold")));
        }
        if unit.status.current_register.state != RegisterState::Valid {
            return Err(pre_check(format!(
                "the current master key register of crypto unit {number} is empty"
            )));
        }
        if unit.status.current_register != first.status.current_register {
            return Err(pre_check(format!(
                "crypto unit {number} has another current master key than crypto unit {}\nIf a rotation was interrupted \
                 while it set the new master keys: take the crypto units that have the new one out of the selection with \
                 'tke cryptounit-rm', then use 'tke cryptounit-mk-setimm'",
                first.number
            )));
        }
    }
    recovery::check_signers(workstation, units, threshold)?;
    Ok(threshold)
}

/// A re-encryption that has begun goes on under its own new master key only. What has to be put right first.
fn check_begun(workstation: &mut Workstation, units: &[Queried]) -> Result<Option<Begun>> {
    let begun = workstation.connection.reencryption()?.verification_pattern;
    let Some(pending) = VerificationPattern::from_hex(&begun) else { return Ok(None) };
    let has_it = |unit: &Queried| unit.status.new_register.verification_pattern() == Some(pending);
    let (with, without): (Vec<_>, Vec<_>) = units.iter().cloned().partition(has_it);
    let Some(first) = without.first() else { return Ok(None) };
    let Some(source) = with.iter().find(|unit| unit.status.unit_type == Recovery).cloned() else {
        return Err(pre_check(format!(
            "key storage is being re-encrypted under the master key with the verification pattern\n{begun},\nbut the new \
             master key register of crypto unit {} does not hold it, and no recovery crypto unit does\nIf you have its \
             key parts, load it again with 'tke cryptounit-mk-load', commit it with 'tke cryptounit-mk-commit', then \
             repeat 'tke cryptounit-mk-rotate'. If not, give the re-encryption up: 'tke cryptounit-mk-clrnew', then \
             'tke cryptounit-mk-rotate --cancel'; nothing is lost",
            first.number
        )));
    };
    let is_uncommitted = |unit: &Queried| unit.status.new_register.state != RegisterState::FullCommitted;
    let uncommitted = with.into_iter().filter(is_uncommitted).collect();
    Ok(Some(Begun { pending, source, without, uncommitted }))
}

/// One committed new master key, other than the current one.
fn check_committed(units: &[Queried]) -> Result<VerificationPattern> {
    let mut pending = None;
    for unit in units {
        let number = unit.number;
        let pattern = unit.status.new_register.verification_pattern();
        if unit.status.new_register.state != RegisterState::FullCommitted {
            return Err(pre_check(format!(
                "the new master key register of crypto unit {number} is not committed\nUse 'tke cryptounit-mk-load' and \
                 'tke cryptounit-mk-commit'"
            )));
        }
        if pattern == unit.status.current_register.verification_pattern() {
            return Err(pre_check(format!("crypto unit {number} has the same new and current master key")));
        }
        if pending.is_some_and(|pending| Some(pending) != pattern) {
            return Err(pre_check(format!("crypto unit {number} has another new master key")));
        }
        pending = pattern;
    }
    pending.ok_or_else(|| pre_check("there is no new master key".to_owned()))
}

fn pre_check(what: String) -> Error {
    Error::new(format!("The pre-check failed: {what}."))
}

const RESTART: &str =
    "Applications that hold PKCS #11 objects in memory have to be restarted after the rotation.";
/// What the service says of a crypto unit that serves.
const RUNNING: &str = "running";
