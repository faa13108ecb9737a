//! Which process is this? A child after `fork` must not use its parent's library state.
//!
//! Every exported function asks, so the answer may not cost a system call (`getpid` takes as long as
//! opening a session): a page that the kernel wipes in the child holds the number of the process.
#![allow(unsafe_code)]

use std::ptr;
use std::sync::atomic::{AtomicPtr, AtomicU64, Ordering};

use rustix::mm::{Advice, MapFlags, ProtFlags, madvise, mmap_anonymous};

/// The number of this process, different from its parent's; 0 in a child before [`adopt`].
pub fn process() -> u64 {
    let page = PAGE.load(Ordering::Acquire);
    if page.is_null() {
        return 0;
    }
    // SAFETY: a non-null PAGE is a mapping that is never unmapped, page-aligned and initialised to zero.
    match unsafe { &*page }.load(Ordering::Relaxed) {
        WIPE_UNSUPPORTED => u64::from(rustix::process::getpid().as_raw_nonzero().get().unsigned_abs()),
        number => number,
    }
}

/// Gives this process a number, if it has none yet, and returns it.
pub fn adopt() -> u64 {
    if PAGE.load(Ordering::Acquire).is_null() {
        map_page();
    }
    let page = PAGE.load(Ordering::Acquire);
    if !page.is_null() {
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        // SAFETY: as in `process`.
        let _ = unsafe { &*page }.compare_exchange(0, number, Ordering::AcqRel, Ordering::Acquire);
    }
    process()
}

/// Takes the number away, as if this were a child: whatever belongs to it can't be used any more.
pub fn disown() {
    let page = PAGE.load(Ordering::Acquire);
    if !page.is_null() {
        // SAFETY: as in `process`.
        unsafe { &*page }.store(0, Ordering::Release);
    }
}

/// Has three functions called around every `fork` of this process: before it, and after it in the parent and in the
/// child; and one when the process ends. They stay registered for ever, as the library stays mapped.
pub fn register_handlers(
    prepare: extern "C" fn(),
    parent: extern "C" fn(),
    child: extern "C" fn(),
    exit: extern "C" fn(),
) {
    static ONCE: std::sync::Once = std::sync::Once::new();
    ONCE.call_once(|| {
        // SAFETY: the functions are valid for ever. A failure (no memory) leaves things as they were.
        let _ = unsafe { libc::pthread_atfork(Some(prepare), Some(parent), Some(child)) };
        // SAFETY: likewise.
        let _ = unsafe { libc::atexit(exit) };
    });
}

fn map_page() {
    // SAFETY: a fresh private anonymous mapping; nothing else points into it.
    let mapped = unsafe {
        mmap_anonymous(ptr::null_mut(), PAGE_BYTES, ProtFlags::READ | ProtFlags::WRITE, MapFlags::PRIVATE)
    };
    let Ok(mapped) = mapped else { return };
    // SAFETY: the mapping just made.
    if unsafe { madvise(mapped, PAGE_BYTES, Advice::LinuxWipeOnFork) }.is_err() {
        // SAFETY: page-aligned, zeroed, and ours alone until published below.
        unsafe { &*mapped.cast::<AtomicU64>() }.store(WIPE_UNSUPPORTED, Ordering::Relaxed);
    }
    // Another thread may have been faster; its page stays, ours is a page wasted.
    let _ = PAGE.compare_exchange(ptr::null_mut(), mapped.cast(), Ordering::AcqRel, Ordering::Acquire);
}

static PAGE: AtomicPtr<AtomicU64> = AtomicPtr::new(ptr::null_mut());
static NEXT: AtomicU64 = AtomicU64::new(1);
/// Linux before 4.14: fall back to the process id.
const WIPE_UNSUPPORTED: u64 = u64::MAX;
const PAGE_BYTES: usize = 4096;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_keeps_its_number() {
        let number = adopt();
        assert_ne!(number, 0);
        assert_eq!(adopt(), number);
        assert_eq!(process(), number);
    }
}
