//! Migrations that work: over every kind of link, with every setting, what arrives is what was
//! sent, and every counter is exact.

use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};

use ramferry::stats::{Report, Status};
use ramferry::transport::Address;
use ramferry::{Caps, Params};

use crate::support::{
    CountingRelay, Destination, Folder, Outcome, Page, Program, allocated, any_port, assert_same,
    command, digest, later, migrate, mixed, params, run, source, unix, watchdog,
};

fn caps(compress: bool, xbzrle: bool) -> Caps {
    let mut caps = Caps::default();
    caps.set("compress", compress).unwrap();
    caps.set("xbzrle", xbzrle).unwrap();
    caps
}

/// Asserts that both ends are content, that they agree, and that what arrived is `last`.
#[track_caller]
fn arrived(outcome: Outcome, last: &Path, output: &Path) -> (Report, Report) {
    let (source, destination) = (outcome.source.unwrap(), outcome.destination.unwrap());
    assert_same(output, last);
    let expected = Some(digest(last));
    assert_eq!((source.digest, destination.digest), (expected, expected));
    assert_eq!(digest(output), digest(last));
    for report in [&source, &destination] {
        assert_eq!(report.status, Status::Completed);
        assert_eq!(
            report.ram.total,
            std::fs::metadata(last).unwrap().len(),
            "{}",
            report.side
        );
        assert_eq!(report.ram.remaining, 0);
        for round in &report.rounds {
            assert_eq!(
                round.pages,
                round.zero + round.compressed + round.delta + round.plain + round.unchanged,
            );
        }
    }
    let pages = source.ram.total / 4096;
    assert_eq!(source.rounds[0].pages, pages, "the bulk stage is over all");
    assert_eq!(destination.rounds.len(), source.rounds.len());
    for (sent, received) in source.rounds.iter().zip(&destination.rounds) {
        assert_eq!(sent.pages - sent.unchanged, received.pages);
        assert_eq!(
            (sent.zero, sent.compressed, sent.delta, sent.plain),
            (
                received.zero,
                received.compressed,
                received.delta,
                received.plain
            )
        );
        assert_eq!(sent.delta_bytes, received.delta_bytes);
        assert_eq!(sent.wire_bytes, received.wire_bytes, "round {}", sent.round);
    }
    assert_eq!(source.wire_bytes, destination.wire_bytes);
    assert_eq!(source.return_bytes, destination.return_bytes);
    (source, destination)
}

/// Three states of one guest as images.
fn three_states(folder: &Folder, pages: usize, seed: u64) -> Vec<PathBuf> {
    let first = mixed(pages, seed);
    let second = later(&first, seed + 1);
    let third = later(&second, seed + 2);
    vec![
        folder.image("t0", &first),
        folder.image("t1", &second),
        folder.image("t2", &third),
    ]
}

#[test]
fn what_arrives_is_what_was_sent_with_every_method_over_every_link() {
    watchdog!();
    for (number, method) in ["zlib", "gzip", "lz4", "zstd", "none"].iter().enumerate() {
        let folder = Folder::new();
        let image = folder.image("ram", &mixed(256, number as u64));
        for (link, address) in [
            ("unix", unix(&folder.path("socket"))),
            ("tcp", any_port()),
            ("file", Address::File(folder.path("stream"))),
        ] {
            let output = folder.path(link);
            let settings = params(&[("compress-method", method), ("compress-threads", "2")]);
            let images = [image.clone()];
            let outcome = migrate(&address, &images, &output, Caps::default(), settings);
            let (source, _) = arrived(outcome, &image, &output);
            assert_eq!(source.method, Some(*method));
            let compressed = source.compression.unwrap().pages;
            assert_eq!(compressed > 0, *method != "none", "{method} over {link}");
            assert_eq!(source.rounds[0].compressed, compressed);
        }
    }
}

#[test]
fn both_zlib_engines_and_every_level_bound_arrive() {
    watchdog!();
    let folder = Folder::new();
    let image = folder.image("ram", &mixed(128, 40));
    for (method, level, engine) in [
        ("zlib", "0", "zlib-rs"),
        ("zlib", "9", "zlib-rs"),
        ("gzip", "1", "zlib-rs"),
        ("gzip", "9", "libdeflate"),
        ("lz4", "0", "libdeflate"),
        ("zstd", "0", "libdeflate"),
        ("zstd", "19", "libdeflate"),
    ] {
        let output = folder.path("out");
        let settings = params(&[
            ("compress-method", method),
            ("compress-level", level),
            ("zlib-engine", engine),
            ("compress-threads", "1"),
        ]);
        let socket = unix(&folder.path("socket"));
        let images = [image.clone()];
        let outcome = migrate(&socket, &images, &output, Caps::default(), settings);
        arrived(outcome, &image, &output);
    }
}

#[test]
fn any_number_of_connections_carries_one_migration() {
    watchdog!();
    let folder = Folder::new();
    let states = three_states(&folder, 512, 7);
    for connections in 1..=8 {
        let connections = connections.to_string();
        for address in [unix(&folder.path("socket")), any_port()] {
            let output = folder.path("out");
            let settings = params(&[
                ("connections", &connections),
                ("batch-pages", "16"),
                ("compress-method", "lz4"),
            ]);
            let outcome = migrate(&address, &states, &output, Caps::default(), settings);
            let (source, destination) = arrived(outcome, &states[2], &output);
            assert_eq!(source.connections.to_string(), connections);
            assert_eq!(destination.connections.to_string(), connections);
        }
    }
}

#[test]
fn later_rounds_arrive_with_every_setting_of_deltas_and_cache() {
    watchdog!();
    let folder = Folder::new();
    let states = three_states(&folder, 512, 11);
    for (compress, xbzrle, delta_compress) in [
        (true, true, "on"),
        (true, true, "off"),
        (true, false, "on"),
        (false, true, "on"),
        (false, false, "off"),
    ] {
        for cache in ["4096", "1MiB", "64MiB"] {
            let output = folder.path("out");
            let settings = params(&[
                ("delta-compress", delta_compress),
                ("xbzrle-cache-size", cache),
                ("compress-method", "zstd"),
                ("compress-threads", "3"),
                ("batch-pages", "32"),
            ]);
            let caps = caps(compress, xbzrle);
            let socket = unix(&folder.path("socket"));
            let outcome = migrate(&socket, &states, &output, caps, settings);
            let (source, _) = arrived(outcome, &states[2], &output);
            let what = format!("compress {compress}, xbzrle {xbzrle}, cache {cache}");
            assert_eq!(source.rounds.len(), 3, "{what}");
            let changed = source.rounds[1].pages + source.rounds[2].pages;
            assert!(changed > 0 && changed < 1024, "{what}: {changed}");
            let deltas: u64 = source.rounds.iter().map(|round| round.delta).sum();
            let compressed: u64 = source.rounds.iter().map(|round| round.compressed).sum();
            assert_eq!(source.rounds[0].delta, 0, "{what}");
            assert_eq!(compressed > 0, compress, "{what}");
            if cache == "64MiB" {
                assert_eq!(deltas > 0, xbzrle, "{what}");
            }
            match source.xbzrle_cache {
                Some(report) => {
                    assert!(xbzrle);
                    assert_eq!(report.pages, deltas, "{what}");
                    // Every page of a later round that is not zero was looked up.
                    let looked_up = source.rounds[1..]
                        .iter()
                        .map(|round| round.pages - round.zero);
                    assert_eq!(
                        report.pages
                            + report.cache_miss
                            + report.overflow
                            + source
                                .rounds
                                .iter()
                                .map(|round| round.unchanged)
                                .sum::<u64>(),
                        looked_up.sum::<u64>(),
                        "{what}"
                    );
                }
                None => assert!(!xbzrle),
            }
        }
    }
}

#[test]
fn later_rounds_arrive_through_a_file_too() {
    watchdog!();
    let folder = Folder::new();
    let states = three_states(&folder, 512, 17);
    let (stream, output) = (folder.path("stream"), folder.path("out"));
    let address = Address::File(stream.clone());
    let outcome = migrate(
        &address,
        &states,
        &output,
        Caps::default(),
        Params::default(),
    );
    let (source, destination) = arrived(outcome, &states[2], &output);
    assert_eq!(std::fs::metadata(&stream).unwrap().len(), source.wire_bytes);
    assert_eq!((source.return_bytes, destination.return_bytes), (0, 0));
}

#[test]
fn every_size_of_batch_arrives() {
    watchdog!();
    let folder = Folder::new();
    let states = three_states(&folder, 600, 23);
    for batch in ["1", "7", "256"] {
        let output = folder.path("out");
        let settings = params(&[("batch-pages", batch), ("compress-method", "zstd")]);
        let socket = unix(&folder.path("socket"));
        let outcome = migrate(&socket, &states, &output, Caps::default(), settings);
        arrived(outcome, &states[2], &output);
    }
}

#[test]
fn pages_become_zero_and_holes_and_data_and_back() {
    watchdog!();
    let folder = Folder::new();
    // Each of four kinds of page becomes each other, twice over, in runs of 16.
    let kinds = |index: u64| {
        [
            Page::Hole,
            Page::Zero,
            Page::Text(index),
            Page::Random(index),
        ]
    };
    let state = |time: u64| -> Vec<Page> {
        (0..512_u64)
            .map(|index| {
                let group = index / 16;
                let kind = match time {
                    0 | 2 => group % 4,
                    1 => (group / 4) % 4,
                    _ => (group + 1) % 4,
                };
                kinds(index)[kind as usize].clone()
            })
            .collect()
    };
    let states: Vec<PathBuf> = (0..4)
        .map(|time| folder.image(&format!("t{time}"), &state(time)))
        .collect();
    for cache in ["4096", "64MiB"] {
        let output = folder.path("out");
        let settings = params(&[("xbzrle-cache-size", cache), ("batch-pages", "10")]);
        let socket = unix(&folder.path("socket"));
        let outcome = migrate(&socket, &states, &output, Caps::default(), settings);
        let (source, _) = arrived(outcome, &states[3], &output);
        assert!(source.rounds[1..].iter().all(|round| round.zero > 0));
        // The output has no blocks where the last state has holes, whatever was there before.
        assert!(
            allocated(&output) <= allocated(&states[3]) + (64 << 10),
            "{} bytes instead of {}",
            allocated(&output),
            allocated(&states[3])
        );
    }
}

#[test]
fn holes_stay_holes_at_both_ends() {
    watchdog!();
    holes_stay_holes_in(&Folder::new());
    holes_stay_holes_in(&Folder::in_memory());
}

fn holes_stay_holes_in(folder: &Folder) {
    let mut first = vec![Page::Hole; 2048];
    for index in (0..2048).step_by(256) {
        first[index] = Page::Text(index as u64);
        first[index + 64] = Page::Zero;
    }
    let second = later(&first, 3)
        .into_iter()
        .enumerate()
        // Holes where pages were not zero, and little new data.
        .map(|(index, page)| match index % 512 {
            0 => Page::Hole,
            1..256 => first[index].clone(),
            _ if page == Page::Zero => Page::Hole,
            _ if index % 16 == 5 => page,
            _ => first[index].clone(),
        })
        .collect::<Vec<_>>();
    let states = [folder.image("t0", &first), folder.image("t1", &second)];
    let before: Vec<u64> = states.iter().map(|path| allocated(path)).collect();
    for number in 0..2 {
        let output = folder.path(&format!("out{number}"));
        let images = &states[..=number];
        let socket = unix(&folder.path("socket"));
        let outcome = migrate(&socket, images, &output, Caps::default(), Params::default());
        arrived(outcome, &states[number], &output);
        let taken = allocated(&output);
        assert!(
            taken <= before[number] + (64 << 10),
            "the output takes {taken} bytes, the source {}",
            before[number]
        );
    }
    let after: Vec<u64> = states.iter().map(|path| allocated(path)).collect();
    assert_eq!(after, before, "sending must not fill holes of the source");
}

#[test]
fn a_batch_that_finds_no_free_compressor_goes_plain_and_is_counted_as_busy() {
    watchdog!();
    let folder = Folder::new();
    // One slow compressor and many small batches: some must find it busy.
    let image = folder.image("ram", &(0..512).map(Page::Text).collect::<Vec<_>>());
    let output = folder.path("out");
    let settings = params(&[
        ("compress-wait-thread", "off"),
        ("compress-threads", "1"),
        ("compress-method", "zstd"),
        ("compress-level", "19"),
        ("batch-pages", "4"),
    ]);
    let socket = unix(&folder.path("socket"));
    let images = [image.clone()];
    let outcome = migrate(&socket, &images, &output, Caps::default(), settings);
    let (source, _) = arrived(outcome, &image, &output);
    let compression = source.compression.unwrap();
    assert!(compression.busy > 0, "nothing was busy");
    assert_eq!(source.ram.normal, compression.busy, "text always shrinks");
    assert_eq!(compression.busy + compression.pages, 512);
}

#[test]
fn pages_that_do_not_shrink_go_plain() {
    watchdog!();
    let folder = Folder::new();
    let image = folder.image("ram", &(0..256).map(Page::Random).collect::<Vec<_>>());
    for method in ["zlib", "gzip", "lz4", "zstd"] {
        let output = folder.path("out");
        let socket = unix(&folder.path("socket"));
        let settings = params(&[("compress-method", method)]);
        let images = [image.clone()];
        let outcome = migrate(&socket, &images, &output, Caps::default(), settings);
        let (source, _) = arrived(outcome, &image, &output);
        assert_eq!((source.ram.normal, source.ram.duplicate), (256, 0));
        assert!(source.wire_bytes > 256 * 4096 && source.wire_bytes < 257 * 4096);
    }
}

#[test]
fn an_image_of_one_page_and_one_of_nothing_but_a_hole_arrive() {
    watchdog!();
    let folder = Folder::new();
    for guest in [
        vec![Page::Text(1)],
        vec![Page::Zero],
        vec![Page::Hole],
        vec![Page::Hole; 4096],
    ] {
        let image = folder.image("ram", &guest);
        for address in [unix(&folder.path("socket")), any_port()] {
            let output = folder.path("out");
            let images = [image.clone(), image.clone()];
            let settings = Params::default();
            let outcome = migrate(&address, &images, &output, Caps::default(), settings);
            let (source, _) = arrived(outcome, &image, &output);
            assert_eq!(source.rounds[1].pages, 0, "nothing changed");
        }
    }
}

#[test]
fn wire_counters_are_what_a_relay_counts() {
    watchdog!();
    let folder = Folder::new();
    let states = three_states(&folder, 512, 31);
    for connections in [1, 4] {
        let output = folder.path("out");
        let destination = Destination::start(&any_port(), &output, Params::default());
        let relay = CountingRelay::start(&destination.address(), connections);
        let settings = params(&[
            ("connections", &connections.to_string()),
            ("batch-pages", "16"),
        ]);
        let sent = source(&states, &relay.address, Caps::default(), settings)
            .unwrap()
            .wait();
        let outcome = Outcome {
            source: sent,
            destination: destination.handle.wait(),
        };
        let (source, destination) = arrived(outcome, &states[2], &output);
        let (forth, back) = relay.finish();
        for report in [source, destination] {
            assert_eq!(
                (report.wire_bytes, report.return_bytes),
                (forth, back),
                "{} with {connections} connections",
                report.side
            );
            assert_eq!(report.ram.transferred, forth);
        }
    }
}

#[test]
fn the_bytes_of_all_rounds_are_those_of_the_stream_but_for_greeting_and_end() {
    watchdog!();
    let folder = Folder::new();
    let states = three_states(&folder, 256, 37);
    let (stream, output) = (folder.path("stream"), folder.path("out"));
    let address = Address::File(stream.clone());
    let outcome = migrate(
        &address,
        &states,
        &output,
        Caps::default(),
        Params::default(),
    );
    let (source, _) = arrived(outcome, &states[2], &output);
    let bytes = std::fs::read(&stream).unwrap();
    let hello = 16 + u32::from_le_bytes(bytes[12..16].try_into().unwrap()) as usize + 8;
    // Walks the frames and adds up those of each round, its end included.
    let mut rounds = vec![0_u64];
    let mut at = hello;
    while at < bytes.len() {
        let field =
            |offset| u32::from_le_bytes(bytes[at + offset..at + offset + 4].try_into().unwrap());
        let len = 36 + field(16) as usize + field(20) as usize;
        *rounds.last_mut().unwrap() += len as u64;
        if bytes[at] == 3 {
            rounds.push(0);
        }
        at += len;
    }
    let finish = rounds.pop().unwrap();
    assert_eq!(finish, 36 + 16);
    let reported: Vec<u64> = source.rounds.iter().map(|round| round.wire_bytes).collect();
    assert_eq!(reported, rounds);
    assert_eq!(
        hello as u64 + rounds.iter().sum::<u64>() + finish,
        source.wire_bytes
    );
}

#[test]
fn a_stream_that_a_command_stores_and_prints_arrives() {
    watchdog!();
    let folder = Folder::new();
    let states = three_states(&folder, 256, 41);
    let (stream, output) = (folder.path("stream"), folder.path("out"));
    let shown = stream.display();
    let to: Address = format!("exec:cat > '{shown}'").parse().unwrap();
    let from: Address = format!("exec:cat '{shown}'").parse().unwrap();
    let sent = source(&states, &to, Caps::default(), Params::default())
        .unwrap()
        .wait();
    let received = Destination::start(&from, &output, Params::default());
    let outcome = Outcome {
        source: sent,
        destination: received.handle.wait(),
    };
    let (source, _) = arrived(outcome, &states[2], &output);
    assert_eq!(std::fs::metadata(&stream).unwrap().len(), source.wire_bytes);
}

#[test]
fn a_command_that_fails_fails_the_migration_at_either_end() {
    watchdog!();
    let folder = Folder::new();
    let image = folder.image("ram", &mixed(64, 1));
    let stream = folder.path("stream");
    let to: Address = format!("exec:cat > '{}'; exit 7", stream.display())
        .parse()
        .unwrap();
    let images = [image.clone()];
    let error = source(&images, &to, Caps::default(), Params::default())
        .unwrap()
        .wait()
        .unwrap_err();
    assert!(error.one_line().contains("exit status: 7"), "{error}");
    let from: Address = format!("exec:cat '{}'; exit 7", stream.display())
        .parse()
        .unwrap();
    let output = folder.path("out");
    let error = Destination::start(&from, &output, Params::default())
        .handle
        .wait()
        .unwrap_err();
    assert!(error.one_line().contains("exit status: 7"), "{error}");
    assert_eq!(folder.names(), ["ram", "stream"]);
}

#[test]
fn inherited_pipes_and_socket_pairs_carry_a_migration() {
    watchdog!();
    let folder = Folder::new();
    let states = three_states(&folder, 256, 43);
    let names: Vec<&str> = states.iter().map(|path| path.to_str().unwrap()).collect();
    let output = folder.path("out");
    let out = output.to_str().unwrap();
    let send = [
        "send", names[0], "fd:1", "--then", names[1], "--then", names[2], "--quiet",
    ];
    let receive = ["receive", "fd:0", out, "--quiet", "--force"];

    let (reader, writer) = std::io::pipe().unwrap();
    let sender = Program::start_with_stdout(command(&send), writer);
    let mut command_in = command(&receive);
    command_in.stdin(reader);
    let receiver = Program::start(command_in);
    sender.finish().succeeded();
    receiver.finish().succeeded();
    assert_same(&output, &states[2]);

    let (near, far) = UnixStream::pair().unwrap();
    let sender = Program::start_with_stdout(command(&send), std::os::fd::OwnedFd::from(near));
    let mut command_in = command(&receive);
    command_in.stdin(std::os::fd::OwnedFd::from(far));
    let receiver = Program::start(command_in);
    sender.finish().succeeded();
    receiver.finish().succeeded();
    assert_same(&output, &states[2]);
}

#[test]
fn the_program_reports_the_digest_that_it_also_prints() {
    watchdog!();
    let folder = Folder::new();
    let image = folder.image("ram", &mixed(128, 47));
    let (image, stream) = (image.to_str().unwrap(), folder.path("stream"));
    let to = format!("file:{}", stream.display());
    let sent = run(&["send", image, &to, "--quiet", "--json"]);
    sent.succeeded();
    let printed = run(&["digest", image]);
    printed.succeeded();
    let shown = digest(&folder.path("ram")).to_string();
    assert_eq!(sent.json()["digest"], shown);
    assert_eq!(printed.out, format!("{shown}  {image}\n"));
    let json = run(&["digest", image, "--json"]).json();
    assert_eq!(json["digest"], shown);
    assert_eq!(json["image"], image);
}

#[test]
fn a_name_that_cannot_be_synced_is_a_note_and_what_has_it_counts() {
    use std::os::unix::fs::{PermissionsExt, chown};
    use std::os::unix::process::CommandExt;
    watchdog!();
    let folder = Folder::new();
    let image = folder.image("ram", &mixed(64, 1));
    // Of a folder in which files can be made and not listed, nothing can be opened to be synced.
    let blind = folder.path("blind");
    std::fs::create_dir(&blind).unwrap();
    let user = rustix::process::geteuid().is_root().then_some(65534);
    for (path, mode) in [
        (blind.parent().unwrap(), 0o755),
        (&image, 0o644),
        (&blind, 0o300),
    ] {
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
    }
    chown(&blind, user, user).unwrap();
    let path = |name: &str| blind.join(name).to_str().unwrap().to_owned();
    let (output, stream) = (path("out"), format!("file:{}", path("stream")));
    for args in [
        ["send", image.to_str().unwrap(), &stream, "--json"],
        ["receive", &stream, &output, "--json"],
    ] {
        let mut command = command(&args);
        if let Some(user) = user {
            command.uid(user).gid(user);
        }
        let ended = Program::start(command).finish();
        ended.succeeded();
        let said = &ended.json()["notices"];
        let note = "a power loss may still take away the name of";
        assert!(said[0].as_str().unwrap().starts_with(note), "{said}");
        assert!(ended.err.contains(&format!("note: {note}")), "{ended:?}");
    }
    assert_eq!(
        std::fs::read(output).unwrap(),
        std::fs::read(image).unwrap()
    );
}
