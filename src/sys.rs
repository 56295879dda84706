//! The few things of the operating system that no safe crate offers.
#![allow(unsafe_code)]

use std::io;
use std::os::fd::{BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};

/// Takes over a descriptor that the process inherited.
///
/// # Errors
/// When there is no such descriptor.
pub(crate) fn take_fd(fd: RawFd) -> io::Result<OwnedFd> {
    // SAFETY: borrowed only to ask whether it is open; a wrong number is answered with EBADF.
    let flags = rustix::io::fcntl_getfd(unsafe { BorrowedFd::borrow_raw(fd) })?;
    // One that was inherited cannot have this flag: it is one of our own.
    if flags.contains(rustix::io::FdFlags::CLOEXEC) {
        return Err(rustix::io::Errno::BADF.into());
    }
    // SAFETY: it is open, and whoever names it on the command line gives it to us.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// The CPU time that this thread has used.
pub(crate) fn thread_cpu_time() -> Duration {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    Duration::new(
        u64::try_from(time.tv_sec).unwrap_or(0),
        u32::try_from(time.tv_nsec).unwrap_or(0),
    )
}

/// The CPU time that this process has used.
pub(crate) fn process_cpu_time() -> Duration {
    let time = clock_gettime(ClockId::ProcessCPUTime);
    Duration::new(
        u64::try_from(time.tv_sec).unwrap_or(0),
        u32::try_from(time.tv_nsec).unwrap_or(0),
    )
}

/// The CPU time that another process has used, all its threads together, those that have ended
/// included.
///
/// # Errors
/// When there is no such process.
pub(crate) fn cpu_time_of(process: rustix::process::Pid) -> io::Result<Duration> {
    let mut clock: libc::clockid_t = 0;
    // SAFETY: it writes one number to where it is told, and that lives.
    let error =
        unsafe { libc::clock_getcpuclockid(process.as_raw_nonzero().get(), &raw mut clock) };
    if error != 0 {
        return Err(io::Error::from_raw_os_error(error));
    }
    let mut time = libc::timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    // SAFETY: it writes one timespec to where it is told, and that lives.
    if unsafe { libc::clock_gettime(clock, &raw mut time) } != 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(Duration::new(
        u64::try_from(time.tv_sec).unwrap_or(0),
        u32::try_from(time.tv_nsec).unwrap_or(0),
    ))
}

/// Gives freed memory back to the system, where the allocator can be asked to.
pub(crate) fn trim_memory() {
    #[cfg(target_env = "gnu")]
    // SAFETY: it takes no pointer, and may be called at any time from any thread.
    unsafe {
        libc::malloc_trim(0);
    }
}
