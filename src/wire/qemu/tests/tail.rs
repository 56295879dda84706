//! What can be made out of the devices.

use super::super::put_end_of_stream;
use super::super::tail::{DeviceSection, is_complete, sections};
use proptest::prelude::*;

fn device(id: u32, name: &str, instance: u32, body: &[u8]) -> Vec<u8> {
    let mut out = vec![4];
    out.extend_from_slice(&id.to_be_bytes());
    out.push(name.len() as u8);
    out.extend_from_slice(name.as_bytes());
    out.extend_from_slice(&instance.to_be_bytes());
    out.extend_from_slice(&2_u32.to_be_bytes());
    out.extend_from_slice(body);
    out.push(0x7e);
    out.extend_from_slice(&id.to_be_bytes());
    out
}

fn described(devices: &[Vec<u8>], text: &str) -> Vec<u8> {
    let mut out = devices.concat();
    out.extend_from_slice(&[0, 6]);
    out.extend_from_slice(&(text.len() as u32).to_be_bytes());
    out.extend_from_slice(text.as_bytes());
    out
}

const TEXT: &str = r#"{"page_size": 4096, "devices": [
    {"name": "timer", "instance_id": 0, "vmsd_name": "timer", "version": 2, "fields": [{"size": 8}]},
    {"name": "cpu", "instance_id": 1}]}"#;

fn expected(id: u32, name: &str, instance: u32, bytes: usize) -> DeviceSection {
    DeviceSection {
        id,
        name: name.to_owned(),
        instance,
        version: 2,
        bytes: bytes as u64,
    }
}

#[test]
fn devices_are_found_with_and_without_a_description() {
    let devices = [
        device(0, "timer", 0, b"12345678"),
        device(9, "cpu", 1, &[0x7e, 0, 0, 0, 9, 7]),
    ];
    let wanted = [expected(0, "timer", 0, 8), expected(9, "cpu", 1, 6)];
    let whole = described(&devices, TEXT);
    let found = sections(&whole);
    assert_eq!(found.sections, wanted);
    assert!(found.complete);
    assert_eq!(&whole[found.description.unwrap()], TEXT.as_bytes());

    let mut bare = devices.concat();
    let found = sections(&bare);
    assert_eq!(found.sections, wanted);
    assert!(!found.complete, "the end byte is missing");
    bare.push(0);
    let found = sections(&bare);
    assert_eq!(found.sections, wanted);
    assert!(found.complete);
    assert_eq!(found.description, None);
}

#[test]
fn the_description_helps_where_a_devices_state_looks_like_sections() {
    // State that holds its own footer, followed by what could be another section.
    let mut body = vec![0x7e, 0, 0, 0, 0];
    body.extend(device(5, "fake", 0, b"x"));
    let devices = [device(0, "timer", 0, &body), device(9, "cpu", 1, b"y")];
    let found = sections(&described(&devices, TEXT));
    let wanted = [
        expected(0, "timer", 0, body.len()),
        expected(9, "cpu", 1, 1),
    ];
    assert_eq!(found.sections, wanted);
    // Without it, or with one that lists other devices, it is a guess.
    let other = r#"{"devices": [{"name": "timer", "instance_id": 0}]}"#;
    let found = sections(&described(&devices, other));
    assert!(found.complete);
    assert_eq!(found.sections, [expected(0, "timer", 0, 0)]);
}

#[test]
fn a_stream_without_devices_is_complete() {
    let mut tail = Vec::new();
    assert!(!is_complete(&tail));
    put_end_of_stream(&mut tail);
    let found = sections(&tail);
    assert!(found.complete);
    assert_eq!(found.sections, []);
    assert!(found.description.is_some());
    assert!(is_complete(&[0]));
    assert!(!is_complete(&[4]));
}

#[test]
fn only_the_prefix_that_lacks_just_the_description_is_complete() {
    let devices = [
        device(0, "timer", 0, b"12345678"),
        device(9, "cpu", 1, b"\0{}\0}"),
    ];
    let whole = described(&devices, TEXT);
    let end = devices.concat().len() + 1;
    let complete: Vec<usize> = (0..=whole.len())
        .filter(|len| is_complete(&whole[..*len]))
        .collect();
    assert_eq!(complete, [end, whole.len()]);
    for len in 0..whole.len() {
        let found = sections(&whole[..len]);
        assert_eq!(found.complete, len == end);
        assert!(found.sections.len() <= 2);
    }
    assert!(!is_complete(&[&whole[..], b"}"].concat()));
}

/// The worst case: everywhere there seems to be a footer, followed by a head.
#[test]
fn time_is_linear_however_many_footers_there_seem_to_be() {
    let mut tail = device(0x4141_4141, "a", 0, b"");
    tail.truncate(tail.len() - 5);
    tail.extend_from_slice(&b"\x7eAAAA\x04".repeat(400_000));
    assert_eq!(sections(&tail).sections, []);
    let many = [device(1, "a", 0, b"").repeat(50_000), vec![0]].concat();
    assert_eq!(sections(&many).sections.len(), 50_000);
}

proptest! {
    #[test]
    fn changes_do_no_harm(at in any::<proptest::sample::Index>(), byte: u8, cut in any::<proptest::sample::Index>()) {
        let devices = [device(0, "timer", 0, b"12345678"), device(9, "cpu", 1, b"y")];
        let mut whole = described(&devices, TEXT);
        let at = at.index(whole.len());
        whole[at] = byte;
        sections(&whole);
        sections(&whole[cut.index(whole.len())..]);
    }
}
