//! Which settings, how often, and one run of each.

pub mod axes;
pub mod budget;
pub mod codec_speed;
pub mod conditions;
mod machine;
pub mod memcpy;
pub mod methods;
pub mod migrate;
pub mod preset;
pub mod scratch;
pub mod setting;
pub mod workload;
