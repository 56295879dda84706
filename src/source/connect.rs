//! The source's links: opened, greeted, agreed upon; and given up or closed in the end.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::caps::Caps;
use crate::error::{Error, Kind, Result};
use crate::image::Guest;
use crate::page::PAGE_SIZE;
use crate::session::{self, Agreed, Context};
use crate::transport::connect::{Connected, Connector, Stored};
use crate::transport::{Stream, TransportError};
use crate::wire::{BlockInfo, Format};

use super::agree;
use super::qemu::{self, Framing};
use super::{LAST_WORDS, Request};

/// The connections of a session. The first carries the messages.
#[derive(Debug)]
pub(super) struct Links {
    pub(super) streams: Vec<Stream>,
    pub(super) agreed: Agreed,
    stored: Option<Stored>,
    /// Whether the first stream is in the middle of a frame: then nothing more can be said on it.
    mid_frame: AtomicBool,
    /// What the rounds stand in, on the qemu wire.
    pub(super) framing: Option<Framing>,
    /// What is used: what was asked for, without what was left out.
    pub(super) caps: Caps,
}

impl Links {
    pub(super) fn format(&self) -> Format {
        match self.framing {
            None => Format::Native,
            Some(_) => Format::Qemu,
        }
    }

    pub(super) fn is_two_way(&self) -> bool {
        self.streams[0].is_two_way()
    }

    /// Bytes written so far, on all connections.
    pub(super) fn sent(&self) -> u64 {
        self.streams.iter().map(Stream::sent).sum()
    }

    /// Bytes read so far, on all connections.
    pub(super) fn received(&self) -> u64 {
        self.streams.iter().map(Stream::received).sum()
    }

    /// Writes a frame; one that is cut off leaves its connection in the middle of it.
    pub(super) fn in_frame(
        &self,
        connection: usize,
        write: impl FnOnce() -> Result<(), TransportError>,
    ) -> Result<(), TransportError> {
        let main = connection == 0;
        self.mid_frame.fetch_or(main, Ordering::Relaxed);
        write()?;
        self.mid_frame.fetch_and(!main, Ordering::Relaxed);
        Ok(())
    }

    /// Tells the destination why, if a message can still be placed and it does not know already.
    pub(super) fn give_up(&self, error: &Error) {
        let mid_frame = self.mid_frame.load(Ordering::Relaxed);
        let knows = error.cause::<session::PeerFailure>().is_some()
            || error.kind() == Kind::OutcomeUnknown
            || matches!(error.cause(), Some(TransportError::Closed));
        if !mid_frame && !knows && self.format() == Format::Native {
            let message = session::failure_message(error);
            self.streams[0].last_word(&message.to_bytes(), LAST_WORDS);
        }
    }

    /// A command that ended early says more than the pipe that broke.
    pub(super) fn explain(&mut self, error: Error) -> Error {
        if matches!(error.cause(), Some(TransportError::Closed))
            && let Some(why) = self.streams[0].why_closed()
        {
            return why.into();
        }
        error
    }

    /// Closes everything; what stands behind the link must be content as well.
    pub(super) fn close(self) -> Result<()> {
        for mut stream in self.streams {
            stream.finish()?;
        }
        if let Some(stored) = self.stored {
            stored.commit()?;
        }
        Ok(())
    }
}

/// Opens the connections that the parameters ask for and agrees with the destination.
pub(super) fn connect(request: &Request, guest: &Guest, context: &Context) -> Result<Links> {
    let params = context.tuning.get();
    let connector = Connector {
        address: request.address.clone(),
        connect_timeout: params.connect_timeout,
        silence: params.timeout,
        force: request.force,
    };
    match request.format {
        Format::Native => greet(request, guest, context, &connector),
        Format::Qemu => open(request, guest, context, &connector),
    }
}

/// Opens a connection.
fn link(connector: &Connector, context: &Context) -> Result<Connected, TransportError> {
    let mut connected = connector.connect(&context.abort)?;
    context.emulate_link(&mut connected.stream)?;
    Ok(connected)
}

/// Opens the one connection of the qemu wire, on which there is nothing to agree about.
fn open(
    request: &Request,
    guest: &Guest,
    context: &Context,
    connector: &Connector,
) -> Result<Links> {
    let params = context.tuning.get();
    qemu::check(request, &params)?;
    if request.fallback {
        nobody_to_ask(context, "on the qemu wire nobody says what it can");
    }
    let Connected { stream, stored } = link(connector, context)?;
    let framing = Framing::new(request, guest, stream.is_two_way())?;
    let preamble = framing.preamble();
    let mut links = Links {
        agreed: Agreed {
            version: 0,
            capabilities: BTreeSet::new(),
            peer_silence: params.timeout,
        },
        streams: vec![stream],
        stored,
        mid_frame: AtomicBool::new(false),
        framing: Some(framing),
        caps: request.caps,
    };
    match links.streams[0].write(&preamble, &[]) {
        Ok(()) => Ok(links),
        Err(error) => Err(links.explain(error.into())),
    }
}

/// Opens the connections of the native wire and says hello on each.
fn greet(
    request: &Request,
    guest: &Guest,
    context: &Context,
    connector: &Connector,
) -> Result<Links> {
    let params = context.tuning.get();
    let connections = u16::from(params.connections);
    let mut hello = session::hello(
        session::session_id().map_err(|error| Error::new(Kind::Failed, error))?,
        (0, connections),
        params.timeout,
        guest
            .blocks()
            .iter()
            .map(|block| BlockInfo {
                name: block.name().to_owned(),
                bytes: block.pages() * PAGE_SIZE as u64,
            })
            .collect(),
        agree::offers(request, &request.caps, &params),
    );
    let folder = guest.description().map(|_| session::folder_offer());
    hello.capabilities.extend(folder.clone());
    session::check_hello(&hello)?;

    let first = link(connector, context)?;
    if connections > 1 && !first.stream.is_two_way() {
        return Err(TransportError::OneConnection {
            address: request.address.to_string(),
            connections,
        }
        .into());
    }
    let mut links = Links {
        agreed: Agreed {
            version: hello.versions.1,
            capabilities: hello
                .capabilities
                .iter()
                .map(|offer| offer.name.clone())
                .collect(),
            // Nobody waits at the end of a pipe with a time limit that we could know.
            peer_silence: params.timeout,
        },
        streams: vec![first.stream],
        stored: first.stored,
        mid_frame: AtomicBool::new(false),
        framing: None,
        caps: request.caps,
    };
    if !links.is_two_way() {
        if request.fallback {
            let what = format!("at {} there is nobody to ask what it can", request.address);
            nobody_to_ask(context, &what);
        }
        let greeted = links.streams[0].write(&hello.to_bytes(), &[]);
        return match greeted {
            Ok(()) => Ok(links),
            Err(error) => Err(links.explain(error.into())),
        };
    }
    if request.fallback {
        agree::ask_only(&mut hello.capabilities);
    }
    for connection in 0..connections {
        if connection > 0 {
            let mut stream = link(connector, context)?.stream;
            stream.hear_through(&links.streams[0]);
            links.streams.push(stream);
            hello.connection = connection;
        }
        let stream = &links.streams[usize::from(connection)];
        stream.write(&hello.to_bytes(), &[])?;
        let answer = session::receive_answer(stream).map_err(|error| error.in_stage("agree"))?;
        let agreed = session::check_answer(&hello, &answer)?;
        if connection == 0 {
            // Decided once; the other connections require what was decided.
            links.caps = agree::settle(request, context, &agreed)?;
            let offers = agree::offers(request, &links.caps, &context.tuning.get());
            hello.capabilities = offers.into_iter().chain(folder.clone()).collect();
            links.agreed = agreed;
        }
    }
    Ok(links)
}

/// Says that what the destination lacks cannot be left out.
fn nobody_to_ask(context: &Context, why: &str) {
    let notice = format!("fallback has no effect: {why}");
    context.stats.notice(notice);
}
