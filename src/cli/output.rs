//! What the program prints.

use std::io::{self, ErrorKind, Write};

use serde::Serialize;

use crate::error::{Error, Kind, Result};
use crate::text::printable_json;

/// Prints on standard output. A reader that has gone is not an error: `ramferry parameters | head`
/// closes the pipe early.
///
/// # Errors
/// When standard output cannot be written to.
pub(super) fn print(text: &str) -> Result<()> {
    print_while_read(text).map(drop)
}

/// As [`print`]; returns whether there is still a reader.
///
/// # Errors
/// As [`print`].
pub(super) fn print_while_read(text: &str) -> Result<bool> {
    write_to(&mut io::stdout().lock(), text)
        .map_err(|error| Error::new(Kind::Failed, error).in_stage("print"))
}

/// Prints a JSON document on standard output.
///
/// # Errors
/// As [`print`].
pub(super) fn print_json(document: &impl Serialize) -> Result<()> {
    let text = serde_json::to_string_pretty(document)
        .map_err(|error| Error::new(Kind::Failed, error).in_stage("print"))?;
    print(&(printable_json(&text) + "\n"))
}

/// Prints a line on standard output, if it is open: announcing something is never a reason to stop.
pub(super) fn announce(line: &str) {
    let _ = write_to(&mut io::stdout().lock(), &format!("{line}\n"));
}

/// Prints a line on standard error, if it is open. It is written in one piece, so that the lines of
/// two programs on one terminal do not mix.
pub(super) fn report(line: &str) {
    let _ = io::stderr().write_all(format!("{line}\n").as_bytes());
}

fn write_to(out: &mut impl Write, text: &str) -> io::Result<bool> {
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == ErrorKind::BrokenPipe => Ok(false),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Fails each write with an error of this kind.
    struct Failing(ErrorKind);

    impl Write for Failing {
        fn write(&mut self, _: &[u8]) -> io::Result<usize> {
            Err(self.0.into())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn a_closed_pipe_is_no_error_but_a_full_disk_is() {
        assert!(!write_to(&mut Failing(ErrorKind::BrokenPipe), "x").unwrap());
        assert!(write_to(&mut Failing(ErrorKind::StorageFull), "x").is_err());
    }
}
