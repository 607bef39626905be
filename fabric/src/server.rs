//! The answering side: what a component listens on, who is connected, and how
//! requests are answered.

use crate::auth::random;
use crate::dial::Address;
use crate::frame::Outcome;
use crate::handshake::Met;
use crate::listen::{self, Listener};
use crate::{ClusterKey, FabricError, Memory, sim, verbs};
use proto::{Identity, wire};
use serde::Serialize;
use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};

/// What answers a component's peers.
pub trait Service: Send + Sync + 'static {
    /// A request came, on its connection's thread. Answer at once, or keep
    /// `reply` for another thread.
    fn call(&self, peer: Identity, request: &[u8], reply: Responder);
    /// A connection of `peer` was accepted; nothing of it is served before
    /// this returns.
    fn connected(&self, peer: Identity) {
        let _ = peer;
    }
    /// The last connection of `peer` closed. Never at the same time as
    /// [`Service::connected`] for the same peer.
    fn gone(&self, peer: Identity) {
        let _ = peer;
    }
}

/// Where the answers of one connection go.
pub(crate) trait Answers: Send + Sync {
    /// Sends the answer to a call. A peer that does not take it loses its
    /// connection.
    fn answer(&self, id: u64, outcome: Outcome, bytes: &[u8]);
}

/// Carries the answer to one request. Dropped without one, the asker is told.
pub struct Responder {
    to: Arc<dyn Answers>,
    id: u64,
    answered: bool,
}

impl Responder {
    pub(crate) fn new(to: Arc<dyn Answers>, id: u64) -> Responder {
        Responder {
            to,
            id,
            answered: false,
        }
    }

    /// Answers with bytes. More than [`wire::MAX_MESSAGE`] of them are a
    /// mistake of the service's: the asker is told that there is no answer.
    pub fn send(mut self, bytes: &[u8]) {
        if bytes.len() > wire::MAX_MESSAGE {
            tracing::error!("an answer of {} bytes cannot be sent", bytes.len());
            return;
        }
        self.answered = true;
        self.to.answer(self.id, Outcome::Done, bytes);
    }

    /// Answers with a message.
    pub fn answer<R: Serialize>(self, message: &R) {
        self.send(&wire::encode(message));
    }
}

impl Drop for Responder {
    fn drop(&mut self) {
        if !self.answered {
            self.to.answer(self.id, Outcome::GivenUp, &[]);
        }
    }
}

/// A component's listening end, with its registered memory. A clone is the
/// same one.
#[derive(Clone)]
pub struct Server {
    hub: Arc<Hub>,
    listeners: Arc<Vec<Listener>>,
}

/// What the connections of one server have in common.
pub(crate) struct Hub {
    /// Drawn anew at every start: peers tell by it what they remember of
    /// another one.
    instance: u64,
    pub(crate) key: ClusterKey,
    identity: RwLock<Identity>,
    pub(crate) memory: Memory,
    present: Mutex<HashMap<Identity, Arc<Mutex<u32>>>>,
    pub(crate) sockets: listen::Sockets,
    pub(crate) domains: verbs::Domains,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Hub {
    /// What a peer is told about us.
    pub(crate) fn met(&self) -> Met {
        let identity = *self.identity.read().unwrap_or_else(PoisonError::into_inner);
        Met {
            identity,
            instance: self.instance,
        }
    }

    /// Counts a connection of `who` until the presence is dropped.
    pub(crate) fn arrive(self: &Arc<Hub>, who: Identity, service: Arc<dyn Service>) -> Presence {
        let count = lock(&self.present).entry(who).or_default().clone();
        // Held while the service is told: it hears of comings and goings of
        // one identity in order, and of different ones side by side.
        let mut number = lock(&count);
        *number += 1;
        service.connected(who);
        drop(number);
        Presence {
            hub: self.clone(),
            who,
            service,
            count,
        }
    }
}

/// One connection of an identity.
pub(crate) struct Presence {
    hub: Arc<Hub>,
    who: Identity,
    service: Arc<dyn Service>,
    count: Arc<Mutex<u32>>,
}

impl Drop for Presence {
    fn drop(&mut self) {
        let mut number = lock(&self.count);
        *number -= 1;
        if *number > 0 {
            return;
        }
        self.service.gone(self.who);
        drop(number);
        let mut present = lock(&self.hub.present);
        // The map's and ours: nobody is arriving.
        if Arc::strong_count(&self.count) == 2 && *lock(&self.count) == 0 {
            present.remove(&self.who);
        }
    }
}

impl Server {
    /// Listens on `shm:PATH`, `tcp:HOST:PORT` (0: any free port),
    /// `verbs:HOST:PORT` and `sim:NETWORK/NAME` addresses.
    ///
    /// # Errors
    /// An address that is malformed or in use, naming it; `Local` for a
    /// `verbs` address where there is no RDMA device.
    pub fn bind(
        listen: &[String],
        identity: Identity,
        key: ClusterKey,
    ) -> Result<Server, FabricError> {
        let bind = |text: &String| match Address::parse(text)? {
            Address::Shm(path) => listen::bind_unix(path, text),
            Address::Tcp(place) => listen::bind_tcp(place, text),
            Address::Verbs(place) => listen::bind_verbs(place, text),
            Address::Sim(place) => sim::bind(place, text).map(Listener::Sim),
        };
        let listeners = listen.iter().map(bind).collect::<Result<Vec<_>, _>>()?;
        let hub = Hub {
            instance: u64::from_le_bytes(random()?),
            key,
            identity: RwLock::new(identity),
            memory: Memory::new()?,
            present: Mutex::default(),
            sockets: listen::Sockets::new(),
            domains: verbs::Domains::default(),
        };
        Ok(Server {
            hub: Arc::new(hub),
            listeners: Arc::new(listeners),
        })
    }

    /// Where it listens, with the ports that were chosen.
    #[must_use]
    pub fn addrs(&self) -> Vec<String> {
        self.listeners.iter().map(|l| l.text().to_owned()).collect()
    }

    /// Its registered memory.
    #[must_use]
    pub fn memory(&self) -> Memory {
        self.hub.memory.clone()
    }

    /// What peers that connect from now on are told that we are.
    pub fn set_identity(&self, identity: Identity) {
        *self
            .hub
            .identity
            .write()
            .unwrap_or_else(PoisonError::into_inner) = identity;
    }

    /// Starts answering and returns; threads keep the service until
    /// [`Server::shutdown`].
    ///
    /// # Errors
    /// `Local`: no thread could be started.
    #[allow(clippy::needless_pass_by_value)]
    pub fn serve(&self, service: Arc<dyn Service>) -> Result<(), FabricError> {
        for n in 0..self.listeners.len() {
            if let Listener::Sim(listener) = &self.listeners[n] {
                listener.serve(&self.hub, &service);
                continue;
            }
            let (hub, listeners, service) =
                (self.hub.clone(), self.listeners.clone(), service.clone());
            std::thread::Builder::new()
                .name("accept".to_owned())
                .spawn(move || listeners[n].accept_all(&hub, &service))
                .map_err(|e| FabricError::local("a thread that accepts connections", e))?;
        }
        Ok(())
    }

    /// Answers no more: stops listening, closes every connection, and takes the
    /// socket files away.
    pub fn shutdown(&self) {
        self.hub.sockets.stop();
        self.listeners.iter().for_each(Listener::close);
    }
}
