//! Records, one at a time. What is read can be written, and is then read as the same.

use std::path::Path;

use crate::page::PAGE_SIZE;
use crate::wire::native::{
    Answer, HEADER_LEN, HELLO_HEAD_LEN, Header, Hello, HelloHead, MAX_BODY, MAX_HELLO,
    MAX_PAGE_SET, Message, PageSet,
};
use crate::wire::qemu::{Element, MAX_ELEMENT, Parser, StreamError, return_path, tail};

use super::native;

/// The most pages of a block: 1 PiB.
const MOST_PAGES: u64 = 1 << 38;

/// A hello and an answer: what is read is within its bounds, and survives being written.
pub(super) fn hello(data: &[u8], _: &Path) -> bool {
    let data = native::seal_greeting(data);
    let Some((head, rest)) = data.split_first_chunk::<HELLO_HEAD_LEN>() else {
        return false;
    };
    let mut accepted = false;
    if let Ok(head) = HelloHead::of_hello(*head) {
        assert!(head.rest_len() <= MAX_HELLO + 8);
        if let Ok(hello) = Hello::read(&head, rest) {
            let bytes = hello.to_bytes();
            let (head, rest) = bytes.split_first_chunk().expect("a head");
            let head = HelloHead::of_hello(*head).expect("a hello of ours");
            assert_eq!(Hello::read(&head, rest), Ok(hello));
            accepted = true;
        }
    }
    if let Ok(head) = HelloHead::of_answer(*head)
        && let Ok(answer) = Answer::read(&head, rest)
    {
        let bytes = answer.to_bytes();
        let (head, rest) = bytes.split_first_chunk().expect("a head");
        let head = HelloHead::of_answer(*head).expect("an answer of ours");
        assert_eq!(Answer::read(&head, rest), Ok(answer));
        accepted = true;
    }
    accepted
}

/// A frame's header: what it announces is bounded, and it is written as it was.
pub(super) fn frame(data: &[u8], _: &Path) -> bool {
    let Some((bytes, _)) = data.split_first_chunk::<HEADER_LEN>() else {
        return false;
    };
    let Ok(header) = Header::from_bytes(bytes) else {
        return false;
    };
    assert!(header.rest_len() <= MAX_PAGE_SET + MAX_BODY);
    assert!(header.decoded_len as usize <= MAX_BODY);
    if header.kind.is_some() {
        assert_eq!(header.to_bytes(), *bytes);
    }
    true
}

/// A page set: its runs ascend within the block, and it survives being written.
pub(super) fn page_set(data: &[u8], _: &Path) -> bool {
    let Some((pages, bytes)) = data.split_first_chunk() else {
        return false;
    };
    let pages = u64::from_le_bytes(*pages) % MOST_PAGES + 1;
    let mut set = PageSet::default();
    if set.read(bytes, pages).is_err() {
        return false;
    }
    let mut at = 0;
    for run in set.runs() {
        assert!(at <= run.range.start.0 && run.range.count > 0);
        at = run.range.end();
    }
    assert!(at <= pages && set.pages() <= pages);
    let mut written = Vec::new();
    set.write(&mut written);
    let mut again = PageSet::default();
    again.read(&written, pages).expect("it was read before");
    assert_eq!(again, set);
    true
}

/// A message: it survives being written. Frames follow one another in the input.
pub(super) fn message(data: &[u8], _: &Path) -> bool {
    let sealed = native::seal_frames(data);
    let (mut rest, mut accepted) = (&sealed[..], false);
    while let Some((head, after)) = rest.split_first_chunk::<HEADER_LEN>()
        && let Ok(header) = Header::from_bytes(head)
        && let Some((body, next)) = after.split_at_checked(header.rest_len())
    {
        rest = next;
        let Some(kind) = header.kind else { continue };
        if let Ok(message) = Message::read(&header, kind, body) {
            assert_eq!(message.kind(), kind);
            let bytes = message.to_bytes();
            let (head, body) = bytes.split_first_chunk().expect("a header");
            let header = Header::from_bytes(head).expect("a header of ours");
            assert_eq!(Message::read(&header, kind, body), Ok(message));
            accepted = true;
        }
    }
    accepted
}

/// A QEMU destination's answers.
pub(super) fn return_path(data: &[u8], _: &Path) -> bool {
    let (mut rest, mut accepted) = (data, false);
    while let Some((head, after)) = rest.split_first_chunk()
        && let Ok(len) = return_path::payload_len(*head)
        && let Some((payload, next)) = after.split_at_checked(len)
    {
        rest = next;
        if let Ok(reply) = return_path::read(*head, payload) {
            let bytes = reply.to_bytes();
            let (head, payload) = bytes.split_first_chunk().expect("a head");
            assert_eq!(return_path::payload_len(*head), Ok(payload.len()));
            assert_eq!(return_path::read(*head, payload), Ok(reply));
            accepted = true;
        }
    }
    accepted
}

/// The devices after the RAM of a QEMU's stream: what is found is within them.
pub(super) fn tail(data: &[u8], _: &Path) -> bool {
    let found = tail::sections(data);
    assert_eq!(found.complete, tail::is_complete(data));
    assert_eq!(found.description.is_some(), tail::has_description(data));
    let text = match &found.description {
        Some(text) => data.get(text.clone()).expect("it is in the tail").len(),
        None => 0,
    };
    let state: u64 = found.sections.iter().map(|section| section.bytes).sum();
    assert!(state + text as u64 <= data.len() as u64);
    found.complete
}

/// A QEMU's stream up to its devices: read byte by byte it is the same, an element is never longer
/// than promised, and every page is within its block.
pub(super) fn qemu_parser(data: &[u8], _: &Path) -> bool {
    let whole = elements(data, usize::MAX);
    assert_eq!(elements(data, 1), whole, "in pieces it is the same");
    let (parsed, ended, blocks) = whole;
    for (element, _) in parsed {
        if let Element::Record(record) = element {
            let bytes = blocks[usize::from(record.block)];
            assert!(record.page.offset() + PAGE_SIZE as u64 <= bytes);
        }
    }
    ended.is_ok()
}

/// Elements and their lengths, how it ended, and the lengths of the blocks.
type Parsed = (Vec<(Element, usize)>, Result<(), StreamError>, Vec<u64>);

/// Parses bytes of which `step` more are seen whenever those that are seen do not suffice.
fn elements(data: &[u8], step: usize) -> Parsed {
    let mut parser = Parser::new();
    let (mut parsed, mut start, mut seen) = (Vec::new(), 0, 0);
    let ended = loop {
        match parser.next(&data[start..seen]) {
            Ok(Some((Element::Tail, len))) => {
                parsed.push((Element::Tail, len));
                break Ok(());
            }
            Ok(Some((element, len))) => {
                assert!(len > 0 && start + len <= seen);
                parsed.push((element, len));
                start += len;
                assert_eq!(parser.offset(), start as u64);
            }
            Ok(None) if seen == data.len() => break Ok(()),
            Ok(None) => {
                assert!(
                    seen - start < MAX_ELEMENT,
                    "an element is longer than promised"
                );
                seen = seen.saturating_add(step).min(data.len());
            }
            Err(error) => break Err(error),
        }
    };
    let blocks = parser.blocks().iter().map(|block| block.bytes).collect();
    (parsed, ended, blocks)
}
