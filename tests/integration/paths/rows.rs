//! The rows of the table, by where a path is named.

use super::world::Kind;

/// Where a path is named.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Role {
    Image,
    Inspect,
    Output,
    Store,
    Load,
    Export,
    Records,
    Listen,
}

/// What happens.
#[derive(Debug, Clone, Copy)]
pub(super) enum Outcome {
    Works,
    /// The exit code, and the error with NAME for the path.
    Refused(u8, &'static str),
}

use Kind::{
    AppendOnly, BoundFile, Dangling, Dash, Deleted, Device, Dir, Empty, Ext2, Fifo, Full, FullDisk,
    Immutable, Inherited, Link, Long, Loop, Memfd, MountPoint, Mounted, New, NewSlash, Newline,
    Nowhere, Null, Odd, Proc, ProcNew, ReadOnly, ReadOnlyNew, Slash, Socket, SysNew, TakenPartial,
    Unreadable, Unwritable, Zero,
};
use Outcome::{Refused, Works};

const NOT_FOUND: &str = "cannot open 'NAME': No such file or directory (os error 2)";

const IMAGE: &[(Kind, Outcome)] = &[
    (Kind::File, Works),
    (Link, Works),
    (Device, Works),
    (Inherited, Works),
    (Deleted, Works),
    (Memfd, Works),
    (ReadOnly, Works),
    (Newline, Works),
    (
        Empty,
        Refused(
            1,
            "'NAME' is empty: a RAM image has at least one page of 4096 bytes",
        ),
    ),
    (
        Odd,
        Refused(
            1,
            "'NAME' is not a raw RAM image: 5000 bytes is not a multiple of the page size, 4096",
        ),
    ),
    (New, Refused(1, NOT_FOUND)),
    (Dangling, Refused(1, NOT_FOUND)),
    (
        Loop,
        Refused(
            1,
            "cannot open 'NAME': Too many levels of symbolic links (os error 40)",
        ),
    ),
    (
        Dir,
        Refused(
            1,
            "guest folder 'NAME': it has no guest.json, so it is not one",
        ),
    ),
    (
        Slash,
        Refused(1, "cannot open 'NAME': Not a directory (os error 20)"),
    ),
    (
        Fifo,
        Refused(
            1,
            "'NAME' is a named pipe: a RAM image is a regular file, a block device or a guest folder",
        ),
    ),
    (
        Socket,
        Refused(
            1,
            "'NAME' is a socket: a RAM image is a regular file, a block device or a guest folder",
        ),
    ),
    (
        Zero,
        Refused(
            1,
            "'NAME' is a character device: a RAM image is a regular file, a block device or a guest folder",
        ),
    ),
    (
        Proc,
        Refused(
            1,
            "'NAME' lies on proc, which holds no RAM images: copy it to another file first",
        ),
    ),
    (
        Unreadable,
        Refused(1, "cannot open 'NAME': Permission denied (os error 13)"),
    ),
    (
        Long,
        Refused(1, "cannot open 'NAME': File name too long (os error 36)"),
    ),
    (
        Dash,
        Refused(
            2,
            "'-' (standard input) cannot be used here: a file is needed that can be read at any position; ./- is a file of this name",
        ),
    ),
];

const INSPECT: &[(Kind, Outcome)] = &[
    (Kind::File, Works),
    (Device, Works),
    (
        Fifo,
        Refused(1, "cannot read 'NAME': no program writes to this pipe"),
    ),
    (
        Socket,
        Refused(
            1,
            "'NAME' is a socket: a RAM image is a regular file, a block device or a guest folder",
        ),
    ),
    (
        Null,
        Refused(
            1,
            "'NAME' is not a migration stream, and a RAM image must be a regular file or a block device",
        ),
    ),
    (
        Zero,
        Refused(
            1,
            "'NAME' is not a migration stream, and a RAM image must be a regular file or a block device",
        ),
    ),
    (
        Dir,
        Refused(
            1,
            "guest folder 'NAME': it has no guest.json, so it is not one",
        ),
    ),
    (
        Proc,
        Refused(
            1,
            "'NAME' lies on proc, which holds no RAM images: copy it to another file first",
        ),
    ),
];

const OUTPUT: &[(Kind, Outcome)] = &[
    (New, Works),
    (NewSlash, Works),
    (Kind::File, Works),
    (Link, Works),
    (Dangling, Works),
    (Loop, Works),
    (Newline, Works),
    (Device, Works),
    (Ext2, Works),
    (
        Mounted,
        Refused(
            1,
            "'NAME' is in use: unmount it, or end the program that has it open",
        ),
    ),
    (
        Dir,
        Refused(
            1,
            "'NAME' is a folder, which cannot be replaced: choose another output",
        ),
    ),
    (
        MountPoint,
        Refused(
            1,
            "'NAME' is a folder, which cannot be replaced: choose another output",
        ),
    ),
    (
        BoundFile,
        Refused(1, "cannot replace 'NAME': it is a mount point"),
    ),
    (
        Immutable,
        Refused(1, "cannot replace 'NAME': it is immutable (chattr +i)"),
    ),
    (
        AppendOnly,
        Refused(
            1,
            "cannot replace 'NAME': its folder is append-only (chattr +a)",
        ),
    ),
    (
        Nowhere,
        Refused(
            1,
            "cannot use the folder of 'NAME': No such file or directory (os error 2)",
        ),
    ),
    (
        Fifo,
        Refused(
            1,
            "'NAME' is a named pipe, which cannot be replaced: choose another output",
        ),
    ),
    (
        Socket,
        Refused(
            1,
            "'NAME' is a socket, which cannot be replaced: choose another output",
        ),
    ),
    (
        Null,
        Refused(
            1,
            "'NAME' is a character device, which cannot be replaced: choose another output",
        ),
    ),
    (
        Proc,
        Refused(
            1,
            "cannot write 'NAME': it lies on proc; choose a folder on another file system",
        ),
    ),
    (
        ProcNew,
        Refused(
            1,
            "cannot write 'NAME': it lies on proc; choose a folder on another file system",
        ),
    ),
    (
        SysNew,
        Refused(
            1,
            "cannot write 'NAME': it lies on sysfs; choose a folder on another file system",
        ),
    ),
    (
        Inherited,
        Refused(
            1,
            "cannot write 'NAME': it lies on proc; choose a folder on another file system",
        ),
    ),
    (
        Unwritable,
        Refused(
            1,
            "cannot create 'NAME.partial': Permission denied (os error 13)",
        ),
    ),
    (
        ReadOnlyNew,
        Refused(
            1,
            "cannot create 'NAME.partial': Read-only file system (os error 30)",
        ),
    ),
    (
        FullDisk,
        Refused(
            1,
            "cannot write 'NAME.partial': No space left on device (os error 28)",
        ),
    ),
    (
        TakenPartial,
        Refused(
            1,
            "'NAME.partial' is not a partial output of ramferry's: rename or remove it, or choose another output",
        ),
    ),
    (
        Long,
        Refused(1, "cannot examine 'NAME': File name too long (os error 36)"),
    ),
    (
        Dash,
        Refused(
            2,
            "'-' (standard output) cannot be used here: a file is needed that can be written at any position; ./- is a file of this name",
        ),
    ),
];

const STORE: &[(Kind, Outcome)] = &[
    (New, Works),
    (Kind::File, Works),
    (Link, Works),
    (Dangling, Works),
    (Newline, Works),
    (Null, Works),
    (Ext2, Works),
    (
        Device,
        Refused(
            1,
            "cannot store a stream in file:NAME: it is a block device: use 'exec:dd of=NAME bs=1M' to overwrite it",
        ),
    ),
    (
        Dir,
        Refused(1, "cannot store a stream in file:NAME: it is a folder"),
    ),
    (
        Socket,
        Refused(1, "cannot store a stream in file:NAME: it is a socket"),
    ),
    (
        Fifo,
        Refused(
            1,
            "cannot connect to file:NAME within 0.1 s: no program reads this pipe",
        ),
    ),
    (
        Full,
        Refused(
            1,
            "cannot write to file:NAME: No space left on device (os error 28)",
        ),
    ),
    (
        BoundFile,
        Refused(1, "cannot replace 'NAME': it is a mount point"),
    ),
    (
        Immutable,
        Refused(1, "cannot replace 'NAME': it is immutable (chattr +i)"),
    ),
    (
        ProcNew,
        Refused(
            1,
            "cannot write 'NAME': it lies on proc; choose a folder on another file system",
        ),
    ),
    (
        Nowhere,
        Refused(
            1,
            "cannot create 'NAME.partial': No such file or directory (os error 2)",
        ),
    ),
    (
        ReadOnlyNew,
        Refused(
            1,
            "cannot create 'NAME.partial': Read-only file system (os error 30)",
        ),
    ),
    (
        FullDisk,
        Refused(
            1,
            "cannot write 'NAME.partial': No space left on device (os error 28)",
        ),
    ),
    (
        TakenPartial,
        Refused(
            1,
            "'NAME.partial' is not a partial output of ramferry's: rename or remove it, or choose another output",
        ),
    ),
    (
        Dash,
        Refused(
            2,
            "invalid address 'file:NAME': standard input is fd:0, standard output fd:1, and a file of this name file:./-; allowed are tcp:HOST:PORT, unix:PATH, file:PATH, fd:N and exec:COMMAND",
        ),
    ),
];

const LOAD: &[(Kind, Outcome)] = &[
    (Kind::File, Works),
    (Link, Works),
    (Inherited, Works),
    (Deleted, Works),
    (Memfd, Works),
    (
        Empty,
        Refused(
            1,
            "file:NAME ends before the stream does (while negotiating)",
        ),
    ),
    (
        Null,
        Refused(
            1,
            "file:NAME ends before the stream does (while negotiating)",
        ),
    ),
    (
        New,
        Refused(
            1,
            "cannot open file:NAME: No such file or directory (os error 2)",
        ),
    ),
    (Dir, Refused(1, "cannot open file:NAME: it is a folder")),
    (
        Device,
        Refused(
            1,
            "cannot open file:NAME: it is a block device, which goes on where the stream ends: use 'exec:head -c BYTES NAME'",
        ),
    ),
    (Socket, Refused(1, "cannot open file:NAME: it is a socket")),
    (Fifo, Refused(1, "the peer has been silent for 0.1 s")),
    (
        Zero,
        Refused(
            1,
            "this is not a ramferry stream: it begins with [00, 00, 00, 00, 00, 00, 00, 00] (while negotiating)",
        ),
    ),
];

const EXPORT: &[(Kind, Outcome)] = &[
    (New, Works),
    (Kind::File, Works),
    (Null, Works),
    (
        Fifo,
        Refused(
            2,
            "cannot write 'NAME': no program reads this pipe; start it first",
        ),
    ),
    (Socket, Refused(2, "cannot write 'NAME': it is a socket")),
    (
        Device,
        Refused(2, "cannot write 'NAME': it is a block device"),
    ),
    (
        Dir,
        Refused(2, "cannot write 'NAME': Is a directory (os error 21)"),
    ),
    (
        Nowhere,
        Refused(
            2,
            "cannot write 'NAME': No such file or directory (os error 2)",
        ),
    ),
    (
        ReadOnlyNew,
        Refused(
            2,
            "cannot write 'NAME': Read-only file system (os error 30)",
        ),
    ),
    (
        Immutable,
        Refused(
            2,
            "cannot write 'NAME': Operation not permitted (os error 1)",
        ),
    ),
];

const RECORDS: &[(Kind, Outcome)] = &[
    (New, Works),
    (
        Kind::File,
        Refused(
            1,
            "'NAME' exists and is not a churn's records: choose another file with --records",
        ),
    ),
    (
        Fifo,
        Refused(
            1,
            "'NAME' exists and is not a churn's records: choose another file with --records",
        ),
    ),
    (
        Device,
        Refused(
            1,
            "'NAME' exists and is not a churn's records: choose another file with --records",
        ),
    ),
    (
        ProcNew,
        Refused(
            1,
            "cannot create 'NAME': No such file or directory (os error 2); choose another file with --records",
        ),
    ),
    (
        ReadOnlyNew,
        Refused(
            1,
            "cannot create 'NAME': Read-only file system (os error 30); choose another file with --records",
        ),
    ),
];

const LISTEN: &[(Kind, Outcome)] = &[
    (New, Works),
    // Left by a process that was killed.
    (Socket, Works),
    (
        Kind::File,
        Refused(
            1,
            "cannot listen on unix:NAME: it exists and is not a socket",
        ),
    ),
    (
        Fifo,
        Refused(
            1,
            "cannot listen on unix:NAME: it exists and is not a socket",
        ),
    ),
    (
        Dir,
        Refused(
            1,
            "cannot listen on unix:NAME: it exists and is not a socket",
        ),
    ),
    (
        Nowhere,
        Refused(
            1,
            "cannot listen on unix:NAME: No such file or directory (os error 2)",
        ),
    ),
    (
        ReadOnlyNew,
        Refused(
            1,
            "cannot listen on unix:NAME: Read-only file system (os error 30)",
        ),
    ),
    (
        Long,
        Refused(
            2,
            "invalid address 'unix:NAME': the path of a socket has at most 107 bytes; allowed are tcp:HOST:PORT, unix:PATH, file:PATH, fd:N and exec:COMMAND",
        ),
    ),
];

impl Role {
    pub(super) const ALL: [Role; 8] = [
        Role::Image,
        Role::Inspect,
        Role::Output,
        Role::Store,
        Role::Load,
        Role::Export,
        Role::Records,
        Role::Listen,
    ];

    pub(super) fn rows(self) -> &'static [(Kind, Outcome)] {
        match self {
            Role::Image => IMAGE,
            Role::Inspect => INSPECT,
            Role::Output => OUTPUT,
            Role::Store => STORE,
            Role::Load => LOAD,
            Role::Export => EXPORT,
            Role::Records => RECORDS,
            Role::Listen => LISTEN,
        }
    }

    /// The heading on the page.
    pub(super) fn heading(self) -> &'static str {
        match self {
            Role::Image => "IMAGE of `send`, `bench`, `digest` and `churn`, and of `--then`",
            Role::Inspect => "FILE of `inspect`",
            Role::Output => "OUTPUT of `receive`, with `--force` if it exists",
            Role::Store => "`file:PATH` of `send`, with `--force` if it exists",
            Role::Load => "`file:PATH` of `receive`",
            Role::Export => "the files of `bench`: `--report`, `--export-json` and the like",
            Role::Records => "`--records` of `churn`",
            Role::Listen => "`unix:PATH` to listen on, that of `--monitor` too",
        }
    }
}
