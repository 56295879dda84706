use super::*;
use crate::bench::measure::methods;

fn axes(methods: &str) -> Axes {
    Axes::of(
        methods::parse(methods, 1).expect("methods"),
        &Params::default(),
        &Caps::default(),
    )
}

fn names(matrix: &Matrix) -> Vec<String> {
    crate::bench::measure::setting::names(&matrix.settings)
}

#[test]
fn every_combination_is_there_once_and_named_by_what_differs() {
    let mut axes = axes("zstd:1,none");
    axes.set("compress-threads", "1-2,2").expect("numbers");
    axes.set("links", "unlimited, 200Mbit/20ms").expect("links");
    let matrix = axes.matrix(false).expect("eight");
    assert_eq!(
        names(&matrix),
        [
            "zstd:1, 1 thread, unlimited",
            "none, 1 thread, unlimited",
            "zstd:1, 2 threads, unlimited",
            "none, 2 threads, unlimited",
            "zstd:1, 1 thread, 200Mbit/20ms",
            "none, 1 thread, 200Mbit/20ms",
            "zstd:1, 2 threads, 200Mbit/20ms",
            "none, 2 threads, 200Mbit/20ms",
        ]
    );
    let params = matrix.settings[4].apply(&Params::default());
    assert_eq!((params.compress_threads, params.compress_level), (1, 1));
    assert_eq!(params.link, "200Mbit/20ms".parse().ok());
    assert_eq!(params.validate(), Ok(()));
}

#[test]
fn what_makes_no_difference_is_measured_once() {
    let mut axes = axes("lz4,zlib:1");
    axes.set("zlib-engine", "libdeflate,zlib-rs")
        .expect("engines");
    axes.set("xbzrle", "off,64MiB,64MiB").expect("sizes");
    let matrix = axes.matrix(false).expect("three");
    assert_eq!(
        names(&matrix),
        ["lz4, libdeflate", "zlib:1, libdeflate", "zlib:1, zlib-rs"]
    );
    assert!(matrix.notes[0].contains("--then"));
    let later = axes.matrix(true).expect("six");
    assert_eq!((later.settings.len(), later.notes.len()), (6, 0));
    let caps = later.settings[0].caps(&Caps::default());
    assert!(!caps.has(Capability::Xbzrle));
}

#[test]
fn what_the_qemu_wire_does_not_support_is_left_out_with_a_note() {
    let mut axes = axes("zstd:1,zlib:1,none");
    axes.set("wire", "native,qemu").expect("formats");
    let matrix = axes.matrix(false).expect("five");
    assert_eq!(matrix.settings.len(), 5);
    assert_eq!(
        matrix.notes,
        ["left out: zstd:1 (the qemu wire supports zlib and none)"]
    );
    let on_wire = |method, wire| {
        let mut settings = matrix.settings.iter();
        settings.find(|one| (one.compression.method, one.wire) == (method, wire))
    };
    let compresses = |setting: Option<&Setting>| {
        let caps = setting.expect("it is there").caps(&Caps::default());
        caps.has(Capability::Compress)
    };
    assert!(compresses(on_wire(Method::Zlib, Format::Qemu)));
    assert!(!compresses(on_wire(Method::None, Format::Qemu)));
    axes.set("connections", "2").expect("a number");
    axes.set("wire", "qemu").expect("a format");
    let error = axes.matrix(false).expect_err("nothing is left").to_string();
    assert!(
        error.starts_with("there is nothing to measure: "),
        "{error}"
    );
}

#[test]
fn values_that_an_axis_cannot_have_are_named_with_what_is_allowed() {
    for (axis, list, words) in [
        (
            "compress-threads",
            "1,0",
            "invalid compress-threads 0: allowed is",
        ),
        (
            "compress-threads",
            "1-300",
            "invalid compress-threads 256: allowed is",
        ),
        ("compress-threads", "3-1", "invalid range '3-1'"),
        ("connections", "", "invalid connections"),
        ("batch-pages", "1-99999999", "invalid range"),
        ("xbzrle", "3", "xbzrle-cache-size"),
        ("links", "fast", "link"),
        (
            "wire",
            "tin",
            "invalid wire 'tin': allowed are native and qemu",
        ),
        ("colour", "red", "colour"),
    ] {
        let error = axes("none").set(axis, list).expect_err(list).to_string();
        assert!(error.contains(words), "{axis} {list}: {error}");
    }
}

#[test]
fn a_matrix_that_is_empty_or_enormous_is_refused() {
    assert!(matches!(axes("none").matrix(false), Ok(matrix) if matrix.settings.len() == 1));
    let nothing = Axes {
        compressions: vec![],
        ..axes("none")
    };
    assert_eq!(nothing.matrix(false), Err(AxisError::Empty(String::new())));
    let mut huge = axes("zstd:1-19");
    huge.set("compress-threads", "1-255").expect("numbers");
    huge.set("decompress-threads", "1-255").expect("numbers");
    assert_eq!(huge.matrix(false), Err(AxisError::TooMany));
}
