//! Listings: keys in byte order, grouped by a delimiter.

use crate::{
    error::Result,
    keys::seal::Seal,
    metadata::tables::{self, ObjectRow},
    objects::attributes::{self, Attributes},
    storage::Storage,
};

/// What to list.
#[derive(Debug, Clone, Default)]
pub struct ListQuery {
    /// Only keys that begin with this.
    pub prefix: String,
    /// Groups keys by what follows the prefix up to and including this.
    pub delimiter: Option<String>,
    /// Only entries after this one: a key, or a common prefix of an earlier page.
    pub after: String,
    /// Entries at most, 0 to 1000.
    pub max: usize,
}

/// A page of a listing.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Listing<T> {
    /// Keys and what belongs to them.
    pub entries: Vec<(String, T)>,
    /// Groups.
    pub common_prefixes: Vec<String>,
    /// The last entry of this page, if there are more.
    pub next: Option<String>,
}

/// An object in a listing.
#[derive(Debug)]
pub struct ListedObject {
    /// Plaintext bytes.
    pub size: u64,
    /// Milliseconds since 1970.
    pub modified: i64,
    /// `None` if the bucket's key can't be used at the moment.
    pub attributes: Option<Attributes>,
}

impl Storage {
    /// Lists objects. Works without the bucket key, then without what only the key opens.
    pub async fn list_objects(&self, bucket: &str, query: ListQuery) -> Result<Listing<ListedObject>> {
        let bucket = self.buckets.get(bucket)?;
        let seal: Option<Seal> = match self.seal(&bucket).await {
            Ok(seal) => Some(seal),
            Err(error) => {
                tracing::debug!(%error, "listing without ETags");
                None
            }
        };
        self.metadata
            .read(move |db| {
                let found =
                    page(&query, |key| key, |from, visit| tables::scan_objects(db, bucket.id, from, visit))?;
                let open = |(key, row): (String, ObjectRow)| {
                    // A damaged row has been logged; it must not hide its neighbours.
                    let attributes = seal
                        .as_ref()
                        .and_then(|seal| attributes::of_object(seal, bucket.id, &key, &row).ok());
                    (key, ListedObject { size: row.size, modified: row.modified, attributes })
                };
                Ok(Listing {
                    entries: found.entries.into_iter().map(open).collect(),
                    common_prefixes: found.common_prefixes,
                    next: found.next,
                })
            })
            .await
    }
}

/// Fills a page from a source that can be scanned from any key on. `scan(from, visit)` calls
/// `visit` with entries in byte order from `from` (inclusive) until it returns false. A delimiter counts in
/// that part of an entry's name that `key_of` returns.
pub fn page<T>(
    query: &ListQuery,
    key_of: fn(&str) -> &str,
    mut scan: impl FnMut(&[u8], &mut dyn FnMut(String, T) -> bool) -> Result<()>,
) -> Result<Listing<T>> {
    let mut listing = Listing { entries: Vec::new(), common_prefixes: Vec::new(), next: None };
    let delimiter = query.delimiter.as_deref().filter(|delimiter| !delimiter.is_empty());
    let group = |name: &str| {
        let key = key_of(name);
        let rest = key.strip_prefix(query.prefix.as_str())?;
        let at = rest.find(delimiter?)?;
        Some(key[..query.prefix.len() + at + delimiter?.len()].to_owned())
    };
    // A marker within a group: the group was listed, or lies before the marker.
    let after_group = group(&query.after);
    let mut from = match &after_group {
        Some(group) => past_prefix(group),
        None if query.after.is_empty() => Some(query.prefix.clone().into_bytes()),
        None => Some(query.after.clone().into_bytes()),
    };
    from = from.map(|from| from.max(query.prefix.clone().into_bytes()));
    let mut last = None;
    while let Some(begin) = from.take() {
        scan(&begin, &mut |key, entry| {
            if !key.starts_with(&query.prefix) {
                return false;
            }
            if key == query.after {
                return true;
            }
            if listing.entries.len() + listing.common_prefixes.len() >= query.max {
                listing.next = last.clone().filter(|_| query.max > 0);
                return false;
            }
            match group(&key) {
                Some(group) => {
                    // Jumps over the rest of the group.
                    from = past_prefix(&group);
                    last = Some(group.clone());
                    listing.common_prefixes.push(group);
                    false
                }
                None => {
                    last = Some(key.clone());
                    listing.entries.push((key, entry));
                    true
                }
            }
        })?;
    }
    Ok(listing)
}

/// The least byte string above all that begin with `prefix`.
fn past_prefix(prefix: &str) -> Option<Vec<u8>> {
    let mut bytes = prefix.as_bytes().to_vec();
    // No byte of UTF-8 is 255.
    *bytes.last_mut()? += 1;
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    fn list(keys: &BTreeSet<String>, query: &ListQuery) -> Listing<()> {
        page(
            query,
            |key| key,
            |from, visit| {
                for key in keys.iter().filter(|key| key.as_bytes() >= from) {
                    if !visit(key.clone(), ()) {
                        break;
                    }
                }
                Ok(())
            },
        )
        .unwrap()
    }

    /// The definition: the entries after `after`, where an entry is a key or a group.
    fn model(keys: &BTreeSet<String>, query: &ListQuery) -> BTreeSet<String> {
        keys.iter()
            .filter(|key| key.starts_with(&query.prefix))
            .map(|key| match &query.delimiter {
                Some(delimiter) => match key[query.prefix.len()..].find(delimiter) {
                    Some(at) => key[..query.prefix.len() + at + delimiter.len()].to_owned(),
                    None => key.clone(),
                },
                None => key.clone(),
            })
            .filter(|entry| *entry > query.after)
            .collect()
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2000))]

        #[test]
        fn pages_add_up_to_the_model(
            keys in proptest::collection::btree_set("[ab/\u{e9}]{1,6}", 0..30),
            prefix in "[ab/]{0,2}",
            delimiter in proptest::option::of("/|b/|a"),
            after in "[ab/]{0,4}",
            max in 1_usize..5,
        ) {
            let mut query = ListQuery { prefix, delimiter, after, max };
            let expected = model(&keys, &query);
            let mut seen = Vec::new();
            loop {
                let found = list(&keys, &query);
                prop_assert!(found.entries.len() + found.common_prefixes.len() <= max);
                let mut entries: Vec<_> = found.entries.into_iter().map(|(key, ())| key).collect();
                entries.extend(found.common_prefixes);
                entries.sort();
                seen.extend(entries);
                match found.next {
                    Some(next) => query.after = next,
                    None => break,
                }
            }
            prop_assert_eq!(seen, expected.into_iter().collect::<Vec<_>>());
        }
    }

    #[test]
    fn nothing_is_asked_for() {
        let keys = BTreeSet::from(["a".to_owned()]);
        assert_eq!(list(&keys, &ListQuery { max: 0, ..Default::default() }), Listing::default());
    }
}
