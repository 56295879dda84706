//! The table of what may be named where. It is tried row by row, and is part of `docs/paths.md`.

use std::fmt::Write;
use std::fs::File;
use std::os::unix::process::CommandExt;
use std::path::Path;

use super::rows::Outcome::{self, Refused, Works};
use super::rows::Role;
use super::world::Kind::{self, Dir, Inherited};
use super::world::{World, is_root};
use crate::support::{Ended, Folder, Program, command, digest, mixed, run, watchdog};

impl Role {
    /// What is run. The first command says whether it works; each must refuse alike.
    fn commands(self, path: &str, at: &Fixed) -> Vec<Vec<String>> {
        let (image, side) = (at.image.as_str(), at.path("side"));
        let (file, socket) = (
            format!("file:{path}"),
            format!("unix:{}", at.path("r.sock")),
        );
        let stored = format!("file:{}", at.path("side.str"));
        let stream = format!("file:{}", at.stream);
        let lists: Vec<Vec<&str>> = match self {
            Role::Image => vec![
                vec!["send", path, &stored, "--force", "-q"],
                vec!["digest", path],
                vec!["send", image, &stored, "--force", "-q", "--then", path],
                vec!["bench", path, "--dry-run", "--methods", "none"],
                vec![
                    "churn",
                    path,
                    "--in-place",
                    "--records",
                    &side,
                    "--duration",
                    "1ms",
                ],
            ],
            Role::Inspect => vec![vec!["inspect", path]],
            // Refused before the address matters, whichever it is.
            Role::Output => vec![
                vec!["receive", &stream, path, "--force", "-q"],
                vec!["receive", &socket, path, "--force", "-q"],
            ],
            Role::Store => vec![vec![
                "send",
                image,
                &file,
                "--force",
                "-q",
                "--connect-timeout",
                "100ms",
            ]],
            Role::Load => vec![vec![
                "receive",
                &file,
                &side,
                "--force",
                "-q",
                "--timeout",
                "100ms",
            ]],
            Role::Export => vec![vec![
                "bench",
                image,
                "--methods",
                "none",
                "--dry-run",
                "--export-json",
                path,
            ]],
            Role::Records => vec![vec![
                "churn",
                image,
                "--in-place",
                "--duration",
                "1ms",
                "--records",
                path,
            ]],
            Role::Listen => Vec::new(),
        };
        let mut lists: Vec<Vec<String>> = lists
            .into_iter()
            .map(|list| list.into_iter().map(str::to_owned).collect())
            .collect();
        if self == Role::Listen {
            let uri = format!("unix:{path}");
            let words = [
                "receive",
                &uri,
                &at.path("new"),
                "-q",
                "--accept-timeout",
                "1ms",
            ];
            lists.push(words.map(str::to_owned).to_vec());
        }
        lists
    }
}

/// What is the same for all rows.
struct Fixed {
    folder: Folder,
    image: String,
    stream: String,
}

impl Fixed {
    fn new() -> Fixed {
        let folder = Folder::new();
        let image = folder
            .image("image", &mixed(64, 5))
            .to_str()
            .unwrap()
            .to_owned();
        let stream = folder.path("stream").to_str().unwrap().to_owned();
        run(&["send", &image, &format!("file:{stream}"), "-q"]).succeeded();
        Fixed {
            folder,
            image,
            stream,
        }
    }

    fn path(&self, name: &str) -> String {
        self.folder.path(name).to_str().unwrap().to_owned()
    }
}

fn try_it(kind: Kind, args: &[String], world: &World) -> Ended {
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    let mut command = command(&args);
    if kind == Inherited {
        command.stdin(File::open(world.folder.path("it")).unwrap());
    }
    if kind.needs_a_user() && is_root() {
        command.uid(65534).gid(65534);
    }
    Program::start(command).finish()
}

/// Checks what a command that works has made.
fn check(role: Role, path: &str, at: &Fixed) {
    let image = digest(Path::new(&at.image));
    match role {
        Role::Output => assert_eq!(digest(Path::new(path.trim_end_matches('/'))), image),
        Role::Store if path != "/dev/null" => {
            let side = at.path("side");
            run(&["receive", &format!("file:{path}"), &side, "--force", "-q"]).succeeded();
            assert_eq!(digest(Path::new(&side)), image);
        }
        Role::Load => assert_eq!(digest(Path::new(&at.path("side"))), image),
        _ => {}
    }
}

/// The error with the path that it is about.
fn named(error: &str, path: &str) -> String {
    error.replace("NAME", path)
}

/// What happened, as an outcome is written.
fn words(ended: &Ended) -> String {
    let error = ended
        .err
        .lines()
        .find_map(|line| line.strip_prefix("error: "));
    format!("{:?} {}{}", ended.code, error.unwrap_or(""), ended.out)
}

/// Appends to `wrong` what is not as the row says.
fn try_row(
    (role, kind, outcome): (Role, Kind, Outcome),
    at: &Fixed,
    world: &mut World,
    wrong: &mut String,
) {
    let Some(path) = world.make(kind) else { return };
    let commands = role.commands(&path, at);
    let (first, all) = (&commands[..1], &commands[..]);
    let (commands, expected) = match outcome {
        Works if role == Role::Listen => {
            let error = "no source connected within 0.001 s";
            (first, format!("Some(1) {error}listening on unix:{path}\n"))
        }
        Works => (first, "Some(0) ".to_owned()),
        Refused(code, error) => (all, format!("Some({code}) {}", named(error, &path))),
    };
    // What `churn` says of a folder is not what takes guest folders says.
    let fits = |args: &&Vec<String>| kind != Dir || args[0] != "churn";
    for args in commands.iter().filter(fits) {
        let mut ended = try_it(kind, args, world);
        if matches!(outcome, Works) && role != Role::Listen {
            ended.out.clear();
        }
        let found = words(&ended);
        if found != expected {
            writeln!(wrong, "{args:?}:\n- {expected}\n+ {found}").unwrap();
        } else if matches!(outcome, Works) {
            check(role, &path, at);
        }
    }
    world.clear();
}

#[test]
fn every_kind_of_path_works_or_is_refused_in_the_words_of_the_table() {
    watchdog!();
    let at = Fixed::new();
    let mut wrong = String::new();
    for role in Role::ALL {
        let content = match role {
            Role::Load => &at.stream,
            _ => &at.image,
        };
        let mut world = World::new(std::fs::read(content).unwrap());
        for &(kind, outcome) in role.rows() {
            try_row((role, kind, outcome), &at, &mut world, &mut wrong);
        }
    }
    assert!(wrong.is_empty(), "{wrong}");
}

/// The tables as the page has them.
fn page() -> String {
    let mut text = String::new();
    for role in Role::ALL {
        writeln!(text, "\n### {}\n", role.heading()).unwrap();
        writeln!(text, "| NAME is | |\n|---|---|").unwrap();
        for (kind, outcome) in role.rows() {
            let what = match outcome {
                Works => "works".to_owned(),
                Refused(code, error) => format!("exit code {code}: `{error}`"),
            };
            writeln!(text, "| {} | {what} |", kind.text()).unwrap();
        }
    }
    text
}

#[test]
fn the_page_has_the_table() {
    const MARK: &str =
        "<!-- From here on, tests/integration/paths/table.rs: RAMFERRY_BLESS=1 writes it. -->\n";
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/paths.md");
    let text = std::fs::read_to_string(path).unwrap();
    let (prose, table) = text.split_once(MARK).expect("the mark");
    if std::env::var_os("RAMFERRY_BLESS").is_some() {
        std::fs::write(path, format!("{prose}{MARK}{}", page())).unwrap();
        return;
    }
    assert!(
        table == page(),
        "RAMFERRY_BLESS=1 cargo test --test integration paths writes docs/paths.md"
    );
}
