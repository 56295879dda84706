//! Asks the kernel which pages of this process's memory were written.
//!
//! A userfaultfd in asynchronous mode write-protects the guest's RAM: the first write to a page
//! faults, the kernel removes the protection by itself, and the writer continues without noticing.
//! `PAGEMAP_SCAN` then finds the unprotected pages and protects them again, one page table at a time
//! under its lock: a write comes before that, and is found, or after it, and faults.
//!
//! Structures and numbers are from the kernel's `linux/userfaultfd.h` and `linux/fs.h`. It needs
//! Linux 6.7 on a processor that has userfaultfd's write protection (x86-64, arm64 from 6.12 on,
//! riscv64 from 6.18 on).
#![allow(unsafe_code)]

use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::tracker::{DirtyLog, Tracker};
use super::{Changed, PageHashes, compare};
use crate::image::{ImageError, Ram};
use crate::page::{PAGE_SIZE, PageIndex};
use crate::sys::thread_cpu_time;

/// Handling faults in user mode only needs no privilege; in asynchronous mode the kernel handles all
/// of them itself.
const UFFD_USER_MODE_ONLY: libc::c_int = 1;
const UFFD_API: u64 = 0xaa;
const WP_HUGETLBFS_SHMEM: u64 = 1 << 12;
const WP_UNPOPULATED: u64 = 1 << 13;
const WP_ASYNC: u64 = 1 << 15;
/// Shared memory can be protected, even unpopulated, and the kernel handles the faults.
const FEATURES: u64 = WP_HUGETLBFS_SHMEM | WP_UNPOPULATED | WP_ASYNC;
const REGISTER_MODE_WP: u64 = 1 << 1;
const WRITEPROTECT_MODE_WP: u64 = 1 << 0;

const PAGE_IS_WRITTEN: u64 = 1 << 1;
const PM_SCAN_WP_MATCHING: u64 = 1 << 0;
const PM_SCAN_CHECK_WPASYNC: u64 = 1 << 1;

/// The most ranges that one system call returns: 12 KiB.
const REGIONS: usize = 512;

/// `struct uffdio_api`.
#[repr(C)]
struct Api {
    api: u64,
    features: u64,
    ioctls: u64,
}

/// `struct uffdio_range`.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
struct Span {
    start: u64,
    len: u64,
}

/// `struct uffdio_register`.
#[repr(C)]
struct Register {
    range: Span,
    mode: u64,
    ioctls: u64,
}

/// `struct uffdio_writeprotect`.
#[repr(C)]
struct WriteProtect {
    range: Span,
    mode: u64,
}

/// `struct page_region`.
#[repr(C)]
#[derive(Clone, Copy, Default)]
struct Region {
    start: u64,
    end: u64,
    categories: u64,
}

/// `struct pm_scan_arg`.
#[repr(C)]
#[derive(Default)]
struct ScanArg {
    size: u64,
    flags: u64,
    start: u64,
    end: u64,
    walk_end: u64,
    vec: u64,
    vec_len: u64,
    max_pages: u64,
    category_inverted: u64,
    category_mask: u64,
    category_anyof_mask: u64,
    return_mask: u64,
}

const UFFDIO_API: libc::Ioctl = libc::_IOWR::<Api>(0xaa, 0x3f);
const UFFDIO_REGISTER: libc::Ioctl = libc::_IOWR::<Register>(0xaa, 0x00);
const UFFDIO_UNREGISTER: libc::Ioctl = libc::_IOR::<Span>(0xaa, 0x01);
const UFFDIO_WRITEPROTECT: libc::Ioctl = libc::_IOWR::<WriteProtect>(0xaa, 0x06);
const PAGEMAP_SCAN: libc::Ioctl = libc::_IOWR::<ScanArg>(b'f' as u32, 16);

/// Why a [`Pagemap`] cannot be made.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
// The fields are what the messages say of them.
#[allow(missing_docs)]
pub enum PagemapError {
    #[error("userfaultfd cannot be used")]
    Userfaultfd {
        #[source]
        source: io::Error,
    },
    /// The kernel or the processor lacks asynchronous write protection of shared memory.
    #[error("userfaultfd lacks asynchronous write protection; it needs Linux 6.7 or later")]
    AsyncWriteProtect {
        #[source]
        source: io::Error,
    },
    #[error("/proc/self/pagemap lacks PAGEMAP_SCAN; it needs Linux 6.7 or later")]
    PagemapScan {
        #[source]
        source: io::Error,
    },
    #[error("a block's memory, {len} bytes at {address:#x}, is not whole pages of {page} bytes")]
    NotWholePages {
        address: usize,
        len: usize,
        page: usize,
    },
}

/// Finds what was written through mappings of the guest's RAM in this process, by any thread, or by the
/// kernel on its behalf (`read`, KVM guests). Writers need not cooperate.
///
/// Other writes are **not** found: through another mapping of the same memory, by another process
/// such as a vhost-user back end, by `pwrite` to the file, or by a device's DMA. For those, mark a
/// [`DirtyLog`], or use [`super::Compare`].
///
/// A writer pays one short fault per written page between two calls of [`Tracker::take`]; a call costs
/// a walk of the page tables, not of the memory. The mappings are advised against huge pages, whose
/// small pages cannot be distinguished.
///
/// ```no_run
/// # use std::sync::Arc;
/// # use ramferry::dirty::{Compare, Pagemap, Tracker};
/// # fn choose(ram: *const u8, len: usize) -> Arc<dyn Tracker> {
/// match Pagemap::new(&[(ram, len)]) {
///     Ok(pagemap) => Arc::new(pagemap),
///     Err(why) => {
///         eprintln!("comparing instead: {why}");
///         Arc::new(Compare)
///     }
/// }
/// # }
/// ```
#[derive(Debug)]
pub struct Pagemap {
    uffd: OwnedFd,
    pagemap: File,
    blocks: Vec<Span>,
    /// Pages that were found and not yet taken.
    log: DirtyLog,
}

impl Pagemap {
    /// Checks that this kernel has what is needed, and permits its use.
    ///
    /// # Errors
    /// What is missing.
    pub fn available() -> Result<(), PagemapError> {
        open().map(|_| ())
    }

    /// A tracker for a guest whose blocks are mapped at these addresses, with these lengths in bytes, in
    /// the guest's order. Each must be an entire **shared** mapping (`MAP_SHARED`) of the block's image
    /// from its beginning, and stay mapped until the migration ends. If the address is that of other
    /// memory, changes of that are reported; if it is unmapped, [`Tracker::take`] fails.
    ///
    /// This is safe: the memory is neither read nor written, and a protection that the kernel removes
    /// by itself changes nothing for its writers.
    ///
    /// # Errors
    /// What is missing, and [`PagemapError::NotWholePages`].
    pub fn new(blocks: &[(*const u8, usize)]) -> Result<Pagemap, PagemapError> {
        let host_page = rustix::param::page_size();
        let mut spans = Vec::new();
        for &(start, len) in blocks {
            let address = start.addr();
            let whole = |bytes: usize| bytes.is_multiple_of(host_page.max(PAGE_SIZE));
            if !whole(address) || !whole(len) || address.checked_add(len).is_none() {
                return Err(PagemapError::NotWholePages {
                    address,
                    len,
                    page: host_page,
                });
            }
            spans.push(Span {
                start: address as u64,
                len: len as u64,
            });
        }
        let (uffd, pagemap) = open()?;
        let pages: Vec<u64> = spans
            .iter()
            .map(|span| span.len / PAGE_SIZE as u64)
            .collect();
        Ok(Pagemap {
            uffd,
            pagemap,
            blocks: spans,
            log: DirtyLog::new(&pages),
        })
    }

    /// Write-protects all of a block's memory.
    fn protect(&self, span: Span) -> io::Result<()> {
        if span.len == 0 {
            return Ok(());
        }
        // When a huge page of a file is split, the information that it was written is lost. This is
        // only advice, and refused where there are no huge pages anyway.
        // SAFETY: this advice changes neither the memory's contents nor its mapping.
        unsafe {
            libc::madvise(
                span.start as *mut _,
                span.len as usize,
                libc::MADV_NOHUGEPAGE,
            )
        };
        let mut register = Register {
            range: span,
            mode: REGISTER_MODE_WP,
            ioctls: 0,
        };
        // SAFETY: the structure is the one that this call reads and writes. Write protection that
        // the kernel removes by itself changes nothing for any user of the memory.
        unsafe { ioctl(&self.uffd, UFFDIO_REGISTER, &mut register) }?;
        // Unpopulated pages too, and huge pages as small ones, neither of which scanning protects.
        let mut protect = WriteProtect {
            range: span,
            mode: WRITEPROTECT_MODE_WP,
        };
        // SAFETY: as above.
        unsafe { ioctl(&self.uffd, UFFDIO_WRITEPROTECT, &mut protect) }?;
        Ok(())
    }

    /// Calls `found` with the spans that were written since they were protected, and protects them
    /// again: no later scan reports them.
    fn scan(&self, span: Span, mut found: impl FnMut(Span)) -> io::Result<()> {
        let mut regions = [Region::default(); REGIONS];
        let end = span.start + span.len;
        let mut at = span.start;
        while at < end {
            // This category means every unprotected page, including one that was reclaimed after it
            // was written.
            let mut arg = ScanArg {
                size: size_of::<ScanArg>() as u64,
                flags: PM_SCAN_WP_MATCHING | PM_SCAN_CHECK_WPASYNC,
                start: at,
                end,
                vec: regions.as_mut_ptr() as u64,
                vec_len: REGIONS as u64,
                category_mask: PAGE_IS_WRITTEN,
                return_mask: PAGE_IS_WRITTEN,
                ..ScanArg::default()
            };
            // SAFETY: the structure is the one that this call reads and writes, and `vec` points
            // to as many regions as it says. Protecting is harmless, as in `protect`, and fails where
            // nothing was registered.
            let count = unsafe { ioctl(&self.pagemap, PAGEMAP_SCAN, &mut arg) };
            let count = match count {
                Ok(count) if arg.walk_end > at => count as usize,
                other => {
                    // An unknown part of it may be protected again already.
                    found(Span {
                        start: at,
                        len: end - at,
                    });
                    return Err(other.err().unwrap_or(io::ErrorKind::InvalidData.into()));
                }
            };
            for region in regions.iter().take(count) {
                found(Span {
                    start: region.start,
                    len: region.end.saturating_sub(region.start),
                });
            }
            at = arg.walk_end;
        }
        Ok(())
    }

    fn take_all(&self, ram: &Ram, sent: &PageHashes) -> Result<Vec<Changed>, ImageError> {
        for (index, (block, span)) in ram.blocks().iter().zip(&self.blocks).enumerate() {
            let pages = |found: Span| {
                let first = (found.start - span.start) / PAGE_SIZE as u64;
                let end = (found.start - span.start + found.len) / PAGE_SIZE as u64;
                (first..end).map(PageIndex)
            };
            // If anything fails from here on, what was found stays in the log.
            self.scan(*span, |found| {
                pages(found).for_each(|page| {
                    self.log.mark(index, page);
                });
            })
            .map_err(failed("find what was written to", block.path().to_owned()))?;
            // A page that was discarded was not written: it is in a hole now, and was not zero.
            let data = block.data_ranges()?;
            for (range, is_data) in compare::with_holes(&data, block.range()) {
                if !is_data {
                    range
                        .pages()
                        .filter(|page| sent.get(block.key(*page)) != 0)
                        .for_each(|page| {
                            self.log.mark(index, page);
                        });
                }
            }
        }
        self.log.take(ram, sent).map(|(changed, _)| changed)
    }
}

impl Tracker for Pagemap {
    /// # Errors
    /// [`ImageError::OtherLog`] if the memory and the blocks differ in size, and I/O errors: memory
    /// that is not mapped, or that another userfaultfd watches.
    fn begin(&self, ram: &Ram) -> Result<(), ImageError> {
        // Checks the sizes, too.
        self.log.begin(ram)?;
        for (block, span) in ram.blocks().iter().zip(&self.blocks) {
            self.protect(*span)
                .map_err(failed("watch what is written to", block.path().to_owned()))?;
        }
        Ok(())
    }

    fn take(&self, ram: &Ram, sent: &PageHashes) -> Result<(Vec<Changed>, Duration), ImageError> {
        let start = thread_cpu_time();
        let changed = self.take_all(ram, sent)?;
        Ok((changed, thread_cpu_time().saturating_sub(start)))
    }

    fn give_back(&self, changed: &[Changed]) {
        self.log.give_back(changed);
    }

    fn end(&self) {
        for span in &self.blocks {
            let mut span = *span;
            // SAFETY: the structure is the one that this call reads. It removes the protection that
            // `protect` added; where there is none, it does nothing or fails.
            let _ = unsafe { ioctl(&self.uffd, UFFDIO_UNREGISTER, &mut span) };
        }
    }
}

fn failed(what: &'static str, path: PathBuf) -> impl FnOnce(io::Error) -> ImageError {
    move |source| ImageError::Io { what, path, source }
}

/// Opens a userfaultfd and a pagemap that have what is needed.
fn open() -> Result<(OwnedFd, File), PagemapError> {
    let flags = libc::O_CLOEXEC | libc::O_NONBLOCK | UFFD_USER_MODE_ONLY;
    // SAFETY: no pointers are passed.
    let fd = unsafe { libc::syscall(libc::SYS_userfaultfd, flags) };
    if fd < 0 {
        return Err(PagemapError::Userfaultfd {
            source: io::Error::last_os_error(),
        });
    }
    // SAFETY: the kernel has just returned it, and a descriptor fits into an int.
    let uffd = unsafe { OwnedFd::from_raw_fd(fd as libc::c_int) };
    let mut api = Api {
        api: UFFD_API,
        features: FEATURES,
        ioctls: 0,
    };
    // SAFETY: the structure is the one that this call reads and writes.
    unsafe { ioctl(&uffd, UFFDIO_API, &mut api) }
        .map_err(|source| PagemapError::AsyncWriteProtect { source })?;

    let path = Path::new("/proc/self/pagemap");
    let pagemap = File::open(path).map_err(|source| PagemapError::PagemapScan { source })?;
    let mut nothing = ScanArg {
        size: size_of::<ScanArg>() as u64,
        category_mask: PAGE_IS_WRITTEN,
        return_mask: PAGE_IS_WRITTEN,
        ..ScanArg::default()
    };
    // SAFETY: the structure is the one that this call reads and writes, for an empty range.
    unsafe { ioctl(&pagemap, PAGEMAP_SCAN, &mut nothing) }
        .map_err(|source| PagemapError::PagemapScan { source })?;
    Ok((uffd, pagemap))
}

/// # Safety
/// `argument` must be the structure that `request` reads and writes, its pointers must be valid, and
/// the request must be harmless.
unsafe fn ioctl<T>(
    fd: &impl AsRawFd,
    request: libc::Ioctl,
    argument: &mut T,
) -> io::Result<libc::c_int> {
    // SAFETY: as the caller promises; the descriptor is open for as long as it is borrowed.
    match unsafe { libc::ioctl(fd.as_raw_fd(), request, std::ptr::from_mut(argument)) } {
        -1 => Err(io::Error::last_os_error()),
        result => Ok(result),
    }
}

#[cfg(test)]
mod tests;
