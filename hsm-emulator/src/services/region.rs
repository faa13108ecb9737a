//! One region of a service instance: its crypto units and its keystore.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize};
use std::{fs, io};

use arc_swap::ArcSwap;
use aws_lc_rs::digest::{SHA256, digest};
use parking_lot::Mutex;
use rustix::fs::{FlockOperation, flock};
use serde::{Deserialize, Serialize};

use super::failover::pair::Pair;
use super::nameplate::Nameplate;
use super::storage::{self, INSTANCE, Storage};
use crate::durable_file;
use crate::keystore::{self, Keystore, Location};
use crate::units::administration::control_point;
use crate::units::command::UnitType;
use crate::units::{CryptoUnit, Error as UnitError, Fault, VerificationPattern, vendor};

/// Crypto units and keystore of one region, open for use.
pub struct Region {
    dir: PathBuf,
    identity: Identity,
    /// Where it is: for the failover region of a pair not where the instance is at home.
    place: String,
    pub(super) storage: ArcSwap<Storage>,
    /// Held while the stored keys come under another master key.
    pub(super) changing_master_key: Mutex<()>,
    /// Everything stored has been re-encrypted under the new master key, and waits for a unit to have it.
    pub(super) reencrypted: AtomicBool,
    pub(super) units: ArcSwap<Vec<InstalledUnit>>,
    /// Held while units come and go.
    installing: Mutex<()>,
    keystore: Keystore,
    pub(super) next_unit: AtomicUsize,
}

/// A unit in its place.
#[derive(Clone, Debug)]
pub struct InstalledUnit {
    /// UUID by which administrators address it.
    pub hsm_id: String,
    /// The unit.
    pub unit: Arc<CryptoUnit>,
    /// Is it powered off?
    pub stopped: bool,
    /// `None` if it is damaged so much that nobody knows.
    unit_type: Option<UnitType>,
    dir: PathBuf,
}

/// Who the instance is. Stored in the keystore as the last step of initialisation.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Identity {
    /// UUID.
    pub instance: String,
    /// 32 hexadecimal digits.
    pub account: String,
    /// Such as `us-south`.
    pub region: String,
}

impl Identity {
    /// The instance's CRN.
    pub fn crn(&self) -> String {
        format!("{}::", self.crn_stem())
    }

    /// The CRN of a root key.
    pub fn key_crn(&self, key: &str) -> String {
        format!("{}:key:{key}", self.crn_stem())
    }

    fn crn_stem(&self) -> String {
        format!("crn:v1:bluemix:public:hs-crypto:{}:a/{}:{}", self.region, self.account, self.instance)
    }
}

/// How a new instance is to be.
#[derive(Clone, Debug)]
pub struct Layout {
    /// Such as `us-south`.
    pub region: String,
    /// Operational units.
    pub operational: usize,
    /// Recovery units.
    pub recovery: usize,
    /// Deliver the units with a random master key in all of them? Without, they wait in imprint mode for their
    /// administrators.
    pub master_key: bool,
}

/// Why a region cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The disk refuses.
    #[error("{}: {source}", path.display())]
    Disk {
        /// Where.
        path: PathBuf,
        /// What it said.
        source: io::Error,
    },
    /// A unit refuses.
    #[error(transparent)]
    Unit(#[from] UnitError),
    /// The keystore refuses.
    #[error(transparent)]
    Keystore(#[from] keystore::Error),
    /// The stored keys cannot be re-encrypted.
    #[error("{0}")]
    Reencryption(String),
    /// Another new master key was chosen, and work has been done for it.
    #[error(
        "the stored keys are being re-encrypted under another new master key already, with the verification pattern \
         {}: load and commit that one in all units, and rotate to it, or cancel",
        .0.to_hex()
    )]
    OtherReencryption(VerificationPattern),
    /// An instance has so many units and no more, or no fewer.
    #[error("{0}")]
    UnitLimit(&'static str),
    /// What begins anew, begins with an empty keystore.
    #[error("the database holds an instance's keystore already: an empty one is needed here")]
    Taken,
    /// The instance's own record is damaged.
    #[error("the record of the instance is damaged: restore the keystore from a backup")]
    Identity,
    /// Units are there, but the keystore that names their instance is not.
    #[error("{}: there are crypto units, but the keystore does not know their instance: name it with --keystore if it is in a database, or restore it from a backup", .0.display())]
    Incomplete(PathBuf),
}

impl Region {
    /// Opens the region in `dir`. An empty or half-made directory is initialised as `layout` says; the random master
    /// key, if there is to be one, is generated in the first unit and moved to the others by importer keys.
    /// Several processes may do so at the same time; one does the work.
    ///
    /// # Errors
    /// [`Error`], naming the file.
    pub fn open(dir: &Path, layout: &Layout) -> Result<Self, Error> {
        Self::open_at(dir, &Location::embedded(dir), layout)
    }

    /// The same with the keystore at some place. The region may share it with others, in directories of their own: who
    /// comes later makes its units in imprint mode and empty, as an operator wants them who adds units.
    ///
    /// # Errors
    /// As [`Self::open`].
    pub fn open_at(dir: &Path, location: &Location, layout: &Layout) -> Result<Self, Error> {
        let disk = |path: &Path| {
            let path = path.to_owned();
            move |source| Error::Disk { path, source }
        };
        durable_file::create_dir(dir).map_err(disk(dir))?;
        let _lock = lock(dir)?;
        let keystore = Keystore::open(location)?;
        let pair = Pair::load(&keystore)?;
        let ((identity, storage), units) = match (keystore.get(INSTANCE, INSTANCE)?, &pair) {
            (Some(record), Some(pair)) => (storage::parse(&record)?, open_units(dir, &pair.region)?),
            // It has not followed its partner yet.
            (None, Some(pair)) => {
                ((pair.identity.clone(), Storage::default()), open_units(dir, &pair.region)?)
            }
            (Some(record), None) => {
                let (identity, storage) = storage::parse(&record)?;
                let units = if keystore.is_shared() {
                    open_or_add_units(dir, layout, &identity)?
                } else {
                    open_units(dir, &identity.region)?
                };
                ((identity, storage), units)
            }
            (None, None) => {
                let made = match initialise(dir, layout, &keystore) {
                    // Another process has made the instance meanwhile.
                    Err(Error::Keystore(keystore::Error::Conflict { .. })) if keystore.is_shared() => None,
                    made => Some(made?),
                };
                let (identity, storage) =
                    storage::parse(&keystore.get(INSTANCE, INSTANCE)?.ok_or(Error::Identity)?)?;
                let units = made.map_or_else(|| open_or_add_units(dir, layout, &identity), Ok)?;
                ((identity, storage), units)
            }
        };
        fs::remove_file(dir.join(INITIALISING)).ok();
        // A kill may have come between the deletion of something secret and its erasure from the log.
        if let Err(error) = keystore.erase_log() {
            tracing::warn!(%error, "the log could not be erased");
        }
        // The failover region's units come when an operator asks for them.
        if units.is_empty() && pair.is_none() {
            return Err(Error::Incomplete(dir.to_owned()));
        }
        let region = Self {
            dir: dir.to_owned(),
            place: pair.as_ref().map_or_else(|| identity.region.clone(), |pair| pair.region.clone()),
            identity,
            storage: ArcSwap::from_pointee(storage),
            changing_master_key: Mutex::default(),
            reencrypted: AtomicBool::new(false),
            units: ArcSwap::from_pointee(units),
            installing: Mutex::default(),
            keystore,
            next_unit: AtomicUsize::new(0),
        };
        // In a pair, that is for whoever knows which region writes.
        if pair.is_none() {
            region.resume_reencryption()?;
        }
        region.report_units();
        Ok(region)
    }

    /// Makes an empty directory the failover region of a pair. It has no units yet, and no keys.
    ///
    /// # Errors
    /// The disk's and the keystore's.
    pub fn join(dir: &Path, location: &Location, pair: &Pair) -> Result<(), Error> {
        durable_file::create_dir(dir).map_err(|source| Error::Disk { path: dir.to_owned(), source })?;
        let _lock = lock(dir)?;
        let keystore = Keystore::open(location)?;
        if location.is_shared() && keystore.get(INSTANCE, INSTANCE)?.is_some() {
            return Err(Error::Taken);
        }
        Ok(keystore.transaction_here(|transaction| pair.store(transaction))?)
    }

    /// Who the instance is.
    pub fn identity(&self) -> &Identity {
        &self.identity
    }

    /// Where it is, such as `us-south`.
    pub fn place(&self) -> &str {
        &self.place
    }

    /// All crypto units: operational, then recovery, then failover ones. Damaged ones keep their place, if their type
    /// is known.
    pub fn units(&self) -> Arc<Vec<InstalledUnit>> {
        self.units.load_full()
    }

    /// The keystore.
    pub fn keystore(&self) -> &Keystore {
        &self.keystore
    }

    /// Installs a new unit, in imprint mode and empty.
    ///
    /// # Errors
    /// [`Error::UnitLimit`], or the disk's.
    pub fn add_unit(&self, unit_type: UnitType, old_firmware: bool) -> Result<InstalledUnit, Error> {
        let _installing = self.installing.lock();
        let _lock = lock(&self.dir)?;
        let mut units = Vec::clone(&self.units());
        let limit = match unit_type {
            UnitType::Operational => MAX_OPERATIONAL,
            UnitType::Recovery => MAX_RECOVERY,
            UnitType::Failover => MAX_FAILOVER,
        };
        if units.iter().filter(|installed| installed.unit_type == Some(unit_type)).count() >= limit {
            return Err(Error::UnitLimit(
                "the instance has as many crypto units of this type as it may have",
            ));
        }
        let units_dir = self.dir.join(UNITS);
        let taken = |i: &usize| !units_dir.join(format!("{i:02}")).exists();
        let place =
            (0..MAX_PLACES).find(taken).ok_or(Error::UnitLimit("there is no place left for a unit"))?;
        let control_points = if old_firmware { Vec::new() } else { all_control_points().to_vec() };
        let unit = create_unit(&units_dir, place, &self.place, unit_type, &control_points)?;
        units.push(unit.clone());
        units.sort_by_key(InstalledUnit::order);
        self.units.store(Arc::new(units));
        Ok(unit)
    }

    /// Takes a unit out for good, and erases its state.
    ///
    /// # Errors
    /// [`Error::UnitLimit`] for one that the instance cannot be without, or the disk's.
    pub fn remove_unit(&self, unit: &InstalledUnit) -> Result<(), Error> {
        let _installing = self.installing.lock();
        let _lock = lock(&self.dir)?;
        let mut units = Vec::clone(&self.units());
        units.retain(|installed| installed.hsm_id != unit.hsm_id);
        if units.iter().all(InstalledUnit::is_damaged) {
            return Err(Error::UnitLimit(
                "the last crypto unit of an instance that is in order cannot be removed",
            ));
        }
        if let Some(pattern) = self.storage.load().pattern {
            let holds = |installed: &InstalledUnit| installed.unit.verification_pattern() == Some(pattern);
            if unit.serves(&pattern) && !units.iter().any(|installed| installed.serves(&pattern)) {
                return Err(Error::UnitLimit(
                    "no other crypto unit in service holds the instance's master key: load it into one first",
                ));
            }
            // What does not open may be the only copy.
            if (holds(unit) || unit.is_damaged() && self.stores_keys()?) && !units.iter().any(holds) {
                return Err(Error::UnitLimit(
                    "no other crypto unit holds the instance's master key: load it into one first",
                ));
            }
        }
        // From the rename on the unit is gone, whatever happens: what is left is swept at the next start.
        let units_dir = self.dir.join(UNITS);
        let tombstone = units_dir.join(format!("{REMOVED}{}", uuid::Uuid::new_v4()));
        let disk = |source| Error::Disk { path: unit.dir.clone(), source };
        fs::rename(&unit.dir, &tombstone).map_err(disk)?;
        self.units.store(Arc::new(units));
        durable_file::sync_dir(&units_dir).map_err(disk)?;
        if let Err(error) = fs::remove_dir_all(&tombstone) {
            tracing::error!(%error, path = %tombstone.display(), "a removed unit could not be erased");
        }
        self.report_units();
        Ok(())
    }

    /// Powers a unit off or on. It stays so over a restart.
    ///
    /// # Errors
    /// The disk's.
    pub fn set_power(&self, unit: &InstalledUnit, on: bool) -> Result<InstalledUnit, Error> {
        let installing = self.installing.lock();
        let marker = unit.dir.join(STOPPED);
        let written = match on {
            true if marker.exists() => fs::remove_file(&marker),
            true => Ok(()),
            false => durable_file::replace(&marker, b""),
        };
        written.map_err(|source| Error::Disk { path: marker, source })?;
        let changed = InstalledUnit { stopped: !on, ..unit.clone() };
        let mut units = Vec::clone(&self.units());
        units
            .iter_mut()
            .filter(|installed| installed.hsm_id == unit.hsm_id)
            .for_each(|u| *u = changed.clone());
        self.units.store(Arc::new(units));
        drop(installing);
        self.report_units();
        // The unit may come with the new master key that a rotation waits for.
        self.try_to_settle();
        Ok(changed)
    }

    /// Finishes a rotation of the master key that waits for nothing more. One that is under way sees that itself.
    pub fn try_to_settle(&self) {
        if let Some(changing) = self.changing_master_key.try_lock()
            && let Err(error) = self.settle(&changing)
        {
            tracing::error!(%error, "a rotation of the master key cannot be finished, and will be tried again");
        }
    }

    /// Is there a unit that serves, or would at the first call?
    pub fn is_served(&self) -> bool {
        let storage = **self.storage.load();
        if storage.pattern.is_some_and(|pattern| self.is_held(&pattern)) {
            return true;
        }
        let has_key =
            |unit: &InstalledUnit| unit.is_in_service() && unit.unit.verification_pattern().is_some();
        // As long as nothing is stored, any master key may become the instance's.
        self.units.load().iter().any(has_key)
            && storage.reencrypting_to.is_none()
            && (storage.pattern.is_none() || self.stores_keys().is_ok_and(|stored| !stored))
    }

    /// How a unit is: `damaged`, `disabled`, `out of order`, `running`, `slow`, `stopped`, `no master key`, or `other master key` than the instance's.
    pub fn state_of(&self, installed: &InstalledUnit) -> &'static str {
        match (installed.unit.verification_pattern(), self.storage.load().pattern) {
            _ if installed.is_damaged() => "damaged",
            _ if installed.stopped => "stopped",
            _ if installed.unit.fault() == Some(Fault::Disabled) => "disabled",
            _ if !installed.unit.is_well() => "out of order",
            (None, _) => "no master key",
            (Some(held), Some(pattern)) if held != pattern => "other master key",
            (Some(_), _) if installed.unit.is_slow() => "slow",
            (Some(_), _) => "running",
        }
    }

    /// Says which units do not serve, and why.
    pub(super) fn report_units(&self) {
        let Some(pattern) = self.storage().pattern else { return };
        for installed in self.units.load().iter() {
            if installed.is_operational() && !installed.serves(&pattern) {
                tracing::error!(
                    serial = installed.unit.serial(),
                    location = installed.unit.location(),
                    stopped = installed.stopped,
                    "the unit does not hold the instance's master key and takes no part"
                );
            }
        }
    }
}

impl InstalledUnit {
    fn open(dir: &Path) -> Result<Self, UnitError> {
        let unit = CryptoUnit::open(dir)?;
        if let Err(error) = Nameplate::of(&unit).attach(dir) {
            tracing::warn!(%error, dir = %dir.display(), "the unit's nameplate cannot be written");
        }
        let unit_type = unit.unit_type();
        Ok(Self::new(unit, Some(unit_type), dir))
    }

    /// One whose state does not open: known by its nameplate, or else by its place alone.
    fn damaged(dir: &Path, nameplate: Option<Nameplate>, location: String) -> Self {
        let unit_type = nameplate.as_ref().and_then(Nameplate::unit_type);
        let (serial, location) = match nameplate {
            Some(nameplate) => (nameplate.serial, nameplate.location),
            None => (UNKNOWN.to_owned(), location),
        };
        // Of which type it would be counts for nothing here.
        let unit = CryptoUnit::damaged(serial, location, unit_type.unwrap_or(UnitType::Operational));
        Self::new(unit, unit_type, dir)
    }

    fn new(unit: CryptoUnit, unit_type: Option<UnitType>, dir: &Path) -> Self {
        let mut id = [0; 16];
        id.copy_from_slice(
            &digest(&SHA256, format!("{} {}", unit.serial(), unit.location()).as_bytes()).as_ref()[..16],
        );
        Self {
            hsm_id: uuid::Builder::from_custom_bytes(id).into_uuid().to_string(),
            unit_type,
            unit: Arc::new(unit),
            stopped: dir.join(STOPPED).exists(),
            dir: dir.to_owned(),
        }
    }

    /// What the unit is for; `None` if it is damaged so much that nobody knows.
    pub fn unit_type(&self) -> Option<UnitType> {
        self.unit_type
    }

    /// Is it one whose state does not open?
    pub fn is_damaged(&self) -> bool {
        self.unit.is_damaged()
    }

    /// By type, the unknown one last.
    fn order(&self) -> (bool, Option<UnitType>) {
        (self.unit_type.is_none(), self.unit_type)
    }

    /// Is it one that serves: an operational unit in the home region, a failover unit in the other one?
    pub(super) fn is_operational(&self) -> bool {
        matches!(self.unit_type, Some(UnitType::Operational | UnitType::Failover))
    }

    pub(super) fn is_in_service(&self) -> bool {
        self.is_operational() && !self.stopped && self.unit.is_well()
    }

    /// In service, with this master key?
    pub(super) fn serves(&self, pattern: &VerificationPattern) -> bool {
        self.is_in_service() && self.unit.verification_pattern().as_ref() == Some(pattern)
    }
}

/// Makes units and keystore records. The instance's record comes last: while the marker is there and the record
/// is not, a directory is half made by a process that was killed, holds nothing of value, and is made anew.
/// Units without marker and record are somebody's, and stay.
fn initialise(dir: &Path, layout: &Layout, keystore: &Keystore) -> Result<Vec<InstalledUnit>, Error> {
    let units_dir = dir.join(UNITS);
    if units_dir.exists() {
        if !dir.join(INITIALISING).exists() {
            return Err(Error::Incomplete(dir.to_owned()));
        }
        remove_units(dir)?;
    }
    let instance = uuid::Uuid::new_v4().to_string();
    mark(dir, &instance)?;
    let units = (0..layout.operational)
        .map(|_| UnitType::Operational)
        .chain((0..layout.recovery).map(|_| UnitType::Recovery))
        .enumerate()
        .map(|(i, unit_type)| create_unit(&units_dir, i, &layout.region, unit_type, &all_control_points()))
        .collect::<Result<Vec<_>, _>>()?;
    let pattern = layout.master_key.then(|| distribute_master_key(&units)).transpose()?;
    let identity = Identity {
        instance,
        account: uuid::Uuid::new_v4().simple().to_string(),
        region: layout.region.clone(),
    };
    keystore.commit(vec![storage::write(&identity, &Storage { pattern, ..Storage::default() })?])?;
    Ok(units)
}

/// The units of a region that shares its keystore: those that are there, or else new ones in imprint mode.
fn open_or_add_units(dir: &Path, layout: &Layout, identity: &Identity) -> Result<Vec<InstalledUnit>, Error> {
    let marker = dir.join(INITIALISING);
    let read = |source| Error::Disk { path: marker.clone(), source };
    // Another process may have made the instance while this one was at it, and a kill may have come in the midst.
    if marker.exists() && fs::read(&marker).map_err(read)? != identity.instance.as_bytes() {
        remove_units(dir)?;
    }
    let units = open_units(dir, &identity.region)?;
    if !units.is_empty() {
        return Ok(units);
    }
    mark(dir, ADDING)?;
    (0..layout.operational)
        .map(|i| {
            let units_dir = dir.join(UNITS);
            create_unit(&units_dir, i, &identity.region, UnitType::Operational, &all_control_points())
        })
        .collect()
}

fn remove_units(dir: &Path) -> Result<(), Error> {
    let path = dir.join(UNITS);
    match fs::remove_dir_all(&path) {
        Err(source) if source.kind() != io::ErrorKind::NotFound => Err(Error::Disk { path, source }),
        _ => Ok(()),
    }
}

/// Says that units are being made, and for which instance.
fn mark(dir: &Path, instance: &str) -> Result<(), Error> {
    let path = dir.join(INITIALISING);
    durable_file::replace(&path, instance.as_bytes()).map_err(|source| Error::Disk { path, source })
}

/// A new unit in place number `i`: there as a whole or not at all.
fn create_unit(
    units_dir: &Path,
    i: usize,
    region: &str,
    unit_type: UnitType,
    control_points: &[u32],
) -> Result<InstalledUnit, Error> {
    let location = location(region, i);
    let half_made = units_dir.join(format!("{HALF_MADE}{}", uuid::Uuid::new_v4()));
    drop(CryptoUnit::create(&half_made, &location, unit_type, control_points)?);
    let dir = units_dir.join(format!("{i:02}"));
    fs::rename(&half_made, &dir)
        .and_then(|()| durable_file::sync_dir(units_dir))
        .map_err(|source| Error::Disk { path: dir.clone(), source })?;
    Ok(InstalledUnit::open(&dir)?)
}

fn location(region: &str, i: usize) -> String {
    format!("[{region}].[AZ{}-CS{}].[00].[{i:02}]", i % ZONES + 1, i + 1)
}

/// One process at a time makes and removes units.
pub(super) fn lock(dir: &Path) -> Result<fs::File, Error> {
    let path = dir.join("init.lock");
    let locked = || {
        let file = fs::File::create(&path)?;
        flock(&file, FlockOperation::LockExclusive)?;
        Ok(file)
    };
    locked().map_err(|source| Error::Disk { path: path.clone(), source })
}

/// Erases what a kill left of units that were being made or removed.
fn sweep(paths: &mut Vec<PathBuf>) -> io::Result<()> {
    let is_left_over = |path: &PathBuf| {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        name.starts_with(HALF_MADE) || name.starts_with(REMOVED)
    };
    for path in paths.extract_if(.., |path| is_left_over(path)) {
        tracing::warn!(path = %path.display(), "a unit that was half made or half removed is erased");
        fs::remove_dir_all(path)?;
    }
    Ok(())
}

fn all_control_points() -> [u32; 3] {
    control_point::ALL.map(|(number, _)| number)
}

/// A random master key in the first unit, moved to each other by an importer key of its own.
fn distribute_master_key(units: &[InstalledUnit]) -> Result<VerificationPattern, UnitError> {
    let no_unit = || UnitError::new(vendor::CKR_IBM_WK_NOT_INITIALIZED, "an instance needs a crypto unit");
    let (source, targets) = units.split_first().ok_or_else(no_unit)?;
    source.unit.generate_master_key()?;
    for target in targets {
        target.unit.receive_master_key(&source.unit)?;
    }
    source.unit.verification_pattern().ok_or_else(no_unit)
}

fn open_units(dir: &Path, region: &str) -> Result<Vec<InstalledUnit>, Error> {
    let units_dir = dir.join(UNITS);
    let disk = |source| Error::Disk { path: units_dir.clone(), source };
    durable_file::create_dir(&units_dir).map_err(disk)?;
    let mut paths = fs::read_dir(&units_dir)
        .map_err(disk)?
        .map(|entry| entry.map(|entry| entry.path()))
        .collect::<Result<Vec<_>, _>>()
        .map_err(disk)?;
    sweep(&mut paths).map_err(disk)?;
    paths.sort();
    let mut units = Vec::new();
    let mut refused = Vec::new();
    for path in paths {
        match InstalledUnit::open(&path) {
            Ok(unit) => units.push(unit),
            Err(error) => refused.push((path, error)),
        }
    }
    // One unit is enough to serve; none is not.
    if units.is_empty()
        && let Some((_, error)) = refused.pop()
    {
        return Err(error.into());
    }
    for (path, error) in refused {
        let place = path.file_name().and_then(|name| name.to_str()).and_then(|name| name.parse().ok());
        let Some(place) = place else {
            tracing::warn!(%error, path = %path.display(), "this is no crypto unit");
            continue;
        };
        // Nobody has checked what stands there: it must not pass for another unit.
        let is_free =
            |plate: &Nameplate| units.iter().all(|installed| installed.unit.serial() != plate.serial);
        let nameplate = Nameplate::read(&path).filter(is_free);
        let unit = InstalledUnit::damaged(&path, nameplate, location(region, place));
        tracing::error!(
            %error,
            serial = unit.unit.serial(),
            location = unit.unit.location(),
            "A CRYPTO UNIT IS DAMAGED and takes no part; the others serve. Put its directory back from a backup and \
             start again, or take it out with 'hsm-emulator unit remove'"
        );
        units.push(unit);
    }
    units.sort_by(|a, b| (a.order(), &a.dir).cmp(&(b.order(), &b.dir)));
    Ok(units)
}

/// The serial number of a unit that shows none.
const UNKNOWN: &str = "unknown";
pub(super) const UNITS: &str = "units";
/// In a unit's directory while it is powered off.
const STOPPED: &str = "stopped";
/// In place of the number, in the name of a unit's directory that is being made, and of one that is being erased.
const HALF_MADE: &str = "new-";
const REMOVED: &str = "removed-";
/// The most units of each type that an instance has.
const MAX_OPERATIONAL: usize = 3;
const MAX_RECOVERY: usize = 2;
const MAX_FAILOVER: usize = 3;
const MAX_PLACES: usize = 100;
/// Availability zones of a region.
const ZONES: usize = 3;
/// There from the first step of an initialisation to its last.
const INITIALISING: &str = "initialising";
/// In the place of an instance's id there, while units are made for an instance that is there already.
const ADDING: &str = "adding";
