//! The initiator's end over a socket: the tcp backend, and with a window into
//! the peer's memory the shm backend.
//!
//! Frames answer in any order but for one-sided operations; what completes
//! while another answer is waited for is put aside. How much may be posted and
//! unanswered is bounded ([`CREDIT`]): beyond it both ends could wait for each
//! other to receive.

use crate::batch::batches;
use crate::dial::Address;
use crate::frame::{self, Garbled, Header, Kind, Outcome, decode_mapped};
use crate::handshake::{self, Met};
use crate::link::{Link, Ticket, Work};
use crate::mapping::{Mapping, is_safe_to_map};
use crate::stream::{Deadline, Stream, Wait};
use crate::window::{Fetch, Window, views_of};
use crate::{Backend, Credential, FabricError, Segment};
use proto::addr::{RemoteAddr, RemoteKey};
use rustix::fd::OwnedFd;
use std::collections::HashMap;
use std::sync::Arc;

/// Bytes of posted operations, with their answers, that may be on their way
/// when something else is sent: less than the smallest socket buffer.
const CREDIT: usize = 64 << 10;

pub(crate) struct SocketLink {
    channel: Channel,
    window: Option<Window>,
}

/// The socket, and what is on its way over it.
struct Channel {
    stream: Stream,
    next: u64,
    /// Reused for what is sent.
    request: Vec<u8>,
    /// Not answered yet.
    posted: HashMap<u64, Work>,
    /// Bytes of those.
    on_the_way: usize,
    /// Answered, not fetched yet.
    done: HashMap<u64, Result<Vec<u8>, FabricError>>,
}

impl SocketLink {
    pub(crate) fn connect(
        text: &str,
        address: &Address<'_>,
        credential: &Credential,
        fd_floor: Option<i32>,
        deadline: &Deadline,
    ) -> Result<(SocketLink, Met), FabricError> {
        let (_, stream, met) = meet(text, address, credential, fd_floor, deadline)?;
        let me = credential.identity;
        let window = (address.backend() == Backend::Shm)
            .then(|| Window::new(views_of(met.instance, me), me));
        let channel = Channel::new(stream);
        Ok((SocketLink { channel, window }, met))
    }
}

/// Connects a socket, and finds out who is there.
pub(crate) fn meet(
    text: &str,
    address: &Address<'_>,
    credential: &Credential,
    fd_floor: Option<i32>,
    deadline: &Deadline,
) -> Result<(Arc<OwnedFd>, Stream, Met), FabricError> {
    let mut fd = address.connect(text, deadline)?;
    if let Some(floor) = fd_floor {
        fd = host::descriptor::raise(fd, floor)
            .map_err(|e| FabricError::local(&format!("a descriptor above {floor}"), e))?;
    }
    let fd = Arc::new(fd);
    let mut stream = Stream::new(fd.clone(), text.to_owned());
    let met = handshake::greet(&mut stream, credential, deadline)?;
    stream.name = format!("{} ({text})", met.identity);
    Ok((fd, stream, met))
}

/// A channel as the window fetches mappings over it.
struct Fetcher<'a>(&'a mut Channel, &'a Deadline);

impl Fetch for Fetcher<'_> {
    fn fetch(&mut self, key: RemoteKey) -> Result<Mapping, FabricError> {
        self.0.map(key, self.1)
    }
}

impl Link for SocketLink {
    fn name(&self) -> &str {
        &self.channel.stream.name
    }

    fn post(&mut self, mut work: Work, deadline: &Deadline) -> Result<Ticket, FabricError> {
        let Some(window) = &mut self.window else {
            return self.channel.post(work, deadline);
        };
        let mut fetch = Fetcher(&mut self.channel, deadline);
        // A copy is over at once, whatever comes of it.
        let (result, buffer) = match &mut work {
            Work::Read(segments, buffer) => (
                window.read(segments, buffer, &mut fetch),
                std::mem::take(buffer),
            ),
            Work::Write(segments, buffer) => (
                window.write(segments, buffer, &mut fetch),
                std::mem::take(buffer),
            ),
            Work::Call(_) => return self.channel.post(work, deadline),
        };
        let id = self.channel.next_id();
        self.channel.done.insert(id, result.map(|()| buffer));
        Ok(Ticket(id))
    }

    fn complete(&mut self, ticket: Ticket, deadline: &Deadline) -> Result<Vec<u8>, FabricError> {
        self.channel.complete(ticket.0, deadline)
    }

    fn call(&mut self, request: &[u8], deadline: &Deadline) -> Result<Vec<u8>, FabricError> {
        self.channel.call(request, deadline)
    }

    fn read(
        &mut self,
        segments: &[Segment],
        dst: &mut [u8],
        deadline: &Deadline,
    ) -> Result<(), FabricError> {
        match &mut self.window {
            Some(window) => window.read(segments, dst, &mut Fetcher(&mut self.channel, deadline)),
            None => self.channel.read(segments, dst, deadline),
        }
    }

    fn write(
        &mut self,
        segments: &[Segment],
        src: &[u8],
        deadline: &Deadline,
    ) -> Result<(), FabricError> {
        match &mut self.window {
            Some(window) => window.write(segments, src, &mut Fetcher(&mut self.channel, deadline)),
            None => self.channel.write(segments, src, deadline),
        }
    }

    fn check_open(&mut self) -> Result<(), FabricError> {
        self.channel.stream.check_open()
    }

    fn address(
        &mut self,
        at: RemoteAddr,
        len: usize,
        write: bool,
        deadline: &Deadline,
    ) -> Option<Result<*mut u8, FabricError>> {
        let fetch = &mut Fetcher(&mut self.channel, deadline);
        Some(self.window.as_mut()?.address(at, len, write, fetch))
    }

    fn is_valid(&self, key: RemoteKey) -> bool {
        self.window
            .as_ref()
            .is_some_and(|window| window.is_valid(key))
    }
}

/// The kind of frame that answers `work`.
fn answer_kind(work: &Work) -> Kind {
    match work {
        Work::Read(..) => Kind::Data,
        Work::Write(..) => Kind::Written,
        Work::Call(_) => Kind::Reply,
    }
}

impl Channel {
    fn new(stream: Stream) -> Channel {
        Channel {
            stream,
            next: 0,
            request: Vec::new(),
            posted: HashMap::new(),
            on_the_way: 0,
            done: HashMap::new(),
        }
    }

    fn next_id(&mut self) -> u64 {
        self.next += 1;
        self.next
    }

    fn wrong(&self, garbled: &Garbled) -> FabricError {
        garbled.by(&self.stream.name)
    }

    /// Sends a frame, after answers to earlier ones if too much is on its way.
    fn send(
        &mut self,
        asked: Header,
        parts: &[&[u8]],
        answer: usize,
        deadline: &Deadline,
    ) -> Result<(), FabricError> {
        while !self.posted.is_empty() && self.on_the_way + asked.len + answer > CREDIT {
            let header = self.stream.header(&Wait::Until(*deadline))?;
            self.put_aside(header, deadline)?;
        }
        self.stream.send(asked, parts, deadline)
    }

    /// Receives the header of the answer to `id`, a frame of `kind`.
    fn answer(&mut self, id: u64, kind: Kind, deadline: &Deadline) -> Result<Header, FabricError> {
        let header = loop {
            let header = self.stream.header(&Wait::Until(*deadline))?;
            if header.id == id {
                break header;
            }
            self.put_aside(header, deadline)?;
        };
        self.check(header, kind)?;
        header.outcome.into_result(&self.stream.name)?;
        Ok(header)
    }

    /// Checks an answer's form, whatever its outcome.
    fn check(&self, header: Header, kind: Kind) -> Result<(), FabricError> {
        header
            .expect(kind)
            .map_err(|garbled| self.wrong(&garbled))?;
        if header.outcome != Outcome::Done && header.len > 0 {
            return Err(self.wrong(&Garbled::Length(kind)));
        }
        Ok(())
    }

    /// Receives the answer to posted work.
    fn put_aside(&mut self, header: Header, deadline: &Deadline) -> Result<(), FabricError> {
        let Some(work) = self.posted.remove(&header.id) else {
            return Err(self.wrong(&Garbled::Unexpected(header.kind)));
        };
        self.on_the_way = self.on_the_way.saturating_sub(work.bytes());
        self.check(header, answer_kind(&work))?;
        let result = match header.outcome.into_result(&self.stream.name) {
            Ok(()) => Ok(self.receive(header, work, deadline)?),
            Err(e) => Err(e),
        };
        self.done.insert(header.id, result);
        Ok(())
    }

    /// Receives the body of the answer to `work`.
    fn receive(
        &mut self,
        header: Header,
        work: Work,
        deadline: &Deadline,
    ) -> Result<Vec<u8>, FabricError> {
        match work {
            Work::Write(_, buffer) => Ok(buffer),
            Work::Call(buffer) => self.receive_reply(header, buffer, deadline),
            Work::Read(segments, mut buffer) => {
                self.receive_data(header, &segments, &mut buffer, deadline)?;
                Ok(buffer)
            }
        }
    }

    fn receive_reply(
        &mut self,
        header: Header,
        mut into: Vec<u8>,
        deadline: &Deadline,
    ) -> Result<Vec<u8>, FabricError> {
        into.clear();
        into.resize(header.len, 0);
        self.stream.fill(&mut into, &Wait::Until(*deadline))?;
        Ok(into)
    }

    /// Receives the answer to the read `id`, the only one on its way.
    fn receive_straight(
        &mut self,
        id: u64,
        dst: &mut [u8],
        deadline: &Deadline,
    ) -> Result<(), FabricError> {
        let wait = Wait::Until(*deadline);
        let (header, got) = self.stream.header_before(dst, &wait)?;
        if header.id != id {
            return Err(self.wrong(&Garbled::Unexpected(header.kind)));
        }
        self.check(header, Kind::Data)?;
        if got > header.len {
            return Err(self.wrong(&Garbled::Length(Kind::Data)));
        }
        header.outcome.into_result(&self.stream.name)?;
        if header.len != dst.len() {
            return Err(self.wrong(&Garbled::Length(Kind::Data)));
        }
        self.stream.fill(&mut dst[got..], &wait)
    }

    fn receive_data(
        &mut self,
        header: Header,
        segments: &[Segment],
        dst: &mut [u8],
        deadline: &Deadline,
    ) -> Result<(), FabricError> {
        if header.len != Segment::total(segments) {
            return Err(self.wrong(&Garbled::Length(Kind::Data)));
        }
        for s in segments {
            self.stream.fill(s.of_mut(dst)?, &Wait::Until(*deadline))?;
        }
        Ok(())
    }

    fn post(&mut self, work: Work, deadline: &Deadline) -> Result<Ticket, FabricError> {
        let id = match &work {
            Work::Call(request) => {
                let asked = Header::new(Kind::Call, request.len(), self.next_id());
                self.send(asked, &[request], 0, deadline)?;
                asked.id
            }
            Work::Read(segments, _) => self.ask_read(segments, deadline)?,
            Work::Write(segments, buffer) => self.ask_write(segments, buffer, deadline)?,
        };
        self.on_the_way += work.bytes();
        self.posted.insert(id, work);
        Ok(Ticket(id))
    }

    fn complete(&mut self, id: u64, deadline: &Deadline) -> Result<Vec<u8>, FabricError> {
        loop {
            if let Some(result) = self.done.remove(&id) {
                return result;
            }
            if !self.posted.contains_key(&id) {
                return Err(FabricError::Invalid("it was completed before".to_owned()));
            }
            let header = self.stream.header(&Wait::Until(*deadline))?;
            self.put_aside(header, deadline)?;
        }
    }

    fn call(&mut self, request: &[u8], deadline: &Deadline) -> Result<Vec<u8>, FabricError> {
        let asked = Header::new(Kind::Call, request.len(), self.next_id());
        self.send(asked, &[request], 0, deadline)?;
        let answer = self.answer(asked.id, Kind::Reply, deadline)?;
        self.receive_reply(answer, Vec::new(), deadline)
    }

    fn ask_read(&mut self, batch: &[Segment], deadline: &Deadline) -> Result<u64, FabricError> {
        let mut list = std::mem::take(&mut self.request);
        list.clear();
        frame::encode_segments(batch, &mut list);
        let asked = Header::new(Kind::Read, list.len(), self.next_id());
        let sent = self.send(asked, &[&list], Segment::total(batch), deadline);
        self.request = list;
        sent.map(|()| asked.id)
    }

    fn read(
        &mut self,
        segments: &[Segment],
        dst: &mut [u8],
        deadline: &Deadline,
    ) -> Result<(), FabricError> {
        for batch in batches(segments) {
            let id = self.ask_read(batch.as_ref(), deadline)?;
            // No other frame can come: what follows the header is the answer.
            if let ([only], true) = (batch.as_ref(), self.posted.is_empty()) {
                self.receive_straight(id, only.of_mut(dst)?, deadline)?;
                continue;
            }
            let answer = self.answer(id, Kind::Data, deadline)?;
            self.receive_data(answer, batch.as_ref(), dst, deadline)?;
        }
        Ok(())
    }

    fn ask_write(
        &mut self,
        batch: &[Segment],
        src: &[u8],
        deadline: &Deadline,
    ) -> Result<u64, FabricError> {
        let mut list = std::mem::take(&mut self.request);
        list.clear();
        list.extend_from_slice(&u32::try_from(batch.len()).unwrap_or(u32::MAX).to_le_bytes());
        frame::encode_segments(batch, &mut list);
        let mut parts: Vec<&[u8]> = Vec::with_capacity(batch.len() + 1);
        parts.push(&list);
        for s in batch {
            parts.push(s.of(src)?);
        }
        let len = list.len() + Segment::total(batch);
        let asked = Header::new(Kind::Write, len, self.next_id());
        let sent = self.send(asked, &parts, 0, deadline);
        self.request = list;
        sent.map(|()| asked.id)
    }

    fn write(
        &mut self,
        segments: &[Segment],
        src: &[u8],
        deadline: &Deadline,
    ) -> Result<(), FabricError> {
        for batch in batches(segments) {
            let id = self.ask_write(batch.as_ref(), src, deadline)?;
            self.answer(id, Kind::Written, deadline)?;
        }
        Ok(())
    }

    /// Asks for the region of a key and maps it.
    fn map(&mut self, key: RemoteKey, deadline: &Deadline) -> Result<Mapping, FabricError> {
        self.stream.expect_descriptors(true);
        let answered = self.ask_map(key, deadline);
        self.stream.expect_descriptors(false);
        let descriptors = self.stream.take_descriptors();
        let (len, writable) = answered?;
        match descriptors.as_slice() {
            [fd] if is_safe_to_map(fd, len) => Mapping::new(fd, len, writable),
            _ => Err(self.wrong(&Garbled::Length(Kind::Mapped))),
        }
    }

    fn ask_map(&mut self, key: RemoteKey, deadline: &Deadline) -> Result<(u64, bool), FabricError> {
        let asked = Header::new(Kind::Map, frame::KEY, self.next_id());
        self.send(asked, &[&frame::encode_key(key)], 0, deadline)?;
        let answer = self.answer(asked.id, Kind::Mapped, deadline)?;
        let mut body = vec![0; answer.len];
        self.stream.fill(&mut body, &Wait::Until(*deadline))?;
        decode_mapped(&body).map_err(|garbled| self.wrong(&garbled))
    }
}
