//! `hsm-util`: tokens and keys of a PKCS #11 library, with the options, the words and the exit codes of
//! `softhsm2-util`, whose name it may bear. Scripts of other projects read what it prints.
#![forbid(unsafe_code)]

mod certificate_file;
mod cli;
mod error;
mod import;
mod key_file;
mod library;
mod pin;
mod slots;
mod softhsm_import;
mod tokens;

use std::path::Path;
use std::process::ExitCode;

use clap::{CommandFactory, Parser};

use cli::{Action, Cli};
use error::Error;
use library::Library;

fn main() -> ExitCode {
    hsm_pkcs11::signals::end_by_broken_pipe();
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            eprintln!("{}", error.render().to_string().lines().next().unwrap_or_default());
            return help(ExitCode::SUCCESS);
        }
    };
    if cli.version {
        println!("{}", if is_called("softhsm2-util") { SOFTHSM_VERSION } else { env!("CARGO_PKG_VERSION") });
        return ExitCode::SUCCESS;
    }
    if cli.help {
        return help(ExitCode::SUCCESS);
    }
    let Some(action) = cli.action() else { return help(ExitCode::FAILURE) };
    match run(&cli, &action) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}

fn run(cli: &Cli, action: &Action) -> Result<(), Error> {
    match action {
        Action::ShowSlots => slots::show(&Library::open(cli)?),
        Action::InitToken => tokens::initialize(Library::open(cli)?, cli),
        Action::DeleteToken => tokens::delete(cli),
        Action::Import(path) => import::run(&Library::open(cli)?, cli, path),
        Action::ImportSoftHsm(directory) => softhsm_import::run(cli, directory),
        Action::ShowConfig(key) => library::show_config(cli, key.as_deref()),
    }
}

/// The help on standard output, as `softhsm2-util` prints it for everything that it does not understand. It calls only
/// a wrong number of actions a failure.
fn help(code: ExitCode) -> ExitCode {
    // Nobody to tell if nobody reads it.
    let _ = Cli::command().print_help();
    code
}

fn is_called(name: &str) -> bool {
    std::env::args_os().next().is_some_and(|called| Path::new(&called).file_name().is_some_and(|n| n == name))
}

/// The version of SoftHSM whose place this takes.
const SOFTHSM_VERSION: &str = "2.6.1";
