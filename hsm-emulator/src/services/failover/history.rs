//! The epochs of a keystore, and what two of them say about each other.
//!
//! Whoever takes the right to write into its hands alone - a promotion, a detachment - begins an epoch. So two
//! keystores that have the same epochs have the same changes, as far as both go; and what one has written in an epoch
//! past the point where the other one's next epoch began was acknowledged by nobody but itself.

use serde::{Deserialize, Serialize};

/// One epoch.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Epoch {
    /// 1 for the first, one more for each.
    pub number: u64,
    /// UUID: two regions may begin an epoch of the same number.
    pub id: String,
    /// Position in the change log after which it began.
    pub start: u64,
}

/// All epochs of a keystore, oldest first.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct History(pub Vec<Epoch>);

/// What a keystore is to another one that it would follow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Relation {
    /// It has the beginning of the other one's changes, and can go on from where it is.
    Behind,
    /// It has changes after this position that the other one went on without.
    Tail(u64),
    /// It has everything of the other one, and after this position more: the other one should follow it.
    Ahead(u64),
    /// Both have gone on alone from this position.
    Diverged(u64),
}

impl History {
    /// With an epoch more, that begins after `head`.
    #[must_use]
    pub fn begin(&self, head: u64) -> Self {
        let mut epochs = self.0.clone();
        epochs.push(Epoch { number: self.number() + 1, id: uuid::Uuid::new_v4().to_string(), start: head });
        Self(epochs)
    }

    /// Of the last epoch; 0 if there is none.
    pub fn number(&self) -> u64 {
        self.0.last().map_or(0, |epoch| epoch.number)
    }

    /// What a keystore with this history, whose last change is at `head`, is to one with `other` and `other_head`.
    pub fn relation(&self, head: u64, other: &Self, other_head: u64) -> Relation {
        let common = self.0.iter().zip(&other.0).take_while(|(ours, theirs)| ours == theirs).count();
        // Where each of them left what they have in common: a region that was promoted by force, before it had caught
        // up, begins an epoch before the one that it followed.
        let end = |history: &Self, head: u64| {
            history.0[common..].iter().map(|epoch| epoch.start).fold(head, u64::min)
        };
        let (ours, theirs) = (end(self, head), end(other, other_head));
        match (self.0.len() > common, other.0.len() > common) {
            (true, true) => Relation::Diverged(ours.min(theirs)),
            (true, false) if other_head > ours => Relation::Diverged(ours),
            (true, false) => Relation::Ahead(ours),
            (false, true) if head > theirs => Relation::Tail(theirs),
            // In the same epoch, only the one that is followed writes.
            (false, false) if head > other_head => Relation::Ahead(other_head),
            (false, _) => Relation::Behind,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn histories_say_who_follows_whom() {
        let first = History::default().begin(0);
        let (promoted, detached) = (first.begin(10), first.begin(12));
        let relation =
            |ours: &History, head, theirs: &History, their_head| ours.relation(head, theirs, their_head);
        assert_eq!(relation(&History::default(), 0, &first, 5), Relation::Behind, "a new partner");
        assert_eq!(relation(&first, 5, &first, 9), Relation::Behind);
        assert_eq!(relation(&first, 9, &first, 9), Relation::Behind);
        assert_eq!(relation(&first, 10, &promoted, 20), Relation::Behind, "an old primary without a tail");
        assert_eq!(relation(&first, 11, &promoted, 20), Relation::Tail(10), "an old primary with one");
        assert_eq!(relation(&promoted, 20, &first, 10), Relation::Ahead(10), "the one that was promoted");
        assert_eq!(relation(&first, 9, &first, 5), Relation::Ahead(5), "the other one has lost changes");
        assert_eq!(relation(&promoted, 20, &detached, 20), Relation::Diverged(10), "both alone");
        assert_eq!(relation(&detached, 20, &promoted, 20), Relation::Diverged(10));
        assert_eq!(promoted.number(), 2);
        let by_force = promoted.begin(5);
        assert_eq!(
            relation(&first, 8, &by_force, 30),
            Relation::Tail(5),
            "past the lowest start, not the first"
        );
    }
}
