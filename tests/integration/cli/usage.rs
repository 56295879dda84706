//! What the command line refuses: values, addresses and files that cannot be right.

use ramferry::params::{Side, TABLE};

use crate::support::{Files, mixed, run, watchdog};

#[test]
fn what_is_not_an_image_is_refused_by_name() {
    watchdog!();
    let files = Files::small();
    let empty = files.folder.path("empty");
    std::fs::write(&empty, b"").unwrap();
    let odd = files.folder.path("odd");
    std::fs::write(&odd, vec![1; 4097]).unwrap();
    let missing = files.folder.path("missing");
    let folder = missing.parent().unwrap();
    for (image, why) in [
        (missing.as_path(), "No such file"),
        (&empty, "is empty"),
        (&odd, "4097 bytes is not a multiple of the page size, 4096"),
        (folder, "it has no guest.json"),
    ] {
        let name = image.to_str().unwrap();
        let uri = files.uri();
        for args in [&["send", name, &uri][..], &["digest", name]] {
            run(args).failed_with(1, &[name, why]);
        }
        run(&["send", files.image(), &uri, "--then", name]).failed_with(1, &[name, why]);
    }
}

#[test]
fn an_unreadable_image_is_refused_by_name() {
    use std::os::unix::fs::PermissionsExt;
    watchdog!();
    let files = Files::small();
    std::fs::set_permissions(&files.image, std::fs::Permissions::from_mode(0o000)).unwrap();
    if std::fs::File::open(&files.image).is_ok() {
        // Not testable by a user who may read everything.
        return;
    }
    run(&["digest", files.image()]).failed_with(1, &[files.image(), "Permission denied"]);
}

#[test]
fn a_later_image_of_another_size_is_refused_with_both_sizes() {
    watchdog!();
    let files = Files::small();
    let other = files.folder.image("other", &mixed(65, 1));
    let other = other.to_str().unwrap();
    run(&["send", files.image(), &files.uri(), "--then", other])
        .failed_with(1, &[other, "266240 bytes", "262144"]);
}

#[test]
fn every_parameter_out_of_range_is_refused_in_one_line_that_says_what_is_allowed() {
    watchdog!();
    let files = Files::small();
    let bad = |name: &str| -> (&[&str], &str) {
        match name {
            "compress-method" => (
                &["zlib ", "ZSTD", "", "brotli"],
                "none, zlib, gzip, lz4 or zstd",
            ),
            "compression" => (&["brotli", "", "zlib,xbzrle"], "or xbzrle"),
            "compress-level" => (&["-1", "20", "x", ""], "0 to 19"),
            "compress-threads" | "decompress-threads" => (&["0", "256", "-1", "1.5"], "1 to 255"),
            "compress-wait-thread" | "delta-compress" => (&["maybe", "2", ""], "on or off"),
            "xbzrle-cache-size" => (&["0", "4095", "12288", "-4096", "x"], "power of two"),
            "max-bandwidth" => (&["-1", "fast", "1XB"], "100MiB"),
            "connections" => (&["0", "65", "-1"], "1 to 64"),
            "batch-pages" => (&["0", "257", "all"], "1 to 256"),
            "zlib-engine" => (&["zlib", "isal", ""], "zlib-rs"),
            "downtime-limit" => (&["-1", "2001s", "1.5", "soon"], "0 to 2000000 milliseconds"),
            "max-rounds" => (&["0", "65536", "-1"], "1 to 65535"),
            "timeout-action" => (&["pause", ""], "suspend or abort"),
            "throttle-trigger-threshold" => (&["0", "101"], "1 to 100"),
            "cpu-throttle-initial" | "cpu-throttle-increment" | "max-cpu-throttle" => {
                (&["0", "100"], "1 to 99")
            }
            "timeout" | "connect-timeout" | "accept-timeout" | "max-time" => {
                (&["0", "-1", "2d", "soon"], "1 day")
            }
            "link" => (&["", "1Gb", "10", "1Gbit/20", "tcp"], "1Gbit/20ms"),
            _ => panic!("{name} has no values here that it cannot have"),
        }
    };
    for row in TABLE {
        let (values, allowed) = bad(row.name);
        let uri = files.uri();
        let send = ["send", files.image(), &uri];
        let receive = ["receive", &uri, files.output()];
        let line: &[&str] = match row.side {
            Side::Destination => &receive,
            Side::Source | Side::Both => &send,
        };
        for value in values {
            let option = format!("--{}={value}", row.name);
            run(&[line, &[&option]].concat()).failed_with(2, &[row.name, value, allowed]);
        }
    }
    assert_eq!(files.folder.names(), ["ram"]);
}

#[test]
fn a_level_that_the_method_does_not_have_is_refused_whatever_the_order() {
    watchdog!();
    let files = Files::small();
    let uri = files.uri();
    let send = ["send", files.image(), &uri];
    for (method, level, allowed) in [
        ("zlib", "10", "0 to 9"),
        ("gzip", "19", "0 to 9"),
        ("lz4", "2", "0 to 1"),
    ] {
        let method_first = ["--compress-method", method, "--compress-level", level];
        let level_first = ["--compress-level", level, "--compress-method", method];
        for options in [method_first, level_first] {
            run(&[&send[..], &options].concat()).failed_with(2, &[method, level, allowed]);
        }
    }
}

#[test]
fn invalid_addresses_capabilities_and_options_are_usage_errors() {
    watchdog!();
    let files = Files::small();
    let send = ["send", files.image()];
    for uri in ["nowhere", "udp:x:1", "tcp:x:65536", "fd:-1", "unix:"] {
        let ended = run(&[&send[..], &[uri]].concat());
        assert_eq!(ended.code, Some(2), "{ended:?}");
        let line = ended.err.lines().next().unwrap();
        assert!(
            line.starts_with("error: ") && line.contains(uri) && line.contains("exec:COMMAND"),
            "{line}"
        );
    }
    let uri = files.uri();
    for (capability, allowed) in [
        ("telepathy=on", "compress, xbzrle"),
        ("xbzrle", "NAME=on"),
        ("xbzrle=maybe", "NAME=on"),
    ] {
        run(&[&send[..], &[&uri, "--capability", capability]].concat())
            .failed_with(2, &[capability.split('=').next().unwrap(), allowed]);
    }
    // An option of the other side, one that does not exist, and no command at all.
    for args in [
        &["receive", &uri, files.output(), "--compress-level", "1"][..],
        &["send", files.image(), &uri, "--decompress-threads", "1"],
        &["send", files.image(), &uri, "--fast"],
        &["send", files.image()],
        &["teleport"],
        &[],
    ] {
        assert_eq!(run(args).code, Some(2), "{args:?}");
    }
    assert_eq!(files.folder.names(), ["ram"]);
}

#[test]
fn several_connections_into_a_file_are_refused() {
    watchdog!();
    let files = Files::small();
    let uri = format!("file:{}", files.folder.path("stream").display());
    run(&["send", files.image(), &uri, "--connections", "2"])
        .failed_with(2, &[&uri, "one connection, not 2"]);
    assert_eq!(files.folder.names(), ["ram"]);
}
