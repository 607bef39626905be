//! The initiator's end of a connection over RDMA.

use super::attach::{ATTACH, Attach, Ends, Place, RESOLVED, Resolved, What};
use super::device::Device;
use super::junction::{Junction, Woken};
use super::keys::{Keys, keys_of};
use super::messages::{Messenger, Outgoing, SLOTS};
use super::objects::{Buffer, CompletionChannel, CompletionQueue, ProtectionDomain};
use super::queue::{Capacity, QueuePair};
use super::receives::{CHUNK, CREDITS, Receives};
use super::serve::{COMPLETIONS, same_link};
use super::state::{State, garbled_by};
use super::transfers::{DEPTH, Held, RING, Target, Transfers, buffer_of};
use super::{INLINE, local_ip, ports};
use crate::frame::{Garbled, Header, Kind, encode_key};
use crate::handshake::Met;
use crate::link::{Link, Ticket, Work};
use crate::stream::{Deadline, Stream, Wait};
use crate::{FabricError, Segment};
use proto::addr::{RemoteAddr, RemoteKey};
use rustix::event::PollFlags;
use rustix::fd::OwnedFd;
use std::collections::BTreeMap;
use std::sync::Arc;

/// Answers by the id of the call; `None` until they have come.
type Calls = BTreeMap<u64, Option<Result<Vec<u8>, FabricError>>>;

pub(crate) struct VerbsLink {
    junction: Junction,
    control: Stream,
    parts: Parts,
    keys: Arc<Keys>,
    next: u64,
    calls: Calls,
}

/// What queue pairs are made of.
struct Parts {
    domain: Arc<ProtectionDomain>,
    queue: Arc<CompletionQueue>,
    receives: Arc<Receives>,
    ring: Arc<Buffer>,
    place: Place,
}

/// How a wait ended that was not broken off.
enum Turn<T> {
    Done(T),
    /// The queue pair of one-sided operations must be replaced.
    Refused(RemoteKey),
}

impl Parts {
    fn new(device: &Arc<Device>, place: Place, floor: Option<i32>) -> Result<Parts, FabricError> {
        let domain = ProtectionDomain::new(device.clone())?;
        let channel = CompletionChannel::new(device, floor)?;
        Ok(Parts {
            queue: CompletionQueue::new(&channel, COMPLETIONS)?,
            receives: Receives::new(&domain, 1)?,
            ring: Buffer::new(&domain, RING)?,
            domain,
            place,
        })
    }

    fn queue_pair(&self, buffer: &Arc<Buffer>, sends: usize) -> Result<QueuePair, FabricError> {
        let capacity = Capacity {
            sends: sends as u32,
            inline: INLINE,
        };
        let (receives, buffers) = (self.receives.queue(), vec![buffer.clone()]);
        QueuePair::new(&self.domain, &self.queue, receives, buffers, capacity)
    }

    fn attach(&self, what: What, messages: Ends, transfers: Ends) -> Attach {
        Attach {
            what,
            place: self.place,
            credits: CREDITS,
            chunk: CHUNK as u32,
            messages,
            transfers,
            domain: 0,
        }
    }
}

impl VerbsLink {
    /// Goes on where the handshake over the control connection ended.
    pub(crate) fn connect(
        mut control: Stream,
        socket: &Arc<OwnedFd>,
        met: &Met,
        floor: Option<i32>,
        deadline: &Deadline,
    ) -> Result<VerbsLink, FabricError> {
        let (device, place) = ports::open(local_ip(socket)?, floor)?;
        let parts = Parts::new(&device, place, floor)?;
        let share = parts.receives.enter()?;
        let out = Buffer::new(&parts.domain, SLOTS * CHUNK)?;
        let messages = parts.queue_pair(&out, SLOTS)?;
        let transfers = parts.queue_pair(&parts.ring, DEPTH)?;
        let ours = parts.attach(
            What::All,
            Ends::of(messages.number()),
            Ends::of(transfers.number()),
        );
        let theirs = ask_attach(&mut control, &ours, deadline)?;
        same_link(&place, &theirs.place)?;
        messages.connect(&place, ours.messages, &theirs.place, theirs.messages, false)?;
        transfers.connect(
            &place,
            ours.transfers,
            &theirs.place,
            theirs.transfers,
            false,
        )?;
        let chunk = CHUNK.min(theirs.chunk as usize);
        let messenger = Messenger::new(messages, share, out, theirs.credits, chunk);
        let state = State::new(
            messenger,
            Some(Transfers::new(transfers, parts.ring.clone())),
        );
        let name = control.name.clone();
        Ok(VerbsLink {
            junction: Junction::new(state, parts.queue.clone(), socket.clone(), name),
            control,
            parts,
            keys: keys_of(met.instance, theirs.domain),
            next: 0,
            calls: BTreeMap::new(),
        })
    }

    fn next_id(&mut self) -> u64 {
        self.next += 1;
        self.next
    }

    /// Lets everything go on until `done` gives something.
    fn wait<T>(
        &mut self,
        deadline: &Deadline,
        held: &mut Held<'_>,
        mut done: impl FnMut(&mut State, &mut Calls) -> Result<Option<T>, FabricError>,
    ) -> Result<T, FabricError> {
        let watch = PollFlags::IN | PollFlags::RDHUP;
        loop {
            let (calls, junction) = (&mut self.calls, &self.junction);
            let woken = junction.wait(Some(deadline), watch, held, |state, held| {
                receive_replies(state, calls, junction.name())?;
                if let Some(transfers) = &mut state.transfers {
                    transfers.pump(held)?;
                    if let Some(key) = transfers.refused() {
                        return Ok(Some(Turn::Refused(key)));
                    }
                }
                Ok(done(state, calls)?.map(Turn::Done))
            })?;
            match woken {
                Woken::Done(Turn::Done(done)) => return Ok(done),
                Woken::Done(Turn::Refused(key)) => self.renew(key, deadline)?,
                Woken::Control => return Err(self.control_spoke()),
            }
        }
    }

    /// The peer sends nothing there unasked: it has hung up.
    fn control_spoke(&self) -> FabricError {
        let name = self.control.name.clone();
        self.control
            .check_open()
            .err()
            .unwrap_or_else(|| FabricError::Protocol {
                peer: name,
                why: "it spoke unasked on the control connection".to_owned(),
            })
    }

    /// Replaces the queue pair of one-sided operations, which the peer's
    /// device broke when it refused `key`.
    fn renew(&mut self, key: RemoteKey, deadline: &Deadline) -> Result<(), FabricError> {
        self.keys.forget(key);
        let fresh = self.parts.queue_pair(&self.parts.ring, DEPTH)?;
        let end = Ends::of(fresh.number());
        let ours = self.parts.attach(What::Transfers, end, end);
        let theirs = ask_attach(&mut self.control, &ours, deadline)?;
        let place = &self.parts.place;
        fresh.connect(place, end, &theirs.place, theirs.transfers, false)?;
        if let Some(transfers) = &mut self.junction.state().transfers {
            transfers.renew(fresh);
        }
        Ok(())
    }

    /// Where `key` lies in the peer's memory.
    fn resolve(&mut self, key: RemoteKey, deadline: &Deadline) -> Result<Resolved, FabricError> {
        if let Some(known) = self.keys.get(key) {
            return Ok(known);
        }
        let body = encode_key(key);
        let answer = ask(&mut self.control, Kind::Resolve, &body, RESOLVED, deadline)?;
        let wrong = || Garbled::Length(Kind::Resolved).by(&self.control.name);
        let resolved = Resolved::decode(&answer).ok_or_else(wrong)?;
        self.keys.remember(key, resolved);
        Ok(resolved)
    }

    fn targets(
        &mut self,
        segments: &[Segment],
        writes: bool,
        deadline: &Deadline,
    ) -> Result<Vec<Target>, FabricError> {
        segments
            .iter()
            .map(|s| self.resolve(s.remote.key, deadline)?.target(s, writes))
            .collect()
    }

    /// A one-sided operation on memory that the caller holds.
    fn transfer(
        &mut self,
        segments: &[Segment],
        held: &mut Held<'_>,
        deadline: &Deadline,
    ) -> Result<(), FabricError> {
        let writes = matches!(held, Held::From(_));
        let targets = self.targets(segments, writes, deadline)?;
        let id = self.next_id();
        if let Some(transfers) = &mut self.junction.state().transfers {
            transfers.begin(id, writes, &targets, None);
            transfers.pump(held)?;
        }
        self.wait(deadline, held, |state, _| Ok(take(state, id)))?
            .map(drop)
    }

    /// Sends a request, after one-sided operations posted before it: they go
    /// over another queue pair, and the peer must find their effect.
    fn ask_peer(&mut self, request: &[u8], deadline: &Deadline) -> Result<u64, FabricError> {
        self.wait(deadline, &mut Held::Nothing, |state, _| {
            let idle = state.transfers.as_ref().is_none_or(Transfers::is_idle);
            Ok(idle.then_some(()))
        })?;
        let id = self.next_id();
        self.calls.insert(id, None);
        let header = Header::new(Kind::Call, request.len(), id);
        let mut frame = Outgoing::new(header, request);
        self.wait(deadline, &mut Held::Nothing, |state, _| {
            Ok(state.messenger.push(&mut frame)?.then_some(()))
        })?;
        Ok(id)
    }

    fn fetch_answer(&mut self, id: u64, deadline: &Deadline) -> Result<Vec<u8>, FabricError> {
        let answer = self.wait(deadline, &mut Held::Nothing, |_, calls| {
            Ok(calls.get_mut(&id).and_then(Option::take))
        });
        self.calls.remove(&id);
        answer?
    }

    fn post_transfer(&mut self, work: Work, deadline: &Deadline) -> Result<u64, FabricError> {
        let Some((writes, segments, buffer)) = buffer_of(work) else {
            return Err(FabricError::Invalid("no one-sided operation".to_owned()));
        };
        let targets = self.targets(&segments, writes, deadline);
        let id = self.next_id();
        let mut state = self.junction.state();
        let Some(transfers) = &mut state.transfers else {
            return Ok(id);
        };
        match targets {
            Ok(targets) => transfers.begin(id, writes, &targets, Some(buffer)),
            Err(e) if e.is_fatal() => return Err(e),
            Err(e) => transfers.refuse(id, e),
        }
        transfers.pump(&Held::Nothing)?;
        Ok(id)
    }
}

fn take(state: &mut State, id: u64) -> Option<Result<Vec<u8>, FabricError>> {
    state.transfers.as_mut()?.take(id)
}

fn receive_replies(state: &mut State, calls: &mut Calls, peer: &str) -> Result<(), FabricError> {
    while let Some((header, body)) = state.messenger.next_frame(peer)? {
        header.expect(Kind::Reply).map_err(garbled_by(peer))?;
        let Some(call @ None) = calls.get_mut(&header.id) else {
            return Err(Garbled::Unexpected(header.kind).by(peer));
        };
        *call = Some(header.outcome.into_result(peer).map(|()| body));
    }
    Ok(())
}

/// Asks over the control connection, for an answer of `len` bytes.
fn ask(
    control: &mut Stream,
    kind: Kind,
    body: &[u8],
    len: usize,
    deadline: &Deadline,
) -> Result<Vec<u8>, FabricError> {
    control.send(Header::new(kind, body.len(), 0), &[body], deadline)?;
    let wait = Wait::Until(*deadline);
    let header = control.header(&wait)?;
    let mut answer = vec![0; header.len];
    control.fill(&mut answer, &wait)?;
    if header.kind == Kind::Refuse {
        return Err(FabricError::Rejected {
            addr: control.name.clone(),
            why: String::from_utf8_lossy(&answer).into_owned(),
        });
    }
    header.outcome.into_result(&control.name)?;
    if answer.len() != len {
        return Err(Garbled::Unexpected(header.kind).by(&control.name));
    }
    Ok(answer)
}

fn ask_attach(
    control: &mut Stream,
    ours: &Attach,
    deadline: &Deadline,
) -> Result<Attach, FabricError> {
    let answer = ask(control, Kind::Attach, &ours.encode(), ATTACH, deadline)?;
    Attach::decode(&answer).ok_or_else(|| Garbled::Length(Kind::Attached).by(&control.name))
}

impl Link for VerbsLink {
    fn name(&self) -> &str {
        &self.control.name
    }

    fn post(&mut self, work: Work, deadline: &Deadline) -> Result<Ticket, FabricError> {
        match work {
            Work::Call(request) => self.ask_peer(&request, deadline),
            work => self.post_transfer(work, deadline),
        }
        .map(Ticket)
    }

    fn complete(&mut self, ticket: Ticket, deadline: &Deadline) -> Result<Vec<u8>, FabricError> {
        let id = ticket.0;
        if self.calls.contains_key(&id) {
            return self.fetch_answer(id, deadline);
        }
        let known = |t: &Transfers| t.knows(id);
        if !self.junction.state().transfers.as_ref().is_some_and(known) {
            return Err(FabricError::Invalid("it was completed before".to_owned()));
        }
        self.wait(deadline, &mut Held::Nothing, |state, _| Ok(take(state, id)))?
    }

    fn call(&mut self, request: &[u8], deadline: &Deadline) -> Result<Vec<u8>, FabricError> {
        let id = self.ask_peer(request, deadline)?;
        self.fetch_answer(id, deadline)
    }

    fn read(
        &mut self,
        segments: &[Segment],
        dst: &mut [u8],
        deadline: &Deadline,
    ) -> Result<(), FabricError> {
        self.transfer(segments, &mut Held::Into(dst), deadline)
    }

    fn write(
        &mut self,
        segments: &[Segment],
        src: &[u8],
        deadline: &Deadline,
    ) -> Result<(), FabricError> {
        self.transfer(segments, &mut Held::From(src), deadline)
    }

    fn check_open(&mut self) -> Result<(), FabricError> {
        self.control.check_open()
    }

    fn address(
        &mut self,
        _: RemoteAddr,
        _: usize,
        _: bool,
        _: &Deadline,
    ) -> Option<Result<*mut u8, FabricError>> {
        None
    }

    fn is_valid(&self, _: RemoteKey) -> bool {
        false
    }
}
