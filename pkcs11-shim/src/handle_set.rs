//! Sets of handles, most of which have one member.

use std::collections::BTreeSet;

use cryptoki_sys::CK_OBJECT_HANDLE;

/// A set of handles.
pub enum HandleSet {
    /// Of one.
    One(CK_OBJECT_HANDLE),
    /// Of any number.
    Many(BTreeSet<CK_OBJECT_HANDLE>),
}

impl HandleSet {
    /// Adds one.
    pub fn insert(&mut self, handle: CK_OBJECT_HANDLE) {
        match self {
            Self::One(only) => *self = Self::Many(BTreeSet::from([*only, handle])),
            Self::Many(set) => drop(set.insert(handle)),
        }
    }

    /// Takes one out. Was it there?
    pub fn remove(&mut self, handle: CK_OBJECT_HANDLE) -> bool {
        match self {
            Self::One(only) if *only == handle => {
                *self = Self::default();
                true
            }
            Self::One(_) => false,
            Self::Many(set) => set.remove(&handle),
        }
    }

    /// Is it there?
    pub fn contains(&self, handle: CK_OBJECT_HANDLE) -> bool {
        match self {
            Self::One(only) => *only == handle,
            Self::Many(set) => set.contains(&handle),
        }
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        match self {
            Self::One(_) => 1,
            Self::Many(set) => set.len(),
        }
    }

    /// None at all?
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// All, in their order.
    pub fn iter(&self) -> impl Iterator<Item = CK_OBJECT_HANDLE> {
        let (one, many) = match self {
            Self::One(only) => (Some(*only), None),
            Self::Many(set) => (None, Some(set)),
        };
        one.into_iter().chain(many.into_iter().flatten().copied())
    }
}

impl Default for HandleSet {
    fn default() -> Self {
        Self::Many(BTreeSet::new())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn members_come_and_go() {
        let mut set = HandleSet::One(7);
        set.insert(7);
        assert_eq!(set.iter().collect::<Vec<_>>(), [7]);
        set.insert(3);
        assert_eq!(set.iter().collect::<Vec<_>>(), [3, 7]);
        assert!(set.contains(3) && set.remove(3) && !set.remove(3) && !set.contains(3));
        assert!(set.remove(7) && set.is_empty());
        let mut one = HandleSet::One(1);
        assert!(!one.remove(2) && one.remove(1) && one.is_empty());
        one.insert(2);
        assert_eq!(one.len(), 1);
    }
}
