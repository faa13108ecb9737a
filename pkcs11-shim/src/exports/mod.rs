//! The C functions (section 5), one module for each chapter, and the lists of them ([`interfaces`]).
//!
//! One macro makes every function: it takes the caller's promise about pointers, checks that the library is
//! initialised in this very process, catches panics, and turns the result into a return code. The bodies only
//! turn arguments into values and back.
#![allow(unsafe_code)]

use std::cell::Cell;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use cryptoki_sys::*;
use hsm_emulator::units::{Error, Result};

use crate::arguments::Caller;
use crate::module::{self, Module};
use crate::session::Session;
use crate::trace::{self, Argument};

/// What a call may use.
struct Call<'a> {
    caller: &'a Caller<'a>,
    module: &'a Module,
    /// The session to poison if the call panics.
    touched: &'a Cell<CK_SESSION_HANDLE>,
}

impl<'a> Call<'a> {
    fn session(&self, handle: CK_SESSION_HANDLE) -> Result<Arc<Session>> {
        self.touched.set(handle);
        self.module.session(handle)
    }

    /// Arguments of a step of the operations of these kinds (`CKF_*`): any error but a buffer that is too small ends them
    /// (sections 5.8 to 5.13).
    fn step<T>(
        &self,
        session: &Session,
        flags: CK_FLAGS,
        read: impl FnOnce(&'a Caller<'a>) -> Result<T>,
    ) -> Result<T> {
        read(self.caller).inspect_err(|_| session.operations().cancel(flags))
    }
}

/// Runs a function that needs the library initialised.
fn enter(caller: &Caller<'_>, body: impl FnOnce(&Call<'_>) -> Result<()>) -> Result<()> {
    let touched = Cell::new(CK_INVALID_HANDLE);
    let outcome = guarded(|| {
        let module = module::current()?;
        let Some(module) = module.as_deref() else {
            return Err(Error::new(CKR_CRYPTOKI_NOT_INITIALIZED, "C_Initialize has not been called"));
        };
        body(&Call { caller, module, touched: &touched })
    });
    outcome.unwrap_or_else(|| {
        let _ = guarded(|| {
            if let Some(module) = module::current()?.as_deref() {
                module.session(touched.get())?.poison();
            }
            Ok(())
        });
        Err(panicked())
    })
}

/// Runs a function that works without the library being initialised.
fn enter_uninitialized(caller: &Caller<'_>, body: impl FnOnce(&Caller<'_>) -> Result<()>) -> Result<()> {
    guarded(|| body(caller)).unwrap_or_else(|| Err(panicked()))
}

/// What `body` gives; `None` after a panic, which must not unwind into C.
fn guarded(body: impl FnOnce() -> Result<()>) -> Option<Result<()>> {
    match catch_unwind(AssertUnwindSafe(body)) {
        Ok(result) => Some(result),
        Err(payload) => {
            // Dropping what was thrown could panic again.
            std::mem::forget(payload);
            None
        }
    }
}

fn panicked() -> Error {
    Error::new(CKR_GENERAL_ERROR, "the library failed inside")
}

fn code(outcome: Result<()>) -> CK_RV {
    match outcome {
        Ok(()) => CKR_OK,
        Err(error) => error.code,
    }
}

/// Defines exported functions.
macro_rules! exports {
    ($(
        $(#[$doc:meta])*
        $kind:ident fn $name:ident($($argument:ident: $type:ty),* $(,)?) |$call:ident| $body:expr;
    )*) => {
        $(
            $(#[$doc])*
            ///
            /// # Safety
            /// Every pointer is NULL or points at what the standard says, unchanged during the call.
            #[unsafe(no_mangle)]
            #[allow(non_snake_case)]
            pub unsafe extern "C" fn $name($($argument: $type),*) -> CK_RV {
                // SAFETY: this function's own safety section is the promise.
                let caller = unsafe { Caller::new() };
                let trace = trace::begin();
                let outcome = exports!(@$kind caller, $call, $body);
                if let Some(trace) = trace {
                    let arguments = [$((stringify!($argument), $argument.shown(&caller, stringify!($argument), outcome.is_ok()))),*];
                    trace.end(stringify!($name), &arguments, &outcome);
                }
                code(outcome)
            }
        )*
    };
    (@always $caller:ident, $call:ident, $body:expr) => { enter_uninitialized(&$caller, |$call| $body) };
    (@initialized $caller:ident, $call:ident, $body:expr) => { enter(&$caller, |$call| $body) };
}

// After the macro: they use it.
pub mod digest;
pub mod dual;
pub mod encryption;
pub mod general;
pub mod interfaces;
pub mod keys;
pub mod messages;
pub mod objects;
pub mod sessions;
pub mod signing;
pub mod tokens;
pub mod verification;

type Bytes = *mut CK_BYTE;
type Len = *mut CK_ULONG;

/// Refuses NULL where the standard does not even allow it with length 0.
fn non_null<T>(pointer: *mut T) -> Result<*mut T> {
    if pointer.is_null() { Err(Error::new(CKR_ARGUMENTS_BAD, "a pointer is NULL")) } else { Ok(pointer) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_panic_does_not_reach_the_caller() {
        assert_eq!(guarded(|| Ok(())), Some(Ok(())));
        let refused = || Err(Error::new(CKR_DATA_INVALID, "refused"));
        assert_eq!(guarded(refused).map(code), Some(CKR_DATA_INVALID));
        assert_eq!(guarded(|| panic!("not foreseen")), None);
    }
}
