//! A command that goes to several crypto units, one after the other.
//!
//! Units share nothing, so one may fail when others have done their part. Then the command can be repeated: it
//! leaves alone the units that are as it leaves them.

use hsm_emulator::units::command::{Command, UnitStatus};

use super::error::{Error, Outcome, Result};
use super::quorum;
use super::workstation::{Queried, Workstation};

/// The units that a command goes to, and those that need it no more.
pub struct Batch {
    units: Vec<Queried>,
    done: Vec<u64>,
}

impl Batch {
    /// All of these.
    pub fn all(units: &[Queried]) -> Self {
        Self { units: units.to_vec(), done: Vec::new() }
    }

    /// Those that are not done; there may be none.
    pub fn rest(units: &[Queried], is_done: impl Fn(&UnitStatus) -> bool) -> Self {
        let (done, units): (Vec<_>, Vec<_>) = units.iter().cloned().partition(|unit| is_done(&unit.status));
        Self { units, done: done.iter().map(|unit| unit.number).collect() }
    }

    /// Those that are not done. If all are, it goes to all of them: what they say to it is for them to decide.
    pub fn new(units: &[Queried], is_done: impl Fn(&UnitStatus) -> bool) -> Self {
        let rest = Self::rest(units, is_done);
        if rest.units.is_empty() { Self::all(units) } else { rest }
    }
}

impl Workstation {
    /// Asks for the passwords that a command to these units takes.
    ///
    /// # Errors
    /// As [`Workstation::unlock`].
    pub fn unlock_for(&mut self, batch: &Batch, command: impl Fn(&UnitStatus) -> Command) -> Result<()> {
        self.unlock(&batch.units, |status| quorum::signatures(status, &command(status)))
    }

    /// Takes a step for each unit, until one fails.
    ///
    /// # Errors
    /// [`Error::Halted`].
    pub fn for_each(
        &mut self,
        batch: &Batch,
        mut step: impl FnMut(&mut Self, &Queried) -> Result<()>,
    ) -> Result<()> {
        for (place, unit) in batch.units.iter().enumerate() {
            step(self, unit).map_err(|cause| {
                let numbers = |units: &[Queried]| units.iter().map(|unit| unit.number).collect::<Vec<_>>();
                let mut done = [batch.done.clone(), numbers(&batch.units[..place])].concat();
                done.sort_unstable();
                let not_tried = numbers(&batch.units[place + 1..]);
                let outcome = Outcome { done, failed: vec![unit.number], not_tried };
                Error::Halted { cause: Box::new(cause), outcome, next: String::new() }
            })?;
        }
        Ok(())
    }

    /// Sends each unit that is not done a command of its own, after all passwords have been asked for.
    ///
    /// # Errors
    /// [`Error::Halted`], with the advice to repeat the command.
    pub fn execute_all(
        &mut self,
        units: &[Queried],
        is_done: impl Fn(&UnitStatus) -> bool,
        command: impl Fn(&UnitStatus) -> Command,
    ) -> Result<()> {
        let batch = Batch::new(units, is_done);
        self.unlock_for(&batch, &command)?;
        self.for_each_or_repeat(&batch, |workstation, unit| {
            workstation.execute(unit.at, command(&unit.status)).map(drop)
        })
    }

    /// [`Workstation::for_each`] of a command that is repeated to do what is left.
    ///
    /// # Errors
    /// [`Error::Halted`], with that advice.
    pub fn for_each_or_repeat(
        &mut self,
        batch: &Batch,
        step: impl FnMut(&mut Self, &Queried) -> Result<()>,
    ) -> Result<()> {
        let outcome = self.for_each(batch, step);
        outcome.map_err(|error| {
            error.next(|outcome| {
                if outcome.done.is_empty() {
                    return String::new();
                }
                format!(
                    "When the cause is removed, repeat 'tke {}': it leaves alone the crypto units that are done.",
                    self.desk.command
                )
            })
        })
    }
}
