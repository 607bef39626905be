//! Places in registered memory where file data waits for the component that
//! asked for it, which fetches it one-sided.

use fabric::{Access, FabricError, Memory, Region};
use proto::addr::{RemoteAddr, RemoteKey};
use proto::store::{MAX_STAGE, MOST_STAGES};
use proto::{Errno, Identity};
use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// See the module.
pub(super) struct Stages {
    memory: Memory,
    /// By number, those used last at the back.
    clients: Mutex<HashMap<Identity, Places>>,
}

/// A client's places and their numbers.
type Places = VecDeque<(u64, Arc<Stage>)>;

/// One place, granted to its client until it is dropped.
pub(super) struct Stage {
    /// [`MAX_STAGE`] bytes.
    pub(super) region: Region,
    key: RemoteKey,
}

impl Stage {
    fn new(memory: &Memory, client: Identity) -> Result<Stage, FabricError> {
        let len = MAX_STAGE as u64;
        let region = memory.register(len, "stage")?;
        let key = region.grant(client, 0..len, Access::Read)?;
        Ok(Stage { region, key })
    }

    /// Its first byte.
    pub(super) fn at(&self) -> RemoteAddr {
        RemoteAddr {
            key: self.key,
            offset: 0,
        }
    }
}

impl Stages {
    pub(super) fn new(memory: Memory) -> Stages {
        Stages {
            memory,
            clients: Mutex::default(),
        }
    }

    fn clients(&self) -> MutexGuard<'_, HashMap<Identity, Places>> {
        self.clients.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The client's place of this number, made if it is not there. A thread that
    /// reads into a place keeps it, though it be dropped here meanwhile.
    ///
    /// # Errors
    /// `EPERM` for who is no component with a connection; `ENOMEM`.
    pub(super) fn place(&self, client: Identity, slot: u64) -> Result<Arc<Stage>, Errno> {
        if let Some(stage) = self.known(client, slot)? {
            return Ok(stage);
        }
        // Not under the lock: it takes system calls.
        let stage = Stage::new(&self.memory, client).map_err(|e| {
            tracing::warn!("no memory to stage data for {client}: {e}");
            Errno::ENOMEM
        })?;
        let stage = Arc::new(stage);
        let mut clients = self.clients();
        let places = clients.get_mut(&client).ok_or(Errno::EPERM)?;
        places.push_back((slot, stage.clone()));
        let oldest = (places.len() > MOST_STAGES).then(|| places.pop_front());
        drop(clients);
        drop(oldest);
        Ok(stage)
    }

    /// The place of this number, used last from now on.
    fn known(&self, client: Identity, slot: u64) -> Result<Option<Arc<Stage>>, Errno> {
        let mut clients = self.clients();
        let places = clients.get_mut(&client).ok_or(Errno::EPERM)?;
        let at = places.iter().position(|(number, _)| *number == slot);
        let found = at.and_then(|at| places.remove(at));
        Ok(found.map(|(_, stage)| {
            places.push_back((slot, stage.clone()));
            stage
        }))
    }

    /// The client has a connection.
    pub(super) fn handle_connected(&self, client: Identity) {
        if matches!(client, Identity::Node(..)) {
            self.clients().entry(client).or_default();
        }
    }

    /// The client has no connection any more.
    pub(super) fn handle_gone(&self, client: Identity) {
        let places = self.clients().remove(&client);
        drop(places);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proto::{Generation, NodeId, ProcessId};

    const A: Identity = Identity::Node(NodeId(1), Generation(1));
    const B: Identity = Identity::Node(NodeId(2), Generation(1));

    #[test]
    fn a_client_keeps_the_places_it_used_last() {
        let stages = Stages::new(Memory::new().unwrap());
        stages.handle_connected(A);
        stages.handle_connected(B);
        let at = |client, slot| stages.place(client, slot).unwrap().at();
        let first = at(A, 0);
        assert_eq!(at(A, 0), first);
        let others: Vec<_> = (1..MOST_STAGES as u64).map(|n| at(A, n)).collect();
        assert_eq!(at(A, 0), first);
        at(A, 99);
        assert_eq!(at(A, 0), first, "used since");
        assert_ne!(at(A, 1), others[0], "the oldest went");
        assert_ne!(at(B, 0), first, "of another client");
    }

    #[test]
    fn places_are_for_components_that_are_there() {
        let stages = Stages::new(Memory::new().unwrap());
        let process = Identity::Process(ProcessId(1));
        stages.handle_connected(process);
        let refused = |client| stages.place(client, 0).err() == Some(Errno::EPERM);
        assert!(refused(process) && refused(A));
        stages.handle_connected(A);
        let before = stages.place(A, 0).unwrap().at();
        stages.handle_gone(A);
        assert!(refused(A), "a request that was waiting");
        stages.handle_connected(A);
        assert_ne!(stages.place(A, 0).unwrap().at(), before);
    }
}
