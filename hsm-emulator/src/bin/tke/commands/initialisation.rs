//! `auto-init`: administrators, thresholds and a master key in all units of an instance.

use hsm_emulator::units::command::{Command, RegisterState, UnitStatus, UnitType};
use hsm_emulator::units::{Administrator, MAX_ADMINISTRATORS};

use super::administrators::is_installed;
use super::recovery::{copy_current, first_recovery_unit};
use super::{master_key, signature_keys, thresholds, units};
use crate::batch::Batch;
use crate::cli::AutoInit;
use crate::error::{self, Error, Result};
use crate::files::SignatureKeyFile;
use crate::signer::SignatureKey;
use crate::signing_service::{ServiceKey, SigningService};
use crate::workstation::{Desk, Queried, Workstation};

/// Administrators, thresholds and one master key in all units of the instance: a random one, or that of a recovery
/// unit which has one already. No key that is in a unit is given up.
pub fn initialise(workstation: &mut Workstation, how: &AutoInit) -> Result<()> {
    units::list(workstation);
    workstation.desk.output.line("\nAll crypto units of this service instance will be initialised.");
    workstation.desk.prompt.pause()?;
    let all = workstation.query_every()?;
    let first = first_recovery_unit(&all)?;
    check_imprint_mode(&all)?;
    let holder = check_registers(&all)?;
    let source = holder.map_or(first, |unit| unit.at);
    let Plan { signature, revocation, signers } = ask(&mut workstation.desk, how)?;

    workstation.select_every()?;
    units::record(workstation);
    let administrators: Vec<Administrator> =
        signers.iter().map(|signer| signer.administrator.clone()).collect();
    store(&mut workstation.desk, &signers)?;
    let keys = signers.into_iter().map(|signer| (signer.administrator.subject_key_identifier(), signer.key));
    workstation.sign_with(keys.collect());

    install(workstation, &all, &administrators)
        .map_err(|error| error.next(|_| "When the cause is removed, repeat 'tke auto-init'.".to_owned()))?;
    workstation.desk.output.progress("Setting signature thresholds....");
    let set = workstation.for_each(&Batch::all(&all), |workstation, unit| {
        let attributes = thresholds::attributes(&unit.status, signature, revocation);
        workstation.execute(unit.at, Command::SetAttributes(attributes)).map(drop)
    });
    let others: Vec<Queried> = all
        .iter()
        .filter(|unit| unit.at != source && unit.status.current_register.state == RegisterState::Empty)
        .cloned()
        .collect();
    let number = workstation.units[source].number;
    let copy = |units: &str| format!("use 'tke auto-mk-recover --source {number} --units \"{units}\"'");
    let needy = error::numbers(&others.iter().map(|unit| unit.number).collect::<Vec<_>>());
    set.map_err(|error| {
        error.next(|outcome| {
            let step = "When the cause is removed,";
            match holder {
                _ if outcome.done.is_empty() => format!("{step} repeat 'tke auto-init'."),
                None => ZEROIZE_AND_REPEAT.to_owned(),
                Some(_) if needy.is_empty() => format!("{step} use 'tke cryptounit-thrhld-set'."),
                Some(_) => format!("{step} use 'tke cryptounit-thrhld-set', then {}.", copy(&needy)),
            }
        })
    })?;
    if holder.is_none() {
        workstation.desk.output.progress("Generating a random master key value....");
        let generated = workstation.execute(source, Command::GenerateMasterKey);
        generated.map_err(|error| error.next(|_| ZEROIZE_AND_REPEAT.to_owned()))?;
    }
    copy_current(workstation, source, &others).map_err(|error| {
        error.next(|outcome| {
            let copy = copy(&outcome.left());
            format!("Recovery crypto unit {number} has the master key. When the cause is removed, {copy}.")
        })
    })?;
    workstation.desk.output.line(
        "OK\nThe service instance has been initialised.\nCheck the configuration with 'tke cryptounit-compare'.",
    );
    let all = workstation.selected()?;
    master_key::show(workstation, &all);
    Ok(())
}

/// All units are in imprint mode. If not, what is left to do of an initialisation that came to a halt?
fn check_imprint_mode(units: &[Queried]) -> Result<()> {
    let Some(unit) = units.iter().find(|unit| !unit.status.in_imprint_mode()) else { return Ok(()) };
    let numbers = |wanted: &dyn Fn(&UnitStatus) -> bool| {
        let chosen = units.iter().filter(|unit| wanted(&unit.status)).map(|unit| unit.number);
        error::numbers(&chosen.collect::<Vec<_>>())
    };
    let is_empty = |status: &UnitStatus| status.current_register.state == RegisterState::Empty;
    let empty = numbers(&is_empty);
    let imprint = numbers(&UnitStatus::in_imprint_mode);
    let holder = units
        .iter()
        .find(|unit| unit.status.unit_type == UnitType::Recovery && !is_empty(&unit.status))
        .map(|unit| unit.number);
    let advice = match holder {
        Some(holder) if empty.is_empty() && imprint.is_empty() => {
            format!("All crypto units have a master key, recovery crypto unit {holder} too: nothing is left to do.")
        }
        Some(holder) => {
            let install = format!(
                "install the administrators and set the thresholds of crypto units {imprint} with 'tke \
                 cryptounit-admin-add' and 'tke cryptounit-thrhld-set'"
            );
            let copy = format!("use 'tke auto-mk-recover --source {holder} --units \"{empty}\"'");
            let steps = [(install, imprint.is_empty()), (copy, empty.is_empty())];
            let steps: Vec<String> =
                steps.into_iter().filter_map(|(step, is_done)| (!is_done).then_some(step)).collect();
            format!("Recovery crypto unit {holder} has the master key: {}.", steps.join(", then "))
        }
        None if units.iter().all(|unit| is_empty(&unit.status)) => ZEROIZE_AND_REPEAT.to_owned(),
        None => "Do not zeroize: there are crypto units with a master key that no recovery crypto unit has. Use key \
                 files."
            .to_owned(),
    };
    Err(Error::new(format!(
        "Crypto unit {} is not in imprint mode.\nSee 'tke cryptounit-compare'. {advice}",
        unit.number
    )))
}

/// A recovery unit that has the master key of all units that have one; `None` if none has.
fn check_registers(units: &[Queried]) -> Result<Option<&Queried>> {
    if let Some(unit) = units.iter().find(|unit| unit.status.new_register.state != RegisterState::Empty) {
        return Err(Error::new(format!(
            "The new master key register of crypto unit {} is not empty.\nSee 'tke cryptounit-compare'.",
            unit.number
        )));
    }
    let held: Vec<&Queried> =
        units.iter().filter(|unit| unit.status.current_register.state == RegisterState::Valid).collect();
    let Some(first) = held.first() else { return Ok(None) };
    let key = "Every key stored under it would be lost with it.\nSee 'tke cryptounit-compare'. If nothing is stored, use \
               'tke cryptounit-zeroize' first.";
    if let Some(other) =
        held.iter().find(|unit| unit.status.current_register != first.status.current_register)
    {
        return Err(Error::new(format!(
            "Crypto units {} and {} have different master keys. {key}",
            first.number, other.number
        )));
    }
    let holder = held.iter().find(|unit| unit.status.unit_type == UnitType::Recovery);
    holder.copied().map(Some).ok_or_else(|| {
        Error::new(format!(
            "Crypto unit {} has a master key that no recovery crypto unit has. {key}",
            first.number
        ))
    })
}

/// Administrators in units that are in imprint mode, in place of those that an interrupted attempt has left.
fn install(workstation: &mut Workstation, all: &[Queried], administrators: &[Administrator]) -> Result<()> {
    let wanted: Vec<_> = administrators.iter().map(Administrator::subject_key_identifier).collect();
    workstation.for_each(&Batch::all(all), |workstation, unit| {
        for left in &unit.status.administrators {
            let id = left.subject_key_identifier();
            if !wanted.contains(&id) {
                workstation.execute(unit.at, Command::RemoveAdministrator(id))?;
            }
        }
        Ok(())
    })?;
    for (done, (administrator, id)) in (1..).zip(administrators.iter().zip(&wanted)) {
        workstation
            .desk
            .output
            .progress(&format!("Installing {done} of {} administrators....", administrators.len()));
        let batch = Batch::rest(all, |status| is_installed(status, id));
        workstation.for_each(&batch, |workstation, unit| {
            workstation.execute(unit.at, Command::AddAdministrator(administrator.clone())).map(drop)
        })?;
    }
    Ok(())
}

/// Thresholds and the keys of the administrators. Changes nothing.
fn ask(desk: &mut Desk, how: &AutoInit) -> Result<Plan> {
    desk.output.line("\nENTER SIGNATURE THRESHOLD VALUES\n");
    let signature = thresholds::ask(
        &desk.prompt,
        "Enter the number of signatures to be required on commands sent to the service instance.\nThis must be a number \
         between 1 and 8.\nTo enforce dual control, this must be at least 2:",
        how.thresholds.signature_threshold,
        thresholds::SIGNATURE,
    )?;
    let revocation = thresholds::ask(
        &desk.prompt,
        "\nEnter the number of signatures to be required on commands to remove an administrator.\nThis must be a number \
         between 1 and 8.\nTo enforce dual control, this must be at least 2:",
        how.thresholds.revocation_threshold,
        thresholds::REVOCATION,
    )?;
    let most = MAX_ADMINISTRATORS as u32;
    if !(1..=most).contains(&signature) || !(1..=most).contains(&revocation) {
        return Err(Error::new(format!("A threshold is a number between 1 and {most}.")));
    }
    desk.output.line("\nENTER NUMBER OF ADMINISTRATORS TO INSTALL\n");
    let least = signature.max(revocation);
    let question = "Enter the number of administrators you want to install:";
    let count = desk.prompt.number(question, how.administrators, "--administrators")?;
    if !(u64::from(least)..=u64::from(most)).contains(&count) {
        return Err(Error::new(format!(
            "{least} to {most} administrators are to be installed, not {count}."
        )));
    }
    let count = count as usize;
    let signers = match SigningService::from_environment()? {
        Some(service) => from_service(desk, &service, count, how)?,
        None => from_files(desk, count, how)?,
    };
    let mut ids: Vec<_> =
        signers.iter().map(|signer| signer.administrator.subject_key_identifier()).collect();
    ids.sort_unstable();
    if ids.windows(2).any(|pair| pair[0] == pair[1]) {
        return Err(Error::new("Two administrators have the same signature key."));
    }
    Ok(Plan { signature, revocation, signers })
}

/// Existing signature key files, and new ones.
fn from_files(desk: &mut Desk, count: usize, how: &AutoInit) -> Result<Vec<NewSigner>> {
    let known = desk.files.signature_keys()?;
    let mut numbers = Vec::new();
    if !known.is_empty() {
        desk.output.line("\nSELECT EXISTING SIGNATURE KEY FILES TO USE\n");
        signature_keys::show(desk)?;
        // Those who name all administrators want no other ones.
        let named = (how.name.len() >= count).then_some("");
        numbers = desk.prompt.numbers(
            "\nEnter the KEYNUM values of the signature keys to use, separated by spaces, or press enter to use none:",
            how.keynum.as_deref().or(named),
            "--keynum",
        )?;
        if numbers.len() > count {
            return Err(Error::new(format!("{} signature keys for {count} administrators.", numbers.len())));
        }
    }
    let mut keys: Vec<_> =
        signature_keys::unlock(desk, &numbers)?.into_iter().map(|(file, key)| (file, key, false)).collect();
    let mut names = how.name.iter();
    while keys.len() < count {
        let question = "\nEnter an administrator name to be associated with the signature key:";
        let name = desk.prompt.text(question, names.next().map(String::as_str), "--name")?;
        // An earlier attempt may have made it.
        let existing = known.iter().find(|(number, file)| file.name() == name && !numbers.contains(number));
        if let Some((number, _)) = existing {
            desk.output.line(&format!("KEYNUM {number} is a signature key of {name}. It is used."));
            numbers.push(*number);
            let unlocked = signature_keys::unlock(desk, &[*number])?;
            keys.extend(unlocked.into_iter().map(|(file, key)| (file, key, false)));
        } else {
            let (file, key) = signature_keys::protect(desk, &name)?;
            keys.push((file, key, true));
        }
    }
    keys.into_iter()
        .map(|(file, key, is_new)| {
            let administrator = Administrator::new(file.name(), key.verifying_key())?;
            Ok(NewSigner { administrator, key: SignatureKey::File(key), file: is_new.then_some(file) })
        })
        .collect()
}

/// The first keys that SIGNSERVKEYS names.
fn from_service(
    desk: &mut Desk,
    service: &SigningService,
    count: usize,
    how: &AutoInit,
) -> Result<Vec<NewSigner>> {
    if how.keynum.is_some() {
        return Err(Error::Usage(
            "--keynum: TKE_SIGNSERV_URL is set, and the signing service has no KEYNUM. Use SIGNSERVKEYS."
                .to_owned(),
        ));
    }
    let named = desk.files.signing_service_keys()?;
    if named.len() < count {
        return Err(Error::new(format!(
            "{count} administrators need as many keys of the signing service; SIGNSERVKEYS names {}.",
            named.len()
        )));
    }
    let mut names = how.name.iter();
    let mut signers = Vec::new();
    for entry in named.into_iter().take(count) {
        let question =
            format!("\nEnter an administrator name to be associated with signature key {}:", entry.key);
        let name = desk.prompt.text(&question, names.next().map(String::as_str), "--name")?;
        let (public_key, key) = ServiceKey::open(service, entry, &mut desk.prompt)?;
        let administrator = Administrator::new(&name, &public_key)?;
        signers.push(NewSigner { administrator, key: SignatureKey::Service(key), file: None });
    }
    Ok(signers)
}

/// Writes new signature key files, and selects all: what a unit knows must be on the disk before.
fn store(desk: &mut Desk, signers: &[NewSigner]) -> Result<()> {
    let mut numbers = Vec::new();
    for file in signers.iter().filter_map(|signer| signer.file.as_ref()) {
        numbers.push(desk.files.add_signature_key(file)?);
    }
    desk.output.set("keynums", numbers);
    let in_files = signers.iter().filter(|signer| matches!(signer.key, SignatureKey::File(_)));
    let ids: Vec<_> = in_files.map(|signer| signer.administrator.subject_key_identifier()).collect();
    if ids.is_empty() { Ok(()) } else { desk.files.select_signature_keys(&ids) }
}

/// What `auto-init` is to set up.
struct Plan {
    signature: u32,
    revocation: u32,
    signers: Vec<NewSigner>,
}

/// An administrator to install, who signs from then on.
struct NewSigner {
    administrator: Administrator,
    key: SignatureKey,
    /// Not yet stored.
    file: Option<SignatureKeyFile>,
}

const ZEROIZE_AND_REPEAT: &str = "No crypto unit has a master key yet: put all of them back into imprint mode with 'tke \
                                  cryptounit-add' and 'tke cryptounit-zeroize', then repeat 'tke auto-init'.";
