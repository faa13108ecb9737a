//! The front end: HTTP and S3 on one side, [`Storage`](crate::storage::Storage) on the other.
//!
//! `outer` guards what the S3 framework does not; `auth` knows the credentials; `ibm` has
//! IBM's extensions; `s3` alone knows the framework's types.

pub mod auth;
pub mod ibm;
pub mod outer;
pub mod s3;
