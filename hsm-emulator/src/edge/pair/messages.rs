//! Pairing in the words of the wire.

use hsm_proto::failover::{self, from_primary};

use crate::keystore::{Changed, Piece};
use crate::services::failover::checks::UnitReport;
use crate::services::failover::history::{Epoch, History};
use crate::services::failover::pairing::{Hello, Welcome};
use crate::services::failover::set_aside::Difference;

/// A history on the wire.
pub fn epochs(history: &History) -> Vec<failover::Epoch> {
    let epoch =
        |epoch: &Epoch| failover::Epoch { number: epoch.number, id: epoch.id.clone(), start: epoch.start };
    history.0.iter().map(epoch).collect()
}

/// And off it.
pub fn history(epochs: Vec<failover::Epoch>) -> History {
    let epoch = |failover::Epoch { number, id, start }| Epoch { number, id, start };
    History(epochs.into_iter().map(epoch).collect())
}

pub fn from_hello(hello: Hello) -> failover::Hello {
    let Hello { region, address, history, head, gives_up } = hello;
    failover::Hello { region, address, epochs: epochs(&history), head, gives_up }
}

pub fn to_hello(hello: failover::Hello) -> Hello {
    let failover::Hello { region, address, epochs, head, gives_up } = hello;
    Hello { region, address, history: history(epochs), head, gives_up }
}

pub fn from_welcome(welcome: &Welcome) -> failover::FromPrimary {
    message(from_primary::Message::Welcome(failover::Welcome {
        epochs: epochs(&welcome.history),
        joined: welcome.joined,
        reset: welcome.reset_from.is_some(),
        reset_from: welcome.reset_from.unwrap_or_default(),
    }))
}

pub fn to_welcome(welcome: failover::Welcome) -> Welcome {
    Welcome {
        history: history(welcome.epochs),
        joined: welcome.joined,
        reset_from: welcome.reset.then_some(welcome.reset_from),
    }
}

pub fn from_piece(piece: Piece) -> failover::FromPrimary {
    let change = |Changed { revision, kind, id, record }| {
        let (version, body) = record.unwrap_or_default();
        failover::Change { revision, kind, id, version, body }
    };
    message(from_primary::Message::Piece(failover::Piece {
        changes: piece.changes.into_iter().map(change).collect(),
        revision: piece.revision,
        more: piece.more,
    }))
}

pub fn to_piece(piece: failover::Piece) -> Piece {
    let change = |failover::Change { revision, kind, id, version, body }| Changed {
        revision,
        kind,
        id,
        record: (version > 0).then_some((version, body)),
    };
    Piece {
        changes: piece.changes.into_iter().map(change).collect(),
        revision: piece.revision,
        more: piece.more,
    }
}

/// Records on the wire.
pub fn differences(differences: Vec<Difference>) -> Vec<failover::Difference> {
    differences.into_iter().map(|Difference { kind, id }| failover::Difference { kind, id }).collect()
}

pub fn unit(unit: UnitReport) -> failover::UnitDescription {
    failover::UnitDescription {
        location: unit.location,
        serial_number: unit.serial,
        r#type: unit.unit_type,
        state: unit.state,
        signature_threshold: unit.signature_threshold,
        revocation_threshold: unit.revocation_threshold,
        administrators: unit.administrators,
        control_points: unit.control_points,
        current_master_key: unit.current_master_key,
        new_master_key: unit.new_master_key,
    }
}

pub fn message(message: from_primary::Message) -> failover::FromPrimary {
    failover::FromPrimary { message: Some(message) }
}
