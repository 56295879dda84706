//! What to send or receive, and how, before the migration is started.

use std::fmt;
use std::path::PathBuf;

use crate::error::Result;
use crate::image::{ImageFormat, Later};
use crate::params::{Params, Side};
use crate::settings::Settings;
use crate::source::Live;
use crate::stats::{Event, Observer};
use crate::sync;
use crate::transport::Address;
use crate::wire::Format;
use crate::{destination, source};

use super::Migration;

/// An image or a guest folder to send, by [`Migration::send`].
#[derive(Debug, Clone)]
pub struct SendImage(pub(super) PathBuf);

impl SendImage {
    /// Where to send it.
    pub fn to(self, address: Address) -> SendBuilder {
        SendBuilder {
            request: source::Request::new(self.0, address),
            settings: Settings::default(),
            observers: Observers::default(),
        }
    }
}

/// A file or folder to receive into, by [`Migration::receive`].
#[derive(Debug, Clone)]
pub struct ReceiveOutput(pub(super) PathBuf);

impl ReceiveOutput {
    /// Where to listen, or what to read.
    pub fn from(self, address: Address) -> ReceiveBuilder {
        ReceiveBuilder {
            request: destination::Request::new(address, self.0),
            settings: Settings::default(),
            observers: Observers::default(),
            on_listening: Box::new(|_| {}),
            on_dropped: Box::new(|_| {}),
        }
    }
}

/// A migration to another place that is not started yet.
#[derive(Debug)]
#[must_use = "nothing is sent before start()"]
pub struct SendBuilder {
    pub(super) request: source::Request,
    settings: Settings,
    observers: Observers,
}

impl SendBuilder {
    /// The parameters and capabilities; the defaults unless given.
    pub fn settings(mut self, settings: impl Into<Settings>) -> SendBuilder {
        self.settings = settings.into();
        self
    }

    /// Replaces the parameters alone.
    pub fn params(mut self, params: Params) -> SendBuilder {
        self.settings.params = params;
        self
    }

    /// Images of the same guest at later times: a delta round each. Paths are whole images; a
    /// [`Later::diff`] is a sparse diff against the one before.
    pub fn then(mut self, images: impl IntoIterator<Item: Into<Later>>) -> SendBuilder {
        self.request.then = images.into_iter().map(Into::into).collect();
        self
    }

    /// The guest's RAM is being written to: resend what changes, and stop its writer at the end.
    pub fn live(mut self, live: impl Into<Option<Live>>) -> SendBuilder {
        self.request.live = live.into();
        self
    }

    /// Which format to write; [`Format::Native`] unless given.
    pub fn format(mut self, format: Format) -> SendBuilder {
        self.request.format = format;
        self
    }

    /// Whether to go on without what the destination lacks: with another method (zlib if it has
    /// that), without deltas. What was left out is in
    /// [`Report::dropped`](crate::stats::Report::dropped). On a link without a way back it has no
    /// effect, which a notice says.
    pub fn fallback(mut self, fallback: bool) -> SendBuilder {
        self.request.fallback = fallback;
        self
    }

    /// Whether to replace the file of a `file:` address.
    pub fn force(mut self, force: bool) -> SendBuilder {
        self.request.force = force;
        self
    }

    /// Whether the file of a `file:` address is on disk when the migration is over; it is unless
    /// this says otherwise.
    pub fn sync(mut self, sync: bool) -> SendBuilder {
        self.request.sync = sync;
        self
    }

    /// Whether the guest is paused: images are read though running processes can write them, as a QEMU
    /// that its monitor has stopped. The migration fails if they change meanwhile. Not for a live one.
    pub fn paused(mut self, paused: bool) -> SendBuilder {
        self.request.paused = paused;
        self
    }

    /// What to take the image for; [`ImageFormat::Detect`] unless given.
    pub fn image_format(mut self, format: ImageFormat) -> SendBuilder {
        self.request.image_format = format;
        self
    }

    /// The name of a raw image's block; [`RAW_BLOCK_NAME`](crate::image::RAW_BLOCK_NAME) unless
    /// given.
    pub fn block(mut self, name: impl Into<Option<String>>) -> SendBuilder {
        self.request.block = name.into();
        self
    }

    /// The machine type that a raw image's stream names in QEMU's format;
    /// [`DEFAULT_MACHINE`](crate::source::DEFAULT_MACHINE) unless given.
    pub fn machine(mut self, name: impl Into<Option<String>>) -> SendBuilder {
        self.request.machine = name.into();
        self
    }

    /// Calls `observer` at every event, in the thread in which it happens: it must not wait, nor
    /// call the migration.
    pub fn on_event(mut self, observer: impl Fn(Event) + Send + Sync + 'static) -> SendBuilder {
        self.observers.0.push(Box::new(observer));
        self
    }

    /// Starts it.
    ///
    /// # Errors
    /// Settings that contradict each other, and a system without threads or descriptors left.
    /// Everything else is [`Migration::wait`]'s to report.
    pub fn start(self) -> Result<Migration> {
        let request = self.request;
        let observers = self.observers.0;
        Migration::start(self.settings, Side::Source, observers, move |context, _| {
            source::run(&request, context)
        })
    }
}

/// A migration to here that is not started yet.
#[must_use = "nothing is received before start()"]
pub struct ReceiveBuilder {
    pub(super) request: destination::Request,
    settings: Settings,
    observers: Observers,
    on_listening: Box<dyn Fn(&Address) + Send>,
    on_dropped: Box<dyn Fn(&str) + Send + Sync>,
}

impl ReceiveBuilder {
    /// The parameters, and the capabilities that a source may use; the defaults unless given.
    pub fn settings(mut self, settings: impl Into<Settings>) -> ReceiveBuilder {
        self.settings = settings.into();
        self
    }

    /// Replaces the parameters alone.
    pub fn params(mut self, params: Params) -> ReceiveBuilder {
        self.settings.params = params;
        self
    }

    /// Keeps only this block, as a raw image. The others are received and verified, but not kept.
    pub fn block(mut self, name: impl Into<Option<String>>) -> ReceiveBuilder {
        self.request.block = name.into();
        self
    }

    /// Whether to replace an output that exists.
    pub fn force(mut self, force: bool) -> ReceiveBuilder {
        self.request.force = force;
        self
    }

    /// Whether the output is on disk before the source gets the proof; it is unless this
    /// says otherwise.
    pub fn sync(mut self, sync: bool) -> ReceiveBuilder {
        self.request.sync = sync;
        self
    }

    /// Calls `listening` with the address as soon as it is listened on.
    pub fn on_listening(mut self, listening: impl Fn(&Address) + Send + 'static) -> ReceiveBuilder {
        self.on_listening = Box::new(listening);
        self
    }

    /// Calls `dropped` with a line for each connection that is dropped because it is not the
    /// source's.
    pub fn on_dropped(mut self, dropped: impl Fn(&str) + Send + Sync + 'static) -> ReceiveBuilder {
        self.on_dropped = Box::new(dropped);
        self
    }

    /// As [`SendBuilder::on_event`].
    pub fn on_event(mut self, observer: impl Fn(Event) + Send + Sync + 'static) -> ReceiveBuilder {
        self.observers.0.push(Box::new(observer));
        self
    }

    /// Starts it.
    ///
    /// # Errors
    /// As [`SendBuilder::start`].
    pub fn start(self) -> Result<Migration> {
        let request = self.request;
        let (on_listening, on_dropped) = (self.on_listening, self.on_dropped);
        let observers = self.observers.0;
        Migration::start(
            self.settings,
            Side::Destination,
            observers,
            move |context, listening| {
                let note = |address: &Address| {
                    *sync::lock(listening) = Some(address.clone());
                    on_listening(address);
                };
                destination::run(&request, context, &note, &on_dropped)
            },
        )
    }
}

impl fmt::Debug for ReceiveBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ReceiveBuilder")
            .field("request", &self.request)
            .field("settings", &self.settings)
            .finish_non_exhaustive()
    }
}

/// Called at every event.
#[derive(Default)]
struct Observers(Vec<Observer>);

impl fmt::Debug for Observers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Observers").field(&self.0.len()).finish()
    }
}
