//! Monitors that misbehave, and command lines that make no sense.

use serde_json::json;

use super::{Far, Monitor, ctl, declines, returns};
use crate::support::{Folder, run, watchdog};

/// What a monitor does, how, and what is reported.
type Hostile = (&'static str, fn(&mut Far), &'static str);

#[test]
fn whatever_a_monitor_does_is_one_line_and_exit_code_1() {
    watchdog!();
    let hostile: [Hostile; 8] = [
        (
            "another service",
            |far| far.say("220 mail ESMTP\r\n"),
            "does not speak QMP",
        ),
        (
            "not a greeting",
            |far| far.say("{\"return\": {}}\n"),
            "not a greeting",
        ),
        ("it hangs up", |_| {}, "hung up before its greeting"),
        (
            "it hangs up later",
            |far| {
                far.greet(None);
                far.hear();
            },
            "hung up before its answer to query-migrate",
        ),
        (
            "half a message and silence",
            |far| {
                far.greet(None);
                far.hear();
                far.say("{\"return\": {\"status\"");
                while far.hear().is_some() {}
            },
            // That the greeting came in time cannot be relied on.
            "within 200.00 ms",
        ),
        (
            "another id",
            |far| {
                far.greet(None);
                far.hear();
                far.say("{\"return\": {}, \"id\": 5}\n");
                while far.hear().is_some() {}
            },
            "it answers with id 5",
        ),
        (
            "a line of 100 MiB",
            |far| {
                far.greet(None);
                far.hear();
                let piece = "x".repeat(1 << 20);
                far.say("{\"return\": \"");
                (0..100).for_each(|_| far.say(&piece));
            },
            "",
        ),
        (
            "an answer of another kind",
            |far| {
                far.greet(None);
                far.answer(&returns(&json!([1])));
            },
            "ramferry 0.1.0 gave an invalid answer to query-migrate",
        ),
    ];
    for (what, serve, why) in hostile {
        let limit = if why.contains("ms") { "200ms" } else { "50s" };
        let (ended, _) = Monitor::start(serve).ctl(&["domjobinfo", "--timeout", limit]);
        assert_eq!(ended.out, "", "{what}");
        ended.failed_with(1, &[why]);
        assert_eq!(ended.err.lines().count(), 1, "{what}: {ended:?}");
    }
}

#[test]
fn every_command_survives_answers_without_sense() {
    watchdog!();
    let commands = [
        "migrate-setparameters --level 3",
        "migrate-setparameters --set unheard=3",
        "migrate-getparameters",
        "migrate-setcapabilities xbzrle=on",
        "migrate-getcapabilities",
        "migrate-setmaxdowntime 5",
        "migrate-getmaxdowntime",
        "migrate-setspeed 5",
        "migrate-getspeed",
        "migrate-compcache --size 4096",
        "domjobinfo",
        "domjobinfo --rawstats",
        "domjobabort",
        "migrate-continue",
        "qmp query-status",
    ];
    for reply in [
        json!([]),
        json!(5),
        json!([{"capability": 5}, 7, null]),
        json!({"status": [], "ram": 5, "max-bandwidth": -1, "downtime-limit": "x", "xbzrle-cache-size": 1.5}),
    ] {
        for args in commands {
            let args: Vec<&str> = args.split(' ').collect();
            let replies = vec![returns(&reply); 3];
            let (ended, _) = ctl(Some(7), &replies, &args);
            assert!(matches!(ended.code, Some(0 | 1)), "{args:?}: {ended:?}");
            assert!(!ended.err.contains("panicked"), "{ended:?}");
        }
    }
}

#[test]
fn what_makes_no_sense_is_refused_without_a_monitor() {
    for (args, why) in [
        (&["fd:3", "domjobinfo"][..], "invalid monitor address fd:3"),
        (&["m", "migrate-setparameters"], "nothing to set"),
        (
            &["m", "migrate-setparameters", "--level", "-2"],
            "-2 is not an integer from 0, nor -1",
        ),
        (
            &["m", "migrate-setparameters", "--set", "compress-level=99"],
            "invalid compress-level 99: ",
        ),
        (&["m", "qmp", "{"], "the request is not a JSON object"),
        (
            &["m", "migrate-setspeed", "1.5"],
            "1.5 is not a whole number of MiB/s",
        ),
    ] {
        run(&[&["ctl"], args].concat()).failed_with(2, &[why]);
    }
    let folder = Folder::new();
    let nowhere = folder.path("m");
    let nowhere = nowhere.to_str().unwrap();
    run(&["ctl", nowhere, "domjobinfo"]).failed_with(1, &[nowhere, "No such file"]);
    let ended = run(&["ctl", nowhere, "domjobinf"]);
    assert_eq!(ended.code, Some(2));
    assert!(ended.err.contains("'domjobinfo'"), "{ended:?}");
}

#[test]
fn nothing_that_a_monitor_says_steers_the_terminal() {
    watchdog!();
    let nasty = "\u{1b}[31m\nmemory_total: 1\u{7f}\u{9b}31m\u{202e}";
    let job = json!({
        "status": "active", "error-desc": nasty, "method": nasty,
        "ram": {"transferred": 5, "total": nasty, "pages-per-second": nasty},
        "xbzrle-cache": {"cache-miss-rate": nasty, "encoding-rate": nasty},
        "compression": {"pages": nasty, "busy-rate": nasty},
    });
    let parameters = json!({"compress-level": nasty, nasty: {nasty: [nasty]}});
    let capabilities = json!([{"capability": nasty, "state": nasty}]);
    for (reply, args) in [
        (&job, "domjobinfo"),
        (&job, "domjobinfo --rawstats"),
        (&job, "domjobinfo --json"),
        (&parameters, "migrate-getparameters"),
        (&parameters, "migrate-getparameters --json"),
        (&capabilities, "migrate-getcapabilities"),
        (&capabilities, "migrate-getcapabilities --json"),
        (&parameters, "qmp query-migrate-parameters"),
        (&declines(nasty), "domjobinfo"),
    ] {
        let args: Vec<&str> = args.split(' ').collect();
        let reply = match reply.get("error") {
            Some(_) => reply.clone(),
            None => returns(reply),
        };
        let (ended, _) = ctl(None, &[reply, returns(&json!({}))], &args);
        let text = format!("{}{}", ended.out, ended.err);
        let steers = |c: char| (c.is_control() && c != '\n') || c == '\u{202e}';
        assert!(!text.contains(steers), "{args:?}: {text:?}");
        let forged = text.lines().any(|line| line == "memory_total: 1");
        assert!(!forged, "{args:?}: {text:?}");
        if matches!(args[..], ["qmp", _] | ["migrate-getparameters", "--json"]) {
            // Escaped, it is there all the same.
            assert!(ended.json().to_string().contains('\u{9b}'), "{text}");
        }
    }
}
