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
    let receive = Migration::receive(folder.path().join("out"));
    controller
        .receive(receive.from(address.parse().unwrap()))
        .unwrap();
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
    let _ = controller.migration().unwrap().join();
    controller.set_params(&both).unwrap();
    assert_eq!(state(), (Method::Zstd, [false, true]));
    assert_eq!(controller.params().max_bandwidth, 7);
}

/// A destination that has nothing but zlib.
fn answer_with_zlib(mut link: &std::os::unix::net::UnixStream) {
    use crate::session::{self, Agreed};
    use std::io::{Read, Write};
    let mut head = [0; crate::wire::native::HELLO_HEAD_LEN];
    link.read_exact(&mut head).unwrap();
    let len = u32::from_le_bytes(head[12..16].try_into().unwrap()) as usize;
    link.read_exact(&mut vec![0; len + 8]).unwrap();
    let silence = Duration::from_secs(30);
    let agreed = Agreed {
        version: 1,
        capabilities: ["zlib".to_owned()].into(),
        peer_silence: silence,
    };
    let answer = session::answer(&Ok(agreed), silence);
    link.write_all(&answer.to_bytes()).unwrap();
}

#[test]
fn while_a_migration_runs_its_parameters_are_those_that_it_fell_back_to() {
    let folder = tempfile::tempdir().unwrap();
    let (image, socket) = (folder.path().join("ram"), folder.path().join("sock"));
    std::fs::write(&image, vec![7; 1 << 20]).unwrap();
    let listener = std::os::unix::net::UnixListener::bind(&socket).unwrap();
    let controller = Controller::default();
    controller.set_params(&compression(&["zstd"])).unwrap();
    let (pass, passes) = crossbeam_channel::unbounded();
    controller.observe(Box::new(move |event| {
        if event == Event::Pass(1) {
            pass.send(()).unwrap();
        }
    }));
    let address = format!("unix:{}", socket.display()).parse().unwrap();
    let send = Migration::send(image).to(address).fallback(true);
    controller.migrate(send).unwrap();
    let (link, _) = listener.accept().unwrap();
    answer_with_zlib(&link);
    passes.recv_timeout(Duration::from_secs(20)).unwrap();
    assert_eq!(controller.params().compress_method, Method::Zlib);
    drop(link);
    let _ = controller.migration().unwrap().join();
    assert_eq!(controller.params().compress_method, Method::Zstd);
}
