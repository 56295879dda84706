//! Control of a migration from outside: start it, look at it, change it, cancel it.

mod handle;

pub use handle::Handle;
