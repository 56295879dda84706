//! What both ends agree on, as functions of what was said.

use super::*;

fn a_hello() -> Hello {
    hello(
        [7; 16],
        (0, 1),
        Duration::from_secs(30),
        vec![BlockInfo {
            name: "pc.ram".into(),
            bytes: 8192,
        }],
        offers(Some(Method::Zstd), true),
    )
}

#[test]
fn equals_agree_on_everything() {
    let hello = a_hello();
    let outcome = negotiate(&hello, &Caps::default());
    let agreed = check_answer(&hello, &answer(&outcome, Duration::from_secs(30))).unwrap();
    assert_eq!(Ok(agreed.clone()), outcome);
    assert_eq!(
        agreed.capabilities.len(),
        hello.capabilities.len(),
        "everything that is offered"
    );
    assert!(!agreed.capabilities.contains(CAPABILITY_GUEST_FOLDER));
    assert_eq!(agreed.keepalive_interval(), Duration::from_secs(10));
}

#[test]
fn a_peer_of_another_version_is_refused_with_both_ranges() {
    let mut hello = a_hello();
    hello.versions = (7, 9);
    let why = negotiate(&hello, &Caps::default()).unwrap_err();
    assert!(why.contains("7 to 9") && why.contains("1 to 1"), "{why}");
    hello.versions = (1, 9);
    assert_eq!(negotiate(&hello, &Caps::default()).unwrap().version, 1);
}

#[test]
fn a_capability_that_is_missing_is_named_by_either_side() {
    let mut hello = a_hello();
    hello.capabilities.push(Offer {
        name: "telepathy".into(),
        required: false,
    });
    let agreed = negotiate(&hello, &Caps::default()).unwrap();
    assert!(!agreed.capabilities.contains("telepathy"));
    hello.capabilities.last_mut().unwrap().required = true;
    assert!(
        negotiate(&hello, &Caps::default())
            .unwrap_err()
            .contains("'telepathy'")
    );

    let error = check_answer(&hello, &answer(&Ok(agreed), Duration::from_secs(1))).unwrap_err();
    assert_eq!(error.kind(), Kind::Refused);
    assert!(error.to_string().contains("'telepathy'"), "{error}");
}

#[test]
fn what_a_destination_has_switched_off_it_refuses_by_name() {
    let mut caps = Caps::default();
    caps.set("compress", false).unwrap();
    assert!(negotiate(&a_hello(), &caps).unwrap_err().contains("'zstd'"));
    caps.set("compress", true).unwrap();
    caps.set("xbzrle", false).unwrap();
    assert!(
        negotiate(&a_hello(), &caps)
            .unwrap_err()
            .contains("'xbzrle'")
    );
}

#[test]
fn blocks_that_make_no_sense_are_refused() {
    for bytes in [0, 4095, u64::MAX - 4095] {
        let mut hello = a_hello();
        hello.blocks[0].bytes = bytes;
        assert!(negotiate(&hello, &Caps::default()).is_err(), "{bytes}");
    }
    let mut hello = a_hello();
    hello.blocks.clear();
    assert!(negotiate(&hello, &Caps::default()).is_err());
    let mut hello = a_hello();
    hello.connection = 1;
    assert!(negotiate(&hello, &Caps::default()).is_err());
}
