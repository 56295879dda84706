//! Control of a migration from outside: start it, look at it, change it, cancel it.

mod handle;
#[cfg(test)]
mod tests;

pub use handle::Handle;
