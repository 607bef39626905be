//! File data fetched one-sided from where a storage component has read it to:
//! on one machine a message for each piece, and no copy through a socket. Two
//! places are used in turn, so that a piece is read while the one before is
//! fetched.

use super::{Network, Wanted, no_room};
use fabric::{Backend, Connection, FabricError, Ticket, Work};
use proto::store::{MAX_STAGE, StoreReply, StoreRequest};
use proto::{Errno, NodeId, wire};
use std::collections::HashMap;
use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

/// Pieces on their way at once.
const TURNS: usize = 2;

/// Numbers of places for staged data. One that a request was not answered for
/// is not used again: see [`StoreRequest::Stage`].
#[derive(Default)]
pub(super) struct Slots {
    next: AtomicU64,
    free: Mutex<HashMap<NodeId, Vec<u64>>>,
}

impl Slots {
    fn take(&self, node: NodeId) -> u64 {
        let mut free = self.free.lock().unwrap_or_else(PoisonError::into_inner);
        let known = free.get_mut(&node).and_then(Vec::pop);
        known.unwrap_or_else(|| self.next.fetch_add(1, Ordering::Relaxed))
    }

    fn give(&self, node: NodeId, slot: u64) {
        let mut free = self.free.lock().unwrap_or_else(PoisonError::into_inner);
        free.entry(node).or_default().push(slot);
    }
}

/// How far staged data came.
pub(super) enum Came {
    /// All of it, or to the end of the file.
    All(u64),
    /// So many bytes; the others are asked for by messages, which tell what is
    /// wrong.
    Part(u64),
}

/// A piece that was asked for.
struct Piece {
    ticket: Ticket,
    slot: u64,
    /// Where in what is wanted, and how long.
    from: u64,
    len: u32,
}

impl Network {
    /// Brings what is wanted as far as it can be staged.
    ///
    /// # Errors
    /// `EIO` where storage does not answer in time, `ENOMEM`.
    pub(super) fn bring_staged(&self, node: NodeId, wanted: Wanted<'_>) -> Result<Came, Errno> {
        let Ok(peer) = self.peer(node, &[]) else {
            return Ok(Came::Part(0));
        };
        match peer.get() {
            Ok(mut connection) if connection.backend() == Backend::Shm => {
                let mut pieces = VecDeque::with_capacity(TURNS);
                let came = self.stage_all(node, &mut connection, wanted, &mut pieces);
                // No answer may be left for who has the connection next.
                for piece in pieces {
                    if connection.complete(piece.ticket).is_ok() {
                        self.slots.give(node, piece.slot);
                    }
                }
                came
            }
            _ => Ok(Came::Part(0)),
        }
    }

    fn stage_all(
        &self,
        node: NodeId,
        connection: &mut Connection,
        wanted: Wanted<'_>,
        pieces: &mut VecDeque<Piece>,
    ) -> Result<Came, Errno> {
        let (mut asked, mut done) = (0, 0);
        while done < wanted.len {
            while asked < wanted.len && pieces.len() < TURNS {
                let len = (wanted.len - asked).min(MAX_STAGE as u64) as u32;
                let slot = self.slots.take(node);
                let Ok(ticket) = ask(connection, &wanted, asked, len, slot) else {
                    return Ok(Came::Part(done));
                };
                let from = asked;
                pieces.push_back(Piece {
                    ticket,
                    slot,
                    from,
                    len,
                });
                asked += u64::from(len);
            }
            let Some(piece) = pieces.pop_front() else {
                break;
            };
            let answer = match connection.complete(piece.ticket) {
                Ok(answer) => wire::decode(&answer),
                Err(e @ FabricError::Timeout { .. }) => {
                    tracing::warn!("storage component {node}: {e}");
                    return Err(Errno::EIO);
                }
                Err(_) => return Ok(Came::Part(done)),
            };
            let Ok(StoreReply::Staged { at, len }) = answer else {
                self.slots.give(node, piece.slot);
                return Ok(Came::Part(done));
            };
            if len > piece.len {
                return Err(Errno::EPROTO);
            }
            let to = wanted.to + piece.from;
            let fetched = match len {
                0 => Ok(()),
                _ => wanted
                    .region
                    .fetch(to, connection, at, len, wanted.committed),
            };
            self.slots.give(node, piece.slot);
            match fetched {
                Ok(()) => {}
                Err(e @ FabricError::Local { .. }) => return Err(no_room(&e)),
                Err(_) => return Ok(Came::Part(done)),
            }
            done += u64::from(len);
            if len < piece.len {
                break;
            }
        }
        Ok(Came::All(done))
    }
}

fn ask(
    connection: &mut Connection,
    wanted: &Wanted<'_>,
    from: u64,
    len: u32,
    slot: u64,
) -> Result<Ticket, FabricError> {
    let request = StoreRequest::Stage {
        handle: wanted.handle.clone(),
        offset: wanted.offset + from,
        len,
        slot,
    };
    connection.post(Work::Call(wire::encode(&request)))
}
