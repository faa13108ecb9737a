//! Results of variable length: how much room the caller has, and what the call gives.

use zeroize::Zeroizing;

/// The caller's side of the convention of section 5.2 on producing output.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Room {
    /// The buffer is NULL: only the length is asked for.
    Query,
    /// A buffer of so many bytes.
    Bytes(usize),
}

impl Room {
    /// Is there a buffer, and is it smaller than `needed`?
    pub fn is_below(self, needed: usize) -> bool {
        matches!(self, Room::Bytes(room) if room < needed)
    }
}

/// Our side of it.
pub enum Output {
    /// Answer to a query: this length suffices. The operation goes on.
    Length(usize),
    /// `CKR_BUFFER_TOO_SMALL`, and the length that suffices. The operation goes on.
    TooSmall(usize),
    /// Bytes that need not be wiped.
    Public(Vec<u8>),
    /// Bytes that are wiped after they are copied out.
    Secret(Zeroizing<Vec<u8>>),
}

impl Output {
    /// The answer without the bytes, if the caller's room decides it: a query, or too little for `needed`.
    pub fn without_bytes(room: Room, needed: usize) -> Option<Self> {
        match room {
            Room::Query => Some(Self::Length(needed)),
            Room::Bytes(bytes) if bytes < needed => Some(Self::TooSmall(needed)),
            Room::Bytes(_) => None,
        }
    }
}
