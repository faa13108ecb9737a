//! PKCS #11 tokens: PINs, and objects in the keystore.

use crate::units::KeyBlob;

/// A token as anybody may see it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Token {
    /// 16 hexadecimal digits; the token's identity.
    pub serial: String,
    /// At most 32 bytes of UTF-8.
    pub label: String,
    /// Has the SO set the user's PIN?
    pub user_pin_initialized: bool,
    /// Wrong user PINs in a row.
    pub user_pin_failures: u32,
    /// Wrong SO PINs in a row.
    pub so_pin_failures: u32,
    /// Wrong PINs in a row at which a PIN is locked.
    pub max_pin_failures: u32,
}

/// Who logs in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum User {
    /// The user: private objects.
    User,
    /// The security officer: PINs.
    So,
}

/// Proof that a PIN was right: opaque, sealed by the unit, void once the PIN changes.
#[derive(Clone)]
pub struct Grant(pub Vec<u8>);

impl std::fmt::Debug for Grant {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Grant")
    }
}

/// What changed among a token's objects.
#[derive(Clone, Debug, Default)]
pub struct Changes {
    /// Where the next question starts.
    pub revision: u64,
    /// New or changed objects.
    pub stored: Vec<([u8; 16], KeyBlob)>,
    /// Objects that are gone.
    pub deleted: Vec<[u8; 16]>,
}
