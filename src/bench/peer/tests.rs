use super::*;
use crate::synthetic;
use std::os::unix::fs::PermissionsExt;

fn scratch() -> Scratch {
    Scratch::new_in(&std::env::temp_dir()).expect("a folder")
}

const THREADS: [u8; 1] = [2];

fn workload(image: &Path, digest: Digest) -> PeerWorkload<'_> {
    PeerWorkload {
        image,
        digest,
        later_rounds: false,
        threads: &THREADS,
        decompress_threads: 2,
    }
}

/// A program of these lines.
fn script(scratch: &Scratch, lines: &str) -> PeerSpec {
    let (text, path) = (scratch.path().join("text"), scratch.path().join("script"));
    std::fs::write(&text, format!("#!/bin/sh\n{lines}\n")).expect("a script");
    // Copied by another process: a file that is open for writing cannot be executed, and each child of
    // this process has its open files for a moment.
    let copied = Command::new("cp").args([&text, &path]).status();
    assert!(copied.expect("cp").success());
    std::fs::remove_file(text).expect("it is there");
    std::fs::set_permissions(&path, PermissionsExt::from_mode(0o755)).expect("a program");
    PeerSpec {
        binary: path,
        data: None,
    }
}

/// A program that claims to be a QEMU, and then does this.
fn fake(scratch: &Scratch, then: &str) -> PeerSpec {
    let says_so = "[ \"$1\" = --version ] && echo 'QEMU emulator version 10.0.2' && exit";
    script(scratch, &format!("{says_so}\n{then}"))
}

fn image(scratch: &Scratch, bytes: u64) -> (PathBuf, Digest) {
    let path = scratch.path().join("ram");
    synthetic::write(&path, bytes, 1).expect("an image");
    let digest = Guest::open(&path).and_then(|guest| guest.digest());
    (path, digest.expect("a digest"))
}

#[test]
fn peers_are_parsed_and_invalid_ones_refused() {
    let spec = |binary: &str, data: Option<&str>| PeerSpec {
        binary: binary.into(),
        data: data.map(Into::into),
    };
    assert_eq!("qemu".parse(), Ok(spec(BINARY, None)));
    assert_eq!("qemu:/x/q".parse(), Ok(spec("/x/q", None)));
    assert_eq!("qemu:/x/q,/d".parse(), Ok(spec("/x/q", Some("/d"))));
    for text in ["", "xen", "qemu:", "qemux", "qemu,d"] {
        assert!(text.parse::<PeerSpec>().is_err(), "{text}");
    }
}

#[test]
fn the_version_decides_which_modes_there_are() {
    let version = modes::version;
    assert_eq!(
        version("QEMU emulator version 7.2.22 (Debian 1:7.2)\n"),
        Some((7, 2, 22))
    );
    assert_eq!(version("QEMU emulator version 10.0\n"), Some((10, 0, 0)));
    assert_eq!(version("cat (GNU coreutils) 9.1"), None);
    let names = |version, threads: &[u8]| -> Vec<String> {
        let modes = modes::modes(version, threads, 2);
        modes.into_iter().map(|mode| mode.name).collect()
    };
    assert_eq!(
        names((7, 2, 22), &[2]),
        [
            "plain",
            "compress zlib:1",
            "multifd none",
            "multifd zlib:1",
            "multifd zstd:1"
        ]
    );
    assert_eq!(names((10, 0, 2), &[2]).len(), 4);
    assert_eq!(
        names((10, 0, 2), &[1, 2])[..3],
        [
            "plain",
            "multifd none, 1 channel",
            "multifd none, 2 channels"
        ]
    );
    let counts = |version| {
        let modes = modes::modes(version, &[2], 2);
        modes.iter().filter(|mode| mode.counts_bytes).count()
    };
    assert_eq!((counts((7, 2, 22)), counts((10, 0, 2))), (3, 4));
}

#[test]
fn a_missing_peer_a_peer_that_is_not_qemu_and_an_unsuitable_image_are_refused() {
    let scratch = scratch();
    let (image, digest) = image(&scratch, 1 << 16);
    let error = |spec: PeerSpec| {
        let error = QemuPeer::new(spec, &workload(&image, digest), &scratch).expect_err("refused");
        assert_eq!(error.kind(), Kind::Usage);
        error.one_line()
    };
    let named = |text: &str| text.parse().expect("a peer");
    assert!(error(named("qemu:/no/such/qemu")).contains("cannot be run"));
    assert!(error(named("qemu:/bin/true")).contains("is not a QEMU"));
    assert!(error(fake(&scratch, "")).contains("whole MiB"));
}

#[test]
fn a_peer_that_ends_or_answers_nonsense_is_left_out_with_the_reason() {
    let scratch = scratch();
    let (image, digest) = image(&scratch, 1 << 20);
    for (script, reason) in [
        ("exit 3", "QEMU ended with exit status: 3"),
        ("echo first >&2; echo 'no room' >&2; exit 1", ": no room"),
        ("kill -9 $$", "signal: 9"),
    ] {
        let spec = fake(&scratch, script);
        let mut peer =
            QemuPeer::new(spec, &workload(&image, digest), &scratch).expect("it answers");
        assert!(peer.works(0));
        let why = peer.run(0).expect_err("it cannot work");
        assert!(why.contains(reason), "{script}: {why}");
        assert!(!why.contains('\n') && !peer.works(0) && peer.works(1));
        let report = &peer.reports()[0];
        assert_eq!(report.error_desc.as_deref(), Some(&why[..]));
        assert!(report.runs.is_empty() && report.time.is_none());
        peer.keep(&[false, true]);
        assert_eq!(peer.names(), ["QEMU 10.0.2 multifd none"]);
    }
}

#[test]
fn an_image_keeps_its_holes() {
    let Ok(scratch) = Scratch::new_in(Path::new("/dev/shm")) else {
        eprintln!("SKIPPED: there is no /dev/shm");
        return;
    };
    let image = scratch.path().join("ram");
    let file = File::create(&image).expect("a file");
    file.set_len(8 << 20).expect("a hole");
    let about = || std::fs::metadata(&image).expect("it is there");
    let full = loses_its_holes(&image, about().blocks(), 8 << 20);
    assert_eq!(full, about().blocks() == 0);
    let copy = scratch.path().join("copy");
    copy_whole(&image, &copy).expect("a copy");
    assert_eq!(about().blocks(), 0);
    let same = std::fs::read(&copy).expect("it is there");
    assert_eq!(same.len(), 8 << 20);
    let full = std::fs::metadata(&copy).expect("it is there").blocks();
    assert!(!loses_its_holes(&copy, full, 8 << 20));
}

#[test]
fn a_real_qemu_is_measured_and_what_arrives_is_the_image() {
    if Command::new(BINARY).arg("--version").output().is_err() {
        assert!(std::env::var_os("RAMFERRY_REQUIRE_QEMU").is_none());
        eprintln!("SKIPPED: {BINARY} is not installed");
        return;
    }
    let scratch = scratch();
    let (image, digest) = image(&scratch, 16 << 20);
    // With a wrapper script, the CPU time of the program counts, not that of the shell.
    let spec = script(&scratch, &format!("{BINARY} \"$@\"\nexit $?"));
    let mut peer = QemuPeer::new(spec, &workload(&image, digest), &scratch).expect("it is there");
    for mode in 0..peer.names().len() {
        peer.run(mode).expect("it arrives");
    }
    let reports = peer.reports();
    let runs: Vec<&PeerRun> = reports.iter().map(|report| &report.runs[0]).collect();
    assert!(runs.iter().all(|run| run.time > 0.0));
    assert!(runs.iter().all(|run| run.source_cpu_seconds > 0.001));
    assert!(runs[0].wire_bytes.is_some_and(|bytes| bytes > 1 << 20));
    assert!(reports[0].time.is_some() && reports[0].ratio.is_some());
    let left: Vec<_> = std::fs::read_dir(scratch.path())
        .expect("it is there")
        .collect();
    assert!(left.len() <= 3, "the image, a copy, the wrapper: {left:?}");
    let mut wrong = QemuPeer {
        digest: Digest(1),
        ..peer
    };
    let why = wrong.run(0).expect_err("another digest");
    assert!(why.contains("the digest of the image is"), "{why}");
}
