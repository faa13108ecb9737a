//! Faults as hardware has them, set on purpose to learn what becomes of requests. They last as long as the process.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::sleep;
use std::time::Duration;

use cryptoki_sys::CKR_DEVICE_REMOVED;

use super::error::{Error, Result};

/// What is wrong with a unit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// It answers nothing, as if it had been pulled out.
    Disabled,
    /// Whatever it does with a key takes so much longer.
    Slow(Duration),
    /// Bits of its master key have changed by themselves.
    Corrupt,
}

/// How a unit is. Whoever uses it pays for one load of an atomic number.
#[derive(Default)]
pub(super) struct Health {
    /// 0: in order; else what is wrong in the low byte, and the delay in milliseconds above it.
    fault: AtomicU64,
    /// The unit has found out that it is out of order.
    failed: AtomicBool,
    /// It has kept somebody waiting.
    slow: AtomicBool,
}

impl Health {
    pub fn set(&self, fault: Option<Fault>) {
        let code = match fault {
            None => 0,
            Some(Fault::Disabled) => DISABLED,
            Some(Fault::Slow(delay)) => SLOW | (delay.as_millis() as u64) << 8,
            Some(Fault::Corrupt) => CORRUPT,
        };
        self.failed.store(false, Ordering::Release);
        self.slow.store(false, Ordering::Release);
        self.fault.store(code, Ordering::Release);
    }

    pub fn fault(&self) -> Option<Fault> {
        let code = self.fault.load(Ordering::Acquire);
        match code & 0xff {
            DISABLED => Some(Fault::Disabled),
            SLOW => Some(Fault::Slow(Duration::from_millis(code >> 8))),
            CORRUPT => Some(Fault::Corrupt),
            _ => None,
        }
    }

    /// Does it answer, and has it found nothing wrong with itself?
    pub fn is_well(&self) -> bool {
        self.fault.load(Ordering::Acquire) == 0
            || self.fault() != Some(Fault::Disabled) && !self.failed.load(Ordering::Acquire)
    }

    pub fn is_slow(&self) -> bool {
        self.slow.load(Ordering::Acquire)
    }

    /// From now on it answers nothing.
    pub fn fail(&self) -> Error {
        self.failed.store(true, Ordering::Release);
        gone("the crypto unit is out of order: its master key has changed by itself")
    }

    /// Before a key is used. A unit that takes too long is given up, as the host of a card would do it.
    pub fn enter(&self) -> Result<()> {
        if self.fault.load(Ordering::Acquire) == 0 {
            return Ok(());
        }
        match self.fault() {
            Some(Fault::Disabled) => Err(gone("the crypto unit does not answer")),
            _ if self.failed.load(Ordering::Acquire) => Err(self.fail()),
            Some(Fault::Slow(delay)) => {
                self.slow.store(true, Ordering::Release);
                sleep(delay.min(PATIENCE));
                if delay > PATIENCE { Err(gone("the crypto unit does not answer in time")) } else { Ok(()) }
            }
            Some(Fault::Corrupt) | None => Ok(()),
        }
    }
}

/// Another unit can do what was asked.
fn gone(message: &'static str) -> Error {
    Error::passing(CKR_DEVICE_REMOVED, message)
}

const DISABLED: u64 = 1;
const SLOW: u64 = 2;
const CORRUPT: u64 = 3;
/// Shorter than any client's.
const PATIENCE: Duration = Duration::from_millis(250);
