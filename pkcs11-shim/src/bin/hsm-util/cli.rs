//! The command line, by the rules of `getopt_long`: names may be cut short, the last of equal options counts, and what is no
//! option is ignored.

use std::ffi::OsString;
use std::path::PathBuf;

use clap::{Parser, ValueEnum};
use zeroize::Zeroizing;

/// Tokens and keys of a PKCS #11 library, with the options of softhsm2-util.
#[derive(Parser)]
#[command(
    name = "hsm-util",
    disable_help_flag = true,
    infer_long_args = true,
    args_override_self = true,
    override_usage = "hsm-util ACTION [OPTIONS]",
    after_help = EXAMPLES
)]
pub struct Cli {
    /// Initialise a token. With --slot, --token, --serial or --free, and --label, --so-pin, --pin. Erases what is in it.
    #[arg(long, help_heading = ACTIONS)]
    init_token: bool,
    /// Show all slots and their tokens.
    #[arg(long, help_heading = ACTIONS)]
    show_slots: bool,
    /// Import a key pair in PKCS #8 (PEM). With --slot, --token or --serial, and --label, --id, --pin.
    #[arg(long, help_heading = ACTIONS, value_name = "PATH", allow_hyphen_values = true)]
    import: Option<PathBuf>,
    /// Take over a token of a SoftHSM, with its PINs, its serial number and its objects, from a token directory. With
    /// --token or --serial, and --so-pin, --pin. Needs the HSM in this process.
    #[arg(long, help_heading = ACTIONS, value_name = "DIR", allow_hyphen_values = true)]
    import_softhsm: Option<PathBuf>,
    /// Delete a token and all that is in it. With --token or --serial. Needs the HSM in this process.
    #[arg(long, help_heading = ACTIONS)]
    delete_token: bool,
    /// Show what is used: default-pkcs11-lib, or everything.
    #[arg(long, help_heading = ACTIONS, value_name = "KEY", num_args = 0..=1)]
    show_config: Option<Option<String>>,
    /// Show the version.
    #[arg(long, short = 'v', help_heading = ACTIONS)]
    pub version: bool,
    /// Show this help.
    #[arg(long, short = 'h', help_heading = ACTIONS)]
    pub help: bool,

    /// Import the file as it is, as an AES key: the same as --import-type aes.
    #[arg(long)]
    aes: bool,
    /// What the file to be imported is.
    #[arg(long, value_name = "TYPE", default_value = "keypair")]
    import_type: ImportType,
    /// PIN of the file to be imported, if it is encrypted.
    #[arg(long, value_name = "PIN", allow_hyphen_values = true, value_parser = secret)]
    pub file_pin: Option<Secret>,
    /// Import a key pair also if its ID is in use; a SoftHSM's token without the objects that cannot be kept.
    #[arg(long)]
    pub force: bool,
    /// Take the first token that is not initialised.
    #[arg(long)]
    pub free: bool,
    /// ID of the imported objects, in hexadecimal digits.
    #[arg(long, value_name = "HEX", allow_hyphen_values = true)]
    pub id: Option<String>,
    /// Label of the token or of the imported objects.
    #[arg(long, value_name = "TEXT", allow_hyphen_values = true)]
    pub label: Option<String>,
    /// Another PKCS #11 library.
    #[arg(long, value_name = "PATH", allow_hyphen_values = true)]
    pub module: Option<PathBuf>,
    /// Import the private key alone.
    #[arg(long)]
    pub no_public_key: bool,
    /// PIN of the user; asked for if it is not given.
    #[arg(long, value_name = "PIN", allow_hyphen_values = true, value_parser = secret)]
    pub pin: Option<Secret>,
    /// The token with this serial number.
    #[arg(long, value_name = "NUMBER", allow_hyphen_values = true)]
    pub serial: Option<String>,
    /// The token in this slot.
    #[arg(long, value_name = "NUMBER", allow_hyphen_values = true)]
    pub slot: Option<String>,
    /// PIN of the security officer; asked for if it is not given.
    #[arg(long, value_name = "PIN", allow_hyphen_values = true, value_parser = secret)]
    pub so_pin: Option<Secret>,
    /// The token with this label.
    #[arg(long, value_name = "LABEL", allow_hyphen_values = true)]
    pub token: Option<String>,

    #[arg(hide = true)]
    ignored: Vec<OsString>,
}

/// A PIN from the command line.
pub type Secret = Zeroizing<String>;

/// What to do.
pub enum Action {
    /// `--init-token`
    InitToken,
    /// `--show-slots`
    ShowSlots,
    /// `--import`
    Import(PathBuf),
    /// `--import-softhsm`
    ImportSoftHsm(PathBuf),
    /// `--delete-token`
    DeleteToken,
    /// `--show-config`, of one thing or all
    ShowConfig(Option<String>),
}

/// What a file to be imported is.
#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum ImportType {
    /// A private key in PKCS #8, and the public key that follows from it.
    Keypair,
    /// The bytes of an AES key.
    Aes,
    /// An X.509 certificate.
    Cert,
}

impl Cli {
    /// The one action; `None` unless it is one.
    pub fn action(&self) -> Option<Action> {
        let all = [
            self.init_token.then_some(Action::InitToken),
            self.show_slots.then_some(Action::ShowSlots),
            self.import.clone().map(Action::Import),
            self.import_softhsm.clone().map(Action::ImportSoftHsm),
            self.delete_token.then_some(Action::DeleteToken),
            self.show_config.clone().map(Action::ShowConfig),
        ];
        let mut given = all.into_iter().flatten();
        given.next().filter(|_| given.next().is_none())
    }

    /// What the file to be imported is.
    pub fn import_type(&self) -> ImportType {
        if self.aes { ImportType::Aes } else { self.import_type }
    }
}

fn secret(text: &str) -> Result<Secret, std::convert::Infallible> {
    Ok(Zeroizing::new(text.to_owned()))
}

const ACTIONS: &str = "Actions";
const EXAMPLES: &str = "\
Examples:
  hsm-util --init-token --free --label test --so-pin 5678 --pin 1234
  hsm-util --import key.pem --token test --label my-key --id A1B2 --pin 1234
  hsm-util --show-slots
  hsm-util --import-softhsm /var/lib/softhsm/tokens --token test --so-pin 5678 --pin 1234
  hsm-util --delete-token --token test";

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(arguments: &[&str]) -> Cli {
        Cli::try_parse_from([&["hsm-util"], arguments].concat()).unwrap_or_else(|error| panic!("{error}"))
    }

    #[test]
    fn options_are_read_as_getopt_does() {
        let cli = parse(&["--init", "--fr", "--lab=a", "stray", "--label", "-b", "--pin", "--1234"]);
        assert!(matches!(cli.action(), Some(Action::InitToken)) && cli.free);
        assert_eq!(cli.label.as_deref(), Some("-b"));
        assert_eq!(cli.pin.expect("given").as_str(), "--1234");
    }

    #[test]
    fn one_action_is_needed() {
        assert!(parse(&[]).action().is_none());
        assert!(parse(&["--show-slots", "--init-token"]).action().is_none());
        assert!(parse(&["--import", "f", "--aes"]).import_type() == ImportType::Aes);
        assert!(matches!(parse(&["--show-config"]).action(), Some(Action::ShowConfig(None))));
    }
}
