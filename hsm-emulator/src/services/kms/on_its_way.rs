//! Root keys with a change on its way to the other region of a pair.
//!
//! The other region uses a key as it is changed as soon as it holds the change, this one when it knows that. Whoever uses the key
//! here in between waits: else it could be seen changed there, and after that unchanged here.

use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};

/// Which keys these are.
#[derive(Default)]
pub struct OnItsWay {
    /// How many changes: without any, a use of a key costs one atomic load.
    changes: AtomicUsize,
    /// By id, with the number of changes.
    keys: Mutex<HashMap<String, usize>>,
    arrived: Condvar,
}

/// A change; it is on its way until this is dropped.
pub struct Change<'a> {
    all: &'a OnItsWay,
    key: &'a str,
}

impl OnItsWay {
    /// From before a change of this key is stored, until it is shown or given up.
    pub fn begin<'a>(&'a self, key: &'a str) -> Change<'a> {
        *self.keys.lock().entry(key.to_owned()).or_default() += 1;
        self.changes.fetch_add(1, Ordering::SeqCst);
        Change { all: self, key }
    }

    /// Is there a change of this key?
    pub fn has(&self, key: &str) -> bool {
        self.changes.load(Ordering::SeqCst) != 0 && self.keys.lock().contains_key(key)
    }

    /// Waits until there is none, or for [`LONGEST_WAIT`]: a key whose change does not arrive is used as it was. Was there one?
    pub fn wait(&self, key: &str) -> bool {
        if !self.has(key) {
            return false;
        }
        let deadline = Instant::now() + LONGEST_WAIT;
        let mut keys = self.keys.lock();
        while keys.contains_key(key) {
            if self.arrived.wait_until(&mut keys, deadline).timed_out() {
                break;
            }
        }
        true
    }
}

impl Drop for Change<'_> {
    fn drop(&mut self) {
        let mut keys = self.all.keys.lock();
        if let Some(changes) = keys.get_mut(self.key) {
            *changes -= 1;
            if *changes == 0 {
                keys.remove(self.key);
                self.all.arrived.notify_all();
            }
        }
        self.all.changes.fetch_sub(1, Ordering::SeqCst);
    }
}

/// More than the way to any region and back.
const LONGEST_WAIT: Duration = Duration::from_millis(500);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_use_waits_for_the_last_change_of_its_key_only() {
        let all = OnItsWay::default();
        assert!(!all.wait("a"));
        let (first, second) = (all.begin("a"), all.begin("a"));
        assert!(all.has("a") && !all.wait("b"));
        drop(first);
        std::thread::scope(|scope| {
            let waits = scope.spawn(|| all.wait("a"));
            std::thread::sleep(Duration::from_millis(20));
            assert!(!waits.is_finished());
            drop(second);
            assert!(waits.join().expect("thread"));
        });
        assert!(!all.has("a"));
        // One that does not arrive.
        let _lost = all.begin("a");
        assert!(all.wait("a") && all.has("a"));
    }
}
