//! Buffers for messages that come in, shared by the connections of one
//! protection domain.
//!
//! Every connection adds [`SHARE`] buffers and lets its peer send as many
//! messages as [`CREDITS`], so that they never run out. A connection that
//! breaks may keep some that the device had begun to fill: they are freed with
//! the domain, when the last connection of its identity has closed.

use super::objects::{Buffer, ProtectionDomain};
use super::queue::SharedReceiveQueue;
use crate::FabricError;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};

/// Bytes of a message; longer frames take several.
pub(crate) const CHUNK: usize = 8 << 10;
/// Messages with bytes in them that may be on their way to us.
pub(crate) const CREDITS: u32 = 8;
/// Buffers of a connection: for those, and for messages that only return
/// credits, of which two at most are on their way (each returns half of all).
const SHARE: u32 = CREDITS + 4;

/// The buffers.
pub(crate) struct Receives {
    domain: Arc<ProtectionDomain>,
    queue: Arc<SharedReceiveQueue>,
    /// [`SHARE`] buffers each.
    slabs: RwLock<Vec<Arc<Buffer>>>,
    books: Mutex<Books>,
}

#[derive(Default)]
struct Books {
    connections: u32,
    /// Not posted.
    idle: Vec<u32>,
    /// To become idle when they come back: the shares of connections that
    /// have closed.
    surplus: u32,
}

impl Receives {
    /// For at most `connections` at a time.
    pub(crate) fn new(
        domain: &Arc<ProtectionDomain>,
        connections: u32,
    ) -> Result<Arc<Receives>, FabricError> {
        let queue = SharedReceiveQueue::new(domain, connections.saturating_mul(SHARE))?;
        Ok(Arc::new(Receives {
            domain: domain.clone(),
            queue: Arc::new(queue),
            slabs: RwLock::default(),
            books: Mutex::default(),
        }))
    }

    pub(crate) fn queue(&self) -> &Arc<SharedReceiveQueue> {
        &self.queue
    }

    fn books(&self) -> MutexGuard<'_, Books> {
        self.books.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A connection's share, until it is dropped.
    pub(crate) fn enter(self: &Arc<Receives>) -> Result<Share, FabricError> {
        let mut books = self.books();
        if (books.connections + 1).saturating_mul(SHARE) > self.queue.len() {
            let why = format!(
                "{} connections of one process are open, and the device's receive queues hold no \
                 more buffers",
                books.connections
            );
            return Err(FabricError::local("a connection over RDMA", why));
        }
        let kept = books.surplus.min(SHARE);
        let wanted = SHARE - kept;
        if (books.idle.len() as u32) < wanted {
            let new = self.add_slab()?;
            books.idle.extend(new);
        }
        books.surplus -= kept;
        for _ in 0..wanted {
            let Some(slot) = books.idle.pop() else { break };
            self.post(slot)?;
        }
        books.connections += 1;
        Ok(Share(self.clone()))
    }

    fn add_slab(&self) -> Result<std::ops::Range<u32>, FabricError> {
        let slab = Buffer::new(&self.domain, SHARE as usize * CHUNK)?;
        let mut slabs = self.slabs.write().unwrap_or_else(PoisonError::into_inner);
        slabs.push(slab);
        let end = slabs.len() as u32 * SHARE;
        Ok(end - SHARE..end)
    }

    /// The slab and the place in it of a buffer.
    fn place(&self, slot: u32) -> Result<(Arc<Buffer>, usize), FabricError> {
        let slabs = self.slabs.read().unwrap_or_else(PoisonError::into_inner);
        let slab = slabs.get((slot / SHARE) as usize).cloned();
        Ok((
            slab.ok_or(FabricError::OutOfBounds)?,
            (slot % SHARE) as usize * CHUNK,
        ))
    }

    fn post(&self, slot: u32) -> Result<(), FabricError> {
        let (slab, at) = self.place(slot)?;
        self.queue.post(received_id(slot), slab.piece(at, CHUNK)?)
    }

    /// Copies what came into a buffer, from byte `from` of it on.
    pub(crate) fn copy(&self, slot: u32, from: usize, to: &mut [u8]) -> Result<(), FabricError> {
        let (slab, at) = self.place(slot)?;
        slab.read(at + from, to)
    }

    /// A buffer that was used is free.
    pub(crate) fn give_back(&self, slot: u32) -> Result<(), FabricError> {
        let mut books = self.books();
        if books.surplus > 0 {
            books.surplus -= 1;
            books.idle.push(slot);
            return Ok(());
        }
        drop(books);
        self.post(slot)
    }
}

/// The id under which a buffer is posted: see [`super::state`].
pub(crate) fn received_id(slot: u32) -> u64 {
    super::state::RECEIVED | u64::from(slot)
}

/// A connection's share of the buffers.
pub(crate) struct Share(pub(crate) Arc<Receives>);

impl Drop for Share {
    fn drop(&mut self) {
        let mut books = self.0.books();
        books.connections -= 1;
        books.surplus += SHARE;
    }
}
