//! The PKCS #11 library that the program works with.

use std::path::{Path, PathBuf};

use cryptoki::context::{CInitializeArgs, CInitializeFlags, Pkcs11};
use hsm_pkcs11::config::{Config, Settings};

use crate::cli::Cli;
use crate::error::Error;
use crate::is_called;

/// A library, loaded and initialised.
pub struct Library {
    path: PathBuf,
    pkcs11: Pkcs11,
}

impl Library {
    /// Loads the library that `--module` names, or this project's.
    pub fn open(cli: &Cli) -> Result<Self, Error> {
        let path = match &cli.module {
            Some(path) => path.clone(),
            None => default_path()?,
        };
        Self::load(path)
    }

    /// The library's functions.
    pub fn pkcs11(&self) -> &Pkcs11 {
        &self.pkcs11
    }

    /// Ends the use of the library, and begins anew.
    pub fn reopen(self) -> Result<Self, Error> {
        let failed = |_| Error::new("Could not initialize the library.");
        self.pkcs11.finalize().map_err(failed)?;
        Self::load(self.path)
    }

    fn load(path: PathBuf) -> Result<Self, Error> {
        let pkcs11 = Pkcs11::new(&path).map_err(|error| {
            let reason = match error {
                cryptoki::error::Error::LibraryLoading(error) => error.to_string(),
                other => other.to_string(),
            };
            Error::new(format!("Could not load the PKCS#11 library/module: {reason}\n{SEE_LOG}"))
        })?;
        pkcs11.initialize(CInitializeArgs::new(CInitializeFlags::OS_LOCKING_OK)).map_err(|_| {
            let path = path.display();
            Error::new(format!("Could not initialize the PKCS#11 library/module: {path}\n{SEE_LOG}"))
        })?;
        Ok(Self { path, pkcs11 })
    }
}

/// `--show-config`.
pub fn show_config(cli: &Cli, key: Option<&str>) -> Result<(), Error> {
    let library = default_path()?;
    match key {
        Some(LIBRARY_KEY) => println!("{}", library.display()),
        Some(other) => return Err(Error::new(format!("There is no {other:?} to show, only {LIBRARY_KEY}"))),
        None => {
            println!("{LIBRARY_KEY} = {}", library.display());
            let settings = own_settings(cli)?;
            println!("stands-in-for-softhsm = {}", settings.is_softhsm());
            match settings.hsm {
                Config::Embedded { state } => println!("state = {}", state.display()),
                Config::Remote { .. } => println!("state = elsewhere, over gRPC"),
            }
        }
    }
    Ok(())
}

/// What this project's library would be told, for what the program does without it.
pub fn own_settings(cli: &Cli) -> Result<Settings, Error> {
    let library = default_path()?;
    let real = |path: &Path| path.canonicalize().ok();
    if cli.module.as_deref().is_some_and(|module| real(module) != real(&library)) {
        return Err(Error::new(format!(
            "This works with the library {} alone: leave out --module",
            library.display()
        )));
    }
    Settings::load(Some(&library))
        .map_err(|error| Error::new(format!("Could not load the configuration: {error}")))
}

/// The library beside this program, as it was built or as it was installed; by SoftHSM's name, if the program
/// bears the name of SoftHSM's.
fn default_path() -> Result<PathBuf, Error> {
    let program = std::env::current_exe()
        .map_err(|error| Error::new(format!("Where this program is cannot be found: {error}")))?;
    let bin = program.parent().unwrap_or(Path::new("/"));
    let prefix = bin.parent().unwrap_or(bin);
    let softhsm = is_called("softhsm2-util").then(|| prefix.join("lib/softhsm/libsofthsm2.so"));
    let places = softhsm.into_iter().chain([bin.join(LIBRARY), prefix.join("lib").join(LIBRARY)]);
    let mut seen = String::new();
    for place in places {
        if place.exists() {
            return Ok(place);
        }
        seen.push_str(&format!(" {}", place.display()));
    }
    Err(Error::new(format!("There is no PKCS#11 library at{seen}: use --module <path>")))
}

const LIBRARY: &str = "libhsm_pkcs11.so";
const LIBRARY_KEY: &str = "default-pkcs11-lib";
const SEE_LOG: &str = "ERROR: Please check log files for additional information.";
