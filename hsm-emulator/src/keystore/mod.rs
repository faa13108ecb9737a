//! Everything durable outside the units: records, and the log of their changes.
//!
//! Bodies hold blobs that a unit sealed, and public metadata; never a secret.

mod engine;
mod gate;
#[cfg(feature = "edge")]
mod postgres;
pub mod snapshot;
mod spare;
mod sqlite;
mod store;

pub use gate::{Gate, Importance, Mode};
#[cfg(feature = "edge")]
pub use postgres::Watch;
pub use store::{FILE, Inflow, Keystore, Location, Suspended, Transaction};

/// A record: a body under a kind and an id.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// Such as `root-key`.
    pub kind: String,
    /// Unique within its kind.
    pub id: String,
    /// 1 at first, one more at each change.
    pub version: u64,
    /// Opaque to the keystore.
    pub body: Vec<u8>,
}

/// One write of a batch.
#[derive(Clone, Debug)]
pub struct Write {
    /// Which record.
    pub kind: String,
    /// Which record.
    pub id: String,
    /// What must be true before; else nothing of the batch is written.
    pub expect: Expect,
    /// What becomes of it.
    pub effect: Effect,
}

/// What a write does to its record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Effect {
    /// A new body.
    Put(Vec<u8>),
    /// The record is deleted.
    Delete,
    /// Nothing: the precondition alone counts.
    Keep,
}

/// The precondition of a write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Expect {
    /// The record must not exist.
    Absent,
    /// Nothing: the record may exist or not.
    Any,
    /// The record must exist, whatever its version.
    Present,
    /// The record must exist in this version.
    Version(u64),
}

/// An entry of the change log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    /// Position in the log.
    pub revision: u64,
    /// Id of the record.
    pub id: String,
    /// The record as it is now; `None` if it is gone.
    pub record: Option<Record>,
}

/// A piece of the change log.
#[derive(Clone, Debug, Default)]
pub struct Changes {
    /// One entry for each record that changed, in the order of their last change.
    pub changes: Vec<Change>,
    /// Where to go on.
    pub revision: u64,
    /// Is there more to be had at once?
    pub more: bool,
}

/// A piece of the change log over all kinds, each record with its last change alone.
#[derive(Clone, Debug, Default)]
pub struct Piece {
    /// In the order of the log.
    pub changes: Vec<Changed>,
    /// Where to go on. Once a piece says that there is no more, all of them together make the state at this revision.
    pub revision: u64,
    /// Is there more to be had at once?
    pub more: bool,
}

/// A record's last change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Changed {
    /// Position in the log.
    pub revision: u64,
    /// Which record.
    pub kind: String,
    /// Which record.
    pub id: String,
    /// Version and body; `None` if it is gone.
    pub record: Option<(u64, Vec<u8>)>,
}

/// What can go wrong.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A precondition does not hold. Nothing was written; read again and decide anew.
    #[error("{kind} {id} was changed by somebody else, or is not there")]
    Conflict {
        /// Which record.
        kind: String,
        /// Which record.
        id: String,
    },
    /// What was to be written is sealed under a master key that is being rotated.
    #[error(
        "the master key is being rotated: no key can be created or changed until that is done; try again"
    )]
    MasterKeyRotation,
    /// Only the primary region of a pair writes.
    #[error(
        "this region is not the primary one: keys can be used, but not created, changed or deleted here; ask the \
         primary region, or promote this one with 'hsm-emulator failover promote'"
    )]
    NotPrimary,
    /// Nothing was written.
    #[error(
        "the failover region is lost: keys can be used, but not created, changed or deleted, until it is back or is \
         detached with 'hsm-emulator failover detach'"
    )]
    PartnerLost,
    /// Written here, but the partner has not said that it holds it.
    #[error(
        "the failover region was lost before it had acknowledged the change: whether it lasts is not known; read it \
         again when the regions are together"
    )]
    Unacknowledged,
    /// The database was written by a newer version of this program.
    #[error("the keystore has schema version {found}, this program knows {known}: use the newer program")]
    Schema {
        /// In the database.
        found: i64,
        /// Ours.
        known: i64,
    },
    /// There is no room left. Nothing was written.
    #[error("there is no room left for the keystore: {0}")]
    Full(String),
    /// The database refuses: damaged, locked too long. The text is the database's, so that
    /// all writers of a failed group learn it.
    #[error("the keystore cannot be used: {0}")]
    Database(String),
}

/// The result of keystore calls.
pub type Result<T, E = Error> = std::result::Result<T, E>;
