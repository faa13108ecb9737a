//! The front end: HTTP and S3 on one side, [`Storage`](crate::storage::Storage) on the other.
//!
//! `outer`, with `auth`, `operations`, `promises` and `guard`, does what the S3 framework leaves to others; `ibm` and
//! `extended_list` have IBM's extensions; `s3` has the operations. The framework's types stay in here.

pub mod auth;
pub mod extended_list;
pub mod guard;
pub mod ibm;
pub mod operations;
pub mod outer;
pub mod promises;
pub mod request_body;
pub mod s3;
