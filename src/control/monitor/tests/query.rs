//! What a query of a migration returns.

use super::*;
use crate::page::PAGE_SIZE;
use crate::round::Round;
use crate::stats::{LiveStats, Owner, RoundStats, Snapshot, Tally};

/// A migration after two rounds.
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
        owner: Some(Owner::Source),
        notices: vec!["look".to_owned()],
        error: Some("why".to_owned()),
        connections: 1,
        ..Snapshot::default()
    }
}

#[test]
fn a_migration_is_reported_in_qemus_shape() {
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
        let reply = query(status);
        assert_eq!(reply["status"], status.name());
        assert_eq!(reply["total-time"], 124);
        assert_eq!(reply["setup-time"], 1);
        assert_eq!(reply["expected-downtime"], 100);
        assert_eq!(reply.get("downtime"), None);
        assert_eq!(reply["cpu-throttle-percentage"], 20);
        assert_eq!(reply["ram"]["remaining"], 65 * 4096);
        assert_eq!(reply["ram"]["dirty-pages-rate"], 77);
        assert_eq!(reply["rounds"][1]["wire-bytes"], 800);
        assert_eq!(reply["notices"], json!(["look"]));
    }
    let reply = query(Status::Completed);
    assert_eq!(reply["downtime"], 46);
    assert_eq!(reply.get("expected-downtime"), None);
    let mut ram = reply["ram"].clone();
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
    assert_eq!(names(&reply["xbzrle-cache"]), cache);
    let compression = [
        "busy",
        "busy-rate",
        "compressed-size",
        "compression-rate",
        "pages",
    ];
    assert_eq!(names(&reply["compression"]), compression);

    for (status, why) in [
        (Status::Setup, None),
        (Status::Failed, Some("why")),
        (Status::Cancelled, None),
    ] {
        let mut expected = json!({
            "status": status.name(), "side": "source", "guest": "source", "notices": ["look"],
        });
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
    let reply = client.done("query-migrate", json!({}));
    assert_eq!(reply["expected-downtime"], 300, "the limit");
    assert_eq!(reply["ram"]["dirty-pages-rate"], 0);
    plain.status = Status::Completed;
    bench.fake.state().report = Some(Report::of_source(&plain, &params, &caps));
    let reply = client.done("query-migrate", json!({}));
    assert_eq!(reply["downtime"], 0, "there was no writer to pause");
    assert_eq!(reply["ram"]["downtime-bytes"], 0);
    assert_eq!(reply["ram"]["precopy-bytes"], 10_000);
    bench.fake.state().report = Some(Report::of_destination(&plain, &params));
    let reply = client.done("query-migrate", json!({}));
    assert_eq!(reply["side"], "destination");
    assert_eq!(reply.get("downtime"), None, "the source knows");
}

#[test]
fn a_destination_reports_where_it_can_be_reached() {
    let bench = bench();
    let mut client = bench.client();
    for (address, expected) in [
        (
            "tcp:[::1]:4444",
            json!([{"type": "inet", "host": "::1", "port": "4444"}]),
        ),
        ("unix:a/b", json!([{"type": "unix", "path": "a/b"}])),
        ("fd:3", json!(null)),
    ] {
        for status in [Status::Setup, Status::Active, Status::Completed] {
            let report = Report::of_destination(&snapshot(status), &Params::default());
            bench.fake.state().report = Some(report);
            bench.fake.state().listening = Some(address.parse().unwrap());
            let reply = client.done("query-migrate", json!({}));
            assert_eq!(reply["socket-address"], expected, "{status:?}");
        }
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
    let reply: Value = serde_json::from_str(&line).unwrap();
    let rounds = reply["return"]["rounds"].as_array().unwrap();
    assert_eq!(rounds.last().unwrap()["wire-bytes"], 1, "the last ones");
}
