//! Handles: numbers that C code holds in place of sessions and objects.

use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

/// A table of things that handles stand for. A handle is never used twice in a process, and what it
/// stands for lives as long as somebody works with it, even if it's closed meanwhile.
pub struct HandleTable<T> {
    shards: [OwnLine<RwLock<Shard<T>>>; SHARDS],
}

impl<T> HandleTable<T> {
    /// An empty table.
    pub fn new() -> Self {
        Self { shards: std::array::from_fn(|_| OwnLine(RwLock::default())) }
    }

    /// Enters what `make` builds for its new handle.
    pub fn insert_with(&self, make: impl FnOnce(u64) -> T) -> Arc<T> {
        let handle = Self::reserve();
        self.put(handle, make(handle))
    }

    /// A new handle, for [`HandleTable::put`].
    pub fn reserve() -> u64 {
        NEXT.fetch_add(1, Ordering::Relaxed)
    }

    /// Enters something under a handle that was given out before.
    pub fn put(&self, handle: u64, value: impl Into<Arc<T>>) -> Arc<T> {
        let entry = value.into();
        write(self.shard(handle)).insert(handle, entry.clone());
        entry
    }

    /// What the handle stands for.
    pub fn get(&self, handle: u64) -> Option<Arc<T>> {
        read(self.shard(handle)).get(&handle).cloned()
    }

    /// Takes an entry out.
    pub fn remove(&self, handle: u64) -> Option<Arc<T>> {
        write(self.shard(handle)).remove(&handle)
    }

    /// All entries that satisfy `wanted`, in the order of their handles.
    pub fn matching(&self, wanted: impl Fn(&T) -> bool) -> Vec<(u64, Arc<T>)> {
        let mut found: Vec<_> = self
            .shards
            .iter()
            .flat_map(|shard| {
                let shard = read(&shard.0);
                shard.iter().filter(|(_, e)| wanted(e)).map(|(h, e)| (*h, e.clone())).collect::<Vec<_>>()
            })
            .collect();
        found.sort_unstable_by_key(|(handle, _)| *handle);
        found
    }

    fn shard(&self, handle: u64) -> &RwLock<Shard<T>> {
        &self.shards[handle as usize % SHARDS].0
    }
}

impl<T> Default for HandleTable<T> {
    fn default() -> Self {
        Self::new()
    }
}

/// Locks, also after a panic elsewhere: what a panic may have left half done is refused by its session.
pub fn lock<T: ?Sized>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// As [`lock`], for reading.
pub fn read<T: ?Sized>(lock: &RwLock<T>) -> RwLockReadGuard<'_, T> {
    lock.read().unwrap_or_else(PoisonError::into_inner)
}

/// As [`lock`], for writing.
pub fn write<T: ?Sized>(lock: &RwLock<T>) -> RwLockWriteGuard<'_, T> {
    lock.write().unwrap_or_else(PoisonError::into_inner)
}

/// On cache lines of its own: threads that work with neighbours do not disturb each other.
#[repr(align(128))]
struct OwnLine<T>(T);

type Shard<T> = HashMap<u64, Arc<T>, BuildHasherDefault<HandleHasher>>;

/// Handles are our own consecutive numbers: nobody can make them collide, so no keyed hash is needed.
#[derive(Default)]
struct HandleHasher(u64);

impl Hasher for HandleHasher {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.write_u64(self.0.rotate_left(8) ^ u64::from(*byte));
        }
    }

    fn write_u64(&mut self, handle: u64) {
        // Fibonacci hashing: the table takes its buckets from the upper and the lower bits.
        self.0 = handle.wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(32);
    }
}

/// 0 is `CK_INVALID_HANDLE`. One counter for all tables and all initialisations: a stale handle stays invalid.
static NEXT: AtomicU64 = AtomicU64::new(1);
const SHARDS: usize = 16;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn handles_are_never_used_twice() {
        let table = HandleTable::new();
        let mut seen = std::collections::HashSet::new();
        for _ in 0..1000 {
            let handle = *table.insert_with(|handle| handle);
            assert!(handle != 0 && seen.insert(handle));
            assert_eq!(table.remove(handle).as_deref(), Some(&handle));
            assert!(table.get(handle).is_none());
        }
    }

    #[test]
    fn a_removed_entry_lives_while_in_use() {
        let table = HandleTable::new();
        let mut handle = 0;
        let entry = table.insert_with(|h| {
            handle = h;
            "session"
        });
        table.remove(handle);
        assert_eq!(*entry, "session");
    }

    #[test]
    fn threads_share_a_table() {
        let table = HandleTable::new();
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for _ in 0..1000 {
                        let entry = table.insert_with(|h| h);
                        assert_eq!(table.get(*entry).as_deref(), Some(&*entry));
                        table.remove(*entry);
                    }
                });
            }
        });
        assert!(table.matching(|_| true).is_empty());
    }
}
