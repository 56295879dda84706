//! Whole migrations over an emulated link: they arrive, and their time is the link's.

use std::time::Duration;

use ramferry::stats::Report;
use ramferry::wire::Format;
use ramferry::{Caps, Migration, Settings};

use crate::support::{
    Destination, Folder, any_port, assert_same, mixed, params, run, unix, watchdog,
};

/// What a link of 100 Mbit/s takes for this many bytes, in milliseconds.
fn time_for(bytes: u64) -> f64 {
    bytes as f64 * 8.0 / 100e6 * 1e3
}

/// Migrates over a link that both ends emulate, with these parameters besides.
fn over(link: &str, pages: usize, connections: &str, format: Format) -> Report {
    let folder = Folder::new();
    let image = folder.image("ram", &mixed(pages, 3));
    let output = folder.path("out");
    let settings = params(&[
        ("link", link),
        ("compress-method", "none"),
        ("connections", connections),
    ]);
    let destination = Destination::start(&unix(&folder.path("socket")), &output, settings.clone());
    let caps = match format {
        Format::Qemu => Caps::for_qemu(),
        _ => Caps::default(),
    };
    let sent = Migration::send(&image)
        .to(destination.address())
        .format(format)
        .settings(Settings::new(settings, caps))
        .start()
        .and_then(Migration::wait)
        .unwrap();
    let received = destination.handle.wait().unwrap();
    match format {
        Format::Qemu => assert_same(&output.join("pc.ram"), &image),
        _ => assert_same(&output, &image),
    }
    for report in [&sent, &received] {
        assert_eq!(report.link.map(|link| link.to_string()), Some(link.into()));
    }
    assert_eq!(sent.wire_bytes, received.wire_bytes);
    sent
}

fn milliseconds(time: std::time::Duration) -> f64 {
    time.as_secs_f64() * 1e3
}

#[test]
fn a_migration_takes_what_the_link_takes_and_five_delays() {
    watchdog!();
    for connections in ["1", "4"] {
        let report = over("100Mbit/5ms", 2048, connections, Format::Native);
        let on_the_wire = time_for(report.wire_bytes);
        // Hello; Finish, Proven, Commit, Committed: the answers to hello are read late, the hellos are not.
        let delays = 5.0 * (4.0 + connections.parse::<f64>().unwrap());
        let least = on_the_wire * 0.97 + delays;
        // The proof and the scanner take their time, too.
        let most = on_the_wire * 1.03 + delays + 500.0;
        let time = milliseconds(report.total_time);
        println!("{connections} connections: {time} ms, of which the link {on_the_wire} ms");
        assert!((least..most).contains(&time), "{least} {time} {most}");
        // What left the source did so at the link's rate.
        let bulk = &report.rounds[0];
        assert!(
            milliseconds(bulk.time) > time_for(bulk.wire_bytes) * 0.97,
            "{:?}",
            bulk.time
        );
    }
}

#[test]
fn the_qemu_wire_goes_over_an_emulated_link_as_well() {
    watchdog!();
    let report = over("100Mbit/5ms", 512, "1", Format::Qemu);
    assert!(milliseconds(report.total_time) > time_for(report.wire_bytes) * 0.97 + 5.0);
}

#[test]
fn a_cancelled_migration_does_not_wait_for_a_slow_link() {
    watchdog!();
    let folder = Folder::new();
    let image = folder.image("ram", &mixed(1024, 5));
    // It would take three quarters of an hour.
    let settings = params(&[("link", "10kbit/100ms"), ("compress-method", "none")]);
    let destination = Destination::start(&any_port(), &folder.path("out"), settings.clone());
    let sending = Migration::send(&image)
        .to(destination.address())
        .settings(settings)
        .start()
        .unwrap();
    crate::support::until(|| sending.query().round > 0);
    let begin = std::time::Instant::now();
    sending.cancel();
    sending.join().unwrap_err();
    destination.handle.cancel();
    destination.handle.wait().unwrap_err();
    assert!(begin.elapsed() < Duration::from_secs(10));
    assert_eq!(folder.names(), ["ram"]);
}

#[test]
fn bench_says_which_link_it_emulated() {
    watchdog!();
    let options = ["--synthetic", "1MiB", "--runs", "3", "--methods", "zstd"];
    let bench = [&["bench", "--link", "1Gbit/2ms", "--quiet"][..], &options].concat();
    let document = run(&[&bench[..], &["--json"]].concat()).json();
    assert_eq!(document["plan"]["transport"], "unix");
    assert_eq!(document["links"][0]["link"], "1Gbit/2ms");
    assert_eq!(document["settings"][0]["parameters"]["link"], "1Gbit/2ms");
    // Hello, Finish, Proven, Commit, Committed.
    assert!(document["settings"][0]["time"]["min"].as_f64().unwrap() >= 10.0);
    let table = run(&bench);
    table.succeeded();
    // Lines are wrapped.
    let words: Vec<&str> = table.out.split_whitespace().collect();
    assert!(words.join(" ").contains("emulating 1Gbit/2ms"), "{table:?}");
}
