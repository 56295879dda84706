//! Our own ends of a migration with a QEMU, links between the two, and stored streams as the
//! records they have.

use std::collections::BTreeMap;
use std::io::Read;
use std::path::{Path, PathBuf};

use ramferry::control::SendBuilder;
use ramferry::page::{PAGE_SIZE, is_zero};
use ramferry::stats::Report;
use ramferry::transport::Address;
use ramferry::wire::Format;
use ramferry::wire::qemu::{Element, Parser, RecordKind};
use ramferry::{Caps, Error, Migration, Params, Settings};
use serde_json::{Value, json};

use crate::support::qemu::{Binary, Qemu};
use crate::support::{Destination, Folder, Page, any_port, assert_same_bytes, mixed, unix, until};

pub(crate) const MIB: u64 = 1 << 20;

/// 16 MiB: pages of all kinds, and 2 MiB that do not compress.
pub(crate) fn guest_pages() -> Vec<Page> {
    let mut guest = mixed(3584, 7);
    guest.extend((0..512).map(Page::Random));
    guest
}

// ---- links

/// How two ends meet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Link {
    Unix,
    Tcp,
    /// The stream is stored by one end, and read by the other when it is whole.
    Stored,
}

impl Link {
    pub(crate) const ALL: [Link; 3] = [Link::Unix, Link::Tcp, Link::Stored];
}

/// A stream that a command stores.
pub(crate) struct StoredByCommand {
    pub(crate) uri: String,
    path: PathBuf,
}

impl StoredByCommand {
    pub(crate) fn new(folder: &Folder) -> StoredByCommand {
        let path = folder.path("stream");
        let _ = std::fs::remove_file(&path);
        let text = path.display();
        // QEMU says that it has completed before the command has.
        let uri = format!("exec:cat > {text}.part && mv {text}.part {text}");
        StoredByCommand { uri, path }
    }

    /// Waits until the command is done.
    pub(crate) fn wait(&self) -> &Path {
        until(|| self.path.exists());
        &self.path
    }
}

// ---- from a QEMU

/// Listens for a QEMU. The output is replaced if it is there.
pub(crate) fn listen(folder: &Folder, link: Link, output: &Path) -> Destination {
    let address = match link {
        Link::Unix => unix(&folder.path("ours")),
        Link::Tcp => any_port(),
        Link::Stored => panic!("a stored stream has no listener"),
    };
    Destination::start(&address, output, Params::default())
}

/// Receives what a stopped QEMU sends.
#[track_caller]
pub(crate) fn receive(folder: &Folder, source: &mut Qemu, link: Link, output: &Path) -> Report {
    if link == Link::Stored {
        let stored = StoredByCommand::new(folder);
        source.migrate(&stored.uri);
        assert_eq!(source.wait_migration(), "completed", "{link:?}");
        return receive_stored(stored.wait(), output);
    }
    let destination = listen(folder, link, output);
    source.migrate(&destination.address().to_string());
    assert_eq!(source.wait_migration(), "completed", "{link:?}");
    let report = destination.handle.wait();
    report.unwrap_or_else(|error| panic!("{link:?}: {}", error.one_line()))
}

#[track_caller]
pub(crate) fn receive_stored(stored: &Path, output: &Path) -> Report {
    let address = Address::File(stored.to_owned());
    let destination = Destination::start(&address, output, Params::default());
    let report = destination.handle.wait();
    report.unwrap_or_else(|error| panic!("{address}: {}", error.one_line()))
}

/// The guest folder of a QEMU whose RAM is this image.
#[track_caller]
pub(crate) fn guest_folder(qemu: &Binary, folder: &Folder, image: &Path) -> PathBuf {
    let path = folder.path("guest");
    let mut source = qemu.source(image).start();
    receive(folder, &mut source, Link::Unix, &path);
    path
}

/// The RAM in a guest folder.
pub(crate) fn ram_in(guest: &Path) -> PathBuf {
    guest.join("pc.ram")
}

// ---- to a QEMU

/// What is asked for when a guest goes to a QEMU, with these capabilities on.
pub(crate) fn request(guest: &Path, to: Address, capabilities: &[&str]) -> SendBuilder {
    let mut caps = Caps::for_qemu();
    for name in ["compress", "xbzrle"] {
        caps.set(name, capabilities.contains(&name)).unwrap();
    }
    Migration::send(guest)
        .to(to)
        .format(Format::Qemu)
        .force(true)
        .settings(Settings::new(Params::default(), caps))
}

pub(crate) fn send(request: SendBuilder, params: Params) -> Result<Report, Error> {
    request.params(params).start()?.wait()
}

/// Has a QEMU listen; where.
#[track_caller]
pub(crate) fn listen_in(folder: &Folder, destination: &mut Qemu, link: Link) -> Address {
    match link {
        Link::Unix => {
            let address = unix(&folder.path("theirs"));
            destination.migrate_incoming(&address.to_string());
            address
        }
        Link::Tcp => {
            destination.migrate_incoming("tcp:127.0.0.1:0");
            let now = destination.query_migrate();
            let port = now["socket-address"][0]["port"].as_str();
            let port = port.unwrap_or_else(|| panic!("{now}"));
            format!("tcp:127.0.0.1:{port}").parse().unwrap()
        }
        Link::Stored => panic!("a stored stream has no listener"),
    }
}

/// Has a QEMU load a stored stream.
#[track_caller]
pub(crate) fn load_stored(destination: &mut Qemu, stored: &Path) {
    destination.migrate_incoming(&format!("exec:cat {}", stored.display()));
    assert_eq!(destination.wait_migration(), "completed");
}

/// QEMU's parameters for compression.
pub(crate) fn compression(level: u8, threads: u8) -> Value {
    json!({"compress-level": level, "compress-threads": threads})
}

// ---- stored streams

/// A page in a stream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Sent<'a> {
    pub(crate) block: String,
    pub(crate) page: u64,
    pub(crate) kind: RecordKind,
    pub(crate) payload: &'a [u8],
}

/// All pages of a stream, in its order; `PART` and `END` sections begin rounds of ours.
#[track_caller]
pub(crate) fn pages_of(stream: &[u8]) -> Vec<Vec<Sent<'_>>> {
    let mut parser = Parser::new();
    let mut rest = stream;
    let mut sections: Vec<Vec<Sent<'_>>> = Vec::new();
    loop {
        let (element, len) = parser
            .next(rest)
            .unwrap()
            .unwrap_or_else(|| panic!("the stream ends within {}", parser.expecting()));
        let (bytes, behind) = rest.split_at(len);
        rest = behind;
        match element {
            Element::Section { .. } => sections.push(Vec::new()),
            Element::Record(record) => sections.last_mut().unwrap().push(Sent {
                block: parser.blocks()[usize::from(record.block)].name.clone(),
                page: record.page.0,
                kind: record.kind,
                payload: &bytes[len - usize::from(record.payload)..],
            }),
            Element::Tail => return sections,
            _ => {}
        }
    }
}

/// What the destination of a stream holds.
#[derive(Debug, Default)]
pub(crate) struct Memory {
    pages: BTreeMap<(String, u64), [u8; PAGE_SIZE]>,
}

impl Memory {
    /// Makes the page that was sent: as it was, and as it is now.
    pub(crate) fn apply(&mut self, sent: &Sent<'_>) -> ([u8; PAGE_SIZE], [u8; PAGE_SIZE]) {
        let key = (sent.block.clone(), sent.page);
        let page = self.pages.entry(key).or_insert([0; PAGE_SIZE]);
        let old = *page;
        match sent.kind {
            RecordKind::Zero => page.fill(sent.payload[0]),
            RecordKind::Page => page.copy_from_slice(sent.payload),
            RecordKind::Xbzrle => {
                ramferry::delta::decode(sent.payload, page).unwrap();
            }
            RecordKind::Compressed => {
                let mut inflated = Vec::new();
                flate2::read::ZlibDecoder::new(sent.payload)
                    .read_to_end(&mut inflated)
                    .unwrap();
                page.copy_from_slice(&inflated);
            }
        }
        (old, *page)
    }

    /// Asserts that the guest's RAM is as in the image.
    #[track_caller]
    pub(crate) fn assert_ram(&self, image: &Path) {
        let image = std::fs::read(image).unwrap();
        let mut held = vec![0; image.len()];
        for ((block, page), bytes) in &self.pages {
            if block == "pc.ram" && !is_zero(bytes) {
                let at = *page as usize * PAGE_SIZE;
                held[at..at + PAGE_SIZE].copy_from_slice(bytes);
            }
        }
        assert_same_bytes(&held, &image);
    }
}
