//! Frames over a queue pair: each is sent as messages of at most a chunk,
//! under credits, so that the receiver always has a buffer for them.
//!
//! A credit is the right to send one message with bytes in it. Those that the
//! receiver returns travel beside whatever it sends, as the immediate number;
//! once half of them are owed and nothing else is sent, in a message without
//! bytes, which takes no credit.

use super::objects::Buffer;
use super::queue::{Action, Local, QueuePair, Request};
use super::receives::{CREDITS, Share};
use super::state::SENT;
use crate::FabricError;
use crate::frame::{Garbled, HEADER, Header};
use std::collections::VecDeque;
use std::sync::Arc;

/// Messages posted and not known to be sent.
pub(crate) const SLOTS: usize = 8;
/// Every so many messages one asks for a completion, which stands for all
/// before it.
const SIGNALED_EVERY: u64 = 4;

/// One end.
pub(crate) struct Messenger {
    queue: QueuePair,
    share: Share,
    /// [`SLOTS`] chunks, used in turn.
    out: Arc<Buffer>,
    /// The shorter of both ends' chunks.
    chunk: usize,
    sent: u64,
    /// Known to have been sent.
    done: u64,
    credits: u32,
    most_credits: u32,
    owed: u32,
    /// Buffers that came in, and their lengths.
    arrived: VecDeque<(u32, usize)>,
    head: Option<Header>,
    body: Vec<u8>,
}

/// A frame on its way out.
pub(crate) struct Outgoing<'a> {
    head: [u8; HEADER],
    body: &'a [u8],
    /// Bytes sent, those of the header included.
    at: usize,
}

impl<'a> Outgoing<'a> {
    pub(crate) fn new(header: Header, body: &'a [u8]) -> Outgoing<'a> {
        Outgoing {
            head: header.encode(),
            body,
            at: 0,
        }
    }

    fn left(&self) -> usize {
        HEADER + self.body.len() - self.at
    }

    /// Puts the next bytes into a chunk at `to`; how many.
    fn fill(&mut self, out: &Buffer, to: usize, most: usize) -> Result<usize, FabricError> {
        let len = self.left().min(most);
        let mut put = 0;
        if self.at < HEADER {
            out.write(to, &self.head)?;
            put = HEADER;
        }
        let from = self.at + put - HEADER;
        out.write(to + put, &self.body[from..from + len - put])?;
        self.at += len;
        Ok(len)
    }
}

impl Messenger {
    /// An end whose peer has buffers for `credits` messages of `chunk` bytes.
    pub(crate) fn new(
        queue: QueuePair,
        share: Share,
        out: Arc<Buffer>,
        credits: u32,
        chunk: usize,
    ) -> Messenger {
        Messenger {
            queue,
            share,
            out,
            chunk,
            sent: 0,
            done: 0,
            credits,
            most_credits: credits,
            owed: 0,
            arrived: VecDeque::new(),
            head: None,
            body: Vec::new(),
        }
    }

    fn has_room(&self) -> bool {
        self.sent - self.done < SLOTS as u64
    }

    /// All messages up to one were sent.
    pub(crate) fn on_sent(&mut self, number: u64) {
        self.done = self.done.max(number + 1);
    }

    /// A message came; `None` if the peer returns credits that it never had.
    pub(crate) fn on_received(
        &mut self,
        slot: u32,
        len: usize,
        credits: u32,
    ) -> Result<Option<()>, FabricError> {
        let now = self.credits.checked_add(credits);
        let Some(now) = now.filter(|now| *now <= self.most_credits) else {
            return Ok(None);
        };
        self.credits = now;
        if len == 0 {
            self.share.0.give_back(slot)?;
        } else {
            self.arrived.push_back((slot, len));
        }
        Ok(Some(()))
    }

    /// Sends as much of a frame as it may; whether all of it.
    pub(crate) fn push(&mut self, frame: &mut Outgoing<'_>) -> Result<bool, FabricError> {
        while frame.left() > 0 {
            if self.credits == 0 || !self.has_room() {
                return Ok(false);
            }
            let at = self.slot();
            let len = frame.fill(&self.out, at, self.chunk)?;
            self.post(at, len)?;
            self.credits -= 1;
        }
        Ok(true)
    }

    /// Where the next message is put.
    fn slot(&self) -> usize {
        (self.sent % SLOTS as u64) as usize * super::receives::CHUNK
    }

    fn post(&mut self, at: usize, len: usize) -> Result<(), FabricError> {
        let piece = self.out.piece(at, len)?;
        let local = if (1..=self.queue.max_inline()).contains(&len) {
            Local::Copied(piece)
        } else {
            Local::Piece(piece)
        };
        let request = Request {
            id: SENT | self.sent,
            action: Action::Message(std::mem::take(&mut self.owed)),
            local,
            signaled: self.sent % SIGNALED_EVERY == SIGNALED_EVERY - 1,
        };
        self.sent += 1;
        self.queue.post(&[request])
    }

    /// The next frame, if it is whole; its buffers are free again.
    pub(crate) fn next_frame(
        &mut self,
    ) -> Result<Option<Result<(Header, Vec<u8>), Garbled>>, FabricError> {
        while let Some((slot, len)) = self.arrived.pop_front() {
            let taken = self.take(slot, len)?;
            self.share.0.give_back(slot)?;
            self.owed += 1;
            if let Some(frame) = taken.transpose() {
                self.return_credits()?;
                return Ok(Some(frame));
            }
            self.return_credits()?;
        }
        Ok(None)
    }

    fn take(
        &mut self,
        slot: u32,
        len: usize,
    ) -> Result<Result<Option<(Header, Vec<u8>)>, Garbled>, FabricError> {
        let mut from = 0;
        let header = match self.head {
            Some(header) => header,
            None => {
                let mut head = [0; HEADER];
                self.share.0.copy(slot, 0, &mut head[..len.min(HEADER)])?;
                match Header::decode(&head) {
                    Ok(header) => {
                        from = HEADER;
                        self.body = Vec::with_capacity(header.len);
                        *self.head.insert(header)
                    }
                    Err(garbled) => return Ok(Err(garbled)),
                }
            }
        };
        let begin = self.body.len();
        let end = begin + len.saturating_sub(from);
        if end > header.len {
            return Ok(Err(Garbled::Length(header.kind)));
        }
        self.body.resize(end, 0);
        self.share.0.copy(slot, from, &mut self.body[begin..])?;
        if end < header.len {
            return Ok(Ok(None));
        }
        self.head = None;
        Ok(Ok(Some((header, std::mem::take(&mut self.body)))))
    }

    fn return_credits(&mut self) -> Result<(), FabricError> {
        if self.owed >= CREDITS / 2 && self.has_room() {
            self.post(self.slot(), 0)?;
        }
        Ok(())
    }

    /// Ends it: what was posted is given back as completions.
    pub(crate) fn fail(&self) {
        self.queue.fail();
    }

    /// Messages came that nobody wants any more.
    pub(crate) fn discard_all(&mut self) {
        while let Some((slot, _)) = self.arrived.pop_front() {
            self.discard(slot);
        }
    }

    /// As [`Messenger::discard_all`], one.
    pub(crate) fn discard(&mut self, slot: u32) {
        if let Err(e) = self.share.0.give_back(slot) {
            tracing::debug!("a receive buffer is lost: {e}");
        }
    }
}
