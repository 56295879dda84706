//! What each command takes, what it has the control do, and what it returns or is declined with.

use super::*;
use crate::caps::Capability;
use crate::page::{PAGE_SIZE, Round};
use crate::params::{ParamError, TABLE, TypedValue};
use crate::source::WriterChoice;
use crate::stats::{LiveStats, RoundStats, Snapshot, Tally};
use crate::wire::Format;

fn with_image() -> Bench {
    bench_with(Defaults {
        image: Some("guest.ram".into()),
        output: Some("out.ram".into()),
        guard: Some("/the/program".into()),
    })
}

/// Commands, their arguments and why they are declined.
#[track_caller]
fn declines(client: &mut Client, command: &str, cases: &[(Value, &str)]) {
    for (arguments, words) in cases {
        let told = client.declined(command, arguments.clone());
        assert_eq!(told, *words, "{arguments}");
    }
}

#[test]
fn commands_that_take_no_arguments_decline_any() {
    let bench = bench();
    let mut client = bench.client();
    for command in [
        "migrate_cancel",
        "query-commands",
        "query-migrate",
        "query-migrate-capabilities",
        "query-migrate-parameters",
        "query-status",
        "query-version",
        "quit",
    ] {
        declines(
            &mut client,
            command,
            &[(json!({"a": 1}), "Parameter 'a' is unexpected")],
        );
    }
    assert!(bench.fake.calls().is_empty(), "nothing was done");
}

#[test]
fn the_list_of_commands_is_what_there_is() {
    let bench = bench();
    let list = bench.client().done("query-commands", json!({}));
    let names: Vec<_> = list
        .as_array()
        .unwrap()
        .iter()
        .map(|one| one["name"].clone())
        .collect();
    assert_eq!(
        Value::from(names),
        json!([
            "migrate",
            "migrate-continue",
            "migrate-incoming",
            "migrate-set-capabilities",
            "migrate-set-parameters",
            "migrate_cancel",
            "qmp_capabilities",
            "query-commands",
            "query-migrate",
            "query-migrate-capabilities",
            "query-migrate-parameters",
            "query-status",
            "query-version",
            "quit",
        ])
    );
}

#[test]
fn version_and_state_have_qemus_members() {
    let bench = bench();
    let mut client = bench.client();
    let version = client.done("query-version", json!({}));
    assert!(version["qemu"]["major"].is_u64() && version["qemu"]["minor"].is_u64());
    assert_eq!(
        version["package"],
        concat!("ramferry ", env!("CARGO_PKG_VERSION"))
    );
    for (state, name, running) in [
        (RunState::Paused, "paused", false),
        (RunState::Running, "running", true),
        (RunState::FinishMigrate, "finish-migrate", false),
        (RunState::PostMigrate, "postmigrate", false),
        (RunState::InMigrate, "inmigrate", false),
    ] {
        bench.fake.state().run_state = state;
        let expected = json!({"status": name, "singlestep": false, "running": running});
        assert_eq!(client.done("query-status", json!({})), expected);
    }
}

#[test]
fn what_is_sent_is_what_was_said_or_the_default() {
    let bench = with_image();
    let mut client = bench.client();
    client.done(
        "migrate",
        json!({"uri": "unix:r.sock", "detach": true, "blk": false, "inc": false, "resume": false}),
    );
    client.done(
        "migrate",
        json!({
            "uri": "file:x", "image": "a", "then": ["b", "c"], "force": true, "wire": "qemu",
            "block": "ram", "machine": "pc", "live": true, "stop-command": "s", "resume-command": "r",
        }),
    );
    client.done(
        "migrate",
        json!({"uri": "tcp:h:1", "pid": [1, 4_294_967_295_u32]}),
    );
    client.done(
        "migrate",
        json!({"uri": "tcp:h:1", "fuzzy": true, "live": true}),
    );
    client.done(
        "migrate",
        json!({"uri": "tcp:h:1", "fuzzy": false, "live": false}),
    );
    assert_eq!(bench.fake.calls(), ["migrate"; 5]);
    let state = bench.fake.state();
    let [plain, all, pids, fuzzy, still] = &state.sent[..] else {
        panic!("{:?}", state.sent);
    };
    assert_eq!(plain.address.to_string(), "unix:r.sock");
    assert_eq!(plain.image.to_str(), Some("guest.ram"));
    assert!(plain.then.is_empty() && !plain.force && plain.format == Format::Native);
    assert!(plain.block.is_none() && plain.machine.is_none() && plain.live.is_none());
    assert_eq!(all.address.to_string(), "file:x");
    assert_eq!(all.image.to_str(), Some("a"));
    assert_eq!(all.then, [PathBuf::from("b"), PathBuf::from("c")]);
    assert!(all.force && all.format == Format::Qemu);
    assert_eq!(
        (all.block.as_deref(), all.machine.as_deref()),
        (Some("ram"), Some("pc"))
    );
    let writer = |request: &source::Request| request.live.clone().map(|live| live.writer);
    match writer(all) {
        Some(WriterChoice::Commands { stop, resume }) => {
            assert_eq!((&stop[..], &resume[..]), ("s", "r"))
        }
        other => panic!("{other:?}"),
    }
    match writer(pids) {
        Some(WriterChoice::Processes { pids, guard }) => {
            assert_eq!(pids, [1, u32::MAX]);
            assert_eq!(guard.to_str(), Some("/the/program"));
        }
        other => panic!("{other:?}"),
    }
    assert!(matches!(writer(fuzzy), Some(WriterChoice::Fuzzy)));
    assert!(still.live.is_none());
}

#[test]
fn what_makes_no_sense_is_not_sent() {
    let bench = bench();
    let mut client = bench.client();
    let ways = "only one of 'pid', 'stop-command' and 'fuzzy' says what to do with the writer";
    declines(
        &mut client,
        "migrate",
        &[
            (json!({}), "Parameter 'uri' is missing"),
            (json!({"x": 1}), "Parameter 'uri' is missing"),
            (
                json!({"uri": 1}),
                "Invalid parameter type for 'uri', expected: string",
            ),
            (
                json!({"uri": "tcp:h:1", "x": 1}),
                "Parameter 'x' is unexpected",
            ),
            (
                json!({"uri": "tcp:h:1", "detach": 1}),
                "Invalid parameter type for 'detach', expected: boolean",
            ),
            (
                json!({"uri": "tcp:h:1", "blk": true, "inc": "x"}),
                "Invalid parameter type for 'inc', expected: boolean",
            ),
            (
                json!({"uri": "tcp:h:1", "resume": true}),
                "Cannot resume if there is no paused migration",
            ),
            (
                json!({"uri": "tcp:h:1", "inc": true}),
                "only RAM is moved: 'blk' and 'inc' can only be false",
            ),
            (json!({"uri": "tcp:h:1"}), "Parameter 'image' is missing"),
            (
                json!({"uri": "x:y", "image": "i"}),
                "Parameter 'uri' expects a valid migration protocol",
            ),
            (
                json!({"uri": "", "image": "i"}),
                "Parameter 'uri' expects a valid migration protocol",
            ),
            (
                json!({"uri": "tcp:h", "image": "i"}),
                "'tcp:h' is no address: a host and a port are needed; allowed are tcp:HOST:PORT, \
                 unix:PATH, file:PATH, fd:N and exec:COMMAND",
            ),
            (
                json!({"uri": "tcp:h:1", "image": "i", "then": "t"}),
                "Invalid parameter type for 'then', expected: array",
            ),
            (
                json!({"uri": "tcp:h:1", "image": "i", "then": ["t", null]}),
                "Invalid parameter type for 'then[1]', expected: string",
            ),
            (
                json!({"uri": "tcp:h:1", "image": "i", "wire": "x"}),
                "Parameter 'wire' does not accept value 'x'",
            ),
            (
                json!({"uri": "tcp:h:1", "image": "i", "pid": ["x"]}),
                "Invalid parameter type for 'pid[0]', expected: integer",
            ),
            (
                json!({"uri": "tcp:h:1", "image": "i", "pid": [1, -1]}),
                "Parameter 'pid[1]' expects uint32_t",
            ),
            (
                json!({"uri": "tcp:h:1", "image": "i", "pid": []}),
                "Parameter 'pid' expects at least one process",
            ),
            (
                json!({"uri": "tcp:h:1", "image": "i", "pid": [1]}),
                "'pid' is not available here: there is no program for a guard",
            ),
            (
                json!({"uri": "tcp:h:1", "image": "i", "pid": [1], "fuzzy": true}),
                ways,
            ),
            (
                json!({"uri": "tcp:h:1", "image": "i", "stop-command": "s", "resume-command": "r", "fuzzy": true}),
                ways,
            ),
            (
                json!({"uri": "tcp:h:1", "image": "i", "stop-command": "s"}),
                "Parameter 'resume-command' is missing",
            ),
            (
                json!({"uri": "tcp:h:1", "image": "i", "resume-command": "s"}),
                "Parameter 'stop-command' is missing",
            ),
            (
                json!({"uri": "tcp:h:1", "image": "i", "live": false, "fuzzy": true}),
                "'live' is false, but what writes the image is told",
            ),
            (
                json!({"uri": "tcp:h:1", "image": "i", "live": true}),
                "'live' needs to know how to stop the writer: 'pid', or 'stop-command' with \
                 'resume-command'; or 'fuzzy', for a copy that is of no single instant",
            ),
        ],
    );
    declines(
        &mut client,
        "migrate-incoming",
        &[
            (json!({}), "Parameter 'uri' is missing"),
            (json!({"uri": "tcp:h:1"}), "Parameter 'output' is missing"),
            (
                json!({"uri": "tcp:h:1", "output": "o", "force": 1}),
                "Invalid parameter type for 'force', expected: boolean",
            ),
            (
                json!({"uri": "nowhere", "output": "o"}),
                "Parameter 'uri' expects a valid migration protocol",
            ),
            (
                json!({"uri": "tcp:h:1", "output": "o", "image": "i"}),
                "Parameter 'image' is unexpected",
            ),
        ],
    );
    assert!(bench.fake.calls().is_empty(), "nothing was done");
    // Why not is the control's to say.
    bench.fake.state().declines = Some(in_progress);
    let arguments = json!({"uri": "tcp:h:1", "image": "i", "output": "o"});
    let words = "There's a migration process in progress";
    assert_eq!(
        client.declined("migrate", json!({"uri": "tcp:h:1", "image": "i"})),
        words
    );
    let incoming = json!({"uri": "tcp:h:1", "output": arguments["output"]});
    assert_eq!(client.declined("migrate-incoming", incoming), words);
}

#[test]
fn what_is_received_is_what_was_said_or_the_default() {
    let bench = with_image();
    let mut client = bench.client();
    client.done("migrate-incoming", json!({"uri": "tcp:0.0.0.0:4444"}));
    let all = json!({"uri": "unix:x", "output": "o", "block": "b", "force": true});
    client.done("migrate-incoming", all);
    let state = bench.fake.state();
    let [plain, all] = &state.received[..] else {
        panic!("{:?}", state.received);
    };
    assert_eq!(plain.address.to_string(), "tcp:0.0.0.0:4444");
    assert_eq!(plain.output.to_str(), Some("out.ram"));
    assert!(plain.block.is_none() && !plain.force);
    assert_eq!(all.output.to_str(), Some("o"));
    assert_eq!(all.block.as_deref(), Some("b"));
    assert!(all.force);
}

#[test]
fn a_migration_is_cancelled_and_let_go_on() {
    let bench = bench();
    let mut client = bench.client();
    client.done("migrate_cancel", json!({}));
    client.done("migrate-continue", json!({"state": "pre-switchover"}));
    assert_eq!(bench.fake.calls(), ["cancel", "proceed pre-switchover"]);
    declines(
        &mut client,
        "migrate-continue",
        &[
            (json!({}), "Parameter 'state' is missing"),
            (
                json!({"state": "foo"}),
                "Parameter 'state' does not accept value 'foo'",
            ),
            (
                json!({"state": 1}),
                "Invalid parameter type for 'state', expected: string",
            ),
            (
                json!({"state": "active"}),
                "Migration not in expected state: none",
            ),
            (
                json!({"state": "colo"}),
                "Migration not in expected state: none",
            ),
        ],
    );
    assert!(bench.fake.calls().is_empty());
    bench.fake.state().declines =
        Some(|| Error::new(Kind::Usage, ControlError::NotInState(Status::Failed)));
    let words = client.declined("migrate-continue", json!({"state": "pre-switchover"}));
    assert_eq!(words, "Migration not in expected state: failed");
}

#[test]
fn the_program_ends_after_the_answer() {
    let bench = bench();
    let mut client = bench.client();
    assert_eq!(
        client.ask(r#"{"execute":"quit","id":4}"#),
        json!({"return": {}, "id": 4})
    );
    // Its place is behind everything else that this client was answered.
    client.done("query-version", json!({}));
    assert_eq!(bench.fake.calls(), ["quit"]);
}

#[test]
fn capabilities_are_switched_all_or_none() {
    let bench = bench();
    let mut client = bench.client();
    let set = "migrate-set-capabilities";
    declines(
        &mut client,
        set,
        &[
            (json!({}), "Parameter 'capabilities' is missing"),
            (
                json!({"capabilities": {}}),
                "Invalid parameter type for 'capabilities', expected: array",
            ),
            (
                json!({"capabilities": [1]}),
                "Invalid parameter type for 'capabilities[0]', expected: object",
            ),
            (
                json!({"capabilities": [{}]}),
                "Parameter 'capabilities[0].capability' is missing",
            ),
            (
                json!({"capabilities": [{"state": true}]}),
                "Parameter 'capabilities[0].capability' is missing",
            ),
            (
                json!({"capabilities": [{"capability": "xbzrle"}]}),
                "Parameter 'capabilities[0].state' is missing",
            ),
            (
                json!({"capabilities": [{"capability": "xbzrle", "state": 1}]}),
                "Invalid parameter type for 'capabilities[0].state', expected: boolean",
            ),
            (
                json!({"capabilities": [{"capability": 1, "state": true}]}),
                "Invalid parameter type for 'capabilities[0].capability', expected: string",
            ),
            (
                json!({"capabilities": [{"capability": "xbzrle", "state": true}, {"capability": "nope", "state": true}]}),
                "Parameter 'capability' does not accept value 'nope'",
            ),
            (
                json!({"capabilities": [{"capability": "xbzrle", "state": true, "z": 1}]}),
                "Parameter 'capabilities[0].z' is unexpected",
            ),
            (
                json!({"capabilities": [], "q": 1}),
                "Parameter 'q' is unexpected",
            ),
        ],
    );
    assert!(bench.fake.calls().is_empty(), "nothing was done");
    client.done(set, json!({"capabilities": []}));
    client.done(
        set,
        json!({"capabilities": [{"capability": "events", "state": true}, {"state": false, "capability": "xbzrle"}]}),
    );
    assert_eq!(
        bench.fake.calls(),
        ["caps []", "caps [(\"events\", true), (\"xbzrle\", false)]"]
    );
    let caps = bench.fake.caps();
    let expected: Vec<_> = Capability::ALL
        .into_iter()
        .map(|one| json!({"capability": one.name(), "state": caps.has(one)}))
        .collect();
    assert_eq!(
        client.done("query-migrate-capabilities", json!({})),
        Value::from(expected)
    );
    bench.fake.state().declines = Some(in_progress);
    let words = client.declined(set, json!({"capabilities": []}));
    assert_eq!(words, "There's a migration process in progress");
}

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
    let told = client.done("query-migrate-parameters", json!({}));
    let params = bench.fake.params();
    for row in TABLE {
        let value = serde_json::to_value((row.get)(&params)).unwrap();
        let value = Some(&value).filter(|value| !value.is_null());
        assert_eq!(told.get(row.name), value, "{}", row.name);
    }
    assert_eq!(told["compress-level"], 19);
    assert_eq!(told["max-bandwidth"], 12_345_678_901_u64);
    assert_eq!(told["max-time"], 60.0);

    // None is null on the way in, and absent on the way out, as it is with QEMU.
    client.done(
        set,
        json!({"batch-pages": null, "max-time": null, "link": null}),
    );
    let told = client.done("query-migrate-parameters", json!({}));
    for name in ["batch-pages", "max-time", "link"] {
        assert_eq!(told.get(name), None);
    }
    // A negative number is the large one that has the same bits, as it is with QEMU.
    client.done(set, json!({"max-bandwidth": -1}));
    let told = client.done("query-migrate-parameters", json!({}));
    assert_eq!(told["max-bandwidth"], u64::MAX);
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
            "Parameter 'compress-method' expects zlib, gzip, lz4, zstd or none",
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
    assert_eq!(words, "connections cannot change while a migration runs");
}

#[test]
fn every_parameter_can_be_set_to_what_it_is() {
    let bench = bench();
    let mut client = bench.client();
    for row in TABLE {
        let value = serde_json::to_value((row.get)(&Params::default())).unwrap();
        client.done("migrate-set-parameters", json!({row.name: value}));
    }
    assert_eq!(bench.fake.params(), Params::default());
    assert_eq!(bench.fake.calls().len(), TABLE.len());
}

#[test]
fn values_have_the_type_that_the_table_tells() {
    for row in TABLE {
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
            (TypedValue::String(word), kind) => kind == Kind::String || word == row.default,
        };
        assert!(fits && list.len() == 1, "{list:?}");
    }
}

/// A migration with two rounds behind it.
fn snapshot(status: Status) -> Snapshot {
    let tally = Tally {
        zero: 10,
        compressed: 20,
        delta: 30,
        plain: 5,
        ..Tally::default()
    };
    let round = |round, wire_bytes| RoundStats {
        round: Round(round),
        tally,
        wire_bytes,
        time: Duration::from_micros(1500),
    };
    Snapshot {
        status,
        elapsed: Duration::from_micros(123_600),
        setup_time: Duration::from_micros(1_400),
        downtime: Some(Duration::from_micros(45_500)),
        ram_bytes: 100 * PAGE_SIZE as u64,
        round: 2,
        round_pages: 65,
        total: tally,
        rounds: vec![round(1, 9000), round(2, 800)],
        wire_bytes: 10_000,
        live: Some(LiveStats {
            round: 1,
            expected_downtime: Some(Duration::from_micros(99_600)),
            dirty_pages_rate: 77,
            cpu_throttle_percentage: 20,
        }),
        notices: vec!["look".to_owned()],
        error: Some("why".to_owned()),
        connections: 1,
        ..Snapshot::default()
    }
}

#[test]
fn a_migration_is_told_in_qemus_shape() {
    let bench = bench();
    let mut client = bench.client();
    assert_eq!(
        client.done("query-migrate", json!({})),
        json!({}),
        "none ever ran"
    );
    let mut query = |status| {
        let (params, caps) = (Params::default(), Caps::default());
        let report = Report::of_source(&snapshot(status), &params, &caps);
        bench.fake.state().report = Some(report);
        client.done("query-migrate", json!({}))
    };
    for status in [
        Status::Active,
        Status::PreSwitchover,
        Status::Device,
        Status::Cancelling,
    ] {
        let told = query(status);
        assert_eq!(told["status"], status.name());
        assert_eq!(told["total-time"], 124);
        assert_eq!(told["setup-time"], 1);
        assert_eq!(told["expected-downtime"], 100);
        assert_eq!(told.get("downtime"), None);
        assert_eq!(told["cpu-throttle-percentage"], 20);
        assert_eq!(told["ram"]["remaining"], 65 * 4096);
        assert_eq!(told["ram"]["dirty-pages-rate"], 77);
        assert_eq!(told["rounds"][1]["wire-bytes"], 800);
        assert_eq!(told["notices"], json!(["look"]));
    }
    let told = query(Status::Completed);
    assert_eq!(told["downtime"], 46);
    assert_eq!(told.get("expected-downtime"), None);
    let mut ram = told["ram"].clone();
    for rate in ["mbps", "pages-per-second"] {
        assert!(ram[rate].take().is_number(), "{rate}");
    }
    assert_eq!(
        ram,
        json!({
            "transferred": 10_000, "remaining": 0, "total": 409_600, "duplicate": 10, "skipped": 0,
            "normal": 5, "normal-bytes": 20_480, "dirty-pages-rate": 0, "mbps": null,
            "dirty-sync-count": 2, "postcopy-requests": 0, "page-size": 4096, "multifd-bytes": 0,
            "pages-per-second": null, "precopy-bytes": 9200, "downtime-bytes": 800,
            "postcopy-bytes": 0, "dirty-sync-missed-zero-copy": 0,
        })
    );
    let names = |value: &Value| {
        value
            .as_object()
            .unwrap()
            .keys()
            .cloned()
            .collect::<Vec<_>>()
    };
    let cache = [
        "bytes",
        "cache-miss",
        "cache-miss-rate",
        "cache-size",
        "encoding-rate",
        "overflow",
        "pages",
    ];
    assert_eq!(names(&told["xbzrle-cache"]), cache);
    let compression = [
        "busy",
        "busy-rate",
        "compressed-size",
        "compression-rate",
        "pages",
    ];
    assert_eq!(names(&told["compression"]), compression);

    for (status, why) in [
        (Status::Setup, None),
        (Status::Failed, Some("why")),
        (Status::Cancelled, None),
    ] {
        let mut expected = json!({"status": status.name(), "side": "source", "notices": ["look"]});
        if let Some(why) = why {
            expected["error-desc"] = why.into();
        }
        assert_eq!(query(status), expected);
    }
}

#[test]
fn what_is_not_known_is_as_qemu_has_it() {
    let bench = bench();
    let mut client = bench.client();
    let mut plain = Snapshot {
        live: None,
        downtime: None,
        ..snapshot(Status::Active)
    };
    let (params, caps) = (Params::default(), Caps::default());
    bench.fake.state().report = Some(Report::of_source(&plain, &params, &caps));
    let told = client.done("query-migrate", json!({}));
    assert_eq!(told["expected-downtime"], 300, "the limit");
    assert_eq!(told["ram"]["dirty-pages-rate"], 0);
    plain.status = Status::Completed;
    bench.fake.state().report = Some(Report::of_source(&plain, &params, &caps));
    let told = client.done("query-migrate", json!({}));
    assert_eq!(told["downtime"], 0, "nobody stood still");
    assert_eq!(told["ram"]["downtime-bytes"], 0);
    assert_eq!(told["ram"]["precopy-bytes"], 10_000);
    bench.fake.state().report = Some(Report::of_destination(&plain, &params));
    let told = client.done("query-migrate", json!({}));
    assert_eq!(told["side"], "destination");
    assert_eq!(told.get("downtime"), None, "the source knows");
    for never in [f64::NAN, -1.0, f64::INFINITY] {
        let mut report = Report::of_source(&plain, &params, &caps);
        (report.total_time, report.downtime) = (never, Some(never));
        bench.fake.state().report = Some(report);
        assert!(client.done("query-migrate", json!({}))["total-time"].is_u64());
    }
}

#[test]
fn a_report_of_very_many_rounds_stays_short() {
    let bench = bench();
    let mut client = bench.client();
    let mut long = snapshot(Status::Active);
    long.rounds = vec![long.rounds[1]; 65_535];
    long.notices = vec!["x".to_owned(); 1000];
    long.rounds[65_534].wire_bytes = 1;
    bench.fake.state().report = Some(Report::of_source(
        &long,
        &Params::default(),
        &Caps::default(),
    ));
    client.send(r#"{"execute":"query-migrate"}"#);
    let line = client.text();
    assert!(
        line.len() < 64 << 10,
        "what clients take on a line: {}",
        line.len()
    );
    let told: Value = serde_json::from_str(&line).unwrap();
    let rounds = told["return"]["rounds"].as_array().unwrap();
    assert_eq!(rounds.last().unwrap()["wire-bytes"], 1, "the last ones");
}
