use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpListener;
use std::os::unix::net::{UnixListener, UnixStream};
use std::sync::mpsc;
use std::thread::{self, JoinHandle};

use proptest::prelude::*;

use super::*;
use crate::error::{Error, Kind};

mod connect;

/// Longer than anything here takes.
const LONG: Duration = Duration::from_secs(30);
/// For what is not going to come.
const SHORT: Duration = Duration::from_millis(50);

const GREETING: &str = r#"{"QMP": {"version": {"qemu": {"micro": 22, "minor": 2, "major": 7}, "package": "Debian"}, "capabilities": ["oob"]}}"#;

/// The monitor's end.
struct Far(BufReader<UnixStream>);

impl Far {
    /// A closed connection is the client's right.
    fn say(&mut self, text: &str) {
        let _ = self.0.get_mut().write_all(text.as_bytes());
    }

    /// The next request; null when the client is gone.
    fn hear(&mut self) -> Value {
        let mut line = String::new();
        match self.0.read_line(&mut line) {
            Ok(1..) => serde_json::from_str(&line).expect("the client writes JSON"),
            _ => Value::Null,
        }
    }

    /// Answers the next request. What it was.
    fn answer(&mut self, before: &str, value: &Value) -> Value {
        let request = self.hear();
        let reply = json!({"return": value, "id": request["id"]});
        self.say(&format!("{before}{reply}\r\n"));
        request
    }

    fn greet(&mut self) {
        self.say(&format!("{GREETING}\r\n"));
        let request = self.answer("", &json!({}));
        assert_eq!(request["execute"], "qmp_capabilities");
        assert_eq!(request["arguments"], json!({"enable": ["oob"]}));
    }

    /// Until the client hangs up.
    fn wait(&mut self) {
        while self.hear() != Value::Null {}
    }
}

type Met = (Result<Client, ClientError>, JoinHandle<()>);

/// A client that meets what this does.
fn meet(limit: Duration, far: impl FnOnce(&mut Far) + Send + 'static) -> Met {
    let (near, other) = UnixStream::pair().expect("a pair");
    let thread = thread::spawn(move || far(&mut Far(BufReader::new(other))));
    (Client::over(near, "unix:m", limit), thread)
}

/// One that is greeted first.
fn greeted(
    limit: Duration,
    far: impl FnOnce(&mut Far) + Send + 'static,
) -> (Client, JoinHandle<()>) {
    let (client, thread) = meet(limit, |end| {
        end.greet();
        far(end);
    });
    (client.expect("a greeting"), thread)
}

fn end(thread: JoinHandle<()>) {
    thread
        .join()
        .expect("the monitor's end had nothing to object");
}

/// In one line, as the program prints it.
fn line_of(error: ClientError) -> String {
    let line = Error::from(error).one_line();
    assert!(
        line.chars().count() < 3000 && !line.contains('\n'),
        "{line}"
    );
    line
}

#[test]
fn it_is_greeted_negotiates_and_has_commands_executed() {
    let (mut client, far) = greeted(LONG, |far| {
        let request = far.answer("", &json!({"status": "running"}));
        assert_eq!(request["execute"], "query-status");
        assert!(request.get("arguments").is_none(), "{request}");
        let request = far.answer("", &json!({}));
        assert_eq!(request["arguments"], json!({"uri": "tcp:h:1"}));
        let request = far.answer("", &json!([1]));
        assert_eq!(request, json!({"exec-oob": "yank", "id": {"a": [1]}}));
    });
    assert_eq!(client.greeting().version, [7, 2, 22]);
    assert_eq!(client.greeting().product(), "QEMU 7.2.22");
    assert!(client.greeting().oob && !client.greeting().is_ramferry());
    let status = client.execute("query-status", &Value::Null).unwrap();
    assert_eq!(status["status"], "running");
    let migrated = client.execute("migrate", &json!({"uri": "tcp:h:1"}));
    assert_eq!(migrated.unwrap(), json!({}));
    let request = json!({"exec-oob": "yank", "id": {"a": [1]}});
    let request = request.as_object().unwrap().clone();
    assert_eq!(client.execute_object(request).unwrap(), json!([1]));
    end(far);
}

#[test]
fn a_greeting_without_particulars_will_do_and_ours_is_known() {
    let (client, far) = meet(LONG, |far| {
        far.say("\r\n{\"QMP\": {}}\n");
        assert!(far.answer("", &json!({})).get("arguments").is_none());
    });
    let greeting = client.unwrap().greeting().clone();
    assert_eq!((greeting.version, greeting.oob), ([0; 3], false));
    end(far);

    let (client, far) = meet(LONG, |far| {
        far.say(
            "{\"QMP\": {\"version\": {\"package\": \"ramferry 0.1.0\"}, \"capabilities\": []}}\n",
        );
        far.answer("", &json!({}));
    });
    let client = client.unwrap();
    assert!(client.greeting().is_ramferry());
    assert_eq!(client.greeting().product(), "ramferry 0.1.0");
    end(far);
}

#[test]
fn events_in_between_are_kept_in_their_order() {
    let (mut client, far) = greeted(LONG, |far| {
        let events = "{\"timestamp\": {\"seconds\": 5, \"microseconds\": 7}, \"event\": \"STOP\"}\r\n\
             {\"event\": \"MIGRATION\", \"data\": {\"status\": \"active\"}}\r\n";
        far.answer(events, &json!(1));
        far.say("{\"event\": \"RESUME\"}\n");
        far.wait();
    });
    assert_eq!(client.execute("x", &Value::Null).unwrap(), 1);
    let event = client.take_event().unwrap();
    assert_eq!((&*event.name, event.data), ("STOP", Value::Null));
    assert_eq!(event.time, Some(Duration::from_micros(5_000_007)));
    let deadline = Instant::now() + LONG;
    let event = client.wait_event(deadline).unwrap().unwrap();
    assert_eq!(event.migration_status(), Some("active"));
    assert_eq!(client.take_event(), None);
    let event = client.wait_event(deadline).unwrap().unwrap();
    assert_eq!((&*event.name, event.time), ("RESUME", None));
    assert_eq!(event.migration_status(), None);
    drop(client);
    end(far);
}

#[test]
fn only_the_latest_events_are_kept() {
    let (mut client, far) = greeted(LONG, |far| {
        let many: String = (0..3 * MOST_EVENTS)
            .map(|number| format!("{{\"event\": \"E\", \"data\": {number}}}\n"))
            .collect();
        far.answer(&many, &json!({}));
        let long = "x".repeat(MOST_EVENT_BYTES / 4);
        let large: String = (0..10)
            .map(|number| format!("{{\"event\": \"{number}\", \"data\": \"{long}\"}}\n"))
            .collect();
        far.answer(&large, &json!({}));
    });
    client.execute("x", &Value::Null).unwrap();
    assert_eq!(client.events.len(), MOST_EVENTS);
    assert_eq!(client.take_event().unwrap().data, 2 * MOST_EVENTS);
    client.execute("x", &Value::Null).unwrap();
    assert!(client.event_bytes <= MOST_EVENT_BYTES);
    let names: Vec<String> = std::iter::from_fn(|| client.take_event())
        .map(|event| event.name)
        .collect();
    assert_eq!(names, ["7", "8", "9"]);
    assert_eq!(client.event_bytes, 0);
    end(far);
}

#[test]
fn an_error_has_the_monitors_words_and_the_client_goes_on() {
    let (mut client, far) = greeted(LONG, |far| {
        let id = far.hear()["id"].clone();
        let error =
            json!({"class": "CommandNotFound", "desc": "The command x\n has not been found"});
        far.say(&format!("{}\r\n", json!({"id": id, "error": error})));
        far.hear();
        // What cannot be read has no id.
        far.say("{\"error\": {\"desc\": \"JSON parse error\"}}\r\n");
        let id = far.hear()["id"].clone();
        let desc = "x".repeat(1 << 20);
        far.say(&format!("{}\n", json!({"id": id, "error": {"desc": desc}})));
        far.answer("", &json!(2));
    });
    match client.execute("x", &Value::Null).unwrap_err() {
        ClientError::Declined { class, desc } => {
            assert_eq!(class, "CommandNotFound");
            assert_eq!(desc, "The command x  has not been found");
        }
        other => panic!("{other}"),
    }
    let error = client.execute("x", &Value::Null).unwrap_err();
    assert_eq!(line_of(error), "JSON parse error");
    let error = client.execute("x", &Value::Null).unwrap_err();
    assert_eq!(line_of(error).len(), MOST_WORDS + 3);
    assert_eq!(client.execute("x", &Value::Null).unwrap(), 2);
    end(far);
}

#[test]
fn answers_without_a_request_are_refused() {
    for (reply, why) in [
        (
            r#"{"return": {}, "id": "another"}"#,
            "it answers with id \"another\" where \"ramferry-2\"",
        ),
        (r#"{"return": {}}"#, "it answers with id none"),
        (r#"{"error": {}, "id": 7}"#, "it answers with id 7"),
        (r#"{"id": "ramferry-2"}"#, "neither return nor error"),
        ("[]", "\"[]\" is not a JSON object"),
        ("x\u{1b}[2J\r", "not a JSON object"),
    ] {
        let (mut client, far) = greeted(LONG, move |far| {
            far.hear();
            far.say(&format!("{reply}\n"));
            far.wait();
        });
        let line = line_of(client.execute("x", &Value::Null).unwrap_err());
        assert!(line.starts_with("unix:m does not speak QMP: "), "{line}");
        assert!(line.contains(why) && !line.contains('\u{1b}'), "{line}");
        drop(client);
        end(far);
    }
    let (mut client, far) = greeted(LONG, |far| far.say("{\"return\": 1}\n"));
    let line = line_of(client.wait_event(Instant::now() + LONG).unwrap_err());
    assert!(
        line.contains("it sent an answer without a request"),
        "{line}"
    );
    end(far);
}

#[test]
fn what_greets_otherwise_is_no_monitor() {
    for (greeting, why) in [
        (
            "QEMU 7.2.22 monitor - type 'help' for more information\r\n",
            "\"QEMU 7.2.22 monitor",
        ),
        ("SSH-2.0-OpenSSH_9.2\n", "\"SSH-2.0"),
        ("{\"hello\": 1}\n", "its first message is not a greeting"),
        ("{\"QMP\": 3}\n", "its first message is not a greeting"),
        ("{\"QMP\": {}\n", "not a JSON object"),
        ("", "hung up before its greeting"),
        ("\n\n", "hung up before its greeting"),
        ("{\"QMP\": ", "hung up before its greeting"),
        (
            "{\"QMP\": {}}\n",
            "hung up before its answer to qmp_capabilities",
        ),
    ] {
        let (client, far) = meet(LONG, move |far| far.say(greeting));
        let line = line_of(client.expect_err(greeting));
        assert!(line.contains(why) && line.contains("unix:m"), "{line}");
        end(far);
    }
}

#[test]
fn silence_ends_at_the_time_limit() {
    for greeting in ["", "{\"QMP\"", "\n"] {
        let (client, far) = meet(SHORT, move |far| {
            far.say(greeting);
            far.wait();
        });
        let line = line_of(client.expect_err("nothing to read"));
        assert_eq!(
            line,
            "the monitor at unix:m gave no greeting within 50.00 ms: is another client connected to it, or is its \
             process stopped?"
        );
        end(far);
    }
    for said in ["", "{\"return\": ", "{\"event\": \"E\"}\n"] {
        let (mut client, far) = greeted(LONG, move |far| {
            far.hear();
            far.say(said);
            far.wait();
        });
        client.limit = SHORT;
        let line = line_of(client.execute("query-migrate", &Value::Null).unwrap_err());
        assert_eq!(
            line,
            "the monitor at unix:m gave no answer to query-migrate within 50.00 ms"
        );
        drop(client);
        end(far);
    }
}

#[test]
fn a_monitor_that_talks_for_ever_is_no_answer_either() {
    for said in ["{\"event\": \"E\"}\n", "\n", " "] {
        let (mut client, far) = greeted(LONG, move |far| {
            far.hear();
            let said = said.repeat(1000);
            while far.0.get_mut().write_all(said.as_bytes()).is_ok() {}
        });
        client.limit = SHORT;
        let error = client.execute("x", &Value::Null).unwrap_err();
        match error {
            ClientError::Silent { .. } => {}
            // Fast machines get so far.
            ClientError::NotQmp { ref why, .. } if why.contains("16 MiB") => {}
            other => panic!("{other}"),
        }
        drop(client);
        end(far);
    }
}

#[test]
fn a_monitor_that_does_not_read_is_given_up() {
    let (mut client, far) = greeted(LONG, |far| {
        let mut one = [0];
        // It reads nothing but the first byte until the client is gone.
        let _ = std::io::Read::read(&mut far.0.get_mut(), &mut one);
        far.wait_unread();
    });
    client.limit = SHORT;
    let long = json!({"x": "y".repeat(32 << 20)});
    let line = line_of(client.execute("x", &long).unwrap_err());
    assert!(
        line.ends_with("within 50.00 ms: it does not read"),
        "{line}"
    );
    drop(client);
    end(far);
}

impl Far {
    /// Until the client hangs up, without reading a thing.
    fn wait_unread(&self) {
        use rustix::event::{PollFd, PollFlags, poll};
        let stream = self.0.get_ref();
        poll(&mut [PollFd::new(stream, PollFlags::RDHUP)], None).expect("to wait");
    }
}

#[test]
fn no_message_may_be_endless_and_none_costs_much_memory() {
    let huge = |far: &mut Far| {
        far.say("{\"return\": \"");
        let piece = vec![b'x'; 1 << 20];
        // 100 MiB, or as much as is taken.
        let _ = (0..100).try_for_each(|_| far.0.get_mut().write_all(&piece));
    };
    let (client, far) = meet(LONG, huge);
    let line = line_of(client.unwrap_err());
    assert!(line.ends_with("a message of more than 16 MiB"), "{line}");
    end(far);

    let (mut client, far) = greeted(LONG, move |far| {
        far.hear();
        huge(far);
    });
    let line = line_of(client.execute("x", &Value::Null).unwrap_err());
    assert!(line.ends_with("a message of more than 16 MiB"), "{line}");
    assert!(client.buffer.len() <= MOST_BYTES + CHUNK);
    drop(client);
    end(far);

    for text in [
        format!("{{\"return\": [{}0]}}\n", "0,".repeat(MOST_VALUES)),
        format!("{{\"return\": {}}}\n", "[".repeat(2 * MOST_VALUES)),
        format!(
            "{{\"return\": {}1{}}}\n",
            "[".repeat(5000),
            "]".repeat(5000)
        ),
    ] {
        let (mut client, far) = greeted(LONG, move |far| {
            far.hear();
            far.say(&text);
        });
        let error = client.execute("x", &Value::Null).unwrap_err();
        assert!(matches!(error, ClientError::NotQmp { .. }), "{error}");
        end(far);
    }
}

#[test]
fn half_an_event_is_whole_when_the_rest_comes() {
    let (go, told_to) = mpsc::channel::<()>();
    let (mut client, far) = greeted(LONG, move |far| {
        far.say("{\"event\": \"MIGR");
        told_to.recv().expect("the test goes on");
        far.say("ATION\", \"data\": {\"status\": \"completed\"}}\r\n");
        far.wait();
    });
    assert_eq!(client.wait_event(Instant::now() + SHORT).unwrap(), None);
    go.send(()).unwrap();
    let event = client.wait_event(Instant::now() + LONG).unwrap().unwrap();
    assert_eq!(event.migration_status(), Some("completed"));
    assert_eq!(client.wait_event(Instant::now()).unwrap(), None);
    drop(client);
    end(far);
}

#[test]
fn what_was_said_before_it_hung_up_is_heard() {
    let (mut client, far) = greeted(LONG, |far| {
        far.say("{\"event\": \"MIGRATION\", \"data\": {\"status\": \"completed\"}}\n");
    });
    end(far);
    let error = client.execute("query-migrate", &Value::Null).unwrap_err();
    assert!(matches!(error, ClientError::HungUp { .. }), "{error}");
    let event = client.take_event().expect("it was there before the end");
    assert_eq!(event.migration_status(), Some("completed"));
}

#[test]
fn a_late_answer_is_passed_over_and_half_a_request_completed() {
    let (mut client, far) = greeted(LONG, |far| {
        let late = far.hear();
        assert_eq!(late["execute"], "stop");
        assert_eq!(far.hear()["execute"], "unsent");
        let next = far.hear();
        let reply = |id: &Value| format!("{}\n", json!({"return": {"to": id}, "id": id}));
        far.say(&reply(&late["id"]));
        far.say(&reply(&next["id"]));
        far.wait();
    });
    client.wait_for(SHORT, None);
    let error = client.execute("stop", &Value::Null).unwrap_err();
    assert!(matches!(error, ClientError::Silent { .. }), "{error}");
    client.wait_for(LONG, None);
    // It could not be written in time.
    client
        .unsent
        .extend_from_slice(b"{\"execute\": \"unsent\"}\n");
    let answer = client.execute("cont", &Value::Null).unwrap();
    assert_eq!(answer["to"], "ramferry-3");
    drop(client);
    end(far);
}

#[test]
fn a_wait_that_can_be_aborted_is_as_long_as_any_other() {
    let (mut client, far) = greeted(LONG, Far::wait);
    let limit = Duration::from_secs(2);
    client.wait_for(limit, Some(Arc::new(Abort::new().unwrap())));
    let begun = Instant::now();
    let error = client.execute("stop", &Value::Null).unwrap_err();
    assert!(matches!(error, ClientError::Silent { .. }), "{error}");
    // Not once more for what finds that nothing has come.
    assert!((limit..2 * limit).contains(&begun.elapsed()));
    drop(client);
    end(far);
}

#[test]
fn an_abort_ends_the_wait_for_an_answer() {
    let (mut client, far) = greeted(LONG, Far::wait);
    let abort = Arc::new(Abort::new().unwrap());
    client.wait_for(LONG, Some(Arc::clone(&abort)));
    abort.raise();
    let error = client.execute("stop", &Value::Null).unwrap_err();
    assert!(matches!(error, ClientError::Interrupted), "{error}");
    drop(client);
    end(far);
}

#[test]
fn a_connection_is_taken_over_in_the_middle_of_anything() {
    let (near, other) = UnixStream::pair().expect("a pair");
    let far = thread::spawn(move || {
        let mut far = Far(BufReader::new(other));
        // What was left of the answer to the client before, and of its request.
        far.say("\"status\": \"running\"}}\r\n{\"return\": {}, \"id\": \"ramferry-1\"}\n");
        let mut reset = [0; 2];
        far.0.read_exact(&mut reset).unwrap();
        assert_eq!(reset, *b"\xff\n");
        far.say("{\"error\": {\"class\": \"GenericError\", \"desc\": \"JSON parse error\"}}\n");
        far.answer("", &json!({"status": "paused"}));
        far.answer("{\"event\": \"RESUME\"}\n", &json!({}));
        far.wait();
    });
    let mut client = Client::take_over(near.into(), "QEMU", LONG);
    let status = client.execute("query-status", &Value::Null).unwrap();
    assert_eq!(status["status"], "paused");
    client.execute("cont", &Value::Null).unwrap();
    assert_eq!(client.take_event().unwrap().name, "RESUME");
    drop(client);
    end(far);
}

/// Pieces of what a monitor says.
fn piece() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![
        proptest::collection::vec(any::<u8>(), 0..40),
        prop_oneof![
            Just(&b"{\"event\": \"E\", \"data\": [{}]}\n"[..]),
            Just(&b"{\"return\": {}, \"id\": \"ramferry-2\"}\n"[..]),
            Just(&b"{\"id\": \"ramferry-2\", \"error\": 5}\n"[..]),
            Just(&b"{\"timestamp\": -1, \"event\": {}}\n"[..]),
            Just(&b"\n"[..]),
        ]
        .prop_map(<[u8]>::to_vec),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn whatever_it_says_ends_in_an_answer_or_an_error(pieces in proptest::collection::vec(piece(), 0..8)) {
        let (near, mut far) = UnixStream::pair().unwrap();
        far.write_all(format!("{GREETING}\n{{\"return\": {{}}, \"id\": \"ramferry-1\"}}\n").as_bytes()).unwrap();
        far.write_all(&pieces.concat()).unwrap();
        far.shutdown(std::net::Shutdown::Write).unwrap();
        let mut client = Client::over(near, "unix:m", LONG).unwrap();
        if let Err(error) = client.execute("x", &Value::Null) {
            line_of(error);
        }
        while let Ok(Some(_)) = client.wait_event(Instant::now() + LONG) {}
    }
}
