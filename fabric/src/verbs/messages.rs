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

/// A frame that came in.
pub(crate) type Frame = (Header, Vec<u8>);

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

    /// A message came from `peer`.
    pub(crate) fn on_received(
        &mut self,
        slot: u32,
        len: usize,
        credits: u32,
        peer: &str,
    ) -> Result<(), FabricError> {
        let now = self.credits.checked_add(credits);
        let sound = now.filter(|now| *now <= self.most_credits);
        self.credits = sound.ok_or_else(|| FabricError::Protocol {
            peer: peer.to_owned(),
            why: "it returned more credits than it was given".to_owned(),
        })?;
        if len == 0 {
            return self.share.0.give_back(slot);
        }
        self.arrived.push_back((slot, len));
        Ok(())
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

    /// The next frame of `peer`, if all of it has come.
    pub(crate) fn next_frame(&mut self, peer: &str) -> Result<Option<Frame>, FabricError> {
        let mut whole = None;
        while whole.is_none()
            && let Some((slot, len)) = self.arrived.pop_front()
        {
            whole = self.take(slot, len, peer)?;
            self.share.0.give_back(slot)?;
            self.owed += 1;
            self.return_credits()?;
        }
        // There may have been no room to return them before.
        self.return_credits()?;
        Ok(whole)
    }

    /// Adds a message to the frame that is coming in.
    fn take(&mut self, slot: u32, len: usize, peer: &str) -> Result<Option<Frame>, FabricError> {
        let (header, from) = match self.head {
            Some(header) => (header, 0),
            None => (self.take_header(slot, len, peer)?, HEADER),
        };
        let begin = self.body.len();
        let end = begin + len.saturating_sub(from);
        if end > header.len {
            return Err(Garbled::Length(header.kind).by(peer));
        }
        self.body.resize(end, 0);
        self.share.0.copy(slot, from, &mut self.body[begin..])?;
        if end < header.len {
            return Ok(None);
        }
        self.head = None;
        Ok(Some((header, std::mem::take(&mut self.body))))
    }

    fn take_header(&mut self, slot: u32, len: usize, peer: &str) -> Result<Header, FabricError> {
        let mut head = [0; HEADER];
        self.share.0.copy(slot, 0, &mut head[..len.min(HEADER)])?;
        let header = Header::decode(&head).map_err(|garbled| garbled.by(peer))?;
        self.body = Vec::with_capacity(header.len);
        self.head = Some(header);
        Ok(header)
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
