#!/usr/bin/env bash
# rustix's socket_peercred returns Err for a peer of another pid namespace, and the "error" is made of the peer's uid.
#
# Version:   rustix 1.1.6, libc 0.2.191, rustc 1.95.0, Linux 6.18. Needs user and pid namespaces (unshare); prints "skipped" without.
# Expected:  SO_PEERCRED works on every connected unix socket. A peer that has no number in the caller's pid namespace
#            (the client on the host, the server in a container) has pid 0 there, and its uid is right.
# Behaviour: the pid's type cannot hold 0, and the compiler uses that spare value to tell Err from Ok. The kernel's
#            answer is copied into it as it is, so a pid of 0 turns the success into an error whose number comes out of
#            the uid: "Success" for root, "No such file or directory" for the uid 65534 of an unmapped user. A daemon
#            in a container that asks for its peer refuses every client from outside, with a reason that means nothing.
#            getsockopt by libc, or a struct with a plain integer, gives the uid.
# Output seen:
#   same namespace:                      Ok, uid as the kernel has it
#   other pid namespace, uid 0 there:    kernel: pid 0, uid 0; rustix: Err Success (os error 0)
#   other pid namespace, user unmapped:  kernel: pid 0, uid 65534; rustix: Err No such file or directory (os error 2)
set -eu
unshare --map-root-user --pid --fork true 2>/dev/null || { echo 'skipped: no user namespaces here'; exit 0; }
tmp=$(mktemp -d); trap 'rm -rf "$tmp"' EXIT; cd "$tmp"
mkdir src
cat >Cargo.toml <<'T'
[package]
name = "look"
version = "0.0.0"
edition = "2021"
[dependencies]
rustix = { version = "=1.1.6", features = ["net"] }
libc = "=0.2.191"
T
cat >src/main.rs <<'R'
use std::os::{fd::AsRawFd, unix::net::{UnixListener, UnixStream}};
fn main() {
    let word = std::env::args().nth(1).unwrap();
    if word == "connect" {
        let mut peer = UnixStream::connect("socket").unwrap();
        std::io::Read::read(&mut peer, &mut [0]).unwrap(); // until the listener has looked
        return;
    }
    let listener = UnixListener::bind("socket").unwrap();
    std::fs::write("ready", "").unwrap();
    let (socket, _) = listener.accept().unwrap();
    let mut kernel = libc::ucred { pid: -1, uid: 0, gid: 0 };
    let mut length = std::mem::size_of_val(&kernel) as libc::socklen_t;
    let done = unsafe {
        libc::getsockopt(socket.as_raw_fd(), libc::SOL_SOCKET, libc::SO_PEERCRED, (&raw mut kernel).cast(), &mut length)
    };
    assert_eq!(done, 0);
    match rustix::net::sockopt::socket_peercred(&socket) {
        Ok(peer) if peer.uid.as_raw() == kernel.uid => println!("Ok, uid as the kernel has it"),
        Ok(peer) => println!("Ok, but uid {} for {}", peer.uid.as_raw(), kernel.uid),
        Err(problem) => println!("kernel: pid {}, uid {}; rustix: Err {problem}", kernel.pid, kernel.uid),
    }
}
R
CARGO_TARGET_DIR="$tmp/target" CARGO_BUILD_JOBS=1 nice -n 15 cargo build -q
look() { # look WHAT EXPECTED COMMAND...: a listener started by COMMAND, a client in the namespaces of this shell
  what=$1 expected=$2; shift 2
  rm -f socket ready
  "$@" target/debug/look listen >seen & listener=$!
  for _ in $(seq 100); do [ -e ready ] && break; sleep 0.1; done
  target/debug/look connect
  wait $listener
  printf '%-36s %s\n' "$what" "$(cat seen)"
  [ "$(cat seen)" = "$expected" ] || { echo changed; exit 1; }
}
look 'same namespace:' 'Ok, uid as the kernel has it' env
look 'other pid namespace, uid 0 there:' 'kernel: pid 0, uid 0; rustix: Err Success (os error 0)' unshare --map-root-user --pid --fork
look 'other pid namespace, user unmapped:' 'kernel: pid 0, uid 65534; rustix: Err No such file or directory (os error 2)' unshare --user --pid --fork
