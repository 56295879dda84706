//! Relays between the two ends that count, record or cut what passes.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::{self, JoinHandle};

use ramferry::transport::Address;

/// A relay between source and destination over tcp that counts every byte.
pub(crate) struct CountingRelay {
    pub(crate) address: Address,
    forth: Arc<AtomicU64>,
    back: Arc<AtomicU64>,
    thread: JoinHandle<()>,
}

impl CountingRelay {
    /// Lets `connections` through to `to`.
    pub(crate) fn start(to: &Address, connections: usize) -> CountingRelay {
        let Address::Tcp { host, port } = to.clone() else {
            panic!("{to} is not tcp");
        };
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = format!("tcp:{}", listener.local_addr().unwrap());
        let (forth, back) = (Arc::<AtomicU64>::default(), Arc::<AtomicU64>::default());
        let counters = (Arc::clone(&forth), Arc::clone(&back));
        let thread = thread::spawn(move || {
            let pumps: Vec<_> = (0..connections)
                .flat_map(|_| {
                    let (near, _) = listener.accept().unwrap();
                    let far = TcpStream::connect((host.as_str(), port)).unwrap();
                    [
                        pump(&near, &far, Arc::clone(&counters.0)),
                        pump(&far, &near, Arc::clone(&counters.1)),
                    ]
                })
                .collect();
            for pump in pumps {
                pump.join().unwrap();
            }
        });
        CountingRelay {
            address: address.parse().unwrap(),
            forth,
            back,
            thread,
        }
    }

    /// Waits until both sides have hung up; bytes to the destination, bytes to the source.
    pub(crate) fn finish(self) -> (u64, u64) {
        self.thread.join().unwrap();
        (
            self.forth.load(Ordering::Relaxed),
            self.back.load(Ordering::Relaxed),
        )
    }
}

fn pump(from: &TcpStream, to: &TcpStream, count: Arc<AtomicU64>) -> JoinHandle<()> {
    let (mut from, mut to) = (from.try_clone().unwrap(), to.try_clone().unwrap());
    thread::spawn(move || {
        let mut buffer = vec![0; 64 << 10];
        while let Ok(read @ 1..) = from.read(&mut buffer) {
            count.fetch_add(read as u64, Ordering::Relaxed);
            if to.write_all(&buffer[..read]).is_err() {
                break;
            }
        }
        let _ = to.shutdown(Shutdown::Write);
    })
}

/// Where a [`CuttingRelay`] cuts: as soon as a byte beyond the limit of its direction arrives,
/// both sides see the link break. What is within the limits has passed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Cut {
    pub(crate) forth: usize,
    pub(crate) back: usize,
}

impl Cut {
    pub(crate) const NEVER: Cut = Cut {
        forth: usize::MAX,
        back: usize::MAX,
    };
}

/// A relay on one connection over a unix socket that records what passes, and cuts.
pub(crate) struct CuttingRelay {
    thread: JoinHandle<(Vec<u8>, Vec<u8>)>,
}

impl CuttingRelay {
    pub(crate) fn start(listen: &Path, to: &Path, cut: Cut) -> CuttingRelay {
        let listener = UnixListener::bind(listen).unwrap();
        let to = to.to_owned();
        let thread = thread::spawn(move || {
            let (near, _) = listener.accept().unwrap();
            drop(listener);
            let far = UnixStream::connect(to).unwrap();
            thread::scope(|scope| {
                let forth = scope.spawn(|| pass(&near, &far, cut.forth));
                let back = scope.spawn(|| pass(&far, &near, cut.back));
                (forth.join().unwrap(), back.join().unwrap())
            })
        });
        CuttingRelay { thread }
    }

    /// What passed in each direction.
    pub(crate) fn finish(self) -> (Vec<u8>, Vec<u8>) {
        self.thread.join().unwrap()
    }
}

fn pass(mut from: &UnixStream, mut to: &UnixStream, limit: usize) -> Vec<u8> {
    let mut passed = Vec::new();
    let mut buffer = vec![0; 64 << 10];
    while let Ok(read @ 1..) = from.read(&mut buffer) {
        let allowed = read.min(limit - passed.len());
        passed.extend_from_slice(&buffer[..allowed]);
        let gone = to.write_all(&buffer[..allowed]).is_err();
        if allowed < read || gone {
            for side in [from, to] {
                let _ = side.shutdown(Shutdown::Both);
            }
            return passed;
        }
    }
    let _ = to.shutdown(Shutdown::Write);
    passed
}
