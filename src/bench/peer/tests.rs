use super::*;
use crate::bench::synthetic;

fn scratch() -> Scratch {
    Scratch::new_in(&std::env::temp_dir()).expect("a folder")
}

#[test]
fn peers_are_read_and_what_is_none_is_refused() {
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
fn a_version_decides_what_there_is() {
    assert_eq!(
        version("QEMU emulator version 7.2.22 (Debian 1:7.2)\n"),
        Some((7, 2, 22))
    );
    assert_eq!(version("QEMU emulator version 10.0\n"), Some((10, 0, 0)));
    assert_eq!(version("cat (GNU coreutils) 9.1"), None);
    let names = |version| -> Vec<&str> { modes(version, 2).iter().map(|mode| mode.name).collect() };
    assert_eq!(
        names((7, 2, 22)),
        [
            "plain",
            "compress zlib:1",
            "multifd none",
            "multifd zlib:1",
            "multifd zstd:1"
        ]
    );
    assert_eq!(names((10, 0, 2)).len(), 4);
    let counts = |version| {
        modes(version, 2)
            .iter()
            .filter(|mode| mode.counts_bytes)
            .count()
    };
    assert_eq!((counts((7, 2, 22)), counts((10, 0, 2))), (3, 4));
}

#[test]
fn a_peer_that_is_missing_or_no_qemu_or_an_image_that_is_no_ram_is_refused() {
    let scratch = scratch();
    let image = scratch.path().join("ram");
    synthetic::write(&image, 1 << 16, 1).expect("an image");
    let error = |text: &str| {
        let spec = text.parse().expect("a peer");
        let error = Peer::new(spec, &image, Digest(0), 2, &scratch).expect_err("refused");
        assert_eq!(error.kind(), Kind::Usage);
        error.one_line()
    };
    assert!(error("qemu:/no/such/qemu").contains("cannot be run"));
    assert!(error("qemu:/bin/true").contains("does not say that it is a QEMU"));
    if Command::new(BINARY).arg("--version").output().is_ok() {
        assert!(error("qemu").contains("whole MiB"));
    }
}

#[test]
fn a_real_qemu_is_measured_and_what_arrives_is_the_image() {
    if Command::new(BINARY).arg("--version").output().is_err() {
        assert!(std::env::var_os("RAMFERRY_REQUIRE_QEMU").is_none());
        eprintln!("SKIPPED: {BINARY} is not installed");
        return;
    }
    let scratch = scratch();
    let image = scratch.path().join("ram");
    synthetic::write(&image, 16 << 20, 1).expect("an image");
    let digest = Guest::open(&image).and_then(|guest| guest.digest());
    let digest = digest.expect("a digest");
    let spec: PeerSpec = "qemu".parse().expect("a peer");
    let peer = Peer::new(spec, &image, digest, 2, &scratch).expect("it is there");
    let mut runs = Vec::new();
    for mode in 0..peer.names().len() {
        runs.push(peer.migrate(mode).expect("it arrives"));
    }
    assert!(runs.iter().all(|run| run.time > 0.0));
    assert!(runs[0].wire_bytes.is_some_and(|bytes| bytes > 1 << 20));
    let report = PeerReport::new("x".to_owned(), &runs, 16 << 20);
    assert!(report.time.is_some() && report.ratio.is_some());
    let left: Vec<_> = std::fs::read_dir(scratch.path())
        .expect("it is there")
        .collect();
    assert!(
        left.len() <= 3,
        "the image and the monitors' sockets: {left:?}"
    );
    let wrong = Peer {
        digest: Digest(1),
        ..peer
    };
    assert_eq!(
        wrong.migrate(0).expect_err("another digest").kind(),
        Kind::Differs
    );
}
