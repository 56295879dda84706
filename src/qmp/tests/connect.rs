//! Addresses of monitors, and the way to them.

use super::*;

#[test]
fn a_monitor_is_a_path_or_an_address() {
    let unix = |path: &str| Ok(Address::Unix(path.into()));
    assert_eq!(address("/run/m.sock"), unix("/run/m.sock"));
    assert_eq!(address("unix:m"), unix("m"));
    assert_eq!(address("./tcp:1"), unix("./tcp:1"));
    assert_eq!(address("a:b"), unix("a:b"));
    assert_eq!(
        address("tcp:[::1]:4").map(|to| to.to_string()),
        Ok("tcp:[::1]:4".to_owned())
    );
    for text in ["fd:3", "exec:x", "file:x", "tcp:x", "unix:", ""] {
        let why = address(text).expect_err(text);
        assert!(why.contains("tcp:HOST:PORT"), "{why}");
    }
    assert_eq!(socket_path("/run/m.sock"), Ok("/run/m.sock".into()));
    let why = socket_path("tcp:h:4").expect_err("not a socket's path");
    assert!(why.contains("a path and unix:PATH"), "{why}");
    assert!(address(&"x".repeat(108)).is_err());
}

#[test]
fn it_connects_to_sockets_and_ports_and_says_what_is_wrong_with_others() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("m");
    let listener = UnixListener::bind(&path).unwrap();
    let far = thread::spawn(move || {
        Far(BufReader::new(listener.accept().unwrap().0)).greet();
    });
    Client::connect(&Address::Unix(path.clone()), LONG).unwrap();
    end(far);

    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = format!("tcp:{}", listener.local_addr().unwrap());
    let far = thread::spawn(move || {
        let stream = listener.accept().unwrap().0;
        // Any stream socket will do.
        let fd = std::os::fd::OwnedFd::from(stream);
        Far(BufReader::new(UnixStream::from(fd))).greet();
    });
    let address: Address = address.parse().unwrap();
    Client::connect(&address, LONG).unwrap();
    end(far);

    // The listener is gone.
    for (address, text) in [
        (address.clone(), address.to_string()),
        (
            Address::Unix(path.clone()),
            format!("unix:{}", path.display()),
        ),
    ] {
        let line = line_of(Client::connect(&address, LONG).unwrap_err());
        let expected = format!("cannot connect to the monitor at {text}: Connection refused");
        assert!(line.starts_with(&expected), "{line}");
    }
    let error = Client::connect(&Address::Fd(3), LONG).unwrap_err();
    assert!(matches!(error, ClientError::Address { .. }), "{error}");
    assert_eq!(Error::from(error).kind(), Kind::Usage);
}

#[test]
fn a_full_queue_of_connections_is_waited_for_until_the_time_limit() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("m");
    let socket = Socket::new(Domain::UNIX, Type::STREAM, None).unwrap();
    socket.bind(&SockAddr::unix(&path).unwrap()).unwrap();
    socket.listen(0).unwrap();
    let _first = UnixStream::connect(&path).unwrap();
    let error = Client::connect(&Address::Unix(path), SHORT).unwrap_err();
    let line = error.to_string();
    assert!(line.contains("gave no connection within"), "{line}");
}
