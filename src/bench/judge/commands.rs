//! The commands that choose a setting: ramferry's own, virsh's, and QMP's for a QEMU.
//!
//! QEMU has two ways to compress, and a setting is translated into each that supports its method:
//!
//! | | multifd | `compress` |
//! |---|---|---|
//! | QEMU | zlib and zstd since 5.0 | zlib, up to 9.0; removed in 9.1 |
//! | libvirt | since 9.4: `--comp-methods zlib` or `zstd`, with `--parallel` | since 1.3.4: `--comp-methods mt` |
//! | threads | as many as channels | `compress-threads`, `decompress-threads` |
//! | with deltas | no: libvirt refuses `xbzrle` with `--parallel` | in later rounds, in place of compression |

use serde_json::{Value, json};

use crate::bench::measure::setting::Setting;
use crate::bench::report::{ImageReport, QemuCommands};
use crate::codec::{Method, ZlibEngine};
use crate::wire::Format;

/// The highest level of zstd in QEMU's multifd.
const QEMU_ZSTD: u8 = 20;

/// A word quoted for a shell, if necessary.
pub fn quoted(word: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "._-/+:,@%".contains(c);
    if !word.is_empty() && word.chars().all(plain) && !word.starts_with('-') {
        word.to_owned()
    } else {
        let word = word.replace('\'', r"'\''");
        format!("'{}{word}'", if word.starts_with('-') { "./" } else { "" })
    }
}

/// The destination's command.
pub fn receive(setting: &Setting) -> String {
    format!(
        "ramferry receive tcp:0.0.0.0:4444 OUTPUT --decompress-threads {}",
        setting.decompress_threads
    )
}

/// The source's command. `rounds` says whether later rounds were measured.
pub fn send(setting: &Setting, image: &ImageReport, rounds: bool) -> String {
    let path = match image.seed {
        // A synthetic guest is gone afterwards.
        Some(_) => "IMAGE".to_owned(),
        None => quoted(&image.path),
    };
    let mut line = format!("ramferry send {path} tcp:HOST:4444");
    for later in &image.then {
        let option = match image.diffs.contains(later) {
            true => "then-diff",
            false => "then",
        };
        line.push_str(&format!(" --{option} {}", quoted(later)));
    }
    line.push_str(&format!(
        " --compress-method {}",
        setting.compression.method
    ));
    let mut option = |text: String| {
        line.push_str(" --");
        line.push_str(&text);
    };
    if *setting.compression.method.levels().end() > 1 {
        option(format!("compress-level {}", setting.compression.level));
    }
    option(format!("compress-threads {}", setting.compress_threads));
    if setting.connections > 1 {
        option(format!("connections {}", setting.connections));
    }
    if let Some(pages) = setting.batch_pages {
        option(format!("batch-pages {pages}"));
    }
    if setting.zlib_engine != ZlibEngine::default() {
        option(format!("zlib-engine {}", setting.zlib_engine));
    }
    if rounds {
        option(match setting.xbzrle {
            Some(bytes) => format!("xbzrle-cache-size {}", size(bytes)),
            None => "capability xbzrle=off".to_owned(),
        });
    }
    if setting.wire == Format::Qemu {
        let compress = setting.compression.method != Method::None;
        option("wire qemu".to_owned());
        option(format!(
            "capability compress={}",
            if compress { "on" } else { "off" }
        ));
    }
    line
}

/// A size as the options take it: as MiB where that is exact.
fn size(bytes: u64) -> String {
    const MIB: u64 = 1 << 20;
    match bytes % MIB {
        0 => format!("{}MiB", bytes / MIB),
        _ => bytes.to_string(),
    }
}

/// Whether any QEMU supports the method at this level.
pub fn has_qemu(setting: &Setting) -> bool {
    match setting.compression.method {
        Method::None | Method::Zlib => true,
        Method::Zstd => setting.compression.level <= QEMU_ZSTD,
        Method::Gzip | Method::Lz4 => false,
    }
}

/// Multifd compresses in its channels, so that there must be as many as threads.
fn channels(setting: &Setting) -> u8 {
    match setting.compression.method {
        Method::None => setting.connections,
        _ => setting.compress_threads.max(setting.connections),
    }
}

const MIGRATE: &str = "virsh migrate --live DOMAIN DESTURI";

/// The commands for today's QEMU and libvirt: multifd with compression or several connections; else
/// deltas, if later `rounds` were measured; else nothing.
pub fn qemu(setting: &Setting, rounds: bool) -> QemuCommands {
    let method = setting.compression.method;
    let deltas = setting.xbzrle.filter(|_| rounds);
    if method == Method::None && setting.connections == 1 {
        return match deltas {
            Some(cache) => QemuCommands {
                virsh: format!("{MIGRATE} --comp-methods xbzrle --comp-xbzrle-cache {cache}"),
                qmp: vec![
                    capabilities(&["xbzrle"]),
                    parameters(&json!({"xbzrle-cache-size": cache})),
                ],
            },
            None => QemuCommands {
                virsh: MIGRATE.to_owned(),
                qmp: Vec::new(),
            },
        };
    }
    let channels = channels(setting);
    let mut virsh = format!("{MIGRATE} --parallel --parallel-connections {channels}");
    let mut arguments = json!({"multifd-channels": channels});
    if method != Method::None {
        let level = setting.compression.level;
        virsh.push_str(&format!(
            " --comp-methods {method} --comp-{method}-level {level}"
        ));
        arguments["multifd-compression"] = method.name().into();
        arguments[format!("multifd-{method}-level")] = level.into();
    }
    QemuCommands {
        virsh,
        qmp: vec![capabilities(&["multifd"]), parameters(&arguments)],
    }
}

/// The commands for a QEMU that still has `compress`, with deltas if later `rounds` were measured.
/// `None` unless the method is zlib.
pub fn qemu_compress(setting: &Setting, rounds: bool) -> Option<QemuCommands> {
    if setting.compression.method != Method::Zlib {
        return None;
    }
    let (level, threads) = (setting.compression.level, setting.compress_threads);
    let decompress = setting.decompress_threads;
    let mut virsh = format!(
        "--comp-mt-level {level} --comp-mt-threads {threads} --comp-mt-dthreads {decompress}"
    );
    let mut arguments = json!({
        "compress-level": level,
        "compress-threads": threads,
        "decompress-threads": decompress,
    });
    let (methods, on): (_, &[&str]) = match setting.xbzrle.filter(|_| rounds) {
        Some(cache) => {
            virsh.push_str(&format!(" --comp-xbzrle-cache {cache}"));
            arguments["xbzrle-cache-size"] = cache.into();
            ("mt,xbzrle", &["compress", "xbzrle"])
        }
        None => ("mt", &["compress"]),
    };
    Some(QemuCommands {
        virsh: format!("{MIGRATE} --comp-methods {methods} {virsh}"),
        qmp: vec![capabilities(on), parameters(&arguments)],
    })
}

fn capabilities(on: &[&str]) -> Value {
    let list: Vec<Value> = on
        .iter()
        .map(|name| json!({"capability": name, "state": true}))
        .collect();
    json!({"execute": "migrate-set-capabilities", "arguments": {"capabilities": list}})
}

fn parameters(arguments: &Value) -> Value {
    json!({"execute": "migrate-set-parameters", "arguments": arguments})
}

/// A QMP command on one line, with `execute` first as in QEMU's documentation.
pub fn line(command: &Value) -> String {
    format!(
        r#"{{"execute": {}, "arguments": {}}}"#,
        command["execute"], command["arguments"]
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::measure::methods::MethodLevel;
    use crate::bench::report::tests::report;

    fn setting(method: Method, level: u8) -> Setting {
        Setting {
            compression: MethodLevel::new(method, level).expect("a level"),
            compress_threads: 3,
            decompress_threads: 2,
            batch_pages: None,
            connections: 1,
            xbzrle: Some(1 << 28),
            zlib_engine: ZlibEngine::default(),
            link: None,
            wire: Format::Native,
        }
    }

    fn lines(commands: &QemuCommands) -> Vec<String> {
        let qmp = commands.qmp.iter().map(line);
        std::iter::once(commands.virsh.clone()).chain(qmp).collect()
    }

    #[test]
    fn our_commands_set_what_was_measured() {
        let mut setting = Setting {
            connections: 2,
            batch_pages: Some(16),
            ..setting(Method::Zlib, 6)
        };
        let mut image = report().image;
        image.then = vec!["later 1.ram".to_owned()];
        assert_eq!(
            send(&setting, &image, true),
            "ramferry send guest.ram tcp:HOST:4444 --then 'later 1.ram' --compress-method zlib \
             --compress-level 6 --compress-threads 3 --connections 2 --batch-pages 16 \
             --xbzrle-cache-size 256MiB"
        );
        setting.wire = Format::Qemu;
        image.seed = Some(1);
        let line = send(&setting, &image, false);
        assert!(line.starts_with("ramferry send IMAGE tcp:"), "{line}");
        assert!(line.ends_with("--wire qemu --capability compress=on"));
        assert!(receive(&setting).ends_with("--decompress-threads 2"));
    }

    #[test]
    fn zlib_is_a_method_of_multifd_and_of_compress() {
        let setting = setting(Method::Zlib, 6);
        assert_eq!(
            lines(&qemu(&setting, false)),
            [
                "virsh migrate --live DOMAIN DESTURI --parallel --parallel-connections 3 \
                 --comp-methods zlib --comp-zlib-level 6",
                r#"{"execute": "migrate-set-capabilities", "arguments": {"capabilities":[{"capability":"multifd","state":true}]}}"#,
                r#"{"execute": "migrate-set-parameters", "arguments": {"multifd-channels":3,"multifd-compression":"zlib","multifd-zlib-level":6}}"#,
            ]
        );
        let older = qemu_compress(&setting, false).expect("zlib");
        assert_eq!(
            lines(&older),
            [
                "virsh migrate --live DOMAIN DESTURI --comp-methods mt --comp-mt-level 6 \
                 --comp-mt-threads 3 --comp-mt-dthreads 2",
                r#"{"execute": "migrate-set-capabilities", "arguments": {"capabilities":[{"capability":"compress","state":true}]}}"#,
                r#"{"execute": "migrate-set-parameters", "arguments": {"compress-level":6,"compress-threads":3,"decompress-threads":2}}"#,
            ]
        );
    }

    #[test]
    fn deltas_go_beside_compress_and_not_beside_multifd() {
        let zlib = setting(Method::Zlib, 1);
        let older = lines(&qemu_compress(&zlib, true).expect("zlib"));
        assert!(older[0].contains("--comp-methods mt,xbzrle --comp-mt-level 1"));
        assert!(older[0].ends_with(" --comp-xbzrle-cache 268435456"));
        assert!(older[1].contains("compress") && older[1].contains("xbzrle"));
        assert!(older[2].contains(r#""xbzrle-cache-size":268435456"#));
        let off = Setting {
            xbzrle: None,
            ..zlib
        };
        for commands in [qemu(&zlib, true), qemu_compress(&off, true).expect("zlib")] {
            assert!(!lines(&commands).join(" ").contains("xbzrle"));
        }
        assert!(qemu_compress(&setting(Method::Zstd, 1), true).is_none());
    }

    #[test]
    fn without_compression_there_is_nothing_to_set_but_deltas_and_connections() {
        let plain = setting(Method::None, 0);
        assert_eq!(lines(&qemu(&plain, false)), [MIGRATE]);
        let deltas = lines(&qemu(&plain, true));
        assert!(deltas[0].ends_with("--comp-methods xbzrle --comp-xbzrle-cache 268435456"));
        assert_eq!(deltas.len(), 3);
        let several = Setting {
            connections: 4,
            ..plain
        };
        let several = lines(&qemu(&several, true));
        assert!(several[0].ends_with("--parallel --parallel-connections 4"));
        assert!(several[2].contains(r#"{"multifd-channels":4}"#));
    }

    #[test]
    fn qemu_supports_two_methods_and_not_every_level() {
        for (method, level, has) in [
            (Method::Zlib, 9, true),
            (Method::Zstd, 20, true),
            (Method::Zstd, 21, false),
            (Method::None, 0, true),
            (Method::Gzip, 1, false),
            (Method::Lz4, 1, false),
        ] {
            if let Some(compression) = MethodLevel::new(method, level) {
                let setting = Setting {
                    compression,
                    ..setting(Method::None, 0)
                };
                assert_eq!(has_qemu(&setting), has, "{method} {level}");
            }
        }
    }

    #[test]
    fn a_path_is_quoted_where_a_shell_would_split_it() {
        assert_eq!(quoted("/a/b-c.ram"), "/a/b-c.ram");
        assert_eq!(quoted("a b"), "'a b'");
        assert_eq!(quoted("it's"), r"'it'\''s'");
        assert_eq!(quoted("-x"), "'./-x'");
        assert_eq!(quoted("$(x)"), "'$(x)'");
    }
}
