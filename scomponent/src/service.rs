//! Answers the fabric. What the kernel's caches can answer is answered on the
//! fabric's thread, where a request costs no hand-over; what may wait for a
//! disk goes to the pool.

mod class;
mod counters;
mod stages;

use crate::fs::{Store, Wait};
use crate::pool::{Pool, Turn};
use class::Class;
use counters::Counters;
use fabric::{Memory, Responder, Service};
use proto::gmm::Load;
use proto::stats::StorageStats;
use proto::store::{FileHandle, MAX_STAGE, StoreReply, StoreRequest};
use proto::wire::{self, MAX_BULK};
use proto::{Errno, Identity};
use stages::Stages;
use std::cell::RefCell;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

/// Requests that may wait for a thread; each holds at most a message.
const QUEUE: usize = 256;

thread_local! {
    /// Where data is read to, with room for what precedes it on the wire.
    static SCRATCH: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

/// The storage component as a [`Service`].
pub struct Storage {
    inner: Arc<Inner>,
    pool: Pool,
}

struct Inner {
    store: Store,
    stages: Stages,
    counters: Counters,
    /// Requests in the pool that make the disk busy. While there are any, a
    /// change of a name can wait for the file system's journal.
    heavy: AtomicUsize,
    clients: AtomicU64,
}

impl Storage {
    /// Serves `store` with `threads` threads for what may wait; data is staged
    /// in `memory`.
    ///
    /// # Errors
    /// A thread could not be started.
    pub fn new(store: Store, threads: usize, memory: Memory) -> std::io::Result<Storage> {
        let inner = Inner {
            store,
            stages: Stages::new(memory),
            counters: Counters::default(),
            heavy: AtomicUsize::new(0),
            clients: AtomicU64::new(0),
        };
        Ok(Storage {
            inner: Arc::new(inner),
            pool: Pool::new(threads, QUEUE)?,
        })
    }

    /// Counters since the start.
    #[must_use]
    pub fn stats(&self) -> StorageStats {
        self.inner.counters.stats()
    }

    /// For `gmm`.
    #[must_use]
    pub fn load(&self) -> Load {
        Load {
            processes: self.inner.clients.load(Ordering::Relaxed),
            requests: self.inner.counters.requests(),
            ..Load::default()
        }
    }

    /// See [`Store::sweep`].
    pub fn sweep(&self) {
        self.inner.store.sweep();
    }

    fn hand_over(&self, client: Identity, request: StoreRequest, reply: Responder) {
        let heavy = Heavy::new(&self.inner);
        self.pool.submit(Box::new(move |turn| match turn {
            Turn::Run => heavy.0.answer(client, &request, Wait::Yes, reply),
            Turn::Refused => heavy.0.send(reply, &StoreReply::Failed(Errno::ENOMEM)),
        }));
    }
}

/// Counts as heavy while it lives, also where the request panics.
struct Heavy(Arc<Inner>);

impl Heavy {
    fn new(inner: &Arc<Inner>) -> Heavy {
        inner.heavy.fetch_add(1, Ordering::Relaxed);
        Heavy(inner.clone())
    }
}

impl Drop for Heavy {
    fn drop(&mut self) {
        self.0.heavy.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Service for Storage {
    fn call(&self, client: Identity, request: &[u8], reply: Responder) {
        let request: StoreRequest = match wire::decode(request) {
            Ok(request) => request,
            Err(why) => {
                tracing::debug!("{client}: {why}");
                return self.inner.send(reply, &StoreReply::Failed(Errno::EPROTO));
            }
        };
        self.inner.counters.count(&request);
        match class::of(&request) {
            Class::Own => self.inner.send(reply, &StoreReply::Stats(self.stats())),
            Class::Look => {
                if let Some(reply) = self.inner.try_answer(client, &request, reply) {
                    self.hand_over(client, request, reply);
                }
            }
            Class::Change if self.inner.heavy.load(Ordering::Relaxed) == 0 => {
                self.inner.answer(client, &request, Wait::Yes, reply);
            }
            Class::Change | Class::Heavy => self.hand_over(client, request, reply),
        }
    }

    fn connected(&self, client: Identity) {
        self.inner.clients.fetch_add(1, Ordering::Relaxed);
        self.inner.stages.handle_connected(client);
        self.inner.store.handle_connected(client);
    }

    fn gone(&self, client: Identity) {
        self.inner.clients.fetch_sub(1, Ordering::Relaxed);
        self.inner.stages.handle_gone(client);
        self.inner.store.handle_gone(client);
    }
}

impl Inner {
    /// Answers if that needs no waiting; else the responder comes back.
    fn try_answer(
        &self,
        client: Identity,
        request: &StoreRequest,
        reply: Responder,
    ) -> Option<Responder> {
        if let StoreRequest::Read {
            handle,
            offset,
            len,
        } = request
        {
            return self.read(handle, *offset, *len, Wait::No, reply);
        }
        match self.execute(client, request, Wait::No) {
            StoreReply::Failed(Errno::EAGAIN) => Some(reply),
            answer => {
                self.send(reply, &answer);
                None
            }
        }
    }

    fn answer(&self, client: Identity, request: &StoreRequest, wait: Wait, reply: Responder) {
        match request {
            StoreRequest::Read {
                handle,
                offset,
                len,
            } => {
                if let Some(reply) = self.read(handle, *offset, *len, wait, reply) {
                    self.send(reply, &StoreReply::Failed(Errno::EAGAIN));
                }
            }
            _ => self.send(reply, &self.execute(client, request, wait)),
        }
    }

    fn execute(&self, client: Identity, request: &StoreRequest, wait: Wait) -> StoreReply {
        match request {
            StoreRequest::Stage {
                handle,
                offset,
                len,
                slot,
            } => self
                .stage(client, *slot, handle, (*offset, *len), wait)
                .unwrap_or_else(StoreReply::Failed),
            _ => self.store.execute(client, request, wait),
        }
    }

    /// Reads to where the client will fetch it.
    fn stage(
        &self,
        client: Identity,
        slot: u64,
        handle: &FileHandle,
        (offset, len): (u64, u32),
        wait: Wait,
    ) -> Result<StoreReply, Errno> {
        if len as usize > MAX_STAGE {
            return Err(Errno::EINVAL);
        }
        let stage = self.stages.place(client, slot)?;
        let range = 0..u64::from(len);
        let n = self
            .store
            .read_to(handle, offset, &stage.region, range, wait)?;
        self.counters.add_read(n);
        Ok(StoreReply::Staged {
            at: stage.at(),
            len: n as u32,
        })
    }

    /// Reads and answers from one buffer, without a copy in between. The
    /// responder comes back where the read would have to wait.
    fn read(
        &self,
        handle: &FileHandle,
        offset: u64,
        len: u32,
        wait: Wait,
        reply: Responder,
    ) -> Option<Responder> {
        let len = (len as usize).min(MAX_BULK);
        SCRATCH.with_borrow_mut(|scratch| {
            if scratch.len() < HEADROOM + len {
                scratch.resize(HEADROOM + len, 0);
            }
            let data = &mut scratch[HEADROOM..HEADROOM + len];
            match self.store.read_into(handle, offset, data, wait) {
                Ok(n) => {
                    self.counters.add_read(n);
                    reply.send(data_reply(scratch, n));
                    None
                }
                Err(Errno::EAGAIN) => Some(reply),
                Err(e) => {
                    self.send(reply, &StoreReply::Failed(e));
                    None
                }
            }
        })
    }

    fn send(&self, reply: Responder, answer: &StoreReply) {
        self.counters.count_answer(answer);
        reply.answer(answer);
    }
}

/// Room before the data for the message's own bytes.
const HEADROOM: usize = 16;

/// The encoding of [`StoreReply::Data`] of the `n` bytes at [`HEADROOM`]:
/// what precedes the data is that of an empty one with another length.
fn data_reply(scratch: &mut [u8], n: usize) -> &[u8] {
    let mut head = wire::encode(&StoreReply::Data(Vec::new()));
    head.pop();
    head.extend(wire::encode(&(n as u64)));
    let start = HEADROOM.saturating_sub(head.len());
    scratch[start..HEADROOM].copy_from_slice(&head);
    &scratch[start..HEADROOM + n]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn data_in_place_is_the_message() {
        for n in [0, 1, 127, 128, 16383, 16384, MAX_BULK] {
            let data: Vec<u8> = (0..n).map(|i| i as u8).collect();
            let mut scratch = vec![0xaa; HEADROOM];
            scratch.extend(&data);
            scratch.extend([0xbb; 7]);
            assert_eq!(
                data_reply(&mut scratch, n),
                wire::encode(&StoreReply::Data(data))
            );
        }
    }
}
