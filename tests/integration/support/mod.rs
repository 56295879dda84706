//! What the tests share. A test imports most of it as `crate::support::NAME`; what only live
//! migrations or a QEMU need is in `support::live` and `support::qemu`.

mod ends;
mod files;
mod guests;
mod limits;
pub(crate) mod live;
mod mounts;
mod program;
pub(crate) mod qemu;
pub(crate) mod qmp;
mod relays;
mod snapshot;
mod streams;

pub(crate) use ends::*;
pub(crate) use files::*;
pub(crate) use guests::*;
pub(crate) use limits::{runs_in_a_child, signal, test_name, until, watchdog};
pub(crate) use mounts::Mount;
pub(crate) use program::*;
pub(crate) use relays::*;
pub(crate) use snapshot::assert_text;
pub(crate) use streams::*;
