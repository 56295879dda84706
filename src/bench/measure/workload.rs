//! What all migrations of a benchmark have in common.

use std::path::{Path, PathBuf};

use serde::Serialize;

use super::scratch::Scratch;
use crate::error::Result;
use crate::image::{Later, RAW_BLOCK_NAME};
use crate::transport::Address;

/// The connection between the two ends. A slower link can be emulated on top, by the parameter `link`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Transport {
    /// A unix socket, the cheapest connection.
    #[default]
    Unix,
    /// TCP over the loopback interface, with the cost of TCP.
    Tcp,
}

names!(
    "transport",
    Transport {
        Unix: "unix",
        Tcp: "tcp"
    }
);

/// What all migrations of a benchmark have in common.
#[derive(Debug)]
pub struct Workload {
    image: PathBuf,
    then: Vec<Later>,
    /// Whether running processes that can write the images are known not to.
    pub(super) paused: bool,
    pub(super) address: Address,
    pub(super) output: PathBuf,
    /// The only block of a raw image, so that the output on the qemu wire is a raw image too.
    pub(super) block: Option<String>,
    /// The folder of the socket. The folder of the output may be on a file system without sockets, or
    /// its name may be too long for one.
    _socket: Option<Scratch>,
}

impl Workload {
    /// Migrations of `image`, and of the later images `then` as delta rounds, over `transport`. Received
    /// RAM is written to `scratch`.
    ///
    /// # Errors
    /// The folder for a socket cannot be made.
    pub fn new(
        image: PathBuf,
        then: Vec<Later>,
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
            paused: false,
            address,
            output: scratch.path().join("arrived.ram"),
            _socket: socket,
        })
    }

    /// Whether the guest is paused: images are read though running processes can write them.
    #[must_use]
    pub fn paused(mut self, paused: bool) -> Workload {
        self.paused = paused;
        self
    }

    /// The first image.
    pub fn image(&self) -> &Path {
        &self.image
    }

    /// The later images.
    pub fn then(&self) -> &[Later] {
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
