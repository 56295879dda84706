//! Parameters on the monitor: JSON to typed values and back, and what is declined how.

use super::*;
use crate::params::{ParamError, TABLE, TypedValue};

#[test]
fn parameters_are_set_with_their_types_and_come_back() {
    let bench = bench();
    let mut client = bench.client();
    let set = "migrate-set-parameters";
    client.done(set, json!({}));
    client.done(set, json!({"compress-level": 5}));
    client.done(
        set,
        json!({
            "compress-method": "zstd", "compress-level": 19, "compress-threads": 255,
            "compress-wait-thread": false, "max-bandwidth": 12_345_678_901_u64, "timeout": 1.5,
            "connect-timeout": 3, "max-rounds": 7, "batch-pages": 32, "max-time": 60, "downtime-limit": 0,
            "xbzrle-cache-size": 1 << 20, "link": "1Gbit/20ms",
        }),
    );
    let calls = bench.fake.calls();
    assert_eq!(&calls[..2], ["set ", "set compress-level=Int(5)"]);
    for expected in [
        "compress-wait-thread=Boolean(false)",
        "max-bandwidth=Ullong(12345678901)",
        "timeout=Double(1.5)",
        "connect-timeout=Double(3.0)",
        "max-rounds=Uint(7)",
        "batch-pages=Int(32)",
        "link=String(\"1Gbit/20ms\")",
    ] {
        assert!(calls[2].contains(expected), "{expected}: {}", calls[2]);
    }
    let reply = client.done("query-migrate-parameters", json!({}));
    let params = bench.fake.params();
    for row in TABLE {
        let value = serde_json::to_value((row.get)(&params)).unwrap();
        let value = Some(&value).filter(|value| !value.is_null());
        assert_eq!(reply.get(row.name), value, "{}", row.name);
    }
    assert_eq!(reply["compress-level"], 19);
    assert_eq!(reply["max-bandwidth"], 12_345_678_901_u64);
    assert_eq!(reply["max-time"], 60.0);

    // None is null on the way in, and absent on the way out, as it is with QEMU.
    client.done(
        set,
        json!({"batch-pages": null, "max-time": null, "link": null}),
    );
    let reply = client.done("query-migrate-parameters", json!({}));
    for name in ["batch-pages", "max-time", "link"] {
        assert_eq!(reply.get(name), None);
    }
    // A negative number is the large one that has the same bits, as it is with QEMU.
    client.done(set, json!({"max-bandwidth": -1}));
    let reply = client.done("query-migrate-parameters", json!({}));
    assert_eq!(reply["max-bandwidth"], u64::MAX);
}

#[test]
fn parameters_are_declined_in_qemus_words_where_qemu_has_them() {
    let bench = bench();
    let mut client = bench.client();
    let before = bench.fake.params();
    let uint64 = |name: &str| format!("Parameter '{name}' expects uint64");
    let cases = [
        (
            json!({"compress-level": 10}),
            "Parameter 'compress_level' expects a value between 0 and 9",
        ),
        (
            json!({"compress-level": 200}),
            "Parameter 'compress_level' expects a value between 0 and 9",
        ),
        (
            json!({"compress-level": -1}),
            "Parameter 'compress-level' expects uint8_t",
        ),
        (
            json!({"compress-level": 256}),
            "Parameter 'compress-level' expects uint8_t",
        ),
        (json!({"compress-level": 1.0}), &uint64("compress-level")),
        (json!({"compress-level": "1"}), &uint64("compress-level")),
        (json!({"compress-level": null}), &uint64("compress-level")),
        (json!({"compress-level": [1]}), &uint64("compress-level")),
        (
            json!({"compress-threads": 0}),
            "Parameter 'compress_threads' expects a value between 1 and 255",
        ),
        (
            json!({"compress-threads": 256}),
            "Parameter 'compress-threads' expects uint8_t",
        ),
        (
            json!({"decompress-threads": 0}),
            "Parameter 'decompress_threads' expects a value between 1 and 255",
        ),
        (
            json!({"compress-wait-thread": 1}),
            "Invalid parameter type for 'compress-wait-thread', expected: boolean",
        ),
        (
            json!({"throttle-trigger-threshold": 101}),
            "Parameter 'throttle_trigger_threshold' expects an integer in the range of 1 to 100",
        ),
        (
            json!({"cpu-throttle-initial": 0}),
            "Parameter 'cpu_throttle_initial' expects an integer in the range of 1 to 99",
        ),
        (
            json!({"cpu-throttle-increment": 100}),
            "Parameter 'cpu_throttle_increment' expects an integer in the range of 1 to 99",
        ),
        (
            json!({"max-cpu-throttle": 10}),
            "Parameter 'max_cpu_throttle' expects an integer in the range of cpu_throttle_initial to 99",
        ),
        (
            json!({"max-cpu-throttle": 100}),
            "Parameter 'max_cpu_throttle' expects an integer in the range of cpu_throttle_initial to 99",
        ),
        (json!({"max-bandwidth": 1.5}), &uint64("max-bandwidth")),
        (json!({"max-bandwidth": 1e3}), &uint64("max-bandwidth")),
        (json!({"max-bandwidth": "1M"}), &uint64("max-bandwidth")),
        (
            json!({"downtime-limit": 2_000_001}),
            "Parameter 'downtime_limit' expects an integer in the range of 0 to (2000 * 1000) ms",
        ),
        (
            json!({"downtime-limit": -1}),
            "Parameter 'downtime_limit' expects an integer in the range of 0 to (2000 * 1000) ms",
        ),
        (
            json!({"xbzrle-cache-size": 5000}),
            "Parameter 'xbzrle_cache_size' expects a power of two no less than the target page size",
        ),
        (
            json!({"xbzrle-cache-size": -1}),
            "Parameter 'xbzrle_cache_size' expects a power of two no less than the target page size",
        ),
        (json!({"nope": 1}), "Parameter 'nope' is unexpected"),
        (
            json!({"compress_level": 1}),
            "Parameter 'compress_level' is unexpected",
        ),
        (
            json!({"compress-level": 10, "nope": 1}),
            "Parameter 'nope' is unexpected",
        ),
        (
            json!({"nope": 1, "compress-level": "x"}),
            &uint64("compress-level"),
        ),
        (
            json!({"compress-level": 5, "compress-threads": 0}),
            "Parameter 'compress_threads' expects a value between 1 and 255",
        ),
        // Ours.
        (
            json!({"connections": "1"}),
            "Invalid parameter type for 'connections', expected: integer",
        ),
        (
            json!({"connections": 1_u64 << 40}),
            "Parameter 'connections' expects int32_t",
        ),
        (
            json!({"connections": 65}),
            "Parameter 'connections' expects an integer from 1 to 64",
        ),
        (
            json!({"connections": -1}),
            "Parameter 'connections' expects an integer from 1 to 64",
        ),
        (
            json!({"max-rounds": -1}),
            "Parameter 'max-rounds' expects uint32_t",
        ),
        (
            json!({"timeout": "1s"}),
            "Invalid parameter type for 'timeout', expected: number",
        ),
        (
            json!({"timeout": null}),
            "Invalid parameter type for 'timeout', expected: number",
        ),
        (
            json!({"delta-compress": 1}),
            "Invalid parameter type for 'delta-compress', expected: boolean",
        ),
        (
            json!({"compress-method": 1}),
            "Invalid parameter type for 'compress-method', expected: string",
        ),
        (
            json!({"compress-method": "x"}),
            "Parameter 'compress-method' expects none, zlib, gzip, lz4 or zstd",
        ),
        (
            json!({"compress-method": "lz4", "compress-level": 2}),
            "Parameter 'compress_level' expects a value between 0 and 1",
        ),
        (
            json!({"compress-method": "zstd", "compress-level": 20}),
            "Parameter 'compress_level' expects a value between 0 and 19",
        ),
    ];
    declines(&mut client, "migrate-set-parameters", &cases);
    assert_eq!(bench.fake.params(), before);
    bench.fake.state().declines = Some(|| {
        let name = "connections";
        Error::new(Kind::Usage, ParamError::Fixed { name })
    });
    let words = client.declined("migrate-set-parameters", json!({"connections": 2}));
    assert_eq!(words, "connections cannot be changed during a migration");
}

#[test]
fn what_may_be_given_more_than_once_is_a_list_or_one_of_it() {
    let bench = bench();
    let mut client = bench.client();
    let set = "migrate-set-parameters";
    client.done(set, json!({"compression": ["zstd", "xbzrle"]}));
    client.done(set, json!({"compression": "lz4"}));
    // Nothing, and nothing that is said of it, leaves it alone.
    client.done(set, json!({"compression": []}));
    client.done(set, json!({"compression": null}));
    assert_eq!(
        bench.fake.calls(),
        [
            r#"set compression=String("zstd") compression=String("xbzrle")"#,
            r#"set compression=String("lz4")"#,
            "set ",
            "set ",
        ]
    );
    declines(
        &mut client,
        set,
        &[
            (
                json!({"compression": ["zstd", 1]}),
                "Invalid parameter type for 'compression[1]', expected: string",
            ),
            (
                json!({"compression": ["zstd", "lz4"]}),
                "compression zstd and lz4 exclude each other: allowed is one method, and xbzrle besides",
            ),
            (
                json!({"zlib-engine": ["zlib-rs"]}),
                "Invalid parameter type for 'zlib-engine', expected: string",
            ),
        ],
    );
}

#[test]
fn every_parameter_can_be_set_to_what_it_is() {
    let bench = bench();
    let mut client = bench.client();
    for row in TABLE.iter().filter(|row| !row.repeatable) {
        let value = serde_json::to_value((row.get)(&Params::default())).unwrap();
        client.done("migrate-set-parameters", json!({row.name: value}));
    }
    assert_eq!(bench.fake.params(), Params::default());
    let once = TABLE.iter().filter(|row| !row.repeatable).count();
    assert_eq!(bench.fake.calls().len(), once);
}

#[test]
fn values_have_the_type_in_the_table() {
    for row in TABLE.iter().filter(|row| !row.repeatable) {
        let value = serde_json::to_value((row.get)(&Params::default())).unwrap();
        let arguments = serde_json::Map::from_iter([(row.name.to_owned(), value)]);
        let list = crate::control::monitor::parameters::read(arguments).unwrap();
        use crate::params::Kind;
        let fits = match (&list[0].value, row.kind) {
            (TypedValue::Int(_), kind) => kind == Kind::Int,
            (TypedValue::Uint(_), kind) => kind == Kind::Uint,
            (TypedValue::Llong(_), kind) => kind == Kind::Llong,
            (TypedValue::Ullong(_), kind) => kind == Kind::Ullong,
            (TypedValue::Double(_), kind) => kind == Kind::Double,
            (TypedValue::Boolean(_), kind) => kind == Kind::Boolean,
            // Or it is the word for none.
            (TypedValue::String(word), kind) => {
                kind == Kind::String || Some(&word[..]) == row.unset
            }
        };
        assert!(fits && list.len() == 1, "{list:?}");
    }
}
