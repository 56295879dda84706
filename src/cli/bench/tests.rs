use super::args::BenchArgs;
use super::plan::matrix;
use super::*;
use crate::bench::measure::memcpy::copy_threads;
use crate::caps::Caps;
use crate::cli::{Cli, Command};
use crate::params::Params;
use crate::params::{BenchUse, TABLE};
use clap::Parser;

fn args(words: &[&str]) -> Result<BenchArgs, clap::Error> {
    match Cli::try_parse_from([&["ramferry", "bench"], words].concat())?.command {
        Command::Bench(args) => Ok(*args),
        other => panic!("{other:?}"),
    }
}

fn chosen(words: &[&str]) -> String {
    let args = args(words).expect("options");
    let (params, caps) = args
        .params
        .into_parts(Caps::default())
        .expect("they fit together");
    let matrix = matrix(&args.matrix, &args.explicit, &params, &caps, false).expect("settings");
    let settings = &matrix.settings;
    let names: Vec<_> = settings
        .iter()
        .map(|one| one.compression.to_string())
        .collect();
    names.join(",")
}

#[test]
fn the_methods_come_from_the_list_the_parameters_or_the_preset() {
    assert_eq!(chosen(&[]), "none,lz4,zstd:1,zstd:3,zlib:1,zlib:6");
    assert_eq!(
        chosen(&["--methods", "gzip,zstd:2-3"]),
        "gzip:1,zstd:2,zstd:3"
    );
    assert_eq!(
        chosen(&["--compress-method=zstd", "--compress-level=9"]),
        "none,zstd:9"
    );
    assert_eq!(chosen(&["--compress-level=0"]), "none,zlib:6");
    assert_eq!(chosen(&["--compress-method=none"]), "none");
}

#[test]
fn options_that_contradict_each_other_are_refused() {
    for words in [
        &["--methods=lz4", "--compress-method=zstd"][..],
        &["--methods=zstd", "--compress-level=3"],
        &["x.ram", "--synthetic=1MiB"],
        &["x.ram", "--seed=2"],
        &["--then=x.ram"],
        &["--runs=0"],
        &["--preset=slow"],
        &["--goal=speed"],
        &["--sort=size"],
        &["--peer=xen"],
        &["--compare", "x.json"],
        &["--fail-if-slower=5%"],
        &["--max-time=soon"],
        &["--transport=rdma"],
        &["--synthetic=0"],
        &["--synthetic=5000"],
    ] {
        let error = args(words).expect_err("refused");
        assert_eq!(error.exit_code(), 2, "{words:?}");
    }
    let unused = (TABLE.iter()).filter(|row| row.in_bench == BenchUse::Unused);
    for name in unused.map(|row| row.name) {
        let error = args(&[&format!("--{name}"), "1"]).map(|args| args.effort.max_time);
        match error {
            // All of a comparison has a time limit of its own.
            Ok(limit) => assert_eq!((name, limit), ("max-time", Some(Duration::from_secs(1)))),
            Err(error) => assert_eq!(error.kind(), clap::error::ErrorKind::UnknownArgument),
        }
    }
    let bad_list = args(&["--methods=zlib:12"]).expect("a word");
    let error = run(bad_list).expect_err("no such level");
    assert_eq!(error.kind(), Kind::Usage);
}

#[test]
fn axes_replace_what_the_preset_has() {
    let of = |words: &[&str]| {
        let args = args(words).expect("options");
        let (params, caps) = (Params::default(), Caps::default());
        matrix(&args.matrix, &args.explicit, &params, &caps, false).map(|matrix| matrix.settings)
    };
    let settings = of(&["--preset=links", "--links=1Gbit", "--methods=lz4,zstd:1,3"]);
    let settings = settings.expect("settings");
    let names = crate::bench::measure::setting::names(&settings);
    assert_eq!(names, ["lz4", "zstd:1", "zstd:3"]);
    assert_eq!(settings[0].link, "1Gbit".parse().ok());
    assert_eq!(
        usize::from(settings[0].compress_threads),
        copy_threads().min(255)
    );
    let threads = of(&["--methods=none", "--compress-threads=1-3,8"]).expect("settings");
    assert_eq!(threads.len(), 4);
    for words in [
        &["--preset=delta"][..],
        &["--compress-threads=0"],
        &["--wire=qemu", "--methods=zstd"],
        &["--links=fast"],
    ] {
        assert_eq!(
            of(words).expect_err("refused").kind(),
            Kind::Usage,
            "{words:?}"
        );
    }
}
