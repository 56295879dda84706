use proptest::prelude::*;
use serde_json::json;

use super::*;

/// As a QEMU 7.2 answers in the middle of a migration, with every part that it can have.
fn active() -> Value {
    json!({
        "status": "active", "total-time": 294154, "setup-time": 8, "expected-downtime": 500,
        "ram": {
            "transferred": 341 << 20, "remaining": 5000, "total": 64_u64 << 30, "duplicate": 16465,
            "skipped": 0, "normal": 49, "normal-bytes": 200704, "dirty-pages-rate": 0,
            "mbps": 216.992, "dirty-sync-count": 2, "postcopy-requests": 0, "page-size": 4096,
            "multifd-bytes": 0, "pages-per-second": 31340, "precopy-bytes": 7,
            "downtime-bytes": 8, "postcopy-bytes": 0, "dirty-sync-missed-zero-copy": 0
        },
        "disk": {"transferred": 1023, "remaining": 1, "total": 1024, "mbps": 0},
        "xbzrle-cache": {
            "cache-size": 67108864, "bytes": 1536, "pages": 20, "cache-miss": 30,
            "cache-miss-rate": 0.25, "encoding-rate": 12.5, "overflow": 1
        },
        "compression": {
            "pages": 100, "busy": 3, "busy-rate": 0.03, "compressed-size": 2048,
            "compression-rate": 2.5
        },
        "cpu-throttle-percentage": 20
    })
}

#[test]
fn the_lines_are_those_of_virsh() {
    let info = JobInfo::new(&active(), Some("running"));
    let expected = "\
Job type:         Unbounded   \n\
Operation:        Outgoing migration\n\
Time elapsed:     294154       ms\n\
Data processed:   341.001 MiB\n\
Data remaining:   4.884 KiB\n\
Data total:       64.000 GiB\n\
Memory processed: 341.000 MiB\n\
Memory remaining: 4.883 KiB\n\
Memory total:     64.000 GiB\n\
Memory bandwidth: 25.867 MiB/s\n\
Dirty rate:       0            pages/s\n\
Page size:        4096         bytes\n\
Iteration:        2           \n\
Postcopy requests: 0           \n\
File processed:   1023.000 B\n\
File remaining:   1.000 B\n\
File total:       1.000 KiB\n\
Constant pages:   16465       \n\
Normal pages:     49          \n\
Normal data:      196.000 KiB\n\
Expected downtime: 500          ms\n\
Setup time:       8            ms\n\
Compression cache: 64.000 MiB\n\
Compressed data:  1.500 KiB\n\
Compressed pages: 20           \n\
Compression cache misses: 30           \n\
Compression overflows: 1            \n\
Auto converge throttle: 20           \n";
    let beyond = "\
Cache miss rate:  0.250\n\
Encoding rate:    12.500\n\
Codec pages:      100          \n\
Codec busy:       3            \n\
Codec output:     2.000 KiB\n\
Codec ratio:      2.500\n\
Page rate:        31340        pages/s\n";
    assert_eq!(info.to_string(), format!("{expected}{beyond}"));
    let (first, rest) = expected.split_at(expected.find("Data processed:").unwrap());
    assert_eq!(format!("{info:#}"), format!("{first}{beyond}{rest}"));
}

#[test]
fn our_own_reply_has_settings_and_side() {
    let reply = json!({
        "status": "completed", "side": "source", "total-time": 25.499, "setup-time": 0.5,
        "downtime": 6.5, "method": "zstd", "level": 3, "threads": 1, "connections": 2,
        "ram": {
            "transferred": 349373, "remaining": 0, "total": 67641344, "duplicate": 16465,
            "normal": 0, "normal-bytes": 0, "mbps": 0.0, "dirty-sync-count": 2,
            "page-size": 4096, "pages-per-second": 0
        }
    });
    let expected = "\
Job type:         Completed   \n\
Operation:        Outgoing migration\n\
Time elapsed:     25           ms\n\
Data processed:   341.185 KiB\n\
Data remaining:   0.000 B\n\
Data total:       64.508 MiB\n\
Memory processed: 341.185 KiB\n\
Memory remaining: 0.000 B\n\
Memory total:     64.508 MiB\n\
Page size:        4096         bytes\n\
Iteration:        2           \n\
Constant pages:   16465       \n\
Normal pages:     0           \n\
Normal data:      0.000 B\n\
Total downtime:   7            ms\n\
Setup time:       1            ms\n\
Codec:            zstd level 3, 1 thread\n";
    assert_eq!(JobInfo::new(&reply, None).to_string(), expected);

    let reply = json!({"status": "pre-switchover", "side": "destination", "threads": 2});
    let expected = "\
Job type:         Unbounded   \n\
Operation:        Incoming migration\n\
Migration status: pre-switchover\n\
Codec:            2 threads\n";
    assert_eq!(JobInfo::new(&reply, None).to_string(), expected);
}

#[test]
fn what_is_not_under_way_has_few_lines() {
    for reply in [
        json!({}),
        json!({"status": "none"}),
        json!({"blocked-reasons": ["x"]}),
    ] {
        let info = JobInfo::new(&reply, None);
        assert_eq!(info.to_string(), "Job type:         None        \n");
        assert_eq!(info.raw(), []);
        assert!(!info.job_type().is_over());
    }
    let reply = json!({"status": "failed", "error-desc": "it\u{1b}[31m\nbroke", "total-time": 5});
    let info = JobInfo::new(&reply, None);
    assert_eq!(
        info.to_string(),
        "Job type:         Failed      \nOperation:        Outgoing migration\n\
         Error message:    it [31m broke\n"
    );
    assert!(info.job_type().is_over());
    let info = JobInfo::new(&json!({"status": "cancelled", "side": "destination"}), None);
    assert_eq!(
        info.to_string(),
        "Job type:         Cancelled   \nOperation:        Incoming migration\n"
    );
}

#[test]
fn every_status_of_qemu_is_a_job_type() {
    for (status, job) in [
        ("none", JobType::None),
        ("setup", JobType::Unbounded),
        ("active", JobType::Unbounded),
        ("cancelling", JobType::Unbounded),
        ("postcopy-recover-setup", JobType::Unbounded),
        ("pre-switchover", JobType::Unbounded),
        ("device", JobType::Unbounded),
        ("completed", JobType::Completed),
        ("failed", JobType::Failed),
        ("cancelled", JobType::Cancelled),
    ] {
        assert_eq!(
            JobInfo::new(&json!({"status": status}), None).job_type(),
            job
        );
    }
}

#[test]
fn a_qemu_that_receives_is_known_by_its_run_state_or_by_counting_nothing() {
    let operation = |reply: Value, state| JobInfo::new(&reply, state).operation;
    let setup = || json!({"status": "setup"});
    assert_eq!(operation(setup(), Some("inmigrate")), Operation::Incoming);
    assert_eq!(operation(setup(), Some("running")), Operation::Outgoing);
    assert_eq!(operation(setup(), None), Operation::Outgoing);
    assert_eq!(
        operation(json!({"status": "completed"}), Some("paused")),
        Operation::Incoming
    );
    assert_eq!(operation(active(), None), Operation::Outgoing);
    let source = json!({"status": "completed", "side": "source"});
    assert_eq!(operation(source, Some("inmigrate")), Operation::Outgoing);
    assert!(JobInfo::lacks_side(&active()) && !JobInfo::lacks_side(&json!({})));
}

#[test]
fn raw_keys_are_libvirts_in_libvirts_order() {
    let info = JobInfo::new(&active(), None);
    let keys: Vec<&str> = info.raw().iter().map(|(key, _)| *key).collect();
    let libvirts = [
        "operation",
        "time_elapsed",
        "downtime",
        "setup_time",
        "data_total",
        "data_processed",
        "data_remaining",
        "memory_total",
        "memory_processed",
        "memory_remaining",
        "memory_bps",
        "memory_constant",
        "memory_normal",
        "memory_normal_bytes",
        "memory_dirty_rate",
        "memory_iteration",
        "memory_postcopy_requests",
        "memory_page_size",
        "disk_total",
        "disk_processed",
        "disk_remaining",
        "compression_cache",
        "compression_bytes",
        "compression_pages",
        "compression_cache_misses",
        "compression_overflow",
        "auto_converge_throttle",
    ];
    assert_eq!(keys[..libvirts.len()], libvirts);
    let raw: Map<String, Value> = info
        .raw()
        .into_iter()
        .map(|(key, value)| (key.to_owned(), value))
        .collect();
    assert_eq!(raw["operation"], 5);
    assert_eq!(raw["data_total"], (64_u64 << 30) + 1024);
    assert_eq!(raw["memory_bps"], 27_124_000);
    assert_eq!(raw["compression_mt_rate"], 2.5);
    assert_eq!(raw["status"], "active");
    assert!(!raw.contains_key("success"));

    let failed = json!({"status": "failed", "error-desc": "why"});
    let raw = JobInfo::new(&failed, None).raw();
    assert!(raw.contains(&("success", false.into())) && raw.contains(&("errmsg", "why".into())));
}

#[test]
fn the_rate_between_two_looks_is_shown() {
    let at = |bytes: u64| {
        let reply = json!({"status": "active", "ram": {"transferred": bytes}});
        JobInfo::new(&reply, None)
    };
    let time = Duration::from_millis(500);
    let info = at(3 << 20).since(&at(1 << 20), time);
    assert!(
        info.to_string()
            .ends_with("Current bandwidth: 4.000 MiB/s\n")
    );
    assert!(info.raw().contains(&("current_bps", (4 << 20).into())));
    // Another migration, or the same moment.
    assert_eq!(at(1).since(&at(2), time), at(1));
    assert_eq!(at(2).since(&at(1), Duration::ZERO), at(2));
}

#[test]
fn sizes_have_the_largest_unit_that_leaves_one() {
    for (bytes, text) in [
        (0, "0.000 B"),
        (1023, "1023.000 B"),
        (1024, "1.000 KiB"),
        ((1 << 20) - 1, "1023.999 KiB"),
        (1 << 20, "1.000 MiB"),
        (3 << 29, "1.500 GiB"),
        (1 << 40, "1.000 TiB"),
        (1 << 50, "1.000 PiB"),
        (u64::MAX, "16.000 EiB"),
    ] {
        assert_eq!(PrettyCapacity(bytes).to_string(), text);
    }
}

/// Anything under the names that are looked at.
fn reply() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<u64>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        "\\PC{0,9}".prop_map(Value::from),
        prop_oneof![Just("active"), Just("completed"), Just("failed")].prop_map(Value::from),
    ];
    let name = prop::sample::select(vec![
        "status",
        "side",
        "ram",
        "disk",
        "xbzrle-cache",
        "compression",
        "total",
        "transferred",
        "remaining",
        "mbps",
        "normal",
        "downtime",
        "total-time",
        "error-desc",
        "method",
        "level",
        "threads",
        "bytes",
        "cache-miss-rate",
        "cpu-throttle-percentage",
    ]);
    leaf.prop_recursive(3, 64, 12, move |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            prop::collection::btree_map(name.clone().prop_map(str::to_owned), inner, 0..12)
                .prop_map(|map| Value::Object(map.into_iter().collect())),
        ]
    })
}

proptest! {
    #[test]
    fn any_reply_is_shown_in_printable_lines(reply in reply(), earlier in reply()) {
        let info = JobInfo::new(&reply, None)
            .since(&JobInfo::new(&earlier, None), Duration::from_secs(1));
        let text = info.to_string();
        prop_assert!(text.ends_with('\n'));
        prop_assert!(text.lines().all(|line| !line.chars().any(char::is_control)));
        for (_, value) in info.raw() {
            prop_assert!(value.is_number() || value.is_string() || value.is_boolean());
        }
    }
}

/// As `query-migrate` of QEMU 11.1 has it: two more states, and a second `remaining`.
#[test]
fn the_states_and_members_of_a_newer_qemu_are_understood() {
    for status in ["failing", "postcopy-device", "cancelling"] {
        assert_eq!(JobType::of_status(status), JobType::Unbounded, "{status}");
    }
    let reply = json!({
        "status": "failing",
        "total-time": 1036,
        "remaining": 195_551_232_u64,
        "ram": {"total": 201_859_072_u64, "transferred": 5_781_159, "remaining": 195_026_944_u64},
    });
    let text = JobInfo::new(&reply, None).to_string();
    for line in [
        "Memory remaining: 185.992 MiB",
        "Data remaining:   185.992 MiB",
        "Migration status: failing",
    ] {
        assert!(text.contains(line), "{line:?} is not in {text}");
    }
}
