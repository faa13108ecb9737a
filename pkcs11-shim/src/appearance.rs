//! What the library says it is, and which part of what it can do it shows.

use cryptoki_sys::*;

use crate::module::padded;

/// How slots and tokens look to the application.
#[derive(Debug, PartialEq, Eq)]
pub struct Appearance {
    /// Names and versions.
    pub identity: Identity,
    /// Are tokens said to be removable (`CKF_REMOVABLE_DEVICE`)?
    pub removable: bool,
    /// The mechanisms that may be seen and used.
    pub mechanisms: MechanismChoice,
}

impl Appearance {
    /// The project's own: everything, under its own name.
    pub const OWN: Self =
        Self { identity: Identity::Own, removable: false, mechanisms: MechanismChoice::All };
}

/// Whose name the library goes by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Identity {
    /// This project's.
    Own,
    /// SoftHSM's, in whose place it stands: tests of other projects look at these fields.
    SoftHsm,
}

impl Identity {
    /// `manufacturerID` and `libraryDescription` of the library.
    pub fn library(self) -> ([CK_UTF8CHAR; 32], [CK_UTF8CHAR; 32]) {
        match self {
            Self::Own => (self.manufacturer(), padded("PKCS #11 for the HSM emulator")),
            Self::SoftHsm => (padded("SoftHSM"), padded("Implementation of PKCS11")),
        }
    }

    /// `manufacturerID` of slots and tokens.
    pub fn manufacturer(self) -> [CK_UTF8CHAR; 32] {
        padded(match self {
            Self::Own => "HSM emulator",
            Self::SoftHsm => "SoftHSM project",
        })
    }

    /// `model` of tokens.
    pub fn model(self) -> [CK_UTF8CHAR; 16] {
        padded(match self {
            Self::Own => "HSM emulator",
            Self::SoftHsm => "SoftHSM v2",
        })
    }

    /// `slotDescription`.
    pub fn slot_description(self, slot: CK_SLOT_ID) -> [CK_UTF8CHAR; 64] {
        padded(&match self {
            Self::Own => format!("HSM emulator slot {slot:#x}"),
            Self::SoftHsm => format!("SoftHSM slot ID {slot:#x}"),
        })
    }

    /// The version of library, hardware and firmware.
    pub fn version(self) -> CK_VERSION {
        let number = |text: &str| text.parse().unwrap_or(0);
        match self {
            Self::Own => CK_VERSION {
                major: number(env!("CARGO_PKG_VERSION_MAJOR")),
                minor: number(env!("CARGO_PKG_VERSION_MINOR")),
            },
            Self::SoftHsm => CK_VERSION { major: 2, minor: 6 },
        }
    }

    /// The flags of a token that is not initialised, besides those of every token.
    pub fn uninitialized_token_flags(self) -> CK_FLAGS {
        match self {
            Self::Own => 0,
            Self::SoftHsm => CKF_SO_PIN_LOCKED | CKF_SO_PIN_TO_BE_CHANGED,
        }
    }
}

/// A choice among the mechanisms.
#[derive(Debug, PartialEq, Eq)]
pub enum MechanismChoice {
    /// All.
    All,
    /// These alone.
    Only(Vec<CK_MECHANISM_TYPE>),
    /// All but these.
    Without(Vec<CK_MECHANISM_TYPE>),
}

impl MechanismChoice {
    /// Is the mechanism among them?
    pub fn allows(&self, mechanism: CK_MECHANISM_TYPE) -> bool {
        match self {
            Self::All => true,
            Self::Only(list) => list.contains(&mechanism),
            Self::Without(list) => !list.contains(&mechanism),
        }
    }
}
