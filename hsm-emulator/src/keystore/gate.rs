//! Who may write to a keystore, and when a write counts as acknowledged.
//!
//! The keystore of a region without a partner is open: the gate costs one atomic load. In a pair, the primary region's
//! writes wait until the failover region holds them too, and the failover region's come from the primary alone.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};

use super::{Error, Result};

/// The gate of one keystore.
#[derive(Default)]
pub struct Gate {
    /// Is there a partner to think of?
    guarded: AtomicBool,
    /// What the keystore's fence must say for this process to write.
    fence: AtomicI64,
    state: Mutex<State>,
    changed: Condvar,
    on_commit: OnceLock<Box<dyn Fn() + Send + Sync>>,
}

/// Whose leave a write needs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Mode {
    /// Nobody's: it is acknowledged as soon as it is durable here.
    #[default]
    Alone,
    /// The partner must hold it too.
    Joined,
    /// Nothing is written any more, and what is under way still waits for the partner.
    Draining,
    /// Nothing is written but what the primary region sends.
    Closed,
}

/// How much a write matters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Importance {
    /// Acknowledged only if no failure of one region can lose it.
    Lasting,
    /// Such as a counted attempt: made while the partner is lost as well, and sent when it comes back.
    Passing,
}

#[derive(Default)]
struct State {
    mode: Mode,
    /// What the partner holds.
    acknowledged: u64,
    /// Of the partner that follows, by a number of its own.
    connection: Option<u64>,
    /// Has the partner made durable that it holds everything?
    joined: bool,
}

impl State {
    fn outcome(&self, revision: u64) -> Option<Result<()>> {
        match self.mode {
            Mode::Alone => Some(Ok(())),
            _ if self.acknowledged >= revision => Some(Ok(())),
            Mode::Joined | Mode::Draining if self.connection.is_some() => None,
            Mode::Joined | Mode::Draining | Mode::Closed => Some(Err(Error::Unacknowledged)),
        }
    }
}

impl Gate {
    /// Sets whose leave writes need, and what the keystore's fence says for it. Whoever waits finds out.
    pub fn set(&self, mode: Mode, fence: i64) {
        let mut state = self.state.lock();
        state.mode = mode;
        self.fence.store(fence, Ordering::Release);
        self.guarded.store(mode != Mode::Alone, Ordering::Release);
        self.changed.notify_all();
    }

    /// As it is now.
    pub fn mode(&self) -> Mode {
        self.state.lock().mode
    }

    /// Does the partner follow?
    pub fn is_followed(&self) -> bool {
        self.state.lock().connection.is_some()
    }

    /// Does the partner follow, and know that it may take over?
    pub fn is_joined(&self) -> bool {
        let state = self.state.lock();
        state.connection.is_some() && state.joined
    }

    /// What the partner holds, as far as it has said.
    pub fn acknowledged_revision(&self) -> u64 {
        self.state.lock().acknowledged
    }

    /// The partner follows by this connection, in the place of an older one, and holds everything up to `revision`.
    pub fn connect(&self, connection: u64, revision: u64) {
        let mut state = self.state.lock();
        (state.connection, state.acknowledged, state.joined) = (Some(connection), revision, false);
        self.changed.notify_all();
    }

    /// The partner holds everything up to `revision`, and may know that this is all. `false` if another connection
    /// counts now.
    pub fn acknowledge(&self, connection: u64, revision: u64, joined: bool) -> bool {
        let mut state = self.state.lock();
        if state.connection != Some(connection) {
            return false;
        }
        state.joined |= joined;
        if state.acknowledged < revision {
            state.acknowledged = revision;
            self.changed.notify_all();
        }
        true
    }

    /// The partner is lost, unless another connection counts by now.
    pub fn disconnect(&self, connection: u64) {
        let mut state = self.state.lock();
        if state.connection == Some(connection) {
            state.connection = None;
            self.changed.notify_all();
        }
    }

    /// Calls this after every commit. Once, before the first.
    pub fn on_commit(&self, notify: impl Fn() + Send + Sync + 'static) {
        self.on_commit.set(Box::new(notify)).ok();
    }

    /// May something be written now?
    ///
    /// # Errors
    /// [`Error::NotPrimary`], [`Error::PartnerLost`].
    pub(super) fn admit(&self, importance: Importance) -> Result<()> {
        if !self.guarded.load(Ordering::Acquire) {
            return Ok(());
        }
        let state = self.state.lock();
        match state.mode {
            Mode::Closed | Mode::Draining => Err(Error::NotPrimary),
            Mode::Joined if state.connection.is_none() && importance == Importance::Lasting => {
                Err(Error::PartnerLost)
            }
            Mode::Alone | Mode::Joined => Ok(()),
        }
    }

    /// What the keystore's fence must say.
    pub(super) fn fence(&self) -> i64 {
        self.fence.load(Ordering::Acquire)
    }

    /// After a commit up to `revision`: waits until it may be acknowledged.
    ///
    /// # Errors
    /// [`Error::Unacknowledged`].
    pub(super) fn committed(&self, revision: u64, importance: Importance) -> Result<()> {
        if let Some(notify) = self.on_commit.get() {
            notify();
        }
        if importance == Importance::Passing || !self.guarded.load(Ordering::Acquire) {
            return Ok(());
        }
        let deadline = Instant::now() + LONGEST_WAIT;
        let mut state = self.state.lock();
        loop {
            if let Some(outcome) = state.outcome(revision) {
                return outcome;
            }
            if self.changed.wait_until(&mut state, deadline).timed_out() {
                return Err(Error::Unacknowledged);
            }
        }
    }

    /// May a commit up to `revision` be acknowledged? `None` while that is open.
    pub fn outcome(&self, revision: u64) -> Option<Result<()>> {
        self.state.lock().outcome(revision)
    }

    /// Waits until the partner holds everything up to `revision`; does it?
    pub fn wait_for(&self, revision: u64, patience: Duration) -> bool {
        let deadline = Instant::now() + patience;
        let mut state = self.state.lock();
        while state.acknowledged < revision {
            if state.connection.is_none() || self.changed.wait_until(&mut state, deadline).timed_out() {
                return false;
            }
        }
        true
    }
}

/// A partner that is silent loses its connection long before.
const LONGEST_WAIT: Duration = Duration::from_secs(30);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_write_waits_for_the_partner_and_learns_of_its_loss() {
        let gate = Gate::default();
        assert!(gate.committed(1, Importance::Lasting).is_ok(), "open");
        gate.set(Mode::Joined, 1);
        assert!(matches!(gate.admit(Importance::Lasting), Err(Error::PartnerLost)));
        assert!(gate.admit(Importance::Passing).is_ok());
        gate.connect(7, 1);
        gate.admit(Importance::Lasting).expect("followed");
        std::thread::scope(|scope| {
            let waits = scope.spawn(|| gate.committed(2, Importance::Lasting));
            std::thread::sleep(Duration::from_millis(20));
            assert!(!waits.is_finished());
            assert!(!gate.acknowledge(6, 2, false), "another connection's");
            assert!(gate.acknowledge(7, 2, false));
            waits.join().expect("thread").expect("acknowledged");
            let waits = scope.spawn(|| gate.committed(3, Importance::Lasting));
            std::thread::sleep(Duration::from_millis(20));
            gate.disconnect(6);
            assert!(!waits.is_finished());
            gate.disconnect(7);
            assert!(matches!(waits.join().expect("thread"), Err(Error::Unacknowledged)));
        });
        gate.set(Mode::Closed, -1);
        assert!(matches!(gate.admit(Importance::Passing), Err(Error::NotPrimary)));
    }
}
