//! Texts that are compared whole, so that a change of words shows as a diff of a file.

use std::path::Path;

/// Compares with `tests/integration/texts/NAME.txt`. `RAMFERRY_BLESS=1` writes that file.
#[track_caller]
pub(crate) fn assert_text(name: &str, text: &str) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/integration/texts");
    let path = folder.join(name).with_extension("txt");
    if std::env::var_os("RAMFERRY_BLESS").is_some() {
        std::fs::create_dir_all(&folder).unwrap();
        std::fs::write(&path, text).unwrap();
        return;
    }
    let expected = std::fs::read_to_string(&path).unwrap_or_default();
    let (mut before, mut now) = (expected.lines(), text.lines());
    for line in 1.. {
        match (before.next(), now.next()) {
            (None, None) => return,
            (before, now) if before == now => {}
            (before, now) => panic!(
                "{} differs in line {line}:\n- {}\n+ {}\n\
                 If this is meant: RAMFERRY_BLESS=1 cargo test --test integration texts, then git diff",
                path.display(),
                before.unwrap_or("(the end)"),
                now.unwrap_or("(the end)")
            ),
        }
    }
}
