//! What happens to the bytes of an object: digests on the way in, segments at rest.

pub mod checksum;
pub mod etag;
pub mod segments;
