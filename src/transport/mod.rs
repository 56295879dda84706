//! Links between source and destination: addresses ([`Address`]), how connections are opened
//! ([`connect`]) and accepted ([`listen`]), bytes with a time limit on silence ([`Stream`]), and an
//! emulated slower link ([`link`](mod@link)).
//!
//! Every wait in here ends when the session is aborted ([`Abort`]).

mod abort;
mod address;
mod child;
pub(crate) mod child_group;
pub mod connect;
mod error;
pub mod link;
pub mod listen;
mod sockets;
mod stream;

pub use abort::Abort;
pub(crate) use abort::{Held, Woken};
pub use address::Address;
#[cfg(feature = "cli")]
pub(crate) use address::LISTENING_SCHEMES;
pub use error::TransportError;
pub use link::EmulatedLink;
pub(crate) use sockets::{Access, UnixSocket, each_address};
pub(crate) use stream::PATIENCE;
pub use stream::Stream;
