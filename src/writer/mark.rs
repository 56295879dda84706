//! The mark on an image whose guest was handed over.
//!
//! It is the extended attribute [`ATTRIBUTE`] of each image, in lines of `name value`: `boot` (the
//! boot's id), `time` (seconds since 1970), `to` (the destination's address), `seen-from` (the time and PID
//! namespaces, as readlink(2) of `/proc/self/ns` has them) and any number of `writer` (`PID:STARTED`, as
//! field 22 of `/proc/PID/stat`). It holds as long as a process that could write the
//! guest then still can: it was left stopped, and the destination may run the guest. A mark is stale
//! after a reboot and once those processes are gone, as another guest in the same file has other writers.
//! In other namespaces processes have other start times, or do not show: there it is stale after a reboot
//! only.
//!
//! Only the next hand-over replaces a mark. A migration that fails before leaves it as it was: the guest
//! may still run where it went the first time.

use std::fs::File;
use std::io;
use std::path::Path;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rustix::fs::{XattrFlags, fgetxattr, fremovexattr, fsetxattr};

use super::WriterError;
use super::held::{Target, start_of};
use super::users::{User, Writers, writers_of};
use crate::text::printable;

/// Where the mark is.
const ATTRIBUTE: &str = "user.ramferry.handed-over";

/// A mark takes at most this; an ext4 inode has room for about half of a block.
const MOST: usize = 1500;

/// The mark of an image as it was found, to be put back.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Found(Option<Vec<u8>>);

impl Found {
    /// Reads the attribute as it is, be it a mark or not.
    pub(super) fn of(file: &File) -> Found {
        let mut bytes = vec![0; MOST];
        let len = fgetxattr(file, ATTRIBUTE, &mut bytes[..]).ok();
        Found(len.map(|len| {
            bytes.truncate(len);
            bytes
        }))
    }

    /// Puts it back, which also says whether the file can be marked at all.
    pub(super) fn put_back(&self, file: &File) -> io::Result<()> {
        let bytes = self.0.as_deref().unwrap_or_default();
        fsetxattr(file, ATTRIBUTE, bytes, XattrFlags::empty())?;
        if self.0.is_none() {
            fremovexattr(file, ATTRIBUTE)?;
        }
        Ok(())
    }

    fn mark(&self) -> Option<Mark> {
        Mark::parse(&String::from_utf8_lossy(self.0.as_deref()?))
    }
}

/// Refuses an image with a mark that holds, if `writers` can write it.
///
/// # Errors
/// [`WriterError::HandedOver`].
pub(super) fn check(image: &Path, found: &Found, writers: &Writers) -> Result<(), WriterError> {
    let Some(mark) = found.mark().filter(|mark| mark.boot == boot()) else {
        return Ok(());
    };
    let left = mark.left_of(writers);
    let cannot_tell = mark.writers.is_empty() || mark.seen_from != namespaces();
    if left.is_none() && !cannot_tell {
        return Ok(());
    }
    Err(WriterError::HandedOver {
        image: image.to_owned(),
        ago: mark.ago(),
        to: mark.to,
        writer: left,
        live: true,
    })
}

/// As [`check`], for images that are read as RAM at rest.
///
/// # Errors
/// [`WriterError::HandedOver`], and I/O errors.
pub(super) fn check_at_rest<P: AsRef<Path>>(images: &[P]) -> Result<(), WriterError> {
    for image in images {
        let image = image.as_ref();
        // One that cannot be opened is refused where it is read.
        let Ok(file) = File::open(image) else {
            continue;
        };
        let found = Found::of(&file);
        if found.mark().is_none() {
            continue;
        }
        let writers = writers_of(&[image]).map_err(super::search_failed)?;
        check(image, &found, &writers).map_err(WriterError::at_rest)?;
    }
    Ok(())
}

/// Marks an image as handed over to `to` by these writers.
pub(super) fn set(file: &File, to: &str, writers: &Writers) {
    let mark = Mark::now(to, writers).text();
    // If it cannot be set, that was said at the start.
    let _ = fsetxattr(file, ATTRIBUTE, mark.as_bytes(), XattrFlags::empty());
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Mark {
    boot: String,
    time: u64,
    to: String,
    seen_from: String,
    writers: Vec<Target>,
}

impl Mark {
    fn now(to: &str, writers: &Writers) -> Mark {
        let since = SystemTime::now().duration_since(UNIX_EPOCH);
        let target = |pid| {
            let started = start_of(pid)?;
            Some(Target { pid, started })
        };
        Mark {
            boot: boot(),
            time: since.map_or(0, |since| since.as_secs()),
            to: printable(to).chars().take(MOST / 4).collect(),
            seen_from: namespaces(),
            writers: (writers.users.iter())
                .filter_map(|user| target(user.pid))
                .collect(),
        }
    }

    fn text(&self) -> String {
        let Mark {
            boot,
            time,
            to,
            seen_from,
            ..
        } = self;
        let mut text = format!("boot {boot}\ntime {time}\nto {to}\nseen-from {seen_from}\n");
        for Target { pid, started } in &self.writers {
            let line = format!("writer {pid}:{started}\n");
            if text.len() + line.len() > MOST {
                break;
            }
            text.push_str(&line);
        }
        text
    }

    /// A process that wrote the guest then, and still can.
    fn left_of(&self, writers: &Writers) -> Option<User> {
        let unseen = writers.unseen.iter().map(|&pid| User::named(pid));
        let mut users = writers.users.iter().cloned().chain(unseen);
        users.find(|user| {
            let started = start_of(user.pid);
            self.writers
                .iter()
                .any(|writer| started == Some(writer.started))
        })
    }

    /// Another program may have written it: what is not understood is left out.
    fn parse(text: &str) -> Option<Mark> {
        let mut lines = text.lines().filter_map(|line| line.split_once(' '));
        let value = |name| move |line: &(&str, &str)| line.0 == name;
        let boot = lines.clone().find(value("boot"))?.1.to_owned();
        let to = lines.clone().find(value("to"))?.1;
        let time = lines.clone().find(value("time"))?.1.parse().ok()?;
        let seen_from = lines.clone().find(value("seen-from"));
        let mut writers = Vec::new();
        for (_, text) in lines.by_ref().filter(value("writer")) {
            writers.extend(Target::parse(text));
        }
        Some(Mark {
            boot,
            time,
            to: printable(to),
            seen_from: seen_from.map_or_else(String::new, |line| line.1.to_owned()),
            writers,
        })
    }

    fn ago(&self) -> Duration {
        let then = UNIX_EPOCH.checked_add(Duration::from_secs(self.time));
        then.and_then(|then| SystemTime::now().duration_since(then).ok())
            .unwrap_or_default()
    }
}

/// Differs after each boot: PIDs and start times begin anew. Random(4).
fn boot() -> String {
    let id = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
    id.trim().to_owned()
}

/// What start times and PIDs are relative to: time_namespaces(7) and pid_namespaces(7). Kernels without
/// them have one of each.
fn namespaces() -> String {
    ["time", "pid"]
        .map(|kind| {
            let link = std::fs::read_link(format!("/proc/self/ns/{kind}"));
            link.map_or_else(|_| format!("{kind}:"), |link| link.display().to_string())
        })
        .join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mark_is_read_as_it_was_written_and_nonsense_is_not() {
        let mark = Mark {
            boot: "b-1".to_owned(),
            time: 1_795_403_519,
            to: "tcp:host:4444".to_owned(),
            seen_from: "time:[1] pid:[2]".to_owned(),
            writers: [(7, 99), (8, 100)]
                .map(|(pid, started)| Target { pid, started })
                .to_vec(),
        };
        let text = mark.text();
        assert_eq!(
            text,
            "boot b-1\ntime 1795403519\nto tcp:host:4444\nseen-from time:[1] pid:[2]\nwriter 7:99\nwriter 8:100\n"
        );
        assert_eq!(Mark::parse(&text), Some(mark.clone()));
        for text in ["", "boot b\n", "boot b\ntime x\nto y", "\u{0}\u{1b}"] {
            assert_eq!(Mark::parse(text), None);
        }
        let hostile = Mark::parse("boot b\ntime 18446744073709551615\nto a\u{1b}[2J\nwriter 7\n");
        let hostile = hostile.unwrap();
        assert_eq!(hostile.to, "a [2J");
        assert_eq!((hostile.writers.len(), hostile.ago()), (0, Duration::ZERO));
    }

    #[test]
    fn a_mark_has_a_limit() {
        let mark = Mark {
            boot: String::new(),
            time: 0,
            to: String::new(),
            seen_from: String::new(),
            writers: vec![
                Target {
                    pid: u32::MAX,
                    started: u64::MAX
                };
                1000
            ],
        };
        assert!(mark.text().len() <= MOST);
        assert!(Mark::parse(&mark.text()).unwrap().writers.len() > 30);
    }
}
