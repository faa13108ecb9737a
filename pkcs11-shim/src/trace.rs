//! A line for each call, on request: `HSM_PKCS11_TRACE` is `stderr`, or the path of a file that lines are added to.
//!
//! A line has the process and thread, the function, its arguments as far as they are numbers, the return code with the
//! reason, and how long it took. Of memory that arguments point at, it shows mechanisms, and the lengths and handles that a
//! call has given, never other contents; the lengths of PINs are left out.

use std::fmt::Write as _;
use std::fs::{File, OpenOptions};
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt;
use std::sync::OnceLock;
use std::time::Instant;

use cryptoki_sys::*;
use hsm_emulator::units::Error;

use crate::arguments::Caller;
use crate::signals::NoBrokenPipe;

/// A call that is traced.
pub struct Trace {
    output: &'static Output,
    begun: Instant,
}

enum Output {
    Stderr,
    File(File),
}

/// Begins to trace a call, if that is wanted.
pub fn begin() -> Option<Trace> {
    static OUTPUT: OnceLock<Option<Output>> = OnceLock::new();
    let output = OUTPUT.get_or_init(|| match std::env::var("HSM_PKCS11_TRACE").ok()?.as_str() {
        "" => None,
        "stderr" => Some(Output::Stderr),
        path => match OpenOptions::new().create(true).append(true).mode(0o600).open(path) {
            Ok(file) => Some(Output::File(file)),
            Err(error) => {
                let _ = writeln!(std::io::stderr(), "hsm_pkcs11: cannot trace to {path}: {error}");
                None
            }
        },
    });
    output.as_ref().map(|output| Trace { output, begun: Instant::now() })
}

impl Trace {
    /// Writes the line of a call that is over.
    pub fn end(self, function: &str, arguments: &[(&str, Shown)], outcome: &Result<(), Error>) {
        let took = self.begun.elapsed().as_micros();
        let mut line = format!(
            "hsm_pkcs11[{}.{}] {function}(",
            std::process::id(),
            rustix::thread::gettid().as_raw_nonzero()
        );
        for (i, (name, shown)) in arguments.iter().enumerate() {
            let comma = if i == 0 { "" } else { ", " };
            // Writing to a string can't fail.
            let _ = match shown {
                Shown::Number(_) if PIN_LENGTHS.contains(name) => write!(line, "{comma}{name}=*"),
                Shown::Number(number) => write!(line, "{comma}{name}={number}"),
                Shown::Mechanism(number) => write!(line, "{comma}{name}={number:#x}"),
                Shown::Null => write!(line, "{comma}{name}=NULL"),
                Shown::Memory => write!(line, "{comma}{name}=..."),
            };
        }
        let _ = match outcome {
            Ok(()) => writeln!(line, ") CKR_OK {took} us"),
            Err(error) => writeln!(line, ") {error} {took} us"),
        };
        // Nobody reads any more: no reason to end the application.
        let _quiet = NoBrokenPipe::new();
        // One write for each line, so that lines of threads and processes don't mix. A full disk is no reason to fail the call.
        let _ = match self.output {
            Output::Stderr => std::io::stderr().write_all(line.as_bytes()),
            Output::File(file) => (&*file).write_all(line.as_bytes()),
        };
    }
}

/// Arguments that say how long a PIN is.
const PIN_LENGTHS: [&str; 3] = ["pin_len", "old_pin_len", "new_pin_len"];

/// Arguments that are lists, which may have no entry at all.
const LISTS: [&str; 3] = ["list", "objects", "slots"];

/// What is shown of an argument.
pub enum Shown {
    /// A handle, a length, flags.
    Number(u64),
    /// `CKM_*`.
    Mechanism(CK_MECHANISM_TYPE),
    /// No memory.
    Null,
    /// Memory whose contents nobody is shown.
    Memory,
}

/// An argument of a C function.
pub trait Argument: Copy {
    /// What is shown of it, by its name, after a call that succeeded or did not.
    fn shown(self, caller: &Caller<'_>, name: &str, succeeded: bool) -> Shown;
}

impl Argument for CK_ULONG {
    fn shown(self, _: &Caller<'_>, _: &str, _: bool) -> Shown {
        Shown::Number(self)
    }
}

impl Argument for CK_BBOOL {
    fn shown(self, _: &Caller<'_>, _: &str, _: bool) -> Shown {
        Shown::Number(self.into())
    }
}

impl Argument for CK_NOTIFY {
    fn shown(self, _: &Caller<'_>, _: &str, _: bool) -> Shown {
        if self.is_some() { Shown::Memory } else { Shown::Null }
    }
}

/// The place for a length, a handle or a list of them. How long a list is, nobody knows here; and what a call that failed
/// has left in a place need not have been written by anybody.
impl Argument for *mut CK_ULONG {
    fn shown(self, caller: &Caller<'_>, name: &str, succeeded: bool) -> Shown {
        if succeeded && !LISTS.contains(&name) {
            return caller.value(self).map_or(Shown::Null, Shown::Number);
        }
        if self.is_null() { Shown::Null } else { Shown::Memory }
    }
}

impl Argument for *mut CK_MECHANISM {
    fn shown(self, caller: &Caller<'_>, _: &str, _: bool) -> Shown {
        caller.value(self).map_or(Shown::Null, |given| Shown::Mechanism(given.mechanism))
    }
}

/// Pointers of which only that they are NULL is shown.
macro_rules! opaque {
    ($($type:ty)*) => {
        $(impl Argument for *mut $type {
            fn shown(self, _: &Caller<'_>, _: &str, _: bool) -> Shown {
                if self.is_null() { Shown::Null } else { Shown::Memory }
            }
        })*
    };
}

opaque! {
    CK_BYTE std::ffi::c_void CK_ATTRIBUTE CK_INFO CK_SLOT_INFO CK_TOKEN_INFO CK_MECHANISM_INFO CK_SESSION_INFO CK_VERSION
    CK_INTERFACE CK_ASYNC_DATA CK_FUNCTION_LIST *mut CK_FUNCTION_LIST *mut CK_INTERFACE
}
