//! Streams in QEMU's format that no honest QEMU sends, through the whole receiver. Whatever the
//! bytes, there is an error or exactly the RAM that a model has which applies one record after the
//! other; never a panic, never a hang, never a touched OUTPUT.

mod link;
mod output;
mod streams;

use std::io::Write;
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::mpsc;

use ramferry::control::ReceiveBuilder;
use ramferry::page::{PAGE_SIZE, PageIndex};
use ramferry::transport::Address;
use ramferry::wire::BlockInfo;
use ramferry::wire::qemu::{
    MAX_COMPRESSED, RecordWriter, SectionKind, put_end_of_stream, put_header, put_section,
    put_section_end, put_start,
};
use ramferry::{Error, Migration, Params};

use crate::support::{Dice, Folder, Page, params, unix};

const ID: u32 = 2;

/// How a page is sent.
#[derive(Debug, Clone)]
enum Sent {
    /// A zero record with this byte.
    Fill(u8),
    Page(Page),
    Compressed(Page),
    /// A delta of random runs.
    Delta(u64),
}

impl Sent {
    fn any(dice: &mut Dice) -> Sent {
        let seed = dice.next();
        let page = match dice.below(4) {
            0 => Page::Zero,
            1 => Page::Fill(seed as u8),
            2 => Page::Text(seed),
            _ => Page::Random(seed),
        };
        match dice.below(6) {
            0 => Sent::Fill(0),
            1 => Sent::Fill(seed as u8),
            2 => Sent::Page(page),
            3 => Sent::Compressed(page),
            _ => Sent::Delta(seed),
        }
    }
}

/// A stream that is being written, and the RAM after it.
struct Model {
    blocks: Vec<BlockInfo>,
    ram: Vec<Vec<u8>>,
    stream: Vec<u8>,
    current: Option<usize>,
}

impl Model {
    /// Up to and with the START section.
    fn new(blocks: &[(&str, u64)]) -> Model {
        let blocks: Vec<BlockInfo> = blocks
            .iter()
            .map(|(name, pages)| BlockInfo {
                name: (*name).to_owned(),
                bytes: pages * PAGE_SIZE as u64,
            })
            .collect();
        let mut stream = Vec::new();
        put_header(&mut stream, "none", &[]);
        put_start(&mut stream, ID, &blocks);
        Model {
            // What is never sent takes no memory here either.
            ram: blocks
                .iter()
                .map(|block| vec![0; block.bytes.min(1 << 30) as usize])
                .collect(),
            blocks,
            stream,
            current: None,
        }
    }

    fn begin(&mut self, kind: SectionKind) {
        put_section(&mut self.stream, kind, ID);
    }

    fn end(&mut self) {
        put_section_end(&mut self.stream, ID);
    }

    /// A record as it is, whatever becomes of its page.
    fn raw(&mut self, block: usize, page: u64, kind: &str, payload: &[u8]) {
        let mut writer = RecordWriter::new(&self.blocks[block].name);
        if self.current.replace(block) == Some(block) {
            writer.zero(&mut Vec::new(), PageIndex(0));
        }
        let (out, page) = (&mut self.stream, PageIndex(page));
        match kind {
            "zero" => {
                writer.zero(out, page);
                *out.last_mut().unwrap() = payload[0];
            }
            "page" => writer.page(out, page, payload),
            "compressed" => writer.compressed(out, page, payload),
            _ => writer.xbzrle(out, page, payload),
        }
    }

    fn put(&mut self, block: usize, page: u64, sent: &Sent) {
        let at = page as usize * PAGE_SIZE;
        match sent {
            Sent::Fill(byte) => {
                self.raw(block, page, "zero", &[*byte]);
                self.ram[block][at..at + PAGE_SIZE].fill(*byte);
            }
            Sent::Page(content) => {
                let bytes = content.bytes();
                self.raw(block, page, "page", &bytes);
                self.ram[block][at..at + PAGE_SIZE].copy_from_slice(&bytes);
            }
            Sent::Compressed(content) => {
                let bytes = content.bytes();
                match zlib(&bytes) {
                    body if body.len() <= MAX_COMPRESSED => {
                        self.raw(block, page, "compressed", &body);
                    }
                    _ => self.raw(block, page, "page", &bytes),
                }
                self.ram[block][at..at + PAGE_SIZE].copy_from_slice(&bytes);
            }
            Sent::Delta(seed) => {
                let delta = delta(*seed, &mut self.ram[block][at..at + PAGE_SIZE]);
                self.raw(block, page, "delta", &delta);
            }
        }
    }

    /// An END section without pages, and no devices.
    fn finish(&mut self) {
        self.begin(SectionKind::End);
        self.end();
        put_end_of_stream(&mut self.stream);
    }

    /// As a guest's files are to be.
    fn expected(&self) -> Vec<(String, Vec<u8>)> {
        let names = self.blocks.iter().map(|block| block.name.clone());
        names.zip(self.ram.iter().cloned()).collect()
    }

    /// One section with whatever `fill` puts there, and a proper end.
    fn with(blocks: &[(&str, u64)], fill: impl FnOnce(&mut Model)) -> Model {
        let mut model = Model::new(blocks);
        model.begin(SectionKind::Part);
        fill(&mut model);
        model.end();
        model.finish();
        model
    }
}

fn zlib(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::ZlibEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

/// Changes a page in random runs and returns the delta that says so.
fn delta(seed: u64, page: &mut [u8]) -> Vec<u8> {
    let mut dice = Dice::new(seed);
    let mut delta = Vec::new();
    let put_length = |delta: &mut Vec<u8>, length: usize| {
        if length >= 0x80 {
            delta.extend([(length & 0x7f | 0x80) as u8, (length >> 7) as u8]);
        } else {
            delta.push(length as u8);
        }
    };
    let mut at = dice.below(300) as usize;
    let mut same = at;
    loop {
        let changed = 1 + dice.below(40) as usize;
        if at + changed > PAGE_SIZE || delta.len() + changed + 4 > PAGE_SIZE {
            return delta;
        }
        put_length(&mut delta, same);
        put_length(&mut delta, changed);
        for byte in &mut page[at..at + changed] {
            *byte = dice.next() as u8;
            delta.push(*byte);
        }
        same = 1 + dice.below(900) as usize;
        at += changed + same;
    }
}

/// Devices' sections, the end and a description, as long as it says it is.
fn devices() -> Vec<u8> {
    let mut out = Vec::new();
    for (id, name) in [(0_u32, "timer"), (5, "0000:00:01.0/fdc")] {
        out.push(4);
        out.extend(id.to_be_bytes());
        out.push(name.len() as u8);
        out.extend(name.as_bytes());
        out.extend([0, 0, 0, 0, 0, 0, 0, 2]);
        out.extend([0xaa; 20]);
        out.push(0x7e);
        out.extend(id.to_be_bytes());
    }
    put_end_of_stream(&mut out);
    out
}

/// A request to replace OUTPUT by what comes.
fn request(address: &Address, output: &Path) -> ReceiveBuilder {
    Migration::receive(output).from(address.clone()).force(true)
}

/// What a guest folder's blocks hold: the test's own way from a name to a file.
fn blocks_of(output: &Path, names: &[String]) -> Vec<(String, Vec<u8>)> {
    let guest = ramferry::image::Guest::open(output).unwrap();
    let found: Vec<&str> = guest.blocks().iter().map(|block| block.name()).collect();
    assert_eq!(found, names);
    names
        .iter()
        .map(|name| {
            let plain = |byte: &u8| byte.is_ascii_alphanumeric() || b"_@-.".contains(byte);
            let file: String = name
                .bytes()
                .map(|byte| match plain(&byte) {
                    true => char::from(byte).to_string(),
                    false => format!("%{byte:02X}"),
                })
                .collect();
            let bytes = std::fs::read(output.join(file)).unwrap();
            (name.clone(), bytes)
        })
        .collect()
}

/// How bytes come to the receiver.
#[derive(Debug, Clone, Copy)]
enum Way {
    File,
    /// Over a socket, in pieces of at most this size.
    Pieces(u64),
}

/// Receives a stream into `out`, where an older guest may be, and checks what must hold whatever
/// the stream: that OUTPUT is new only if all went well, and that nothing else is left.
fn receive_in(
    folder: &Folder,
    stream: &[u8],
    way: Way,
    threads: &str,
) -> Result<Vec<(String, Vec<u8>)>, Error> {
    let output = folder.path("out");
    let old = snapshot(&output);
    let params = params(&[("decompress-threads", threads), ("accept-timeout", "0.2")]);
    let outcome = match way {
        Way::File => {
            let stored = folder.path("stream");
            std::fs::write(&stored, stream).unwrap();
            let request = request(&Address::File(stored), &output);
            request.params(params).start().unwrap().wait()
        }
        Way::Pieces(most) => {
            let handle = listen(&folder.path("socket"), &output, params);
            let mut link = UnixStream::connect(folder.path("socket")).unwrap();
            let mut dice = Dice::new(most ^ stream.len() as u64);
            let mut rest = stream;
            while !rest.is_empty() {
                let len = (1 + dice.below(most)).min(rest.len() as u64) as usize;
                // Who has seen enough hangs up.
                if link.write_all(&rest[..len]).is_err() {
                    break;
                }
                rest = &rest[len..];
            }
            let _ = link.shutdown(Shutdown::Write);
            handle.wait()
        }
    };
    assert!(!folder.path("out.partial").exists(), "a partial is left");
    match outcome {
        Ok(_) => {
            let guest = ramferry::image::Guest::open(&output).unwrap();
            let names: Vec<String> = guest
                .blocks()
                .iter()
                .map(|block| block.name().to_owned())
                .collect();
            Ok(blocks_of(&output, &names))
        }
        Err(error) => {
            let line = error.one_line();
            assert!(snapshot(&output) == old, "OUTPUT was touched: {line}");
            assert!(!line.contains("panicked"), "{line}");
            assert!(!line.contains(char::is_control), "{line:?}");
            Err(error)
        }
    }
}

fn receive(stream: &[u8]) -> Result<Vec<(String, Vec<u8>)>, Error> {
    receive_in(&Folder::in_memory(), stream, Way::File, "2")
}

/// A receiver on a unix socket, once it listens.
fn listen(socket: &Path, output: &Path, params: Params) -> Migration {
    let (told, listening) = mpsc::channel();
    let handle = request(&unix(socket), output)
        .params(params)
        .on_listening(move |_| told.send(()).unwrap_or_default())
        .start()
        .unwrap();
    listening.recv().expect("it listens");
    handle
}

/// All that is at a path, by name.
fn snapshot(path: &Path) -> Option<Vec<(std::ffi::OsString, Vec<u8>)>> {
    let mut files: Vec<_> = std::fs::read_dir(path)
        .ok()?
        .map(|entry| {
            let entry = entry.unwrap();
            (entry.file_name(), std::fs::read(entry.path()).unwrap())
        })
        .collect();
    files.sort();
    Some(files)
}

/// Compares without printing megabytes.
#[track_caller]
fn assert_same_guest(found: &[(String, Vec<u8>)], expected: &[(String, Vec<u8>)]) {
    assert_eq!(found.len(), expected.len());
    for (found, expected) in found.iter().zip(expected) {
        assert_eq!(found.0, expected.0);
        crate::support::assert_same_bytes(&found.1, &expected.1);
    }
}

/// Asserts that a stream fails with words that contain `what`.
#[track_caller]
fn refuses(stream: &[u8], what: &str) {
    let line = receive(stream).expect_err(what).one_line();
    assert!(line.contains(what), "{what:?} is not in {line:?}");
}
