//! A connection to the proxy: the socket itself, or TLS over it.

use std::io;
use std::net::TcpStream;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::net::{Shutdown, shutdown};

use crate::exchange::Awaiting;
use crate::net::{Moved, receive_some, send_some};
use crate::session::Session;
use crate::tls::Client;

#[derive(Debug)]
pub(crate) struct Channel {
    socket: OwnedFd,
    session: Option<Box<Session>>,
}

impl AsFd for Channel {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

impl Channel {
    pub(crate) fn plain(socket: impl Into<OwnedFd>) -> Self {
        Self {
            socket: socket.into(),
            session: None,
        }
    }

    /// With TLS if there is a client for it; nothing is sent yet.
    pub(crate) fn new(socket: OwnedFd, client: Option<&Client>) -> io::Result<Self> {
        let session = client.map(Client::session).transpose()?.map(Box::new);
        Ok(Self { socket, session })
    }

    /// Over a connection that stands; returns when the handshake, if there is one, is over.
    pub(crate) fn established(stream: TcpStream, client: Option<&Client>) -> io::Result<Self> {
        let mut channel = Self::new(stream.into(), client)?;
        loop {
            match channel.establish()? {
                Awaiting::Nothing => return Ok(channel),
                Awaiting::Room => wait_for(&channel, PollFlags::OUT)?,
                Awaiting::Response => wait_for(&channel, PollFlags::IN)?,
            }
        }
    }

    /// Goes on with the handshake; nothing is awaited once bytes may be sent. The last flight may
    /// be held back until then, so that it leaves with them.
    pub(crate) fn establish(&mut self) -> io::Result<Awaiting> {
        match &mut self.session {
            None => Ok(Awaiting::Nothing),
            Some(session) => session.establish(&self.socket),
        }
    }

    /// Sends what fits; a connect that is still under way is no room. Who is told that it would
    /// block calls again with the same bytes: TLS has sealed them already.
    pub(crate) fn send_some(&mut self, bytes: &[u8]) -> io::Result<Moved> {
        match &mut self.session {
            None => send_some(&self.socket, bytes),
            Some(session) => session.send_some(&self.socket, bytes),
        }
    }

    /// Whether bytes of [`Channel::send_some`] are sealed and not all of them sent.
    pub(crate) fn holds_back(&self) -> bool {
        self.session
            .as_ref()
            .is_some_and(|session| session.holds_back())
    }

    /// Receives what is there, with one call; zero bytes are the end of the stream.
    pub(crate) fn receive_some(&mut self, into: &mut [u8]) -> io::Result<Moved> {
        match &mut self.session {
            None => receive_some(&self.socket, into),
            Some(session) => session.receive_some(&self.socket, into),
        }
    }

    /// Says that nothing more will be sent.
    pub(crate) fn end(&mut self) -> io::Result<()> {
        self.notify_close()?;
        Ok(shutdown(&self.socket, Shutdown::Write)?)
    }

    /// As far as TLS has a word for it; the socket stays as it is.
    pub(crate) fn notify_close(&mut self) -> io::Result<()> {
        match &mut self.session {
            None => Ok(()),
            Some(session) => session.notify_close(&self.socket),
        }
    }

    pub(crate) fn session(&self) -> Option<&Session> {
        self.session.as_deref()
    }
}

/// How long one step of opening or ending may take.
const STEP_WAIT: Timespec = Timespec {
    tv_sec: 5,
    tv_nsec: 0,
};

/// Waits for what `flags` say of one socket.
pub(crate) fn wait_for(socket: impl AsFd, flags: PollFlags) -> io::Result<()> {
    let mut set = [PollFd::new(&socket, flags)];
    match poll(&mut set, Some(&STEP_WAIT))? {
        0 => Err(io::ErrorKind::TimedOut.into()),
        _ => Ok(()),
    }
}
