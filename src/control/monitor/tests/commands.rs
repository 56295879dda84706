//! What each command takes, what it has the control do, and what it returns or is declined with.

use super::*;
use crate::caps::Capability;
use crate::image::{ImageFormat, Later};
use crate::source::WriterChoice;
use crate::wire::Format;

fn with_image() -> Bench {
    bench_with(Defaults {
        image: Some("guest.ram".into()),
        output: Some("out.ram".into()),
        guard: Some("/the/program".into()),
    })
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
            "uri": "file:x", "image": "a", "format": "raw", "then": ["b", "c"], "force": true, "fallback": true, "wire": "qemu",
            "block": "ram", "machine": "pc", "live": true, "stop-command": "s", "resume-command": "r",
        }),
    );
    client.done(
        "migrate",
        json!({"uri": "tcp:h:1", "pid": [1, 4_294_967_295_u32]}),
    );
    client.done(
        "migrate",
        json!({"uri": "tcp:h:1", "qmp": "unix:q", "paused-ok": true}),
    );
    client.done(
        "migrate",
        json!({"uri": "tcp:h:1", "fuzzy": true, "live": true}),
    );
    client.done(
        "migrate",
        json!({"uri": "tcp:h:1", "fuzzy": false, "live": false, "paused": true}),
    );
    assert_eq!(bench.fake.calls(), ["migrate"; 6]);
    let state = bench.fake.state();
    let [plain, all, pids, qmp, fuzzy, still] = &state.sent[..] else {
        panic!("{:?}", state.sent);
    };
    assert_eq!(plain.address.to_string(), "unix:r.sock");
    assert_eq!(plain.image.to_str(), Some("guest.ram"));
    assert!(
        plain.then.is_empty() && !plain.force && !plain.fallback && plain.format == Format::Native
    );
    assert!(plain.block.is_none() && plain.machine.is_none() && plain.live.is_none());
    assert_eq!(all.address.to_string(), "file:x");
    assert_eq!(all.image.to_str(), Some("a"));
    assert!(still.paused && !plain.paused && !all.paused);
    assert_eq!(all.image_format, ImageFormat::Raw);
    assert_eq!(plain.image_format, ImageFormat::Detect);
    assert_eq!(all.then, [Later::image("b"), Later::image("c")]);
    assert!(all.force && all.fallback && all.format == Format::Qemu);
    assert_eq!(
        (all.block.as_deref(), all.machine.as_deref()),
        (Some("ram"), Some("pc"))
    );
    let writer = |request: &source::Request| request.live.clone().map(|live| live.writer);
    match writer(all) {
        Some(WriterChoice::Commands { stop, resume }) => {
            assert_eq!((&stop[..], &resume[..]), ("s", "r"));
        }
        other => panic!("{other:?}"),
    }
    match writer(pids) {
        Some(WriterChoice::Processes { pids, guard, .. }) => {
            assert_eq!(pids, [1, u32::MAX]);
            assert_eq!(guard, Some("/the/program".into()));
        }
        other => panic!("{other:?}"),
    }
    match writer(qmp) {
        Some(WriterChoice::Qmp {
            socket,
            guard,
            paused_ok,
        }) => {
            assert_eq!((socket, paused_ok), ("q".into(), true));
            assert_eq!(guard, Some("/the/program".into()));
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
    let ways = "'qmp', 'pid', 'stop-command' and 'fuzzy' exclude each other: give one of them";
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
                "invalid address 'tcp:h': a host and a port are needed; allowed are tcp:HOST:PORT, \
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
                "'pid' needs at least one process",
            ),
            (
                json!({"uri": "tcp:h:1", "image": "i", "pid": [1], "fuzzy": true}),
                ways,
            ),
            (
                json!({"uri": "tcp:h:1", "image": "i", "pid": [1], "qmp": "q"}),
                ways,
            ),
            (
                json!({"uri": "tcp:h:1", "image": "i", "qmp": "tcp:h:1"}),
                "invalid QMP socket tcp:h:1: allowed are a path and unix:PATH: only for a Unix \
                 socket can the system tell which process is listening",
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
                "'qmp', 'pid', 'stop-command', 'fuzzy', 'paused-ok' and 'again' are for a live migration: give \
                 'live', too",
            ),
            (
                json!({"uri": "tcp:h:1", "again": true}),
                "'qmp', 'pid', 'stop-command', 'fuzzy', 'paused-ok' and 'again' are for a live migration: give \
                 'live', too",
            ),
            (
                json!({"uri": "tcp:h:1", "fuzzy": true, "again": true}),
                "'again' is not for 'fuzzy', which hands no guest over: leave it out",
            ),
            (
                json!({"uri": "tcp:h:1", "fuzzy": true, "paused-ok": true}),
                "'paused-ok' is for 'qmp' and 'pid': leave it out",
            ),
            (
                json!({"uri": "tcp:h:1", "image": "i", "live": true}),
                "'live' needs to know how to stop the writer: give 'qmp' (a QEMU), 'pid', or 'stop-command' with \
                 'resume-command'; or 'fuzzy', for a copy that is not a point-in-time snapshot",
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
    // It comes after all other answers to this client.
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
