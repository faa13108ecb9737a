//! What a region knows of its pair, durably: kept beside the records, and changed together with them.

use serde::{Deserialize, Serialize};

use super::history::History;
use crate::keystore::{self, Keystore, Mode, Transaction};
use crate::services::region::Identity;

/// A region's part in a pair.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pair {
    /// Where this region is, such as `us-east`.
    pub region: String,
    /// The instance, for a region that has not yet its record.
    pub identity: Identity,
    /// Who writes.
    pub role: Role,
    /// How the two are together.
    pub bond: Bond,
    /// Of this keystore.
    pub history: History,
    /// The other region.
    pub partner: Partner,
    /// An operator has chosen to give up what this region has changed alone.
    #[serde(default)]
    pub gives_up: bool,
}

/// Who writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Role {
    /// This region.
    Primary,
    /// The other one, which this one follows.
    Failover,
}

/// How the two are together.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Bond {
    /// An operator has separated them: the primary writes alone, and nobody follows it.
    Detached,
    /// The primary writes alone until the other one has caught up.
    Joining,
    /// What the primary acknowledges, both hold.
    Joined,
}

/// The other region.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Partner {
    /// Where it is; empty until it has said so.
    pub region: String,
    /// `https://host:port` of its pairing listener; empty until it has said so.
    pub address: String,
    /// Its certificate, in PEM: the only one that it is believed with.
    pub certificate: String,
}

impl Role {
    /// As it is shown.
    pub fn label(self) -> &'static str {
        match self {
            Self::Primary => "primary",
            Self::Failover => "failover",
        }
    }
}

impl Bond {
    /// As it is shown.
    pub fn label(self) -> &'static str {
        match self {
            Self::Detached => "detached",
            Self::Joining => "joining",
            Self::Joined => "joined",
        }
    }
}

impl Pair {
    /// Of a keystore; `None` if it has no partner.
    ///
    /// # Errors
    /// [`keystore::Error::Database`], also if what is there cannot be read.
    pub fn load(keystore: &Keystore) -> keystore::Result<Option<Self>> {
        keystore.local(PAIR)?.map(|body| parse(&body)).transpose()
    }

    /// The same within a transaction.
    ///
    /// # Errors
    /// As [`Self::load`].
    pub fn read(transaction: &mut Transaction<'_>) -> keystore::Result<Option<Self>> {
        transaction.local(PAIR)?.map(|body| parse(&body)).transpose()
    }

    /// Keeps it, and says who may write from now on.
    ///
    /// # Errors
    /// [`keystore::Error::Database`].
    pub fn store(&self, transaction: &mut Transaction<'_>) -> keystore::Result<()> {
        transaction.set_local(PAIR, &self.to_body()?)?;
        transaction.set_fence(self.fence())
    }

    /// The body of the local record, for [`keystore::Inflow::set_local`] under [`PAIR`].
    ///
    /// # Errors
    /// [`keystore::Error::Database`].
    pub fn to_body(&self) -> keystore::Result<Vec<u8>> {
        serde_json::to_vec(self).map_err(|error| keystore::Error::Database(error.to_string()))
    }

    /// What the gate must let pass.
    pub fn mode(&self) -> Mode {
        match (self.role, self.bond) {
            (Role::Failover, _) => Mode::Closed,
            (Role::Primary, Bond::Joined) => Mode::Joined,
            (Role::Primary, Bond::Joining | Bond::Detached) => Mode::Alone,
        }
    }

    /// Another number for every writer: [`Transaction::set_fence`].
    pub fn fence(&self) -> i64 {
        match self.role {
            Role::Primary => self.history.number() as i64,
            Role::Failover => -1,
        }
    }
}

/// What a keystore says of its pair.
///
/// # Errors
/// [`keystore::Error::Database`] if it cannot be read.
pub fn parse(body: &[u8]) -> keystore::Result<Pair> {
    serde_json::from_slice(body).map_err(|error| {
        keystore::Error::Database(format!("what the region knows of its pair cannot be read: {error}"))
    })
}

/// The name beside the records.
pub const PAIR: &str = "pair";
