//! Many clients, slow ones, dead ones, and such as want too much; the socket; the end.

use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::os::unix::net::UnixListener;
use std::thread;

use super::*;
use crate::control::monitor::server::MOST_CLIENTS;

#[test]
fn a_line_of_100_mib_is_answered_once() {
    let bench = bench();
    let mut client = bench.client();
    for (begin, piece) in [
        ("{\"execute\":\"", "x"),
        ("", "[\"a\",{\"b\":"),
        ("[", "1,"),
    ] {
        let piece = piece.repeat((1 << 20) / piece.len());
        client.send(begin);
        for _ in 0..100 {
            client.send(&piece);
        }
        client.send("\n{\"execute\":\"query-version\",\"id\":1}");
        let answer = client.line();
        let words = answer["error"]["desc"].as_str().unwrap();
        assert!(words.ends_with(" limit exceeded"), "{words}");
        assert_eq!(client.line()["id"], 1);
    }
}

#[test]
fn a_flood_of_commands_is_answered_in_order_as_fast_as_it_is_taken() {
    const COMMANDS: usize = 20_000;
    let bench = bench();
    let mut client = bench.client();
    let mut sender = client.0.get_ref().try_clone().unwrap();
    let sending = thread::spawn(move || {
        for id in 0..COMMANDS {
            write!(sender, "{{\"execute\":\"query-version\",\"id\":{id}}}").unwrap();
        }
    });
    // Meanwhile others are served, though these answers are not read yet.
    let mut other = bench.client();
    for _ in 0..100 {
        other.done("query-version", json!({}));
    }
    for id in 0..COMMANDS {
        assert_eq!(client.line()["id"], id);
    }
    sending.join().unwrap();
}

#[test]
fn who_takes_nothing_is_not_listened_to_any_more() {
    let bench = bench();
    let mut deaf = bench.connect();
    deaf.set_nonblocking(true).unwrap();
    deaf.write_all(b"{\"execute\":\"qmp_capabilities\"}")
        .unwrap();
    // As much as the system takes while others are served.
    let mut other = bench.client();
    let mut refused = 0;
    let mut sent = 0;
    while refused < 100 {
        match deaf.write(b"{\"execute\":\"migrate_cancel\"}    ") {
            Ok(bytes) => (refused, sent) = (0, sent + bytes),
            Err(_) => refused += 1,
        }
        other.done("query-version", json!({}));
    }
    assert!(sent < 8 << 20, "{sent}");
    let cancelled = bench.fake.calls().len();
    assert!(
        cancelled < sent / 28,
        "{cancelled} of {sent} bytes of commands"
    );
}

#[test]
fn who_leaves_too_many_events_untaken_is_cut_off_and_others_hear_all() {
    let bench = bench();
    bench.fake.state().caps.set("events", true).unwrap();
    let (mut deaf, mut client) = (bench.client(), bench.client());
    // 4 MiB and what is on its way in the system.
    for pass in 1..=60_000 {
        bench.fake.notify(Event::Pass(pass));
        assert_eq!(client.line()["data"]["pass"], pass);
    }
    deaf.is_cut_off();
    client.done("query-version", json!({}));
}

#[test]
fn clients_come_and_go_in_any_state() {
    let bench = bench();
    let mut client = bench.client();
    for sent in [
        "",
        "{",
        "{\"execute\":\"qmp_capabilities\"}",
        "{\"execute\":\"qmp_capabilities\"}{\"execute\":\"query-migrate",
        "{\"execute\":\"qmp_capabilities\"}{\"execute\":\"migrate_cancel\"}",
    ] {
        for _ in 0..10 {
            let mut dies = bench.connect();
            dies.write_all(sent.as_bytes()).unwrap();
        }
        client.done("query-version", json!({}));
    }
    // What they had sent whole is done nevertheless.
    let mut cancelled = 0;
    while cancelled < 10 {
        cancelled += bench.fake.calls().len();
        client.done("query-version", json!({}));
    }
}

#[test]
fn a_client_that_sends_nothing_more_still_gets_the_answers() {
    let bench = bench();
    let mut client = bench.greeted();
    client.send("{\"execute\":\"qmp_capabilities\"}{\"execute\":\"query-version\",\"id\":1}");
    client
        .0
        .get_ref()
        .shutdown(std::net::Shutdown::Write)
        .unwrap();
    assert_eq!(client.line()["return"], json!({}));
    assert_eq!(client.line()["id"], 1);
    client.is_cut_off();
}

#[test]
fn half_a_message_and_silence_concern_no_other_client() {
    let bench = bench();
    let mut slow = bench.client();
    slow.send("{\"execute\":\"query-ver");
    let mut client = bench.client();
    client.done("query-version", json!({}));
    slow.send("sion\",\"id\":\"at last\"}");
    assert_eq!(slow.line()["id"], "at last");
}

#[test]
fn beyond_the_limit_clients_are_turned_away_until_one_goes() {
    let bench = bench();
    let mut clients: Vec<Client> = (0..MOST_CLIENTS).map(|_| bench.client()).collect();
    let mut one_more = Vec::new();
    bench.connect().read_to_end(&mut one_more).unwrap();
    assert!(one_more.is_empty(), "not even greeted");
    drop(clients.pop());
    // Its place is free as soon as it was seen to go.
    let mut client = loop {
        let mut client = Client(BufReader::new(bench.connect()));
        let mut line = String::new();
        if client.0.read_line(&mut line).is_ok_and(|read| read > 0) {
            break client;
        }
    };
    client.ask(r#"{"execute":"qmp_capabilities"}"#);
    for client in &mut clients {
        client.done("query-version", json!({}));
    }
}

#[test]
fn only_its_owner_may_connect() {
    let bench = bench();
    let mode = std::fs::metadata(bench.path())
        .unwrap()
        .permissions()
        .mode();
    assert_eq!(mode & 0o7777, 0o600);
}

#[test]
fn a_dead_socket_is_replaced_and_a_living_one_is_not() {
    let bench = bench();
    let again =
        |path: &std::path::Path| Monitor::bind(path, Arc::<Fake>::default(), Defaults::default());
    let words = again(&bench.path()).unwrap_err().one_line();
    let path = bench.path().display().to_string();
    assert_eq!(words, format!("unix:{path} is already in use"));
    bench.client().done("query-version", json!({}));

    let dead = bench.folder.path().join("dead");
    drop(UnixListener::bind(&dead).unwrap());
    let other = again(&dead).unwrap();
    UnixStream::connect(&dead).unwrap();
    assert_eq!(other.path(), dead);
    drop(other);
    assert!(!dead.exists());

    let file = bench.folder.path().join("file");
    std::fs::write(&file, "mine").unwrap();
    let words = again(&file).unwrap_err().one_line();
    assert!(words.ends_with("it exists and is not a socket"), "{words}");
    assert_eq!(std::fs::read(&file).unwrap(), b"mine");

    let nowhere = bench.folder.path().join("no/where");
    let words = again(&nowhere).unwrap_err().one_line();
    assert!(
        words.contains("no/where") && words.contains("No such file"),
        "{words}"
    );
}

#[test]
fn the_longest_path_is_one_that_the_system_takes() {
    let folder = tempfile::tempdir().unwrap();
    let of_length = |len: usize| {
        let name = "x".repeat(len - folder.path().as_os_str().len() - 1);
        folder.path().join(name)
    };
    let bind = |path| Monitor::bind(path, Arc::<Fake>::default(), Defaults::default());
    let longest = of_length(107);
    let monitor = bind(&longest).unwrap();
    UnixStream::connect(&longest).unwrap();
    drop(monitor);
    let error = bind(&of_length(108)).unwrap_err();
    assert_eq!(error.kind(), Kind::Usage);
    assert!(error.one_line().contains("at most 107 bytes"), "{error}");
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
}

#[test]
fn a_socket_that_is_anothers_by_now_stays() {
    let bench = bench();
    let path = bench.path();
    std::fs::remove_file(&path).unwrap();
    let other = UnixListener::bind(&path).unwrap();
    let inode = std::fs::metadata(&path).unwrap().ino();
    drop(bench.monitor);
    assert_eq!(std::fs::metadata(&path).unwrap().ino(), inode);
    drop(other);
}

#[test]
fn at_the_end_every_client_gets_all_of_its_output() {
    let Bench {
        fake,
        monitor,
        folder,
    } = bench();
    let path = folder.path().join("m");
    let bench = Bench {
        fake,
        monitor,
        folder,
    };
    let (mut client, mut deaf) = (bench.client(), bench.client());
    deaf.send("{\"execute\":\"query-migrate-parameters\"}".repeat(1000));
    client.done("query-version", json!({}));
    bench.fake.notify(Event::Stop);
    let Bench {
        fake,
        monitor,
        folder: _folder,
    } = bench;
    monitor.close(Farewell::Flush, Duration::from_millis(100));
    assert!(!path.exists());
    assert_eq!(client.line()["event"], "STOP");
    client.is_cut_off();
    deaf.is_cut_off();
    // Later events go nowhere.
    fake.notify(Event::Resume);
}

#[test]
fn clients_may_ask_on_until_they_hang_up() {
    let bench = bench();
    let mut client = bench.client();
    let closing = thread::spawn(move || {
        bench.monitor.close(Farewell::Linger, PATIENCE);
        bench.folder
    });
    // It accepts no new client.
    for _ in 0..10 {
        client.done("query-version", json!({}));
    }
    drop(client);
    closing.join().unwrap();
}

#[test]
fn no_client_delays_the_end_for_long() {
    let bench = bench();
    let mut silent = bench.client();
    let _unready = bench.greeted();
    let limit = Duration::from_millis(100);
    let begin = std::time::Instant::now();
    bench.monitor.close(Farewell::Linger, limit);
    assert!(begin.elapsed() >= limit && begin.elapsed() < PATIENCE);
    silent.is_cut_off();

    // And not at all who has not said that he is there.
    let bench = bench_with(Defaults::default());
    let mut unready = bench.greeted();
    bench
        .monitor
        .close(Farewell::Linger, Duration::from_secs(3600));
    unready.is_cut_off();
}
