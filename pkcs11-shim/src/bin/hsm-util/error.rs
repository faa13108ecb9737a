//! What the program says when it fails: whole lines, as `softhsm2-util` words them.

use std::fmt;

/// The lines for standard error.
#[derive(Debug)]
pub struct Error(String);

impl Error {
    /// `ERROR: ` and the text.
    pub fn new(text: impl fmt::Display) -> Self {
        Self(format!("ERROR: {text}"))
    }

    /// The text as it is.
    pub fn verbatim(text: impl Into<String>) -> Self {
        Self(text.into())
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The code that a function of the library gave.
pub fn code(error: &cryptoki::error::Error) -> Option<cryptoki::error::RvError> {
    match error {
        cryptoki::error::Error::Pkcs11(code, _) => Some(*code),
        _ => None,
    }
}
