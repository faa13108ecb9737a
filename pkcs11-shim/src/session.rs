//! Sessions and login (section 5.6).

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};

use cryptoki_sys::*;
use hsm_emulator::units::{Error, Result};

use crate::backend::User;
use crate::handles::{lock, read, write};
use crate::module::Module;
use crate::operation::Operations;
use crate::slot_token::{self, Login, Slot};

/// A session of the application with a token.
pub struct Session {
    /// Its handle.
    pub handle: CK_SESSION_HANDLE,
    /// Where its token is.
    pub slot: Arc<Slot>,
    rw: bool,
    poisoned: AtomicBool,
    operations: Mutex<Operations>,
    objects: Mutex<SessionObjects>,
}

/// The session's own objects, which die with it.
#[derive(Default)]
struct SessionObjects {
    closed: bool,
    handles: Vec<CK_OBJECT_HANDLE>,
}

impl Session {
    /// The operations in progress. Calls on the same session wait for each other.
    pub fn operations(&self) -> MutexGuard<'_, Operations> {
        lock(&self.operations)
    }

    /// Makes all later calls on this session fail, except closing it.
    pub fn poison(&self) {
        self.poisoned.store(true, Ordering::Relaxed);
    }

    /// # Errors
    /// `CKR_GENERAL_ERROR` after [`Session::poison`].
    pub fn check_sound(&self) -> Result<()> {
        if self.poisoned.load(Ordering::Relaxed) {
            return Err(Error::new(
                CKR_GENERAL_ERROR,
                "an earlier call on this session failed inside the library",
            ));
        }
        Ok(())
    }

    /// # Errors
    /// `CKR_SESSION_READ_ONLY`.
    pub fn require_rw(&self) -> Result<()> {
        if self.rw { Ok(()) } else { Err(Error::new(CKR_SESSION_READ_ONLY, "the session is read-only")) }
    }

    /// Takes over an object that lives as long as the session.
    ///
    /// # Errors
    /// `CKR_SESSION_CLOSED` if another thread has closed it.
    pub fn own(&self, object: CK_OBJECT_HANDLE) -> Result<()> {
        let mut objects = lock(&self.objects);
        if objects.closed {
            return Err(Error::new(CKR_SESSION_CLOSED, "the session was closed during the call"));
        }
        objects.handles.push(object);
        Ok(())
    }

    /// Forgets an object that was destroyed.
    pub fn disown(&self, object: CK_OBJECT_HANDLE) {
        lock(&self.objects).handles.retain(|handle| *handle != object);
    }
}

/// `C_OpenSession`.
///
/// # Errors
/// `CKR_SESSION_PARALLEL_NOT_SUPPORTED`, `CKR_SESSION_ASYNC_NOT_SUPPORTED`, `CKR_SLOT_ID_INVALID`, `CKR_TOKEN_NOT_RECOGNIZED`,
/// `CKR_SESSION_READ_WRITE_SO_EXISTS`.
pub fn open_session(module: &Module, slot_id: CK_SLOT_ID, flags: CK_FLAGS) -> Result<CK_SESSION_HANDLE> {
    let slot = slot_token::slot(module, slot_id)?;
    if flags & CKF_ASYNC_SESSION != 0 {
        return Err(Error::new(CKR_SESSION_ASYNC_NOT_SUPPORTED, "there are no asynchronous sessions"));
    }
    if flags & CKF_SERIAL_SESSION == 0 {
        return Err(Error::new(CKR_SESSION_PARALLEL_NOT_SUPPORTED, "CKF_SERIAL_SESSION is not set"));
    }
    let rw = flags & CKF_RW_SESSION != 0;
    {
        let mut usage = write(&slot.usage);
        slot.serial()?;
        if !rw && matches!(usage.login, Login::So(_)) {
            return Err(Error::new(CKR_SESSION_READ_WRITE_SO_EXISTS, "the security officer is logged in"));
        }
        usage.sessions += 1;
        usage.rw_sessions += CK_ULONG::from(rw);
    }
    let session = module.sessions.insert_with(|handle| Session {
        handle,
        slot,
        rw,
        poisoned: AtomicBool::new(false),
        operations: Mutex::default(),
        objects: Mutex::default(),
    });
    Ok(session.handle)
}

/// `C_CloseSession`. With the last session of a token, its user is logged out.
///
/// # Errors
/// `CKR_SESSION_HANDLE_INVALID`.
pub fn close_session(module: &Module, handle: CK_SESSION_HANDLE) -> Result<()> {
    let session = module
        .sessions
        .remove(handle)
        .ok_or_else(|| Error::new(CKR_SESSION_HANDLE_INVALID, "no session has this handle"))?;
    let handles = {
        let mut objects = lock(&session.objects);
        objects.closed = true;
        std::mem::take(&mut objects.handles)
    };
    if !handles.is_empty() {
        let mut catalogue = write(&session.slot.catalogue);
        for handle in handles {
            catalogue.remove(&module.objects, handle);
        }
    }
    let mut usage = write(&session.slot.usage);
    usage.sessions -= 1;
    usage.rw_sessions -= CK_ULONG::from(session.rw);
    if usage.sessions == 0 && !matches!(std::mem::take(&mut usage.login), Login::Public) {
        drop(usage);
        // As by a logout, unless somebody has logged in since.
        let mut catalogue = write(&session.slot.catalogue);
        if matches!(read(&session.slot.usage).login, Login::Public) {
            catalogue.renew_private(&module.objects);
        }
    }
    Ok(())
}

/// `C_CloseAllSessions`.
///
/// # Errors
/// `CKR_SLOT_ID_INVALID`.
pub fn close_all_sessions(module: &Module, slot_id: CK_SLOT_ID) -> Result<()> {
    slot_token::slot(module, slot_id)?;
    for (handle, _) in module.sessions.matching(|session| session.slot.id == slot_id) {
        // Somebody else may have closed it since.
        let _ = close_session(module, handle);
    }
    Ok(())
}

/// `C_GetSessionInfo`.
pub fn session_info(session: &Session) -> CK_SESSION_INFO {
    let state = match (&read(&session.slot.usage).login, session.rw) {
        (Login::Public, false) => CKS_RO_PUBLIC_SESSION,
        (Login::Public, true) => CKS_RW_PUBLIC_SESSION,
        (Login::User(_), false) => CKS_RO_USER_FUNCTIONS,
        (Login::User(_), true) => CKS_RW_USER_FUNCTIONS,
        (Login::So(_), _) => CKS_RW_SO_FUNCTIONS,
    };
    let access = if session.rw { CKF_RW_SESSION } else { 0 };
    CK_SESSION_INFO { slotID: session.slot.id, state, flags: CKF_SERIAL_SESSION | access, ulDeviceError: 0 }
}

/// `C_Login`.
///
/// # Errors
/// `CKR_USER_TYPE_INVALID`, `CKR_USER_ALREADY_LOGGED_IN`, `CKR_USER_ANOTHER_ALREADY_LOGGED_IN`,
/// `CKR_SESSION_READ_ONLY_EXISTS`, `CKR_PIN_INCORRECT`, `CKR_PIN_LOCKED`, `CKR_USER_PIN_NOT_INITIALIZED`.
pub fn login(module: &Module, session: &Session, user_type: CK_USER_TYPE, pin: &[u8]) -> Result<()> {
    let user = match user_type {
        CKU_USER => User::User,
        CKU_SO => User::So,
        CKU_CONTEXT_SPECIFIC => return login_for_operation(module, session, pin),
        _ => return Err(Error::new(CKR_USER_TYPE_INVALID, "no such type of user")),
    };
    check_may_login(session, user)?;
    // Checking a PIN takes its time: no lock is held.
    let grant = module.backend.login(session.slot.serial()?, user, pin)?;
    let mut usage = write(&session.slot.usage);
    if module.sessions.get(session.handle).is_none() {
        return Err(Error::new(CKR_SESSION_CLOSED, "the session was closed during the call"));
    }
    check_login(&usage, user)?;
    usage.login = match user {
        User::User => Login::User(grant),
        User::So => Login::So(grant),
    };
    Ok(())
}

/// `C_Logout`: private session objects die, handles of private token objects become invalid.
///
/// # Errors
/// `CKR_USER_NOT_LOGGED_IN`.
pub fn logout(module: &Module, session: &Session) -> Result<()> {
    // With the catalogue held: who saw the login has entered the object by now, and who logs in next finds the new handles.
    let mut catalogue = write(&session.slot.catalogue);
    let mut usage = write(&session.slot.usage);
    if matches!(usage.login, Login::Public) {
        return Err(Error::new(CKR_USER_NOT_LOGGED_IN, "nobody is logged in"));
    }
    usage.login = Login::Public;
    let private =
        module.objects.matching(|o| o.slot == session.slot.id && o.private && o.session().is_some());
    for (handle, object) in private {
        catalogue.remove(&module.objects, handle);
        if let Some(owner) = object.session().and_then(|owner| module.sessions.get(owner)) {
            owner.disown(handle);
        }
    }
    catalogue.renew_private(&module.objects);
    drop(usage);
    drop(catalogue);
    for (_, other) in module.sessions.matching(|other| other.slot.id == session.slot.id) {
        other.operations().end_all_with_private_keys();
    }
    Ok(())
}

/// The login that a key with `CKA_ALWAYS_AUTHENTICATE` wants for each use.
fn login_for_operation(module: &Module, session: &Session, pin: &[u8]) -> Result<()> {
    let mut operations = session.operations();
    let Some(authenticated) = operations.awaiting_login() else {
        return Err(Error::new(CKR_OPERATION_NOT_INITIALIZED, "no operation waits for a login"));
    };
    module.backend.login(session.slot.serial()?, User::User, pin)?;
    *authenticated = true;
    Ok(())
}

fn check_may_login(session: &Session, user: User) -> Result<()> {
    check_login(&read(&session.slot.usage), user)
}

fn check_login(usage: &slot_token::Usage, user: User) -> Result<()> {
    match (&usage.login, user) {
        (Login::User(_), User::User) | (Login::So(_), User::So) => {
            Err(Error::new(CKR_USER_ALREADY_LOGGED_IN, "already logged in"))
        }
        (Login::User(_), User::So) | (Login::So(_), User::User) => {
            Err(Error::new(CKR_USER_ANOTHER_ALREADY_LOGGED_IN, "the other user is logged in"))
        }
        (Login::Public, User::So) if usage.sessions > usage.rw_sessions => {
            Err(Error::new(CKR_SESSION_READ_ONLY_EXISTS, "a read-only session is open"))
        }
        (Login::Public, _) => Ok(()),
    }
}
