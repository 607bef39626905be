//! A pool of connections to one component.

use crate::connection::{Connection, Options};
use crate::emulate::Wire;
use crate::{Credential, FabricError};
use serde::{Serialize, de::DeserializeOwned};
use std::ops::{Deref, DerefMut};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// Connections kept when nobody uses them.
const MOST_IDLE: usize = 64;
/// One that has idled for longer is looked at before it is handed out.
const FRESH: Duration = Duration::from_millis(2);

/// A component as its users have it: as many connections as are used at once.
/// A clone shares them.
#[derive(Clone)]
pub struct Peer(Arc<Inner>);

struct Inner {
    addrs: Mutex<Vec<String>>,
    credential: Credential,
    options: Options,
    /// All connections share the emulated network's bandwidth.
    wire: Option<Arc<Wire>>,
    idle: Mutex<Vec<Connection>>,
}

/// A connection that its holder keeps between uses, for a thread that uses one
/// all the time: to take it costs no lock. Back to the pool when dropped, if it
/// is sound.
pub struct Kept {
    peer: Peer,
    connection: Option<Connection>,
}

impl Kept {
    /// Nothing is taken from the pool yet.
    #[must_use]
    pub fn new(peer: &Peer) -> Kept {
        Kept {
            peer: peer.clone(),
            connection: None,
        }
    }

    /// The connection, as [`Peer::get`] hands it out.
    ///
    /// # Errors
    /// As for [`Peer::get`].
    pub fn get(&mut self) -> Result<&mut Connection, FabricError> {
        let sound = |c: &mut Connection| !c.is_broken() && (c.unseen_for() < FRESH || c.is_open());
        let mut kept = self.connection.take();
        let connection = match kept.take_if(|c| sound(c)) {
            Some(connection) => connection,
            None => self.peer.take()?,
        };
        Ok(self.connection.insert(connection))
    }
}

impl Drop for Kept {
    fn drop(&mut self) {
        give_back(&self.peer.0, self.connection.take());
    }
}

/// A connection of one thread's, for a while. Back to the pool when dropped,
/// if it is sound.
pub struct PeerGuard<'a> {
    peer: &'a Inner,
    /// Some until dropped.
    connection: Option<Connection>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Peer {
    /// A component that listens at `addrs`; nothing is connected yet.
    #[must_use]
    pub fn new(addrs: Vec<String>, credential: Credential, options: Options) -> Peer {
        let wire = options
            .emulation
            .clone()
            .map(|network| Arc::new(Wire::new(network)));
        let (addrs, idle) = (Mutex::new(addrs), Mutex::default());
        Peer(Arc::new(Inner {
            addrs,
            credential,
            options,
            wire,
            idle,
        }))
    }

    /// A connection: an idle one that is still open, or a new one.
    ///
    /// # Errors
    /// As for [`Connection::open`].
    pub fn get(&self) -> Result<PeerGuard<'_>, FabricError> {
        let connection = Some(self.take()?);
        Ok(PeerGuard {
            peer: &self.0,
            connection,
        })
    }

    fn take(&self) -> Result<Connection, FabricError> {
        let peer = &*self.0;
        loop {
            let idle = lock(&peer.idle).pop();
            let Some(mut connection) = idle else { break };
            if connection.unseen_for() < FRESH || connection.is_open() {
                return Ok(connection);
            }
        }
        let addrs = lock(&peer.addrs).clone();
        let wire = peer.wire.as_ref();
        Connection::open_over(&addrs, &peer.credential, &peer.options, wire)
    }

    /// Asks over any connection. A request is not repeated when its
    /// connection breaks: it may have taken effect.
    ///
    /// # Errors
    /// As for [`Connection::open`] and [`Connection::ask`].
    pub fn ask<Q: Serialize, R: DeserializeOwned>(&self, question: &Q) -> Result<R, FabricError> {
        self.get()?.ask(question)
    }

    /// The component listens elsewhere now; idle connections are closed.
    pub fn set_addrs(&self, addrs: Vec<String>) {
        let mut known = lock(&self.0.addrs);
        if *known != addrs {
            *known = addrs;
            lock(&self.0.idle).clear();
        }
    }
}

impl Deref for PeerGuard<'_> {
    type Target = Connection;
    #[allow(clippy::expect_used)]
    fn deref(&self) -> &Connection {
        self.connection.as_ref().expect("only drop takes it")
    }
}

impl DerefMut for PeerGuard<'_> {
    #[allow(clippy::expect_used)]
    fn deref_mut(&mut self) -> &mut Connection {
        self.connection.as_mut().expect("only drop takes it")
    }
}

impl Drop for PeerGuard<'_> {
    fn drop(&mut self) {
        give_back(self.peer, self.connection.take());
    }
}

fn give_back(peer: &Inner, connection: Option<Connection>) {
    if let Some(connection) = connection.filter(|c| !c.is_broken()) {
        let mut idle = lock(&peer.idle);
        if idle.len() < MOST_IDLE {
            idle.push(connection);
        }
    }
}
