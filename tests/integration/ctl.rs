//! `ramferry ctl` against monitors made by hand: what it asks, what it prints, how it ends, and that
//! no monitor can make it hang, panic or fill the memory.

use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::thread::{self, JoinHandle};

use serde_json::{Value, json};

use crate::support::{Ended, Folder, run, watchdog};

mod hostile;
mod ours;
mod watch;

/// A monitor that serves one client.
struct Monitor {
    folder: Folder,
    thread: JoinHandle<Vec<Value>>,
}

/// Its end of the connection.
struct Far {
    stream: BufReader<UnixStream>,
    heard: Vec<Value>,
}

impl Far {
    fn say(&mut self, text: &str) {
        // Who has gone hears nothing.
        let _ = self.stream.get_mut().write_all(text.as_bytes());
    }

    fn hear(&mut self) -> Option<Value> {
        let mut line = String::new();
        if !matches!(self.stream.read_line(&mut line), Ok(1..)) {
            return None;
        }
        let request: Value = serde_json::from_str(&line).unwrap();
        self.heard.push(request.clone());
        Some(request)
    }

    /// Answers the next request with the members `return` or `error` of this.
    fn answer(&mut self, reply: &Value) {
        let Some(request) = self.hear() else { return };
        let mut reply = reply.clone();
        reply["id"] = request["id"].clone();
        self.say(&format!("{reply}\r\n"));
    }

    /// `version` is that of a QEMU, or nothing for ours.
    fn greet(&mut self, version: Option<u64>) {
        let (major, package) = match version {
            Some(major) => (major, ""),
            None => (7, "ramferry 0.1.0"),
        };
        let version = json!({"qemu": {"major": major, "minor": 0, "micro": 1}, "package": package});
        let greeting = json!({"QMP": {"version": version, "capabilities": ["oob"]}});
        self.say(&format!("{greeting}\r\n"));
        self.answer(&json!({"return": {}}));
        self.heard.clear();
    }
}

impl Monitor {
    fn start(serve: impl FnOnce(&mut Far) + Send + 'static) -> Monitor {
        let folder = Folder::new();
        let listener = UnixListener::bind(folder.path("m")).unwrap();
        let thread = thread::spawn(move || {
            let mut far = Far {
                stream: BufReader::new(listener.accept().unwrap().0),
                heard: Vec::new(),
            };
            serve(&mut far);
            far.heard
        });
        Monitor { folder, thread }
    }

    /// One that greets, gives these answers, and then says nothing until the client goes.
    fn answering(version: Option<u64>, replies: Vec<Value>) -> Monitor {
        Monitor::start(move |far| {
            far.greet(version);
            for reply in &replies {
                far.answer(reply);
            }
            while far.hear().is_some() {}
        })
    }

    fn path(&self) -> String {
        self.folder.path("m").to_str().unwrap().to_owned()
    }

    /// What the program did, and what it asked.
    fn ctl(self, args: &[&str]) -> (Ended, Vec<Value>) {
        let ended = run(&[&["ctl", &self.path()], args].concat());
        (ended, self.thread.join().unwrap())
    }
}

/// The answers to one command, and what it printed and asked.
fn ctl(version: Option<u64>, replies: &[Value], args: &[&str]) -> (Ended, Vec<Value>) {
    Monitor::answering(version, replies.to_vec()).ctl(args)
}

fn returns(value: &Value) -> Value {
    json!({ "return": value })
}

fn declines(desc: &str) -> Value {
    json!({"error": {"class": "GenericError", "desc": desc}})
}

/// Command and arguments of the only request.
#[track_caller]
fn only(asked: &[Value]) -> (String, Value) {
    assert_eq!(asked.len(), 1, "{asked:?}");
    let name = asked[0]["execute"].as_str().unwrap().to_owned();
    (name, asked[0]["arguments"].clone())
}

fn parameters() -> Value {
    json!({
        "compress-level": 1, "compress-threads": 8, "decompress-threads": 2,
        "max-bandwidth": 125_000_000, "downtime-limit": 300, "xbzrle-cache-size": 64 << 20,
        "multifd-channels": 2, "tls-creds": "", "compress-wait-thread": true,
        "block-bitmap-mapping": [{"x": 1}]
    })
}

// ---- what is asked

#[test]
fn commands_ask_what_they_are_to_ask() {
    watchdog!();
    for (args, command, arguments) in [
        (
            "migrate-setparameters --level 3 --threads -1 --dthreads 4",
            "migrate-set-parameters",
            json!({"compress-level": 3, "decompress-threads": 4}),
        ),
        (
            "migrate-setparameters --set compress-method=zstd --set max-bandwidth=1Gbit --set batch-pages=auto",
            "migrate-set-parameters",
            json!({"compress-method": "zstd", "max-bandwidth": 125_000_000, "batch-pages": null}),
        ),
        (
            "migrate-setparameters --set compression=zstd --set compression=xbzrle",
            "migrate-set-parameters",
            json!({"compression": ["zstd", "xbzrle"]}),
        ),
        (
            "migrate-setparameters --level -1",
            "migrate-set-parameters",
            Value::Null,
        ),
        (
            "migrate-setcapabilities xbzrle=on events=off",
            "migrate-set-capabilities",
            json!({"capabilities": [
                {"capability": "xbzrle", "state": true}, {"capability": "events", "state": false}
            ]}),
        ),
        (
            "migrate-setmaxdowntime 1.5s",
            "migrate-set-parameters",
            json!({"downtime-limit": 1500}),
        ),
        (
            "migrate-setspeed 100",
            "migrate-set-parameters",
            json!({"max-bandwidth": 100 << 20}),
        ),
        (
            "migrate-setspeed -1",
            "migrate-set-parameters",
            json!({"max-bandwidth": 0}),
        ),
        (
            "migrate-continue",
            "migrate-continue",
            json!({"state": "pre-switchover"}),
        ),
    ] {
        let args: Vec<&str> = args.split(' ').collect();
        let (ended, asked) = ctl(None, &[returns(&json!({}))], &args);
        ended.succeeded();
        assert_eq!((&*ended.out, &*ended.err), ("", ""), "{args:?}");
        assert_eq!(only(&asked), (command.to_owned(), arguments), "{args:?}");
    }
    // A QEMU's 0 is not in every version what ours is.
    let (ended, asked) = ctl(Some(7), &[returns(&json!({}))], &["migrate-setspeed", "-1"]);
    ended.succeeded();
    assert_eq!(
        only(&asked).1,
        json!({"max-bandwidth": u64::MAX >> 20 << 20})
    );
}

#[test]
fn a_parameter_that_only_the_monitor_knows_has_the_type_that_it_has_there() {
    watchdog!();
    let sets = [
        "--set",
        "multifd-channels=4",
        "--set",
        "tls-creds=5",
        "--set",
        "compress-level=2",
        "--set",
        "unheard=on",
    ];
    let replies = [returns(&parameters()), returns(&json!({}))];
    let (ended, asked) = ctl(
        Some(7),
        &replies,
        &[&["migrate-setparameters"], &sets[..]].concat(),
    );
    ended.succeeded();
    assert_eq!(asked[0]["execute"], "query-migrate-parameters");
    let expected = json!({
        "multifd-channels": 4, "tls-creds": "5", "compress-level": 2, "unheard": true
    });
    assert_eq!(asked[1]["arguments"], expected);

    let set = ["migrate-setparameters", "--set", "multifd-channels=many"];
    let (ended, _) = ctl(None, &replies[..1], &set);
    ended.failed_with(2, &["multifd-channels many is not a number"]);
}

#[test]
fn whole_requests_go_out_as_they_are() {
    watchdog!();
    let request = json!({"exec-oob": "yank", "id": [1], "arguments": {"instances": []}});
    let (ended, asked) = ctl(
        None,
        &[returns(&json!({"a": [1]}))],
        &["qmp", &request.to_string()],
    );
    ended.succeeded();
    assert_eq!(ended.json(), json!({"a": [1]}));
    assert_eq!(asked, [request]);
    let (ended, asked) = ctl(None, &[declines("no")], &["qmp", "query-x"]);
    ended.failed_with(1, &["no"]);
    assert_eq!(ended.error(), "no");
    assert_eq!(only(&asked), ("query-x".to_owned(), Value::Null));
    let (ended, _) = ctl(None, &[declines("no")], &["qmp", "{\"bogus\": 1}"]);
    ended.failed_with(1, &["no"]);
}

// ---- what is printed

#[test]
fn parameters_are_printed_ours_first_and_as_json() {
    watchdog!();
    let (ended, asked) = ctl(None, &[returns(&parameters())], &["migrate-getparameters"]);
    ended.succeeded();
    assert_eq!(only(&asked).0, "query-migrate-parameters");
    let expected = "\
compress-level: 1
compress-threads: 8
decompress-threads: 2
compress-wait-thread: on
xbzrle-cache-size: 67108864 bytes
max-bandwidth: 125000000 bytes per second
downtime-limit: 300 milliseconds
block-bitmap-mapping: [{\"x\":1}]
multifd-channels: 2
tls-creds: \"\"
";
    assert_eq!((&*ended.out, &*ended.err), (expected, ""));
    let json = ["migrate-getparameters", "--json"];
    let (ended, _) = ctl(None, &[returns(&parameters())], &json);
    assert_eq!(ended.json(), parameters());
}

#[test]
fn capabilities_are_printed() {
    watchdog!();
    let list = json!([
        {"capability": "xbzrle", "state": true}, {"capability": "x-colo", "state": false}
    ]);
    let (ended, asked) = ctl(None, &[returns(&list)], &["migrate-getcapabilities"]);
    ended.succeeded();
    assert_eq!(only(&asked).0, "query-migrate-capabilities");
    assert_eq!(ended.out, "xbzrle: on\nx-colo: off\n");
    let (ended, _) = ctl(
        None,
        &[returns(&list)],
        &["migrate-getcapabilities", "--json"],
    );
    assert_eq!(ended.json(), list);
}

#[test]
fn downtime_speed_and_cache_are_printed_as_virsh_does() {
    watchdog!();
    for (args, out) in [
        ("migrate-getmaxdowntime", "300\n"),
        ("migrate-getspeed", "119.20929\n"),
        ("migrate-compcache", "Compression cache: 64.000 MiB\n"),
    ] {
        let (ended, asked) = ctl(None, &[returns(&parameters())], &[args]);
        ended.succeeded();
        assert_eq!(ended.out, out);
        assert_eq!(only(&asked).0, "query-migrate-parameters");
    }
    // Whatever was asked for, what is printed is what it is now.
    let replies = [returns(&json!({})), returns(&parameters())];
    let (ended, asked) = ctl(None, &replies, &["migrate-compcache", "--size", "1GiB"]);
    ended.succeeded();
    assert_eq!(ended.out, "Compression cache: 64.000 MiB\n");
    assert_eq!(asked[0]["arguments"], json!({"xbzrle-cache-size": 1 << 30}));
}

fn running(transferred: u64) -> Value {
    let ram = json!({"transferred": transferred, "remaining": 5, "total": 4096});
    json!({"status": "active", "side": "source", "total-time": 12, "ram": ram})
}

#[test]
fn a_job_is_printed_in_lines_in_keys_and_in_json() {
    watchdog!();
    let (ended, asked) = ctl(None, &[returns(&running(2048))], &["domjobinfo"]);
    ended.succeeded();
    assert_eq!(only(&asked).0, "query-migrate");
    let lines = "\
Job type:         Unbounded   
Operation:        Outgoing migration
Time elapsed:     12           ms
Data processed:   2.000 KiB
Data remaining:   5.000 B
Data total:       4.000 KiB
";
    assert!(ended.out.starts_with(lines), "{}", ended.out);

    let (ended, _) = ctl(
        None,
        &[returns(&running(2048))],
        &["domjobinfo", "--rawstats"],
    );
    let keys =
        "Job type: 2\n\noperation: 5\ntime_elapsed: 12\ndata_total: 4096\ndata_processed: 2048\n";
    assert!(ended.out.starts_with(keys), "{}", ended.out);

    let (ended, _) = ctl(None, &[returns(&running(2048))], &["domjobinfo", "--json"]);
    let job = ended.json();
    assert_eq!(
        (&job["job_type"], &job["data_total"]),
        (&json!(2), &json!(4096))
    );

    // A QEMU does not report its side.
    let replies = [
        returns(&json!({"status": "setup"})),
        returns(&json!({"status": "inmigrate"})),
    ];
    let (ended, asked) = ctl(None, &replies, &["domjobinfo"]);
    assert!(
        ended.out.contains("Operation:        Incoming migration\n"),
        "{}",
        ended.out
    );
    assert_eq!(asked[1]["execute"], "query-status");
}

#[test]
fn only_a_job_that_runs_is_aborted() {
    watchdog!();
    let cancelling = json!({"status": "cancelling"});
    let replies = [&running(1), &json!({}), &cancelling].map(returns);
    let (ended, asked) = ctl(None, &replies, &["domjobabort"]);
    ended.succeeded();
    assert_eq!(asked[1]["execute"], "migrate_cancel");
    // A QEMU that receives takes the command and goes on.
    let mut replies = vec![returns(&running(1)); 22];
    replies[1] = returns(&json!({}));
    let (ended, _) = ctl(None, &replies, &["domjobabort"]);
    ended.failed_with(1, &["nothing was cancelled: "]);
    for (reply, why) in [
        (json!({}), "no job is active"),
        (
            json!({"status": "completed"}),
            "no job is active: the last one is completed",
        ),
    ] {
        let (ended, asked) = ctl(None, &[returns(&reply)], &["domjobabort"]);
        ended.failed_with(1, &[why]);
        assert_eq!(asked.len(), 1);
    }
}

// ---- what a QEMU does not have

#[test]
fn what_the_monitor_does_not_have_is_reported_by_name_and_version() {
    watchdog!();
    let qemu = Some(10);
    let replies = [declines("Parameter 'compress-level' is unexpected")];
    let (ended, _) = ctl(qemu, &replies, &["migrate-setparameters", "--level", "3"]);
    ended.failed_with(1, &["QEMU 10.0.1 has no parameter compress-level"]);

    let replies = [declines(
        "Parameter 'capability' does not accept value 'compress'",
    )];
    let (ended, _) = ctl(qemu, &replies, &["migrate-setcapabilities", "compress=on"]);
    ended.failed_with(1, &["QEMU 10.0.1 has no capability compress"]);

    let other = json!({"max-bandwidth": 5, "compress-threads": 1});
    let (ended, _) = ctl(qemu, &[returns(&other)], &["migrate-compcache"]);
    ended.failed_with(1, &["QEMU 10.0.1 has no parameter xbzrle-cache-size"]);
    let (ended, _) = ctl(qemu, &[returns(&other)], &["migrate-getparameters"]);
    ended.succeeded();
    assert_eq!(
        ended.out,
        "compress-threads: 1\nmax-bandwidth: 5 bytes per second\n"
    );
    assert_eq!(
        ended.err,
        "note: QEMU 10.0.1 has no compress-level, decompress-threads\n"
    );

    // Other reasons are kept as they are.
    let replies = [declines(
        "Parameter 'compress_level' expects a value between 0 and 9",
    )];
    let (ended, _) = ctl(qemu, &replies, &["migrate-setparameters", "--level", "30"]);
    assert_eq!(
        ended.error(),
        "Parameter 'compress_level' expects a value between 0 and 9"
    );
    ended.failed_with(1, &[]);
}
