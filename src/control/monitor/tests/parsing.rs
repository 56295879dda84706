//! Whatever comes, in whatever pieces.

use std::collections::VecDeque;

use proptest::prelude::*;
use serde_json::{Map, Value, json};

use crate::control::monitor::json::{MOST_BYTES, MOST_NESTING, MOST_TOKENS, Message, Parser};

/// All messages, given in pieces of these lengths and the rest.
fn parse(bytes: &[u8], pieces: &[usize]) -> Vec<Message> {
    let mut parser = Parser::default();
    let (mut all, mut messages) = (Vec::new(), VecDeque::new());
    let mut rest = bytes;
    let mut pieces = pieces.iter();
    while !rest.is_empty() {
        let len = pieces
            .next()
            .map_or(rest.len(), |len| *len.min(&rest.len()));
        let (mut piece, after) = rest.split_at(len);
        while !piece.is_empty() {
            let taken = parser.push(piece, &mut messages);
            assert!(taken > 0, "it goes on");
            piece = &piece[taken..];
            all.extend(messages.drain(..));
        }
        rest = after;
    }
    all
}

/// Bytes that mean something, and some that do not.
fn soup() -> impl Strategy<Value = Vec<u8>> {
    let pieces: Vec<&[u8]> = vec![
        b"{",
        b"}",
        b"[",
        b"]",
        b",",
        b":",
        b"\"",
        b"'",
        b"\\",
        b"\\u00e9",
        b"\\ud83d",
        b"\\u",
        b"\"a\"",
        b"'b'",
        b"1",
        b"0",
        b"-",
        b".5",
        b"e9",
        b"true",
        b"nul",
        b" ",
        b"\n",
        b"\t",
        b"\x00",
        b"\x7f",
        b"\xff",
        b"\xfe",
        b"\x80",
        "é".as_bytes(),
        b"{\"execute\":\"x\"}",
        b"T",
    ];
    let piece = prop_oneof![
        8 => proptest::sample::select(pieces).prop_map(<[u8]>::to_vec),
        1 => proptest::collection::vec(any::<u8>(), 0..20),
    ];
    proptest::collection::vec(piece, 0..40).prop_map(|pieces| pieces.concat())
}

/// Characters that JSON may hold here: noncharacters are declined, as QEMU does.
fn text() -> impl Strategy<Value = String> {
    proptest::collection::vec(any::<char>(), 0..8).prop_map(|chars| {
        let none = |c: &char| {
            let code = u32::from(*c);
            (0xfdd0..=0xfdef).contains(&code) || code & 0xfffe == 0xfffe
        };
        chars.into_iter().filter(|c| !none(c)).collect()
    })
}

fn value() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<u64>().prop_map(Value::from),
        // Such that any reader gets exactly this value.
        any::<i32>().prop_map(|number| json!(f64::from(number) / 8.0)),
        text().prop_map(Value::from),
    ];
    leaf.prop_recursive(6, 60, 8, |inner| {
        prop_oneof![
            proptest::collection::vec(inner.clone(), 0..8).prop_map(Value::from),
            proptest::collection::vec((text(), inner), 0..8)
                .prop_map(|members| Value::from(Map::from_iter(members))),
        ]
    })
}

/// The same in single quotes.
fn single_quoted(json: &str) -> String {
    let mut out = String::new();
    let mut chars = json.chars();
    while let Some(c) = chars.next() {
        match c {
            '\\' => match chars.next() {
                Some('"') => out.push('"'),
                other => out.extend(['\\'].into_iter().chain(other)),
            },
            '"' => out.push('\''),
            '\'' => out.push_str("\\'"),
            c => out.push(c),
        }
    }
    out
}

proptest! {
    #[test]
    fn it_does_not_matter_in_which_pieces_bytes_come(
        bytes in soup(),
        pieces in proptest::collection::vec(0_usize..9, 0..60),
    ) {
        let whole = parse(&bytes, &[]);
        prop_assert_eq!(parse(&bytes, &pieces), whole.clone());
        let each = vec![1; bytes.len()];
        prop_assert_eq!(parse(&bytes, &each), whole);
    }

    #[test]
    fn whatever_came_a_byte_of_255_and_the_next_message_is_read(bytes in soup()) {
        let next = b"\n\xff{\"execute\":\"x\"}";
        let messages = parse(&[&bytes, &next[..]].concat(), &[]);
        prop_assert_eq!(messages.last(), Some(&Ok(json!({"execute": "x"}))));
    }

    #[test]
    fn every_value_is_read_as_what_it_is_however_it_is_written(value in value()) {
        for text in [
            value.to_string(),
            serde_json::to_string_pretty(&value).unwrap(),
            single_quoted(&value.to_string()),
        ] {
            // A number ends where something else begins.
            let messages = parse(format!("{text}\n").as_bytes(), &[]);
            prop_assert_eq!(&messages, &vec![Ok(value.clone())], "{}", text);
        }
    }

    #[test]
    fn messages_arrive_one_by_one(values in proptest::collection::vec(value(), 0..5)) {
        let text: String = values.iter().map(|value| format!("{value} ")).collect();
        let expected: Vec<Message> = values.into_iter().map(Ok).collect();
        prop_assert_eq!(parse(text.as_bytes(), &[]), expected);
    }
}

/// Messages with known names in random places.
fn request() -> impl Strategy<Value = Value> {
    let names = |names: &'static [&'static str]| proptest::sample::select(names);
    let commands = names(&[
        "qmp_capabilities",
        "migrate",
        "migrate-incoming",
        "migrate-continue",
        "quit",
        "migrate_cancel",
        "migrate-set-parameters",
        "migrate-set-capabilities",
        "query-migrate",
        "query-version",
        "nope",
    ]);
    let arguments = names(&[
        "enable",
        "uri",
        "image",
        "then",
        "pid",
        "live",
        "fuzzy",
        "output",
        "state",
        "capabilities",
        "capability",
        "blk",
        "resume",
        "wire",
        "compress-level",
        "max-bandwidth",
        "timeout",
        "link",
        "batch-pages",
        "compression",
        "compress-wait-thread",
        "zlib-engine",
        "max-cpu-throttle",
    ]);
    let words = names(&[
        "oob",
        "tcp:h:1",
        "xbzrle",
        "x",
        "qemu",
        "pre-switchover",
        "zstd",
        "exec:true",
    ]);
    let leaf = prop_oneof![words.prop_map(Value::from), value()];
    let leaf = leaf.boxed();
    let capability = (leaf.clone(), any::<bool>())
        .prop_map(|(name, state)| json!([{"capability": name, "state": state}]));
    let argument = prop_oneof![
        4 => leaf.clone(),
        1 => leaf.clone().prop_map(|value| json!([value])),
        1 => capability,
    ];
    let arguments = proptest::collection::vec((arguments.prop_map(str::to_owned), argument), 0..5)
        .prop_map(|members| Value::from(Map::from_iter(members)));
    let member = prop_oneof![
        9 => commands.prop_map(|name| ("execute", json!(name))),
        9 => arguments.prop_map(|arguments| ("arguments", arguments)),
        2 => leaf.prop_map(|id| ("id", id)),
        1 => value().prop_map(|value| ("exec-oob", value)),
        1 => value().prop_map(|value| ("arguments", value)),
        1 => value().prop_map(|value| ("bogus", value)),
    ];
    proptest::collection::vec(member, 0..5).prop_map(|members| {
        let members = members
            .into_iter()
            .map(|(name, value)| (name.to_owned(), value));
        Value::from(Map::from_iter(members))
    })
}

#[test]
fn each_object_gets_one_reply_with_its_id_and_does_no_harm() {
    let bench = super::bench();
    let client = std::cell::RefCell::new(bench.client());
    let requests = proptest::collection::vec(request(), 1..8);
    proptest!(|(requests in requests)| {
        let client = &mut *client.borrow_mut();
        let text: String = requests.iter().map(Value::to_string).collect();
        client.send(text);
        for request in requests {
            let reply = client.line();
            prop_assert_eq!(reply.get("id"), request.get("id"), "{} got {}", request, reply);
            let outcomes = [reply.get("return"), reply.get("error")];
            prop_assert_eq!(outcomes.into_iter().flatten().count(), 1, "{}", reply);
        }
    });
    bench.client().done("query-version", json!({}));
}

#[test]
fn what_exceeds_a_limit_is_reported_once_and_the_next_line_is_read() {
    let next = "\n{\"execute\":\"x\"}";
    let open = "[".repeat(MOST_NESTING + 1);
    for (text, what) in [
        (open.clone(), "nesting depth"),
        (
            format!("{open}{}", "]".repeat(MOST_NESTING + 1)),
            "nesting depth",
        ),
        ("{\"a\":".repeat(4000), "nesting depth"),
        (format!("[{}", "1,".repeat(MOST_TOKENS)), "token count"),
        (format!("[{}]", "{},".repeat(MOST_TOKENS)), "token count"),
        (format!("\"{}\"", "x".repeat(4 * MOST_BYTES)), "token size"),
        (
            format!("{{\"id\":'{}'}}", "\\n".repeat(MOST_BYTES)),
            "token size",
        ),
        ("1".repeat(2 * MOST_BYTES), "token size"),
        ("x".repeat(2 * MOST_BYTES), "token size"),
        (format!("[{}]", " ".repeat(2 * MOST_BYTES)), "token size"),
    ] {
        for pieces in [&[][..], &[1; 100], &[7, 4096, 1]] {
            let messages = parse(format!("{text}{next}").as_bytes(), pieces);
            let expected = [
                Err(format!("JSON {what} limit exceeded")),
                Ok(json!({"execute": "x"})),
            ];
            assert_eq!(messages, expected);
        }
    }
}

#[test]
fn what_is_just_within_the_limits_is_read() {
    let deep = format!("{}{}", "[".repeat(MOST_NESTING), "]".repeat(MOST_NESTING));
    let long = format!("\"{}\"", "x".repeat(MOST_BYTES - 2));
    let many = format!("[1{}]", ",1".repeat((MOST_TOKENS - 3) / 2));
    for text in [deep, long, many] {
        let messages = parse(text.as_bytes(), &[]);
        let [Ok(value)] = &messages[..] else {
            panic!("{} bytes: {messages:?}", text.len());
        };
        let again = value.to_string();
        assert!(again == text, "{} bytes", text.len());
    }
}
