//! Reads in progress, and the blobs that they still need.

use std::{
    collections::{BTreeSet, HashMap},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use uuid::Uuid;

/// All reads in progress. A read first looks up its blobs, which takes no longer than a query, and then pins them until
/// their files are open: a slow reader keeps its own blobs and nobody else's.
#[derive(Debug, Clone, Default)]
pub struct Readers(Arc<Mutex<Inner>>);

#[derive(Debug, Default)]
struct Inner {
    next: u64,
    looking: BTreeSet<u64>,
    pinned: HashMap<Uuid, usize>,
}

impl Readers {
    /// To be called before the metadata is read.
    pub fn look(&self) -> Looking {
        let mut inner = self.lock();
        let ticket = inner.next;
        inner.next += 1;
        inner.looking.insert(ticket);
        Looking { readers: self.clone(), ticket }
    }

    /// A point in time: whoever looks later can't see what is garbage now.
    pub fn mark(&self) -> u64 {
        self.lock().next
    }

    /// Whether all that looked before a mark have pinned what they found.
    pub fn all_looked_after(&self, mark: u64) -> bool {
        self.lock().looking.first().is_none_or(|oldest| *oldest >= mark)
    }

    /// Those blobs that nobody needs.
    pub fn unpinned(&self, mut blobs: Vec<Uuid>) -> Vec<Uuid> {
        let inner = self.lock();
        blobs.retain(|blob| !inner.pinned.contains_key(blob));
        blobs
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A read that is looking up its blobs: none that it may see is deleted.
#[derive(Debug)]
pub struct Looking {
    readers: Readers,
    ticket: u64,
}

impl Looking {
    /// Keeps the blobs that were found.
    pub fn pin(self, blobs: Vec<Uuid>) -> Pinned {
        let mut inner = self.readers.lock();
        for blob in &blobs {
            *inner.pinned.entry(*blob).or_default() += 1;
        }
        drop(inner);
        Pinned { readers: self.readers.clone(), blobs }
    }
}

impl Drop for Looking {
    fn drop(&mut self) {
        self.readers.lock().looking.remove(&self.ticket);
    }
}

/// Blobs that are not deleted while this lives.
#[derive(Debug)]
pub struct Pinned {
    readers: Readers,
    blobs: Vec<Uuid>,
}

impl Drop for Pinned {
    fn drop(&mut self) {
        let mut inner = self.readers.lock();
        for blob in &self.blobs {
            match inner.pinned.get_mut(blob) {
                Some(count) if *count > 1 => *count -= 1,
                _ => drop(inner.pinned.remove(blob)),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn those_who_look_hold_back_the_collector_until_they_have_pinned() {
        let readers = Readers::default();
        let old = readers.look();
        let mark = readers.mark();
        let _new = readers.look();
        assert!(!readers.all_looked_after(mark));
        let _pinned = old.pin(Vec::new());
        assert!(readers.all_looked_after(mark));
    }

    #[test]
    fn a_blob_is_pinned_as_often_as_it_is_read() {
        let readers = Readers::default();
        let [read, other] = [(); 2].map(|()| Uuid::new_v4());
        let (first, second) = (readers.look().pin(vec![read]), readers.look().pin(vec![read]));
        for reader in [first, second] {
            assert_eq!(readers.unpinned(vec![read, other]), [other]);
            drop(reader);
        }
        assert_eq!(readers.unpinned(vec![read, other]), [read, other]);
    }
}
