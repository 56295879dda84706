//! What the controller promises of settings.

use super::*;
use crate::codec::Method;
use crate::params::{ParamError, TypedValue};

fn compression(words: &[&str]) -> Vec<TypedParam> {
    let word = |word: &&str| TypedValue::String((*word).to_owned());
    let values = words.iter().map(word);
    values
        .map(|value| TypedParam::new("compression", value))
        .collect()
}

#[test]
fn compression_sets_the_method_and_switches_capabilities_unless_a_migration_runs() {
    let folder = tempfile::tempdir().unwrap();
    let controller = Controller::default();
    let state = || {
        let caps = controller.caps();
        let both = [Capability::Compress, Capability::Xbzrle].map(|one| caps.has(one));
        (controller.params().compress_method, both)
    };
    controller.set_params(&compression(&["zstd"])).unwrap();
    assert_eq!(state(), (Method::Zstd, [true, false]));

    let refused = controller.set_params(&compression(&["zstd", "lz4"]));
    let refused = refused.unwrap_err();
    assert_eq!(refused.kind(), Kind::Usage);
    assert!(matches!(
        refused.cause(),
        Some(ParamError::TwoMethods { .. })
    ));

    let address = format!("unix:{}", folder.path().join("sock").display());
    let request = destination::Request::new(address.parse().unwrap(), folder.path().join("out"));
    controller.receive(request).unwrap();
    let both = [
        compression(&["xbzrle"]),
        vec![TypedParam::new("max-bandwidth", TypedValue::Ullong(7))],
    ]
    .concat();
    let refused = controller.set_params(&both).unwrap_err();
    let name = "compression";
    assert_eq!(refused.cause(), Some(&ParamError::Fixed { name }));
    assert_eq!(state(), (Method::Zstd, [true, false]));
    assert_eq!(controller.params().max_bandwidth, 0);

    controller.cancel();
    let _ = controller.handle().unwrap().join();
    controller.set_params(&both).unwrap();
    assert_eq!(state(), (Method::Zstd, [false, true]));
    assert_eq!(controller.params().max_bandwidth, 7);
}
