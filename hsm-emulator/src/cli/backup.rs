//! `backup` and `restore`.

use std::io::{IsTerminal, stderr};
use std::path::{Path, PathBuf};

use clap::{Args, Subcommand};
use hsm_emulator::secret_input;
use hsm_emulator::services::backup::{self, Manifest};
use hsm_emulator::services::clock::SystemClock;
use serde_json::json;
use zeroize::Zeroizing;

use super::{Error, Pretty, SharedKeystore, keep_memory_private};

/// Where to.
#[derive(Args)]
#[command(
    args_conflicts_with_subcommands = true,
    subcommand_negates_reqs = true,
    after_help = "\
The file holds the keystore, the crypto units with their device secrets, the API key and the audit log: with its passphrase
it is as good as the master key. There has to be room for a copy of the keystore in the state directory for a moment. It
is refused while the master key is being rotated, and in the failover region of a pair.

Examples:
  hsm-emulator backup --state ~/hsm --out hsm.backup
  hsm-emulator backup --state ~/hsm --out hsm.backup --force --passphrase-file /run/secrets/backup --json
  hsm-emulator backup verify hsm.backup"
)]
pub struct Backup {
    #[command(subcommand)]
    action: Option<Action>,
    /// Directory of the instance.
    #[arg(long, required = true)]
    state: Option<PathBuf>,
    /// File to be written.
    #[arg(long, required = true)]
    out: Option<PathBuf>,
    /// Replace the file if there is one.
    #[arg(long)]
    force: bool,
    #[command(flatten)]
    keystore: SharedKeystore,
    #[command(flatten)]
    common: Common,
}

#[derive(Subcommand)]
enum Action {
    /// Read a backup to its end, and say what is in it.
    Verify {
        /// The backup.
        file: PathBuf,
        #[command(flatten)]
        common: Common,
    },
}

/// Where from, and where to.
#[derive(Args)]
#[command(after_help = "\
All of the backup is checked before the directory gets its name; if anything is wrong, nothing is left. Never serve the
instance and its restored copy at the same time: they would part. What was in a pair of regions stands alone; pair it anew.

Examples:
  hsm-emulator restore --state ~/hsm-restored --from hsm.backup
  hsm-emulator serve --state ~/hsm-restored")]
pub struct Restore {
    /// New directory of the instance: empty or not there.
    #[arg(long)]
    state: PathBuf,
    /// The backup.
    #[arg(long)]
    from: PathBuf,
    #[command(flatten)]
    keystore: SharedKeystore,
    #[command(flatten)]
    common: Common,
}

#[derive(Args)]
struct Common {
    /// File with the passphrase in its first line; without, it is asked for at the terminal.
    #[arg(long)]
    passphrase_file: Option<PathBuf>,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

impl Backup {
    /// Runs the command.
    ///
    /// # Errors
    /// With a sentence that says what to do.
    pub fn run(self) -> Result<(), Error> {
        keep_memory_private()?;
        let (Some(state), Some(out)) = (self.state, self.out) else {
            let Some(Action::Verify { file, common }) = self.action else {
                return Err("say what to do".into());
            };
            let manifest = backup::verify(&file, common.passphrase()?.as_bytes(), &mut progress())?;
            common.show("in order", &file, &manifest);
            return Ok(());
        };
        let passphrase = self.common.new_passphrase()?;
        let clock = &SystemClock;
        let manifest = backup::create(
            &state,
            &self.keystore.location(&state),
            &out,
            passphrase.as_bytes(),
            self.force,
            clock,
            &mut progress(),
        )?;
        self.common.show("written", &out, &manifest);
        Ok(())
    }
}

impl Restore {
    /// Runs the command.
    ///
    /// # Errors
    /// With a sentence that says what is wrong.
    pub fn run(self) -> Result<(), Error> {
        keep_memory_private()?;
        let passphrase = self.common.passphrase()?;
        let location = self.keystore.location(&self.state);
        let manifest =
            backup::restore(&self.from, &self.state, &location, passphrase.as_bytes(), &mut progress())?;
        self.common.show("restored", &self.state, &manifest);
        Ok(())
    }
}

impl Common {
    fn passphrase(&self) -> Result<Zeroizing<String>, Error> {
        let Some(path) = &self.passphrase_file else {
            return ask("Enter the passphrase of the backup:");
        };
        let text = secret_input::read(path)?;
        Ok(Zeroizing::new(text.lines().next().unwrap_or_default().to_owned()))
    }

    fn new_passphrase(&self) -> Result<Zeroizing<String>, Error> {
        let passphrase = self.passphrase()?;
        if self.passphrase_file.is_none() && *ask("Re-enter the passphrase to confirm:")? != *passphrase {
            return Err("the passphrases are not the same".into());
        }
        Ok(passphrase)
    }

    fn show(&self, done: &str, path: &Path, manifest: &Manifest) {
        if self.json {
            println!("{}", json!({ "path": path, "contents": manifest }).pretty());
        } else {
            println!("{}: {done}", path.display());
            let units = format!("{}, {} with the master key", manifest.units, manifest.units_with_master_key);
            let lines = [
                ("instance", manifest.instance.clone()),
                ("region", manifest.region.clone()),
                ("created", manifest.created.clone()),
                ("units", units),
                ("files", format!("{}, {} bytes", manifest.files, manifest.bytes)),
            ];
            lines.iter().for_each(|(name, value)| println!("{name:<9} {value}"));
        }
        if manifest.units_with_master_key == 0 && !manifest.verification_pattern.is_empty() {
            eprintln!(
                "Warning: no crypto unit in the backup holds the instance's master key: it is of use only to who has its \
                 key parts."
            );
        }
    }
}

fn ask(question: &str) -> Result<Zeroizing<String>, Error> {
    secret_input::ask(question).map_err(|error| match error {
        secret_input::Error::NoTerminal => {
            "there is no terminal to ask for the passphrase: give --passphrase-file".into()
        }
        other => other.into(),
    })
}

/// Shows whoever looks on how far it is, in hundredths.
fn progress() -> impl FnMut(u64, u64) {
    let (mut shown, is_seen) = (0, stderr().is_terminal());
    move |done, all| {
        let percent = done.saturating_mul(100) / all.max(1);
        if is_seen && all > WORTH_SHOWING && percent != shown {
            shown = percent;
            eprint!("\r{percent:3} %{}", if done == all { "\n" } else { "" });
        }
    }
}

/// Bytes that take longer than a moment.
const WORTH_SHOWING: u64 = 64 << 20;
