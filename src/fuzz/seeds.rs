//! Inputs to begin with: from `fixtures/`, made by hand, and those that earlier runs found.
//!
//! `fuzz/corpus/NAME.bin` is a target's corpus in one file: for each input a u32 length, little
//! endian, and its bytes. `fuzz/run.sh` writes it, minimised.

use std::path::{Path, PathBuf};

use bytes::BufMut;

use crate::codec::{self, CodecSettings, Encoded, Method, ZlibEngine};
use crate::delta::{self, Delta};
use crate::description::Description;
use crate::image::folder::GuestJson;
use crate::page::{BlockSeed, Digest, PAGE_SIZE, PageIndex};
use crate::params::TABLE;
use crate::wire::BlockInfo;
use crate::wire::native::{ANSWER_MAGIC, HELLO_MAGIC, Message, Reason};
use crate::wire::qemu::return_path::Reply;
use crate::wire::qemu::{self, RecordWriter, SectionKind};

use super::{native, whole};

fn folder(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(name)
}

/// The stored corpus of a target. None is not an error: a package is without them.
///
/// # Errors
/// A file that is cut.
pub fn corpus(name: &str) -> Result<Vec<Vec<u8>>, String> {
    let path = folder("fuzz/corpus").join(name).with_extension("bin");
    let Ok(stored) = std::fs::read(&path) else {
        return Ok(Vec::new());
    };
    unpacked(&stored).ok_or_else(|| format!("{} is cut", path.display()))
}

/// The inputs of a corpus in one file; `None` if it is cut.
pub fn unpacked(mut bytes: &[u8]) -> Option<Vec<Vec<u8>>> {
    let mut inputs = Vec::new();
    while !bytes.is_empty() {
        let (len, rest) = bytes.split_first_chunk()?;
        let (input, rest) = rest.split_at_checked(u32::from_le_bytes(*len) as usize)?;
        inputs.push(input.to_vec());
        bytes = rest;
    }
    Some(inputs)
}

/// The reverse of [`unpacked`].
pub fn packed(inputs: &[Vec<u8>]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for input in inputs {
        bytes.put_u32_le(input.len() as u32);
        bytes.extend_from_slice(input);
    }
    bytes
}

/// The fixtures of a folder, by their names: hexadecimal, `ab*4096` repeats a byte, `#` begins a
/// comment.
fn fixtures(of: &str) -> Vec<(String, Vec<u8>)> {
    let Ok(entries) = std::fs::read_dir(folder("fixtures").join(of)) else {
        return Vec::new();
    };
    let mut paths: Vec<PathBuf> = entries.flatten().map(|entry| entry.path()).collect();
    paths.sort();
    paths
        .iter()
        .filter_map(|path| {
            let name = path.file_stem()?.to_str()?.to_owned();
            Some((name, unhex(&std::fs::read_to_string(path).ok()?)?))
        })
        .collect()
}

fn unhex(text: &str) -> Option<Vec<u8>> {
    let mut bytes = Vec::new();
    let lines = text.lines().filter_map(|line| line.split('#').next());
    for word in lines.flat_map(str::split_whitespace) {
        let (word, count) = match word.split_once('*') {
            Some((word, count)) => (word, count.parse().ok()?),
            None => (word, 1),
        };
        let (pairs, _) = word.as_bytes().as_chunks::<2>();
        let made = pairs
            .iter()
            .map(|pair| u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok())
            .collect::<Option<Vec<u8>>>()?;
        bytes.extend(made.repeat(count));
    }
    Some(bytes)
}

/// The native fixtures for which `wanted` holds of their name.
fn native_fixtures(wanted: impl Fn(&str) -> bool) -> Vec<Vec<u8>> {
    let fixtures = fixtures("native").into_iter();
    fixtures
        .filter(|(name, _)| wanted(name))
        .map(|(_, bytes)| bytes)
        .collect()
}

/// Hellos and answers, of all versions.
pub(super) fn greetings() -> Vec<Vec<u8>> {
    let mut all = native_fixtures(|name| {
        ["hello", "answer", "refusal", "probed"]
            .iter()
            .any(|part| name.contains(part))
    });
    let unsealed: Vec<Vec<u8>> = all
        .iter()
        .filter_map(|greeting| greeting.split_last_chunk::<8>())
        .map(|(content, _)| [content, &[0; 8]].concat())
        .collect();
    all.extend(unsealed);
    all
}

/// Frames of all kinds.
pub(super) fn frames() -> Vec<Vec<u8>> {
    let mut all = native_fixtures(|name| !name.contains("stream") && name != "pages");
    all.push(
        Message::Failure {
            reason: Reason::Refused,
            text: "it is full".to_owned(),
        }
        .to_bytes(),
    );
    all
}

pub(super) fn page_sets() -> Vec<Vec<u8>> {
    let sets: [&[u8]; 4] = [
        &[0, 0b101, 0, 0b000, 0xa9, 0x02, 0b010],
        &[0, 0b11],
        &[0x80, 0x80, 0x80, 0x01, 0xfc, 0x07],
        &[],
    ];
    let sized = |set: &[u8]| [&0x1000_u64.to_le_bytes(), set].concat();
    sets.into_iter().map(sized).collect()
}

pub(super) fn replies() -> Vec<Vec<u8>> {
    let replies = [Reply::Pong(7), Reply::SwitchoverAck, Reply::Shut(0)];
    let mut all: Vec<Vec<u8>> = replies.map(Reply::to_bytes).into();
    all.push(all.concat());
    all
}

/// A QEMU's stream ends with one of these.
pub(super) fn tails() -> Vec<Vec<u8>> {
    let mut devices = Vec::new();
    for (id, name) in [(3, "timer"), (4, "0000:00:02.0/vga")] {
        devices.put_u8(4);
        devices.put_u32(id);
        devices.put_u8(name.len() as u8);
        devices.extend_from_slice(name.as_bytes());
        devices.put_u64(u64::from(id) << 32 | 2);
        devices.extend_from_slice(b"the state of a device");
        devices.put_u8(0x7e);
        devices.put_u32(id);
    }
    let text = br#"{"devices":[{"name":"timer","instance_id":3},{"name":"0000:00:02.0/vga","instance_id":4}]}"#;
    let mut described = devices.clone();
    described.extend_from_slice(&[0, 6]);
    described.put_u32(text.len() as u32);
    described.extend_from_slice(text);
    devices.push(0);
    let mut all = vec![described, devices];
    all.extend(
        qemu_streams()
            .into_iter()
            .filter(|stream| stream.len() < 600),
    );
    all
}

pub(super) fn deltas() -> Vec<Vec<u8>> {
    let old = [0; PAGE_SIZE];
    let mut new = old;
    new[10..14].copy_from_slice(b"some");
    new[4000..4090].fill(1);
    let mut out = [0; PAGE_SIZE];
    let mut all = vec![b"\x20\x01\x04fourand".to_vec()];
    if let Delta::Encoded(len) = delta::encode(&old, &new, &mut out) {
        all.push(out[..len].to_vec());
    }
    all
}

/// Bodies of all methods.
pub(super) fn bodies() -> Vec<Vec<u8>> {
    let plain = whole::image_bytes();
    let plain = &plain[PAGE_SIZE / 2..PAGE_SIZE * 5 / 2];
    let mut all = Vec::new();
    for method in Method::ALL {
        let settings = CodecSettings {
            method,
            level: 1,
            zlib_engine: ZlibEngine::Libdeflate,
        };
        let mut body = vec![0; 2 * plain.len()];
        let encoded = codec::encoder(settings).map(|mut encoder| encoder.encode(plain, &mut body));
        if let Ok(Ok(Encoded::Done(len))) = encoded {
            body.truncate(len);
            let [low, high] = (plain.len() as u16).to_le_bytes();
            all.push([&[method as u8, 1, low, high], &body[..]].concat());
        }
        all.push([&[method as u8, 0x81, 64, 0], &plain[PAGE_SIZE / 2..][..64]].concat());
    }
    all
}

/// What clients say to a monitor.
pub(super) fn commands() -> Vec<Vec<u8>> {
    let texts: [&[u8]; 6] = [
        b"{\"execute\":\"qmp_capabilities\"}\r\n{'execute': 'query-migrate', 'id': [1, -2.5e3, null]}\n",
        b"{\"execute\":\"migrate-set-parameters\",\"arguments\":{\"max-bandwidth\":1048576,\"compress-level\":1}}",
        b"{\"return\":{\"status\":\"active\",\"ram\":{\"transferred\":1,\"mbps\":0.5,\"total\":18446744073709551615}}}",
        b"\"\\u00e9\\ud83d\\ude00\\n\" 'it''s' [] {} truefalse 1.0E+9 \xff \xfe{\"a\":tru}",
        b"[[[[{\"a\":[{}]}]]]], :}",
        b"{\"x\":\"\\ud800\"}\n\x00{\"x\": 99999999999999999999, \"x\": 1e999}",
    ];
    texts.map(<[u8]>::to_vec).into()
}

/// What a monitor says to a client.
pub(super) fn dialogues() -> Vec<Vec<u8>> {
    let greeting = |capabilities: &str| {
        let version =
            r#"{"qemu": {"micro": 1, "minor": 2, "major": 7}, "package": "Debian 1:7.2"}"#;
        format!("{{\"QMP\": {{\"version\": {version}, \"capabilities\": [{capabilities}]}}}}\r\n")
    };
    let answers = [
        r#"{"return": {}, "id": "ramferry-1"}"#,
        r#"{"timestamp": {"seconds": 1, "microseconds": 2}, "event": "MIGRATION", "data": {"status": "active"}}"#,
        r#"{"return": {"status": "active", "ram": {"transferred": 1, "mbps": 0.5}}, "id": "ramferry-2"}"#,
        r#"{"id": "ramferry-3", "error": {"class": "GenericError", "desc": "no"}}"#,
    ];
    let answers = answers.join("\r\n");
    vec![
        format!("{}{answers}\r\n", greeting("\"oob\"")).into_bytes(),
        format!("{}{{\"return\": {{}}}}\n", greeting("")).into_bytes(),
        b"{\"QMP\": []}\n".to_vec(),
    ]
}

/// What `guest.json` holds.
pub(super) fn descriptions() -> Vec<Vec<u8>> {
    let contents = GuestJson {
        complete: true,
        description: Description {
            machine: "pc-i440fx-7.2".to_owned(),
            configuration: vec![5, 0, 1],
            commands: vec![(11, Vec::new()), (12, vec![1, 2])],
            ram_section_id: 2,
            ..Description::default()
        },
        blocks: vec![
            ("pc.ram".to_owned(), 1 << 20),
            ("0000:00/vga".to_owned(), 4096),
        ],
        digests: vec![Digest(1), Digest(u128::MAX)],
        device_state: (5, 7),
    };
    let partial = GuestJson {
        complete: false,
        ..contents.clone()
    };
    [contents, partial]
        .iter()
        .filter_map(|contents| contents.to_json().ok())
        .collect()
}

/// What is written on a command line.
pub(super) fn words() -> Vec<Vec<u8>> {
    let words = [
        "64MiB",
        "1.5s",
        "0.5 GiB",
        "125MB/s",
        "2.5Gbit/0.5ms",
        "auto",
        "on",
        "zstd:3",
        "250ms",
        "tcp:[::1]:4444",
        "tcp::0",
        "unix:/run/r.sock",
        "file:a b",
        "fd:3",
        "exec:cat >x",
        "18446744073709551615",
        "1e3",
        "-1",
        "0x10",
        "\u{b5}s",
        "15EiB",
        "99999999999999999999.99999h",
    ];
    let allowed = TABLE.iter().map(|row| (row.name.len() + 1).to_string());
    words
        .iter()
        .map(|&word| word.to_owned())
        .chain(allowed)
        .map(String::into_bytes)
        .collect()
}

/// QEMU's streams, whole and damaged.
pub(super) fn qemu_streams() -> Vec<Vec<u8>> {
    fixtures("qemu")
        .into_iter()
        .map(|(_, bytes)| bytes)
        .collect()
}

/// Files for `inspect`: streams of both kinds, images, and the first bytes of other formats.
pub(super) fn files() -> Vec<Vec<u8>> {
    let mut all = qemu_streams();
    all.extend(native_fixtures(|_| true));
    all.push(whole::image_bytes());
    let magics: [&[u8]; 13] = [
        b"LibvirtQemudSave\x02\0\0\0",
        b"LibvirtQemudPart",
        b"QFI\xfb\0\0\0\x03",
        b"\x7fELF\x02\x01\x01",
        b"KDUMP   \x06",
        b"makedumpfile\0\0\0\0",
        b"EMiL\x01\0\0\0",
        b"AVML\x02\0\0\0",
        b"\x1f\x8b\x08",
        b"\x28\xb5\x2f\xfd",
        b"\xfd7zXZ\0",
        b"BZh91AY&SY",
        b"\x11\x22\x33\x44\0\0\0\x01",
    ];
    for magic in magics {
        let mut file = magic.to_vec();
        file.resize(PAGE_SIZE, 0);
        all.push(file);
    }
    all
}

/// [`qemu_streams`] for a destination, with and without answers. Whole ones end with their RAM.
pub(super) fn qemu_sessions() -> Vec<Vec<u8>> {
    let mut all = Vec::new();
    for (name, mut stream) in fixtures("qemu") {
        if name.starts_with("whole") {
            qemu::put_end_of_stream(&mut stream);
        }
        all.extend([0, 1].map(|options| [&[options], &stream[..]].concat()));
    }
    let whole = whole_qemu_stream();
    all.extend([0, 1].map(|options| [&[options], &whole[..]].concat()));
    all
}

/// A stream in which every page comes, one of each kind.
fn whole_qemu_stream() -> Vec<u8> {
    let block = BlockInfo {
        name: "pc.ram".to_owned(),
        bytes: 4 * PAGE_SIZE as u64,
    };
    let mut stream = Vec::new();
    qemu::put_header(&mut stream, "pc-i440fx-7.2", &[]);
    qemu::put_start(&mut stream, 2, std::slice::from_ref(&block));
    qemu::put_section(&mut stream, SectionKind::End, 2);
    let mut records = RecordWriter::new(&block.name);
    for page in [0, 1].map(PageIndex) {
        records.zero(&mut stream, page);
    }
    records.page(&mut stream, PageIndex(2), &[7; PAGE_SIZE]);
    records.xbzrle(&mut stream, PageIndex(1), b"\x0a\x04some");
    let settings = CodecSettings {
        method: Method::Zlib,
        level: 1,
        zlib_engine: ZlibEngine::ZlibRs,
    };
    let mut body = [0; PAGE_SIZE];
    let encoded = codec::encoder(settings).map(|mut zlib| zlib.encode(&[9; PAGE_SIZE], &mut body));
    if let Ok(Ok(Encoded::Done(len))) = encoded {
        records.compressed(&mut stream, PageIndex(3), &body[..len]);
    }
    qemu::put_section_end(&mut stream, 2);
    qemu::put_end_of_stream(&mut stream);
    stream
}

/// Native streams for a destination, to be put in order, with and without answers.
pub(super) fn native_sessions() -> Vec<Vec<u8>> {
    let mut all = Vec::new();
    for stream in native_fixtures(|name| name.starts_with("stream")) {
        let stream = native::unseal(&stream, HELLO_MAGIC);
        let answered = [&stream, &native::unsealed(&Message::Commit)[..]].concat();
        all.push([&[0], &stream[..]].concat());
        all.push([&[1], &answered[..]].concat());
    }
    all
}

/// What a destination says to a source that sends [`whole::image_bytes`].
pub(super) fn answers() -> Vec<Vec<u8>> {
    let mut digest = Digest::default();
    let seed = BlockSeed::new(crate::image::RAW_BLOCK_NAME);
    let image = whole::image_bytes();
    for (index, page) in (0..).zip(image.chunks_exact(PAGE_SIZE)) {
        digest.add(seed.hash_or_zero(PageIndex(index), page));
    }
    let end = [
        Message::KeepAlive,
        Message::Proven { digest },
        Message::Committed,
    ];
    let end = end.iter().flat_map(Message::to_bytes);
    let end: Vec<u8> = end.collect();
    let mut all: Vec<Vec<u8>> = native_fixtures(|name| name.contains("answer"))
        .iter()
        .map(|answer| native::unseal(&[&answer[..], &end].concat(), ANSWER_MAGIC))
        .map(|answers| [&[0], &answers[..]].concat())
        .collect();
    let qemu = |replies: &[Reply]| {
        let replies = replies.iter().flat_map(|reply| reply.to_bytes());
        [1].into_iter().chain(replies).collect()
    };
    all.push(qemu(&[
        Reply::Pong(1),
        Reply::SwitchoverAck,
        Reply::Shut(0),
    ]));
    all.push(qemu(&[Reply::Shut(1)]));
    all
}
