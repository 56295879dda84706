//! What all migrations of a comparison have in common.

use std::path::{Path, PathBuf};

use serde::Serialize;

use super::scratch::Scratch;
use crate::error::Result;
use crate::image::RAW_BLOCK_NAME;
use crate::transport::Address;

/// What joins the two ends. A slower link can be emulated on top, by the parameter `link`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Transport {
    /// A unix socket: the cheapest link there is.
    #[default]
    Unix,
    /// TCP over the loopback interface, with what TCP costs.
    Tcp,
}

names!(
    "transport",
    Transport {
        Unix: "unix",
        Tcp: "tcp"
    }
);

/// What all migrations of a comparison have in common.
#[derive(Debug)]
pub struct Workload {
    image: PathBuf,
    then: Vec<PathBuf>,
    pub(super) address: Address,
    pub(super) output: PathBuf,
    /// The one block of a raw image, which stays a raw image on the qemu wire too.
    pub(super) block: Option<String>,
    /// Holds the socket until all is over: the folder of the output may be on a file system
    /// without sockets, or its name may be too long for one.
    _socket: Option<Scratch>,
}

impl Workload {
    /// Migrations of `image`, and of its later states `then` as delta rounds, over `transport`. What
    /// arrives is written to `scratch`.
    ///
    /// # Errors
    /// When there is no place for a socket.
    pub fn new(
        image: PathBuf,
        then: Vec<PathBuf>,
        transport: Transport,
        scratch: &Scratch,
    ) -> Result<Workload> {
        let (address, socket) = match transport {
            Transport::Unix => {
                let folder = Scratch::new_in(&std::env::temp_dir())?;
                (Address::Unix(folder.path().join("link")), Some(folder))
            }
            Transport::Tcp => {
                let host = "127.0.0.1".to_owned();
                (Address::Tcp { host, port: 0 }, None)
            }
        };
        Ok(Workload {
            block: (!image.is_dir()).then(|| RAW_BLOCK_NAME.to_owned()),
            image,
            then,
            address,
            output: scratch.path().join("arrived.ram"),
            _socket: socket,
        })
    }

    /// The image that is sent first.
    pub fn image(&self) -> &Path {
        &self.image
    }

    /// Its later states.
    pub fn then(&self) -> &[PathBuf] {
        &self.then
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn transports_are_read_as_they_are_shown() {
        for transport in [Transport::Unix, Transport::Tcp] {
            assert_eq!(transport.to_string().parse(), Ok(transport));
        }
        assert!("rdma".parse::<Transport>().is_err());
    }
}
