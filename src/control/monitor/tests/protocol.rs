//! What is said, word by word: all of it was seen from QEMU 7.2, unless it says otherwise.

use super::*;

/// What is sent, and the errors that it is answered with.
#[track_caller]
fn errors(client: &mut Client, cases: &[(&[u8], &[&str])]) {
    for (sent, expected) in cases {
        let shown = String::from_utf8_lossy(sent);
        client.send(sent);
        for words in *expected {
            let answer = client.line();
            assert_eq!(answer["error"]["desc"], *words, "{shown}");
            assert_eq!(answer["error"]["class"], "GenericError", "{shown}");
        }
        // And with nothing else.
        let next = client.ask("\n{\"execute\":\"query-version\",\"id\":[1]}");
        assert_eq!(next["id"], json!([1]), "{shown}: {next}");
    }
}

#[test]
fn the_greeting_is_qemus_with_our_version() {
    let bench = bench();
    let mut client = Client(BufReader::new(bench.connect()));
    let version = env!("CARGO_PKG_VERSION");
    let [major, minor, micro] = version.split('.').collect::<Vec<_>>()[..] else {
        panic!("{version}");
    };
    assert_eq!(
        client.text(),
        format!(
            "{{\"QMP\": {{\"capabilities\": [\"oob\"], \"version\": {{\"package\": \"ramferry {version}\", \
             \"qemu\": {{\"major\": {major}, \"micro\": {micro}, \"minor\": {minor}}}}}}}}}"
        )
    );
}

#[test]
fn before_capabilities_are_negotiated_there_is_no_other_command() {
    let bench = bench();
    let mut client = bench.greeted();
    let expecting = "Expecting capabilities negotiation with 'qmp_capabilities'";
    for (sent, expected) in [
        (
            json!({"execute": "query-status"}),
            json!({"error": {"class": "CommandNotFound", "desc": expecting}}),
        ),
        (
            json!({"execute": "nope", "id": 1}),
            json!({"id": 1, "error": {"class": "CommandNotFound", "desc": expecting}}),
        ),
    ] {
        assert_eq!(client.ask(sent.to_string()), expected);
    }
    for (sent, words) in [
        (
            r#"{"exec-oob":"qmp_capabilities"}"#,
            "QMP input member 'exec-oob' is unexpected",
        ),
        (
            r#"{"execute":"qmp_capabilities","arguments":{"enable":"oob"}}"#,
            "Invalid parameter type for 'enable', expected: array",
        ),
        (
            r#"{"execute":"qmp_capabilities","arguments":{"enable":[1]}}"#,
            "Invalid parameter type for 'enable[0]', expected: string",
        ),
        (
            r#"{"execute":"qmp_capabilities","arguments":{"x":1}}"#,
            "Parameter 'x' is unexpected",
        ),
        // QEMU 7.2 calls it a parameter 'null'.
        (
            r#"{"execute":"qmp_capabilities","arguments":{"enable":["foo"]}}"#,
            "Parameter 'enable' does not accept value 'foo'",
        ),
    ] {
        let answer = client.ask(sent);
        let expected = json!({"error": {"class": "GenericError", "desc": words}});
        assert_eq!(answer, expected, "{sent}");
    }
    client.send(r#"{"execute":"qmp_capabilities"}"#);
    assert_eq!(client.text(), r#"{"return": {}}"#);
    let answer = client.ask(r#"{"execute":"qmp_capabilities","id":"again"}"#);
    let words = "Capabilities negotiation is already complete, command ignored";
    assert_eq!(
        answer,
        json!({"id": "again", "error": {"class": "CommandNotFound", "desc": words}})
    );
    assert!(bench.fake.calls().is_empty());
}

#[test]
fn a_request_has_known_members_of_known_types() {
    let bench = bench();
    let mut client = bench.client();
    let not_object = "QMP input must be a JSON object";
    errors(
        &mut client,
        &[
            (b"[]", &[not_object]),
            (b"[1,2]", &[not_object]),
            (b"1 ", &[not_object]),
            (b"1 2\n", &[not_object; 2]),
            (b"\"abc\"", &[not_object]),
            (b"'a\"b'", &[not_object]),
            (b"\"a\"\"b\" ", &[not_object; 2]),
            (b"true ", &[not_object]),
            (b"null\n", &[not_object]),
            (b"1.5e+3 -0 18446744073709551616 ", &[not_object; 3]),
            (b"{}{}", &["QMP input lacks member 'execute'"; 2]),
            (
                br#"{"bogus":1,"execute":1}"#,
                &["QMP input member 'bogus' is unexpected"],
            ),
            (br#"{"":1}"#, &["QMP input member '' is unexpected"]),
            (
                br#"{"execute":1}"#,
                &["QMP input member 'execute' must be a string"],
            ),
            (
                br#"{"exec-oob":1}"#,
                &["QMP input member 'exec-oob' is unexpected"],
            ),
            (
                br#"{"execute":"query-status","arguments":[]}"#,
                &["QMP input member 'arguments' must be an object"],
            ),
            (
                br#"{"execute":"query-status","arguments":null}"#,
                &["QMP input member 'arguments' must be an object"],
            ),
            (
                br#"{"execute":"query-status","arguments":{"x":1}}"#,
                &["Parameter 'x' is unexpected"],
            ),
        ],
    );
    let answer = client.ask(r#"{"execute":"nope","id":null}"#);
    let words = "The command nope has not been found";
    assert_eq!(
        answer,
        json!({"id": null, "error": {"class": "CommandNotFound", "desc": words}})
    );
}

#[test]
fn what_is_not_json_is_reported_once_for_each_message_or_stray_token() {
    let bench = bench();
    let mut client = bench.client();
    macro_rules! wrong {
        ($($words:literal),*) => { &[$(concat!("JSON parse error, ", $words)),*] };
    }
    let cases: &[(&[u8], &[&str])] = &[
        (b"nope\n", wrong!["invalid keyword 'nope'"]),
        (
            b"foo bar\n",
            wrong!["invalid keyword 'foo'", "invalid keyword 'bar'"],
        ),
        (b"nullx\n", wrong!["invalid keyword 'nullx'"]),
        (b"{]", wrong!["expecting value"]),
        (b"[}]", wrong!["expecting value", "expecting value"]),
        (b"[{]}]", wrong!["expecting value", "expecting value"]),
        (b"}", wrong!["expecting value"]),
        (b",", wrong!["expecting value"]),
        (b":", wrong!["expecting value"]),
        (b"{\"a\" 1}", wrong!["missing : in object pair"]),
        (b"{\"a\"}", wrong!["missing : in object pair"]),
        (b"{\"a\":}", wrong!["expecting value"]),
        (b"{\"a\":1,}", wrong!["expecting value"]),
        (b"{,}", wrong!["expecting value"]),
        (b"{\"a\":1 \"b\":2}", wrong!["expected separator in dict"]),
        (
            b"{\"a\":1]}",
            wrong!["expected separator in dict", "expecting value"],
        ),
        (b"[1,]", wrong!["expecting value"]),
        (b"[1 2]", wrong!["expected separator in list"]),
        (b"{1:2}", wrong!["key is not a string in object"]),
        (b"{null:1}", wrong!["key is not a string in object"]),
        (b"{{1}:2}", wrong!["key is not a string in object"]),
        (b"{tru:1}", wrong!["invalid keyword 'tru'"]),
        (b"{\"a\":[1,{\"b\":foo}]}", wrong!["invalid keyword 'foo'"]),
        (b"{'a':1,\"a\":2}", wrong!["duplicate key"]),
        (b"{\"a\":1,\"a\":foo}", wrong!["invalid keyword 'foo'"]),
        (b"-\n", wrong!["stray '-\n'"]),
        (b"1.\n", wrong!["stray '1.\n'"]),
        (b"01\n", wrong!["stray '01'"]),
        (b"--1\n", wrong!["stray '--'"]),
        (b"+1 ", wrong!["stray '+'"]),
        (b".5\n", wrong!["stray '.'"]),
        (b"True\n", wrong!["stray 'T'"]),
        (b"a_b ", wrong!["invalid keyword 'a'", "stray '_'"]),
        (b"\"a\nb\"\n", wrong!["stray '\"a\n'"]),
        (b"\"a\x01b\"\n", wrong!["stray '\"a\u{1}'"]),
        (b"\x00\n", wrong!["stray ''"]),
        (b"\x80\n", wrong!["stray '\u{fffd}'"]),
        (b"\"\xfe\"\n", wrong!["stray '\"\u{fffd}'"]),
        (b"\"\x80\" ", wrong!["invalid UTF-8 sequence in string"]),
        (
            b"\"\xed\xa0\x80\" ",
            wrong!["invalid UTF-8 sequence in string"],
        ),
        (
            b"\"\xef\xbf\xbf\" ",
            wrong!["invalid UTF-8 sequence in string"],
        ),
        (b"\"\\q\" ", wrong!["invalid escape sequence in string"]),
        (b"\"\\U0041\" ", wrong!["invalid escape sequence in string"]),
        (
            b"\"\\u00zz\" ",
            wrong!["\\u00zz is not a valid Unicode character"],
        ),
        (
            b"\"\\ud800x\" ",
            wrong!["\\ud800 is not a valid Unicode character"],
        ),
        (
            b"\"\\udc00\" ",
            wrong!["\\udc00 is not a valid Unicode character"],
        ),
        (
            b"\"\\ud83d\\ud83d\" ",
            wrong!["\\ud83d is not a valid Unicode character"],
        ),
        (
            b"\"\\uffff\" ",
            wrong!["\\uffff is not a valid Unicode character"],
        ),
        (
            b"{\"execute\" query-status}\n",
            wrong!["stray '-s'", "expecting value"],
        ),
        // QEMU takes it for infinity, and answers with what is not JSON.
        (b"1e400 ", wrong!["number out of range"]),
        // Between messages there may be white space, or none.
        (b"\t\r\n ", &[]),
    ];
    errors(&mut client, cases);
}

#[test]
fn single_quotes_and_white_space_do_as_well_and_messages_need_no_line() {
    let bench = bench();
    let mut client = bench.client();
    client.send("{'execute':'query-version','id':'it\\'s \"q\"'}");
    assert_eq!(client.line()["id"], "it's \"q\"");
    client.send("{ \"execute\"\n:\r\n\t\"query-version\" ,\n \"id\" : 1 }{\"execute\":\"query-version\",\"id\":2}");
    assert_eq!(client.line()["id"], 1);
    assert_eq!(client.line()["id"], 2);
}

#[test]
fn a_byte_of_255_drops_what_was_begun() {
    let bench = bench();
    let mut client = bench.client();
    for begun in ["{\"execute\":\"query-st", "{\"a\":[[", "@ ", ""] {
        client.send(begun);
        client.send(b"\xff");
        client.send("{\"execute\":\"query-version\",\"id\":7}");
        let mut answer = client.line();
        while answer["error"]["desc"]
            .as_str()
            .is_some_and(|words| words.contains("stray"))
        {
            answer = client.line();
        }
        assert_eq!(answer["id"], 7, "{begun}");
    }
}

#[test]
fn ids_come_back_as_they_were() {
    let bench = bench();
    let mut client = bench.client();
    for id in [
        json!(null),
        json!(true),
        json!(-9_223_372_036_854_775_808_i64),
        json!(18_446_744_073_709_551_615_u64),
        json!(0.1),
        json!(1e300),
        json!("\u{0}é\u{1f600}/\\\"\u{7f}"),
        json!({"b": [1, {}, []], "a": null, "": ""}),
    ] {
        for command in ["query-version", "nope"] {
            let answer = client.ask(json!({"execute": command, "id": id}).to_string());
            assert_eq!(answer["id"], id);
            assert!(answer.as_object().unwrap().contains_key("id"));
        }
    }
    let answer = client.ask(r#"{"execute":"query-version"}"#);
    assert_eq!(answer.get("id"), None);
}

#[test]
fn out_of_band_is_for_who_enabled_it_and_none_of_our_commands_needs_it() {
    let bench = bench();
    let mut client = bench.greeted();
    let enable = r#"{"execute":"qmp_capabilities","arguments":{"enable":["oob"]},"id":"n"}"#;
    assert_eq!(client.ask(enable), json!({"return": {}, "id": "n"}));
    let commands = client.done("query-commands", json!({}));
    for command in commands.as_array().unwrap() {
        let name = command["name"].as_str().unwrap();
        let answer = client.ask(json!({"exec-oob": name, "id": 1}).to_string());
        let words = format!("The command {name} does not support OOB");
        let expected = json!({"id": 1, "error": {"class": "GenericError", "desc": words}});
        assert_eq!(answer, expected);
    }
    for (sent, words) in [
        (
            r#"{"exec-oob":"nope"}"#,
            "The command nope has not been found",
        ),
        (
            r#"{"exec-oob":3}"#,
            "QMP input member 'exec-oob' must be a string",
        ),
        (
            r#"{"exec-oob":"query-version","execute":"query-status"}"#,
            "QMP input member 'execute' clashes with 'exec-oob'",
        ),
    ] {
        assert_eq!(client.ask(sent)["error"]["desc"], words);
    }
    assert!(bench.fake.calls().is_empty());
}

#[test]
fn events_have_qemus_shape_and_some_are_sent_only_on_request() {
    let bench = bench();
    let (mut client, mut other) = (bench.client(), bench.client());
    let mut unready = bench.greeted();
    let all = [
        Event::Migration(Status::Setup),
        Event::Pass(1),
        Event::Migration(Status::Active),
        Event::Stop,
        Event::Resume,
    ];
    all.into_iter().for_each(|event| bench.fake.notify(event));
    for client in [&mut client, &mut other] {
        for name in ["STOP", "RESUME"] {
            let event = client.line();
            let names: Vec<_> = event.as_object().unwrap().keys().collect();
            assert_eq!(names, ["event", "timestamp"], "no data");
            assert_eq!(event["event"], name);
        }
    }
    let on = json!({"capabilities": [{"capability": "events", "state": true}]});
    client.done("migrate-set-capabilities", on);
    let before = std::time::SystemTime::UNIX_EPOCH
        .elapsed()
        .unwrap()
        .as_secs();
    all.into_iter().for_each(|event| bench.fake.notify(event));
    for client in [&mut client, &mut other] {
        for (name, data) in [
            ("MIGRATION", json!({"status": "setup"})),
            ("MIGRATION_PASS", json!({"pass": 1})),
            ("MIGRATION", json!({"status": "active"})),
            ("STOP", json!(null)),
            ("RESUME", json!(null)),
        ] {
            let event = client.line();
            assert_eq!(event["event"], name);
            assert_eq!(event["data"], data);
            let time = &event["timestamp"];
            assert!(time["seconds"].as_u64().unwrap() >= before);
            assert!(time["microseconds"].as_u64().unwrap() < 1_000_000);
        }
    }
    // A client that has not negotiated gets no events.
    let answer = unready.ask(r#"{"execute":"qmp_capabilities","id":"first"}"#);
    assert_eq!(answer["id"], "first");
}

#[test]
fn what_a_command_makes_happen_is_heard_before_its_reply() {
    let bench = bench();
    let mut client = bench.client();
    bench.fake.state().caps.set("events", true).unwrap();
    bench.fake.state().events = vec![Event::Migration(Status::Setup)];
    client.send(r#"{"execute":"migrate","arguments":{"uri":"unix:x","image":"y"},"id":1}"#);
    assert_eq!(client.line()["event"], "MIGRATION");
    assert_eq!(client.line()["id"], 1);
    // And what happened before a command, with the capabilities that there were.
    bench.fake.notify(Event::Pass(2));
    let off = json!({"capabilities": [{"capability": "events", "state": false}]});
    client.send(json!({"execute": "migrate-set-capabilities", "arguments": off}).to_string());
    assert_eq!(client.line()["event"], "MIGRATION_PASS");
    assert_eq!(client.line()["return"], json!({}));
    bench.fake.notify(Event::Pass(3));
    assert!(client.done("query-version", json!({})).is_object());
}
