//! What the table of parameters promises.

use super::table::{AUTO, HIGHEST_LEVEL};
use super::*;
use proptest::prelude::*;

fn words(result: Result<(), ParamError>) -> String {
    result.expect_err("must be refused").to_string()
}

#[test]
fn every_default_in_the_table_is_what_default_gives() {
    for row in TABLE.iter().filter(|row| !row.repeatable) {
        let mut params = Params::default();
        assert_eq!(
            params.set_text(row.name, row.default),
            Ok(()),
            "{}",
            row.name
        );
        assert_eq!(params, Params::default(), "{}", row.name);
    }
    assert_eq!(Params::default().validate(), Ok(()));
}

#[test]
fn every_name_occurs_once_and_fits_an_option_and_libvirts_field() {
    for (index, row) in TABLE.iter().enumerate() {
        let fits = |byte: u8| byte.is_ascii_lowercase() || byte == b'-';
        assert!(row.name.bytes().all(fits) && row.name.len() < 80);
        assert!(TABLE[..index].iter().all(|other| other.name != row.name));
        assert!(!row.meaning.ends_with('.'), "{}", row.name);
    }
}

#[test]
fn every_value_has_the_type_in_the_table() {
    for row in TABLE {
        let fits = match (row.get)(&Params::default()) {
            Value::Number(_) => matches!(row.kind, Kind::Int | Kind::Uint | Kind::Ullong),
            Value::Double(_) => row.kind == Kind::Double,
            Value::Boolean(_) => row.kind == Kind::Boolean,
            Value::Word(_) | Value::Link(_) => row.kind == Kind::String,
            Value::Unset(_) if row.repeatable => true,
            Value::Unset(word) => word == row.default && row.unset == Some(word),
        };
        assert!(fits, "{}", row.name);
    }
}

#[test]
fn the_level_is_checked_against_the_method() {
    let mut params = Params::default();
    params
        .set_text("compress-level", "12")
        .expect("zstd has it");
    assert_eq!(
        words(params.validate()),
        "invalid compress-level 12: zlib supports levels 0 to 9 (0: the method's own default, 6)"
    );
    for method in Method::ALL {
        for level in 0..=HIGHEST_LEVEL {
            params.compress_method = method;
            params.compress_level = level;
            let takes = method == Method::None || method.levels().contains(&level);
            assert_eq!(params.validate().is_ok(), takes, "{method} {level}");
        }
    }
}

#[test]
fn no_method_has_a_level_beyond_the_highest() {
    let ends = Method::ALL.map(|method| *method.levels().end());
    assert_eq!(ends.into_iter().max(), Some(HIGHEST_LEVEL));
}

#[test]
fn each_refusal_names_the_value_and_what_is_allowed() {
    let mut params = Params::default();
    for (name, value, expected) in [
        (
            "compress-method",
            "lzma",
            "invalid compress-method lzma: allowed is none, zlib, gzip, lz4 or zstd",
        ),
        (
            "compress-level",
            "20",
            "invalid compress-level 20: allowed is 0 to 9 for zlib and gzip, 0 to 19 for zstd, 0 or 1 for lz4; \
             0: the method's own default, which is 6 for zlib and gzip and 3 for zstd",
        ),
        (
            "compress-threads",
            "0",
            "invalid compress-threads 0: allowed is an integer from 1 to 255",
        ),
        (
            "decompress-threads",
            "256",
            "invalid decompress-threads 256: allowed is an integer from 1 to 255",
        ),
        (
            "compress-wait-thread",
            "maybe",
            "invalid compress-wait-thread maybe: allowed is on or off",
        ),
        (
            "connections",
            "65",
            "invalid connections 65: allowed is an integer from 1 to 64",
        ),
        (
            "batch-pages",
            "257",
            "invalid batch-pages 257: allowed is auto or an integer from 1 to 256",
        ),
        (
            "zlib-engine",
            "zlib",
            "invalid zlib-engine zlib: allowed is libdeflate or zlib-rs",
        ),
        (
            "link",
            "1Gb",
            "invalid link 1Gb: allowed is off or RATE[/DELAY], such as 200Mbit or 1Gbit/20ms: 1Gb is not a rate \
             such as 200kbit, 10Mbit, 2.5Gbit or 125MB/s",
        ),
        (
            "link",
            "1Tbit",
            "invalid link 1Tbit: allowed is off or RATE[/DELAY], such as 200Mbit or 1Gbit/20ms: 1Tbit is not a \
             rate such as 200kbit, 10Mbit, 2.5Gbit or 125MB/s",
        ),
        (
            "link",
            "1000Gbit",
            "invalid link 1000Gbit: allowed is off or RATE[/DELAY] with a rate from 10kbit to 100Gbit and a delay of \
             up to 10s, such as 200Mbit or 1Gbit/20ms, and no more than 128 MiB under way at once",
        ),
        (
            "compress-threads",
            "",
            "invalid compress-threads \"\": allowed is an integer from 1 to 255",
        ),
        (
            "compress-threads",
            "+1",
            "invalid compress-threads +1: allowed is an integer from 1 to 255",
        ),
        (
            "compress-threads",
            "1e3",
            "invalid compress-threads 1e3: allowed is an integer from 1 to 255",
        ),
        (
            "compression",
            "lzma",
            "invalid compression lzma: allowed is zlib, gzip, lz4, zstd, none, mt (libvirt's word for zlib) or xbzrle",
        ),
    ] {
        assert_eq!(words(params.set_text(name, value)), expected);
    }
    for (name, value) in [
        ("xbzrle-cache-size", "5000"),
        ("xbzrle-cache-size", "2048"),
        ("xbzrle-cache-size", "0"),
        ("max-bandwidth", "-1"),
        ("max-bandwidth", "1.5"),
        ("timeout", "0"),
        ("timeout", "25h"),
        ("connect-timeout", "none"),
        ("accept-timeout", "never"),
    ] {
        let words = words(params.set_text(name, value));
        assert!(
            words.starts_with(&format!("invalid {name} {value}: allowed is ")),
            "{words}"
        );
        assert!(words.contains("such as"), "{words}");
    }
    assert_eq!(
        words(params.set_text("compress_level", "1")),
        "parameter 'compress_level' not supported: known are compress-method, compression, \
         compress-level, compress-threads, decompress-threads, compress-wait-thread, \
         xbzrle-cache-size, max-bandwidth, connections, batch-pages, zlib-engine, delta-compress, \
         downtime-limit, max-rounds, max-time, timeout-action, throttle-trigger-threshold, \
         cpu-throttle-initial, cpu-throttle-increment, max-cpu-throttle, timeout, connect-timeout, \
         accept-timeout, link"
    );
    assert_eq!(params, Params::default(), "a refused value changes nothing");
}

#[test]
fn several_are_set_together_or_not_at_all() {
    let mut params = Params::default();
    // The level comes before the method that has it.
    let good = [("compress-level", "12"), ("compress-method", "zstd")];
    assert_eq!(params.set_all(&good), Ok(()));
    let before = params.clone();
    let bad_value = [("connections", "4"), ("timeout", "0")];
    let bad_together = [("connections", "4"), ("compress-method", "lz4")];
    assert!(params.set_all(&bad_value).is_err());
    assert!(params.set_all(&bad_together).is_err());
    assert_eq!(params, before);
}

#[test]
fn fields_written_directly_are_checked_too() {
    let mut params = Params {
        compress_threads: 0,
        ..Params::default()
    };
    assert!(params.validate().is_err());
    params.compress_threads = 1;
    params.xbzrle_cache_size = 3;
    assert!(params.validate().is_err());
}

#[test]
fn a_batch_is_as_large_as_asked_for_or_as_suits_the_method() {
    let mut params = Params::default();
    for (index, (method, pages)) in BATCH_PAGES.into_iter().enumerate() {
        assert_eq!(Method::ALL[index], method, "looked up by this index");
        params.compress_method = method;
        assert_eq!(params.batch_pages(), pages);
    }
    params
        .set_text("batch-pages", "7")
        .expect("within its range");
    assert_eq!(params.batch_pages(), 7);
    params
        .set_text("batch-pages", AUTO)
        .expect("a word it knows");
    assert_eq!(params.batch_pages, None);
}

#[test]
fn programs_get_numbers_and_null_and_people_get_words() {
    let mut params = Params::default();
    params
        .set_text("timeout", "500ms")
        .expect("within its range");
    params.set_text("link", "1Gbit/20ms").expect("a link");
    let json = |name| {
        let value = params.get(name).expect("a known name");
        (
            value.to_string(),
            serde_json::to_string(&value).expect("plain values"),
        )
    };
    let pair = |text: &str, json: &str| (text.to_owned(), json.to_owned());
    assert_eq!(json("timeout"), pair("0.5", "0.5"));
    assert_eq!(json("accept-timeout"), pair("none", "null"));
    assert_eq!(json("link"), pair("1Gbit/20ms", "\"1Gbit/20ms\""));
    assert_eq!(json("compress-wait-thread"), pair("on", "true"));
    assert_eq!(json("xbzrle-cache-size"), pair("67108864", "67108864"));
    assert_eq!(json("compress-method"), pair("zlib", "\"zlib\""));
}

proptest! {
    #[test]
    fn no_text_makes_a_parameter_panic_and_what_is_taken_reads_back(
        row in 0..TABLE.len(),
        text in prop_oneof![any::<String>(), "[0-9]{1,5}", "[0-9]{1,3}(ms|s|min|KiB|MiB)", "[0-9]{1,4}[kMG]bit(/[0-9]{1,3}[mu]s)?"],
    ) {
        let name = TABLE[row].name;
        prop_assume!(!TABLE[row].repeatable);
        let mut params = Params::default();
        if params.set_text(name, &text).is_ok() {
            let shown = (TABLE[row].get)(&params).to_string();
            let mut again = Params::default();
            prop_assert_eq!(again.set_text(name, &shown), Ok(()));
            prop_assert_eq!(again, params);
        } else {
            prop_assert_eq!(params, Params::default());
        }
    }
}

/// The table as Markdown, for the documentation.
fn markdown() -> String {
    let escaped = |text: &str| {
        text.replace('|', "\\|")
            .replace('[', "\\[")
            .replace(']', "\\]")
    };
    let mut text =
        "| name | type | default | range | unit | side | during a migration | since | meaning |\n\
                    |---|---|---|---|---|---|---|---|---|\n"
            .to_owned();
    for row in TABLE {
        let kind = match row.repeatable {
            true => format!("{}, repeatable", row.kind),
            false => row.kind.to_string(),
        };
        let name = format!("`{}`", row.name);
        let cells = [
            name.as_str(),
            &kind,
            row.default,
            row.range,
            row.unit.unwrap_or("-"),
            row.side.name(),
            if row.runtime {
                "can be changed"
            } else {
                "fixed"
            },
            row.since,
            row.meaning,
        ];
        text += &format!("| {} |\n", cells.map(escaped).join(" | "));
    }
    text
}

#[test]
fn the_table_in_the_documentation_is_this_one() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/parameters.md");
    if std::env::var_os("RAMFERRY_BLESS").is_some() {
        std::fs::write(path, markdown()).expect("a place to write to");
    }
    let stored = std::fs::read_to_string(path).expect("docs/parameters.md");
    assert_eq!(
        stored,
        markdown(),
        "RAMFERRY_BLESS=1 cargo test --lib params writes it anew"
    );
}
