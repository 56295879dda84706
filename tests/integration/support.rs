//! What the tests share: guests made of known pages, both ends of a migration, relays between
//! them, the program as a child process, streams made by hand, and a limit on every wait.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use ramferry::codec::{self, CodecSettings, Encoded, Method};
use ramferry::delta;
use ramferry::image::Guest;
use ramferry::page::{BlockSeed, Digest, PAGE_SIZE, PageIndex, is_zero};
use ramferry::round::Round;
use ramferry::session;
use ramferry::stats::Report;
use ramferry::transport::Address;
use ramferry::wire::native::{
    Answer, BlockInfo, Class, Frame, FrameKind, HELLO_HEAD_LEN, Header, Hello, HelloHead, Message,
    PageSet,
};
use ramferry::{Caps, Error, Migration, Params, Settings};

// ---- limits

/// No test takes longer than this, whatever it waits for.
const LIMIT: Duration = Duration::from_secs(60);

/// The children that run now, for the watchdog to end.
static CHILDREN: Mutex<BTreeSet<u32>> = Mutex::new(BTreeSet::new());

pub(crate) fn children() -> std::sync::MutexGuard<'static, BTreeSet<u32>> {
    CHILDREN.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Ends the whole test program with a message unless it is dropped in time.
pub(crate) struct Watchdog {
    _done: Sender<()>,
}

/// To be held by every test that waits for something.
pub(crate) fn watchdog() -> Watchdog {
    let (done, until) = mpsc::channel::<()>();
    let name = thread::current().name().unwrap_or("a test").to_owned();
    thread::spawn(move || {
        if until.recv_timeout(LIMIT) == Err(RecvTimeoutError::Timeout) {
            // Not by a macro: those are captured and would be lost.
            let _ = writeln!(std::io::stderr(), "{name} hangs; giving up");
            for child in children().iter() {
                kill_process(*child);
            }
            std::process::exit(124);
        }
    });
    Watchdog { _done: done }
}

fn kill_process(pid: u32) {
    signal(pid, rustix::process::Signal::KILL);
}

/// Sends a signal to a child that has not been waited for.
pub(crate) fn signal(pid: u32, signal: rustix::process::Signal) {
    let pid = rustix::process::Pid::from_raw(i32::try_from(pid).unwrap()).unwrap();
    let _ = rustix::process::kill_process(pid, signal);
}

/// Tries until it is so. Only for what no event tells of; the watchdog ends it.
pub(crate) fn until(mut is_so: impl FnMut() -> bool) {
    while !is_so() {
        thread::yield_now();
    }
}

// ---- guests

/// What a page of a guest holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Page {
    /// Nothing: the file has a hole there.
    Hole,
    /// Zeroes that are stored.
    Zero,
    /// One byte all over.
    Fill(u8),
    /// Compresses well.
    Text(u64),
    /// Does not compress.
    Random(u64),
    /// Another page, a few bytes of which are others.
    Edited(Box<Page>, u64),
}

/// A small random number generator; equal seeds, equal numbers.
#[derive(Debug, Clone)]
pub(crate) struct Dice(u64);

impl Dice {
    pub(crate) fn new(seed: u64) -> Dice {
        Dice(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    pub(crate) fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    pub(crate) fn below(&mut self, limit: u64) -> u64 {
        (self.next() >> 16) % limit
    }
}

impl Page {
    pub(crate) fn bytes(&self) -> Vec<u8> {
        let mut bytes = vec![0; PAGE_SIZE];
        match self {
            Page::Hole | Page::Zero => {}
            Page::Fill(byte) => bytes.fill(*byte),
            Page::Text(seed) => {
                const WORDS: [&str; 8] = [
                    "page ", "guest ", "memory ", "cache\n", "0x7fff", "the ", "of ", "kernel ",
                ];
                let mut dice = Dice::new(*seed);
                let mut text = String::new();
                while text.len() < PAGE_SIZE {
                    text.push_str(WORDS[dice.below(8) as usize]);
                }
                bytes.copy_from_slice(&text.as_bytes()[..PAGE_SIZE]);
            }
            Page::Random(seed) => {
                let mut dice = Dice::new(*seed);
                for chunk in bytes.chunks_exact_mut(8) {
                    chunk.copy_from_slice(&dice.next().to_le_bytes());
                }
            }
            Page::Edited(page, seed) => {
                bytes = page.bytes();
                let mut dice = Dice::new(*seed);
                for _ in 0..=dice.below(20) {
                    bytes[dice.below(PAGE_SIZE as u64) as usize] = dice.next() as u8 | 1;
                }
            }
        }
        bytes
    }
}

/// A guest's pages: holes, stored zeroes, one-byte pages, text, random bytes and duplicates, in
/// runs.
pub(crate) fn mixed(pages: usize, seed: u64) -> Vec<Page> {
    let mut dice = Dice::new(seed);
    let mut guest: Vec<Page> = Vec::new();
    while guest.len() < pages {
        let run = 1 + dice.below(9);
        let kind = dice.below(7);
        for _ in 0..run {
            let page = match kind {
                // File systems keep track of holes in larger units than pages.
                0 | 1 => {
                    guest.extend(vec![Page::Hole; 3]);
                    Page::Hole
                }
                2 => Page::Zero,
                3 => Page::Fill(dice.next() as u8 | 1),
                4 => Page::Text(dice.next()),
                5 => Page::Random(dice.next()),
                _ if guest.is_empty() => Page::Zero,
                _ => guest[dice.below(guest.len() as u64) as usize].clone(),
            };
            guest.push(page);
        }
    }
    guest.truncate(pages);
    guest
}

/// The same guest some time later: about a third of the pages are others. Every kind of change
/// occurs: small and large ones, to zero, to a hole, and from a hole to data.
pub(crate) fn later(guest: &[Page], seed: u64) -> Vec<Page> {
    let mut dice = Dice::new(seed);
    guest
        .iter()
        .map(|page| match dice.below(18) {
            0 => Page::Hole,
            1 => Page::Zero,
            2 => Page::Random(dice.next()),
            3 => Page::Text(dice.next()),
            4..=6 => Page::Edited(Box::new(page.clone()), dice.next()),
            _ => page.clone(),
        })
        .collect()
}

/// A folder that vanishes with the test.
pub(crate) struct Folder(tempfile::TempDir);

impl Folder {
    pub(crate) fn new() -> Folder {
        Folder(tempfile::tempdir().unwrap())
    }

    /// On a tmpfs, where reading a hole through a shared map fills it; elsewhere if there is none.
    pub(crate) fn in_memory() -> Folder {
        Folder(tempfile::tempdir_in("/dev/shm").unwrap_or_else(|_| tempfile::tempdir().unwrap()))
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    /// Writes an image.
    pub(crate) fn image(&self, name: &str, guest: &[Page]) -> PathBuf {
        let path = self.path(name);
        write_image(&path, guest);
        path
    }

    /// The names of all files, sorted.
    pub(crate) fn names(&self) -> Vec<String> {
        let mut names: Vec<String> = std::fs::read_dir(self.0.path())
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    }
}

pub(crate) fn write_image(path: &Path, guest: &[Page]) {
    let file = File::create(path).unwrap();
    file.set_len((guest.len() * PAGE_SIZE) as u64).unwrap();
    for (index, page) in guest.iter().enumerate() {
        if *page != Page::Hole {
            file.write_all_at(&page.bytes(), (index * PAGE_SIZE) as u64)
                .unwrap();
        }
    }
}

/// Bytes that a file takes on its disk.
pub(crate) fn allocated(path: &Path) -> u64 {
    // What is still in memory only has no place yet on some file systems.
    File::open(path).unwrap().sync_all().unwrap();
    std::fs::metadata(path).unwrap().blocks() * 512
}

pub(crate) fn digest(path: &Path) -> Digest {
    Guest::open(path).unwrap().digest().unwrap()
}

/// Compares without printing megabytes.
#[track_caller]
pub(crate) fn assert_same(path: &Path, expected: &Path) {
    let (found, expected) = (
        std::fs::read(path).unwrap(),
        std::fs::read(expected).unwrap(),
    );
    assert_same_bytes(&found, &expected);
}

#[track_caller]
pub(crate) fn assert_same_bytes(found: &[u8], expected: &[u8]) {
    assert_eq!(found.len(), expected.len());
    let differ = found
        .chunks(PAGE_SIZE)
        .zip(expected.chunks(PAGE_SIZE))
        .position(|(a, b)| a != b);
    assert_eq!(differ, None, "the first page that differs");
}

// ---- both ends

/// Parameters, set as on the command line.
pub(crate) fn params(values: &[(&str, &str)]) -> Params {
    let mut params = Params::default();
    params.set_all(values).unwrap();
    params
}

/// A source that is to send `images`, one a round.
pub(crate) fn source(
    images: &[PathBuf],
    address: &Address,
    caps: Caps,
    params: Params,
) -> Result<Migration, Error> {
    Migration::send(&images[0])
        .to(address.clone())
        .then(&images[1..])
        .settings(Settings::new(params, caps))
        .start()
}

/// A destination, and the address that it listens on if it does.
pub(crate) struct Destination {
    pub(crate) handle: Migration,
    pub(crate) dropped: Receiver<String>,
    listening: Receiver<Address>,
}

impl Destination {
    pub(crate) fn start(address: &Address, output: &Path, params: Params) -> Destination {
        let (told, listening) = mpsc::channel();
        let (line, dropped) = mpsc::channel();
        let handle = Migration::receive(output)
            .from(address.clone())
            .settings(params)
            .force(true)
            .on_listening(move |address| drop(told.send(address.clone())))
            .on_dropped(move |text| drop(line.send(text.to_owned())))
            .start()
            .unwrap();
        Destination {
            handle,
            dropped,
            listening,
        }
    }

    /// Waits until it listens.
    pub(crate) fn address(&self) -> Address {
        self.listening.recv().expect("it listens")
    }
}

/// What became of the two ends.
pub(crate) struct Outcome {
    pub(crate) source: Result<Report, Error>,
    pub(crate) destination: Result<Report, Error>,
}

/// A migration over `address`, both ends in this process.
pub(crate) fn migrate(
    address: &Address,
    images: &[PathBuf],
    output: &Path,
    caps: Caps,
    source_params: Params,
) -> Outcome {
    if !address.is_listening() {
        let sent = source(images, address, caps, source_params).and_then(Migration::wait);
        let destination = Destination::start(address, output, Params::default());
        return Outcome {
            source: sent,
            destination: destination.handle.wait(),
        };
    }
    let destination = Destination::start(address, output, Params::default());
    let to = destination.address();
    Outcome {
        source: source(images, &to, caps, source_params).and_then(Migration::wait),
        destination: destination.handle.wait(),
    }
}

pub(crate) fn unix(path: &Path) -> Address {
    Address::Unix(path.to_owned())
}

pub(crate) fn any_port() -> Address {
    "tcp:127.0.0.1:0".parse().unwrap()
}

// ---- relays

/// Stands between source and destination over tcp and counts every byte.
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

/// Stands between the ends of one connection over a unix socket, records what passes, and cuts.
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

// ---- the program

/// The program, running.
pub(crate) struct Program {
    child: Child,
    out: Receiver<String>,
    err: Receiver<String>,
    seen_out: String,
    seen_err: String,
}

/// How the program ended.
#[derive(Debug)]
pub(crate) struct Ended {
    /// `None`: by a signal.
    pub(crate) code: Option<i32>,
    pub(crate) out: String,
    pub(crate) err: String,
}

impl Ended {
    /// The one line that says what went wrong, after `error: `.
    #[track_caller]
    pub(crate) fn error(&self) -> &str {
        let lines: Vec<&str> = self
            .err
            .lines()
            .filter(|line| line.starts_with("error: "))
            .collect();
        assert_eq!(lines.len(), 1, "one line of error: {self:?}");
        assert!(
            self.err.trim_end().ends_with(lines[0]),
            "nothing comes after the error: {self:?}"
        );
        lines[0].strip_prefix("error: ").unwrap()
    }

    /// Asserts how it ended and what the error names.
    #[track_caller]
    pub(crate) fn failed_with(&self, code: i32, names: &[&str]) {
        assert_eq!(self.code, Some(code), "{self:?}");
        for name in names {
            assert!(self.error().contains(name), "no {name:?} in {self:?}");
        }
    }

    #[track_caller]
    pub(crate) fn succeeded(&self) {
        assert_eq!(self.code, Some(0), "{self:?}");
    }

    #[track_caller]
    pub(crate) fn json(&self) -> serde_json::Value {
        serde_json::from_str(&self.out).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }
}

/// A command of the program, not yet running.
pub(crate) fn command(args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_ramferry"));
    command.args(args).stdin(Stdio::null());
    command
}

/// Runs the program to its end.
pub(crate) fn run(args: &[&str]) -> Ended {
    Program::start(command(args)).finish()
}

impl Program {
    pub(crate) fn start(mut command: Command) -> Program {
        let mut child = command
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        // What must be inherited by the child alone goes with the command.
        drop(command);
        children().insert(child.id());
        Program {
            out: lines(child.stdout.take().unwrap()),
            err: lines(child.stderr.take().unwrap()),
            child,
            seen_out: String::new(),
            seen_err: String::new(),
        }
    }

    /// As [`Program::start`], for a command whose standard output is the link.
    pub(crate) fn start_with_stdout(mut command: Command, stdout: impl Into<Stdio>) -> Program {
        let mut child = command
            .stdout(stdout)
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        drop(command);
        children().insert(child.id());
        Program {
            out: mpsc::channel().1,
            err: lines(child.stderr.take().unwrap()),
            child,
            seen_out: String::new(),
            seen_err: String::new(),
        }
    }

    /// The next line on standard output.
    #[track_caller]
    pub(crate) fn out_line(&mut self) -> String {
        let line = self.out.recv().unwrap_or_else(|_| {
            panic!(
                "no line on standard output; on standard error: {:?}",
                self.err.iter().collect::<Vec<_>>()
            )
        });
        self.seen_out.push_str(&line);
        self.seen_out.push('\n');
        line
    }

    /// The next line on standard error.
    #[track_caller]
    pub(crate) fn err_line(&mut self) -> String {
        let line = self.err.recv().expect("a line on standard error");
        self.seen_err.push_str(&line);
        self.seen_err.push('\n');
        line
    }

    /// The address that a listening receiver says it listens on.
    #[track_caller]
    pub(crate) fn listening(&mut self) -> String {
        let line = self.out_line();
        line.strip_prefix("listening on ")
            .unwrap_or_else(|| panic!("{line:?}"))
            .to_owned()
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    pub(crate) fn signal(&self, number: rustix::process::Signal) {
        signal(self.child.id(), number);
    }

    /// Whether all of its threads stand still.
    pub(crate) fn is_stopped(&self) -> bool {
        let tasks = format!("/proc/{}/task", self.child.id());
        std::fs::read_dir(tasks).unwrap().all(|task| {
            let stat = std::fs::read_to_string(task.unwrap().path().join("stat")).unwrap();
            stat.rsplit_once(") ").unwrap().1.starts_with('T')
        })
    }

    /// Waits until it has the file open.
    pub(crate) fn wait_for_open(&self, path: &Path) {
        let path = path.canonicalize().unwrap();
        let descriptors = format!("/proc/{}/fd", self.child.id());
        until(|| {
            std::fs::read_dir(&descriptors).unwrap().any(|entry| {
                std::fs::read_link(entry.unwrap().path()).is_ok_and(|file| file == path)
            })
        });
    }

    /// Waits for its end.
    pub(crate) fn finish(mut self) -> Ended {
        let out = self.out.iter().map(|line| line + "\n").collect::<String>();
        let err = self.err.iter().map(|line| line + "\n").collect::<String>();
        let status = self.child.wait().unwrap();
        children().remove(&self.child.id());
        Ended {
            code: status.code(),
            out: std::mem::take(&mut self.seen_out) + &out,
            err: std::mem::take(&mut self.seen_err) + &err,
        }
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        if matches!(self.child.try_wait(), Ok(None)) {
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
        children().remove(&self.child.id());
    }
}

/// What it writes, line by line.
pub(crate) fn lines(from: impl Read + Send + 'static) -> Receiver<String> {
    let (line, lines) = mpsc::channel();
    thread::spawn(move || {
        for text in BufReader::new(from).lines() {
            let Ok(text) = text else { return };
            if line.send(text).is_err() {
                return;
            }
        }
    });
    lines
}

// ---- streams made by hand

/// The seed of page hashes in a raw image.
pub(crate) fn seed() -> BlockSeed {
    BlockSeed::new(ramferry::image::RAW_BLOCK_NAME)
}

/// The digest of an image given as bytes.
pub(crate) fn digest_of(image: &[u8]) -> Digest {
    let mut digest = Digest::default();
    for (index, page) in (0..).zip(image.chunks_exact(PAGE_SIZE)) {
        digest.add(seed().hash_or_zero(PageIndex(index), page));
    }
    digest
}

/// The hello of a source with one connection.
pub(crate) fn hello(pages: u64) -> Hello {
    session::hello(
        *b"0123456789abcdef",
        (0, 1),
        Duration::from_secs(30),
        vec![BlockInfo {
            name: ramferry::image::RAW_BLOCK_NAME.to_owned(),
            bytes: pages * PAGE_SIZE as u64,
        }],
        session::offers(None, true),
    )
}

/// How a page of a frame made by hand travels.
#[derive(Debug, Clone)]
pub(crate) enum Carried {
    Zero,
    Whole(Vec<u8>),
    /// Outside of what is compressed.
    Stored(Vec<u8>),
    /// The page as it was, and as it is.
    Delta(Vec<u8>, Vec<u8>),
}

/// The parts of a frame with pages, for a test to change before they are put together.
#[derive(Debug, Clone)]
pub(crate) struct Parts {
    pub(crate) header: Frame,
    pub(crate) set: Vec<u8>,
    pub(crate) hashes: Vec<u8>,
    pub(crate) body: Vec<u8>,
}

impl Parts {
    /// A frame with these pages, ascending, stored as they are.
    pub(crate) fn new(round: u32, pages: &[(u64, Carried)]) -> Parts {
        let mut set = PageSet::default();
        let (mut lengths, mut deltas, mut whole) = (Vec::new(), Vec::new(), Vec::new());
        let (mut hashes, mut stored) = (Vec::new(), Vec::new());
        for (index, page) in pages {
            let index = PageIndex(*index);
            let (class, bytes) = match page {
                Carried::Zero => (Class::Zero, None),
                Carried::Whole(bytes) => {
                    whole.extend_from_slice(bytes);
                    (Class::Whole, Some(bytes))
                }
                Carried::Stored(bytes) => {
                    stored.extend_from_slice(bytes);
                    (Class::Stored, Some(bytes))
                }
                Carried::Delta(old, new) => {
                    let delta = delta_between(old, new);
                    lengths.extend_from_slice(&(delta.len() as u16).to_le_bytes());
                    deltas.extend_from_slice(&delta);
                    (Class::Delta, Some(new))
                }
            };
            set.push(index, class);
            if let Some(bytes) = bytes {
                hashes.extend_from_slice(&seed().hash(index, bytes).to_le_bytes());
            }
        }
        let mut set_bytes = Vec::new();
        set.write(&mut set_bytes);
        let decoded_len = (lengths.len() + deltas.len() + whole.len()) as u32;
        let body = [lengths, deltas, whole, stored].concat();
        Parts {
            header: Frame {
                kind: FrameKind::Pages,
                codec: Method::None,
                block: 0,
                round: Round(round),
                pages: pages.len() as u32,
                body_len: body.len() as u32,
                decoded_len,
            },
            set: set_bytes,
            hashes,
            body,
        }
    }

    /// A frame of long runs of zero pages.
    pub(crate) fn zeros(round: u32, runs: &[(u64, u64)]) -> Parts {
        let mut set = PageSet::default();
        for &(start, end) in runs {
            set.push_range(ramferry::page::PageRange::between(start, end), Class::Zero);
        }
        let mut parts = Parts::new(round, &[]);
        parts.header.kind = FrameKind::Zeros;
        parts.header.pages = set.pages() as u32;
        set.write(&mut parts.set);
        parts
    }

    /// Compresses the body, but for the stored pages.
    pub(crate) fn compressed(mut self, method: Method) -> Parts {
        let settings = CodecSettings {
            method,
            level: 1,
            ..Params::default().codec_settings()
        };
        let (plain, stored) = self.body.split_at(self.header.decoded_len as usize);
        let mut out = vec![0; plain.len() + 1024];
        let encoded = codec::encoder(settings)
            .unwrap()
            .encode(plain, &mut out)
            .unwrap();
        let Encoded::Done(len) = encoded else {
            panic!("the body of a test compresses");
        };
        out.truncate(len);
        out.extend_from_slice(stored);
        self.header.codec = method;
        self.header.body_len = out.len() as u32;
        self.body = out;
        self
    }

    /// Replaces the body and its lengths.
    pub(crate) fn with_body(mut self, body: Vec<u8>) -> Parts {
        self.header.body_len = body.len() as u32;
        self.header.decoded_len = body.len() as u32;
        self.body = body;
        self
    }

    /// The frame as it stands on the wire, its hash in order.
    pub(crate) fn bytes(&self) -> Vec<u8> {
        let mut bytes = self.header.head(&self.set, &self.hashes);
        bytes.extend_from_slice(&self.body);
        bytes
    }
}

pub(crate) fn delta_between(old: &[u8], new: &[u8]) -> Vec<u8> {
    let mut out = vec![0; PAGE_SIZE];
    let (old, new) = (old.try_into().unwrap(), new.try_into().unwrap());
    match delta::encode(old, new, &mut out) {
        delta::Delta::Encoded(len) => out.truncate(len),
        other => panic!("no delta: {other:?}"),
    }
    out
}

pub(crate) fn round_end(round: u32, frames: u64, pages: u64, last: bool) -> Vec<u8> {
    Message::RoundEnd {
        round: Round(round),
        frames,
        pages,
        last,
    }
    .to_bytes()
}

pub(crate) fn finish(image: &[u8]) -> Vec<u8> {
    Message::Finish {
        digest: digest_of(image),
    }
    .to_bytes()
}

/// An image as the frames of one round, every page that is not zero in one frame.
pub(crate) fn one_round(image: &[u8]) -> Vec<u8> {
    let pages: Vec<(u64, Carried)> = (0..)
        .zip(image.chunks_exact(PAGE_SIZE))
        .filter(|(_, page)| !is_zero(page))
        .map(|(index, page)| (index, Carried::Whole(page.to_vec())))
        .collect();
    [
        Parts::new(1, &pages).bytes(),
        round_end(1, 1, pages.len() as u64, true),
    ]
    .concat()
}

/// Reads a hello or the like: head and rest.
fn read_greeting(link: &mut impl Read) -> ([u8; HELLO_HEAD_LEN], Vec<u8>) {
    let mut head = [0; HELLO_HEAD_LEN];
    link.read_exact(&mut head).unwrap();
    let len = u32::from_le_bytes(head[12..16].try_into().unwrap()) as usize;
    let mut rest = vec![0; len + 8];
    link.read_exact(&mut rest).unwrap();
    (head, rest)
}

/// What a destination made by hand reads first.
pub(crate) fn read_hello(link: &mut impl Read) -> Hello {
    let (head, rest) = read_greeting(link);
    Hello::read(&HelloHead::of_hello(head).unwrap(), &rest).unwrap()
}

/// What a source made by hand reads first.
pub(crate) fn read_answer(link: &mut impl Read) -> Answer {
    let (head, rest) = read_greeting(link);
    Answer::read(&HelloHead::of_answer(head).unwrap(), &rest).unwrap()
}

/// Reads a message made by a destination; keep-alives are passed over.
pub(crate) fn read_message(link: &mut impl Read) -> Message {
    loop {
        let mut head = [0; ramferry::wire::native::HEADER_LEN];
        link.read_exact(&mut head).unwrap();
        let header = Header::from_bytes(&head).unwrap();
        let mut rest = vec![0; header.rest_len()];
        link.read_exact(&mut rest).unwrap();
        match Message::read(&header, header.kind.unwrap(), &rest).unwrap() {
            Message::KeepAlive => {}
            message => return message,
        }
    }
}
