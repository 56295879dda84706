//! A gate in the way of a stream: it lets through a given number of bytes, so that a test
//! decides what happens to the guest between two rounds, however fast or slow the machine is.

use std::fs::File;
use std::io::{Read, Write};
use std::net::{Shutdown, TcpStream};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex};
use std::thread::{self, JoinHandle};

use serde_json::{Value, json};

use crate::support::Folder;
use crate::support::qemu::Qemu;

/// Takes one stream over a unix socket and passes it on. It is closed at first.
pub(crate) struct Gate {
    path: PathBuf,
    shared: Arc<Shared>,
    thread: JoinHandle<()>,
}

#[derive(Default)]
struct Shared {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    allowed: u64,
    passed: u64,
    ended: bool,
}

impl Gate {
    /// Passes the stream on to what listens at `socket`; answers come back freely.
    pub(crate) fn to_unix(folder: &Folder, socket: &Path) -> Gate {
        let far = UnixStream::connect(socket).unwrap();
        let answers = far.try_clone().unwrap();
        Gate::start(folder, far, Some(answers), |far| {
            let _ = far.shutdown(Shutdown::Write);
        })
    }

    /// As [`Gate::to_unix`], for what listens at `tcp:HOST:PORT`.
    pub(crate) fn to_tcp(folder: &Folder, uri: &str) -> Gate {
        let far = TcpStream::connect(uri.strip_prefix("tcp:").unwrap()).unwrap();
        let answers = far.try_clone().unwrap();
        Gate::start(folder, far, Some(answers), |far| {
            let _ = far.shutdown(Shutdown::Write);
        })
    }

    /// Keeps the stream in a file.
    pub(crate) fn to_file(folder: &Folder, path: &Path) -> Gate {
        Gate::start(folder, File::create(path).unwrap(), None::<File>, drop)
    }

    /// `hang_up` ends what is passed on; who answers may go on doing so.
    fn start<T: Write + Send + 'static>(
        folder: &Folder,
        mut to: T,
        answers: Option<impl Read + Send + 'static>,
        hang_up: impl FnOnce(T) + Send + 'static,
    ) -> Gate {
        let path = folder.path("gate");
        let listener = UnixListener::bind(&path).unwrap();
        let shared = Arc::<Shared>::default();
        let theirs = Arc::clone(&shared);
        let thread = thread::spawn(move || {
            let (mut from, _) = listener.accept().unwrap();
            if let Some(mut answers) = answers {
                let mut back = from.try_clone().unwrap();
                thread::spawn(move || std::io::copy(&mut answers, &mut back));
            }
            let mut buffer = vec![0; 64 << 10];
            loop {
                let limit = theirs.wait_for_permission(buffer.len());
                let read = from.read(&mut buffer[..limit]).unwrap_or(0);
                if read == 0 || to.write_all(&buffer[..read]).is_err() {
                    break;
                }
                theirs.change(|state| state.passed += read as u64);
            }
            hang_up(to);
            theirs.change(|state| state.ended = true);
        });
        Gate {
            path,
            shared,
            thread,
        }
    }

    /// Where the stream is to be sent.
    pub(crate) fn uri(&self) -> String {
        format!("unix:{}", self.path.display())
    }

    /// Lets that many bytes more through and waits until they have passed.
    #[track_caller]
    pub(crate) fn let_through(&self, bytes: u64) {
        let mut state = self.shared.state.lock().unwrap();
        state.allowed += bytes;
        self.shared.changed.notify_all();
        let state = self
            .shared
            .changed
            .wait_while(state, |state| !state.ended && state.passed < state.allowed)
            .unwrap();
        assert!(
            state.passed == state.allowed,
            "the stream ended after {} bytes",
            state.passed
        );
    }

    /// Lets everything through from now on.
    pub(crate) fn open(&self) {
        self.shared.change(|state| state.allowed = u64::MAX);
    }

    /// Waits for the end of the stream. How many bytes it had.
    pub(crate) fn finish(self) -> u64 {
        self.thread.join().unwrap();
        self.shared.state.lock().unwrap().passed
    }
}

impl Shared {
    fn change(&self, how: impl FnOnce(&mut State)) {
        how(&mut self.state.lock().unwrap());
        self.changed.notify_all();
    }

    /// How many bytes may be read now, at least one.
    fn wait_for_permission(&self, most: usize) -> usize {
        let state = self.state.lock().unwrap();
        let state = self
            .changed
            .wait_while(state, |state| state.passed >= state.allowed)
            .unwrap();
        (state.allowed - state.passed).min(most as u64) as usize
    }
}

/// The pages that [`migrate_with_deltas`] writes to: from 1 MiB on, above the video memory and ROMs.
const HOT: std::ops::Range<u64> = 256..256 + 448;

/// Migrates through the gate while [`HOT`] pages are written to by qtest, so that the third round
/// has deltas (the second takes the pages into the cache). What query-migrate says at the end.
///
/// The source must have qtest, at least 4 MiB of RAM of which 1 MiB does not compress (the first
/// round must not fit into the buffers of a socket), and the capabilities that the test is about.
#[track_caller]
pub(crate) fn migrate_with_deltas(source: &mut Qemu, gate: Gate) -> Value {
    // A round ends when what is left could be sent within the downtime: next to nothing, so that
    // rounds are whole.
    source.set_parameters(json!({"max-bandwidth": 32 << 20, "downtime-limit": 1}));
    source.migrate(&gate.uri());
    source.wait_status("active");
    write_hot_pages(source, 1);
    assert_eq!(rounds(source), 1, "the gate holds the first round");

    // The gate takes a piece once the source has sent it, and this round is far longer than a
    // piece and what buffers hold.
    while rounds(source) < 2 {
        gate.let_through(64 << 10);
    }
    gate.let_through(512 << 10);
    // Some of these are sent by now, and the others not.
    write_hot_pages(source, 2);
    assert_eq!(rounds(source), 2, "the gate holds the second round");

    gate.open();
    assert_eq!(source.wait_migration(), "completed");
    gate.finish();
    source.query_migrate()
}

fn rounds(source: &mut Qemu) -> u64 {
    let now = source.query_migrate();
    now["ram"]["dirty-sync-count"]
        .as_u64()
        .unwrap_or_else(|| panic!("{now}"))
}

/// Three small runs of bytes in every page, none as it was.
fn write_hot_pages(source: &mut Qemu, version: u8) {
    for page in HOT {
        let bytes = [page as u8, version, 0x5a, version ^ 0xff];
        let place = page * 31 % 1300;
        for run in 0..3 {
            source.qtest_write(page * 4096 + place + run * 1300, &bytes);
        }
    }
}
