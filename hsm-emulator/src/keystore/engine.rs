//! What a database has to do for a keystore.

use super::{Changed, Changes, Piece, Record, Result};

/// One connection to a database. Nobody else uses it meanwhile.
///
/// Every method fails with [`super::Error::Database`] if the database does.
pub trait Engine: Send {
    /// Begins a transaction; nobody else writes until it ends.
    fn begin(&mut self) -> Result<()>;

    /// Ends it; what it has written is durable.
    fn commit(&mut self) -> Result<()>;

    /// Ends it; what it has written is gone.
    fn roll_back(&mut self) -> Result<()>;

    /// Marks a point within a transaction.
    fn set_savepoint(&mut self) -> Result<()>;

    /// Back to that point.
    fn return_to_savepoint(&mut self) -> Result<()>;

    /// Forgets that point.
    fn release_savepoint(&mut self) -> Result<()>;

    /// Has a transaction begun, and not ended?
    fn is_in_transaction(&self) -> bool;

    /// Is the connection of no use any more?
    fn is_lost(&self) -> bool;

    /// A record.
    fn get(&mut self, kind: &str, id: &str) -> Result<Option<Record>>;

    /// The version of a record.
    fn version(&mut self, kind: &str, id: &str) -> Result<Option<u64>>;

    /// Shows all records of a kind, ordered by id, as long as `wants_more` says so.
    fn scan(&mut self, kind: &str, wants_more: &mut dyn FnMut(Record) -> bool) -> Result<()>;

    /// The ids of all records of a kind, in order.
    fn ids(&mut self, kind: &str) -> Result<Vec<String>>;

    /// The kinds of which there are records, in alphabetical order.
    fn kinds(&mut self) -> Result<Vec<String>>;

    /// Puts a record in its place.
    fn put(&mut self, kind: &str, id: &str, version: u64, body: &[u8]) -> Result<()>;

    /// Removes a record, if it is there.
    fn remove(&mut self, kind: &str, id: &str) -> Result<()>;

    /// Notes that a record was changed; at this place of the log, or at the next one. The place.
    fn log(&mut self, revision: Option<u64>, kind: &str, id: &str) -> Result<u64>;

    /// The last place of the log that is taken; 0 if none is.
    fn head(&mut self) -> Result<u64>;

    /// Gives the next places of the log to nobody.
    fn leave_gap(&mut self, places: u64) -> Result<()>;

    /// Removes all records, and the log.
    fn clear(&mut self) -> Result<()>;

    /// What is kept beside the records.
    fn local(&mut self, name: &str) -> Result<Option<Vec<u8>>>;

    /// Keeps something beside the records.
    fn set_local(&mut self, name: &str, value: &[u8]) -> Result<()>;

    /// Takes something away from beside the records.
    fn remove_local(&mut self, name: &str) -> Result<()>;

    /// See [`super::Keystore::changes`]; at most about so many bytes of bodies, give or take one body.
    fn changes(&mut self, kind: &str, since: u64, max_bytes: usize) -> Result<Changes>;

    /// See [`super::Keystore::piece`]; at most about so many bytes, and so many places of the log.
    fn piece(&mut self, since: u64, max_bytes: usize, max_places: usize) -> Result<Piece>;

    /// Leaves no deleted body in logs of its own, as far as it has any say in that.
    fn erase_log(&mut self) -> Result<()>;
}

/// Takes rows into a [`Piece`], in the order of the log.
pub struct PieceBuilder {
    piece: Piece,
    bytes: usize,
    places: usize,
    max_bytes: usize,
    max_places: usize,
}

impl PieceBuilder {
    /// Nothing after `since` yet.
    pub fn new(since: u64, max_bytes: usize, max_places: usize) -> Self {
        let piece = Piece { revision: since, ..Piece::default() };
        Self { piece, bytes: 0, places: 0, max_bytes, max_places }
    }

    /// Has it no room for another row? Then there is more to be had.
    pub fn is_full(&mut self) -> bool {
        self.piece.more = self.bytes > self.max_bytes || self.places >= self.max_places;
        self.piece.more
    }

    /// A place of the log whose record has changed again since.
    pub fn pass(&mut self, revision: u64) {
        self.places += 1;
        self.piece.revision = revision;
    }

    /// A record's last change.
    pub fn take(&mut self, change: Changed) {
        self.pass(change.revision);
        self.bytes += change.kind.len() + change.id.len();
        self.bytes += change.record.as_ref().map_or(0, |(_, body)| body.len());
        self.piece.changes.push(change);
    }

    /// What has come together.
    pub fn finish(self) -> Piece {
        self.piece
    }
}

/// From kind to kind: DISTINCT would read every record.
pub const KINDS: &str = "WITH RECURSIVE kinds (kind) AS (
        SELECT MIN(kind) FROM records
        UNION ALL
        SELECT (SELECT MIN(kind) FROM records WHERE kind > kinds.kind) FROM kinds WHERE kind IS NOT NULL
    ) SELECT kind FROM kinds WHERE kind IS NOT NULL";
