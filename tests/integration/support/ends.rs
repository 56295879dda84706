//! Both ends of a migration, in this process.

use std::path::{Path, PathBuf};
use std::sync::mpsc::{self, Receiver};

use ramferry::stats::Report;
use ramferry::transport::Address;
use ramferry::{Caps, Error, Migration, Params, Settings};

/// Parameters, set as on the command line.
pub(crate) fn params(values: &[(&str, &str)]) -> Params {
    let mut params = Params::default();
    params.set_all(values).unwrap();
    params
}

/// A source that is to send `images`, one a round.
pub(crate) fn source(
    images: &[PathBuf],
    address: &Address,
    caps: Caps,
    params: Params,
) -> Result<Migration, Error> {
    Migration::send(&images[0])
        .to(address.clone())
        .then(&images[1..])
        .settings(Settings::new(params, caps))
        .start()
}

/// A destination, and the address that it listens on if it does.
pub(crate) struct Destination {
    pub(crate) handle: Migration,
    pub(crate) dropped: Receiver<String>,
    listening: Receiver<Address>,
}

impl Destination {
    pub(crate) fn start(address: &Address, output: &Path, params: Params) -> Destination {
        let (heard, listening) = mpsc::channel();
        let (line, dropped) = mpsc::channel();
        let handle = Migration::receive(output)
            .from(address.clone())
            .settings(params)
            .force(true)
            .on_listening(move |address| drop(heard.send(address.clone())))
            .on_dropped(move |text| drop(line.send(text.to_owned())))
            .start()
            .unwrap();
        Destination {
            handle,
            dropped,
            listening,
        }
    }

    /// Waits until it listens.
    pub(crate) fn address(&self) -> Address {
        self.listening.recv().expect("it listens")
    }
}

/// What became of the two ends.
pub(crate) struct Outcome {
    pub(crate) source: Result<Report, Error>,
    pub(crate) destination: Result<Report, Error>,
}

/// A migration over `address`, both ends in this process.
pub(crate) fn migrate(
    address: &Address,
    images: &[PathBuf],
    output: &Path,
    caps: Caps,
    source_params: Params,
) -> Outcome {
    if !address.is_listening() {
        let sent = source(images, address, caps, source_params).and_then(Migration::wait);
        let destination = Destination::start(address, output, Params::default());
        return Outcome {
            source: sent,
            destination: destination.handle.wait(),
        };
    }
    let destination = Destination::start(address, output, Params::default());
    let to = destination.address();
    Outcome {
        source: source(images, &to, caps, source_params).and_then(Migration::wait),
        destination: destination.handle.wait(),
    }
}

pub(crate) fn unix(path: &Path) -> Address {
    Address::Unix(path.to_owned())
}

pub(crate) fn any_port() -> Address {
    "tcp:127.0.0.1:0".parse().unwrap()
}
