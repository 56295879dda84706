//! ramferry moves a virtual machine's RAM from one place to another, fast, and proves that it
//! arrived.
#![deny(unsafe_code)]

pub mod caps;
pub mod cli;
pub mod codec;
pub mod control;
pub mod delta;
pub mod destination;
pub mod dirty;
pub mod error;
mod fault;
pub mod image;
pub mod page;
pub mod params;
mod pool;
pub mod session;
pub mod source;
pub mod stats;
mod sys;
pub mod transport;
pub mod units;
pub mod wire;

pub use caps::Caps;
pub use control::Handle;
pub use error::{Error, Kind};
pub use params::Params;
