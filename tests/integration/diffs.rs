//! Sparse diffs as later images: their holes are unchanged pages.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use ramferry::page::PAGE_SIZE;

use crate::support::{Folder, Mount, Page, run, watchdog};

const PAGES: u64 = 64;

/// A sparse file of the guest's size with these pages, each filled with a byte.
fn diff(folder: &Folder, name: &str, pages: &[(u64, u8)]) -> PathBuf {
    let path = folder.path(name);
    let file = File::create(&path).unwrap();
    file.set_len(PAGES * PAGE_SIZE as u64).unwrap();
    for &(page, byte) in pages {
        file.write_all_at(&[byte; PAGE_SIZE], page * PAGE_SIZE as u64)
            .unwrap();
    }
    path
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

#[test]
fn a_diffs_holes_are_unchanged_and_its_data_replaces_pages_in_any_order_of_options() {
    watchdog!();
    for folder in [Folder::new(), Folder::in_memory()] {
        let pages: Vec<Page> = (0..PAGES).map(Page::Random).collect();
        let base = folder.image("base", &pages);
        let mut expected = std::fs::read(&base).unwrap();
        let mut fill = |page: usize, byte| {
            expected[page * PAGE_SIZE..(page + 1) * PAGE_SIZE].fill(byte);
        };
        // A page of data that is zero makes the page zero.
        let first = diff(&folder, "d1", &[(3, 7), (4, 7), (63, 0)]);
        let second = diff(&folder, "d2", &[(0, 9), (4, 8)]);
        for (page, byte) in [(3, 7), (63, 0), (0, 9), (4, 8)] {
            fill(page, byte);
        }
        let stream = format!("file:{}", folder.path("s").display());
        let out = folder.path("out");
        let diffs = ["--then-diff", text(&first), "--then-diff", text(&second)];
        let sent = run(&[&["send", text(&base), &stream, "-q"], &diffs[..]].concat());
        sent.succeeded();
        run(&["receive", &stream, text(&out), "-q"]).succeeded();
        assert!(std::fs::read(&out).unwrap() == expected);

        assert!(
            !run(&[&["send", text(&base), &stream, "--force"], &diffs[..]].concat())
                .err
                .contains("has no holes")
        );

        // The whole image comes last, and holds what it holds.
        let whole = folder.image("whole", &pages);
        let stream = format!("file:{}", folder.path("s2").display());
        let out = folder.path("out2");
        let mixed = ["--then-diff", text(&first), "--then", text(&whole)];
        run(&[&["send", text(&base), &stream, "-q"], &mixed[..]].concat()).succeeded();
        let full = ["--then-diff", text(&whole), "--force"];
        let noted = run(&[&["send", text(&base), &stream], &full[..]].concat());
        assert!(noted.err.contains("whole' has no holes"), "{noted:?}");
        run(&[&["send", text(&base), &stream, "-q", "--force"], &mixed[..]].concat()).succeeded();
        run(&["receive", &stream, text(&out), "-q"]).succeeded();
        assert!(std::fs::read(&out).unwrap() == std::fs::read(&whole).unwrap());
    }
}

#[test]
fn a_later_image_with_holes_in_place_of_data_is_noted_with_the_number_of_pages() {
    watchdog!();
    let folder = Folder::in_memory();
    let base = folder.image("base", &(0..PAGES).map(Page::Random).collect::<Vec<_>>());
    let sparse = diff(&folder, "sparse", &[(3, 7)]);
    let stream = format!("file:{}", folder.path("s").display());
    let ended = run(&["send", text(&base), &stream, "--then", text(&sparse)]);
    assert_eq!(ended.code, Some(0), "{ended:?}");
    let note = "has holes in place of 63 pages of the image before it, which become zero";
    assert!(ended.err.contains(note), "{ended:?}");
    assert!(ended.err.contains("--then-diff"), "{ended:?}");
}

#[test]
fn a_diff_of_another_size_is_refused() {
    watchdog!();
    let folder = Folder::in_memory();
    let base = folder.image("base", &[Page::Random(1), Page::Random(2)]);
    let other = diff(&folder, "other", &[(1, 1)]);
    let stream = format!("file:{}", folder.path("s").display());
    run(&["send", text(&base), &stream, "--then-diff", text(&other)])
        .failed_with(1, &["has 262144 bytes, but the guest has 8192"]);
}

/// A hole of 3 KiB next to 1 KiB of data: the page is neither data nor unchanged.
#[test]
fn a_diff_with_data_of_less_than_a_page_is_refused() {
    watchdog!();
    let folder = Folder::new();
    let base = folder.image("base", &(0..PAGES).map(Page::Random).collect::<Vec<_>>());
    let Some(_mount) = Mount::with_small_blocks(&folder.path("small")) else {
        return;
    };
    let odd = diff(&folder, "small/odd", &[]);
    let file = File::options().write(true).open(&odd).unwrap();
    file.write_all_at(&[1; 1024], 5 * 1024).unwrap();
    file.sync_all().unwrap();
    let stream = format!("file:{}", folder.path("s").display());
    run(&["send", text(&base), &stream, "--then-diff", text(&odd)])
        .failed_with(1, &["its data begins or ends within a page, at byte 5120"]);
    // Whole pages are taken there, too.
    let whole = diff(&folder, "small/whole", &[(3, 7)]);
    run(&[
        "send",
        text(&base),
        &stream,
        "--then-diff",
        text(&whole),
        "-q",
    ])
    .succeeded();
}

/// A page of data makes 511 neighbours data, which would become zero.
#[test]
fn a_diff_on_a_tmpfs_with_huge_pages_is_refused() {
    watchdog!();
    let folder = Folder::in_memory();
    let base = folder.image("base", &(0..PAGES).map(Page::Random).collect::<Vec<_>>());
    let Some(_mount) = Mount::with_huge_pages(&folder.path("huge")) else {
        return;
    };
    let huge = diff(&folder, "huge/d", &[(3, 7)]);
    let stream = format!("file:{}", folder.path("s").display());
    run(&["send", text(&base), &stream, "--then-diff", text(&huge)]).failed_with(
        1,
        &[text(&huge), "a tmpfs with huge pages of 2097152 bytes"],
    );
}

/// Whether its guest cleared them cannot be seen.
#[test]
fn pages_that_a_diff_makes_zero_are_noted_with_their_number() {
    watchdog!();
    let folder = Folder::in_memory();
    let mut pages: Vec<Page> = (0..PAGES).map(Page::Random).collect();
    pages[20] = Page::Hole;
    let base = folder.image("base", &pages);
    let stream = format!("file:{}", folder.path("s").display());
    // Pages 3 and 9 held data, 20 was zero.
    let some = diff(&folder, "some", &[(3, 0), (9, 0), (20, 0), (30, 7)]);
    let none = diff(&folder, "none", &[(30, 7)]);
    for (diff, note) in [(&some, "makes 2 pages zero that held data"), (&none, "")] {
        let send = ["send", text(&base), &stream, "--then-diff", text(diff)];
        let ended = run(&[&send[..], &["--force"]].concat());
        assert_eq!(ended.code, Some(0), "{ended:?}");
        assert!(ended.err.contains(note), "{ended:?}");
        assert_eq!(ended.err.contains("held data"), !note.is_empty());
    }
}
