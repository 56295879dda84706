//! What the runs mean: summaries, recommendations, differences between two reports.

pub mod commands;
pub mod compare;
pub mod noise;
pub mod recommend;
pub mod summarize;
