//! One-sided operations on a queue pair of their own: a remote access error
//! breaks it and nothing else, and a fresh one takes its place.
//!
//! An operation is cut into pieces, each a work request; pieces go through a
//! registered ring, are posted in their order, many with one doorbell, and
//! complete in it. Only some ask for a completion, which stands for all before
//! it. What a broken queue pair gave back unexecuted is posted again on the
//! next one, but for the operation that broke it.

use super::objects::Buffer;
use super::queue::{Action, Local, QueuePair, Request};
use super::state::moved_id;
use super::sys::{Sge, status};
use crate::link::Work;
use crate::{FabricError, Segment};
use arrayvec::ArrayVec;
use proto::addr::RemoteKey;
use std::collections::VecDeque;
use std::sync::Arc;

/// Bytes of the ring.
pub(crate) const RING: usize = 256 << 10;
/// Longest piece: several are on their way at a time.
const PIECE: u32 = 64 << 10;
/// Pieces posted and not known to be done.
pub(crate) const DEPTH: usize = 64;
/// Of pieces posted together, one in so many asks for a completion, and the
/// last.
const SIGNALED_EVERY: usize = 16;
/// Pieces in the ring start at multiples of this, so that copies are fast.
const ALIGN: u64 = 64;

/// A segment whose key was looked up and whose bounds were checked.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Target {
    pub(crate) local: u32,
    pub(crate) len: u32,
    /// Address in the peer's memory.
    pub(crate) at: u64,
    pub(crate) rkey: u32,
    pub(crate) key: RemoteKey,
}

/// The caller's memory, while it waits for an operation of its own.
pub(crate) enum Held<'a> {
    Nothing,
    Into(&'a mut [u8]),
    From(&'a [u8]),
}

#[derive(Clone, Copy)]
struct Piece {
    operation: u64,
    writes: bool,
    target: Target,
}

struct Posted {
    number: u64,
    piece: Piece,
    /// Where it lies in the ring; a write that went inline does not.
    at: Option<usize>,
    /// The ring is free up to here once it is done.
    end: u64,
}

struct Operation {
    id: u64,
    /// Its buffer; `None` where a waiting caller holds it.
    buffer: Option<Vec<u8>>,
    /// Pieces not done; it has ended where there are none.
    left: usize,
    refused: Option<FabricError>,
}

/// Operations under way and those that have ended but were not taken, by id:
/// they begin in its order.
#[derive(Default)]
struct Operations {
    all: VecDeque<Operation>,
    /// How many have not ended.
    busy: usize,
}

impl Operations {
    fn add(&mut self, operation: Operation) {
        self.busy += usize::from(operation.left > 0);
        self.all.push_back(operation);
    }

    fn find(&self, id: u64) -> Option<usize> {
        self.all.binary_search_by_key(&id, |o| o.id).ok()
    }

    fn get(&self, id: u64) -> Option<&Operation> {
        self.all.get(self.find(id)?)
    }

    fn get_mut(&mut self, id: u64) -> Option<&mut Operation> {
        let at = self.find(id)?;
        self.all.get_mut(at)
    }

    /// A piece of `id` is done.
    fn count_down(&mut self, id: u64) {
        if let Some(operation) = self.get_mut(id) {
            operation.left -= 1;
            if operation.left == 0 {
                self.busy -= 1;
            }
        }
    }

    fn refuse(&mut self, id: u64, why: FabricError) {
        if let Some(operation) = self.get_mut(id) {
            operation.left = 0;
            operation.refused = Some(why);
            self.busy -= 1;
        }
    }

    fn take(&mut self, id: u64) -> Option<Result<Vec<u8>, FabricError>> {
        let at = self.find(id).filter(|&at| self.all[at].left == 0)?;
        let ended = self.all.remove(at)?;
        let buffer = ended.buffer.unwrap_or_default();
        Some(ended.refused.map_or(Ok(buffer), Err))
    }
}

/// The initiator's end.
pub(crate) struct Transfers {
    queue: QueuePair,
    ring: Arc<Buffer>,
    /// Bytes of the ring ever taken, and ever freed.
    taken: u64,
    freed: u64,
    number: u64,
    /// How many queue pairs there were before this one.
    epoch: u16,
    waiting: VecDeque<Piece>,
    posted: VecDeque<Posted>,
    operations: Operations,
    /// The key that broke the queue pair.
    refused: Option<RemoteKey>,
}

impl Transfers {
    pub(crate) fn new(queue: QueuePair, ring: Arc<Buffer>) -> Transfers {
        Transfers {
            queue,
            ring,
            taken: 0,
            freed: 0,
            number: 0,
            epoch: 0,
            waiting: VecDeque::new(),
            posted: VecDeque::new(),
            operations: Operations::default(),
            refused: None,
        }
    }

    pub(crate) fn epoch(&self) -> u16 {
        self.epoch
    }

    /// Whether everything posted has been carried out.
    pub(crate) fn is_idle(&self) -> bool {
        self.operations.busy == 0
    }

    /// The key that the peer's device refused: the queue pair is broken, and
    /// wants to be [`Transfers::renew`]ed.
    pub(crate) fn refused(&self) -> Option<RemoteKey> {
        self.refused
    }

    /// Goes on over a fresh queue pair.
    pub(crate) fn renew(&mut self, queue: QueuePair) {
        self.queue = queue;
        self.epoch = self.epoch.wrapping_add(1);
        self.refused = None;
    }

    /// Queues an operation under `id`. `buffer` is its local memory, or a
    /// waiting caller's.
    pub(crate) fn begin(
        &mut self,
        id: u64,
        writes: bool,
        targets: &[Target],
        buffer: Option<Vec<u8>>,
    ) {
        let before = self.waiting.len();
        for target in targets {
            for from in (0..target.len).step_by(PIECE as usize) {
                let target = Target {
                    local: target.local + from,
                    len: (target.len - from).min(PIECE),
                    at: target.at + u64::from(from),
                    ..*target
                };
                self.waiting.push_back(Piece {
                    operation: id,
                    writes,
                    target,
                });
            }
        }
        self.operations.add(Operation {
            id,
            buffer,
            left: self.waiting.len() - before,
            refused: None,
        });
    }

    /// An operation that ended before it began.
    pub(crate) fn refuse(&mut self, id: u64, why: FabricError) {
        self.operations.add(Operation {
            id,
            buffer: None,
            left: 0,
            refused: Some(why),
        });
    }

    /// Whether `id` is under way or its result waits to be taken.
    pub(crate) fn knows(&self, id: u64) -> bool {
        self.operations.find(id).is_some()
    }

    /// The result of an operation that has ended.
    pub(crate) fn take(&mut self, id: u64) -> Option<Result<Vec<u8>, FabricError>> {
        self.operations.take(id)
    }

    /// Posts what fits.
    pub(crate) fn pump(&mut self, held: &Held<'_>) -> Result<(), FabricError> {
        while self.refused.is_none() && !self.waiting.is_empty() {
            if !self.post_some(held)? {
                break;
            }
        }
        Ok(())
    }

    /// Posts as many pieces as one doorbell takes; whether there were any.
    fn post_some(&mut self, held: &Held<'_>) -> Result<bool, FabricError> {
        let first = self.posted.len();
        let mut places = ArrayVec::<_, SIGNALED_EVERY>::new();
        while self.posted.len() < DEPTH && !places.is_full() {
            let Some(piece) = self.waiting.front().copied() else {
                break;
            };
            let Some(place) = self.place(&piece, held)? else {
                break;
            };
            self.waiting.pop_front();
            places.push(place);
            self.posted.push_back(Posted {
                number: self.number,
                piece,
                at: place.map(|(at, _)| at),
                end: self.taken,
            });
            self.number += 1;
        }
        let count = places.len();
        let mut requests = ArrayVec::<_, SIGNALED_EVERY>::new();
        for (posted, place) in self.posted.range(first..).zip(places) {
            let Piece { writes, target, .. } = posted.piece;
            let action = match writes {
                true => Action::Write(target.at, target.rkey),
                false => Action::Read(target.at, target.rkey),
            };
            let local = match place {
                Some((_, piece)) => Local::Piece(piece),
                None => Local::Inline(source(&self.operations, &posted.piece, held)?),
            };
            requests.push(Request {
                id: moved_id(self.epoch, posted.number),
                action,
                local,
                signaled: requests.len() + 1 == count,
            });
        }
        self.queue.post(&requests)?;
        Ok(count > 0)
    }

    /// Finds a place for a piece in the ring and, for a write, fills it;
    /// `Some(None)` for one that needs none, `None` where there is no room.
    #[allow(clippy::type_complexity)]
    fn place(
        &mut self,
        piece: &Piece,
        held: &Held<'_>,
    ) -> Result<Option<Option<(usize, Sge)>>, FabricError> {
        let len = piece.target.len as usize;
        if piece.writes && len <= self.queue.max_inline() {
            return Ok(Some(None));
        }
        let Some(at) = self.reserve(len as u64) else {
            return Ok(None);
        };
        if piece.writes {
            let from = source(&self.operations, piece, held)?;
            self.ring.write(at, from)?;
        }
        Ok(Some(Some((at, self.ring.piece(at, len)?))))
    }

    /// Takes `len` bytes of the ring, in one piece.
    fn reserve(&mut self, len: u64) -> Option<usize> {
        let size = RING as u64;
        if self.freed == self.taken {
            // From the start again: it is in the CPU's cache.
            self.taken = self.taken.next_multiple_of(size);
            self.freed = self.taken;
        }
        let mut begin = self.taken.next_multiple_of(ALIGN);
        if begin % size + len > size {
            begin = begin.next_multiple_of(size);
        }
        let end = begin + len;
        if end - self.freed > size {
            return None;
        }
        self.taken = end;
        usize::try_from(begin % size).ok()
    }

    /// A completion of piece `number` of the queue pair in use.
    pub(crate) fn on_moved(
        &mut self,
        number: u64,
        code: u32,
        held: &mut Held<'_>,
    ) -> Result<(), Failed> {
        while self.posted.front().is_some_and(|p| p.number < number) {
            self.finish_first(held)?;
        }
        match code {
            status::SUCCESS => Ok(self.finish_first(held)?),
            status::REMOTE_ACCESS => {
                self.fail_first();
                Ok(())
            }
            // What comes after an error is given back unexecuted.
            status::FLUSHED if self.refused.is_some() => Ok(()),
            code => Err(Failed::Status(code)),
        }
    }

    fn finish_first(&mut self, held: &mut Held<'_>) -> Result<(), FabricError> {
        let Some(Posted { piece, at, end, .. }) = self.posted.pop_front() else {
            return Ok(());
        };
        self.freed = self.freed.max(end);
        let Some(operation) = self.operations.get_mut(piece.operation) else {
            return Ok(());
        };
        if let (false, Some(at)) = (piece.writes, at) {
            let into = match (&mut operation.buffer, held) {
                (Some(buffer), _) => buffer,
                (None, Held::Into(buffer)) => &mut **buffer,
                (None, _) => return Err(lost()),
            };
            self.ring.read(at, segment(&piece.target).of_mut(into)?)?;
        }
        self.operations.count_down(piece.operation);
        Ok(())
    }

    /// The first posted piece was refused: its operation ends, and what was
    /// posted after it waits for a fresh queue pair.
    fn fail_first(&mut self) {
        let Some(failed) = self.posted.pop_front() else {
            return;
        };
        let broken = failed.piece.operation;
        self.operations.refuse(broken, FabricError::BadKey);
        self.refused = Some(failed.piece.target.key);
        while let Some(next) = self.posted.pop_back() {
            self.waiting.push_front(next.piece);
        }
        self.waiting.retain(|piece| piece.operation != broken);
        self.freed = self.taken;
    }
}

/// Why a completion could not be taken.
pub(crate) enum Failed {
    /// The device's status, of an operation that may be sound.
    Status(u32),
    Ours(FabricError),
}

impl From<FabricError> for Failed {
    fn from(e: FabricError) -> Failed {
        Failed::Ours(e)
    }
}

fn lost() -> FabricError {
    FabricError::Invalid("an operation's buffer is gone".to_owned())
}

fn segment(target: &Target) -> Segment {
    Segment {
        local: target.local,
        len: target.len,
        remote: proto::addr::RemoteAddr {
            key: target.key,
            offset: 0,
        },
    }
}

/// The bytes that a piece writes.
fn source<'a>(
    operations: &'a Operations,
    piece: &Piece,
    held: &'a Held<'_>,
) -> Result<&'a [u8], FabricError> {
    let operation = operations.get(piece.operation).ok_or_else(lost)?;
    let from = match (&operation.buffer, held) {
        (Some(buffer), _) => buffer,
        (None, Held::From(buffer)) => *buffer,
        (None, _) => return Err(lost()),
    };
    segment(&piece.target).of(from)
}

/// The buffer of posted work, and whether it is written from.
pub(crate) fn buffer_of(work: Work) -> Option<(bool, Vec<Segment>, Vec<u8>)> {
    match work {
        Work::Read(segments, buffer) => Some((false, segments, buffer)),
        Work::Write(segments, buffer) => Some((true, segments, buffer)),
        Work::Call(_) => None,
    }
}
