//! Room on the disk for what must work when there is no other: deletions, and attempts that are counted.

use std::fs::{self, OpenOptions};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::fs::{FallocateFlags, fallocate};

/// A file beside the embedded database that does nothing but take up room.
pub struct Spare {
    path: PathBuf,
    is_there: AtomicBool,
}

impl Spare {
    /// That of a database; it is made if there is room.
    pub fn of(database: &Path) -> Self {
        let spare = Self { path: database.with_extension("spare"), is_there: AtomicBool::new(false) };
        spare.restore();
        spare
    }

    /// Makes it again, if it has been given away and there is room.
    pub fn restore(&self) {
        if self.is_there.load(Ordering::Relaxed) {
            return;
        }
        let is_complete = fs::metadata(&self.path).is_ok_and(|found| found.len() == BYTES);
        self.is_there.store(is_complete || self.make().is_ok(), Ordering::Relaxed);
    }

    /// Makes room by removing it. `false` if it has been given away before.
    pub fn give_away(&self) -> bool {
        self.is_there.store(false, Ordering::Relaxed);
        fs::remove_file(&self.path).is_ok()
    }

    fn make(&self) -> std::io::Result<()> {
        let file =
            OpenOptions::new().write(true).create(true).truncate(false).mode(0o600).open(&self.path)?;
        let made = fallocate(&file, FallocateFlags::empty(), 0, BYTES);
        if made.is_err() {
            // Half of it would take room and be of no use.
            fs::remove_file(&self.path)?;
        }
        Ok(made?)
    }
}

/// Enough to move the whole of the write-ahead log into the database, and to write some more into it.
const BYTES: u64 = 2 * super::sqlite::LOG_BYTES as u64;
