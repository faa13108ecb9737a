//! SIGPIPE, which ends a process that has not said otherwise: no lost connection of this library may do that to its host.
#![allow(unsafe_code)]

use std::marker::PhantomData;
use std::mem::MaybeUninit;
use std::ptr;

/// While it lives, this thread gets no SIGPIPE; one that was raised meanwhile is thrown away.
pub struct NoBrokenPipe {
    /// The thread's mask before.
    before: libc::sigset_t,
    /// A mask belongs to its thread.
    not_send: PhantomData<*const ()>,
}

impl NoBrokenPipe {
    /// Blocks the signal.
    pub fn new() -> Self {
        let mut before = MaybeUninit::<libc::sigset_t>::uninit();
        // SAFETY: both sets are valid; the call writes the second one, as it can't fail with these arguments.
        let before = unsafe {
            libc::pthread_sigmask(libc::SIG_BLOCK, &sigpipe(), before.as_mut_ptr());
            before.assume_init()
        };
        Self { before, not_send: PhantomData }
    }
}

impl Default for NoBrokenPipe {
    fn default() -> Self {
        Self::new()
    }
}

impl Drop for NoBrokenPipe {
    fn drop(&mut self) {
        // SAFETY: all sets are valid. If the signal was not blocked before, a pending one is this library's own.
        unsafe {
            if libc::sigismember(&raw const self.before, libc::SIGPIPE) == 0 {
                let mut pending = MaybeUninit::<libc::sigset_t>::zeroed().assume_init();
                libc::sigpending(&raw mut pending);
                if libc::sigismember(&raw const pending, libc::SIGPIPE) == 1 {
                    let now = libc::timespec { tv_sec: 0, tv_nsec: 0 };
                    libc::sigtimedwait(&sigpipe(), ptr::null_mut(), &now);
                }
            }
            libc::pthread_sigmask(libc::SIG_SETMASK, &raw const self.before, ptr::null_mut());
        }
    }
}

/// The set of SIGPIPE alone.
fn sigpipe() -> libc::sigset_t {
    let mut set = MaybeUninit::<libc::sigset_t>::uninit();
    // SAFETY: the first call makes the set valid.
    unsafe {
        libc::sigemptyset(set.as_mut_ptr());
        libc::sigaddset(set.as_mut_ptr(), libc::SIGPIPE);
        set.assume_init()
    }
}

/// For programs: whoever writes to a pipe that nobody reads any more ends, as other programs of the command line do.
/// Rust's ignore the signal.
pub fn end_by_broken_pipe() {
    // SAFETY: the default action is no handler of ours.
    unsafe { libc::signal(libc::SIGPIPE, libc::SIG_DFL) };
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_broken_pipe_ends_nobody() {
        // Test programs ignore the signal; a host of the library need not.
        end_by_broken_pipe();
        for _ in 0..2 {
            let (reader, writer) = std::io::pipe().expect("pipe");
            drop(reader);
            let quiet = NoBrokenPipe::new();
            let written = std::io::Write::write(&mut &writer, b"x");
            assert_eq!(written.expect_err("nobody reads").kind(), std::io::ErrorKind::BrokenPipe);
            drop(quiet);
        }
    }
}
