//! A target of `ramferry::fuzz`: the one that the executable is named for.

#![no_main]

use std::path::PathBuf;
use std::sync::LazyLock;

use libfuzzer_sys::fuzz_target;
use ramferry::fuzz::{Target, named};

static TARGET: LazyLock<&Target> =
    LazyLock::new(|| named(env!("CARGO_BIN_NAME")).expect("a target of this name"));

/// Where it may write: made and removed by `run.sh`.
static FOLDER: LazyLock<PathBuf> = LazyLock::new(|| {
    let folder = std::env::temp_dir().join(format!("{}-{}", TARGET.name, std::process::id()));
    std::fs::create_dir_all(&folder).expect("a folder for temporary files");
    folder
});

fuzz_target!(|data: &[u8]| {
    (TARGET.run)(data, &FOLDER);
});
