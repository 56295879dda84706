//! What was being done when an error occurred.

pub(super) const NEGOTIATING: &str = "while negotiating";
pub(super) const RECEIVING: &str = "while receiving";
pub(super) const DECODING: &str = "while decoding";
pub(super) const PROVING: &str = "while proving";
pub(super) const COMMITTING: &str = "while committing";
