//! Room on the disk for what must work when there is no other: deletions, and attempts that are counted.

use std::fs::{self, OpenOptions};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::fs::{FallocateFlags, fallocate};
use rustix::io::Errno;

/// A file beside the embedded database that does nothing but take up room.
pub struct Spare {
    path: PathBuf,
    is_there: AtomicBool,
}

impl Spare {
    /// That of a database. It is not made yet.
    pub fn of(database: &Path) -> Self {
        Self { path: database.with_extension("spare"), is_there: AtomicBool::new(false) }
    }

    /// Makes it, if it is not there and there is room.
    pub fn restore(&self) {
        if self.is_there.load(Ordering::Relaxed) {
            return;
        }
        let is_complete = fs::metadata(&self.path).is_ok_and(|found| found.len() == BYTES);
        self.is_there.store(is_complete || self.make().is_ok(), Ordering::Relaxed);
    }

    /// Has it been given away?
    pub fn is_missing(&self) -> bool {
        !self.is_there.load(Ordering::Relaxed)
    }

    /// Makes room by removing it. `false` if it has been given away before.
    pub fn give_away(&self) -> bool {
        self.is_there.store(false, Ordering::Relaxed);
        fs::remove_file(&self.path).is_ok()
    }

    fn make(&self) -> std::io::Result<()> {
        let file =
            OpenOptions::new().write(true).create(true).truncate(false).mode(0o600).open(&self.path)?;
        let made = match fallocate(&file, FallocateFlags::empty(), 0, BYTES) {
            Err(Errno::OPNOTSUPP) => file.write_all_at(&vec![0; BYTES as usize], 0),
            made => made.map_err(Into::into),
        };
        if made.is_err() {
            // Half of it would take room and be of no use.
            fs::remove_file(&self.path)?;
        }
        made
    }
}

/// Enough to move the whole of the write-ahead log into the database, and to write some more into it.
const BYTES: u64 = 2 * super::sqlite::LOG_BYTES as u64;
