//! Deletion of a token with all its objects, without PIN and without crypto unit: what is left when the master key
//! that they are sealed under is lost.

use super::reencryption::unstage;
use super::region::{Error, Region};
use super::stored_keys::{TOKEN, objects_of};
use crate::keystore::{Effect, Expect, Write};
use crate::units::KeyBlob;

impl Region {
    /// Deletes a token and its objects in one transaction; how many objects, or `None` if there is no such token.
    ///
    /// # Errors
    /// [`Error::Keystore`].
    pub fn delete_token(&self, serial: &str) -> Result<Option<usize>, Error> {
        let kind = objects_of(serial);
        let objects = self.keystore().transaction(|transaction| {
            // While this lasts nobody writes: no object can come between.
            let objects = self.keystore().scan(&kind)?;
            if objects.is_empty() && transaction.get(TOKEN, serial)?.is_none() {
                return Ok(None);
            }
            let ids = objects.iter().map(|object| (kind.as_str(), object.id.as_str()));
            for (kind, id) in ids.chain([(TOKEN, serial)]) {
                transaction.write(&unstage(kind, id))?;
                let (kind, id) = (kind.to_owned(), id.to_owned());
                transaction.write(&Write { kind, id, expect: Expect::Any, effect: Effect::Delete })?;
            }
            Ok::<_, Error>(Some(objects))
        })?;
        let Some(objects) = objects else { return Ok(None) };
        for object in &objects {
            let blob = object.body.split_last_chunk::<32>().and_then(|(blob, _)| KeyBlob::parse(blob).ok());
            for installed in self.units().iter() {
                blob.iter().for_each(|blob| installed.unit.forget(blob));
            }
        }
        tracing::warn!(serial, objects = objects.len(), "token deleted");
        self.keystore().erase_log()?;
        Ok(Some(objects.len()))
    }
}
