//! The life of a root key: NIST SP 800-57 part 1 states with Key Protect's numbers, as one table.

use serde::{Deserialize, Serialize};

/// State of a root key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum State {
    /// 0: exists, not yet for use.
    PreActivation,
    /// 1: for use.
    Active,
    /// 2: disabled, for a while.
    Suspended,
    /// 3: expired; what it protected can still be read.
    Deactivated,
    /// 5: its material is gone.
    Destroyed,
}

/// What may be done with a root key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Action {
    /// Wrap a data key.
    Wrap,
    /// Unwrap or rewrap a data key.
    Unwrap,
    /// Add a version.
    Rotate,
    /// Suspend.
    Disable,
    /// Take back into use.
    Enable,
    /// Destroy.
    Delete,
}

/// All states.
pub const STATES: [State; 5] =
    [State::PreActivation, State::Active, State::Suspended, State::Deactivated, State::Destroyed];

/// All actions.
pub const ACTIONS: [Action; 6] =
    [Action::Wrap, Action::Unwrap, Action::Rotate, Action::Disable, Action::Enable, Action::Delete];

impl State {
    /// The state after an action; `None` if the state forbids it.
    ///
    /// Key Protect's table of actions by state; a rotation of a deactivated key, where IBM's pages disagree,
    /// is refused.
    pub fn after(self, action: Action) -> Option<State> {
        use Action::{Delete, Disable, Enable, Rotate, Unwrap, Wrap};
        use State::{Active, Deactivated, Destroyed, PreActivation, Suspended};
        match (self, action) {
            (Active, Wrap | Unwrap | Rotate) => Some(Active),
            (Deactivated, Unwrap) => Some(Deactivated),
            (Active, Disable) => Some(Suspended),
            (Suspended, Enable) => Some(Active),
            (PreActivation | Active | Suspended | Deactivated, Delete) => Some(Destroyed),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The whole table, drawn: a change of it must be a change of this drawing.
    #[test]
    fn every_pair_of_state_and_action() {
        let mut drawing = String::new();
        for state in STATES {
            drawing.push_str(&format!("{state:?}:"));
            for action in ACTIONS {
                match state.after(action) {
                    Some(next) => drawing.push_str(&format!(" {action:?}->{next:?}")),
                    None => drawing.push_str(&format!(" {action:?}->-")),
                }
            }
            drawing.push('\n');
        }
        let expected = "\
PreActivation: Wrap->- Unwrap->- Rotate->- Disable->- Enable->- Delete->Destroyed
Active: Wrap->Active Unwrap->Active Rotate->Active Disable->Suspended Enable->- Delete->Destroyed
Suspended: Wrap->- Unwrap->- Rotate->- Disable->- Enable->Active Delete->Destroyed
Deactivated: Wrap->- Unwrap->Deactivated Rotate->- Disable->- Enable->- Delete->Destroyed
Destroyed: Wrap->- Unwrap->- Rotate->- Disable->- Enable->- Delete->-
";
        assert_eq!(drawing, expected);
    }
}
