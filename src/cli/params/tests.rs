use super::*;
use clap::Parser;

#[derive(Debug, Parser)]
struct Send {
    #[command(flatten)]
    args: SourceArgs,
}

#[derive(Debug, Parser)]
struct Receive {
    #[command(flatten)]
    args: DestinationArgs,
}

#[derive(Debug, Parser)]
struct Bench {
    #[command(flatten)]
    args: BenchParams,
}

fn has(command: &Command, name: &str) -> bool {
    command
        .get_arguments()
        .any(|arg| arg.get_long() == Some(name))
}

#[test]
fn every_parameter_is_an_option_of_its_side_and_of_both() {
    use clap::CommandFactory;
    let (send, receive, bench) = (Send::command(), Receive::command(), Bench::command());
    for row in TABLE {
        assert_eq!(has(&send, row.name), row.side != Side::Destination);
        assert_eq!(has(&receive, row.name), row.side != Side::Source);
        assert_eq!(has(&bench, row.name), !is_left_out(row));
    }
    for command in [send, receive, bench] {
        assert!(has(&command, CAPABILITY));
        command.debug_assert();
    }
}

#[test]
fn nothing_given_is_every_default() {
    let (params, caps) = Bench::parse_from(["bench"])
        .args
        .into_parts(Caps::default())
        .expect("defaults fit together");
    assert_eq!(params, Params::default());
    assert_eq!(caps, Caps::default());
}

#[test]
fn options_set_parameters_and_capabilities() {
    let args = [
        "send",
        "--compress-level=12",
        "--compress-method",
        "zstd",
        "--max-bandwidth",
        "1Gbit",
        "--capability",
        "xbzrle=off",
        "--capability",
        "compress=on",
    ];
    let (params, caps) = Send::parse_from(args)
        .args
        .into_parts(Caps::default())
        .expect("they fit together");
    assert_eq!(params.compress_method, crate::codec::Method::Zstd);
    assert_eq!(params.compress_level, 12);
    assert_eq!(params.max_bandwidth, 125_000_000);
    assert!(!caps.has(Capability::Xbzrle));
    assert!(caps.has(Capability::Compress));
}

#[test]
fn a_method_may_come_with_its_level_and_other_tools_names_are_hinted_at() {
    let given = |args: &[&str]| Send::try_parse_from([&["send"], args].concat());
    let parts = |args: &[&str]| given(args).unwrap().args.into_parts(Caps::default());
    for args in [
        &["--compress-method", "zstd:7"][..],
        &["--compress-method=zstd", "--compress-level=7"],
        &["--compression=zstd", "--compress-method=zstd:7"],
    ] {
        let (params, _) = parts(args).expect("they fit together");
        assert_eq!(params.compress_level, 7, "{args:?}");
    }
    assert!(given(&["--compress-method=zlib:12"]).is_err());
    for (args, why) in [
        (
            &["--compress-method=zstd:7", "--compress-level=7"][..],
            "exclude each other",
        ),
        (
            &["--compress-method=zstd:x"],
            "invalid compress-level x: allowed is 0 to 9 for zlib",
        ),
        (&["--method=zstd"], "--compress-method"),
    ] {
        let error = given(args).unwrap_err().to_string();
        assert!(error.contains(why), "{error}");
    }
    let note = given(&["--max-bandwidth=100"]).unwrap().args.note();
    assert!(note.is_some_and(|note| note.contains("100 bytes per second")));
    assert_eq!(
        given(&["--max-bandwidth=100MiB"]).unwrap().args.note(),
        None
    );
}

#[test]
fn a_refused_value_is_one_line_on_stderr_and_exit_code_2() {
    for (args, expected) in [
        (
            ["send", "--compress-threads", "300"],
            "error: invalid compress-threads 300: allowed is an integer from 1 to 255\n",
        ),
        (
            ["send", "--compress-threads", "-1"],
            "error: invalid compress-threads -1: allowed is an integer from 1 to 255\n",
        ),
        (
            ["send", "--compress-method", ""],
            "error: invalid compress-method \"\": allowed is none, zlib, gzip, lz4 or zstd\n",
        ),
        (
            ["send", "--capability", "xbzlre=on"],
            "error: invalid capability xbzlre: allowed are compress, xbzrle, return-path, auto-converge, events, pause-before-switchover, zero-blocks and rdma-pin-all\n",
        ),
    ] {
        let error = Send::try_parse_from(args).expect_err("refused");
        assert_eq!(error.kind(), ErrorKind::ValueValidation);
        assert_eq!(error.render().to_string(), expected);
        assert_eq!(error.exit_code(), 2);
        assert!(error.use_stderr());
    }
}

#[test]
fn a_level_that_the_method_lacks_is_a_usage_error() {
    let error = Send::parse_from(["send", "--compress-level", "12"])
        .args
        .into_parts(Caps::default())
        .expect_err("zlib ends at 9");
    assert_eq!(error.kind(), Kind::Usage);
    assert!(
        error
            .one_line()
            .contains("invalid compress-level 12: zlib supports levels")
    );
}

#[test]
fn compression_is_all_that_is_used_unless_something_else_was_given_as_well() {
    let parts = |args: &[&str], caps| {
        let args = [&["send"], args].concat();
        let parts = Send::parse_from(args).args.into_parts(caps);
        parts.map_err(|error| {
            assert_eq!(error.kind(), Kind::Usage);
            error.one_line()
        })
    };
    let both = ["--compression", "zstd", "--compression", "xbzrle"];
    let (params, caps) = parts(&both, Caps::for_qemu()).expect("they fit together");
    assert_eq!(params.compress_method, crate::codec::Method::Zstd);
    assert!(caps.has(Capability::Compress) && caps.has(Capability::Xbzrle));
    let none = ["--compression", "none", "--compress-method", "none"];
    let (_, caps) = parts(&none, Caps::default()).expect("they say the same");
    assert!(!caps.has(Capability::Compress) && !caps.has(Capability::Xbzrle));
    for (more, expected) in [
        (
            ["--compress-method", "lz4"],
            "compress-method lz4 contradicts compression zstd xbzrle: allowed is one of the two, \
             or the same in both",
        ),
        (
            ["--capability", "xbzrle=off"],
            "capability xbzrle=off contradicts compression zstd xbzrle: give one of them",
        ),
        (
            ["--compression", "mt"],
            "compression zstd and mt exclude each other: allowed is one method, and xbzrle besides",
        ),
    ] {
        let refused = parts(&[&both[..], &more].concat(), Caps::default());
        assert_eq!(refused.expect_err(expected), expected);
    }
    let same = ["--capability", "xbzrle=on"];
    assert!(parts(&[&both[..], &same].concat(), Caps::default()).is_ok());
}

#[test]
fn an_option_of_the_other_side_is_unknown() {
    let args = ["receive", "--compress-threads", "4"];
    let error = Receive::try_parse_from(args).expect_err("the source's option");
    assert_eq!(error.kind(), ErrorKind::UnknownArgument);
}

#[test]
fn the_long_help_has_meaning_range_and_default() {
    use clap::CommandFactory;
    let help = Bench::command()
        .term_width(0)
        .render_long_help()
        .to_string();
    for row in BenchParams::rows() {
        assert!(help.contains(row.meaning), "{}", row.name);
        assert!(help.contains(row.range), "{}", row.name);
        assert!(help.contains(&format!("[default: {}]", row.default)));
    }
}
