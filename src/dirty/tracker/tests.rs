//! No tracker loses a write: many writes race each of them, and trackers and writers that are
//! broken on purpose are caught by the same check.

use std::fs::File;
use std::path::PathBuf;
use std::sync::{Arc, Condvar, Mutex};
use std::thread;

use super::*;
use crate::dirty::pagemap::Pagemap;
use crate::image::{Guest, WriteLane};
use crate::page::PAGE_SIZE;

const WRITERS: u64 = 3;
/// Ten million where the optimiser makes them cheap, or where `RAMFERRY_ALL_WRITES` is set.
const WRITES: u64 = 10_000_000;
const FEWER_WRITES: u64 = 1_000_000;
/// Writers wait this often for a take that began after they did: the two overlap by design, not
/// by luck.
const MEETINGS: u64 = 20;
/// Not a multiple of 64 or of the writers: words of a bitmap are shared, and the last is not full.
const PAGES: u64 = 1003;

/// A guest's RAM in memory that is written and sent at the same time.
struct Scene {
    ram: Arc<Ram>,
    lanes: Vec<WriteLane>,
    sent: PageHashes,
    /// What the destination holds.
    copy: Vec<u8>,
    _file: File,
}

impl Scene {
    fn new(pages: u64, writers: u32) -> Scene {
        let (path, file) = memory(pages);
        let ram = Arc::clone(Guest::open(&path).unwrap().ram());
        Scene {
            sent: PageHashes::new(ram.pages()),
            lanes: WriteLane::share_out(&file, &path, pages, writers).unwrap(),
            ram,
            copy: vec![0; pages as usize * PAGE_SIZE],
            _file: file,
        }
    }

    /// The kernel's tracker for it.
    fn pagemap(&self) -> Pagemap {
        Pagemap::new(&[self.lanes[0].mapping()]).unwrap()
    }

    /// Copies the claimed pages to the destination, and records their hashes. `between` is called when
    /// a page has been copied; what it returns, if anything, is hashed instead of the copy.
    fn send(&mut self, claim: &Claim, mut between: impl FnMut(&Ram) -> Option<Vec<u8>>) {
        let block = &self.ram.blocks()[0];
        for (range, is_hole) in claim.changed()[0].runs() {
            for page in range.pages() {
                let copy = &mut self.copy[page.offset() as usize..][..PAGE_SIZE];
                if is_hole {
                    copy.fill(0);
                } else {
                    let range = PageRange::between(page.0, page.0 + 1);
                    block.copy(range, copy).unwrap();
                }
                let other = between(&self.ram);
                let noted = other.as_deref().unwrap_or(copy);
                let hash = block.seed().hash_or_zero(page, noted);
                self.sent.replace(block.key(page), hash);
            }
        }
    }

    /// Takes and sends what is left. Returns the pages that differ even so.
    fn finish(&mut self, tracker: &dyn Tracker) -> Vec<u64> {
        let (claim, _) = Claim::take(tracker, &self.ram, &self.sent).unwrap();
        self.send(&claim, |_| None);
        claim.commit();
        let block = &self.ram.blocks()[0];
        let mut now = vec![0; self.copy.len()];
        block.copy(block.range(), &mut now).unwrap();
        let pairs = now
            .chunks(PAGE_SIZE)
            .zip(self.copy.chunks(PAGE_SIZE))
            .zip(0..);
        pairs
            .filter_map(|((now, copy), page)| (now != copy).then_some(page))
            .collect()
    }
}

/// A file in memory of this many pages, all holes.
fn memory(pages: u64) -> (PathBuf, File) {
    use std::os::fd::AsRawFd;
    let flags = rustix::fs::MemfdFlags::CLOEXEC;
    let file = File::from(rustix::fs::memfd_create("ram", flags).unwrap());
    file.set_len(pages * PAGE_SIZE as u64).unwrap();
    let path = format!("/proc/self/fd/{}", file.as_raw_fd());
    (path.into(), file)
}

/// Counts the takes that have ended, for writers to wait for.
#[derive(Default)]
struct Takes {
    ended: Mutex<u64>,
    more: Condvar,
}

impl Takes {
    fn end(&self) {
        *self.ended.lock().unwrap() += 1;
        self.more.notify_all();
    }

    /// Waits for the end of a take that began after this call.
    fn wait(&self) {
        let ended = self.ended.lock().unwrap();
        let goal = ended.saturating_add(2);
        drop(self.more.wait_while(ended, |ended| *ended < goal).unwrap());
    }
}

/// Ends the waits for takes that will not come.
impl Drop for NoMore<'_> {
    fn drop(&mut self) {
        *self.0.ended.lock().unwrap() = u64::MAX;
        self.0.more.notify_all();
    }
}

struct NoMore<'a>(&'a Takes);

/// Three threads make numbered writes to pages all over the guest, while what `tracker` finds is sent;
/// every fifth claim is given back. `mark` is called after each
/// write. Returns the pages that were lost.
fn race(scene: &mut Scene, tracker: &dyn Tracker, mark: impl Fn(PageIndex) + Sync) -> Vec<u64> {
    let all = !cfg!(debug_assertions) || std::env::var_os("RAMFERRY_ALL_WRITES").is_some();
    let each = if all { WRITES } else { FEWER_WRITES } / WRITERS;
    let takes = Takes::default();
    let lanes = std::mem::take(&mut scene.lanes);
    tracker.begin(&scene.ram).unwrap();
    let lanes = thread::scope(|scope| {
        let (takes, mark) = (&takes, &mark);
        let writers: Vec<_> = (0..)
            .zip(lanes)
            .map(|(number, mut lane)| {
                scope.spawn(move || {
                    let slots = (PAGES - number).div_ceil(WRITERS);
                    let mut random = number + 1;
                    for sequence in 1..=each {
                        random ^= random << 13;
                        random ^= random >> 7;
                        random ^= random << 17;
                        let slot = random % slots;
                        let offset = (random >> 32) as usize % (PAGE_SIZE / 8) * 8;
                        lane.store(slot, offset, &sequence.to_le_bytes()).unwrap();
                        mark(PageIndex(slot * WRITERS + number));
                        if sequence % (each / MEETINGS) == 0 {
                            takes.wait();
                        }
                    }
                    lane
                })
            })
            .collect();
        let _no_more = NoMore(takes);
        let mut count = 0_u64;
        while !writers.iter().all(thread::ScopedJoinHandle::is_finished) {
            let (claim, _) = Claim::take(tracker, &scene.ram, &scene.sent).unwrap();
            count += 1;
            if !count.is_multiple_of(5) {
                scene.send(&claim, |_| None);
                claim.commit();
            }
            takes.end();
        }
        assert!(count >= MEETINGS);
        writers
            .into_iter()
            .map(|writer| writer.join().unwrap())
            .collect()
    });
    scene.lanes = lanes;
    let lost = scene.finish(tracker);
    let (nothing, _) = Claim::take(tracker, &scene.ram, &scene.sent).unwrap();
    assert_eq!(nothing.count(), 0, "all was sent");
    tracker.end();
    lost
}

#[test]
fn comparing_loses_no_write() {
    let mut scene = Scene::new(PAGES, WRITERS as u32);
    assert_eq!(race(&mut scene, &Compare, |_| {}), [0; 0]);
}

#[test]
fn a_log_loses_no_write() {
    let mut scene = Scene::new(PAGES, WRITERS as u32);
    let log = DirtyLog::new(&[PAGES]);
    let lost = race(&mut scene, &log, |page| assert!(log.mark(0, page)));
    assert_eq!(lost, [0; 0]);
}

#[test]
fn a_log_filled_by_words_loses_no_write() {
    let mut scene = Scene::new(PAGES, WRITERS as u32);
    let log = DirtyLog::new(&[PAGES]);
    let mark = |page: PageIndex| log.mark_word(0, page.0 as usize / 64, 1 << (page.0 % 64));
    assert_eq!(race(&mut scene, &log, mark), [0; 0]);
}

#[test]
fn the_kernels_tracker_loses_no_write() {
    if let Err(why) = Pagemap::available() {
        eprintln!("not tested: {why}");
        return;
    }
    let mut scene = Scene::new(PAGES, WRITERS as u32);
    let pagemap = scene.pagemap();
    assert_eq!(race(&mut scene, &pagemap, |_| {}), [0; 0]);
}

/// The same schedule for a writer that marks after writing, as it must, and for one that marks before:
/// a whole round happens in between.
#[test]
fn a_page_that_is_marked_before_it_is_written_is_lost() {
    for (mark_first, lost) in [(false, vec![]), (true, vec![5])] {
        let mut scene = Scene::new(8, 1);
        let log = DirtyLog::new(&[8]);
        log.begin(&scene.ram).unwrap();
        let mut lane = scene.lanes.pop().unwrap();
        let mut write = || lane.store(5, 0, b"new").unwrap();
        let mark = || assert!(log.mark(0, PageIndex(5)));
        if mark_first {
            mark();
            scene.finish(&log);
            write();
        } else {
            write();
            scene.finish(&log);
            mark();
        }
        assert_eq!(scene.finish(&log), lost);
    }
}

/// A write comes between copying the page and recording its hash.
#[test]
fn a_hash_of_the_page_instead_of_the_copy_loses_a_write() {
    for (of_page, lost) in [(false, vec![]), (true, vec![2])] {
        let mut scene = Scene::new(8, 1);
        let mut lane = scene.lanes.pop().unwrap();
        lane.store(2, 0, b"old").unwrap();
        let (claim, _) = Claim::take(&Compare, &scene.ram, &scene.sent).unwrap();
        assert_eq!(claim.count(), 1);
        scene.send(&claim, |ram| {
            lane.store(2, 0, b"new").unwrap();
            let mut now = vec![0; PAGE_SIZE];
            let block = &ram.blocks()[0];
            block.copy(PageRange::between(2, 3), &mut now).unwrap();
            of_page.then_some(now)
        });
        claim.commit();
        assert_eq!(scene.finish(&Compare), lost);
    }
}

/// A log whose `take` reads and clears a word in two steps.
struct Torn<'a, F> {
    log: &'a DirtyLog,
    between: F,
}

impl<F> fmt::Debug for Torn<'_, F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.log.fmt(f)
    }
}

impl<F: Fn() + Send + Sync> Tracker for Torn<'_, F> {
    fn begin(&self, ram: &Ram) -> Result<(), ImageError> {
        self.log.begin(ram)
    }

    fn take(&self, ram: &Ram, sent: &PageHashes) -> Result<(Vec<Changed>, Duration), ImageError> {
        let (words, pages) = &self.log.blocks[0];
        let taken = DirtyLog::new(&[*pages]);
        for (index, word) in words.iter().enumerate() {
            taken.mark_word(0, index, word.load(Ordering::Acquire));
            (self.between)();
            word.store(0, Ordering::Release);
        }
        taken.take(ram, sent)
    }

    fn give_back(&self, changed: &[Changed]) {
        self.log.give_back(changed);
    }
}

/// Another page of the same word is written and marked between the two steps.
#[test]
fn a_log_that_is_read_and_cleared_in_two_steps_loses_a_write() {
    let mut scene = Scene::new(8, 1);
    let log = DirtyLog::new(&[8]);
    let lane = Mutex::new(scene.lanes.pop().unwrap());
    let write = |page| {
        lane.lock().unwrap().store(page, 0, b"new").unwrap();
        assert!(log.mark(0, PageIndex(page)));
    };
    let broken = Torn {
        log: &log,
        between: || write(3),
    };
    broken.begin(&scene.ram).unwrap();
    write(1);
    scene.finish(&broken);
    assert_eq!(scene.finish(&log), [3]);
}

fn pages(bitmap: &Bitmap) -> Vec<u64> {
    let pages = bitmap.runs().flat_map(PageRange::pages);
    pages.map(|page| page.0).collect()
}

#[test]
fn a_claim_gives_back_what_was_not_committed() {
    let scene = Scene::new(8, 1);
    let log = DirtyLog::new(&[8]);
    let take = || Claim::take(&log, &scene.ram, &scene.sent).unwrap().0;
    log.begin(&scene.ram).unwrap();
    assert!(log.mark(0, PageIndex(1)) && log.mark(0, PageIndex(7)));
    let claim = take();
    assert_eq!(claim.count(), 2);
    assert_eq!(take().count(), 0, "no other claim gets them");
    drop(claim);
    let claim = take();
    assert_eq!(pages(&claim.changed()[0].holes), [1, 7]);
    claim.commit();
    assert_eq!(take().count(), 0);
}

#[test]
fn marks_beyond_a_block_are_ignored() {
    let scene = Scene::new(70, 1);
    let log = DirtyLog::new(&[70]);
    log.begin(&scene.ram).unwrap();
    log.mark_word(0, 1, u64::MAX);
    log.mark_word(0, 2, u64::MAX);
    log.mark_word(1, 0, u64::MAX);
    assert!(!log.mark(0, PageIndex(70)) && !log.mark(1, PageIndex(0)));
    let (found, _) = log.take(&scene.ram, &scene.sent).unwrap();
    assert_eq!(pages(&found[0].holes), (64..70).collect::<Vec<_>>());
    log.mark_word(0, 0, 1 | 1 << 63);
    assert!(log.mark(0, PageIndex(69)));
    let (found, _) = log.take(&scene.ram, &scene.sent).unwrap();
    assert_eq!(pages(&found[0].holes), [0, 63, 69]);
}

#[test]
fn a_log_of_another_guest_is_refused() {
    let scene = Scene::new(8, 1);
    for (blocks, pages) in [(&[9][..], 9), (&[7], 7), (&[4, 4], 8), (&[], 0)] {
        let error = DirtyLog::new(blocks).begin(&scene.ram).unwrap_err();
        assert_eq!(
            error.to_string(),
            format!(
                "the dirty log does not fit the guest: it has {pages} pages, the guest has 8, or their blocks differ"
            )
        );
    }
}

#[test]
fn pages_in_holes_are_reported_as_such() {
    let mut scene = Scene::new(8, 1);
    let log = DirtyLog::new(&[8]);
    for page in [1, 2, 6] {
        scene.lanes[0].store(page, 0, b"x").unwrap();
    }
    log.mark_word(0, 0, 0b1000_1111);
    let (found, _) = log.take(&scene.ram, &scene.sent).unwrap();
    assert_eq!(pages(&found[0].data), [1, 2]);
    assert_eq!(pages(&found[0].holes), [0, 3, 7]);
}

#[test]
fn marks_made_before_the_beginning_are_forgotten() {
    let scene = Scene::new(8, 1);
    let log = DirtyLog::new(&[8]);
    log.mark_word(0, 0, u64::MAX);
    log.begin(&scene.ram).unwrap();
    let (found, _) = log.take(&scene.ram, &scene.sent).unwrap();
    assert_eq!(found[0].count(), 0);
}
