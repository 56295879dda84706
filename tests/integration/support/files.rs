//! The program's files in a test, and a migration by the program that is slow enough to be met in
//! the middle.

use std::path::PathBuf;

use crate::support::{Folder, Page, Program, command, mixed, until};

/// Makes a source slow enough to be met in the middle of a migration.
pub(crate) const SLOW: [&str; 6] = [
    "--max-bandwidth",
    "64KiB",
    "--compress-method",
    "none",
    "--batch-pages",
    "1",
];

pub(crate) fn start(args: &[&str]) -> Program {
    Program::start(command(args))
}

pub(crate) fn start_with(args: &[&str], more: &[&str]) -> Program {
    start(&[args, more].concat())
}

/// Names of a test's files as text.
pub(crate) struct Files {
    pub(crate) folder: Folder,
    pub(crate) image: PathBuf,
    pub(crate) output: PathBuf,
    pub(crate) socket: PathBuf,
}

impl Files {
    /// An image of 2 MiB that takes half a minute to send slowly.
    pub(crate) fn new() -> Files {
        let folder = Folder::new();
        let image = folder.image("ram", &(0..512).map(Page::Random).collect::<Vec<_>>());
        Files::with(folder, image)
    }

    /// A small image.
    pub(crate) fn small() -> Files {
        let folder = Folder::new();
        let image = folder.image("ram", &mixed(64, 5));
        Files::with(folder, image)
    }

    pub(crate) fn with(folder: Folder, image: PathBuf) -> Files {
        Files {
            image,
            output: folder.path("out"),
            socket: folder.path("socket"),
            folder,
        }
    }

    pub(crate) fn image(&self) -> &str {
        self.image.to_str().unwrap()
    }

    pub(crate) fn output(&self) -> &str {
        self.output.to_str().unwrap()
    }

    pub(crate) fn uri(&self) -> String {
        format!("unix:{}", self.socket.display())
    }

    /// A receiver on the socket that listens by now.
    pub(crate) fn receiver(&self, more: &[&str]) -> Program {
        let uri = self.uri();
        let receive = ["receive", &uri, self.output(), "--quiet"];
        let mut receiver = start_with(&receive, more);
        assert_eq!(receiver.listening(), uri);
        receiver
    }

    pub(crate) fn sender(&self, more: &[&str]) -> Program {
        start_with(&["send", self.image(), &self.uri(), "--quiet"], more)
    }

    /// Waits until the receiver has placed a page of what comes slowly.
    pub(crate) fn wait_for_partial(&self) {
        use std::os::unix::fs::MetadataExt;
        let partial = self.folder.path("out.partial");
        until(|| std::fs::metadata(&partial).is_ok_and(|metadata| metadata.blocks() > 0));
    }

    pub(crate) fn with_old_output(&self, old: Option<&[u8]>) {
        if let Some(old) = old {
            std::fs::write(&self.output, old).unwrap();
        }
    }

    /// Asserts that OUTPUT is what it was before, and that nothing else is left.
    #[track_caller]
    pub(crate) fn nothing_changed(&self, old: Option<&[u8]>) {
        assert_eq!(std::fs::read(&self.output).ok().as_deref(), old);
        let mut left = self.folder.names();
        left.retain(|name| name != "ram" && name != "out");
        assert!(left.is_empty(), "{left:?}");
    }
}
