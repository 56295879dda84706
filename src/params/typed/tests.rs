//! What typed lists promise, and `compression`, which is set by one.

use std::time::Duration;

use super::*;
use crate::codec::Method;

fn words(result: Result<(), ParamError>) -> String {
    result.expect_err("must be refused").to_string()
}

fn list(values: &[(&str, TypedValue)]) -> Vec<TypedParam> {
    let param = |(name, value): &(&str, TypedValue)| TypedParam::new(*name, value.clone());
    values.iter().map(param).collect()
}

fn string(word: &str) -> TypedValue {
    TypedValue::String(word.to_owned())
}

/// Values of every type, at the ends of what each can hold.
fn any_values() -> Vec<TypedValue> {
    use TypedValue::*;
    let mut values = vec![Boolean(true), Boolean(false)];
    values.extend([i32::MIN, -1, 0, 1, 7, 99, i32::MAX].map(Int));
    values.extend([0, 1, 7, u32::MAX].map(Uint));
    values.extend([i64::MIN, -1, 0, 1, 4096, i64::MAX].map(Llong));
    values.extend([0, 1, 300, 4096, 1 << 63, u64::MAX].map(Ullong));
    values.extend(
        [
            0.0, -0.0, -1.0, 1e-9, 0.0005, 1.5, 86_400.0, 86_400.1, 1e300,
        ]
        .map(Double),
    );
    values.extend([f64::NAN, f64::INFINITY, f64::NEG_INFINITY].map(Double));
    values.extend(
        [
            "", "1", "on", "auto", "none", "off", "zstd", "suspend", "1Gbit",
        ]
        .map(string),
    );
    values
}

#[test]
fn a_typed_list_sets_what_is_in_it_and_leaves_the_rest_alone() {
    let mut params = Params {
        connections: 3,
        ..Params::default()
    };
    // The level comes before the method that has it.
    let all = list(&[
        ("compress-level", TypedValue::Int(12)),
        ("compress-method", string("zstd")),
        ("compress-wait-thread", TypedValue::Boolean(false)),
        ("xbzrle-cache-size", TypedValue::Ullong(1 << 33)),
        ("max-bandwidth", TypedValue::Ullong(u64::MAX)),
        ("max-rounds", TypedValue::Uint(65_535)),
        ("timeout", TypedValue::Double(0.1 + 0.2)),
        ("batch-pages", TypedValue::Int(7)),
        ("max-time", TypedValue::Double(2.0)),
    ]);
    assert_eq!(params.set(&all), Ok(()));
    let expected = Params {
        connections: 3,
        compress_level: 12,
        compress_method: Method::Zstd,
        compress_wait_thread: false,
        xbzrle_cache_size: 1 << 33,
        max_bandwidth: u64::MAX,
        max_rounds: 65_535,
        timeout: Duration::from_millis(300),
        batch_pages: Some(7),
        max_time: Some(Duration::from_secs(2)),
        ..Params::default()
    };
    assert_eq!(params, expected);
    assert_eq!(params.set(&[]), Ok(()));
    assert_eq!(params, expected);
    // The word for "no value" whatever the type is; and a link, which is a word anyway.
    let unset = list(&[
        ("batch-pages", string("auto")),
        ("max-time", string("none")),
        ("link", string("off")),
    ]);
    assert_eq!(params.set(&unset), Ok(()));
    assert_eq!((params.batch_pages, params.max_time), (None, None));
}

#[test]
fn each_wrong_list_has_an_error_of_its_own_and_changes_nothing() {
    let start = Params {
        connections: 3,
        ..Params::default()
    };
    for (wrong, expected) in [
        (
            ("compress-thread", TypedValue::Int(1)),
            "parameter 'compress-thread' not supported: known are compress-method, ",
        ),
        (
            ("a b\n", TypedValue::Int(1)),
            "parameter \"a b\\n\" not supported: known are compress-method, ",
        ),
        (
            ("xbzrle-cache-size", TypedValue::Int(4096)),
            "invalid type 'int' for parameter 'xbzrle-cache-size', expected 'ullong': 4096 was given, \
             allowed is a power of two no less than 4096, such as 64MiB",
        ),
        (
            ("compress-threads", string("8")),
            "invalid type 'string' for parameter 'compress-threads', expected 'int': 8 was given, \
             allowed is 1 to 255",
        ),
        (
            ("batch-pages", string("8")),
            "invalid type 'string' for parameter 'batch-pages', expected 'int' or the word auto: 8 \
             was given, allowed is 1 to 256, or auto: what suits the method",
        ),
        (
            ("connections", TypedValue::Int(4)),
            "parameter 'connections' occurs multiple times: 5 and 4 were given, allowed is one value",
        ),
        (
            ("compress-threads", TypedValue::Int(-1)),
            "invalid compress-threads -1: allowed is an integer from 1 to 255",
        ),
        (
            ("downtime-limit", TypedValue::Ullong(2_000_001)),
            "invalid downtime-limit 2000001: allowed is 0 to 2000000 milliseconds, such as 300, or a time with its \
             unit, such as 1.5s",
        ),
        (
            ("timeout", TypedValue::Double(f64::NAN)),
            "invalid timeout NaN: allowed is a time of more than 0 and up to 1 day, such as 30 (seconds), 500ms or 2min",
        ),
        (
            ("compress-level", TypedValue::Int(12)),
            "invalid compress-level 12: zlib supports levels 0 to 9 (0: the method's own default, 6)",
        ),
    ] {
        let mut params = start.clone();
        let values = list(&[("connections", TypedValue::Int(5)), wrong]);
        let words = words(params.set(&values));
        assert!(words.starts_with(expected), "{words}\n{expected}");
        assert!(!words.contains('\n'), "{words:?}");
        assert_eq!(params, start, "{words}");
    }
}

#[test]
fn only_a_value_of_the_very_type_is_taken_and_reads_back_as_it_was() {
    for row in TABLE.iter().filter(|row| !row.repeatable) {
        for value in any_values() {
            let mut params = Params::default();
            let outcome = params.set(&list(&[(row.name, value.clone())]));
            let is_word = row.unset.is_some_and(|word| value == string(word));
            let wrong_type = value.kind() != row.kind && !is_word;
            assert_eq!(
                matches!(outcome, Err(ParamError::WrongType { .. })),
                wrong_type,
                "{} {value:?}: {outcome:?}",
                row.name
            );
            if outcome.is_err() {
                assert_eq!(params, Params::default());
                continue;
            }
            let mut again = Params::default();
            let read = TypedParam::new(row.name, row.typed(&params));
            assert_eq!(again.set(&[read]), Ok(()), "{} {value:?}", row.name);
            assert_eq!(again, params, "{} {value:?}", row.name);
        }
    }
}

#[test]
fn text_becomes_a_value_of_the_type_in_the_table() {
    for (name, text, value) in [
        ("xbzrle-cache-size", "64MiB", TypedValue::Ullong(64 << 20)),
        ("max-bandwidth", "8kbit", TypedValue::Ullong(1000)),
        ("downtime-limit", "1.5s", TypedValue::Ullong(1500)),
        ("timeout", "500ms", TypedValue::Double(0.5)),
        ("max-rounds", "3", TypedValue::Uint(3)),
        ("compress-threads", "3", TypedValue::Int(3)),
        ("compress-wait-thread", "off", TypedValue::Boolean(false)),
        ("batch-pages", "auto", string("auto")),
        ("compression", "xbzrle", string("xbzrle")),
    ] {
        let made = TypedParam::from_text(name, text);
        assert_eq!(made, Ok(TypedParam::new(name, value)));
    }
    for row in TABLE.iter().filter(|row| !row.repeatable) {
        let param = TypedParam::from_text(row.name, row.default).expect("a default");
        let is_word = row.unset == Some(row.default);
        assert!(param.value.kind() == row.kind || is_word, "{}", row.name);
    }
    assert!(TypedParam::from_text("timeout", "0").is_err());
    assert!(TypedParam::from_text("time-out", "1").is_err());
}

// ---- compression

/// What `compression` with these values makes of the defaults: method, compress, xbzrle.
fn compressed(values: &[&str]) -> Result<(Method, bool, bool), ParamError> {
    use crate::caps::{Capability, Caps};
    let (mut params, mut caps) = (Params::default(), Caps::default());
    let values = values.iter().map(|word| ("compression", string(word)));
    apply(&list(&values.collect::<Vec<_>>()), &mut params, &mut caps)?;
    let has = |capability| caps.has(capability);
    Ok((
        params.compress_method,
        has(Capability::Compress),
        has(Capability::Xbzrle),
    ))
}

#[test]
fn compression_is_all_that_is_used_and_nothing_else() {
    assert_eq!(compressed(&[]), Ok((Method::Zlib, true, true)));
    for (values, expected) in [
        (&["zlib"][..], (Method::Zlib, true, false)),
        (&["mt"], (Method::Zlib, true, false)),
        (&["zstd", "xbzrle"], (Method::Zstd, true, true)),
        (&["xbzrle", "lz4"], (Method::Lz4, true, true)),
        (&["xbzrle"], (Method::Zlib, false, true)),
        (&["none"], (Method::None, false, false)),
        (&["none", "xbzrle"], (Method::None, false, true)),
    ] {
        assert_eq!(compressed(values), Ok(expected), "{values:?}");
    }
    // The default is what the row says.
    let row = find("compression").expect("a row");
    let default: Vec<&str> = row.default.split(' ').collect();
    assert_eq!(compressed(&default), compressed(&[]));
}

#[test]
fn compression_that_makes_no_sense_is_refused_by_what_was_named() {
    for (values, expected) in [
        (
            &["zlib", "zstd"][..],
            "compression zlib and zstd exclude each other: allowed is one method, and xbzrle besides",
        ),
        (
            &["mt", "xbzrle", "zlib"],
            "compression mt and zlib exclude each other: allowed is one method, and xbzrle besides",
        ),
        (
            &["xbzrle", "xbzrle"],
            "compression method 'xbzrle' is specified twice",
        ),
        (
            &["xbzrle", "zip"],
            "invalid compression zip: allowed is zlib, gzip, lz4, zstd, none, mt (libvirt's word for zlib) or xbzrle",
        ),
    ] {
        assert_eq!(words(compressed(values).map(drop)), expected);
    }
    let mut params = Params::default();
    let mut set = |values: &[(&str, &str)]| {
        let values: Vec<_> = values
            .iter()
            .map(|(name, word)| (*name, string(word)))
            .collect();
        let outcome = params.set(&list(&values));
        (
            outcome.map_err(|error| error.to_string()),
            params.compress_method,
        )
    };
    assert_eq!(set(&[("compression", "zstd")]), (Ok(()), Method::Zstd));
    let both = [("compression", "lz4"), ("compress-method", "lz4")];
    assert_eq!(set(&both), (Ok(()), Method::Lz4));
    let both = [("compress-method", "zlib"), ("compression", "none")];
    assert_eq!(
        set(&both).0.expect_err("they differ"),
        "compress-method zlib contradicts compression none: allowed is one of the two, or the same in both"
    );
    assert_eq!(
        set(&[("compression", "zstd"), ("compression", "xbzrle")]),
        (
            Err("invalid compression \"zstd xbzrle\": allowed is a method that compresses, which are zlib, gzip, \
                 lz4, zstd and none: it is a capability, so switch the capability xbzrle"
                .to_owned()),
            Method::Lz4
        )
    );
}
