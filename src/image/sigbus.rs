//! Survives an image that is truncated while it is mapped.
//!
//! Touching a page beyond the new end raises SIGBUS. If the address lies in a range that was registered
//! here, the handler maps a zero page over it and counts the fault; the thread that was copying or
//! storing then finds the count changed and reports a truncated image. Any other fault is handled as
//! if this handler did not exist.
#![allow(unsafe_code)]

use std::io;
use std::ptr;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicUsize, Ordering};

/// How many mappings can be watched at once: two snapshots of a guest with the maximum number of
/// blocks, twice. The handler searches all of them, so there must not be too many.
pub(super) const SLOTS: usize = 4096;

struct Slot {
    /// First address; 0 while the slot is free, 1 while it is being filled.
    start: AtomicUsize,
    len: AtomicUsize,
    faults: AtomicUsize,
}

static WATCHED: [Slot; SLOTS] = [const {
    Slot {
        start: AtomicUsize::new(0),
        len: AtomicUsize::new(0),
        faults: AtomicUsize::new(0),
    }
}; SLOTS];

struct Previous(libc::sigaction);

static PREVIOUS: OnceLock<Result<Previous, i32>> = OnceLock::new();
static HOST_PAGE: AtomicUsize = AtomicUsize::new(4096);

/// A range of addresses in which faults are survived while this exists.
#[derive(Debug)]
pub(super) struct FaultWatch {
    slot: usize,
}

impl FaultWatch {
    /// Watches a mapping; `None` if all slots are taken.
    ///
    /// # Errors
    /// If the signal handler cannot be installed.
    pub(super) fn new(start: *const u8, len: usize) -> io::Result<Option<FaultWatch>> {
        install()?;
        for (slot, watched) in WATCHED.iter().enumerate() {
            if watched
                .start
                .compare_exchange(0, 1, Ordering::AcqRel, Ordering::Relaxed)
                .is_ok()
            {
                watched.faults.store(0, Ordering::Relaxed);
                watched.len.store(len, Ordering::Relaxed);
                watched.start.store(start as usize, Ordering::Release);
                return Ok(Some(FaultWatch { slot }));
            }
        }
        Ok(None)
    }

    /// The number of faults so far.
    pub(super) fn faults(&self) -> usize {
        WATCHED[self.slot].faults.load(Ordering::Acquire)
    }
}

impl Drop for FaultWatch {
    fn drop(&mut self) {
        let watched = &WATCHED[self.slot];
        watched.len.store(0, Ordering::Relaxed);
        watched.start.store(0, Ordering::Release);
    }
}

fn install() -> io::Result<()> {
    let outcome = PREVIOUS.get_or_init(|| {
        // SAFETY: sysconf has no preconditions.
        let page = unsafe { libc::sysconf(libc::_SC_PAGESIZE) };
        if let Ok(page @ 1..) = usize::try_from(page) {
            HOST_PAGE.store(page, Ordering::Relaxed);
        }
        // SAFETY: both structures are plain data for which all zeroes is a valid value; the
        // handler has the signature that SA_SIGINFO asks for and does only async-signal-safe
        // things (atomics, mmap, sigaction).
        unsafe {
            let mut action: libc::sigaction = std::mem::zeroed();
            let mut previous: libc::sigaction = std::mem::zeroed();
            action.sa_sigaction = on_sigbus as *const () as usize;
            action.sa_flags = libc::SA_SIGINFO | libc::SA_NODEFER | libc::SA_ONSTACK;
            libc::sigemptyset(&raw mut action.sa_mask);
            if libc::sigaction(libc::SIGBUS, &raw const action, &raw mut previous) == 0 {
                Ok(Previous(previous))
            } else {
                Err(io::Error::last_os_error().raw_os_error().unwrap_or(0))
            }
        }
    });
    match outcome {
        Ok(_) => Ok(()),
        Err(code) => Err(io::Error::from_raw_os_error(*code)),
    }
}

extern "C" fn on_sigbus(signal: i32, info: *mut libc::siginfo_t, context: *mut libc::c_void) {
    // SAFETY: the kernel hands a valid siginfo to a handler installed with SA_SIGINFO.
    let address = unsafe { (*info).si_addr() } as usize;
    for watched in &WATCHED {
        let start = watched.start.load(Ordering::Acquire);
        let len = watched.len.load(Ordering::Relaxed);
        if start > 1 && address >= start && address - start < len {
            let host_page = HOST_PAGE.load(Ordering::Relaxed);
            let page = address & !(host_page - 1);
            // SAFETY: the page lies in a mapping that its owner registered and keeps for as long
            // as the slot names it; replacing a page of that file map by an anonymous one changes
            // only what is read there and where a store goes, which the owner learns from `faults`.
            // It is writable because some of the maps are; nothing is ever stored into the others.
            let mapped = unsafe {
                libc::mmap(
                    page as *mut libc::c_void,
                    host_page,
                    libc::PROT_READ | libc::PROT_WRITE,
                    libc::MAP_FIXED | libc::MAP_PRIVATE | libc::MAP_ANONYMOUS,
                    -1,
                    0,
                )
            };
            if mapped != libc::MAP_FAILED {
                watched.faults.fetch_add(1, Ordering::Release);
                return;
            }
        }
    }
    pass_on(signal, info, context);
}

/// Handles the signal as if our handler did not exist.
fn pass_on(signal: i32, info: *mut libc::siginfo_t, context: *mut libc::c_void) {
    if let Some(Ok(Previous(previous))) = PREVIOUS.get() {
        let handler = previous.sa_sigaction;
        if handler != libc::SIG_DFL && handler != libc::SIG_IGN {
            if previous.sa_flags & libc::SA_SIGINFO != 0 {
                // SAFETY: with SA_SIGINFO set, the field holds a function of this signature.
                let handler: extern "C" fn(i32, *mut libc::siginfo_t, *mut libc::c_void) =
                    unsafe { std::mem::transmute(handler) };
                handler(signal, info, context);
            } else {
                // SAFETY: without SA_SIGINFO, the field holds a function of this signature.
                let handler: extern "C" fn(i32) = unsafe { std::mem::transmute(handler) };
                handler(signal);
            }
            return;
        }
    }
    // SAFETY: restoring the default action is async-signal-safe; on return the faulting
    // instruction runs again and the default action ends the process.
    unsafe {
        let mut default: libc::sigaction = std::mem::zeroed();
        default.sa_sigaction = libc::SIG_DFL;
        libc::sigaction(libc::SIGBUS, &raw const default, ptr::null_mut());
    }
}
