//! The command line. Every question that a command asks has a flag that answers it, but passwords come from a file.

use std::path::PathBuf;

use clap::{ArgGroup, Args, Parser, Subcommand};

use super::help;

/// Administers the crypto units of a service instance.
#[derive(Parser)]
#[command(
    name = "tke",
    version,
    disable_help_subcommand = true,
    help_template = "{about-with-newline}\n{usage-heading} {usage}\n\n{before-help}Commands:\n{subcommands}\n\nOptions:\n{options}{after-help}",
    before_help = help::INITIALISATION,
    after_help = help::ENVIRONMENT
)]
pub struct Cli {
    #[command(flatten)]
    pub common: Common,
    #[command(flatten)]
    pub remote: Remote,
    #[command(subcommand)]
    pub action: Action,
}

/// For every command.
#[derive(Args)]
pub struct Common {
    /// Print JSON.
    #[arg(long, global = true)]
    pub json: bool,
    /// Answer every y/N question with y.
    #[arg(long, short, global = true)]
    pub yes: bool,
    /// File with passwords, one in each line, in the order in which they are asked for; may be repeated.
    #[arg(long, global = true, value_name = "FILE")]
    pub password_file: Vec<PathBuf>,
}

/// How to reach the service instance.
#[derive(Args)]
pub struct Remote {
    /// Address of the service instance, such as http://127.0.0.1:50051.
    #[arg(long, global = true, value_name = "URL")]
    pub endpoint: Option<String>,
    /// File with the API key.
    #[arg(long, global = true, value_name = "FILE")]
    pub api_key_file: Option<PathBuf>,
    /// Directory of the service instance: says where its server is and what its API key is.
    #[arg(long, global = true, value_name = "DIR")]
    pub state: Option<PathBuf>,
}

/// The commands, with the names of `ibmcloud tke`.
#[derive(Subcommand)]
pub enum Action {
    /// List the crypto units.
    #[command(after_long_help = help::CRYPTOUNITS)]
    Cryptounits,
    /// Add crypto units to the selection.
    #[command(after_long_help = help::CRYPTOUNIT_ADD)]
    CryptounitAdd(Units),
    /// Remove crypto units from the selection.
    #[command(after_long_help = help::CRYPTOUNIT_RM)]
    CryptounitRm(Units),
    /// Compare the configuration of the selected crypto units.
    #[command(after_long_help = help::COMPARE)]
    CryptounitCompare,
    /// List the administrators of the selected crypto units.
    CryptounitAdmins,
    /// Add an administrator to the selected crypto units.
    #[command(after_long_help = help::ADMIN_ADD)]
    CryptounitAdminAdd(AdministratorToAdd),
    /// Remove an administrator from the selected crypto units.
    #[command(after_long_help = help::ADMIN_RM)]
    CryptounitAdminRm(AdministratorToRemove),
    /// Show the signature thresholds of the selected crypto units.
    CryptounitThrhlds,
    /// Set the signature thresholds of the selected crypto units; this ends imprint mode.
    #[command(after_long_help = help::THRHLD_SET)]
    CryptounitThrhldSet(Thresholds),
    /// Deprecated: setting the thresholds ends imprint mode.
    CryptounitExitImpr,
    /// Show the master key registers of the selected crypto units.
    #[command(alias = "cryptounit-mks")]
    CryptounitMk,
    /// Load the new master key register from key parts.
    #[command(after_long_help = help::MK_LOAD)]
    CryptounitMkLoad(KeyNumbers),
    /// Commit the new master key register.
    #[command(after_long_help = help::MK_COMMIT)]
    CryptounitMkCommit,
    /// Make the new master key the current one, re-encrypting nothing.
    #[command(after_long_help = help::MK_SETIMM)]
    CryptounitMkSetimm,
    /// Clear the new master key register.
    #[command(after_long_help = help::MK_CLRNEW)]
    CryptounitMkClrnew,
    /// Clear the current master key register.
    #[command(after_long_help = help::MK_CLRCUR)]
    CryptounitMkClrcur,
    /// Re-encrypt key storage under the committed new master key, and make it the current one.
    #[command(after_long_help = help::MK_ROTATE)]
    CryptounitMkRotate(Rotate),
    /// Zeroize the selected crypto units.
    #[command(after_long_help = help::ZEROIZE)]
    CryptounitZeroize,
    /// Show the control points of the selected crypto units, or set one.
    #[command(after_long_help = help::CONTROL_POINTS)]
    CryptounitCp(ControlPoint),
    /// Set XCP_CPB_BTC: BIP 32 and SLIP 10.
    #[command(after_long_help = help::CONTROL_POINTS)]
    CryptounitCpBtc,
    /// Set XCP_CPB_ALG_EC_25519: Curve25519 and Ed25519.
    #[command(after_long_help = help::CONTROL_POINTS)]
    CryptounitCpEddsa,
    /// Set XCP_CPB_ECDSA_OTHER: Schnorr signatures.
    #[command(after_long_help = help::CONTROL_POINTS)]
    CryptounitCpSigOther,
    /// List the signature keys on this workstation.
    Sigkeys,
    /// Make a signature key.
    #[command(after_long_help = help::SIGKEY_ADD)]
    SigkeyAdd(NewSignatureKey),
    /// Delete a signature key.
    #[command(after_long_help = help::SIGKEY_RM)]
    SigkeyRm(KeyNumber),
    /// Select the signature keys that sign from now on.
    #[command(after_long_help = help::SIGKEY_SEL)]
    SigkeySel(KeyNumbers),
    /// List the master key parts on this workstation.
    Mks,
    /// Make a master key part.
    #[command(after_long_help = help::MK_ADD)]
    MkAdd(NewKeyPart),
    /// Delete a master key part.
    #[command(after_long_help = help::MK_RM)]
    MkRm(KeyNumber),
    /// Initialise all crypto units with a random master key from a recovery crypto unit.
    #[command(after_long_help = help::AUTO_INIT)]
    AutoInit(AutoInit),
    /// Rotate the master key with a random one from a recovery crypto unit.
    #[command(after_long_help = help::AUTO_MK_ROTATE)]
    AutoMkRotate(AutoRotate),
    /// Copy the current master key of a recovery crypto unit to other crypto units.
    #[command(alias = "auto-recover", after_long_help = help::AUTO_MK_RECOVER)]
    AutoMkRecover(AutoRecover),
    /// Assign crypto units in the other region of the pair.
    #[command(after_long_help = help::FAILOVER_ENABLE)]
    FailoverEnable(FailoverEnable),
    /// Explain tke or one of its commands.
    #[command(alias = "h")]
    Help(Topic),
}

/// What to explain.
#[derive(Args)]
pub struct Topic {
    /// A command.
    pub command: Option<String>,
}

/// Which crypto units.
#[derive(Args)]
pub struct Units {
    /// CRYPTO UNIT NUM values, separated by spaces.
    #[arg(long, value_name = "NUMBERS")]
    pub units: Option<String>,
}

/// One key on this workstation.
#[derive(Args)]
pub struct KeyNumber {
    /// The KEYNUM.
    #[arg(long, value_name = "NUMBER")]
    pub keynum: Option<u64>,
}

/// Several keys on this workstation.
#[derive(Args)]
pub struct KeyNumbers {
    /// KEYNUM values, separated by spaces.
    #[arg(long, value_name = "NUMBERS")]
    pub keynum: Option<String>,
}

/// Whom to add.
#[derive(Args)]
pub struct AdministratorToAdd {
    /// KEYNUM of the signature key.
    #[arg(long, value_name = "NUMBER", conflicts_with_all = ["key", "name"])]
    pub keynum: Option<u64>,
    /// Name of the key in the signing service.
    #[arg(long)]
    pub key: Option<String>,
    /// Name of the administrator whose key is in the signing service.
    #[arg(long)]
    pub name: Option<String>,
}

/// Whom to remove.
#[derive(Args)]
pub struct AdministratorToRemove {
    /// Subject key identifier, or its beginning.
    #[arg(long, value_name = "DIGITS")]
    pub ski: Option<String>,
}

/// Both thresholds.
#[derive(Args)]
pub struct Thresholds {
    /// Signatures that most commands need: 1 to 8.
    #[arg(long, value_name = "NUMBER")]
    pub signature_threshold: Option<u64>,
    /// Signatures that removing an administrator needs: 1 to 8.
    #[arg(long, value_name = "NUMBER")]
    pub revocation_threshold: Option<u64>,
}

/// Which control point.
#[derive(Args)]
pub struct ControlPoint {
    /// 55, 66 or 67; without it, all are shown.
    pub number: Option<u32>,
}

/// A signature key to make.
#[derive(Args)]
pub struct NewSignatureKey {
    /// Name of the administrator.
    #[arg(long)]
    pub name: Option<String>,
}

/// A master key part to make.
#[derive(Args)]
#[command(group = ArgGroup::new("source").required(true))]
pub struct NewKeyPart {
    /// A random value.
    #[arg(long, group = "source")]
    pub random: bool,
    /// A known value, which is asked for.
    #[arg(long, group = "source")]
    pub value: bool,
    /// A known value: 64 hexadecimal digits in a file.
    #[arg(long, group = "source", value_name = "FILE")]
    pub value_file: Option<PathBuf>,
    /// Description of the key part.
    #[arg(long)]
    pub description: Option<String>,
}

/// How to initialise.
#[derive(Args)]
pub struct AutoInit {
    #[command(flatten)]
    pub thresholds: Thresholds,
    /// How many administrators to install.
    #[arg(long, value_name = "NUMBER")]
    pub administrators: Option<u64>,
    /// KEYNUM values of existing signature keys to use, separated by spaces; may be empty.
    #[arg(long, value_name = "NUMBERS")]
    pub keynum: Option<String>,
    /// Name of a new administrator; may be repeated.
    #[arg(long)]
    pub name: Vec<String>,
}

/// How to rotate to the committed master key.
#[derive(Args)]
pub struct Rotate {
    #[command(flatten)]
    pub damaged: DamagedKeys,
    /// Give up the re-encryption that has begun. Nothing is lost: key storage stays under the current master key.
    #[arg(long, conflicts_with = "without_damaged_keys")]
    pub cancel: bool,
}

/// What becomes of stored keys that cannot be re-encrypted.
#[derive(Args)]
pub struct DamagedKeys {
    /// Set the new master key although damaged keys cannot be re-encrypted: they are lost for good, in every backup, too.
    #[arg(long)]
    pub without_damaged_keys: bool,
}

/// How to rotate to a random master key.
#[derive(Args)]
pub struct AutoRotate {
    #[command(flatten)]
    pub damaged: DamagedKeys,
    /// Seconds between the last commit and the re-encryption.
    #[arg(long, default_value_t = 30)]
    pub delay: u64,
    /// Give up a re-encryption under another new master key that has begun. Key storage may become unusable.
    #[arg(long)]
    pub abandon_reencryption: bool,
}

/// How many failover crypto units.
#[derive(Args)]
pub struct FailoverEnable {
    /// How many there are to be in all.
    #[arg(long, value_name = "NUMBER")]
    pub units: Option<u64>,
}

/// What to copy where.
#[derive(Args)]
pub struct AutoRecover {
    /// CRYPTO UNIT NUM of the recovery crypto unit that has the master key.
    #[arg(long, value_name = "NUMBER")]
    pub source: Option<u64>,
    /// CRYPTO UNIT NUM values of the crypto units that need it, separated by spaces.
    #[arg(long, value_name = "NUMBERS")]
    pub units: Option<String>,
}
