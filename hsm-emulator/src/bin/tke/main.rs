//! `tke`: administers crypto units from an operator's workstation, as `ibmcloud tke` does.
#![forbid(unsafe_code)]

mod batch;
mod cli;
mod commands;
mod connection;
mod error;
mod files;
mod help;
mod output;
mod prompt;
mod quorum;
mod signer;
mod signing_service;
mod table;
mod workstation;

use std::process::ExitCode;

use clap::{CommandFactory, FromArgMatches};
use rustix::fs::Mode;
use rustix::process::{DumpableBehavior, Resource, Rlimit};

use error::Error;

fn main() -> ExitCode {
    let matches = cli::Cli::command().get_matches();
    let command = matches.subcommand_name().unwrap_or_default().to_owned();
    let cli = cli::Cli::from_arg_matches(&matches).unwrap_or_else(|error| error.exit());
    let json = cli.common.json;
    match keep_secrets_private().and_then(|()| commands::run(cli, &command)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(Error::Usage(text)) => {
            eprintln!("error: {text}\n\nFor more information, try 'tke help {command}'.");
            ExitCode::from(2)
        }
        Err(error) => {
            if json {
                output::print_document(&error.to_json());
            }
            eprintln!("FAILED\n{error}");
            ExitCode::FAILURE
        }
    }
}

/// Files for their owner only, no core dump, no debugger of another user.
fn keep_secrets_private() -> Result<(), Error> {
    rustix::process::umask(Mode::from_raw_mode(0o077));
    rustix::process::setrlimit(Resource::Core, Rlimit { current: Some(0), maximum: Some(0) })?;
    rustix::process::set_dumpable_behavior(DumpableBehavior::NotDumpable)?;
    Ok(())
}
