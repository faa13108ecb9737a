//! What `tke help` says beyond names and flags: the steps, and for each command what must be so before, which
//! passwords it asks for, and what comes next.

use clap::{Command, CommandFactory};

use super::cli::{Cli, Topic};
use super::error::{Error, Result};

/// Prints the help of `tke`, or of one command.
///
/// # Errors
/// If there is no such command.
pub fn show(topic: &Topic) -> Result<()> {
    let mut cli = Cli::command();
    cli.build();
    let command = match &topic.command {
        None => Some(&mut cli),
        Some(name) => cli.find_subcommand_mut(name),
    };
    let print = |command: &mut Command| command.print_long_help();
    let outcome = command.map(print).ok_or_else(|| {
        let name = topic.command.as_deref().unwrap_or_default();
        Error::Usage(format!("there is no command {name:?}"))
    })?;
    // A reader who has gone needs no help.
    outcome.ok();
    Ok(())
}

/// Before the list of commands.
pub const INITIALISATION: &str = "\
Initialising a service instance by key files, here one that is served by
'hsm-emulator serve --state ~/hsm --imprint':
  export CLOUDTKEFILES=~/tke && mkdir -p \"$CLOUDTKEFILES\"
  export HSM_GRPC_ENDPOINT=$(cat ~/hsm/endpoint) HSM_API_KEY_FILE=~/hsm/api-key
                               (or give every command --state ~/hsm)
  tke cryptounits              1. see the crypto units; they are in imprint mode
  tke cryptounit-add           2. select all of them
  tke sigkey-add               3. make a signature key for each administrator
  tke sigkey-sel               4. select the signature keys that sign from now on
  tke cryptounit-admin-add     5. install each administrator
  tke cryptounit-thrhld-set    6. set the signature thresholds; this ends imprint mode
  tke mk-add --random          7. make two or three master key parts
  tke cryptounit-mk-load       8. load them into the new master key registers
  tke cryptounit-mk-commit     9. commit
  tke cryptounit-mk-setimm    10. make the new master key the current one; if a current register
                                  is Valid already, use cryptounit-mk-rotate instead
  tke cryptounit-compare      11. all crypto units must be configured the same
Keep a copy of the directory and of the passwords in safe places: the key parts are the only
copy of the master key. With recovery crypto units, 'tke auto-init' does all of it, and the master
key never leaves the crypto units.

Commands ask for what they need. 'tke help COMMAND' says what must be so before, which passwords
are asked for in which order, and what comes next.

";

/// After the options.
pub const ENVIRONMENT: &str = "\
Environment:
  CLOUDTKEFILES       directory for signature keys, key parts and the selection; must exist
  HSM_GRPC_ENDPOINT   address of the service instance, without --endpoint and --state
  HSM_API_KEY_FILE    file with the API key; or HSM_API_KEY, the key itself
  TKE_PRIVATE_ADDR    address that overrides every other one
  TKE_SIGNSERV_URL    signing service; its keys, named in SIGNSERVKEYS, sign instead of files

Exit codes:
  0   done
  1   FAILED: reasons on standard error; with --json, as an object on standard output, too
  2   wrong usage";

pub const CRYPTOUNITS: &str = "\
Next: select crypto units with cryptounit-add.";

pub const CRYPTOUNIT_ADD: &str = "\
The selection is kept in CLOUDTKEFILES. Commands go to the selected crypto units only: select all of an instance, unless \
one of them has to be treated alone.";

pub const CRYPTOUNIT_RM: &str = "\
Useful when a rotation was interrupted while it set the new master key: take out the crypto units that have it.";

pub const COMPARE: &str = "\
The same is not enough: the instance serves once all current master key registers are Valid, too.";

pub const ADMIN_ADD: &str = "\
Before: sigkey-add. Outside imprint mode, also selected signature keys of as many installed administrators as the \
signature threshold says.\n\
Passwords: of the signature key to install; then of those who sign. With a signing service: its token.\n\
Next: cryptounit-thrhld-set, once all administrators are installed.";

pub const ADMIN_RM: &str = "\
Passwords: outside imprint mode, of as many selected signature keys as the revocation threshold says.";

pub const THRHLD_SET: &str = "\
Before: at least as many administrators as the larger threshold, and their signature keys selected with sigkey-sel.\n\
Passwords: of as many selected signature keys as the new signature threshold says; once imprint mode has ended, as the \
current one says.\n\
Next: mk-add, cryptounit-mk-load; or auto-mk-recover.";

pub const MK_LOAD: &str = "\
Before: thresholds are set; two or three key parts, made with mk-add.\n\
Passwords: of one selected signature key; then of each key part, in the order in which they are named.\n\
Next: cryptounit-mk-commit.";

pub const MK_COMMIT: &str = "\
Before: cryptounit-mk-load, of the same key parts in all selected crypto units.\n\
Passwords: of as many selected signature keys as the signature threshold says.\n\
Next: cryptounit-mk-setimm, where the current registers are Empty; cryptounit-mk-rotate, where they are Valid.";

pub const MK_SETIMM: &str = "\
Right for a first initialisation, to load the same master key again, and to finish a rotation that has re-encrypted key \
storage. In any other case key storage becomes unusable: use cryptounit-mk-rotate.\n\
Before: cryptounit-mk-commit.\n\
Passwords: of one selected signature key.\n\
Next: cryptounit-compare.";

pub const MK_CLRNEW: &str = "\
Passwords: of one selected signature key.";

pub const MK_CLRCUR: &str = "\
Passwords: of one selected signature key.\n\
Next: load the same master key again, with cryptounit-mk-load or auto-mk-recover.";

pub const MK_ROTATE: &str = "\
Before: all crypto units of the instance are selected; their current registers are Valid with one master key, and \
another one is loaded and committed in all of them (cryptounit-mk-load, cryptounit-mk-commit). Key blobs that clients \
keep have to be re-encrypted by them before.\n\
Passwords: of one selected signature key; of as many as the signature threshold says, if a recovery crypto unit has to \
give a crypto unit the new master key of a re-encryption again.\n\
\n\
If it is interrupted, the last line that it printed decides:\n  \
pre-check failed        nothing is done: remove the cause, repeat it\n  \
no 'rewrap successful'  repeat it: it goes on where it stopped. cryptounit-mk-setimm now would\n                          \
make key storage unusable\n  \
'rewrap successful'     see cryptounit-mk. All new registers alike, all current ones alike:\n                          \
cryptounit-mk-setimm, and answer y. Some crypto units have the new one as\n                          \
current already: take them out with cryptounit-rm, then\n                          \
cryptounit-mk-setimm on the rest. Now never clear a new register\n\
With --cancel, a re-encryption that cannot be finished is given up without loss, as long as no crypto unit has set the \
new master key; cryptounit-mk-clrnew comes first.";

pub const ZEROIZE: &str = "\
Passwords: of one selected signature key, if a selected crypto unit has left imprint mode.\n\
Next: cryptounit-admin-add.";

pub const CONTROL_POINTS: &str = "\
Control points can be set, but not be unset.\n\
Passwords: to set one, of as many selected signature keys as the signature threshold says.";

pub const SIGKEY_ADD: &str = "\
Passwords: a new one for the key.\n\
Next: sigkey-sel, cryptounit-admin-add.";

pub const SIGKEY_RM: &str = "\
A damaged file, too, is deleted by its KEYNUM.";

pub const SIGKEY_SEL: &str = "\
Passwords: of each key, in the order in which they are named. They are not kept: commands that sign ask again.\n\
Without numbers, nothing is selected.\n\
Next: cryptounit-admin-add.";

pub const MK_ADD: &str = "\
Passwords: with --value, first the value; then a new one for the key part.\n\
Next: a second part; then cryptounit-mk-load.";

pub const MK_RM: &str = "\
A damaged file, too, is deleted by its KEYNUM.";

pub const AUTO_INIT: &str = "\
Before: all crypto units are in imprint mode, and their registers Empty. If a recovery crypto unit has a master key and \
the others have the same or none, that one is kept and copied.\n\
Passwords: of each existing signature key that is used, then a new one for each that is made. A --name that an existing \
signature key has already means that key.\n\
With TKE_SIGNSERV_URL: the first keys that SIGNSERVKEYS names are installed; their tokens are asked for, if they are \
not in it.\n\
Next: cryptounit-compare.";

pub const AUTO_MK_ROTATE: &str = "\
Before: all crypto units have left imprint mode and have one Valid master key.\n\
Passwords: of as many selected signature keys as the signature threshold says.\n\
\n\
If it is interrupted, the last line that it printed decides:\n  \
pre-check failed        nothing is done: remove the cause, repeat it\n  \
before 'Delaying ...'   repeat it: it makes another new master key\n  \
'Delaying ...'          cryptounit-mk-rotate: it keeps the new master key. auto-mk-rotate again,\n                          \
with --abandon-reencryption, would make key storage unusable\n  \
'rewrap successful'     see cryptounit-mk. All new registers alike, all current ones alike:\n                          \
cryptounit-mk-setimm, and answer y. Some crypto units have the new one as\n                          \
current already: take them out with cryptounit-rm, then\n                          \
cryptounit-mk-setimm on the rest. Now never clear a new register";

pub const FAILOVER_ENABLE: &str = "\
Before: the instance's region is paired with another one ('hsm-emulator failover invite' and 'failover join'), and all \
crypto units are selected.\n\
Next, with the recovery crypto units: cryptounit-add the new ones, cryptounit-admin-add, cryptounit-thrhld-set, \
auto-mk-recover. With key files: cryptounit-add the new ones alone, then cryptounit-admin-add, cryptounit-thrhld-set, \
cryptounit-mk-load, cryptounit-mk-commit and cryptounit-mk-setimm, with the parts of the current master key. Then \
'hsm-emulator failover status' shows whether everything is as it must be.";

pub const AUTO_MK_RECOVER: &str = "\
Before: source and targets have the same administrators and signature threshold.\n\
Passwords: of as many selected signature keys as the signature threshold says.\n\
Next: cryptounit-compare.";
