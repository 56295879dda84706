//! The few system calls that no safe crate offers.
#![allow(unsafe_code)]

use std::fs::File;
use std::io;
use std::mem::ManuallyDrop;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::Duration;

use rustix::fs::FlockOperation;
use rustix::io::{DupFlags, dup3, fcntl_dupfd_cloexec};
use rustix::time::{ClockId, clock_gettime};

/// Standard error; standard input and output come before it.
const MOST_STANDARD: RawFd = 2;

/// Whether this process may map `bytes` more. Nothing is mapped when this returns, and no memory is used.
///
/// # Errors
/// When it may not: a limit on its address space is the usual reason.
pub(crate) fn can_map(bytes: usize) -> io::Result<()> {
    // Not reserved, so that only a limit counts, and not how much memory is free.
    (memmap2::MmapOptions::new().len(bytes).no_reserve_swap()).map_anon()?;
    Ok(())
}

/// Takes over a descriptor that the process inherited.
///
/// What is taken of the standard streams is another descriptor of the same file; their own numbers
/// are `/dev/null`'s from then on. If they were closed, the next file or socket to be opened would get
/// one of them, and with it what is printed.
///
/// # Errors
/// When the descriptor is not open, or was taken already.
pub(crate) fn take_fd(fd: RawFd) -> io::Result<OwnedFd> {
    // SAFETY: borrowed only to ask whether it is open; a wrong number is answered with EBADF.
    let flags = rustix::io::fcntl_getfd(unsafe { BorrowedFd::borrow_raw(fd) })?;
    // One that was inherited cannot have this flag: it is one of our own.
    if flags.contains(rustix::io::FdFlags::CLOEXEC) {
        return Err(rustix::io::Errno::BADF.into());
    }
    // SAFETY: it is open, and naming it on the command line gives it to this process.
    let inherited = unsafe { OwnedFd::from_raw_fd(fd) };
    if fd > MOST_STANDARD {
        return Ok(inherited);
    }
    // The number stays open whatever fails: it is given another file, and never closed.
    let mut number = ManuallyDrop::new(inherited);
    let taken = fcntl_dupfd_cloexec(&*number, MOST_STANDARD + 1)?;
    let null = File::options().read(true).write(true).open("/dev/null")?;
    // The flag says that it was taken.
    dup3(&null, &mut number, DupFlags::CLOEXEC)?;
    Ok(taken)
}

/// Whether a descriptor is a socket that listens. It may be any number.
pub(crate) fn is_listening(fd: RawFd) -> bool {
    // SAFETY: borrowed only for this question; a wrong number is answered with EBADF.
    let fd = unsafe { BorrowedFd::borrow_raw(fd) };
    rustix::net::sockopt::socket_acceptconn(fd).unwrap_or(false)
}

/// The PID of the process at the other end of a Unix socket: that of a connected one if this one
/// accepted it, and that of the listener if this one connected. `None`: it has no PID that this process
/// could name, being in another PID namespace.
///
/// # Errors
/// When this is not such a socket.
pub(crate) fn peer_pid(socket: BorrowedFd<'_>) -> io::Result<Option<u32>> {
    let mut peer = libc::ucred {
        pid: 0,
        uid: 0,
        gid: 0,
    };
    let mut len = libc::socklen_t::try_from(size_of::<libc::ucred>()).unwrap_or(0);
    // SAFETY: it writes at most `len` bytes to the pointer, which is valid for as many. (Not rustix's:
    // its PIDs cannot be 0.)
    let failed = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_PEERCRED,
            (&raw mut peer).cast(),
            &raw mut len,
        )
    };
    if failed != 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(u32::try_from(peer.pid).ok().filter(|pid| *pid > 0))
}

/// Whether `path` names the file that is open as `file`. A link is not followed.
pub(crate) fn same_file(file: &File, path: &Path) -> bool {
    let identity = |metadata: std::fs::Metadata| (metadata.dev(), metadata.ino());
    match (file.metadata(), std::fs::symlink_metadata(path)) {
        (Ok(file), Ok(path)) => identity(file) == identity(path),
        _ => false,
    }
}

/// Locks a file or a folder against other processes that do the same. `false`: one has it already.
pub(crate) fn try_lock(file: &File) -> bool {
    rustix::fs::flock(file, FlockOperation::NonBlockingLockExclusive).is_ok()
}

/// How an attempt to lock a range ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum RangeLock {
    /// It is locked until the file is closed, wherever else it is open.
    Taken,
    /// Another lock overlaps it: its first byte and its length.
    HeldByAnother((u64, u64)),
}

/// Locks the bytes from the first number on, as many as the second says (0: to any end), with an open
/// file description lock, fcntl_locking(2). Unlike a process's own locks, it does not vanish when the
/// process closes another descriptor of the file. The file must be open for writing.
///
/// # Errors
/// Those of the file system.
pub(crate) fn try_lock_range(file: &File, (start, len): (u64, u64)) -> io::Result<RangeLock> {
    let number = |value| libc::off_t::try_from(value).map_err(|_| rustix::io::Errno::OVERFLOW);
    // The types of the constants differ between C libraries.
    let mut lock = libc::flock {
        l_type: libc::F_WRLCK as _,
        l_whence: libc::SEEK_SET as _,
        l_start: number(start)?,
        l_len: number(len)?,
        l_pid: 0,
    };
    let fd = std::os::fd::AsRawFd::as_raw_fd(file);
    // SAFETY: the descriptor is open, and the pointer is that of a valid `flock`.
    if unsafe { libc::fcntl(fd, libc::F_OFD_SETLK, &raw const lock) } == 0 {
        return Ok(RangeLock::Taken);
    }
    let error = io::Error::last_os_error();
    if !matches!(error.raw_os_error(), Some(libc::EAGAIN | libc::EACCES)) {
        return Err(error);
    }
    // SAFETY: as above; the kernel writes the other lock to it.
    if unsafe { libc::fcntl(fd, libc::F_OFD_GETLK, &raw mut lock) } != 0 {
        return Err(io::Error::last_os_error());
    }
    if lock.l_type == libc::F_UNLCK as libc::c_short {
        // It was given back in between.
        return Ok(RangeLock::HeldByAnother((start, len)));
    }
    let number = |value| u64::try_from(value).unwrap_or(0);
    Ok(RangeLock::HeldByAnother((
        number(lock.l_start),
        number(lock.l_len),
    )))
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
/// When the process does not exist.
pub(crate) fn cpu_time_of(process: rustix::process::Pid) -> io::Result<Duration> {
    let mut clock: libc::clockid_t = 0;
    // SAFETY: it writes one number to the pointer, which is valid.
    let error =
        unsafe { libc::clock_getcpuclockid(process.as_raw_nonzero().get(), &raw mut clock) };
    if error != 0 {
        return Err(io::Error::from_raw_os_error(error));
    }
    let mut time = libc::timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    // SAFETY: it writes one timespec to the pointer, which is valid.
    if unsafe { libc::clock_gettime(clock, &raw mut time) } != 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(Duration::new(
        u64::try_from(time.tv_sec).unwrap_or(0),
        u32::try_from(time.tv_nsec).unwrap_or(0),
    ))
}

/// Whether two threads have the same descriptors, kcmp(2). `None` where the kernel does not say so: it
/// was built without that, or the caller may not look into them.
pub(crate) fn share_descriptors(one: u32, other: u32) -> Option<bool> {
    /// `KCMP_FILES` in `linux/kcmp.h`.
    const FILES: libc::c_int = 2;
    let unused: libc::c_ulong = 0;
    // SAFETY: it takes numbers only.
    let order = unsafe { libc::syscall(libc::SYS_kcmp, one, other, FILES, unused, unused) };
    (order >= 0).then_some(order == 0)
}

/// Gives freed memory back to the system, where the allocator can be asked to.
pub(crate) fn trim_memory() {
    #[cfg(target_env = "gnu")]
    // SAFETY: it takes no pointer, and may be called at any time from any thread.
    unsafe {
        libc::malloc_trim(0);
    }
}
