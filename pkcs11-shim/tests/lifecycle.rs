//! Initialising, finalising and forking.
#![allow(clippy::unwrap_used, unsafe_code)]

mod support;

use std::os::unix::process::CommandExt;
use std::process::Command;
use std::ptr::null_mut;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};

use cryptoki_sys::*;

/// The library has one state for the process: one test at a time.
static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());

fn initialize() -> CK_RV {
    support::use_own_state();
    call!(C_Initialize(null_mut()))
}

#[test]
fn initialize_arguments_are_checked() {
    let _lock = ONE_AT_A_TIME.lock().unwrap();
    support::use_own_state();
    unsafe extern "C" fn create(_: *mut *mut std::ffi::c_void) -> CK_RV {
        CKR_OK
    }
    unsafe extern "C" fn use_mutex(_: *mut std::ffi::c_void) -> CK_RV {
        CKR_OK
    }
    let arguments = |some: bool, all: bool, flags, reserved: usize| CK_C_INITIALIZE_ARGS {
        CreateMutex: some.then_some(create as _),
        DestroyMutex: all.then_some(use_mutex as _),
        LockMutex: all.then_some(use_mutex as _),
        UnlockMutex: all.then_some(use_mutex as _),
        flags,
        pReserved: std::ptr::without_provenance_mut(reserved),
    };
    let try_with = |mut arguments: CK_C_INITIALIZE_ARGS| {
        let code = call!(C_Initialize((&raw mut arguments).cast()));
        if code == CKR_OK {
            assert_eq!(call!(C_Finalize(null_mut())), CKR_OK);
        }
        code
    };
    assert_eq!(try_with(arguments(false, false, CKF_OS_LOCKING_OK, 0)), CKR_OK);
    assert_eq!(try_with(arguments(false, false, 0, 0)), CKR_OK);
    assert_eq!(try_with(arguments(true, true, 0, 0)), CKR_OK);
    assert_eq!(try_with(arguments(true, true, CKF_OS_LOCKING_OK, 0)), CKR_OK);
    assert_eq!(try_with(arguments(true, false, 0, 0)), CKR_ARGUMENTS_BAD);
    assert_eq!(try_with(arguments(false, false, 0, 1)), CKR_ARGUMENTS_BAD);
}

#[test]
fn handles_do_not_survive_finalize() {
    let _lock = ONE_AT_A_TIME.lock().unwrap();
    assert_eq!(initialize(), CKR_OK);
    let session = open_somewhere();
    assert_eq!(call!(C_Finalize(null_mut())), CKR_OK);
    assert_eq!(initialize(), CKR_OK);
    assert_eq!(call!(C_CloseSession(session)), CKR_SESSION_HANDLE_INVALID);
    assert_ne!(open_somewhere(), session);
    assert_eq!(call!(C_Finalize(null_mut())), CKR_OK);
}

#[test]
fn finalize_while_other_threads_run_is_clean() {
    let _lock = ONE_AT_A_TIME.lock().unwrap();
    for _ in 0..20 {
        assert_eq!(initialize(), CKR_OK);
        let session = open_somewhere();
        let stop = AtomicBool::new(false);
        std::thread::scope(|scope| {
            for _ in 0..3 {
                scope.spawn(|| {
                    while !stop.load(Ordering::Relaxed) {
                        let mut out = [0; 32];
                        let code = call!(C_GenerateRandom(session, out.as_mut_ptr(), 32));
                        assert!(
                            [CKR_OK, CKR_CRYPTOKI_NOT_INITIALIZED, CKR_SESSION_HANDLE_INVALID]
                                .contains(&code),
                            "{code:#x}"
                        );
                    }
                });
            }
            assert_eq!(call!(C_Finalize(null_mut())), CKR_OK);
            stop.store(true, Ordering::Relaxed);
        });
    }
}

#[test]
fn a_child_process_must_initialise_for_itself() {
    let _lock = ONE_AT_A_TIME.lock().unwrap();
    assert_eq!(initialize(), CKR_OK);
    let session = open_somewhere();
    let mut command = Command::new("true");
    let in_child = move || {
        let mut out = [0; 32];
        let inherited = call!(C_GenerateRandom(session, out.as_mut_ptr(), 32));
        let finalized = call!(C_Finalize(null_mut()));
        let initialized = call!(C_Initialize(null_mut()));
        let stale = call!(C_GenerateRandom(session, out.as_mut_ptr(), 32));
        let own = call!(C_GenerateRandom(open_somewhere(), out.as_mut_ptr(), 32));
        let finalized_own = call!(C_Finalize(null_mut()));
        let codes = [inherited, finalized, initialized, stale, own, finalized_own];
        let expected = [
            CKR_CRYPTOKI_NOT_INITIALIZED,
            CKR_CRYPTOKI_NOT_INITIALIZED,
            CKR_OK,
            CKR_SESSION_HANDLE_INVALID,
            CKR_OK,
            CKR_OK,
        ];
        if codes == expected { Ok(()) } else { Err(std::io::Error::from_raw_os_error(1)) }
    };
    // SAFETY: the child of a test that runs alone; what it calls is what is being tested.
    unsafe { command.pre_exec(in_child) };
    assert!(command.status().expect("every code in the child is as expected").success());
    // The parent goes on.
    let mut out = [0; 32];
    assert_eq!(call!(C_GenerateRandom(session, out.as_mut_ptr(), 32)), CKR_OK);
    assert_eq!(call!(C_Finalize(null_mut())), CKR_OK);
}

/// SQLite keeps its locks by process: a child that went on with what it inherited would write into a log that
/// its parent, or anybody, deletes under it.
#[test]
fn what_a_child_stores_is_there_whatever_its_parent_does() {
    let _lock = ONE_AT_A_TIME.lock().unwrap();
    for parent_writes_on in [false, true] {
        assert_eq!(initialize(), CKR_OK);
        let session = open_somewhere();
        assert_eq!(store(session, b"parent, before"), CKR_OK);
        let stop = AtomicBool::new(false);
        let child = std::thread::scope(|scope| {
            for _ in 0..3 {
                scope.spawn(|| {
                    while parent_writes_on && !stop.load(Ordering::Relaxed) {
                        assert_eq!(store(session, b"parent, meanwhile"), CKR_OK);
                    }
                });
            }
            std::thread::sleep(std::time::Duration::from_millis(20));
            // SAFETY: the child calls the library alone, which is what is being tested, and leaves by _exit.
            let child = unsafe { libc::fork() };
            if child == 0 {
                std::thread::sleep(std::time::Duration::from_millis(100));
                let codes = [
                    call!(C_Initialize(null_mut())),
                    store(open_somewhere(), b"child"),
                    call!(C_Finalize(null_mut())),
                ];
                // SAFETY: ends the child without what its parent registered for its own end.
                unsafe { libc::_exit(i32::from(codes != [CKR_OK; 3])) };
            }
            stop.store(true, Ordering::Relaxed);
            child
        });
        // The last one to close the database deletes its log, unless the child has it open.
        assert_eq!(call!(C_Finalize(null_mut())), CKR_OK);
        let mut status = 0;
        // SAFETY: waits for the child made above.
        assert_eq!(unsafe { libc::waitpid(child, &raw mut status, 0) }, child);
        assert_eq!(status, 0);
        assert_eq!(initialize(), CKR_OK);
        assert_eq!(found(open_somewhere(), b"child"), 1);
        assert_eq!(call!(C_Finalize(null_mut())), CKR_OK);
        support::forget_state();
    }
}

/// Stores a public data object of this label on the token.
fn store(session: CK_SESSION_HANDLE, label: &[u8]) -> CK_RV {
    let (mut class, mut yes, mut label) = ([CKO_DATA], [CK_TRUE], label.to_vec());
    let mut template = [
        support::attribute(CKA_CLASS, &mut class),
        support::attribute(CKA_TOKEN, &mut yes),
        support::attribute(CKA_LABEL, &mut label),
    ];
    let mut object = 0;
    call!(C_CreateObject(session, template.as_mut_ptr(), 3, &raw mut object))
}

/// How many objects have this label.
fn found(session: CK_SESSION_HANDLE, label: &[u8]) -> CK_ULONG {
    let mut label = label.to_vec();
    let mut template = [support::attribute(CKA_LABEL, &mut label)];
    assert_eq!(call!(C_FindObjectsInit(session, template.as_mut_ptr(), 1)), CKR_OK);
    let (mut handles, mut count) = ([0; 16], 0);
    assert_eq!(call!(C_FindObjects(session, handles.as_mut_ptr(), 16, &raw mut count)), CKR_OK);
    assert_eq!(call!(C_FindObjectsFinal(session)), CKR_OK);
    count
}

/// A session with the first token, which is made if there is none.
fn open_somewhere() -> CK_SESSION_HANDLE {
    let (mut slots, mut count) = ([0; 8], 8);
    assert_eq!(call!(C_GetSlotList(CK_TRUE, slots.as_mut_ptr(), &raw mut count)), CKR_OK);
    if count == 1 {
        let mut label = [b' '; 32];
        let mut pin = *b"12345678";
        assert_eq!(call!(C_InitToken(slots[0], pin.as_mut_ptr(), 8, label.as_mut_ptr())), CKR_OK);
    }
    support::open(slots[0])
}
