//! Whole commands: a destination, a source, and `inspect`.

use std::io::Write;
use std::net::Shutdown;
use std::os::fd::{AsFd, IntoRawFd};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::{Duration, Instant};

use rustix::io::FdFlags;
use serde_json::Value;

use crate::control::job_info::JobInfo;
use crate::error::{Error, Result};
use crate::image::Guest;
use crate::page::{PAGE_SIZE, PageIndex};
use crate::params::Params;
use crate::partial::partial_path;
use crate::qmp::Client;
use crate::stats::Report;
use crate::transport::Address;
use crate::wire::Format;
use crate::{Migration, inspect as inspecting};

use super::model::Model;
use super::native;

/// More than this does not fit into a socket at once.
const MOST_SOCKET: usize = 96 << 10;
/// Pages of the image that is sent.
const IMAGE_PAGES: usize = 8;

/// A native stream, from a file or, if the first byte is odd, from a socket that is answered on. What
/// is accepted is what the model holds.
pub(super) fn receive_native(data: &[u8], folder: &Path) -> bool {
    let Some((options, stream)) = data.split_first() else {
        return false;
    };
    let sealed = native::seal_stream(stream);
    receive(*options, &sealed.bytes, folder, || sealed.model)
}

/// As [`receive_native`], for a QEMU's stream.
pub(super) fn receive_qemu(data: &[u8], folder: &Path) -> bool {
    let Some((options, stream)) = data.split_first() else {
        return false;
    };
    receive(*options, stream, folder, || {
        Some(Model::of_qemu_stream(stream)?.0)
    })
}

/// Receives, and checks what must hold whatever the stream. `model` is asked only if it was accepted.
fn receive(
    options: u8,
    stream: &[u8],
    folder: &Path,
    model: impl FnOnce() -> Option<Model>,
) -> bool {
    let (stored, output) = (folder.join("stream"), folder.join("out"));
    let outcome = if options & 1 == 1 && stream.len() <= MOST_SOCKET {
        let (_peer, address) = said(stream);
        receive_from(address, &output)
    } else {
        std::fs::write(&stored, stream).expect("the folder can be written");
        receive_from(Address::File(stored), &output)
    };
    assert!(!partial_path(&output).exists(), "a partial output is left");
    if accepted(outcome).is_none() {
        assert!(!output.exists(), "a failed migration made an output");
        return false;
    }
    let guest = Guest::open_as(&output, crate::image::ImageFormat::Raw).expect("the output");
    // Larger guests than the model's are accepted, but not compared.
    if guest.pages() <= super::model::MOST_PAGES {
        compare(&guest, &model().expect("what is accepted makes sense"));
    }
    drop(guest);
    let removed = if output.is_dir() {
        std::fs::remove_dir_all(&output)
    } else {
        std::fs::remove_file(&output)
    };
    removed.expect("the output is removed");
    true
}

fn receive_from(address: Address, output: &Path) -> Result<Report> {
    let params = Params {
        decompress_threads: 1,
        ..Params::default()
    };
    Migration::receive(output)
        .from(address)
        .params(params)
        .sync(false)
        .start()?
        .wait()
}

fn compare(guest: &Guest, model: &Model) {
    assert_eq!(guest.blocks().len(), model.blocks.len());
    for (block, expected) in guest.blocks().iter().zip(&model.blocks) {
        assert_eq!(block.bytes(), expected.ram.len() as u64);
        let mut page = [0; PAGE_SIZE];
        for (index, bytes) in (0..).zip(expected.ram.chunks_exact(PAGE_SIZE)) {
            block.read(PageIndex(index), &mut page).expect("a page");
            assert!(page == bytes, "page {index} of '{}' differs", expected.name);
        }
    }
}

/// The outcome, unless it is an error; a worker's panic is one that no input may cause.
fn accepted(outcome: Result<Report, Error>) -> Option<Report> {
    outcome
        .inspect_err(|error| {
            let line = error.one_line();
            assert!(!line.contains("panicked"), "{line}");
            assert!(!line.contains('\n'), "{line}");
        })
        .ok()
}

/// A peer that has said all this and says no more, and the other end's address. The peer never reads,
/// but it must be there while the other end writes.
fn said(bytes: &[u8]) -> (UnixStream, Address) {
    let (peer, ours) = pair(bytes);
    rustix::io::fcntl_setfd(ours.as_fd(), FdFlags::empty()).expect("it is open");
    (peer, Address::Fd(ours.into_raw_fd()))
}

fn pair(bytes: &[u8]) -> (UnixStream, UnixStream) {
    let (mut peer, ours) = UnixStream::pair().expect("a pair of sockets");
    peer.set_nonblocking(true).expect("it is open");
    peer.write_all(bytes).expect("it fits");
    peer.shutdown(Shutdown::Write).expect("it is open");
    (peer, ours)
}

/// What a destination says to a source. The first byte chooses the wire. The source must not believe
/// that a guest has been taken over of which the destination did not name the digest.
pub(super) fn send(data: &[u8], folder: &Path) -> bool {
    let Some((options, answers)) = data.split_first() else {
        return false;
    };
    let image = folder.join("image");
    if !image.exists() {
        std::fs::write(&image, image_bytes()).expect("the folder can be written");
    }
    let (format, answers) = match options & 1 {
        0 => (Format::Native, native::seal_answers(answers)),
        _ => (Format::Qemu, answers.to_vec()),
    };
    if answers.len() > MOST_SOCKET {
        return false;
    }
    let (_peer, address) = said(&answers);
    let migration = Migration::send(&image).to(address).format(format);
    let outcome = migration.start().and_then(|migration| migration.wait());
    let Some(report) = accepted(outcome) else {
        return false;
    };
    if format == Format::Native {
        let digest = report.digest.expect("it was proven").0.to_le_bytes();
        assert!(answers.windows(16).any(|bytes| bytes == digest));
    }
    true
}

/// The image that is sent: text, zeros, and what looks random.
pub(super) fn image_bytes() -> Vec<u8> {
    let mut bytes = vec![0; IMAGE_PAGES * PAGE_SIZE];
    for (at, byte) in bytes.iter_mut().enumerate() {
        *byte = match at / PAGE_SIZE % 4 {
            0 => 0,
            1 => (at / 9) as u8,
            2 => (at as u32).wrapping_mul(0x9e37_79b9).to_be_bytes()[0],
            _ => b'a',
        };
    }
    bytes
}

/// What another program's monitor says to our client, which asks for two things. Its words are printed
/// on terminals.
pub(super) fn monitor_client(data: &[u8], _: &Path) -> bool {
    if data.len() > MOST_SOCKET {
        return false;
    }
    let (_peer, ours) = pair(data);
    let mut client = match Client::over(ours, "a monitor", Duration::from_secs(5)) {
        Ok(client) => client,
        Err(error) => {
            assert!(!error.to_string().contains(char::is_control));
            return false;
        }
    };
    assert!(!client.greeting().product().contains(char::is_control));
    let now = Instant::now();
    for command in ["query-migrate", "query-status"] {
        match client.execute(command, &Value::Null) {
            Ok(reply) => drop(JobInfo::new(&reply, None).raw()),
            Err(error) => assert!(!error.to_string().contains(char::is_control)),
        }
        while let Ok(Some(event)) = client.wait_event(now) {
            let _ = event.migration_status().map(str::len);
        }
    }
    true
}

/// A file of any bytes is described, or refused with a reason.
pub(super) fn inspect(data: &[u8], folder: &Path) -> bool {
    let path = folder.join("file");
    std::fs::write(&path, data).expect("the folder can be written");
    let Ok(report) = inspecting::inspect(&path, &|_, _| {}) else {
        return false;
    };
    assert!(report.bytes >= data.len() as u64);
    serde_json::to_string(&report).expect("a report is JSON");
    #[cfg(feature = "cli")]
    assert!(!crate::cli::inspect_text(&report).contains('\x1b'));
    report.damage.is_none()
}
