//! Views of a report: for a terminal, a browser, other programs.

pub mod export;
pub mod html;
pub mod rows;
pub mod terminal;
