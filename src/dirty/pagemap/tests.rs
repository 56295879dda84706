//! What counts as written, and the errors where the kernel does not help. That no write is lost is
//! tested with the other trackers.

use std::sync::Arc;

use rustix::fs::{FallocateFlags, MemfdFlags};

use super::*;
use crate::dirty::Bitmap;
use crate::image::{Guest, WriteLane};
use crate::page::PageRange;

const PAGES: u64 = 2000;

/// A guest in memory, its writer, and its tracker; `None` if the kernel has none.
fn scene() -> Option<(File, Arc<Ram>, WriteLane, Pagemap)> {
    if let Err(why) = Pagemap::available() {
        eprintln!("not tested: {why}");
        return None;
    }
    let file = File::from(rustix::fs::memfd_create("ram", MemfdFlags::CLOEXEC).unwrap());
    file.set_len(PAGES * PAGE_SIZE as u64).unwrap();
    let path = PathBuf::from(format!("/proc/self/fd/{}", file.as_raw_fd()));
    let ram = Arc::clone(Guest::open(&path).unwrap().ram());
    let lane = WriteLane::share_out(&file, &path, PAGES, 1)
        .unwrap()
        .pop()
        .unwrap();
    let pagemap = Pagemap::new(&[lane.mapping()]).unwrap();
    Some((file, ram, lane, pagemap))
}

fn pages(bitmap: &Bitmap) -> Vec<u64> {
    let pages = bitmap.runs().flat_map(PageRange::pages);
    pages.map(|page| page.0).collect()
}

#[test]
fn a_written_page_is_found_once_and_a_discarded_one_until_it_is_sent() {
    let Some((file, ram, mut lane, pagemap)) = scene() else {
        return;
    };
    let sent = PageHashes::new(PAGES);
    lane.store(3, 0, b"before").unwrap();
    sent.replace(3, 1);
    pagemap.begin(&ram).unwrap();
    let take = || pagemap.take(&ram, &sent).unwrap().0.remove(0);
    assert_eq!(take().count(), 0);

    // More ranges than one system call returns.
    let every_other: Vec<u64> = (1..PAGES).step_by(2).collect();
    for &page in &every_other {
        lane.store(page, 4095, b"x").unwrap();
    }
    assert!(every_other.len() > REGIONS);
    let found = take();
    assert_eq!(pages(&found.data), every_other);
    assert_eq!(found.holes.count(), 0);
    assert_eq!(take().count(), 0);

    lane.store(5, 0, b"y").unwrap();
    let found = take();
    assert_eq!(pages(&found.data), [5]);
    pagemap.give_back(&[found]);
    lane.store(7, 0, b"y").unwrap();
    assert_eq!(pages(&take().data), [5, 7]);

    let discard = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
    rustix::fs::fallocate(&file, discard, 3 * 4096, 4096).unwrap();
    take();
    let found = take();
    assert_eq!((pages(&found.holes), found.data.count()), (vec![3], 0));
    sent.replace(3, 0);
    assert_eq!(take().count(), 0);

    lane.store(3, 0, b"after").unwrap();
    assert_eq!(pages(&take().data), [3]);
}

#[test]
fn a_tracker_that_was_not_begun_or_has_ended_fails_and_forgets_nothing() {
    let Some((_file, ram, mut lane, pagemap)) = scene() else {
        return;
    };
    let sent = PageHashes::new(PAGES);
    let refused = || pagemap.take(&ram, &sent).unwrap_err().to_string();
    assert!(refused().starts_with("cannot find what was written to '/proc/self/fd/"));
    pagemap.begin(&ram).unwrap();
    pagemap.begin(&ram).unwrap();
    lane.store(1, 0, b"x").unwrap();
    assert_eq!(pagemap.take(&ram, &sent).unwrap().0[0].count(), 1);
    pagemap.end();
    pagemap.end();
    lane.store(1, 0, b"y").unwrap();
    refused();
    // Another migration of the same guest.
    pagemap.begin(&ram).unwrap();
    lane.store(2, 0, b"x").unwrap();
    let found = &pagemap.take(&ram, &sent).unwrap().0[0];
    assert_eq!(pages(&found.data), [2]);
    assert_eq!(found.holes.count(), 0);
}

#[test]
fn memory_that_is_not_the_guests_is_refused() {
    let Some((_file, ram, lane, _)) = scene() else {
        return;
    };
    let (start, len) = lane.mapping();
    for len in [len - 1, PAGE_SIZE / 2] {
        let error = Pagemap::new(&[(start, len)]).unwrap_err().to_string();
        assert!(error.contains(&format!("{len} bytes")), "{error}");
    }
    Pagemap::new(&[(start.wrapping_add(1), len)]).unwrap_err();
    Pagemap::new(&[(start, usize::MAX - PAGE_SIZE + 1)]).unwrap_err();
    let short = Pagemap::new(&[(start, len - PAGE_SIZE)]).unwrap();
    let error = short.begin(&ram).unwrap_err();
    assert!(matches!(error, ImageError::OtherLog { .. }), "{error}");
    // The first page is not mapped.
    let nowhere = Pagemap::new(&[(std::ptr::null(), len)]).unwrap();
    let error = nowhere.begin(&ram).unwrap_err().to_string();
    assert!(
        error.starts_with("cannot watch what is written to"),
        "{error}"
    );
}

#[test]
fn errors_name_what_is_missing() {
    let source = || io::Error::from_raw_os_error(libc::EINVAL);
    for (why, words) in [
        (
            PagemapError::Userfaultfd { source: source() },
            "userfaultfd cannot",
        ),
        (
            PagemapError::AsyncWriteProtect { source: source() },
            "asynchronous write protection",
        ),
        (
            PagemapError::PagemapScan { source: source() },
            "PAGEMAP_SCAN",
        ),
    ] {
        assert!(why.to_string().contains(words));
        assert!(std::error::Error::source(&why).is_some());
    }
}
