//! The thread of a monitor: it waits for clients, commands and events at the same time.
//!
//! One thread does everything in order, so that messages to a client are never interleaved, and a
//! reply comes after the events that its command caused. Commands wait for nothing ([`Control`]), so
//! nothing needs to overtake them.

use std::io;
use std::os::fd::AsFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};

use super::client::Client;
use super::commands::{Executor, QUIT};
use super::json::Message;
use super::message::{self, QmpError, Request};
use super::shared::{Closing, Shared};
use super::{Defaults, Farewell};
use crate::caps::Capability;
use crate::control::Control;
use crate::stats::Event;
use crate::transport::UnixSocket;

/// Connections beyond this number are refused.
pub(super) const MOST_CLIENTS: usize = 64;
/// How many commands of one client are executed before it is the next one's turn.
const TURN: usize = 16;
/// How long no client is accepted when the system has no room for another.
const NO_ROOM: Duration = Duration::from_millis(100);

pub(super) struct Server {
    pub(super) shared: Arc<Shared>,
    /// `None` when no client is accepted any more.
    pub(super) socket: Option<UnixSocket>,
    pub(super) control: Arc<dyn Control>,
    pub(super) defaults: Defaults,
    pub(super) clients: Vec<Client>,
    /// Until when no client is accepted.
    pub(super) no_room: Option<Instant>,
}

impl Server {
    /// Runs until it is closed.
    pub(super) fn run(mut self) {
        loop {
            // Checked first: events from before the end are still sent.
            let closing = self.shared.closing();
            self.deliver();
            for client in &mut self.clients {
                client.write();
            }
            self.clients.retain(|client| !client.is_over());
            let serves = closing.is_none_or(|closing| closing.farewell == Farewell::Linger);
            if let Some(closing) = closing {
                self.socket = None;
                self.clients
                    .retain(|client| !client.is_up_to_date() || (serves && client.is_talking()));
                if self.clients.is_empty() || Instant::now() >= closing.deadline {
                    return;
                }
            }
            let busy = serves && self.clients.iter().any(Client::can_go_on);
            // Nothing can be done if the system does not say which client is ready.
            let Ok(someone_waits) = self.wait(busy, closing) else {
                return;
            };
            if someone_waits {
                self.accept();
            }
            for index in 0..self.clients.len() {
                for _ in 0..TURN {
                    if !serves || !self.serve(index) {
                        break;
                    }
                }
            }
        }
    }

    /// Waits until there is something to do, not at all if it is `busy`, and returns whether a client
    /// is to be accepted.
    fn wait(&mut self, busy: bool, closing: Option<Closing>) -> io::Result<bool> {
        let now = Instant::now();
        if self.no_room.is_some_and(|until| until <= now) {
            self.no_room = None;
        }
        let limit = if busy {
            Some(Duration::ZERO)
        } else {
            let deadlines = [closing.map(|closing| closing.deadline), self.no_room];
            let next = deadlines.into_iter().flatten().min();
            next.map(|deadline| deadline.saturating_duration_since(now))
        };
        let limit = limit.map(|limit| Timespec {
            tv_sec: i64::try_from(limit.as_secs()).unwrap_or(i64::MAX),
            tv_nsec: limit.subsec_nanos().into(),
        });
        let socket = self.socket.as_ref().filter(|_| self.no_room.is_none());
        let mut fds = vec![PollFd::from_borrowed_fd(self.shared.as_fd(), PollFlags::IN)];
        fds.extend(
            self.clients
                .iter()
                .map(|client| PollFd::new(client, client.awaits())),
        );
        fds.extend(socket.map(|socket| PollFd::new(socket, PollFlags::IN)));
        match poll(&mut fds, limit.as_ref()) {
            Err(rustix::io::Errno::INTR) => return Ok(false),
            other => other?,
        };
        let ready: Vec<PollFlags> = fds.iter().map(PollFd::revents).collect();
        self.shared.is_awake();
        let mut ready = ready.into_iter().skip(1);
        for (client, ready) in self.clients.iter_mut().zip(ready.by_ref()) {
            client.on(ready);
        }
        Ok(ready.next().is_some_and(|socket| !socket.is_empty()))
    }

    fn accept(&mut self) {
        let Some(socket) = &self.socket else { return };
        for _ in 0..MOST_CLIENTS {
            match socket.accept().and_then(Client::new) {
                Ok(client) if self.clients.len() < MOST_CLIENTS => self.clients.push(client),
                Ok(_) => {}
                Err(error) => {
                    let harmless = [
                        io::ErrorKind::WouldBlock,
                        io::ErrorKind::ConnectionAborted,
                        io::ErrorKind::Interrupted,
                    ];
                    if !harmless.contains(&error.kind()) {
                        self.no_room = Instant::now().checked_add(NO_ROOM);
                    }
                    return;
                }
            }
        }
    }

    /// Executes a client's next command, if it may and the message is complete; returns whether it did.
    fn serve(&mut self, index: usize) -> bool {
        let message = match self.clients.get_mut(index) {
            Some(client) if client.can_go_on() => client.next_message(),
            _ => None,
        };
        let Some(message) = message else {
            return false;
        };
        // Events from before the command are sent before its reply, with the capabilities that were on
        // then.
        self.deliver();
        let quits = self.answer(index, message);
        if quits {
            self.control.quit();
        }
        true
    }

    /// Answers a message, and returns whether the program is to end.
    fn answer(&mut self, index: usize, message: Message) -> bool {
        let Some(session) = self.clients.get(index).map(|client| client.session) else {
            return false;
        };
        let mut changed = session;
        let mut quits = false;
        let (id, outcome) = match message {
            Err(error) => (None, Err(QmpError::generic(error))),
            Ok(message) => {
                let Request { id, call } = Request::read(message, session.oob);
                let executor = Executor {
                    control: &*self.control,
                    defaults: &self.defaults,
                };
                let outcome = call.and_then(|call| {
                    let quit = call.command == QUIT;
                    let outcome = executor.execute(call, &mut changed);
                    quits = quit && outcome.is_ok();
                    outcome
                });
                (id, outcome)
            }
        };
        self.deliver();
        if let Some(client) = self.clients.get_mut(index) {
            client.session = changed;
            client.queue(&message::reply(id.as_ref(), outcome));
        }
        quits
    }

    /// Sends clients the events so far.
    fn deliver(&mut self) {
        let happened = self.shared.take();
        if happened.events.is_empty() {
            return;
        }
        let all = self.control.caps().has(Capability::Events);
        for (event, at) in happened.events {
            let always = match event {
                Event::Migration(_) | Event::Pass(_) => false,
                Event::Stop | Event::Resume => true,
            };
            if always || all {
                let line = message::event(event, at);
                for client in &mut self.clients {
                    if client.session.negotiated {
                        client.queue(&line);
                    }
                }
            }
        }
        if happened.lost {
            for client in &mut self.clients {
                client.cut_off();
            }
        }
    }
}
