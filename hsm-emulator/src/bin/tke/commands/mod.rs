//! The commands, one file for each group.

mod administrators;
mod compare;
mod control_points;
mod failover;
mod initialisation;
mod key_parts;
mod master_key;
mod recovery;
mod rotation;
mod signature_keys;
mod state;
mod thresholds;
mod units;
mod zeroize;

use hsm_emulator::units::administration::control_point;

use super::cli::{Action, Cli};
use super::error::Result;
use super::files::Directory;
use super::help;
use super::output::Output;
use super::prompt::Prompt;
use super::workstation::{Desk, Workstation};

/// Runs a command.
///
/// # Errors
/// What is to be printed after `FAILED`.
pub fn run(cli: Cli, command: &str) -> Result<()> {
    let Cli { common, remote, action } = cli;
    if let Action::Help(topic) = &action {
        return help::show(topic);
    }
    let mut desk = Desk {
        command: command.to_owned(),
        output: Output::new(common.json),
        prompt: Prompt::new(common.yes, common.json, &common.password_file)?,
        files: Directory::open()?,
    };
    for damage in desk.files.damaged()? {
        eprintln!("Warning: {damage}; it is left out. 'tke sigkey-rm' or 'tke mk-rm' deletes it.");
    }
    match &action {
        Action::CryptounitExitImpr => thresholds::explain_exit(&mut desk),
        Action::Sigkeys => signature_keys::list(&mut desk)?,
        Action::SigkeyAdd(new) => signature_keys::add(&mut desk, new)?,
        Action::SigkeyRm(key) => signature_keys::remove(&mut desk, key)?,
        Action::SigkeySel(keys) => signature_keys::select(&mut desk, keys)?,
        Action::Mks => key_parts::list(&mut desk)?,
        Action::MkAdd(new) => key_parts::add(&mut desk, new)?,
        Action::MkRm(key) => key_parts::remove(&mut desk, key)?,
        _ => {
            let mut workstation = Workstation::open(desk, &remote)?;
            administer(&mut workstation, &action)?;
            desk = workstation.desk;
        }
    }
    let unused = desk.prompt.unused();
    if unused > 0 {
        eprintln!("Warning: nothing has asked for the last {unused} line(s) of --password-file.");
    }
    desk.output.finish();
    Ok(())
}

fn administer(workstation: &mut Workstation, action: &Action) -> Result<()> {
    match action {
        Action::Cryptounits => {
            units::list(workstation);
            Ok(())
        }
        Action::CryptounitAdd(units) => units::add(workstation, units),
        Action::CryptounitRm(units) => units::remove(workstation, units),
        Action::CryptounitCompare => compare::compare(workstation),
        Action::CryptounitAdmins => administrators::list(workstation),
        Action::CryptounitAdminAdd(whom) => administrators::add(workstation, whom),
        Action::CryptounitAdminRm(whom) => administrators::remove(workstation, whom),
        Action::CryptounitThrhlds => thresholds::list(workstation),
        Action::CryptounitThrhldSet(values) => thresholds::set(workstation, values),
        Action::CryptounitMk => master_key::list(workstation),
        Action::CryptounitMkLoad(parts) => master_key::load(workstation, parts),
        Action::CryptounitMkCommit => master_key::commit(workstation),
        Action::CryptounitMkSetimm => master_key::set_immediate(workstation),
        Action::CryptounitMkClrnew => master_key::clear_new(workstation),
        Action::CryptounitMkClrcur => master_key::clear_current(workstation),
        Action::CryptounitMkRotate(how) => rotation::rotate(workstation, how),
        Action::CryptounitZeroize => zeroize::zeroize(workstation),
        Action::CryptounitCp(point) => control_points::show_or_set(workstation, point.number),
        Action::CryptounitCpBtc => control_points::set(workstation, control_point::BTC),
        Action::CryptounitCpEddsa => control_points::set(workstation, control_point::ALG_EC_25519),
        Action::CryptounitCpSigOther => control_points::set(workstation, control_point::ECDSA_OTHER),
        Action::AutoInit(how) => initialisation::initialise(workstation, how),
        Action::AutoMkRotate(how) => rotation::rotate_with_random_key(workstation, how),
        Action::AutoMkRecover(what) => recovery::recover(workstation, what),
        Action::FailoverEnable(wanted) => failover::enable(workstation, wanted),
        // Those that need no crypto unit have been run.
        Action::Help(_)
        | Action::CryptounitExitImpr
        | Action::Sigkeys
        | Action::SigkeyAdd(_)
        | Action::SigkeyRm(_)
        | Action::SigkeySel(_)
        | Action::Mks
        | Action::MkAdd(_)
        | Action::MkRm(_) => Ok(()),
    }
}
