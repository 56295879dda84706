use clap::Parser;

use super::parameters::SetParameters;
use super::*;
use crate::params::TABLE;

#[derive(Debug, Parser)]
struct Ctl {
    #[command(flatten)]
    args: CtlArgs,
}

fn parse(args: &[&str]) -> Result<CtlCommand, String> {
    Ctl::try_parse_from([&["ctl", "m"], args].concat())
        .map(|ctl| ctl.args.command)
        .map_err(|error| error.to_string())
}

fn parameters_of(args: &[&str]) -> SetParameters {
    match parse(&[&["migrate-setparameters"], args].concat()).expect("it is well-formed") {
        CtlCommand::MigrateSetparameters(args) => args,
        other => panic!("{other:?}"),
    }
}

#[test]
fn the_command_line_is_sound() {
    use clap::CommandFactory;
    Ctl::command().debug_assert();
}

#[test]
fn minus_one_leaves_alone_and_other_negatives_are_refused() {
    let args = parameters_of(&["--level", "-1", "--threads=-1", "--dthreads", "4"]);
    args.check().unwrap();
    let amounts: Vec<_> = args
        .amounts()
        .map(|(name, amount)| (name, amount.0))
        .collect();
    assert_eq!(
        amounts,
        [
            ("compress-level", None),
            ("compress-threads", None),
            ("decompress-threads", Some(4))
        ]
    );
    for option in ["--level", "--threads", "--dthreads"] {
        for value in [
            "-2",
            "-9223372036854775808",
            "1.5",
            "",
            "x",
            "9223372036854775808",
        ] {
            let error = parse(&["migrate-setparameters", option, value]).expect_err(value);
            assert!(
                error.contains("is not an integer from 0, nor -1, which leaves it alone"),
                "{error}"
            );
            assert_eq!(error.lines().count(), 1, "{error}");
        }
    }
}

#[test]
fn nothing_and_the_same_twice_are_refused() {
    for (args, why) in [
        (&[][..], "nothing to set"),
        (
            &["--level", "1", "--set", "compress-level=2"],
            "compress-level is given twice",
        ),
        (&["--set", "x=2", "--set", "x=2"], "x is given twice"),
    ] {
        let error = parameters_of(args).check().expect_err(why);
        assert_eq!(error.kind(), Kind::Usage);
        assert!(error.one_line().contains(why), "{}", error.one_line());
    }
    // What is left alone may be set otherwise.
    parameters_of(&["--set", "compression=zstd", "--set", "compression=xbzrle"])
        .check()
        .unwrap();
    parameters_of(&["--level", "-1", "--set", "compress-level=2"])
        .check()
        .unwrap();
}

#[test]
fn settings_have_the_type_of_their_row() {
    for (text, value) in [
        ("compress-level=3", json!(3)),
        ("compress-method=zstd", json!("zstd")),
        ("compress-wait-thread=off", json!(false)),
        ("xbzrle-cache-size=128MiB", json!(128 << 20)),
        ("max-bandwidth=1Gbit", json!(125_000_000)),
        ("downtime-limit=1.5s", json!(1500)),
        ("batch-pages=auto", Value::Null),
        ("max-time=500ms", json!(0.5)),
        ("link=1Gbit/20ms", json!("1Gbit/20ms")),
        ("link=off", Value::Null),
    ] {
        assert_eq!(
            values::setting(text).expect(text).value,
            Some(value),
            "{text}"
        );
    }
    assert_eq!(values::setting("multifd-channels=4").unwrap().value, None);
    for (text, why) in [
        (
            "compress-level=20",
            "invalid compress-level 20: allowed is 0 to 9 for zlib and gzip",
        ),
        ("xbzrle-cache-size=5", "a power of two"),
        (
            "max-bandwidth=fast",
            "invalid max-bandwidth fast: allowed is a rate",
        ),
        ("compress-level", "compress-level is not NAME=VALUE"),
        ("=5", "=5 is not NAME=VALUE"),
        ("", "\"\" is not NAME=VALUE"),
    ] {
        let error = values::setting(text).expect_err(text);
        assert!(error.contains(why), "{error}");
    }
}

#[test]
fn every_default_can_be_set() {
    for row in TABLE {
        let setting = values::setting(&format!("{}={}", row.name, row.default));
        assert!(setting.expect(row.name).value.is_some());
    }
}

#[test]
fn what_only_the_monitor_knows_takes_the_type_that_it_has_there() {
    let like = |text, now: Value| values::like("n", text, Some(&now));
    assert_eq!(like("4", json!(2)), Ok(json!(4)));
    assert_eq!(like("-1", json!(2)), Ok(json!(-1)));
    assert_eq!(like("64MiB", json!(2)), Ok(json!(64 << 20)));
    assert_eq!(like("8Mbit", json!(2)), Ok(json!(1_000_000)));
    assert_eq!(like("yes", json!(false)), Ok(json!(true)));
    assert_eq!(like("5", json!("")), Ok(json!("5")));
    assert_eq!(like("on", json!("none")), Ok(json!("on")));
    assert_eq!(
        like("many", json!(2)),
        Err("n many is not a number".to_owned())
    );
    assert_eq!(
        like("5", json!(true)),
        Err("n 5 is not on or off".to_owned())
    );
    for now in [None, Some(&Value::Null)] {
        let guess = |text| values::like("n", text, now).expect("anything goes");
        assert_eq!(guess("4"), json!(4));
        assert_eq!(guess("1.5"), json!(1.5));
        assert_eq!(guess("on"), json!(true));
        assert_eq!(guess("false"), json!(false));
        assert_eq!(guess("null"), Value::Null);
        assert_eq!(guess("zstd"), json!("zstd"));
        assert_eq!(guess(""), json!(""));
    }
}

#[test]
fn switches_and_downtimes() {
    assert_eq!(values::switch("xbzrle=on"), Ok(("xbzrle".to_owned(), true)));
    assert_eq!(
        values::switch("x-colo=false"),
        Ok(("x-colo".to_owned(), false))
    );
    for text in ["xbzrle", "xbzrle=", "=on", "xbzrle=maybe", ""] {
        assert!(values::switch(text).is_err(), "{text}");
    }
    assert_eq!(values::downtime("300"), Ok(300));
    assert_eq!(values::downtime("1.5s"), Ok(1500));
    assert!(
        values::downtime("-1")
            .expect_err("negative")
            .contains("invalid downtime-limit -1: ")
    );
    assert!(values::downtime("1.5").is_err());
}

#[test]
fn speeds_are_mib_and_shown_so_that_none_looks_like_no_limit() {
    const MIB: u64 = 1 << 20;
    for (text, expected) in [
        ("0", Speed::Limit(0)),
        ("100", Speed::Limit(100 * MIB)),
        ("1Gbit", Speed::Limit(125_000_000)),
        ("1.5MiB/s", Speed::Limit(3 << 19)),
        ("-1", Speed::Unlimited),
        ("-9223372036854775808", Speed::Unlimited),
    ] {
        assert_eq!(speed(text), Ok(expected), "{text}");
    }
    for text in ["", "1.5", "x", "17592186044416", "1 Mb"] {
        assert!(speed(text).expect_err(text).contains("MiB/s"));
    }
    for (bytes, text) in [
        (0, "0"),
        (1, "0.000001"),
        (3 << 19, "1.5"),
        (125_000_000, "119.20929"),
        (10 * MIB, "10"),
        (MIB - 1, "0.999999"),
        (u64::MAX >> 20 << 20, "17592186044415"),
    ] {
        assert_eq!(mib(bytes), text);
    }
}

#[test]
fn a_request_is_a_name_or_an_object() {
    let name = request(" query-status ").unwrap();
    assert_eq!(Value::Object(name), json!({"execute": "query-status"}));
    let whole = r#"{"exec-oob": "yank", "id": 5}"#;
    assert_eq!(
        Value::Object(request(whole).unwrap()),
        json!({"exec-oob": "yank", "id": 5})
    );
    for (text, why) in [
        ("", "\"\" is not a command's name"),
        ("query status", "\"query status\" is not a command's name"),
        ("[1]", "[1] is not a command's name"),
        (
            "{\"execute\": x}",
            "the request is not a JSON object: expected value",
        ),
        (
            "{} {}",
            "the request is not a JSON object: trailing characters",
        ),
    ] {
        let error = request(text).expect_err(text);
        assert!(error.contains(why), "{error}");
    }
}

#[test]
fn options_are_taken_before_and_after_the_command() {
    for args in [
        ["ctl", "m", "--timeout", "2min", "domjobabort"],
        ["ctl", "m", "domjobabort", "--timeout", "2min"],
    ] {
        let args = Ctl::parse_from(args).args;
        assert_eq!(args.timeout, Duration::from_secs(120));
    }
    for value in ["0", "2d", "soon", "-1"] {
        assert!(Ctl::try_parse_from(["ctl", "m", "domjobabort", "--timeout", value]).is_err());
    }
    // Without --watch there is no interval.
    assert!(parse(&["domjobinfo", "--interval", "1"]).is_err());
    assert!(parse(&["domjobinfo", "--json", "--rawstats"]).is_err());
    assert!(parse(&["domjobinfo", "--watch", "--interval", "100ms"]).is_ok());
}

#[test]
fn a_name_may_be_written_as_qemus_messages_have_it() {
    let setting = values::setting("compress_level=3").expect("a parameter");
    assert_eq!(
        (&setting.name[..], setting.value),
        ("compress-level", Some(3.into()))
    );
    let unknown = values::setting("no_such=3").expect("it may be the monitor's");
    assert_eq!(unknown.name, "no_such");
}
