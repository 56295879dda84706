//! `domjobinfo --watch`: how long it goes on, what wakes it, and with what it ends.

use serde_json::{Map, Value, json};

use super::{Monitor, ctl, returns, running};
use crate::support::{Ended, Program, command, watchdog};

fn watch(replies: &[Value]) -> Ended {
    ctl(
        None,
        replies,
        &["domjobinfo", "--watch", "--interval", "1ms"],
    )
    .0
}

#[test]
fn a_job_is_watched_until_it_is_over() {
    watchdog!();
    let mut done = running(4096);
    done["status"] = "completed".into();
    let replies = [running(1), running(2), done].map(|reply| returns(&reply));
    let ended = watch(&replies);
    ended.succeeded();
    let blocks: Vec<&str> = ended.out.split("\n\n").collect();
    assert_eq!(blocks.len(), 3, "{}", ended.out);
    assert!(blocks.iter().all(|block| block.starts_with("Job type:")));
    assert!(!blocks[0].contains("Current bandwidth:") && blocks[1].contains("Current bandwidth:"));
    assert!(
        blocks[2].starts_with("Job type:         Completed"),
        "{}",
        ended.out
    );

    let failed = json!({"status": "failed", "side": "source", "error-desc": "the disk is full"});
    let replies = [running(1), failed].map(|reply| returns(&reply));
    watch(&replies).failed_with(1, &["the migration failed: the disk is full"]);
    let cancelled = json!({"status": "cancelled", "side": "source"});
    let replies = [running(1), cancelled].map(|reply| returns(&reply));
    watch(&replies).failed_with(1, &["the migration was cancelled"]);
    watch(&[returns(&json!({}))]).failed_with(1, &["there is no job to watch"]);
}

#[test]
fn a_watched_job_in_json_is_one_object_a_line() {
    watchdog!();
    let done = json!({"status": "completed", "side": "source"});
    let replies = [running(1), done].map(|reply| returns(&reply));
    let watch = ["domjobinfo", "--watch", "--json", "--interval", "1ms"];
    let (ended, _) = ctl(None, &replies, &watch);
    ended.succeeded();
    let jobs: Vec<Map<String, Value>> = ended
        .out
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    let types: Vec<&Value> = jobs.iter().map(|job| &job["job_type"]).collect();
    assert_eq!(types, [2, 3]);
}

/// Longer than a test may take.
const DAY: [&str; 4] = ["domjobinfo", "--watch", "--interval", "1440min"];

#[test]
fn the_end_is_seen_soon_however_rarely_a_job_is_reported() {
    watchdog!();
    let done = json!({"status": "completed", "side": "source"});
    let replies = [running(1), running(2), running(3), done].map(|reply| returns(&reply));
    let (ended, asked) = ctl(None, &replies, &DAY);
    ended.succeeded();
    assert_eq!(asked.len(), 4);
    let jobs = ended.out.matches("Job type:").count();
    assert_eq!(jobs, 2, "{}", ended.out);
    let last = "Job type:         Completed   \nOperation:        Outgoing migration\n";
    assert!(ended.out.ends_with(last), "{}", ended.out);
}

#[test]
fn events_tell_the_end_when_the_monitor_is_gone() {
    watchdog!();
    let event = |status: &str| {
        let event = json!({"event": "MIGRATION", "data": {"status": status}});
        format!("{event}\r\n")
    };
    // A program that does one migration goes when it is over, and its monitor with it.
    for (events, code, why) in [
        (event("device") + &event("completed"), 0, ""),
        (event("failed"), 1, "the migration failed"),
        (event("cancelled"), 1, "the migration was cancelled"),
        (
            event("active"),
            1,
            "how the job ended is not known: the monitor at ",
        ),
    ] {
        let (ended, _) = Monitor::start(move |far| {
            far.greet(None);
            far.answer(&returns(&running(1)));
            far.say(&events);
        })
        .ctl(&DAY);
        if code == 0 {
            ended.succeeded();
        } else {
            ended.failed_with(code, &[why]);
        }
    }
}

#[test]
fn a_reader_that_goes_ends_the_watch() {
    watchdog!();
    let monitor = Monitor::start(|far| {
        far.greet(None);
        let mut heard = usize::MAX;
        while heard != far.heard.len() {
            heard = far.heard.len();
            far.answer(&returns(&running(1)));
        }
    });
    let path = monitor.path();
    let watch = command(&["ctl", &path, "domjobinfo", "--watch", "--interval", "1ms"]);
    let (reader, writer) = std::io::pipe().unwrap();
    let program = Program::start_with_stdout(watch, writer);
    drop(reader);
    program.finish().succeeded();
    monitor.thread.join().unwrap();
}
