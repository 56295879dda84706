//! What a churn leaves is proven, and whatever else an image may hold is found.

use std::os::unix::fs::FileExt;

use super::records::Kept;
use super::*;

const PAGES: u64 = 40;
const WORKING_SET: u64 = 30;

/// An image with content, zeroes and a hole, and its records.
struct Scene {
    folder: tempfile::TempDir,
    image: PathBuf,
    records: PathBuf,
}

impl Scene {
    fn new() -> Scene {
        let folder = tempfile::tempdir().unwrap();
        let image = folder.path().join("ram");
        let file = File::create(&image).unwrap();
        file.set_len(PAGES * PAGE_SIZE as u64).unwrap();
        for page in (0..PAGES).filter(|page| !(10..20).contains(page) && page % 5 != 0) {
            let bytes: Vec<u8> = (0..PAGE_SIZE as u64)
                .map(|at| (page * 31 + at * 7) as u8)
                .collect();
            file.write_all_at(&bytes, page * PAGE_SIZE as u64).unwrap();
        }
        Scene {
            records: records_of(&image),
            image,
            folder,
        }
    }

    fn plan(pattern: Pattern, threads: u32) -> Plan {
        Plan {
            pattern,
            working_set: WORKING_SET,
            bytes_per_write: pattern.default_bytes_per_write(),
            threads,
            seed: 5,
        }
    }

    /// Has each thread write `writes` times, one thread after the other. With `in_flight`, each
    /// also begins one more.
    fn write(&self, plan: &Plan, writes: u64, in_flight: bool) {
        let raw = Block::open(&self.image, ImageFormat::Raw).unwrap();
        let records = Records::create(&self.records, plan, &raw).unwrap();
        let file = self.file();
        let lanes =
            WriteLane::share_out(&file, &self.image, plan.working_set, plan.threads).unwrap();
        for (thread, lane) in (0..).zip(lanes) {
            let mut worker = Worker::new(plan, thread, lane, &records);
            for _ in 0..writes {
                assert!(worker.write(|| false).unwrap());
            }
            if in_flight {
                records.begin(thread, writes + 1).unwrap();
            }
        }
    }

    fn file(&self) -> File {
        let mut options = File::options();
        options.read(true).write(true).open(&self.image).unwrap()
    }

    fn page(&self, page: u64) -> Vec<u8> {
        let mut bytes = vec![0; PAGE_SIZE];
        let at = page * PAGE_SIZE as u64;
        self.file().read_exact_at(&mut bytes, at).unwrap();
        bytes
    }

    fn set(&self, page: u64, offset: usize, bytes: &[u8]) {
        let at = page * PAGE_SIZE as u64 + offset as u64;
        self.file().write_all_at(bytes, at).unwrap();
    }

    fn flip(&self, page: u64, offset: usize, bit: u8) {
        let byte = self.page(page)[offset] ^ (1 << bit);
        self.set(page, offset, &[byte]);
    }

    fn verify(&self) -> Verified {
        verify(&self.image, &self.records).unwrap()
    }

    #[track_caller]
    fn is_proven(&self) {
        assert_eq!(self.verify().first_differing, None);
    }

    #[track_caller]
    fn differs(&self, pages: u64, first: u64) {
        let verified = self.verify();
        assert_eq!(
            (verified.differing, verified.first_differing),
            (pages, Some(first))
        );
    }
}

#[test]
fn what_each_pattern_leaves_is_proven() {
    for pattern in Pattern::ALL {
        for threads in [1, 3, 30] {
            let scene = Scene::new();
            scene.write(&Scene::plan(pattern, threads), 500, false);
            let verified = scene.verify();
            assert_eq!(verified.first_differing, None, "{pattern} by {threads}");
            assert_eq!(
                (verified.pages, verified.writes, verified.in_flight),
                (PAGES, 500 * u64::from(threads), 0)
            );
        }
    }
}

#[test]
fn a_flipped_bit_is_found_wherever_it_is() {
    let scene = Scene::new();
    // Few writes: most pages of the working set are as they were.
    scene.write(&Scene::plan(Pattern::Random, 2), 4, false);
    for page in 0..PAGES {
        for (offset, bit) in [(0, 0), (2047, 3), (PAGE_SIZE - 1, 7)] {
            scene.flip(page, offset, bit);
            scene.differs(1, page);
            scene.flip(page, offset, bit);
        }
    }
    scene.is_proven();
}

#[test]
fn a_lost_write_and_a_page_of_an_older_state_are_found() {
    for pattern in Pattern::ALL {
        let scene = Scene::new();
        let plan = Scene::plan(pattern, 1);
        let mut bytes = vec![0; plan.bytes_per_write as usize];
        scene.write(&plan, 99, false);
        let spot = plan.write(0, 100, &mut bytes);
        let older = scene.page(spot.slot);
        // Replayed from the beginning: the same content again, and one write more.
        let scene = Scene::new();
        scene.write(&plan, 100, false);
        scene.is_proven();
        let now = scene.page(spot.slot);
        assert_ne!(older, now);
        scene.set(spot.slot, 0, &older);
        scene.differs(1, spot.slot);
        scene.set(spot.slot, 0, &now);

        // The very first state of a page.
        scene.set(spot.slot, 0, &Scene::new().page(spot.slot));
        scene.differs(1, spot.slot);
    }
}

#[test]
fn pages_in_each_others_place_are_found() {
    let scene = Scene::new();
    scene.write(&Scene::plan(Pattern::Sequential, 2), 100, false);
    for (a, b) in [(3, 4), (1, 39), (36, 37), (10, 36)] {
        let (at_a, at_b) = (scene.page(a), scene.page(b));
        scene.set(a, 0, &at_b);
        scene.set(b, 0, &at_a);
        scene.differs(2, a);
        scene.set(a, 0, &at_a);
        scene.set(b, 0, &at_b);
    }
    scene.is_proven();
}

#[test]
fn of_the_write_in_flight_any_byte_may_be_there_and_nothing_else() {
    for threads in [1, 4] {
        let scene = Scene::new();
        let plan = Scene::plan(Pattern::Random, threads);
        scene.write(&plan, 50, true);
        assert_eq!(scene.verify().in_flight, u64::from(threads));
        scene.is_proven();
        let mut bytes = vec![0; plan.bytes_per_write as usize];
        for thread in 0..threads {
            let spot = plan.write(thread, 51, &mut bytes);
            let page = spot.slot * u64::from(threads) + u64::from(thread);
            for at in [5, 0, 63, 30] {
                scene.set(page, spot.offset + at, &[bytes[at]]);
                scene.is_proven();
            }
            scene.set(page, spot.offset, &bytes);
            scene.is_proven();
            let at = spot.offset + 7;
            let neither = (0..=255)
                .find(|&byte| byte != bytes[7] && byte != Scene::new().page(page)[at])
                .unwrap();
            let now = scene.page(page)[at];
            if spot.offset > 0 {
                scene.flip(page, spot.offset - 1, 0);
                scene.differs(1, page);
                scene.flip(page, spot.offset - 1, 0);
            }
            scene.set(page, at, &[neither]);
            scene.differs(1, page);
            scene.set(page, at, &[now]);
        }
        scene.is_proven();
    }
}

#[test]
fn a_write_that_was_not_even_begun_must_not_be_there() {
    let scene = Scene::new();
    let plan = Scene::plan(Pattern::Random, 1);
    scene.write(&plan, 50, true);
    let mut bytes = vec![0; plan.bytes_per_write as usize];
    let spot = plan.write(0, 52, &mut bytes);
    scene.set(spot.slot, spot.offset, &bytes);
    scene.differs(1, spot.slot);
}

fn request(scene: &Scene, pattern: Pattern, threads: u32) -> Request {
    Request {
        image: scene.image.clone(),
        records: scene.records.clone(),
        in_place: true,
        pattern,
        working_set: Some(WORKING_SET * PAGE_SIZE as u64),
        bytes_per_write: pattern.default_bytes_per_write(),
        threads,
        seed: 1,
        rate: 0,
        duration: None,
    }
}

#[test]
fn threads_write_until_they_are_ended_and_all_of_it_is_proven() {
    let scene = Scene::new();
    for pattern in Pattern::ALL {
        let end = Ending::new().unwrap();
        let summary = run(&request(&scene, pattern, 3), &end, || end.raise()).unwrap();
        let verified = scene.verify();
        assert_eq!(verified.first_differing, None, "{pattern}");
        assert_eq!(verified.writes, summary.writes);
        // A thread that a busy machine kept waiting cannot know that it was not stopped.
        assert!(verified.in_flight <= 3, "one a thread: {verified:?}");
        assert!(summary.writes >= BUNCH && summary.pages > 0, "{summary:?}");
        assert!(summary.pages <= WORKING_SET);
    }
}

#[test]
fn a_churn_ends_when_its_time_is_up_even_if_no_write_is_due() {
    let scene = Scene::new();
    let end = Ending::new().unwrap();
    let request = Request {
        rate: 1,
        duration: Some(Duration::from_millis(5)),
        ..request(&scene, Pattern::Random, 2)
    };
    let summary = run(&request, &end, || {}).unwrap();
    assert_eq!((summary.writes, summary.asked_rate), (2, 1), "one a thread");
    assert!(summary.seconds >= 0.005);
    scene.is_proven();
}

#[test]
fn invalid_values_are_refused_by_name_and_leave_no_records() {
    let scene = Scene::new();
    let good = || request(&scene, Pattern::Random, 1);
    let page = PAGE_SIZE as u64;
    for (request, words) in [
        (
            Request {
                working_set: Some(41 * page),
                ..good()
            },
            "invalid working set of 41 pages: the image allows 1 to 40",
        ),
        (
            Request {
                working_set: Some(0),
                ..good()
            },
            "invalid working set of 0 pages",
        ),
        (
            Request {
                working_set: Some(5000),
                ..good()
            },
            "invalid working set of 5000 bytes: it must be a multiple of 4096",
        ),
        (
            Request {
                bytes_per_write: 4097,
                ..good()
            },
            "invalid --bytes-per-write 4097: random allows 1 to 4096",
        ),
        (
            Request {
                bytes_per_write: 9,
                pattern: Pattern::Counter,
                ..good()
            },
            "invalid --bytes-per-write 9: counter allows 1 to 8",
        ),
        (
            Request {
                threads: 31,
                ..good()
            },
            "invalid number of threads 31: the working set allows 1 to 30",
        ),
        (
            Request {
                rate: MOST_RATE + 1,
                ..good()
            },
            "use 1 to 1000000000 pages per second, or 0 for no limit",
        ),
    ] {
        let error = run(&request, &Ending::new().unwrap(), || {}).unwrap_err();
        assert_eq!(error.kind(), Kind::Usage);
        assert!(error.one_line().contains(words), "{}", error.one_line());
        assert!(!scene.records.exists());
    }
}

#[test]
fn only_older_records_are_replaced_and_two_churns_exclude_each_other() {
    let scene = Scene::new();
    let end = Ending::new().unwrap();
    end.raise();
    let again = |records: &Path| {
        let request = Request {
            records: records.to_owned(),
            ..request(&scene, Pattern::Random, 1)
        };
        run(&request, &end, || {})
    };
    again(&scene.records).unwrap();
    again(&scene.records).unwrap();
    let other = scene.folder.path().join("letter");
    std::fs::write(&other, b"dear reader").unwrap();
    let error = again(&other).unwrap_err();
    assert!(
        matches!(error.cause(), Some(ChurnError::InTheWay { .. })),
        "{error}"
    );
    assert_eq!(std::fs::read(&other).unwrap(), b"dear reader");
    // Nor is the image itself.
    again(&scene.image).unwrap_err();

    let running = Ending::new().unwrap();
    run(&request(&scene, Pattern::Random, 1), &running, || {
        let error = again(&scene.folder.path().join("others")).unwrap_err();
        assert!(
            matches!(error.cause(), Some(ChurnError::Busy { .. })),
            "{error}"
        );
        running.raise();
    })
    .unwrap();
    scene.is_proven();
}

#[test]
fn an_image_that_shrinks_ends_the_churn_with_an_error() {
    let scene = Scene::new();
    let error = run(
        &request(&scene, Pattern::Sequential, 2),
        &Ending::new().unwrap(),
        || scene.file().set_len(PAGE_SIZE as u64).unwrap(),
    )
    .unwrap_err();
    assert!(
        matches!(error.cause(), Some(ImageError::StoreLost { .. })),
        "{error}"
    );
}

#[test]
fn an_image_of_another_size_differs() {
    let scene = Scene::new();
    scene.write(&Scene::plan(Pattern::Random, 1), 5, false);
    scene
        .file()
        .set_len((PAGES - 1) * PAGE_SIZE as u64)
        .unwrap();
    let error = verify(&scene.image, &scene.records).unwrap_err();
    assert_eq!(error.kind(), Kind::Differs);
}

#[test]
fn a_writer_that_went_on_meanwhile_is_noticed() {
    let scene = Scene::new();
    let plan = Scene::plan(Pattern::Random, 2);
    let raw = Block::open(&scene.image, ImageFormat::Raw).unwrap();
    let records = Records::create(&scene.records, &plan, &raw).unwrap();
    let kept = Kept::open(&scene.records).unwrap();
    let before = kept.progress().unwrap();
    verify::unmoved(&kept, &before).unwrap();
    records.begin(1, 1).unwrap();
    let error = verify::unmoved(&kept, &before).unwrap_err();
    assert!(
        matches!(error.cause(), Some(ChurnError::StillWriting { .. })),
        "{error}"
    );
}

#[test]
fn records_that_are_damaged_cut_short_or_nonsense_are_refused() {
    let scene = Scene::new();
    scene.write(&Scene::plan(Pattern::Random, 2), 20, false);
    let good = std::fs::read(&scene.records).unwrap();
    let verify_as = |bytes: &[u8]| {
        std::fs::write(&scene.records, bytes).unwrap();
        verify(&scene.image, &scene.records)
    };
    for at in 0..60 {
        let mut bad = good.clone();
        bad[at] ^= 1;
        verify_as(&bad).expect_err("a damaged header");
    }
    for len in [0, 1, 60, PAGE_SIZE, good.len() - PAGE_SIZE, good.len() - 1] {
        verify_as(&good[..len]).expect_err("a file cut short");
    }
    for (at, word) in [(0, 5), (0, u64::MAX), (8, 5), (8, 1 << 41), (64, 0)] {
        let mut bad = good.clone();
        bad[PAGE_SIZE + at..][..8].copy_from_slice(&word.to_le_bytes());
        let error = verify_as(&bad).expect_err("progress that cannot be");
        assert!(error.one_line().contains("makes no sense"), "{error}");
    }
    // A header whose hash is right, but whose values are not.
    for (range, value) in [(16..24, u64::MAX), (24..32, u64::MAX), (40..48, u64::MAX)] {
        let mut bad = good.clone();
        bad[range].copy_from_slice(&value.to_le_bytes());
        let hash = xxhash_rust::xxh3::xxh3_64(&bad[..48]);
        bad[48..56].copy_from_slice(&hash.to_le_bytes());
        verify_as(&bad).expect_err("values that cannot be");
    }
    verify_as(&good).unwrap().into_result(&scene.image).unwrap();
}

#[test]
fn writes_are_due_at_the_rate_and_little_of_what_was_missed_is_made_up_for() {
    let start = Instant::now();
    let at = |ms| start + Duration::from_millis(ms);
    let mut pace = Pace::new(1000.0, start);
    assert_eq!(pace.take(start), 1, "the first one at once");
    assert_eq!(pace.take(start), 0);
    assert_eq!(pace.wait(start), SLICE);
    let mut writes = 1;
    for ms in 1..=1000 {
        writes += pace.take(at(ms));
    }
    assert!((1000..=1001).contains(&writes), "{writes}");
    // An hour's stop is made up for by a tenth of a second.
    let hour = at(3_600_000);
    let mut more = 0;
    while let due @ 1.. = pace.take(hour) {
        more += due;
    }
    assert!((100..=101).contains(&more), "{more}");
    assert_eq!(Pace::new(0.0, start).take(start), BUNCH);
    assert!(Pace::new(0.0, start).wait(start).is_zero());
}
