//! What capabilities promise.

use super::*;

#[test]
fn each_capability_is_found_by_its_name_and_starts_at_its_default() {
    let caps = Caps::default();
    for (index, capability) in Capability::ALL.into_iter().enumerate() {
        assert_eq!(capability.name().parse(), Ok(capability));
        assert_eq!(caps.has(capability), capability.default_state());
        assert_eq!(capability as usize, index, "states are kept by this index");
    }
}

#[test]
fn the_defaults_do_not_conflict() {
    assert_eq!(Caps::default().conflicts(), None);
}

#[test]
fn what_is_not_available_is_refused_with_the_reason() {
    let mut caps = Caps::default();
    caps.switch(Capability::RdmaPinAll, true);
    let words = "capability rdma-pin-all is not available here: RDMA is not supported";
    assert_eq!(caps.conflicts().as_deref(), Some(words));
    for capability in Capability::ALL {
        let mut caps = Caps::default();
        caps.switch(capability, true);
        assert_eq!(caps.conflicts().is_none(), capability.available());
        // A default that cannot be used makes no sense.
        assert!(capability.available() || !capability.default_state());
    }
    assert_eq!(Caps::for_qemu().conflicts(), None);
}

#[test]
fn every_way_to_write_on_and_off_is_understood() {
    for (text, on) in [
        ("xbzrle=on", true),
        ("xbzrle=true", true),
        ("xbzrle=yes", true),
        ("xbzrle=1", true),
        ("xbzrle=off", false),
        ("xbzrle=false", false),
        ("xbzrle=no", false),
        ("xbzrle=0", false),
    ] {
        let mut caps = Caps::default();
        caps.set("xbzrle", !on).expect("a known name");
        assert_eq!(caps.set_text(text), Ok(()));
        assert_eq!(caps.has(Capability::Xbzrle), on, "{text}");
        assert!(caps.has(Capability::Compress), "others stay as they are");
    }
}

#[test]
fn unknown_names_are_refused_with_the_list() {
    let mut caps = Caps::default();
    for text in ["xbzlre=on", "=on", "XBZRLE=on"] {
        let words = caps.set_text(text).map_err(|error| error.to_string());
        let words = words.expect_err(text);
        assert!(
            words.ends_with("allowed are compress, xbzrle, return-path, auto-converge, events, pause-before-switchover, zero-blocks and rdma-pin-all"),
            "{words}"
        );
    }
    assert!(caps.set("", true).is_err());
    assert_eq!(caps, Caps::default());
}

#[test]
fn a_text_of_another_form_is_refused_and_changes_nothing() {
    let mut caps = Caps::default();
    for text in ["xbzrle", "xbzrle=", "xbzrle=maybe", "xbzrle=off=off", ""] {
        let refused = CapError::Malformed(text.to_owned());
        assert_eq!(caps.set_text(text), Err(refused));
    }
    assert_eq!(caps, Caps::default());
}
