//! The addresses that are listened on.

use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;

use super::command::StartError;
use super::shared::{BindId, Desk, Message};
use crate::base::addr::Endpoint;
use crate::config::settings::Settings;
use crate::net::listen;
use crate::net::peer::unacknowledged_max;

/// All of them, those of listeners that a reload kept with the sockets they had.
#[derive(Debug, Default)]
pub struct Binds {
    list: Vec<Bind>,
    next: BindId,
}

/// An address that is listened on.
#[derive(Debug)]
pub struct Bind {
    id: BindId,
    /// As configured.
    asked: Endpoint,
    /// With the port the kernel chose for port 0.
    actual: Endpoint,
    /// One for each worker; unix sockets are one that all share.
    sockets: Vec<Arc<OwnedFd>>,
    /// Index of the listener in the settings.
    listener: usize,
}

impl Binds {
    /// Opens the addresses of these settings that are not listened on yet, one socket for each
    /// worker. Nothing else changes before [`Binds::apply`].
    pub fn open_missing(
        &mut self,
        settings: &Settings,
        workers: usize,
    ) -> Result<Vec<Bind>, StartError> {
        let mut opened = Vec::new();
        for (index, listener) in settings.listeners.iter().enumerate() {
            for endpoint in &listener.binds {
                if self.list.iter().any(|bind| bind.asked == *endpoint) {
                    continue;
                }
                let bind = self
                    .open(endpoint, index, listener.idle_timeout, workers)
                    .map_err(|error| StartError::Listen {
                        listener: listener.name.clone(),
                        endpoint: endpoint.clone(),
                        error,
                    })?;
                opened.push(bind);
            }
        }
        Ok(opened)
    }

    fn open(
        &mut self,
        asked: &Endpoint,
        listener: usize,
        idle: Duration,
        workers: usize,
    ) -> io::Result<Bind> {
        let unacknowledged = unacknowledged_max(idle);
        let first = listen::open(asked, unacknowledged)?;
        let actual = listen::local_endpoint(&first, asked)?;
        let first = Arc::new(first);
        let mut sockets = vec![first.clone()];
        for _ in 1..workers {
            sockets.push(match asked {
                Endpoint::Tcp(_) => Arc::new(listen::open(&actual, unacknowledged)?),
                Endpoint::Unix(_) => first.clone(),
            });
        }
        let id = self.next;
        self.next += 1;
        Ok(Bind {
            id,
            asked: asked.clone(),
            actual,
            sockets,
            listener,
        })
    }

    /// Keeps what these settings have and takes in what was opened for them. Returns the rest,
    /// which nobody is to listen on any more.
    pub fn apply(&mut self, settings: &Settings, opened: Vec<Bind>) -> Vec<Bind> {
        let mut gone = Vec::new();
        for mut bind in std::mem::take(&mut self.list) {
            match owner(settings, &bind.asked) {
                Some(listener) => {
                    bind.listener = listener;
                    self.list.push(bind);
                }
                None => gone.push(bind),
            }
        }
        self.list.extend(opened);
        gone
    }

    /// Each with the index of its listener.
    pub fn listeners(&self) -> impl Iterator<Item = (BindId, usize)> {
        self.list.iter().map(|bind| (bind.id, bind.listener))
    }

    /// Each listener's index with an address of it, with the port the kernel chose.
    pub fn addresses(&self) -> impl Iterator<Item = (usize, &Endpoint)> {
        self.list.iter().map(|bind| (bind.listener, &bind.actual))
    }

    /// Workers that listen on an address already go on as they are.
    pub fn tell_workers(&self, workers: &[Arc<Desk>]) {
        for bind in &self.list {
            let exclusive = matches!(bind.asked, Endpoint::Unix(_));
            for (desk, socket) in workers.iter().zip(&bind.sockets) {
                desk.send(Message::Listen {
                    bind: bind.id,
                    socket: socket.clone(),
                    exclusive,
                });
            }
        }
    }

    /// Lets go of the sockets: the last holder closes them.
    pub fn close(&mut self) {
        for bind in &mut self.list {
            bind.sockets.clear();
        }
    }

    pub fn remove_socket_files(&self) {
        self.list.iter().for_each(Bind::remove_socket_file);
    }
}

impl Bind {
    pub fn id(&self) -> BindId {
        self.id
    }

    pub fn remove_socket_file(&self) {
        if let Endpoint::Unix(path) = &self.asked {
            // Somebody else may have removed it; nothing depends on it.
            let _ = std::fs::remove_file(path);
        }
    }
}

/// Index of the listener that has this address.
fn owner(settings: &Settings, endpoint: &Endpoint) -> Option<usize> {
    settings
        .listeners
        .iter()
        .position(|listener| listener.binds.contains(endpoint))
}
