//! File data fetched one-sided from where a storage component has read it to:
//! on one machine a message for each piece, and no copy through a socket. Two
//! places are used in turn, so that a piece is read while the one before is
//! fetched.

use super::{Network, PATIENCE, Wanted};
use fabric::{Connection, FabricError, Ticket, Work};
use proto::addr::RemoteKey;
use proto::store::{MAX_STAGE, MOST_STAGES, StoreReply, StoreRequest};
use proto::{Errno, NodeId, wire};
use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::{Mutex, PoisonError};
use std::time::Instant;

/// Pieces on their way at once.
const TURNS: usize = 2;

/// Different keys that a storage component may answer with. Each is a mapping in
/// this process, of which there are only so many; one that was started anew has
/// new ones.
const MOST_KEYS: usize = 64 * MOST_STAGES;

/// Numbers of places for staged data, by storage component. One that a request
/// was not answered for is not used again: see [`StoreRequest::Stage`].
#[derive(Default)]
pub(super) struct Slots(Mutex<HashMap<NodeId, Numbers>>);

#[derive(Default)]
struct Numbers {
    next: u64,
    free: Vec<u64>,
    /// Taken and not given back.
    out: usize,
    keys: HashSet<RemoteKey>,
}

impl Slots {
    fn of<T>(&self, node: NodeId, f: impl FnOnce(&mut Numbers) -> T) -> T {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        f(all.entry(node).or_default())
    }

    /// A number that nobody uses. `None`: as many are in use as the component
    /// keeps places.
    fn take(&self, node: NodeId) -> Option<u64> {
        self.of(node, |numbers| {
            if numbers.out == MOST_STAGES || numbers.keys.len() > MOST_KEYS {
                return None;
            }
            numbers.out += 1;
            Some(numbers.free.pop().unwrap_or_else(|| {
                numbers.next += 1;
                numbers.next
            }))
        })
    }

    /// The request is over; `answered`: the number may be used again.
    fn give(&self, node: NodeId, slot: u64, answered: bool) {
        self.of(node, |numbers| {
            numbers.out = numbers.out.saturating_sub(1);
            if answered {
                numbers.free.push(slot);
            }
        });
    }

    /// Whether one more mapping may be made for what the component answered.
    fn accepts(&self, node: NodeId, key: RemoteKey) -> bool {
        self.of(node, |numbers| {
            numbers.keys.insert(key);
            numbers.keys.len() <= MOST_KEYS
        })
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
    /// `EIO` where storage does not answer in time.
    pub(super) fn bring_staged(&self, node: NodeId, wanted: Wanted<'_>) -> Result<Came, Errno> {
        let Ok(peer) = self.peer(node, &[]) else {
            return Ok(Came::Part(0));
        };
        match peer.get() {
            Ok(mut connection) if connection.maps() => {
                let mut pieces = VecDeque::with_capacity(TURNS);
                let came = self.stage_all(node, &mut connection, wanted, &mut pieces);
                // No answer may be left for who has the connection next.
                for piece in pieces {
                    let answered = connection.complete(piece.ticket).is_ok();
                    self.slots.give(node, piece.slot, answered);
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
        let begun = Instant::now();
        let (mut asked, mut done) = (0, 0);
        while done < wanted.len {
            while asked < wanted.len && pieces.len() < TURNS {
                let len = (wanted.len - asked).min(MAX_STAGE as u64) as u32;
                let Some(slot) = self.slots.take(node) else {
                    break;
                };
                let Ok(ticket) = ask(connection, &wanted, asked, len, slot) else {
                    self.slots.give(node, slot, false);
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
                return Ok(Came::Part(done));
            };
            let answer = connection.complete(piece.ticket);
            let fetched = match &answer {
                Ok(bytes) => self.fetch(node, connection, &wanted, &piece, bytes),
                Err(_) => None,
            };
            self.slots.give(node, piece.slot, answer.is_ok());
            if let Err(e @ FabricError::Timeout { .. }) = answer {
                tracing::warn!("storage component {node}: {e}");
                return Err(Errno::EIO);
            }
            let Some(fetched) = fetched else {
                return Ok(Came::Part(done));
            };
            done += u64::from(fetched);
            if fetched < piece.len {
                break;
            }
            if done < wanted.len && begun.elapsed() > PATIENCE {
                tracing::warn!("storage component {node} is slow: {done} bytes in {PATIENCE:?}");
                return Err(Errno::EIO);
            }
        }
        Ok(Came::All(done))
    }

    /// Fetches what storage has read; how many bytes. `None`: that can't be.
    fn fetch(
        &self,
        node: NodeId,
        connection: &mut Connection,
        wanted: &Wanted<'_>,
        piece: &Piece,
        answer: &[u8],
    ) -> Option<u32> {
        let Ok(StoreReply::Staged { at, len }) = wire::decode(answer) else {
            return None;
        };
        if len > piece.len || !self.slots.accepts(node, at.key) {
            return None;
        }
        let (to, committed) = (wanted.to + piece.from, wanted.committed);
        if len > 0 {
            let fetched = wanted.region.fetch(to, connection, at, len, committed);
            fetched.ok()?;
        }
        Some(len)
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

#[cfg(test)]
mod tests {
    use super::*;

    const NODE: NodeId = NodeId(3);

    #[test]
    fn no_more_places_are_used_than_storage_keeps() {
        let slots = Slots::default();
        let taken: Vec<u64> = (0..MOST_STAGES)
            .map(|_| slots.take(NODE).unwrap())
            .collect();
        assert_eq!(slots.take(NODE), None);
        assert!(slots.take(NodeId(4)).is_some());
        slots.give(NODE, taken[0], true);
        assert_eq!(slots.take(NODE), Some(taken[0]));
        slots.give(NODE, taken[1], false);
        let new = slots.take(NODE).unwrap();
        assert!(!taken.contains(&new), "not one whose bytes may still come");
    }

    #[test]
    fn storage_cannot_fill_this_process_with_mappings() {
        let slots = Slots::default();
        let key = |nonce| RemoteKey {
            region: 1,
            slot: 1,
            nonce,
        };
        for nonce in 0..MOST_KEYS as u64 {
            assert!(slots.accepts(NODE, key(nonce)) && slots.accepts(NODE, key(0)));
        }
        assert!(slots.take(NODE).is_some());
        assert!(!slots.accepts(NODE, key(u64::MAX)));
        assert_eq!(slots.take(NODE), None);
    }
}
