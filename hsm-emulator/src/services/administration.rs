//! Administrative calls on their way to the units, and what follows from them for the instance. Each is on record
//! before it is carried out, and its outcome before it is answered.

use std::sync::Arc;

use serde_json::{Value, json};

use super::activity::Activity;
use super::audit::{self, AuditLog};
use super::reencryption::Progress;
use super::region::{self, InstalledUnit, Region};
use crate::units::command::UnitType;
use crate::units::{Error as UnitError, Fault, VerificationPattern};

/// Administers the units of a region.
pub struct Administration {
    region: Arc<Region>,
    /// Without a log that is in order there is no administration.
    audit: Result<AuditLog, audit::Error>,
}

/// Why a command did not reach its unit.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// No such unit.
    #[error("there is no crypto unit {0} in this instance")]
    NotFound(String),
    /// No such token.
    #[error("there is no token {0} in this instance")]
    NoToken(String),
    /// Powered off.
    #[error("crypto unit {0} is powered off")]
    Stopped(String),
    /// Its state does not open.
    #[error(
        "crypto unit {0} is damaged, its state on the disk does not open: put it back from a backup and start the \
         service again, or take the unit out with 'hsm-emulator unit remove' and install another"
    )]
    Damaged(String),
    /// More than any command takes.
    #[error("the request has {0} bytes; an administrative command has at most {MAX_REQUEST_BYTES}")]
    TooLarge(usize),
    /// The unit cannot carry it out.
    #[error(transparent)]
    Unit(#[from] UnitError),
    /// It cannot be put on record.
    #[error(transparent)]
    Audit(#[from] audit::Error),
    /// The region cannot.
    #[error(transparent)]
    Region(#[from] region::Error),
}

impl Administration {
    /// Of this region, with this audit log. If the log could not be opened, every call that would change something
    /// is refused with the reason.
    pub fn new(region: Arc<Region>, audit: Result<AuditLog, audit::Error>) -> Self {
        Self { region, audit }
    }

    /// The region.
    pub fn region(&self) -> &Region {
        &self.region
    }

    /// Hands a unit a command and brings its signed answer back, whatever the unit decides.
    ///
    /// # Errors
    /// [`Error`] if the unit could not be asked.
    pub fn submit(&self, hsm_id: &str, request: &[u8]) -> Result<Vec<u8>, Error> {
        if request.len() > MAX_REQUEST_BYTES {
            return Err(Error::TooLarge(request.len()));
        }
        let installed = self.installed(hsm_id)?;
        if installed.is_damaged() {
            return Err(Error::Damaged(hsm_id.to_owned()));
        }
        if installed.stopped {
            return Err(Error::Stopped(hsm_id.to_owned()));
        }
        let activity = Activity::command(self.region.identity(), &installed, request);
        if let Some(activity) = &activity {
            self.record(activity.attempted())?;
        }
        let before = installed.unit.verification_pattern();
        let executed = installed.unit.execute(request);
        let settled = if installed.unit.verification_pattern() == before {
            Ok(false)
        } else {
            self.region.report_units();
            self.region.finish_reencryption()
        };
        if let Some(activity) = &activity {
            self.record(match &executed {
                Ok(executed) => activity.answered(&executed.outcome),
                Err(error) => activity.failed(&error.to_string()),
            })?;
        }
        settled?;
        Ok(executed?.response)
    }

    /// Re-encrypts the stored keys ([`Region::reencrypt`]).
    ///
    /// # Errors
    /// [`Error::Region`].
    pub fn reencrypt(
        &self,
        to: &VerificationPattern,
        abandon_other: bool,
        report: impl FnMut(&Progress),
    ) -> Result<Progress, Error> {
        let data = json!({ "verificationPattern": to.to_hex(), "abandonOther": abandon_other });
        let activity = Activity::of_instance(self.region.identity(), REENCRYPT, &data);
        let count = |progress: &Progress| json!({ "done": progress.done, "leftOut": progress.left_out, "total": progress.total });
        self.on_record(&activity, count, || Ok(self.region.reencrypt(to, abandon_other, report)?))
    }

    /// Gives up the re-encryption of the stored keys ([`Region::cancel_reencryption`]).
    ///
    /// # Errors
    /// [`Error::Region`].
    pub fn cancel_reencryption(&self, to: &VerificationPattern) -> Result<VerificationPattern, Error> {
        let data = json!({ "verificationPattern": to.to_hex() });
        let activity = Activity::of_instance(self.region.identity(), CANCEL, &data);
        let kept = |pattern: &VerificationPattern| json!({ "verificationPattern": pattern.to_hex() });
        self.on_record(&activity, kept, || Ok(self.region.cancel_reencryption(to)?))
    }

    /// A new unit in imprint mode.
    ///
    /// # Errors
    /// [`Error::Region`] if the instance has as many of that type as it may have.
    pub fn add_unit(&self, unit_type: UnitType, old_firmware: bool) -> Result<InstalledUnit, Error> {
        let data = json!({ "type": unit_type.label(), "oldFirmware": old_firmware });
        let activity = Activity::of_instance(self.region.identity(), ADD, &data);
        let added = |installed: &InstalledUnit| json!({ "hsmId": installed.hsm_id, "location": installed.unit.location() });
        self.on_record(&activity, added, || Ok(self.region.add_unit(unit_type, old_firmware)?))
    }

    /// Takes a unit out and erases its state.
    ///
    /// # Errors
    /// [`Error::NotFound`], [`Error::Region`].
    pub fn remove_unit(&self, hsm_id: &str) -> Result<InstalledUnit, Error> {
        self.support(hsm_id, REMOVE, |installed| {
            self.region.remove_unit(installed)?;
            Ok(installed.clone())
        })
    }

    /// Powers a unit off or on.
    ///
    /// # Errors
    /// [`Error::NotFound`], [`Error::Region`].
    pub fn set_power(&self, hsm_id: &str, on: bool) -> Result<InstalledUnit, Error> {
        let action = if on { START } else { STOP };
        self.support(hsm_id, action, |installed| Ok(self.region.set_power(installed, on)?))
    }

    /// Breaks a unit on purpose, or mends it.
    ///
    /// # Errors
    /// [`Error::NotFound`], [`Error::Region`].
    pub fn set_fault(&self, hsm_id: &str, fault: Option<Fault>) -> Result<InstalledUnit, Error> {
        self.support(hsm_id, FAULT, |installed| {
            installed.unit.set_fault(fault).map_err(region::Error::from)?;
            self.region.report_units();
            Ok(installed.clone())
        })
    }

    /// What becomes of a unit that somebody tampers with: registers and administrators are erased.
    ///
    /// # Errors
    /// [`Error::NotFound`], [`Error::Region`].
    pub fn tamper(&self, hsm_id: &str) -> Result<InstalledUnit, Error> {
        self.support(hsm_id, FAULT, |installed| {
            installed.unit.tamper().map_err(region::Error::from)?;
            self.region.report_units();
            Ok(installed.clone())
        })
    }

    /// Deletes a token with its objects, whatever master key they are under; how many objects.
    ///
    /// # Errors
    /// [`Error::NoToken`], [`Error::Region`].
    pub fn delete_token(&self, serial: &str) -> Result<usize, Error> {
        let activity = Activity::of_instance(
            self.region.identity(),
            DELETE_TOKEN,
            &json!({ "serial": printable(serial) }),
        );
        let count = |objects: &usize| json!({ "objects": objects });
        self.on_record(&activity, count, || {
            self.region.delete_token(serial)?.ok_or_else(|| Error::NoToken(printable(serial)))
        })
    }

    /// What is done to a unit from outside.
    fn support(
        &self,
        hsm_id: &str,
        action: &'static str,
        work: impl FnOnce(&InstalledUnit) -> Result<InstalledUnit, Error>,
    ) -> Result<InstalledUnit, Error> {
        let installed = self.installed(hsm_id)?;
        let activity = Activity::of_unit(self.region.identity(), action, &installed, &Value::Null);
        self.on_record(&activity, |_| Value::Null, || work(&installed))
    }

    fn on_record<T>(
        &self,
        activity: &Activity,
        response: impl FnOnce(&T) -> Value,
        work: impl FnOnce() -> Result<T, Error>,
    ) -> Result<T, Error> {
        self.record(activity.attempted())?;
        let outcome = work();
        self.record(match &outcome {
            Ok(done) => activity.succeeded(response(done)),
            Err(error) => activity.failed(&error.to_string()),
        })?;
        outcome
    }

    fn record(&self, event: Value) -> Result<(), Error> {
        match &self.audit {
            Ok(log) => Ok(log.append(event)?),
            Err(reason) => Err(audit::Error::Refused(reason.to_string()).into()),
        }
    }

    fn installed(&self, hsm_id: &str) -> Result<InstalledUnit, Error> {
        let units = self.region.units();
        let found = units.iter().find(|installed| installed.hsm_id == hsm_id).cloned();
        found.ok_or_else(|| Error::NotFound(printable(hsm_id)))
    }
}

/// A caller's text, fit for an error message.
fn printable(text: &str) -> String {
    text.chars().filter(|c| c.is_ascii_graphic()).take(64).collect()
}

const ADD: &str = "hs-crypto.tke-cryptounit-support.add";
const REMOVE: &str = "hs-crypto.tke-cryptounit-support.remove";
const STOP: &str = "hs-crypto.tke-cryptounit-support.stop";
const START: &str = "hs-crypto.tke-cryptounit-support.start";
const FAULT: &str = "hs-crypto.tke-cryptounit-support.fault";
const DELETE_TOKEN: &str = "hs-crypto.tke-token-support.delete";
const REENCRYPT: &str = "hs-crypto.tke-key-storage.reencrypt";
const CANCEL: &str = "hs-crypto.tke-key-storage.cancel";
/// Far above the largest command, a load of three key parts under eight signatures.
pub const MAX_REQUEST_BYTES: usize = 64 << 10;
