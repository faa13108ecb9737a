//! What is printed after `FAILED`.

use std::fmt;

use hsm_emulator::secret_input;
use hsm_emulator::units::Refusal;
use hsm_emulator::units::command::AnswerError;
use serde_json::{Map, Value, json};
use tonic::{Code, Status};

/// Why a command failed, and what to do.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A crypto unit refused.
    #[error("{}", describe(*.unit, .refusal))]
    Refused {
        /// Its CRYPTO UNIT NUM.
        unit: u64,
        /// Why.
        refusal: Refusal,
    },
    /// The service did not carry out a call.
    #[error("{heading}\nStatus code: {}\nMessage: {}", http_status(.status), message(.status))]
    Service {
        /// What was tried.
        heading: &'static str,
        /// How it ended.
        status: Box<Status>,
    },
    /// A crypto unit could not be asked.
    #[error(
        "Error sending the request to the crypto unit.\nStatus code: {}\nMessage: {}\nCrypto unit: {unit}",
        http_status(.status),
        message(.status)
    )]
    Unreachable {
        /// Its CRYPTO UNIT NUM.
        unit: u64,
        /// Why.
        status: Box<Status>,
    },
    /// A crypto unit's answer is not to be believed.
    #[error("{0}\nCrypto unit {1}. If its module was replaced, remove its entry from CRYPTOMODULES.")]
    Answer(AnswerError, u64),
    /// The operator did not answer y.
    #[error("Cancelled. Nothing was changed.")]
    Cancelled,
    /// That of a key on this workstation.
    #[error("Invalid password.\n{0}")]
    Password(String),
    /// Flags that do not fit.
    #[error("{0}")]
    Usage(String),
    /// A rotation has stopped before it set the new master key: some stored keys would be lost.
    #[error(
        "{left_out} of {total} stored keys could not be re-encrypted: they are damaged, or under another master key. The \
         service's log names them. The new master key has not been set.\nRestore them from a backup and run 'tke \
         cryptounit-mk-rotate' again; or lose them for good, in every backup, too, with 'tke cryptounit-mk-rotate \
         --without-damaged-keys'."
    )]
    DamagedKeys {
        /// How many.
        left_out: u64,
        /// Of how many.
        total: u64,
    },
    /// A command came to a halt on its way.
    #[error("{cause}{outcome}{}{next}", if next.is_empty() { "" } else { "\n" })]
    Halted {
        /// Why.
        cause: Box<Error>,
        /// How far it came.
        outcome: Outcome,
        /// What to do; may be empty.
        next: String,
    },
    /// Anything else, in words.
    #[error("{0}")]
    Other(String),
}

/// The result of everything here.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What a command that goes to several units has done: CRYPTO UNIT NUM values.
#[derive(Debug, Default)]
pub struct Outcome {
    /// They are as the command leaves them.
    pub done: Vec<u64>,
    /// The one that refused or did not answer.
    pub failed: Vec<u64>,
    /// Those after it.
    pub not_tried: Vec<u64>,
}

impl Outcome {
    /// Those that still have to be done.
    pub fn left(&self) -> String {
        numbers(&[self.failed.as_slice(), &self.not_tried].concat())
    }
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.done.is_empty() && self.not_tried.is_empty() {
            return Ok(());
        }
        let parts = [
            ("Done on crypto units", &self.done),
            ("Failed on crypto unit", &self.failed),
            ("Not tried on crypto units", &self.not_tried),
        ];
        for (what, units) in parts.into_iter().filter(|(_, units)| !units.is_empty()) {
            write!(f, "\n{what}: {}", numbers(units))?;
        }
        Ok(())
    }
}

impl Error {
    /// In words.
    pub fn new(message: impl Into<String>) -> Self {
        Self::Other(message.into())
    }

    /// The service's.
    pub fn service(heading: &'static str) -> impl Fn(Status) -> Self {
        move |status| Self::Service { heading, status: Box::new(status) }
    }

    /// Says which key's password was wrong.
    pub fn of_key(self, key: impl Into<String>) -> Self {
        match self {
            Self::Password(_) => Self::Password(key.into()),
            other => other,
        }
    }

    /// Adds what to do, seeing how far the command came.
    pub fn next(self, next: impl FnOnce(&Outcome) -> String) -> Self {
        let (cause, outcome) = match self {
            Self::Halted { cause, outcome, .. } => (cause, outcome),
            other => (Box::new(other), Outcome::default()),
        };
        let next = next(&outcome);
        Self::Halted { cause, outcome, next }
    }

    /// For programs.
    pub fn to_json(&self) -> Value {
        let mut document = Map::from_iter([("error".to_owned(), self.to_string().into())]);
        let mut cause = self;
        if let Self::Halted { cause: inner, outcome, .. } = self {
            cause = inner;
            let states =
                [(&outcome.done, "done"), (&outcome.failed, "failed"), (&outcome.not_tried, "not tried")];
            let units = states.into_iter().flat_map(|(units, state)| {
                units.iter().map(move |unit| (unit.to_string(), Value::from(state)))
            });
            document.insert("units".to_owned(), units.collect::<Map<_, _>>().into());
        }
        if let Self::DamagedKeys { left_out, .. } = cause {
            document.insert("left_out".to_owned(), (*left_out).into());
        }
        if let Self::Refused { refusal, unit } = cause {
            document.insert("return_code".to_owned(), refusal.return_code.cast_signed().into());
            document.insert("reason_code".to_owned(), refusal.reason_code.into());
            document.entry("units").or_insert_with(|| json!({ unit.to_string(): "failed" }));
        }
        document.into()
    }
}

impl From<rustix::io::Errno> for Error {
    fn from(error: rustix::io::Errno) -> Self {
        Self::new(error.to_string())
    }
}

impl From<secret_input::Error> for Error {
    fn from(error: secret_input::Error) -> Self {
        match error {
            secret_input::Error::Cancelled => Self::Cancelled,
            other => Self::new(other.to_string()),
        }
    }
}

impl From<hsm_emulator::units::Error> for Error {
    fn from(error: hsm_emulator::units::Error) -> Self {
        Self::new(error.message)
    }
}

impl From<der::Error> for Error {
    fn from(error: der::Error) -> Self {
        Self::new(format!("A command or an answer is not well-formed DER: {error}"))
    }
}

/// `1 2 3`.
pub fn numbers(values: &[u64]) -> String {
    values.iter().map(u64::to_string).collect::<Vec<_>>().join(" ")
}

fn describe(unit: u64, refusal: &Refusal) -> String {
    // EP11's codes are signed.
    let mut text = format!(
        "Error reported by EP11 crypto module.\nReturn code: {}\nReason code: {}",
        refusal.return_code.cast_signed(),
        refusal.reason_code
    );
    if !refusal.message().is_empty() {
        text += &format!("\nError message: {}", refusal.message());
    }
    text + &format!("\nCrypto unit: {unit}")
}

fn http_status(status: &Status) -> u16 {
    match status.code() {
        Code::Unauthenticated => 401,
        Code::PermissionDenied => 403,
        Code::NotFound => 404,
        Code::InvalidArgument | Code::FailedPrecondition | Code::Aborted => 400,
        Code::Unavailable => 503,
        _ => 500,
    }
}

fn message(status: &Status) -> String {
    match status.code() {
        Code::Unauthenticated => {
            "Unauthorized\nThe API key is wrong or has expired: see --api-key-file.".to_owned()
        }
        code if status.message().is_empty() => code.to_string(),
        _ => status.message().to_owned(),
    }
}
