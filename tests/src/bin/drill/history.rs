//! Is there an order in which everything may have happened that clients have seen happen to a key?

use std::collections::HashSet;
use std::time::Duration;

/// What a client has done to a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    Create,
    Rotate,
    Disable,
    Enable,
    Delete,
    /// Wrapped or unwrapped something.
    Use,
}

/// An action that was done, or may have been.
#[derive(Clone, Debug)]
pub struct Event {
    pub action: Action,
    /// Who was asked.
    pub region: usize,
    /// Since the beginning of the history.
    pub begun: Duration,
    /// When its success was known; `None` if it never was: it may have been done at any time since, or not at all.
    pub ended: Option<Duration>,
    /// The version that it has made or wrapped with, if that is known.
    pub version: Option<String>,
}

/// Where in its life a key is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Life {
    Absent,
    Active,
    Suspended,
    Destroyed,
}

/// A key as it is in the end.
#[derive(Clone, Debug)]
pub struct Last {
    pub life: Life,
    /// Newest first.
    pub versions: Vec<String>,
}

/// A key between two events; the newest version is not known after a rotation of which nothing was heard.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct State {
    life: Life,
    newest: Option<String>,
}

/// Is the history of one key linearizable, and is the key now what that leads to? Else, what is wrong.
pub fn check(events: &[Event], last: &Last) -> Result<(), String> {
    if last.life != Life::Destroyed {
        let lost = events.iter().find(|event| {
            let made = matches!(event.action, Action::Create | Action::Rotate) && event.ended.is_some();
            made && event.version.as_ref().is_some_and(|version| !last.versions.contains(version))
        });
        if let Some(lost) = lost {
            return Err(format!(
                "version {:?} was acknowledged by region {} and is lost",
                lost.version, lost.region
            ));
        }
    }
    let mut search = Search { events, last, seen: HashSet::new() };
    let begin = State { life: Life::Absent, newest: None };
    if search.succeeds(&mut vec![false; events.len()], begin) {
        Ok(())
    } else {
        Err(format!("in no order can this have happened, and have led to {:?}: {events:?}", last.life))
    }
}

struct Search<'a> {
    events: &'a [Event],
    last: &'a Last,
    seen: HashSet<(Vec<bool>, State)>,
}

impl Search<'_> {
    /// Can all that is known to have been done follow, in some order?
    fn succeeds(&mut self, done: &mut Vec<bool>, state: State) -> bool {
        if !self.seen.insert((done.clone(), state.clone())) {
            return false;
        }
        let open = |i: &usize| !done[*i];
        let ends = (0..self.events.len()).filter(open).filter_map(|i| self.events[i].ended);
        let Some(limit) = ends.min() else {
            // What is left may not have been done at all.
            if self.is_last(&state) {
                return true;
            }
            return self.try_each(done, &state, Duration::MAX);
        };
        self.try_each(done, &state, limit)
    }

    /// Whatever began before the first end may have been first.
    fn try_each(&mut self, done: &mut Vec<bool>, state: &State, limit: Duration) -> bool {
        for i in 0..self.events.len() {
            if done[i] || self.events[i].begun > limit {
                continue;
            }
            if let Some(next) = state.after(&self.events[i]) {
                done[i] = true;
                if self.succeeds(done, next) {
                    return true;
                }
                done[i] = false;
            }
        }
        false
    }

    fn is_last(&self, state: &State) -> bool {
        let is_newest = state.newest.is_none() || state.newest.as_ref() == self.last.versions.first();
        state.life == self.last.life && (state.life == Life::Destroyed || is_newest)
    }
}

impl State {
    fn after(&self, event: &Event) -> Option<Self> {
        let (life, newest) = match (event.action, self.life) {
            (Action::Create, Life::Absent) => (Life::Active, event.version.clone()),
            (Action::Rotate, Life::Active) => (Life::Active, event.version.clone()),
            (Action::Disable, Life::Active) => (Life::Suspended, self.newest.clone()),
            (Action::Enable, Life::Suspended) => (Life::Active, self.newest.clone()),
            (Action::Delete, Life::Active | Life::Suspended) => (Life::Destroyed, None),
            (Action::Use, Life::Active) => match (&event.version, &self.newest) {
                (Some(used), Some(newest)) if used != newest => return None,
                (used, newest) => (Life::Active, newest.clone().or_else(|| used.clone())),
            },
            _ => return None,
        };
        Some(Self { life, newest })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(action: Action, begun: u64, ended: Option<u64>, version: &str) -> Event {
        let version = (!version.is_empty()).then(|| version.to_owned());
        let ended = ended.map(Duration::from_millis);
        Event { action, region: 0, begun: Duration::from_millis(begun), ended, version }
    }

    fn active(versions: &[&str]) -> Last {
        Last { life: Life::Active, versions: versions.iter().map(|version| (*version).to_owned()).collect() }
    }

    #[test]
    fn what_can_have_happened_passes() {
        let create = event(Action::Create, 0, Some(10), "1");
        let rotate = event(Action::Rotate, 20, Some(40), "2");
        let with = |more: &[Event]| [&[create.clone(), rotate.clone()], more].concat();
        check(&with(&[]), &active(&["2", "1"])).expect("one after the other");
        // While it was rotated, either version may have been the newest.
        for version in ["1", "2"] {
            check(&with(&[event(Action::Use, 25, Some(30), version)]), &active(&["2", "1"])).expect("either");
        }
        // A deletion of which nothing was heard may have been done, or not, and late.
        let doubtful = with(&[event(Action::Delete, 50, None, ""), event(Action::Use, 60, Some(70), "2")]);
        check(&doubtful, &active(&["2", "1"])).expect("not done");
        check(&doubtful, &Last { life: Life::Destroyed, versions: Vec::new() }).expect("done late");
    }

    #[test]
    fn what_cannot_have_happened_is_found() {
        let create = event(Action::Create, 0, Some(10), "1");
        let rotate = event(Action::Rotate, 20, Some(40), "2");
        let delete = event(Action::Delete, 50, Some(60), "");
        let destroyed = Last { life: Life::Destroyed, versions: Vec::new() };
        let wrong: [(&[Event], &Last); 6] = [
            // A write is lost.
            (&[create.clone(), rotate.clone()], &active(&["1"])),
            // Two histories: each region has rotated it by itself.
            (
                &[create.clone(), rotate.clone(), event(Action::Rotate, 20, Some(40), "3")],
                &active(&["3", "1"]),
            ),
            // It was deleted, and is back.
            (&[create.clone(), delete.clone()], &active(&["1"])),
            // It was deleted, and is used.
            (&[create.clone(), delete.clone(), event(Action::Use, 61, Some(70), "1")], &destroyed),
            // An old version is used.
            (&[create.clone(), rotate.clone(), event(Action::Use, 41, Some(50), "1")], &active(&["2", "1"])),
            // It is gone, and nobody has deleted it.
            (&[create.clone(), rotate.clone()], &destroyed),
        ];
        for (events, last) in wrong {
            check(events, last).expect_err("it cannot have happened");
        }
    }
}
