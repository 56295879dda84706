use super::*;
use crate::bench::measure::methods::MethodLevel;
use crate::bench::measure::scratch::Scratch;
use crate::bench::measure::workload::Transport;
use crate::codec::Method;
use crate::image::Guest;
use crate::synthetic;
use std::path::{Path, PathBuf};

const BYTES: u64 = 2 << 20;

fn image(scratch: &Scratch, name: &str, seed: u64) -> PathBuf {
    let path = scratch.path().join(name);
    synthetic::write(&path, BYTES, seed).expect("an image");
    path
}

fn scratch() -> Scratch {
    Scratch::new_in(&std::env::temp_dir()).expect("a folder")
}

fn digest(image: &Path) -> Digest {
    Guest::open(image)
        .and_then(|g| g.digest())
        .expect("a digest")
}

fn variant(method: Method) -> Variant {
    let compression = MethodLevel::new(method, 1).expect("a level");
    Variant {
        params: compression.apply(&Params::default()),
        caps: Caps::default(),
        wire: Format::Native,
    }
}

static GO_ON: AtomicBool = AtomicBool::new(false);

#[test]
fn a_migration_is_measured_and_the_received_ram_removed() {
    let scratch = scratch();
    let image = image(&scratch, "ram", 1);
    let expected = digest(&image);
    for (link, method) in [
        (Transport::Unix, Method::Zstd),
        (Transport::Tcp, Method::None),
    ] {
        let workload =
            Workload::new(image.clone(), vec![], link, &scratch).expect("a place for a socket");
        let run = migrate(&workload, &variant(method), expected, &GO_ON, &mut |_| {})
            .expect("it arrives");
        assert_eq!((run.ram_bytes, run.digest), (BYTES, expected));
        assert!(run.time > 0.0 && run.wire_bytes > 0 && run.wire_bytes < BYTES);
        assert!(run.source_cpu() > 0.0 && run.destination_cpu() > 0.0);
        assert!(
            run.rounds.is_empty(),
            "the bulk stage alone says nothing new"
        );
        assert!(!workload.output.exists());
    }
}

#[test]
fn the_qemu_wire_is_measured_and_verified_too() {
    let scratch = scratch();
    let image = image(&scratch, "ram", 1);
    let expected = digest(&image);
    let workload = Workload::new(image, vec![], Transport::Unix, &scratch).expect("a place");
    for (method, compress) in [(Method::Zlib, true), (Method::None, false)] {
        let mut variant = variant(method);
        variant.wire = Format::Qemu;
        variant
            .caps
            .set("compress", compress)
            .expect("a capability");
        let run = migrate(&workload, &variant, expected, &GO_ON, &mut |_| {}).expect("it arrives");
        assert_eq!((run.digest, run.wire_bytes < BYTES), (expected, true));
        assert_eq!(run.codec_bytes > 0, compress);
        assert!(!workload.output.exists());
    }
}

#[test]
fn later_states_are_delta_rounds_and_the_last_one_is_what_arrives() {
    let scratch = scratch();
    let (first, last) = (image(&scratch, "first", 1), image(&scratch, "last", 2));
    let expected = digest(&last);
    let workload = Workload::new(first, vec![last.into()], Transport::Unix, &scratch)
        .expect("a place for a socket");
    let run = migrate(
        &workload,
        &variant(Method::Lz4),
        expected,
        &GO_ON,
        &mut |_| {},
    )
    .expect("it arrives");
    assert_eq!(run.rounds.len(), 2);
    assert!(run.ram_bytes > BYTES && run.downtime.is_some());
}

#[test]
fn an_unexpected_digest_is_an_error_of_its_own_kind() {
    let (one, other) = (Digest(1), Digest(2));
    assert_eq!(verified(one, Some(one), Some(one)).ok(), Some(one));
    for (source, destination) in [
        (Some(other), Some(other)),
        (Some(one), Some(other)),
        (Some(other), Some(one)),
        (Some(one), None),
    ] {
        let error = verified(one, source, destination).expect_err("they differ");
        assert_eq!(error.kind(), Kind::Differs);
    }
}

#[test]
fn an_interrupted_migration_ends_and_leaves_nothing() {
    let scratch = scratch();
    let image = image(&scratch, "ram", 1);
    let expected = digest(&image);
    let workload =
        Workload::new(image, vec![], Transport::Unix, &scratch).expect("a place for a socket");
    // So slow that it cannot be over before it is looked at.
    let mut slow = variant(Method::Zlib);
    slow.params.max_bandwidth = 10_000;
    let error = migrate(
        &workload,
        &slow,
        expected,
        &AtomicBool::new(true),
        &mut |_| {},
    )
    .expect_err("interrupted");
    assert_eq!(error.kind(), Kind::Interrupted);
    let names = std::fs::read_dir(scratch.path()).expect("still there");
    assert_eq!(names.count(), 1, "only the image is left");
}

#[test]
fn if_one_end_cannot_start_the_other_does_not_wait() {
    let scratch = scratch();
    let missing = scratch.path().join("missing");
    let workload =
        Workload::new(missing, vec![], Transport::Unix, &scratch).expect("a place for a socket");
    let run = |workload: &Workload| {
        migrate(
            workload,
            &variant(Method::None),
            Digest(0),
            &GO_ON,
            &mut |_| {},
        )
        .expect_err("it cannot work")
        .one_line()
    };
    assert!(run(&workload).contains("missing"));
    let mut lost = workload;
    lost.output = scratch.path().join("no/folder/ram");
    assert!(run(&lost).contains("folder"));
}
