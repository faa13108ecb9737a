//! `hsm-emulator`: serves a region, and manages its root keys from the command line.
#![forbid(unsafe_code)]

mod cli;

use clap::Parser;

fn main() -> std::process::ExitCode {
    match cli::run(cli::Command::parse()) {
        Ok(()) => std::process::ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("hsm-emulator: {error}");
            std::process::ExitCode::FAILURE
        }
    }
}
