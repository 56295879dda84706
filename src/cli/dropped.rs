//! Lines about dropped connections. Anyone who can connect decides how many there would be, and must
//! neither fill a log nor keep the destination from its source.

use std::io::Write;
use std::os::fd::AsFd;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};

use crate::sync;

/// How many lines may come at once.
const AT_ONCE: u32 = 32;
/// After that, one line per interval.
const INTERVAL: Duration = Duration::from_secs(1);

/// Prints as many of the lines as is good.
#[derive(Debug)]
pub(super) struct Dropped<W> {
    inner: Mutex<Inner<W>>,
}

#[derive(Debug)]
struct Inner<W> {
    out: W,
    /// How many more may be printed now.
    left: u32,
    last: Option<Instant>,
    left_out: u64,
}

impl<W: Write + AsFd> Dropped<W> {
    /// Tells on `out`, whose reader may be slow, or not read at all.
    pub(super) fn new(out: W) -> Dropped<W> {
        let inner = Inner {
            out,
            left: AT_ONCE,
            last: None,
            left_out: 0,
        };
        Dropped {
            inner: Mutex::new(inner),
        }
    }

    /// Tells a line, or counts it.
    pub(super) fn print(&self, line: &str) {
        let mut inner = sync::lock(&self.inner);
        inner.print(line, Instant::now());
    }
}

impl<W: Write + AsFd> Inner<W> {
    fn print(&mut self, line: &str, now: Instant) {
        if self
            .last
            .is_some_and(|last| now.duration_since(last) >= INTERVAL)
        {
            self.left = self.left.max(1);
        }
        if self.left == 0 || !takes_a_line(&self.out) {
            self.left_out += 1;
            return;
        }
        self.left -= 1;
        self.last = Some(now);
        let text = match std::mem::take(&mut self.left_out) {
            0 => format!("{line}\n"),
            left_out => format!("lines left out here: {left_out}\n{line}\n"),
        };
        // The reader may be gone: that is no reason to stop listening.
        let _ = self.out.write_all(text.as_bytes());
    }
}

/// A pipe says so only while there is room for a page, so for a line.
fn takes_a_line(out: &impl AsFd) -> bool {
    let mut fds = [PollFd::new(out, PollFlags::OUT)];
    let at_once = Timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    matches!(poll(&mut fds, Some(&at_once)), Ok(1..))
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use super::*;

    #[test]
    fn a_flood_is_counted_and_later_lines_are_printed() {
        let (mut reader, writer) = std::io::pipe().unwrap();
        let dropped = Dropped::new(writer);
        let mut inner = dropped.inner.into_inner().unwrap();
        let start = Instant::now();
        (0..1000).for_each(|number| inner.print(&format!("line {number}"), start));
        inner.print("later", start + INTERVAL);
        inner.print("at once", start + INTERVAL);
        drop(inner);
        let mut text = String::new();
        reader.read_to_string(&mut text).unwrap();
        let mut expected: String = (0..AT_ONCE)
            .map(|number| format!("line {number}\n"))
            .collect();
        expected += "lines left out here: 968\nlater\n";
        assert_eq!(text, expected);
    }

    #[test]
    fn a_pipe_that_is_full_is_not_waited_for() {
        let (mut reader, mut writer) = std::io::pipe().unwrap();
        let room = rustix::pipe::fcntl_getpipe_size(&writer).unwrap();
        writer.write_all(&vec![b'x'; room]).unwrap();
        let dropped = Dropped::new(writer);
        dropped.print("this is not read");
        reader.read_exact(&mut vec![0; room]).unwrap();
        dropped.print("but this");
        drop(dropped);
        let mut text = String::new();
        reader.read_to_string(&mut text).unwrap();
        assert_eq!(text, "lines left out here: 1\nbut this\n");
    }
}
