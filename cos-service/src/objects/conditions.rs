//! Conditional requests.

use crate::error::{Error, Result};

/// `If-Match` and its relatives.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Conditions {
    /// `If-Match`.
    pub if_match: Option<Expected>,
    /// `If-None-Match`.
    pub if_none_match: Option<Expected>,
    /// `If-Modified-Since`, in seconds since 1970.
    pub if_modified_since: Option<i64>,
    /// `If-Unmodified-Since`, in seconds since 1970.
    pub if_unmodified_since: Option<i64>,
}

/// What an ETag is compared with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Expected {
    /// `*`
    Any,
    /// An ETag without quotes.
    Tag(String),
}

impl Expected {
    fn matches(&self, etag: &str) -> bool {
        match self {
            Self::Any => true,
            Self::Tag(tag) => tag == etag,
        }
    }
}

impl Conditions {
    /// Whether there is nothing to check.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// For GET and HEAD (RFC 9110 section 13.2.2): 412 or 304 if a condition does not hold.
    pub fn check_read(&self, etag: &str, modified_millis: i64) -> Result<()> {
        let modified = modified_millis.div_euclid(1000);
        match (&self.if_match, self.if_unmodified_since) {
            (Some(expected), _) if !expected.matches(etag) => return Err(Error::precondition_failed()),
            (None, Some(since)) if modified > since => return Err(Error::precondition_failed()),
            _ => {}
        }
        match (&self.if_none_match, self.if_modified_since) {
            (Some(expected), _) if expected.matches(etag) => Err(Error::not_modified(etag)),
            (None, Some(since)) if modified <= since => Err(Error::not_modified(etag)),
            _ => Ok(()),
        }
    }

    /// For the source of a copy: every failure is a 412.
    pub fn check_copy(&self, etag: &str, modified_millis: i64) -> Result<()> {
        self.check_read(etag, modified_millis).map_err(|_| Error::precondition_failed())
    }

    /// For PUT, within the transaction: `existing` is the ETag and date of the object in its place.
    pub fn check_write(&self, existing: Option<(&str, i64)>) -> Result<()> {
        match (&self.if_match, existing) {
            (Some(_), None) => return Err(Error::no_such_key()),
            (Some(expected), Some((etag, _))) if !expected.matches(etag) => {
                return Err(Error::precondition_failed());
            }
            _ => {}
        }
        if let (Some(expected), Some((etag, _))) = (&self.if_none_match, existing)
            && expected.matches(etag)
        {
            return Err(Error::precondition_failed());
        }
        if let (Some(since), Some((_, modified))) = (self.if_unmodified_since, existing)
            && modified.div_euclid(1000) > since
        {
            return Err(Error::precondition_failed());
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn status(outcome: Result<()>) -> u16 {
        outcome.err().map_or(200, |error| error.status)
    }

    #[test]
    fn reads() {
        let tag = |tag: &str| Some(Expected::Tag(tag.to_owned()));
        let table = [
            (Conditions::default(), 200),
            (Conditions { if_match: tag("e"), ..Default::default() }, 200),
            (Conditions { if_match: tag("x"), ..Default::default() }, 412),
            (Conditions { if_match: Some(Expected::Any), ..Default::default() }, 200),
            (Conditions { if_none_match: tag("e"), ..Default::default() }, 304),
            (Conditions { if_none_match: tag("x"), ..Default::default() }, 200),
            (Conditions { if_modified_since: Some(10), ..Default::default() }, 304),
            (Conditions { if_modified_since: Some(9), ..Default::default() }, 200),
            (Conditions { if_unmodified_since: Some(10), ..Default::default() }, 200),
            (Conditions { if_unmodified_since: Some(9), ..Default::default() }, 412),
            // If-Match wins over If-Unmodified-Since, If-None-Match over If-Modified-Since.
            (Conditions { if_match: tag("e"), if_unmodified_since: Some(9), ..Default::default() }, 200),
            (Conditions { if_none_match: tag("x"), if_modified_since: Some(10), ..Default::default() }, 200),
        ];
        for (conditions, expected) in table {
            assert_eq!(status(conditions.check_read("e", 10_500)), expected, "{conditions:?}");
        }
    }

    #[test]
    fn writes() {
        let create = Conditions { if_none_match: Some(Expected::Any), ..Default::default() };
        assert_eq!(status(create.check_write(None)), 200);
        assert_eq!(status(create.check_write(Some(("e", 0)))), 412);
        let update = Conditions { if_match: Some(Expected::Tag("e".to_owned())), ..Default::default() };
        assert_eq!(status(update.check_write(None)), 404);
        assert_eq!(status(update.check_write(Some(("e", 0)))), 200);
        assert_eq!(status(update.check_write(Some(("x", 0)))), 412);
    }
}
