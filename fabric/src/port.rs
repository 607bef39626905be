//! The target's end of one connection over a socket. Its thread plays the NIC
//! for one-sided operations and calls the service for messages.

use crate::frame::{
    Garbled, Header, Kind, Outcome, decode_key, decode_read, decode_write, encode_mapped,
};
use crate::handshake;
use crate::listen::Entry;
use crate::server::{Answers, Hub, Responder, Service};
use crate::stream::{Deadline, Stream, Wait, send, send_frame};
use crate::{Backend, FabricError, Memory, verbs};
use proto::Identity;
use rustix::fd::OwnedFd;
use rustix::net::{Shutdown, shutdown};
use std::io::IoSlice;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

/// For the handshake, and for a peer to send the rest of a frame or to take
/// an answer.
const LIMIT: Duration = Duration::from_secs(5);

/// The sending half: answers come from the connection's thread and from those
/// that kept a [`Responder`].
struct Port {
    socket: Arc<OwnedFd>,
    name: String,
    sending: Mutex<()>,
}

impl Port {
    fn header(&self, kind: Kind, outcome: Outcome, len: usize, id: u64) -> Header {
        Header {
            kind,
            outcome,
            len,
            id,
        }
    }

    /// Sends an answer. One that went out in part leaves the peer out of step:
    /// the connection ends.
    fn put(&self, header: Header, body: &[u8], beside: &[&OwnedFd]) -> Result<(), FabricError> {
        let _turn = self.sending.lock().unwrap_or_else(PoisonError::into_inner);
        let deadline = Deadline::after(LIMIT);
        let sent = if beside.is_empty() {
            send_frame(&self.socket, header, &[body], &deadline, &self.name)
        } else {
            let head = header.encode();
            let mut parts = [IoSlice::new(&head), IoSlice::new(body)];
            send(&self.socket, &mut parts, beside, &deadline, &self.name)
        };
        if sent.is_err() {
            let _ = shutdown(&self.socket, Shutdown::Both);
        }
        sent
    }

    fn put_result(
        &self,
        kind: Kind,
        result: Result<&[u8], FabricError>,
        id: u64,
    ) -> Result<(), FabricError> {
        let (outcome, body) = match result {
            Ok(body) => (Outcome::Done, body),
            Err(e) => (Outcome::from_error(&e), &[][..]),
        };
        self.put(self.header(kind, outcome, body.len(), id), body, &[])
    }
}

impl Answers for Port {
    fn answer(&self, id: u64, outcome: Outcome, bytes: &[u8]) {
        let header = self.header(Kind::Reply, outcome, bytes.len(), id);
        if let Err(e) = self.put(header, bytes, &[]) {
            tracing::debug!("an answer was not taken: {e}");
        }
    }
}

/// Serves one connection until it ends.
pub(crate) fn serve(
    socket: &Arc<OwnedFd>,
    carrier: Backend,
    hub: &Arc<Hub>,
    service: Arc<dyn Service>,
    entry: &Entry,
) -> Result<(), FabricError> {
    let mut stream = Stream::new(socket.clone(), "a stranger".to_owned());
    let who = handshake::admit(&mut stream, &hub.key, &hub.met(), &Deadline::after(LIMIT))?;
    entry.is_known();
    stream.name = who.to_string();
    if carrier == Backend::Verbs {
        return verbs::serve(stream, socket, who, hub, service);
    }
    let port = Arc::new(Port {
        socket: socket.clone(),
        name: who.to_string(),
        sending: Mutex::default(),
    });
    let _presence = hub.arrive(who, service.clone());
    let mut session = Session {
        stream,
        port,
        who,
        memory: hub.memory.clone(),
        service,
        over_unix: carrier == Backend::Shm,
        body: Vec::new(),
        data: Vec::new(),
    };
    session.run()
}

/// The receiving half.
struct Session {
    stream: Stream,
    port: Arc<Port>,
    who: Identity,
    memory: Memory,
    service: Arc<dyn Service>,
    over_unix: bool,
    /// As long as the longest request so far: after a write-back, requests of a
    /// few bytes must not cost zeroing all of it at the next one.
    body: Vec<u8>,
    /// For answers, likewise.
    data: Vec<u8>,
}

impl Session {
    fn run(&mut self) -> Result<(), FabricError> {
        loop {
            let header = self.stream.header(&Wait::Forever)?;
            if self.body.len() < header.len {
                self.body.resize(header.len, 0);
            }
            let wait = Wait::Until(Deadline::after(LIMIT));
            self.stream.fill(&mut self.body[..header.len], &wait)?;
            self.carry_out(header)?;
        }
    }

    fn carry_out(&mut self, header: Header) -> Result<(), FabricError> {
        match header.kind {
            Kind::Call => {
                let responder = Responder::new(self.port.clone(), header.id);
                let request = &self.body[..header.len];
                self.service.call(self.who, request, responder);
                Ok(())
            }
            Kind::Read => self.read(header),
            Kind::Write => self.write(header),
            Kind::Map if self.over_unix => self.map(header),
            kind => Err(Garbled::Unexpected(kind).by(&self.stream.name)),
        }
    }

    fn read(&mut self, Header { id, len, .. }: Header) -> Result<(), FabricError> {
        let (pieces, total) =
            decode_read(&self.body[..len]).map_err(|garbled| garbled.by(&self.stream.name))?;
        if self.data.len() < total {
            self.data.resize(total, 0);
        }
        let data = &mut self.data[..total];
        let read = self.memory.serve_read(self.who, pieces, data);
        self.port.put_result(Kind::Data, read.map(|()| &*data), id)
    }

    fn write(&mut self, Header { id, len, .. }: Header) -> Result<(), FabricError> {
        let (pieces, data) =
            decode_write(&self.body[..len]).map_err(|garbled| garbled.by(&self.stream.name))?;
        let written = self.memory.serve_write(self.who, pieces, data);
        self.port
            .put_result(Kind::Written, written.map(|()| &[][..]), id)
    }

    fn map(&mut self, Header { id, len, .. }: Header) -> Result<(), FabricError> {
        let key = decode_key(&self.body[..len]).map_err(|garbled| garbled.by(&self.stream.name))?;
        match self.memory.serve_map(self.who, key) {
            Ok((fd, len, writable)) => {
                let body = encode_mapped(len, writable);
                let header = self
                    .port
                    .header(Kind::Mapped, Outcome::Done, body.len(), id);
                self.port.put(header, &body, &[&fd])
            }
            Err(e) => self.port.put_result(Kind::Mapped, Err(e), id),
        }
    }
}
