//! The target's end of a connection over RDMA. The control connection's
//! handshake is over; its thread answers messages, resolves keys and connects
//! fresh queue pairs. One-sided operations it never sees: the device carries
//! them out.

use super::attach::{Attach, Ends, Place, What};
use super::domain::Domain;
use super::junction::{Junction, Woken};
use super::messages::{Messenger, Outgoing, SLOTS};
use super::objects::{Buffer, CompletionChannel, CompletionQueue};
use super::queue::{Capacity, QueuePair};
use super::receives::{CHUNK, CREDITS};
use super::state::{State, garbled_by};
use super::transfers::{DEPTH, Held};
use super::{INLINE, local_ip, ports};
use crate::frame::{Garbled, Header, Kind, MAX_REFUSAL, Outcome, decode_key};
use crate::server::{Answers, Hub, Responder, Service};
use crate::stream::{Deadline, Stream, Wait};
use crate::{FabricError, Memory};
use proto::Identity;
use rustix::event::PollFlags;
use rustix::fd::OwnedFd;
use rustix::net::{Shutdown, shutdown};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

/// For a peer to take an answer, or to send the rest of a control frame.
const LIMIT: Duration = Duration::from_secs(5);
/// Completions of one connection: of messages either way, with room for those
/// of queue pairs that were replaced.
pub(crate) const COMPLETIONS: u32 = 4 * (DEPTH + SLOTS) as u32;

/// The sending half, as [`crate::port`]'s.
struct Port {
    junction: Junction,
    socket: Arc<OwnedFd>,
    sending: Mutex<()>,
}

impl Answers for Port {
    fn answer(&self, id: u64, outcome: Outcome, bytes: &[u8]) {
        let header = Header {
            kind: Kind::Reply,
            outcome,
            len: bytes.len(),
            id,
        };
        let _turn = self.sending.lock().unwrap_or_else(PoisonError::into_inner);
        let mut frame = Outgoing::new(header, bytes);
        let sent = self.junction.wait(
            Some(&Deadline::after(LIMIT)),
            PollFlags::RDHUP,
            &mut Held::Nothing,
            |state, _| Ok(state.messenger.push(&mut frame)?.then_some(())),
        );
        if !matches!(sent, Ok(Woken::Done(()))) {
            tracing::debug!("an answer was not taken by {}", self.junction.name());
            let _ = shutdown(&self.socket, Shutdown::Both);
        }
    }
}

/// Serves a connection whose peer has proved to be `who`, until it ends.
pub(crate) fn serve(
    mut stream: Stream,
    socket: &Arc<OwnedFd>,
    who: Identity,
    hub: &Arc<Hub>,
    service: Arc<dyn Service>,
) -> Result<(), FabricError> {
    let asked = receive_attach(&mut stream)?;
    let made = local_ip(socket)
        .and_then(|local| Session::attach(&asked, local, socket, who, hub, service.clone()));
    let (mut session, answer) = match made {
        Ok(made) => made,
        Err(e) => return Err(refuse(&stream, &e)),
    };
    let _presence = hub.arrive(who, service);
    send(&stream, Kind::Attached, &answer.encode())?;
    let ended = session.run(&mut stream);
    // Whoever keeps a responder keeps the socket: the peer must know.
    let _ = shutdown(socket, Shutdown::Both);
    ended
}

fn receive_attach(stream: &mut Stream) -> Result<Attach, FabricError> {
    let deadline = Deadline::after(LIMIT);
    let (header, body) = receive(stream, &deadline)?;
    let name = stream.name.clone();
    header.expect(Kind::Attach).map_err(garbled_by(&name))?;
    Attach::decode(&body).ok_or_else(|| Garbled::Length(Kind::Attach).by(&name))
}

fn receive(stream: &mut Stream, deadline: &Deadline) -> Result<(Header, Vec<u8>), FabricError> {
    let wait = Wait::Until(*deadline);
    let header = stream.header(&wait)?;
    let mut body = vec![0; header.len];
    stream.fill(&mut body, &wait)?;
    Ok((header, body))
}

fn send(stream: &Stream, kind: Kind, body: &[u8]) -> Result<(), FabricError> {
    let header = Header::new(kind, body.len(), 0);
    stream.send(header, &[body], &Deadline::after(LIMIT))
}

/// Tells the peer what stands in the way here, and gives the error on.
fn refuse(stream: &Stream, e: &FabricError) -> FabricError {
    let why = e.to_string();
    let told = why.as_bytes();
    // It may be gone already; the reason is logged here too.
    let _ = send(stream, Kind::Refuse, &told[..told.len().min(MAX_REFUSAL)]);
    FabricError::Rejected {
        addr: stream.name.clone(),
        why,
    }
}

struct Session {
    // Before the junction, whose completion queue it uses.
    transfers: QueuePair,
    port: Arc<Port>,
    queue: Arc<CompletionQueue>,
    domain: Arc<Domain>,
    place: Place,
    who: Identity,
    memory: Memory,
    service: Arc<dyn Service>,
}

impl Session {
    fn attach(
        asked: &Attach,
        local: std::net::IpAddr,
        socket: &Arc<OwnedFd>,
        who: Identity,
        hub: &Arc<Hub>,
        service: Arc<dyn Service>,
    ) -> Result<(Session, Attach), FabricError> {
        let (device, place) = ports::open(local, None)?;
        let domain = hub.domains.of(&device, who)?;
        let channel = CompletionChannel::new(&device, None)?;
        let queue = CompletionQueue::new(&channel, COMPLETIONS)?;
        let share = domain.receives.enter()?;
        let out = Buffer::new(&domain.protection, SLOTS * CHUNK)?;
        let messages = new_queue(&domain, &queue, vec![out.clone()], SLOTS)?;
        let transfers = new_queue(&domain, &queue, Vec::new(), 1)?;
        let answer = Attach {
            what: asked.what,
            place,
            credits: CREDITS,
            chunk: CHUNK as u32,
            messages: Ends::of(messages.number()),
            transfers: Ends::of(transfers.number()),
            domain: domain.number,
        };
        same_link(&place, &asked.place)?;
        messages.connect(&place, answer.messages, &asked.place, asked.messages, false)?;
        transfers.connect(
            &place,
            answer.transfers,
            &asked.place,
            asked.transfers,
            true,
        )?;
        let chunk = CHUNK.min(asked.chunk as usize);
        let messenger = Messenger::new(messages, share, out, asked.credits, chunk);
        let state = State::new(messenger, None);
        let port = Port {
            junction: Junction::new(state, queue.clone(), socket.clone(), who.to_string()),
            socket: socket.clone(),
            sending: Mutex::default(),
        };
        let session = Session {
            transfers,
            port: Arc::new(port),
            queue,
            domain,
            place,
            who,
            memory: hub.memory.clone(),
            service,
        };
        Ok((session, answer))
    }

    fn run(&mut self, stream: &mut Stream) -> Result<(), FabricError> {
        let watch = PollFlags::IN | PollFlags::RDHUP;
        let name = stream.name.clone();
        loop {
            let woken = self
                .port
                .junction
                .wait(None, watch, &mut Held::Nothing, |state, _| {
                    state.messenger.next_frame(&name)
                })?;
            match woken {
                Woken::Done((header, body)) => {
                    header
                        .expect(Kind::Call)
                        .map_err(garbled_by(&stream.name))?;
                    let responder = Responder::new(self.port.clone(), header.id);
                    self.service.call(self.who, &body, responder);
                }
                Woken::Control => self.control(stream)?,
            }
        }
    }

    /// Carries out what the peer asks for over the control connection.
    fn control(&mut self, stream: &mut Stream) -> Result<(), FabricError> {
        let (header, body) = receive(stream, &Deadline::after(LIMIT))?;
        match header.kind {
            Kind::Resolve => {
                let key = decode_key(&body).map_err(garbled_by(&stream.name))?;
                match self.memory.serve_registered(self.who, key, &self.domain) {
                    Ok(resolved) => send(stream, Kind::Resolved, &resolved.encode()),
                    // The machine's fault, not the key's: in words.
                    Err(e @ FabricError::Local { .. }) => Err(refuse(stream, &e)),
                    Err(e) => self.answer_error(stream, Kind::Resolved, &e),
                }
            }
            Kind::Attach => {
                let asked = Attach::decode(&body).filter(|asked| asked.what == What::Transfers);
                let asked = asked.ok_or_else(|| Garbled::Length(Kind::Attach).by(&stream.name))?;
                match self.renew(&asked) {
                    Ok(answer) => send(stream, Kind::Attached, &answer.encode()),
                    Err(e) => Err(refuse(stream, &e)),
                }
            }
            kind => Err(Garbled::Unexpected(kind).by(&stream.name)),
        }
    }

    fn answer_error(
        &self,
        stream: &Stream,
        kind: Kind,
        e: &FabricError,
    ) -> Result<(), FabricError> {
        let header = Header {
            kind,
            outcome: Outcome::from_error(e),
            len: 0,
            id: 0,
        };
        stream.send(header, &[], &Deadline::after(LIMIT))
    }

    /// A fresh queue pair for one-sided operations.
    fn renew(&mut self, asked: &Attach) -> Result<Attach, FabricError> {
        let fresh = new_queue(&self.domain, &self.queue, Vec::new(), 1)?;
        let ours = Ends::of(fresh.number());
        same_link(&self.place, &asked.place)?;
        fresh.connect(&self.place, ours, &asked.place, asked.transfers, true)?;
        self.transfers = fresh;
        Ok(Attach {
            what: What::Transfers,
            place: self.place,
            credits: CREDITS,
            chunk: CHUNK as u32,
            messages: ours,
            transfers: ours,
            domain: self.domain.number,
        })
    }
}

fn new_queue(
    domain: &Domain,
    queue: &Arc<CompletionQueue>,
    buffers: Vec<Arc<Buffer>>,
    sends: usize,
) -> Result<QueuePair, FabricError> {
    let capacity = Capacity {
        sends: sends as u32,
        inline: INLINE,
    };
    let receives = domain.receives.queue();
    QueuePair::new(&domain.protection, queue, receives, buffers, capacity)
}

/// Refuses to connect InfiniBand with Ethernet.
pub(crate) fn same_link(here: &Place, there: &Place) -> Result<(), FabricError> {
    if here.ethernet == there.ethernet {
        return Ok(());
    }
    let why = "one end is on InfiniBand, the other on Ethernet: use addresses of one network";
    Err(FabricError::local("connecting queue pairs", why))
}
