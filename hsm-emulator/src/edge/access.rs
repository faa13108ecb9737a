//! Access by bearer token: the instance's API key.

use std::fs;
use std::io;
use std::path::Path;

use aws_lc_rs::digest::{Digest, SHA256, digest};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use subtle::ConstantTimeEq;
use tonic::service::Interceptor;
use tonic::{Request, Status};
use zeroize::Zeroizing;

use crate::durable_file;
use crate::units::random;

/// Lets a call pass if it carries the instance's API key.
#[derive(Clone)]
pub struct BearerToken(Digest);

impl BearerToken {
    /// The API key in this file, which is made on first start, mode 0600.
    ///
    /// # Errors
    /// Whatever the file system says.
    pub fn open(path: &Path) -> io::Result<Self> {
        match fs::read_to_string(path) {
            Ok(key) if key.trim().len() >= 32 => Ok(Self::of(key.trim())),
            Ok(_) => Err(io::Error::other("the API key is damaged: delete the file to get a new one")),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                let bytes = Zeroizing::new(random::array::<32>().map_err(io::Error::other)?);
                let key = Zeroizing::new(URL_SAFE_NO_PAD.encode(bytes.as_slice()));
                durable_file::replace(path, key.as_bytes())?;
                Ok(Self::of(&key))
            }
            Err(error) => Err(error),
        }
    }

    fn of(key: &str) -> Self {
        Self(digest(&SHA256, key.as_bytes()))
    }

    /// Is this the API key?
    pub fn is(&self, presented: &str) -> bool {
        digest(&SHA256, presented.as_bytes()).as_ref().ct_eq(self.0.as_ref()).into()
    }
}

impl Interceptor for BearerToken {
    fn call(&mut self, request: Request<()>) -> Result<Request<()>, Status> {
        let presented =
            request.metadata().get("authorization").and_then(|value| value.to_str().ok()).and_then(bearer);
        match presented {
            Some(token) if self.is(token) => Ok(request),
            _ => {
                tracing::warn!(presented = presented.is_some(), "a call without a valid API key was refused");
                Err(Status::unauthenticated(
                    "the call needs 'authorization: Bearer <API key>' with a valid key",
                ))
            }
        }
    }
}

/// The token of an authorization header that says "Bearer".
pub fn bearer(header: &str) -> Option<&str> {
    let (scheme, token) = header.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then(|| token.trim())
}
