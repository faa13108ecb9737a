//! Slots and tokens (section 5.5). Every token is in a slot of its own, and one more slot holds an
//! uninitialised token, from which `C_InitToken` makes the next.

use std::collections::HashSet;
use std::sync::{Arc, OnceLock, RwLock};
use std::time::Duration;

use cryptoki_sys::*;
use hsm_emulator::units::{Error, Result};

use crate::appearance::{Appearance, Identity};
use crate::backend::{Grant, Token, User};
use crate::catalogue::Catalogue;
use crate::handles::{read, write};
use crate::mechanisms::{MECHANISMS, MechanismInfo};
use crate::module::{Module, padded};
use crate::session::Session;

/// A slot with its token, and what this process does with it.
pub struct Slot {
    /// Its number.
    pub id: CK_SLOT_ID,
    serial: OnceLock<String>,
    pub(crate) usage: RwLock<Usage>,
    pub(crate) catalogue: RwLock<Catalogue>,
}

/// Sessions and login state of a token in this process.
#[derive(Default)]
pub struct Usage {
    pub(crate) login: Login,
    pub(crate) sessions: CK_ULONG,
    pub(crate) rw_sessions: CK_ULONG,
}

/// Who is logged in, and the proof of it (section 5.6.8: common to all sessions of a process with a token).
#[derive(Default)]
pub enum Login {
    /// Nobody.
    #[default]
    Public,
    /// The user.
    User(Grant),
    /// The security officer.
    So(Grant),
}

impl Slot {
    fn new(id: CK_SLOT_ID, serial: Option<&str>) -> Self {
        let cell = OnceLock::new();
        if let Some(serial) = serial {
            cell.get_or_init(|| serial.to_owned());
        }
        Self { id, serial: cell, usage: RwLock::default(), catalogue: RwLock::default() }
    }

    /// The token's serial number.
    ///
    /// # Errors
    /// `CKR_TOKEN_NOT_RECOGNIZED` if the token is not initialised.
    pub fn serial(&self) -> Result<&str> {
        self.serial
            .get()
            .map(String::as_str)
            .ok_or_else(|| Error::new(CKR_TOKEN_NOT_RECOGNIZED, "the token is not initialised"))
    }

    /// Is the user (not the security officer) logged in?
    pub fn user_logged_in(&self) -> bool {
        matches!(read(&self.usage).login, Login::User(_))
    }

    /// The user's proof of login, if there is one.
    pub fn user_grant(&self) -> Option<Grant> {
        match &read(&self.usage).login {
            Login::User(grant) => Some(grant.clone()),
            _ => None,
        }
    }

    /// The SO's proof of login, if there is one.
    pub fn so_grant(&self) -> Option<Grant> {
        match &read(&self.usage).login {
            Login::So(grant) => Some(grant.clone()),
            _ => None,
        }
    }

    /// Looks at an error that the backend gave for a grant: if the grant is void, since the PIN was changed
    /// elsewhere, nobody is logged in any more, and may log in with the new PIN.
    pub fn note_void_grant(&self, grant: Option<&Grant>, error: Error) -> Error {
        if error.code == CKR_USER_NOT_LOGGED_IN {
            let mut usage = write(&self.usage);
            if matches!((&usage.login, grant), (Login::User(held) | Login::So(held), Some(void)) if held.0 == void.0)
            {
                usage.login = Login::Public;
            }
        }
        error
    }
}

/// Puts tokens into slots: known ones stay where they are, new ones get a slot whose number is the low
/// 31 bits of the serial number, and there is always one uninitialised slot. Slots are in the order of their
/// numbers, the uninitialised one last, as SoftHSM has them.
pub fn arrange(tokens: &[Token], mut slots: Vec<Arc<Slot>>) -> Vec<Arc<Slot>> {
    let is_free = |slot: &Arc<Slot>| slot.serial.get().is_none();
    let mut free: Vec<_> = slots.extract_if(.., |slot| is_free(slot)).collect();
    for token in tokens {
        if slots.iter().any(|slot| slot.serial.get() == Some(&token.serial)) {
            continue;
        }
        let mut id = u64::from_str_radix(&token.serial, 16).unwrap_or(0) & 0x7fff_ffff;
        while slots.iter().chain(&free).any(|slot| slot.id == id) {
            id = (id + 1) & 0x7fff_ffff;
        }
        slots.push(Arc::new(Slot::new(id, Some(&token.serial))));
    }
    if free.is_empty() {
        let mut id = slots.len() as CK_SLOT_ID;
        while slots.iter().any(|slot| slot.id == id) {
            id += 1;
        }
        free.push(Arc::new(Slot::new(id, None)));
    }
    slots.sort_by_key(|slot| slot.id);
    slots.append(&mut free);
    slots
}

/// The ids of all slots. `refresh` (the application asks how many there are) looks for new tokens first.
///
/// # Errors
/// The backend's.
pub fn slot_list(module: &Module, refresh: bool) -> Result<Vec<CK_SLOT_ID>> {
    if refresh {
        let tokens = module.backend.tokens()?;
        module.slots.rcu(|slots| arrange(&tokens, slots.to_vec()));
    }
    Ok(module.slots.load().iter().map(|slot| slot.id).collect())
}

/// `C_WaitForSlotEvent`: the slot of a token that another process has made.
///
/// # Errors
/// `CKR_NO_EVENT` if it need not wait; `CKR_CRYPTOKI_NOT_INITIALIZED` after `C_Finalize` by another thread; the backend's.
pub fn wait_for_slot_event(module: &Module, dont_block: bool) -> Result<CK_SLOT_ID> {
    loop {
        let serials = || -> HashSet<String> {
            module.slots.load().iter().filter_map(|slot| slot.serial.get().cloned()).collect()
        };
        let known = serials();
        slot_list(module, true)?;
        let is_new = |slot: &&Arc<Slot>| slot.serial.get().is_some_and(|serial| !known.contains(serial));
        if let Some(slot) = module.slots.load().iter().find(is_new) {
            return Ok(slot.id);
        }
        if dont_block {
            return Err(Error::new(CKR_NO_EVENT, "no token was made"));
        }
        std::thread::sleep(BETWEEN_LOOKS);
        module.check_current()?;
    }
}

/// `C_GetSlotInfo`.
///
/// # Errors
/// `CKR_SLOT_ID_INVALID`.
pub fn slot_info(module: &Module, id: CK_SLOT_ID) -> Result<CK_SLOT_INFO> {
    let slot = slot(module, id)?;
    let Appearance { identity, removable, .. } = module.appearance;
    Ok(CK_SLOT_INFO {
        slotDescription: identity.slot_description(slot.id),
        manufacturerID: identity.manufacturer(),
        flags: CKF_TOKEN_PRESENT | if removable { CKF_REMOVABLE_DEVICE } else { 0 },
        hardwareVersion: identity.version(),
        firmwareVersion: identity.version(),
    })
}

/// `C_GetTokenInfo`.
///
/// # Errors
/// `CKR_SLOT_ID_INVALID`, `CKR_TOKEN_NOT_PRESENT`.
pub fn token_info(module: &Module, id: CK_SLOT_ID) -> Result<CK_TOKEN_INFO> {
    let slot = slot(module, id)?;
    let token = match slot.serial.get() {
        Some(serial) => Some(find_token(module, serial)?),
        None => None,
    };
    let usage = read(&slot.usage);
    let (label, serial) = token.as_ref().map_or(("", ""), |t| (&*t.label, &*t.serial));
    let identity = module.appearance.identity;
    Ok(CK_TOKEN_INFO {
        label: padded(label),
        manufacturerID: identity.manufacturer(),
        model: identity.model(),
        serialNumber: padded(serial),
        flags: token_flags(token.as_ref(), identity),
        ulMaxSessionCount: CK_EFFECTIVELY_INFINITE,
        ulSessionCount: usage.sessions,
        ulMaxRwSessionCount: CK_EFFECTIVELY_INFINITE,
        ulRwSessionCount: usage.rw_sessions,
        ulMaxPinLen: MAX_PIN_BYTES as CK_ULONG,
        ulMinPinLen: MIN_PIN_BYTES as CK_ULONG,
        ulTotalPublicMemory: CK_UNAVAILABLE_INFORMATION,
        ulFreePublicMemory: CK_UNAVAILABLE_INFORMATION,
        ulTotalPrivateMemory: CK_UNAVAILABLE_INFORMATION,
        ulFreePrivateMemory: CK_UNAVAILABLE_INFORMATION,
        hardwareVersion: identity.version(),
        firmwareVersion: identity.version(),
        utcTime: [b' '; 16],
    })
}

fn token_flags(token: Option<&Token>, identity: Identity) -> CK_FLAGS {
    let mut flags = CKF_RNG | CKF_LOGIN_REQUIRED | CKF_RESTORE_KEY_NOT_NEEDED;
    let Some(token) = token else { return flags | identity.uninitialized_token_flags() };
    flags |= CKF_TOKEN_INITIALIZED;
    if token.user_pin_initialized {
        flags |= CKF_USER_PIN_INITIALIZED;
    }
    let max = token.max_pin_failures;
    flags |= match token.user_pin_failures {
        0 => 0,
        n if n >= max => CKF_USER_PIN_LOCKED,
        n if n + 1 == max => CKF_USER_PIN_COUNT_LOW | CKF_USER_PIN_FINAL_TRY,
        _ => CKF_USER_PIN_COUNT_LOW,
    };
    flags |= match token.so_pin_failures {
        0 => 0,
        n if n >= max => CKF_SO_PIN_LOCKED,
        n if n + 1 == max => CKF_SO_PIN_COUNT_LOW | CKF_SO_PIN_FINAL_TRY,
        _ => CKF_SO_PIN_COUNT_LOW,
    };
    flags
}

/// `C_GetMechanismList`.
///
/// # Errors
/// `CKR_SLOT_ID_INVALID`.
pub fn mechanism_list(module: &Module, id: CK_SLOT_ID) -> Result<Vec<CK_MECHANISM_TYPE>> {
    slot(module, id)?;
    let offered = &module.appearance.mechanisms;
    Ok(MECHANISMS.iter().map(|info| info.kind).filter(|kind| offered.allows(*kind)).collect())
}

/// `C_GetMechanismInfo`.
///
/// # Errors
/// `CKR_SLOT_ID_INVALID`, `CKR_MECHANISM_INVALID`.
pub fn mechanism_info(module: &Module, id: CK_SLOT_ID, kind: CK_MECHANISM_TYPE) -> Result<CK_MECHANISM_INFO> {
    slot(module, id)?;
    let info = MechanismInfo::of(kind)?;
    let (min, max) = info.key_sizes;
    Ok(CK_MECHANISM_INFO { ulMinKeySize: min, ulMaxKeySize: max, flags: info.all_flags() })
}

/// `C_InitToken`. The slot keeps its number until the library is initialised again.
///
/// # Errors
/// `CKR_SESSION_EXISTS`, `CKR_PIN_LEN_RANGE`, `CKR_PIN_INCORRECT`, `CKR_PIN_LOCKED`.
pub fn init_token(module: &Module, id: CK_SLOT_ID, so_pin: &[u8], label: &[u8; 32]) -> Result<()> {
    let slot = slot(module, id)?;
    let label = std::str::from_utf8(label)
        .map_err(|_| Error::new(CKR_ARGUMENTS_BAD, "the label is not UTF-8"))?
        .trim_end_matches(' ');
    // Held to the end: no session may be opened meanwhile.
    let usage = write(&slot.usage);
    if usage.sessions > 0 {
        return Err(Error::new(CKR_SESSION_EXISTS, "the application has sessions with this token"));
    }
    match slot.serial.get() {
        Some(serial) => {
            module.backend.init_token(Some(serial), so_pin, label)?;
            module.saved_operations.forget(slot.id);
            // Whoever has the catalogue may want to know who is logged in: it comes before the usage.
            drop(usage);
            write(&slot.catalogue).forget_all(&module.objects);
            return Ok(());
        }
        None => {
            check_new_pin(so_pin)?;
            let token = module.backend.init_token(None, so_pin, label)?;
            slot.serial.get_or_init(|| token.serial);
        }
    }
    drop(usage);
    Ok(())
}

/// `C_InitPIN`.
///
/// # Errors
/// `CKR_USER_NOT_LOGGED_IN` unless the SO is, `CKR_PIN_LEN_RANGE`, `CKR_PIN_INVALID`.
pub fn init_pin(module: &Module, session: &Session, pin: &[u8]) -> Result<()> {
    let not_there = || Error::new(CKR_USER_NOT_LOGGED_IN, "the security officer is not logged in");
    let grant = session.slot.so_grant().ok_or_else(not_there)?;
    check_new_pin(pin)?;
    let outcome = module.backend.init_pin(&grant, pin);
    outcome.map_err(|error| session.slot.note_void_grant(Some(&grant), error))
}

/// `C_SetPIN`: the PIN of who is logged in, and the user's if nobody is.
///
/// # Errors
/// `CKR_SESSION_READ_ONLY`, `CKR_PIN_LEN_RANGE`, `CKR_PIN_INVALID`, `CKR_PIN_INCORRECT`, `CKR_PIN_LOCKED`.
pub fn set_pin(module: &Module, session: &Session, old: &[u8], new: &[u8]) -> Result<()> {
    session.require_rw()?;
    check_new_pin(new)?;
    let serial = session.slot.serial()?;
    let (user, logged_in) = match read(&session.slot.usage).login {
        Login::Public => (User::User, false),
        Login::User(_) => (User::User, true),
        Login::So(_) => (User::So, true),
    };
    module.backend.set_pin(serial, user, old, new)?;
    if logged_in {
        // The old grant died with the old PIN.
        let grant = module.backend.login(serial, user, new)?;
        let mut usage = write(&session.slot.usage);
        match &mut usage.login {
            Login::User(held) if user == User::User => *held = grant,
            Login::So(held) if user == User::So => *held = grant,
            _ => {}
        }
    }
    Ok(())
}

/// Finds a slot.
///
/// # Errors
/// `CKR_SLOT_ID_INVALID`.
pub fn slot(module: &Module, id: CK_SLOT_ID) -> Result<Arc<Slot>> {
    module
        .slots
        .load()
        .iter()
        .find(|slot| slot.id == id)
        .cloned()
        .ok_or_else(|| Error::new(CKR_SLOT_ID_INVALID, "no slot has this number"))
}

fn find_token(module: &Module, serial: &str) -> Result<Token> {
    module
        .backend
        .tokens()?
        .into_iter()
        .find(|token| token.serial == serial)
        .ok_or_else(|| Error::new(CKR_TOKEN_NOT_PRESENT, "the token is gone"))
}

fn check_new_pin(pin: &[u8]) -> Result<()> {
    if !(MIN_PIN_BYTES..=MAX_PIN_BYTES).contains(&pin.len()) {
        return Err(Error::new(CKR_PIN_LEN_RANGE, "a PIN has 4 to 255 bytes"));
    }
    std::str::from_utf8(pin).map_err(|_| Error::new(CKR_PIN_INVALID, "a PIN is UTF-8"))?;
    Ok(())
}

const MIN_PIN_BYTES: usize = 4;
const MAX_PIN_BYTES: usize = 255;

/// How often `C_WaitForSlotEvent` looks for new tokens.
const BETWEEN_LOOKS: Duration = Duration::from_millis(200);

#[cfg(test)]
mod tests {
    use super::*;

    fn token(serial: &str) -> Token {
        Token {
            serial: serial.into(),
            label: "token".into(),
            user_pin_initialized: true,
            user_pin_failures: 0,
            so_pin_failures: 0,
            max_pin_failures: 10,
        }
    }

    fn ids(slots: &[Arc<Slot>]) -> Vec<CK_SLOT_ID> {
        slots.iter().map(|slot| slot.id).collect()
    }

    #[test]
    fn one_slot_is_always_uninitialised() {
        assert_eq!(ids(&arrange(&[], Vec::new())), [0]);
        assert_eq!(ids(&arrange(&[token("00000000ffffffff")], Vec::new())), [0x7fff_ffff, 1]);
    }

    #[test]
    fn slots_keep_their_numbers() {
        let first = token("0000000000000001");
        let slots = arrange(std::slice::from_ref(&first), Vec::new());
        assert_eq!(ids(&slots), [1, 2]);
        // The uninitialised slot became a token here; another process made one more.
        slots[1].serial.get_or_init(|| "00000000000000aa".into());
        let slots = arrange(&[first, token("00000000000000aa"), token("00000000000000bb")], slots);
        assert_eq!(ids(&slots), [1, 2, 0xbb, 3]);
    }

    #[test]
    fn equal_low_bits_do_not_collide() {
        let slots = arrange(&[token("1000000000000005"), token("2000000000000005")], Vec::new());
        assert_eq!(ids(&slots), [5, 6, 2]);
    }

    #[test]
    fn the_order_is_that_of_the_numbers() {
        let tokens = [token("00000000000000bb"), token("0000000000000003")];
        assert_eq!(ids(&arrange(&tokens, Vec::new())), [3, 0xbb, 2]);
    }

    #[test]
    fn pin_flags_follow_the_failures() {
        let mut token = token("1");
        token.user_pin_failures = 9;
        token.so_pin_failures = 10;
        let flags = token_flags(Some(&token), Identity::Own);
        assert_ne!(flags & CKF_USER_PIN_FINAL_TRY, 0);
        assert_eq!(flags & CKF_USER_PIN_LOCKED, 0);
        assert_ne!(flags & CKF_SO_PIN_LOCKED, 0);
    }
}
