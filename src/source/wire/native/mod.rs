//! The native wire: greetings, frames, and the commit protocol.

mod agree;
mod commit;
mod encode;
mod folder;
mod replies;

use std::time::Duration;

use crate::caps::Caps;
use crate::error::{Error, Kind, Result};
use crate::image::Guest;
use crate::round::RoundMark;
use crate::session::{self, Agreed, Context};
use crate::transport::TransportError;
use crate::wire::native::{Hello, Message};
use crate::writer::Stopped;

use super::seam::{
    AllSent, Batches, Channel, Encode, KeepAlive, Listener, Opened, Wire, announced_blocks,
    no_fallback,
};
use crate::source::job::{Packet, SendState};
use crate::source::links::{Links, Opener};
use crate::source::request::Request;
use agree::Terms;
use encode::FrameEncoder;
use replies::Replies;

/// Our own format, to a destination that answers or to a file or pipe.
#[derive(Debug)]
struct NativeWire {
    agreed: Agreed,
    /// The destination's messages; `None` without a way back.
    replies: Option<Replies>,
}

/// Opens the connections and greets the destination on each.
pub(super) fn open(request: &Request, guest: &Guest, context: &Context) -> Result<Opened> {
    let params = context.tuning.get();
    let connections = u16::from(params.connections);
    let terms = Terms::of(request, guest, context.caps);
    let mut hello = session::hello(
        session::session_id().map_err(|error| Error::new(Kind::Failed, error))?,
        (0, connections),
        params.timeout,
        announced_blocks(guest),
        agree::offers(&terms, &params),
    );
    session::check_hello(&hello)?;

    let opener = Opener::new(request, context);
    let links = Links::open(&opener)?;
    if !links.is_two_way() {
        if connections > 1 {
            return Err(TransportError::OneConnection {
                address: request.address.to_string(),
                connections,
            }
            .into());
        }
        let why = format!(
            "{} has no way back, so the destination cannot be asked what it supports",
            request.address
        );
        no_fallback(request, context, &why);
        return announce(links, &hello, context.caps);
    }
    if request.fallback {
        agree::ask_only(&mut hello.capabilities);
    }
    greet(links, &opener, hello, terms, context)
}

/// Writes the hello to a file or a pipe, whose reader must support all that it offers.
fn announce(mut links: Links, hello: &Hello, caps: Caps) -> Result<Opened> {
    if let Err(error) = links.main().write(&hello.to_bytes(), &[]) {
        return Err(links.explain(error.into()));
    }
    let offered = hello.capabilities.iter().map(|offer| offer.name.clone());
    let agreed = Agreed {
        version: hello.versions.1,
        capabilities: offered.collect(),
        // The reader's time limit is unknown; assume our own.
        peer_silence: Duration::from_millis(hello.silence_ms.into()),
    };
    Ok(Opened {
        links,
        wire: Box::new(NativeWire {
            agreed,
            replies: None,
        }),
        caps,
    })
}

/// Says hello on every connection. The first decides what is used; the others require it.
fn greet(
    mut links: Links,
    opener: &Opener<'_>,
    mut hello: Hello,
    mut terms: Terms,
    context: &Context,
) -> Result<Opened> {
    let agreed = ask(&links, &hello)?;
    terms.settle(context, &agreed)?;
    hello.capabilities = agree::offers(&terms, &context.tuning.get());
    for connection in 1..hello.connections {
        links.add(opener)?;
        hello.connection = connection;
        ask(&links, &hello)?;
    }
    Ok(Opened {
        links,
        wire: Box::new(NativeWire {
            agreed,
            replies: Some(Replies::default()),
        }),
        caps: terms.caps,
    })
}

/// Says hello on the connection that it names, and checks the answer.
fn ask(links: &Links, hello: &Hello) -> Result<Agreed> {
    let stream = &links.streams[usize::from(hello.connection)];
    stream.write(&hello.to_bytes(), &[])?;
    let answer =
        session::receive_answer(stream).map_err(|error| error.in_stage("while negotiating"))?;
    session::check_answer(hello, &answer)
}

impl Wire for NativeWire {
    fn listener(&mut self) -> Option<Listener> {
        self.replies.as_mut()?.listener()
    }

    /// Frames are independent, so any order will do. A hole of any size is one frame that lists
    /// page numbers.
    fn batches(&self) -> Batches {
        Batches {
            hole_pages: u64::MAX,
            in_order: false,
        }
    }

    fn encoder<'a>(&'a self, state: &'a SendState<'a>) -> Box<dyn Encode + 'a> {
        Box::new(FrameEncoder::new(state))
    }

    fn channel(&self, _connection: usize) -> Box<dyn Channel + '_> {
        Box::new(Connection {
            agreed: &self.agreed,
            frames: 0,
            pages: 0,
        })
    }

    fn finish<'w>(
        &self,
        all: AllSent<'w>,
        links: &Links,
        context: &Context,
    ) -> Result<Option<Stopped<'w>>> {
        folder::send(&all.guest, links)?;
        match &self.replies {
            Some(replies) => commit::commit(all, links.main(), replies, context).map(|()| None),
            None => commit::finish(all, links.main(), context),
        }
    }

    fn explain(&self, error: Error) -> Error {
        match &self.replies {
            Some(replies) => replies.explain(error),
            None => error,
        }
    }

    fn farewell(&self, error: &Error) -> Vec<u8> {
        session::failure_message(error).to_bytes()
    }
}

/// One connection, with what was written on it in the round.
struct Connection<'a> {
    agreed: &'a Agreed,
    frames: u64,
    pages: u64,
}

impl Channel for Connection<'_> {
    fn seal(&mut self, packet: Packet) -> Result<Packet> {
        self.frames += 1;
        self.pages += packet.tally.pages_on_the_wire();
        Ok(packet)
    }

    fn end_round(&mut self, mark: RoundMark) -> Vec<u8> {
        let message = Message::RoundEnd {
            round: mark.round,
            frames: std::mem::take(&mut self.frames),
            pages: std::mem::take(&mut self.pages),
            last: mark.last,
        };
        message.to_bytes()
    }

    fn keep_alive(&self) -> Option<KeepAlive> {
        Some(KeepAlive {
            after: self.agreed.keepalive_interval(),
            bytes: Message::KeepAlive.to_bytes(),
        })
    }
}
