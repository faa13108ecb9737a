//! The library's state between `C_Initialize` and `C_Finalize` (section 5.4).

use std::any::Any;
use std::cell::RefCell;
use std::io::Write;
use std::panic::catch_unwind;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use arc_swap::{ArcSwap, ArcSwapOption, Guard};
use cryptoki_sys::*;
use hsm_emulator::units::mechanism::warm_up;
use hsm_emulator::units::{Error, Result, random};

use crate::appearance::{Appearance, MechanismChoice};
use crate::backend::{self, Backend};
use crate::config::Settings;
use crate::exports;
use crate::fork;
use crate::handles::HandleTable;
use crate::mechanisms;
use crate::object::Object;
use crate::operation_state::SavedOperations;
use crate::session::Session;
use crate::slot_token::{self, Slot};
use crate::system_log;

/// Everything that one initialisation of the library holds.
pub struct Module {
    process: u64,
    pub(crate) appearance: Appearance,
    pub(crate) backend: Box<dyn Backend>,
    pub(crate) slots: ArcSwap<Vec<Arc<Slot>>>,
    pub(crate) sessions: HandleTable<Session>,
    pub(crate) objects: HandleTable<Object>,
    /// The unique ids of session objects are counted from here.
    pub(crate) session_objects: u128,
    pub(crate) saved_operations: SavedOperations,
}

impl Module {
    /// A module on this backend, with its tokens in slots.
    ///
    /// # Errors
    /// The backend's, if it can't list its tokens.
    pub fn new(backend: Box<dyn Backend>, appearance: Appearance) -> Result<Self> {
        let slots = ArcSwap::from_pointee(slot_token::arrange(&backend.tokens()?, Vec::new()));
        Ok(Self {
            process: fork::adopt(),
            appearance,
            backend,
            slots,
            sessions: HandleTable::new(),
            objects: HandleTable::new(),
            session_objects: u128::from_be_bytes(random::array()?),
            saved_operations: SavedOperations::default(),
        })
    }

    /// Is this still the module in use?
    ///
    /// # Errors
    /// `CKR_CRYPTOKI_NOT_INITIALIZED`.
    pub fn check_current(&self) -> Result<()> {
        match current()?.as_deref() {
            Some(module) if std::ptr::eq(module, self) => Ok(()),
            _ => Err(not_initialized()),
        }
    }

    /// The session of a handle.
    ///
    /// # Errors
    /// `CKR_SESSION_HANDLE_INVALID`; `CKR_GENERAL_ERROR` if a call on it failed in a way that left its
    /// state in doubt.
    pub fn session(&self, handle: CK_SESSION_HANDLE) -> Result<Arc<Session>> {
        let session = self
            .sessions
            .get(handle)
            .ok_or_else(|| Error::new(CKR_SESSION_HANDLE_INVALID, "no session has this handle"))?;
        session.check_sound()?;
        Ok(session)
    }

    /// The object of a handle, as far as the session may see it.
    ///
    /// # Errors
    /// `CKR_OBJECT_HANDLE_INVALID`.
    pub fn object(&self, session: &Session, handle: CK_OBJECT_HANDLE) -> Result<Arc<Object>> {
        self.objects
            .get(handle)
            .filter(|object| object.slot == session.slot.id)
            .filter(|object| !object.private || session.slot.user_logged_in())
            .ok_or_else(|| Error::new(CKR_OBJECT_HANDLE_INVALID, "no visible object has this handle"))
    }
}

/// The module in use, for the time of one call.
///
/// # Errors
/// `CKR_CRYPTOKI_NOT_INITIALIZED`, also in a child process that has not initialised the library itself.
pub fn current() -> Result<Guard<Option<Arc<Module>>>> {
    let module = MODULE.load();
    match &*module {
        Some(inner) if inner.process == fork::process() => Ok(module),
        _ => Err(not_initialized()),
    }
}

/// `C_Initialize`.
///
/// # Errors
/// `CKR_CRYPTOKI_ALREADY_INITIALIZED`, and what opening the backend may give.
pub fn initialize() -> Result<()> {
    if current().is_ok() {
        return Err(already_initialized());
    }
    // Before anything is opened: what a later child inherits must be known to be its parent's.
    fork::adopt();
    fork::register_handlers(before_fork, after_fork_in_parent, after_fork_in_child, at_exit);
    leave_parent_behind();
    let module = configured().inspect_err(|error| {
        // The application gets a number; whoever configured it needs to know what is wrong.
        let _ = writeln!(std::io::stderr(), "hsm_pkcs11: {error}");
    })?;
    let module = Arc::new(module);
    let previous = MODULE.compare_and_swap(&None::<Arc<Module>>, Some(module));
    match *previous {
        None => Ok(()),
        Some(_) => Err(already_initialized()),
    }
}

fn configured() -> Result<Module> {
    let settings = Settings::load(exports::interfaces::loaded_from().as_deref())?;
    if let Some(level) = settings.log_level {
        system_log::begin(level);
    }
    if !matches!(settings.appearance.mechanisms, MechanismChoice::All) {
        SOME_WERE_LEFT_OUT.store(true, Ordering::Release);
    }
    Module::new(backend::open(&settings.hsm)?, settings.appearance)
}

/// `C_Finalize`. Calls that run in other threads end as if they had come before.
///
/// # Errors
/// `CKR_CRYPTOKI_NOT_INITIALIZED`.
pub fn finalize() -> Result<()> {
    drop(current()?);
    MODULE.swap(None).map(drop).ok_or_else(not_initialized)
}

/// `C_GetInfo` of the function list of this version.
pub fn info(module: &Module, version: CK_VERSION) -> CK_INFO {
    let identity = module.appearance.identity;
    let (manufacturer, description) = identity.library();
    CK_INFO {
        cryptokiVersion: version,
        manufacturerID: manufacturer,
        flags: 0,
        libraryDescription: description,
        libraryVersion: identity.version(),
    }
}

/// May the mechanism be seen and used? Without a module in use, there is nothing that forbids it.
pub fn offers(mechanism: CK_MECHANISM_TYPE) -> bool {
    if !SOME_WERE_LEFT_OUT.load(Ordering::Acquire) {
        return true;
    }
    let Ok(module) = current() else { return true };
    module.as_ref().is_none_or(|module| module.appearance.mechanisms.allows(mechanism))
}

/// Text in a field of fixed length: UTF-8, padded with blanks, not terminated.
pub fn padded<const N: usize>(text: &str) -> [u8; N] {
    let mut field = [b' '; N];
    let mut len = text.len().min(N);
    while !text.is_char_boundary(len) {
        len -= 1;
    }
    field[..len].copy_from_slice(&text.as_bytes()[..len]);
    field
}

thread_local! {
    /// What the backend holds back while this thread forks.
    static FORKING: RefCell<Option<Box<dyn Any>>> = const { RefCell::new(None) };
}

/// AWS-LC clears itself away after this, whichever threads are using it. (OpenSSL is told not to.)
extern "C" fn at_exit() {
    let is_alone = std::fs::read_dir("/proc/self/task").is_ok_and(|tasks| tasks.count() == 1);
    if !is_alone {
        fork::disown();
        std::thread::sleep(LAST_CALLS);
    }
}

extern "C" fn before_fork() {
    // A panic may not leave a function that C calls.
    let _ = catch_unwind(|| {
        let Ok(module) = current() else { return };
        // What another thread is just making at its first use would stay half made in the child. If it can't be made, the
        // child's calls say so.
        let _ = warm_up();
        mechanisms::warm_up();
        let held = module.as_ref().map(|module| module.backend.before_fork());
        let _ = FORKING.try_with(|forking| *forking.borrow_mut() = held);
    });
}

extern "C" fn after_fork_in_parent() {
    let _ = catch_unwind(|| FORKING.try_with(|forking| drop(forking.borrow_mut().take())));
}

extern "C" fn after_fork_in_child() {
    // What is held is the parent's: not even its locks are opened here.
    let _ = catch_unwind(|| FORKING.try_with(|forking| std::mem::forget(forking.borrow_mut().take())));
}

/// A child process inherits its parent's module. Its sockets and files are the parent's: forget them, unclosed.
fn leave_parent_behind() {
    let inherited = MODULE.load_full();
    if inherited.as_ref().is_some_and(|module| module.process != fork::process()) {
        let previous = MODULE.compare_and_swap(&inherited, None);
        std::mem::forget(previous);
        std::mem::forget(inherited);
    }
}

fn not_initialized() -> Error {
    Error::new(CKR_CRYPTOKI_NOT_INITIALIZED, "C_Initialize has not been called in this process")
}

fn already_initialized() -> Error {
    Error::new(CKR_CRYPTOKI_ALREADY_INITIALIZED, "C_Initialize has been called before")
}

static MODULE: ArcSwapOption<Module> = ArcSwapOption::const_empty();
/// Has a configuration ever left a mechanism out? It is asked twice in each operation.
static SOME_WERE_LEFT_OUT: AtomicBool = AtomicBool::new(false);
/// For calls that other threads are inside of when the process ends; longer ones then wait until it has.
const LAST_CALLS: Duration = Duration::from_millis(10);

/// The versions of the standard that there are function lists of.
pub const CRYPTOKI_2_40: CK_VERSION = CK_VERSION { major: 2, minor: 40 };
/// The first one with interfaces.
pub const CRYPTOKI_3_0: CK_VERSION = CK_VERSION { major: 3, minor: 0 };
/// The newest one.
pub const CRYPTOKI_3_2: CK_VERSION = CK_VERSION { major: 3, minor: 2 };

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn padding_never_splits_a_character() {
        assert_eq!(&padded::<4>("ab"), b"ab  ");
        assert_eq!(&padded::<4>("abcé"), b"abc ");
        assert_eq!(&padded::<4>("abcde"), b"abcd");
    }
}
