//! Root keys with a change on its way to the other region of a pair.
//!
//! The other region uses a key as it is changed as soon as it holds the change, this one when it knows that. Whoever uses the key
//! here in between waits: else it could be seen changed there, and after that unchanged here. A region without a partner waits
//! for its own disk so.

use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};

/// Which keys these are.
#[derive(Default)]
pub struct OnItsWay {
    /// How many changes: without any, a use of a key costs one atomic load.
    changes: AtomicUsize,
    /// By id.
    keys: Mutex<HashMap<String, Waited>>,
    arrived: Condvar,
}

/// What is waited for.
struct Waited {
    changes: usize,
    /// After that the key is used as it was.
    until: Instant,
}

/// A change; it is on its way until this is dropped.
pub struct Change<'a> {
    all: &'a OnItsWay,
    key: &'a str,
}

impl OnItsWay {
    /// From before a change of this key is stored, until it is shown or given up.
    pub fn begin<'a>(&'a self, key: &'a str) -> Change<'a> {
        let until = Instant::now() + LONGEST_WAIT;
        let mut keys = self.keys.lock();
        let waited = keys.entry(key.to_owned()).or_insert(Waited { changes: 0, until });
        waited.changes += 1;
        self.changes.fetch_add(1, Ordering::SeqCst);
        Change { all: self, key }
    }

    /// Is there a change of this key that is to be waited for?
    pub fn has(&self, key: &str) -> bool {
        self.changes.load(Ordering::SeqCst) != 0
            && self.keys.lock().get(key).is_some_and(|waited| Instant::now() < waited.until)
    }

    /// Waits until there is none, or has been one for [`LONGEST_WAIT`].
    pub fn wait(&self, key: &str) {
        if self.changes.load(Ordering::SeqCst) == 0 {
            return;
        }
        let deadline = Instant::now() + LONGEST_WAIT;
        let mut keys = self.keys.lock();
        while let Some(until) = keys.get(key).map(|waited| waited.until.min(deadline)) {
            if self.arrived.wait_until(&mut keys, until).timed_out() {
                break;
            }
        }
    }
}

impl Drop for Change<'_> {
    fn drop(&mut self) {
        let mut keys = self.all.keys.lock();
        if let Some(waited) = keys.get_mut(self.key) {
            waited.changes -= 1;
            if waited.changes == 0 {
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
        all.wait("a");
        let (first, second) = (all.begin("a"), all.begin("a"));
        assert!(all.has("a") && !all.has("b"));
        all.wait("b");
        drop(first);
        std::thread::scope(|scope| {
            let waits = scope.spawn(|| all.wait("a"));
            std::thread::sleep(Duration::from_millis(20));
            assert!(!waits.is_finished());
            drop(second);
            waits.join().expect("thread");
        });
        assert!(!all.has("a"));
        // One that does not arrive is waited for once.
        let _lost = all.begin("a");
        all.wait("a");
        assert!(!all.has("a"));
        all.wait("a");
    }
}
