//! SoftHSM's configuration file, read when the library takes SoftHSM's place.
//!
//! The file is the one that `SOFTHSM2_CONF` names, else `~/.config/softhsm2/softhsm2.conf`, else
//! `/etc/softhsm/softhsm2.conf`: lines of `key = value`, and comments after `#`.
//!
//! | key | here |
//! |---|---|
//! | `directories.tokendir` | the state is in its subdirectory `hsm-emulator`; what else is in it is left alone |
//! | `slots.removable` | `true`: tokens are `CKF_REMOVABLE_DEVICE` |
//! | `slots.mechanisms` | `ALL`, or names separated by commas: these alone, or all but these after a leading `-` |
//! | `log.level` | `ERROR`, `WARNING`, `INFO`, `DEBUG`: how much goes to the system's log |
//! | `objectstore.backend`, `objectstore.umask` | without effect: there is one store, readable for its owner alone |
//! | `library.reset_on_fork` | without effect: a child process always begins anew |
//!
//! As with SoftHSM, a line that makes no sense is noted and skipped.

use std::fs;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use cryptoki_sys::CKR_GENERAL_ERROR;
use hsm_emulator::units::{Error, Result};

use crate::appearance::{Appearance, Identity, MechanismChoice};
use crate::mechanism_names::mechanism_named;

/// What the file says.
#[derive(Debug, PartialEq, Eq)]
pub struct SoftHsmConf {
    /// Where SoftHSM would keep its tokens.
    pub tokendir: PathBuf,
    /// What the library shows.
    pub appearance: Appearance,
    /// From where on events are logged.
    pub log_level: LogLevel,
}

/// SoftHSM's log levels.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogLevel {
    /// `ERROR`
    Error,
    /// `WARNING`
    Warning,
    /// `INFO`, and `DEBUG`, which adds nothing here.
    Info,
}

impl Default for SoftHsmConf {
    /// SoftHSM's own defaults.
    fn default() -> Self {
        Self {
            tokendir: DEFAULT_TOKENDIR.into(),
            appearance: Appearance { identity: Identity::SoftHsm, ..Appearance::OWN },
            log_level: LogLevel::Error,
        }
    }
}

impl SoftHsmConf {
    /// Reads the file that applies; `None` if there is none. `note` is told of lines that are skipped.
    ///
    /// # Errors
    /// `CKR_GENERAL_ERROR`, as SoftHSM, if it cannot be read.
    pub fn find(variable: impl Fn(&str) -> Option<String>, note: impl FnMut(String)) -> Result<Option<Self>> {
        let of_user = variable("HOME").map(|home| Path::new(&home).join(OF_USER));
        let path = match variable(VARIABLE) {
            Some(named) => PathBuf::from(named),
            None => match of_user.into_iter().chain([OF_SYSTEM.into()]).find(|path| path.exists()) {
                Some(found) => found,
                None => return Ok(None),
            },
        };
        let text = read(&path).map_err(|error| {
            Error::new(CKR_GENERAL_ERROR, format!("cannot read {}: {error}", path.display()))
        })?;
        Ok(Some(Self::parse(&text, note)))
    }

    /// The directory of the state.
    ///
    /// # Errors
    /// `CKR_GENERAL_ERROR`, as SoftHSM, unless the token directory exists.
    pub fn state(&self) -> Result<PathBuf> {
        if self.tokendir.is_dir() {
            return Ok(self.tokendir.join(STATE));
        }
        let message = format!("directories.tokendir: there is no directory {}", self.tokendir.display());
        Err(Error::new(CKR_GENERAL_ERROR, message))
    }

    fn parse(text: &str, mut note: impl FnMut(String)) -> Self {
        let mut conf = Self::default();
        for (index, line) in text.lines().enumerate() {
            let line = line.split('#').next().unwrap_or_default().trim();
            if line.is_empty() {
                continue;
            }
            let outcome = match line.split_once('=') {
                Some((key, value)) => conf.set(key.trim(), value.trim()),
                None => Err("not of the form key = value".to_owned()),
            };
            if let Err(reason) = outcome {
                note(format!("line {} is skipped: {reason}", index + 1));
            }
        }
        conf
    }

    fn set(&mut self, key: &str, value: &str) -> Result<(), String> {
        if value.is_empty() {
            return Err(format!("{key} has no value"));
        }
        match key {
            "directories.tokendir" => self.tokendir = value.into(),
            "slots.removable" => self.appearance.removable = truth(value)?,
            "slots.mechanisms" => self.appearance.mechanisms = mechanisms(value),
            "log.level" => self.log_level = log_level(value)?,
            "objectstore.backend" if !matches!(value, "file" | "db") => {
                return Err(format!("{value:?} is neither file nor db"));
            }
            "objectstore.umask" if u32::from_str_radix(value, 8).is_err() => {
                return Err(format!("{value:?} is no octal number"));
            }
            "library.reset_on_fork" => drop(truth(value)?),
            "objectstore.backend" | "objectstore.umask" => {}
            _ => return Err(format!("there is no key {key:?}")),
        }
        Ok(())
    }
}

/// Names that nobody knows choose nothing: other versions of SoftHSM have other mechanisms.
fn mechanisms(value: &str) -> MechanismChoice {
    if value == "ALL" {
        return MechanismChoice::All;
    }
    let named = |list: &str| list.split(',').filter_map(|name| mechanism_named(name.trim())).collect();
    match value.strip_prefix('-') {
        Some(list) => MechanismChoice::Without(named(list)),
        None => MechanismChoice::Only(named(value)),
    }
}

fn truth(value: &str) -> Result<bool, String> {
    value.to_ascii_lowercase().parse().map_err(|_| format!("{value:?} is neither true nor false"))
}

fn log_level(value: &str) -> Result<LogLevel, String> {
    match value {
        "ERROR" => Ok(LogLevel::Error),
        "WARNING" => Ok(LogLevel::Warning),
        "INFO" | "DEBUG" => Ok(LogLevel::Info),
        _ => Err(format!("{value:?} is none of ERROR, WARNING, INFO, DEBUG")),
    }
}

fn read(path: &Path) -> io::Result<String> {
    let mut text = String::new();
    fs::File::open(path)?.take(MAX_FILE_BYTES).read_to_string(&mut text)?;
    Ok(text)
}

/// Names the file; setting it asks the library to stand in.
pub const VARIABLE: &str = "SOFTHSM2_CONF";
const OF_USER: &str = ".config/softhsm2/softhsm2.conf";
const OF_SYSTEM: &str = "/etc/softhsm/softhsm2.conf";
const DEFAULT_TOKENDIR: &str = "/var/lib/softhsm/tokens";
const STATE: &str = "hsm-emulator";
const MAX_FILE_BYTES: u64 = 1 << 20;

#[cfg(test)]
mod tests {
    use cryptoki_sys::{CKM_AES_GCM, CKM_ECDSA_SHA1, CKM_ECDSA_SHA224};

    use super::*;

    fn parse(text: &str) -> (SoftHsmConf, Vec<String>) {
        let mut notes = Vec::new();
        let conf = SoftHsmConf::parse(text, |note| notes.push(note));
        (conf, notes)
    }

    #[test]
    fn one_line_is_enough() {
        let (conf, notes) = parse("directories.tokendir = /tmp/tokens\n");
        assert_eq!(conf, SoftHsmConf { tokendir: "/tmp/tokens".into(), ..SoftHsmConf::default() });
        assert!(notes.is_empty());
    }

    #[test]
    fn every_key_is_understood() {
        let (conf, notes) = parse(
            "# SoftHSM v2 configuration file\n\ndirectories.tokendir=/t # here\nobjectstore.backend = file\n\
             objectstore.umask = 0077\nlog.level = DEBUG\nslots.removable = True\n\
             slots.mechanisms = -CKM_ECDSA_SHA1, CKM_ECDSA_SHA224,CKM_OF_TOMORROW\nlibrary.reset_on_fork = false\n",
        );
        assert_eq!(notes, [""; 0]);
        assert_eq!(conf.tokendir, Path::new("/t"));
        assert!(conf.appearance.removable);
        assert_eq!(conf.log_level, LogLevel::Info);
        let chosen = &conf.appearance.mechanisms;
        assert_eq!(*chosen, MechanismChoice::Without(vec![CKM_ECDSA_SHA1, CKM_ECDSA_SHA224]));
        assert!(chosen.allows(CKM_AES_GCM) && !chosen.allows(CKM_ECDSA_SHA1));
    }

    #[test]
    fn mechanisms_can_be_listed() {
        assert_eq!(mechanisms("ALL"), MechanismChoice::All);
        let only = mechanisms("CKM_AES_GCM");
        assert!(only.allows(CKM_AES_GCM) && !only.allows(CKM_ECDSA_SHA1));
    }

    #[test]
    fn what_makes_no_sense_is_noted_and_skipped() {
        let (conf, notes) = parse(
            "nonsense\nslots.removable = maybe\nlog.level = LOUD\nobjectstore.backend = tape\n\
             objectstore.umask = rw\nslots.fast = true\ndirectories.tokendir =\n",
        );
        assert_eq!(conf, SoftHsmConf::default());
        assert_eq!(notes.len(), 7, "{notes:?}");
        assert!(notes[1].starts_with("line 2 "), "{notes:?}");
    }

    #[test]
    fn a_file_that_is_named_must_be_there_and_its_token_directory_too() {
        let dir = tempfile::tempdir().expect("directory");
        let file = dir.path().join("conf");
        let path = file.to_str().expect("UTF-8").to_owned();
        let variable = |name: &str| (name == VARIABLE).then(|| path.clone());
        let refused = SoftHsmConf::find(variable, |_| ()).expect_err("no file");
        assert_eq!(refused.code, CKR_GENERAL_ERROR);
        fs::write(&file, format!("directories.tokendir = {}/tokens", dir.path().display())).expect("written");
        let conf = SoftHsmConf::find(variable, |_| ()).expect("readable").expect("found");
        assert_eq!(conf.state().expect_err("no directory").code, CKR_GENERAL_ERROR);
        fs::create_dir(dir.path().join("tokens")).expect("made");
        assert_eq!(conf.state().expect("a directory"), dir.path().join("tokens/hsm-emulator"));
    }

    #[test]
    fn the_users_file_is_found() {
        let home = tempfile::tempdir().expect("directory");
        let file = home.path().join(OF_USER);
        fs::create_dir_all(file.parent().expect("parent")).expect("made");
        fs::write(&file, "directories.tokendir = /of-user").expect("written");
        let variable = |name: &str| (name == "HOME").then(|| home.path().display().to_string());
        let conf = SoftHsmConf::find(variable, |_| ()).expect("readable").expect("found");
        assert_eq!(conf.tokendir, Path::new("/of-user"));
    }
}
