//! One region of a service instance: its crypto units and its keystore.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use rustix::fs::{FlockOperation, flock};
use serde::{Deserialize, Serialize};

use crate::durable_file;
use crate::keystore::{self, Effect, Expect, SqliteKeystore, Write};
use crate::units::{CryptoUnit, Error as UnitError, VerificationPattern, vendor};

/// Crypto units and keystore of one region, open for use.
pub struct Region {
    identity: Identity,
    /// The identity's, ready to be compared with.
    pattern: VerificationPattern,
    units: Vec<Arc<CryptoUnit>>,
    keystore: SqliteKeystore,
    next_unit: AtomicUsize,
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
    /// What all units hold: 64 hexadecimal digits.
    pub verification_pattern: String,
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
    pub units: usize,
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
        source: std::io::Error,
    },
    /// A unit refuses.
    #[error(transparent)]
    Unit(#[from] UnitError),
    /// The keystore refuses.
    #[error(transparent)]
    Keystore(#[from] keystore::Error),
    /// The instance's own record is damaged.
    #[error("the record of the instance is damaged: restore the keystore from a backup")]
    Identity,
    /// Units are there, but the keystore that names their instance is not.
    #[error("{}: there are crypto units, but the keystore does not know their instance: restore it from a backup", .0.display())]
    Incomplete(PathBuf),
}

impl Region {
    /// Opens the region in `dir`. An empty or half-made directory is initialised: `layout.units` operational
    /// units, a random master key generated in the first and moved to the others by importer keys.
    /// Several processes may do so at the same time; one does the work.
    ///
    /// # Errors
    /// [`Error`], naming the file.
    pub fn open(dir: &Path, layout: &Layout) -> Result<Self, Error> {
        let disk = |path: &Path| {
            let path = path.to_owned();
            move |source| Error::Disk { path, source }
        };
        durable_file::create_dir(dir).map_err(disk(dir))?;
        let lock_path = dir.join("init.lock");
        let lock = fs::File::create(&lock_path).map_err(disk(&lock_path))?;
        flock(&lock, FlockOperation::LockExclusive).map_err(|e| disk(&lock_path)(e.into()))?;
        let keystore = SqliteKeystore::open(&dir.join("keystore.sqlite"))?;
        let (identity, units) = match keystore.get(INSTANCE, INSTANCE)? {
            Some(record) => {
                let identity: Identity = serde_json::from_slice(&record.body).map_err(|_| Error::Identity)?;
                (identity, open_units(dir)?)
            }
            None => initialise(dir, layout, &keystore)?,
        };
        fs::remove_file(dir.join(INITIALISING)).ok();
        // A kill may have come between the deletion of something secret and its erasure from the log.
        if let Err(error) = keystore.erase_log() {
            tracing::warn!(%error, "the log could not be erased");
        }
        let pattern = VerificationPattern::from_hex(&identity.verification_pattern).ok_or(Error::Identity)?;
        let region = Self {
            identity,
            pattern,
            units: units.into_iter().map(Arc::new).collect(),
            keystore,
            next_unit: AtomicUsize::new(0),
        };
        for unit in &region.units {
            if !region.serves(unit) {
                tracing::error!(
                    serial = unit.serial(),
                    location = unit.location(),
                    "the unit does not hold the instance's master key and takes no part"
                );
            }
        }
        if region.units.is_empty() {
            return Err(Error::Incomplete(dir.to_owned()));
        }
        Ok(region)
    }

    /// Who the instance is.
    pub fn identity(&self) -> &Identity {
        &self.identity
    }

    /// All crypto units.
    pub fn units(&self) -> &[Arc<CryptoUnit>] {
        &self.units
    }

    /// The keystore.
    pub fn keystore(&self) -> &SqliteKeystore {
        &self.keystore
    }

    /// A unit that holds the instance's master key; they take turns.
    ///
    /// # Errors
    /// `CKR_IBM_WK_NOT_INITIALIZED` if none does.
    pub fn unit(&self) -> Result<&CryptoUnit, UnitError> {
        let first = if self.units.len() > 1 { self.next_unit.fetch_add(1, Ordering::Relaxed) } else { 0 };
        (0..self.units.len())
            .map(|i| &self.units[first.wrapping_add(i) % self.units.len()])
            .find(|unit| self.serves(unit))
            .map(|unit| &**unit)
            .ok_or_else(|| {
                UnitError::new(
                    vendor::CKR_IBM_WK_NOT_INITIALIZED,
                    "no crypto unit holds the instance's master key: load it again",
                )
            })
    }

    fn serves(&self, unit: &CryptoUnit) -> bool {
        unit.verification_pattern() == Some(self.pattern)
    }
}

/// Makes units and keystore records. The instance's record comes last: while the marker is there and the record
/// is not, a directory is half made by a process that was killed, holds nothing of value, and is made anew.
/// Units without marker and record are somebody's, and stay.
fn initialise(
    dir: &Path,
    layout: &Layout,
    keystore: &SqliteKeystore,
) -> Result<(Identity, Vec<CryptoUnit>), Error> {
    let units_dir = dir.join(UNITS);
    let marker = dir.join(INITIALISING);
    if units_dir.exists() {
        if !marker.exists() {
            return Err(Error::Incomplete(dir.to_owned()));
        }
        fs::remove_dir_all(&units_dir).map_err(|source| Error::Disk { path: units_dir.clone(), source })?;
    }
    durable_file::replace(&marker, b"").map_err(|source| Error::Disk { path: marker, source })?;
    let units = (0..layout.units)
        .map(|i| {
            let location = format!("[{}].[AZ{}-CS{}].[00].[{:02}]", layout.region, i + 1, i + 1, i);
            CryptoUnit::create(&units_dir.join(format!("{i:02}")), &location)
        })
        .collect::<Result<Vec<_>, _>>()?;
    let pattern = distribute_master_key(&units)?;
    let identity = Identity {
        instance: uuid::Uuid::new_v4().to_string(),
        account: uuid::Uuid::new_v4().simple().to_string(),
        region: layout.region.clone(),
        verification_pattern: pattern.to_hex(),
    };
    keystore.commit(vec![Write {
        kind: INSTANCE.into(),
        id: INSTANCE.into(),
        expect: Expect::Absent,
        effect: Effect::Put(serde_json::to_vec(&identity).map_err(|_| Error::Identity)?),
    }])?;
    Ok((identity, units))
}

/// A random master key in the first unit, moved to each other by an importer key of its own.
fn distribute_master_key(units: &[CryptoUnit]) -> Result<VerificationPattern, UnitError> {
    let no_unit = || UnitError::new(vendor::CKR_IBM_WK_NOT_INITIALIZED, "an instance needs a crypto unit");
    let (source, targets) = units.split_first().ok_or_else(no_unit)?;
    source.generate_master_key()?;
    for target in targets {
        let importer = target.importer_key()?;
        let transported = source.export_master_key(&importer.public_key())?;
        let pattern = target.import_master_key(importer, &transported)?;
        target.commit_master_key(&pattern)?;
        target.set_immediate()?;
    }
    source.verification_pattern().ok_or_else(no_unit)
}

fn open_units(dir: &Path) -> Result<Vec<CryptoUnit>, Error> {
    let units_dir = dir.join(UNITS);
    let disk = |source| Error::Disk { path: units_dir.clone(), source };
    let mut paths = fs::read_dir(&units_dir)
        .map_err(disk)?
        .map(|entry| entry.map(|entry| entry.path()))
        .collect::<Result<Vec<_>, _>>()
        .map_err(disk)?;
    paths.sort();
    let mut units = Vec::new();
    let mut refused = None;
    for path in &paths {
        match CryptoUnit::open(path) {
            Ok(unit) => units.push(unit),
            Err(error) => {
                tracing::error!(%error, "a crypto unit takes no part");
                refused = Some(error);
            }
        }
    }
    // One unit is enough to serve; none is not.
    match refused {
        Some(error) if units.is_empty() => Err(error.into()),
        _ => Ok(units),
    }
}

const INSTANCE: &str = "instance";
const UNITS: &str = "units";
/// There from the first step of an initialisation to its last.
const INITIALISING: &str = "initialising";
