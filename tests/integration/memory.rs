//! A limit on the address space: an error of one line, or success.

use std::process::{Command, Stdio};

use crate::support::{Ended, Folder, Program, mixed, watchdog};

/// Runs the program with so many MiB of address space.
fn run_within(mebibytes: u64, args: &[&str]) -> Ended {
    let mut shell = Command::new("sh");
    let limit = format!("ulimit -v {}; exec \"$0\" \"$@\"", mebibytes << 10);
    shell.args(["-c", &limit, env!("CARGO_BIN_EXE_ramferry")]);
    shell.args(args).stdin(Stdio::null());
    Program::start(shell).finish()
}

#[test]
fn either_end_ends_with_a_line_or_succeeds_if_it_may_map_little_more_than_itself() {
    watchdog!();
    let folder = Folder::in_memory();
    let image = folder.image("g.ram", &mixed(512, 1));
    let (image, out) = (image.to_str().unwrap(), folder.path("out"));
    let stream = format!("file:{}", folder.path("stream").display());
    let receive = ["receive", &stream, out.to_str().unwrap(), "-q", "--force"];
    for method in ["zlib", "zstd"] {
        let options = ["--compress-method", method, "--compress-threads", "4"];
        let send = [&["send", image, &stream, "-q", "--force"][..], &options].concat();
        for args in [&send[..], &receive] {
            let mut succeeded = 0;
            for mebibytes in [36, 44, 60, 90, 256, 1024] {
                let ended = run_within(mebibytes, args);
                match ended.code {
                    Some(0) => succeeded += 1,
                    Some(1) => assert_eq!(ended.err.lines().count(), 1, "{mebibytes}: {ended:?}"),
                    _ => panic!("{mebibytes}: {ended:?}"),
                }
                if mebibytes == 44 {
                    let what = "out of memory: ";
                    assert!(
                        ended.err.contains(what) && ended.err.contains("ulimit -v"),
                        "{ended:?}"
                    );
                }
            }
            assert!(succeeded >= 2, "{args:?}");
        }
    }
}
