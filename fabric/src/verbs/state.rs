//! What one end of a connection has under way, and how completions find what
//! they are of.
//!
//! The id of a work request is its kind in the top byte, and below it the
//! number of a message sent, the buffer of one received, or the epoch (16
//! bits) and number (40 bits) of a one-sided piece.

use super::messages::Messenger;
use super::objects::{Completion, CompletionQueue, Found};
use super::sys::status;
use super::transfers::{Failed, Held, Transfers};
use crate::FabricError;
use crate::frame::Garbled;
use crate::spin::Spin;

const KIND: u64 = 0xff << 56;
/// A message sent.
pub(crate) const SENT: u64 = 1 << 56;
/// A message received.
pub(crate) const RECEIVED: u64 = 2 << 56;
const MOVED: u64 = 3 << 56;
const NUMBER_BITS: u32 = 40;

/// The id of a one-sided piece.
pub(crate) fn moved_id(epoch: u16, number: u64) -> u64 {
    MOVED | u64::from(epoch) << NUMBER_BITS | number & ((1 << NUMBER_BITS) - 1)
}

/// One end of a connection.
pub(crate) struct State {
    pub(crate) messenger: Messenger,
    /// The initiator's.
    pub(crate) transfers: Option<Transfers>,
    pub(crate) spin: Spin,
    /// A thread sleeps until something comes: others wait for it.
    pub(crate) led: bool,
    /// How many wait for it.
    pub(crate) followers: u32,
    /// Reused; `None` while it is.
    found: Option<Box<Found>>,
}

impl State {
    pub(crate) fn new(messenger: Messenger, transfers: Option<Transfers>) -> State {
        State {
            messenger,
            transfers,
            spin: Spin::default(),
            led: false,
            followers: 0,
            found: None,
        }
    }

    /// Takes completions out of the queue; whether there were any. `held` is
    /// the memory of the operation that the caller waits for.
    pub(crate) fn progress(
        &mut self,
        queue: &CompletionQueue,
        peer: &str,
        held: &mut Held<'_>,
    ) -> Result<bool, FabricError> {
        let mut found = self.found.take().unwrap_or_else(|| Box::new(Found::new()));
        let mut any = false;
        let mut more = true;
        while more {
            more = queue.poll(&mut found)?;
            any |= !found.is_empty();
            for completion in found.iter() {
                self.dispatch(&completion, queue, peer, held)?;
            }
        }
        self.found = Some(found);
        Ok(any)
    }

    fn dispatch(
        &mut self,
        completion: &Completion,
        queue: &CompletionQueue,
        peer: &str,
        held: &mut Held<'_>,
    ) -> Result<(), FabricError> {
        let Completion {
            id, status: code, ..
        } = *completion;
        let broken = |code| FabricError::broken(peer, queue.describe(code));
        match id & KIND {
            MOVED => match self.moved(id, code, held) {
                Ok(()) => Ok(()),
                Err(Failed::Status(code)) => Err(broken(code)),
                Err(Failed::Ours(e)) => Err(e),
            },
            _ if code != status::SUCCESS => Err(broken(code)),
            SENT => {
                self.messenger.on_sent(id & !KIND);
                Ok(())
            }
            _ => {
                let (len, credits) = (completion.len, completion.immediate);
                self.messenger.on_received(slot(id), len, credits, peer)
            }
        }
    }

    fn moved(&mut self, id: u64, code: u32, held: &mut Held<'_>) -> Result<(), Failed> {
        let epoch = (id >> NUMBER_BITS) as u16;
        match &mut self.transfers {
            // Of a queue pair that was replaced.
            Some(transfers) if transfers.epoch() != epoch => Ok(()),
            Some(transfers) => transfers.on_moved(id & ((1 << NUMBER_BITS) - 1), code, held),
            None => Ok(()),
        }
    }

    /// Ends it, giving receive buffers back that are shared with others.
    pub(crate) fn close(&mut self, queue: &CompletionQueue) {
        self.messenger.fail();
        let mut found = Found::new();
        while queue.poll(&mut found).is_ok() && !found.is_empty() {
            for completion in found.iter().filter(|c| c.id & KIND == RECEIVED) {
                self.messenger.discard(slot(completion.id));
            }
        }
        self.messenger.discard_all();
    }
}

fn slot(id: u64) -> u32 {
    (id & !KIND) as u32
}

/// What a peer sent that is no frame.
pub(crate) fn garbled_by(peer: &str) -> impl Fn(Garbled) -> FabricError + '_ {
    move |garbled| garbled.by(peer)
}
