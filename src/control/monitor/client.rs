//! One client of a monitor: its input that is not parsed yet, and the output that it has not read yet.
//! Neither blocks, and neither grows without bounds.

use std::collections::VecDeque;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;

use rustix::event::PollFlags;

use super::commands::Session;
use super::json::{Message, Parser};
use super::message;

/// How much is read at a time.
const CHUNK: usize = 16 << 10;
/// With more unread output than this, a client's next command waits until it has read it.
const ENOUGH: usize = 64 << 10;
/// A client with more unread output than this is disconnected: a reply can be as long as a request,
/// because it holds the id, and events come without a request.
const MOST_WAITING: usize = 4 << 20;

#[derive(Debug)]
pub(super) struct Client {
    stream: UnixStream,
    parser: Parser,
    /// Input; from `parsed` on, not parsed yet.
    input: Vec<u8>,
    parsed: usize,
    messages: VecDeque<Message>,
    /// Output that is not written yet.
    output: VecDeque<u8>,
    pub(super) session: Session,
    /// It sends nothing more.
    silent: bool,
    /// It reads nothing more.
    deaf: bool,
    /// It has left too much unread.
    cut_off: bool,
}

impl Client {
    /// A new client, to which the greeting is sent.
    pub(super) fn new(stream: UnixStream) -> io::Result<Client> {
        stream.set_nonblocking(true)?;
        let mut client = Client {
            stream,
            parser: Parser::default(),
            input: Vec::new(),
            parsed: 0,
            messages: VecDeque::new(),
            output: VecDeque::new(),
            session: Session::default(),
            silent: false,
            deaf: false,
            cut_off: false,
        };
        client.queue(&message::greeting());
        Ok(client)
    }

    /// Whether it has to read output before it is served again.
    fn is_behind(&self) -> bool {
        !self.deaf && self.output.len() > ENOUGH
    }

    fn has_input(&self) -> bool {
        self.parsed < self.input.len() || !self.messages.is_empty()
    }

    /// Whether there is work without waiting for anything.
    pub(super) fn can_go_on(&self) -> bool {
        self.has_input() && !self.is_behind()
    }

    /// Whether it has read everything, or never will.
    pub(super) fn is_up_to_date(&self) -> bool {
        self.deaf || self.output.is_empty()
    }

    /// Whether it has hung up and nothing is left to do for it, or it was disconnected.
    pub(super) fn is_over(&self) -> bool {
        self.cut_off || (self.silent && !self.has_input() && self.is_up_to_date())
    }

    /// Whether it may send more.
    pub(super) fn is_talking(&self) -> bool {
        self.session.negotiated && !self.silent
    }

    /// What to wait for.
    pub(super) fn awaits(&self) -> PollFlags {
        let mut flags = PollFlags::empty();
        flags.set(
            PollFlags::IN,
            !self.silent && !self.has_input() && !self.is_behind(),
        );
        flags.set(PollFlags::OUT, !self.is_up_to_date());
        flags
    }

    /// Reads what has arrived.
    pub(super) fn on(&mut self, ready: PollFlags) {
        if ready.intersects(PollFlags::HUP | PollFlags::ERR) {
            // Earlier commands are still executed, as if it had waited for their replies.
            self.is_deaf();
        }
        if !ready.is_empty() && !self.silent && !self.has_input() && !self.is_behind() {
            self.read();
        }
    }

    fn read(&mut self) {
        self.input.resize(CHUNK, 0);
        self.parsed = 0;
        match self.stream.read(&mut self.input) {
            Ok(read) => {
                self.silent = read == 0;
                self.input.truncate(read);
            }
            Err(error) => {
                self.input.clear();
                let later = [io::ErrorKind::WouldBlock, io::ErrorKind::Interrupted];
                if !later.contains(&error.kind()) {
                    self.silent = true;
                    self.is_deaf();
                }
            }
        }
    }

    /// The next message, if it is complete.
    pub(super) fn next_message(&mut self) -> Option<Message> {
        if self.messages.is_empty() {
            let rest = self.input.get(self.parsed..).unwrap_or_default();
            self.parsed += self.parser.push(rest, &mut self.messages);
        }
        self.messages.pop_front()
    }

    /// Queues a line for it.
    pub(super) fn queue(&mut self, line: &[u8]) {
        if self.deaf {
            return;
        }
        self.output.extend(line);
        if self.output.len() > MOST_WAITING {
            self.cut_off = true;
        }
    }

    /// Reports that events were dropped.
    pub(super) fn cut_off(&mut self) {
        self.cut_off = true;
    }

    fn is_deaf(&mut self) {
        self.deaf = true;
        self.output = VecDeque::new();
    }

    /// Writes as much as it accepts without blocking.
    pub(super) fn write(&mut self) {
        while !self.output.is_empty() {
            let (front, _) = self.output.as_slices();
            match self.stream.write(front) {
                Ok(0) => return self.is_deaf(),
                Ok(written) => drop(self.output.drain(..written)),
                Err(error) => match error.kind() {
                    io::ErrorKind::WouldBlock => return,
                    io::ErrorKind::Interrupted => {}
                    _ => return self.is_deaf(),
                },
            }
        }
        // Do not keep the memory of one long answer.
        if self.output.capacity() > ENOUGH {
            self.output = VecDeque::new();
        }
    }
}

impl AsFd for Client {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.stream.as_fd()
    }
}
