//! The error that leaves the crate: what went wrong, where, and what that means for the caller.
//!
//! Every layer has an enum of its own ([`crate::image::ImageError`], [`crate::wire::WireError`],
//! ...). Going up, each becomes an [`Error`]: the layer's error is kept as the source, the
//! [`Kind`] says what a caller can do about it, and the [`Place`] is added where it is known.

use std::fmt;

use crate::text::printable;

/// What an error means for the caller. The program's exit code follows from it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Kind {
    /// It failed; trying again may help. The source is usable, the old output untouched.
    Failed,
    /// The request is invalid; nothing was done.
    Usage,
    /// What arrived is not what was sent, or what was compared differs.
    Differs,
    /// The peer refused, and said why.
    Refused,
    /// The link broke after Commit was sent: the destination may or may not have taken over.
    OutcomeUnknown,
    /// A comparison of two measurements found something slower than allowed. One that cannot tell is
    /// [`Kind::Failed`].
    Slower,
    /// A signal or the caller ended it.
    Interrupted,
}

/// Where in a migration something went wrong, as far as it is known.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Place {
    /// What was being done, in a word or two.
    pub stage: Option<&'static str>,
    /// The round, from 1.
    pub round: Option<u32>,
    /// The first page of the batch in hand.
    pub page: Option<u64>,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut separator = "";
        if let Some(stage) = self.stage {
            write!(f, "{stage}")?;
            separator = ", ";
        }
        if let Some(round) = self.round {
            write!(f, "{separator}round {round}")?;
            separator = ", ";
        }
        if let Some(page) = self.page {
            write!(f, "{separator}page {page}")?;
        }
        Ok(())
    }
}

/// An error of the crate. Its sources are kept: `std::error::Error::source` leads to the layer's own.
#[derive(Debug)]
pub struct Error {
    kind: Kind,
    place: Place,
    cause: Box<dyn std::error::Error + Send + Sync>,
}

/// Short for results of this crate.
pub type Result<T, E = Error> = std::result::Result<T, E>;

impl From<std::io::Error> for Error {
    fn from(error: std::io::Error) -> Error {
        Error::new(Kind::Failed, error)
    }
}

impl Error {
    /// An error with a cause of some layer.
    pub fn new(kind: Kind, cause: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Error {
        Error {
            kind,
            place: Place::default(),
            cause: cause.into(),
        }
    }

    /// The error of a migration that was cancelled.
    pub fn interrupted() -> Error {
        Error::new(Kind::Interrupted, "interrupted")
    }

    /// Runs `work` and turns a panic into an error, so that no other thread waits for it for ever.
    ///
    /// # Errors
    /// Those of `work`, and its panic.
    pub fn catch<T>(stage: &'static str, work: impl FnOnce() -> Result<T>) -> Result<T> {
        // What a panic leaves half done belongs to a session that is over.
        std::panic::catch_unwind(std::panic::AssertUnwindSafe(work))
            .unwrap_or_else(|panic| Err(Error::panicked(stage, panic.as_ref())))
    }

    /// A thread panicked.
    pub fn panicked(stage: &'static str, payload: &(dyn std::any::Any + Send)) -> Error {
        let text = payload
            .downcast_ref::<&str>()
            .map(|text| (*text).to_owned())
            .or_else(|| payload.downcast_ref::<String>().cloned())
            .unwrap_or_else(|| "no message".to_owned());
        Error::new(Kind::Failed, format!("a worker panicked: {text}")).in_stage(stage)
    }

    /// Replaces the cause by one that has it as its source.
    #[must_use]
    pub(crate) fn caused<E>(
        self,
        outer: impl FnOnce(Box<dyn std::error::Error + Send + Sync>) -> E,
    ) -> Error
    where
        E: std::error::Error + Send + Sync + 'static,
    {
        Error {
            cause: outer(self.cause).into(),
            ..self
        }
    }

    /// What it means for the caller.
    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// Where it happened.
    pub fn place(&self) -> Place {
        self.place
    }

    /// Names the stage, unless one further down has.
    #[must_use]
    pub fn in_stage(mut self, stage: &'static str) -> Error {
        self.place.stage.get_or_insert(stage);
        self
    }

    /// Names the round, unless someone further down has.
    #[must_use]
    pub fn in_round(mut self, round: u32) -> Error {
        self.place.round.get_or_insert(round);
        self
    }

    /// Names the page, unless someone further down has.
    #[must_use]
    pub fn at_page(mut self, page: u64) -> Error {
        self.place.page.get_or_insert(page);
        self
    }

    /// The first error of type `T` among the causes, from the layer's own error down.
    pub fn cause<T: std::error::Error + 'static>(&self) -> Option<&T> {
        let mut next: Option<&(dyn std::error::Error + 'static)> = Some(&*self.cause);
        while let Some(cause) = next {
            if let Some(found) = cause.downcast_ref() {
                return Some(found);
            }
            next = cause.source();
        }
        None
    }

    /// Everything that is known, in one line: the message, its causes, the place.
    pub fn one_line(&self) -> String {
        let mut line = self.cause.to_string();
        let mut next = self.cause.source();
        while let Some(cause) = next {
            line.push_str(": ");
            line.push_str(&cause.to_string());
            next = cause.source();
        }
        if self.place != Place::default() {
            line.push_str(&format!(" ({})", self.place));
        }
        printable(&line)
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.cause)?;
        if self.place == Place::default() {
            Ok(())
        } else {
            write!(f, " ({})", self.place)
        }
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.cause.source()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_line_holds_the_causes_and_the_place_nearest_to_the_fault() {
        #[derive(Debug, thiserror::Error)]
        #[error("cannot read 'x'")]
        struct Outer(#[source] std::io::Error);
        let inner = std::io::Error::other("the disk is gone");
        let error = Error::new(Kind::Failed, Outer(inner))
            .in_stage("encode")
            .at_page(7)
            .in_stage("send")
            .in_round(2);
        assert_eq!(
            error.one_line(),
            "cannot read 'x': the disk is gone (encode, round 2, page 7)"
        );
        assert!(error.cause::<Outer>().is_some());
        assert!(error.cause::<std::io::Error>().is_some(), "further down");
        assert!(error.cause::<std::fmt::Error>().is_none());
    }
}
