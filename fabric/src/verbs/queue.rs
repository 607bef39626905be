//! Queue pairs of reliable connections, and shared receive queues.

use super::attach::{Ends, Place};
use super::device::{Device, errno_of, last_error};
use super::objects::{Buffer, CompletionQueue, ProtectionDomain};
use super::sys::{
    self, AhAttr, QpAttr, QpInitAttr, RecvWr, SendWr, Sge, SrqInitAttr, access, flag, mask, opcode,
    state,
};
use crate::FabricError;
use std::ptr::{NonNull, null_mut};
use std::sync::Arc;

/// An unanswered packet is sent again after 4.096 us << this, 0.27 s,
const ACK_TIMEOUT: u8 = 16;
/// and so often: a peer that is gone is known to be so after 2 s, within any
/// operation's deadline, if its control connection did not say so before. The
/// most that there is, 7, soft-RoCE takes for no limit.
const RETRIES: u8 = 6;
/// A receiver without a buffer is tried again after 0.64 ms (code 12 of
/// ibv_modify_qp(3)), so often. Credits keep that from happening.
const RNR_TIMER: u8 = 12;
const RNR_RETRIES: u8 = 6;
/// Routers that a packet passes.
const HOPS: u8 = 64;

/// What is wanted of a queue pair; it may get less inline data.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Capacity {
    pub(crate) sends: u32,
    pub(crate) inline: u32,
}

/// Receive buffers for several queue pairs of one protection domain.
pub(crate) struct SharedReceiveQueue {
    domain: Arc<ProtectionDomain>,
    raw: NonNull<sys::Srq>,
    len: u32,
}

// SAFETY: as for every object of the verbs: they lock themselves.
unsafe impl Send for SharedReceiveQueue {}
// SAFETY: as above.
unsafe impl Sync for SharedReceiveQueue {}

impl SharedReceiveQueue {
    /// For `len` buffers, or as many as the device has.
    pub(crate) fn new(
        domain: &Arc<ProtectionDomain>,
        len: u32,
    ) -> Result<SharedReceiveQueue, FabricError> {
        let device = &domain.device;
        let len = Device::at_most(len, device.limits().max_srq_wr);
        let mut wanted = SrqInitAttr::zeroed();
        (wanted.max_wr, wanted.max_sge) = (len, 1);
        // SAFETY: the domain lives; the structure is complete.
        let raw = unsafe { (device.library.ibv_create_srq)(domain.raw(), &mut wanted) };
        let raw = NonNull::new(raw)
            .ok_or_else(|| device.failed("a shared receive queue", last_error()))?;
        Ok(SharedReceiveQueue {
            domain: domain.clone(),
            raw,
            len,
        })
    }

    /// Buffers that it holds.
    pub(crate) fn len(&self) -> u32 {
        self.len
    }

    /// Has a message received into a piece of a buffer, which the receive
    /// queue's owner keeps.
    pub(crate) fn post(&self, id: u64, mut piece: Sge) -> Result<(), FabricError> {
        let mut wanted = RecvWr {
            wr_id: id,
            next: null_mut(),
            sg_list: &mut piece,
            num_sge: 1,
        };
        let mut bad = null_mut();
        // SAFETY: the queue lives; the request is copied by the call; its
        // memory is registered, or else the device refuses.
        let done = unsafe {
            match (*self.raw.as_ref().context).ops.post_srq_recv {
                Some(post) => post(self.raw.as_ptr(), &mut wanted, &mut bad),
                None => -1,
            }
        };
        match done {
            0 => Ok(()),
            e => Err(self.domain.device.failed("posting a receive", errno_of(e))),
        }
    }
}

impl Drop for SharedReceiveQueue {
    fn drop(&mut self) {
        // SAFETY: its queue pairs hold an Arc of it.
        unsafe { (self.domain.device.library.ibv_destroy_srq)(self.raw.as_ptr()) };
    }
}

/// What a send request does.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Action {
    /// Sends a message, with a number beside it.
    Message(u32),
    /// Reads the peer's memory at an address, under a key.
    Read(u64, u32),
    /// Writes it.
    Write(u64, u32),
}

/// A send request.
#[derive(Clone, Copy)]
pub(crate) struct Request<'a> {
    pub(crate) id: u64,
    pub(crate) action: Action,
    pub(crate) local: Local<'a>,
    /// A completion is wanted if it succeeds, too.
    pub(crate) signaled: bool,
}

/// The local memory of a request.
#[derive(Clone, Copy)]
pub(crate) enum Local<'a> {
    /// A piece of registered memory.
    Piece(Sge),
    /// One that is short enough to go into the request itself: see
    /// [`QueuePair::max_inline`].
    Copied(Sge),
    /// Any bytes that are.
    Inline(&'a [u8]),
}

/// A queue pair of a reliable connection.
pub(crate) struct QueuePair {
    domain: Arc<ProtectionDomain>,
    _queue: Arc<CompletionQueue>,
    _receives: Arc<SharedReceiveQueue>,
    _buffers: Vec<Arc<Buffer>>,
    raw: NonNull<sys::Qp>,
    max_inline: usize,
    /// Reused for what is posted.
    requests: Vec<SendWr>,
    pieces: Vec<Sge>,
}

// SAFETY: as for every object of the verbs; the vectors' pointers are only
// used within a call.
unsafe impl Send for QueuePair {}

impl QueuePair {
    /// A new one, whose requests use pieces of `buffers`.
    pub(crate) fn new(
        domain: &Arc<ProtectionDomain>,
        queue: &Arc<CompletionQueue>,
        receives: &Arc<SharedReceiveQueue>,
        buffers: Vec<Arc<Buffer>>,
        capacity: Capacity,
    ) -> Result<QueuePair, FabricError> {
        let device = &domain.device;
        let mut wanted = QpInitAttr::zeroed();
        (wanted.send_cq, wanted.recv_cq) = (queue.raw(), queue.raw());
        (wanted.srq, wanted.qp_type) = (receives.raw.as_ptr(), sys::RELIABLE);
        wanted.cap.max_send_wr = Device::at_most(capacity.sends, device.limits().max_qp_wr);
        (wanted.cap.max_send_sge, wanted.cap.max_recv_sge) = (1, 1);
        wanted.cap.max_inline_data = capacity.inline;
        // SAFETY: all of one device, and alive as long as the queue pair; the
        // structure is complete.
        let mut raw = unsafe { (device.library.ibv_create_qp)(domain.raw(), &mut wanted) };
        if raw.is_null() && capacity.inline > 0 {
            // Drivers refuse more inline data than they have.
            wanted.cap.max_inline_data = 0;
            // SAFETY: as above.
            raw = unsafe { (device.library.ibv_create_qp)(domain.raw(), &mut wanted) };
        }
        let raw = NonNull::new(raw).ok_or_else(|| device.failed("a queue pair", last_error()))?;
        Ok(QueuePair {
            domain: domain.clone(),
            _queue: queue.clone(),
            _receives: receives.clone(),
            _buffers: buffers,
            raw,
            max_inline: wanted.cap.max_inline_data as usize,
            requests: Vec::new(),
            pieces: Vec::new(),
        })
    }

    pub(crate) fn number(&self) -> u32 {
        // SAFETY: lives as long as self.
        unsafe { self.raw.as_ref() }.qp_num
    }

    /// Bytes that a request may carry in itself.
    pub(crate) fn max_inline(&self) -> usize {
        self.max_inline
    }

    fn modify(&self, what: &str, mut to: QpAttr, which: i32) -> Result<(), FabricError> {
        let device = &self.domain.device;
        // SAFETY: the queue pair lives; the structure is complete.
        let done = unsafe { (device.library.ibv_modify_qp)(self.raw.as_ptr(), &mut to, which) };
        match done {
            0 => Ok(()),
            e => Err(device.failed(what, errno_of(e))),
        }
    }

    /// Connects it: from now on it receives and sends. `peers_act` is whether
    /// the peer may read and write memory through it.
    pub(crate) fn connect(
        &self,
        here: &Place,
        ours: Ends,
        there: &Place,
        theirs: Ends,
        peers_act: bool,
    ) -> Result<(), FabricError> {
        self.initialise(here, peers_act)?;
        self.receive(here, there, theirs)?;
        self.send(here, ours, there)
    }

    fn initialise(&self, here: &Place, peers_act: bool) -> Result<(), FabricError> {
        let mut to = QpAttr::zeroed();
        (to.qp_state, to.port_num) = (state::INIT, here.port);
        if peers_act {
            to.qp_access_flags = (access::REMOTE_READ | access::REMOTE_WRITE).cast_unsigned();
        }
        let which = mask::STATE | mask::PKEY_INDEX | mask::PORT | mask::ACCESS_FLAGS;
        self.modify("setting up a queue pair", to, which)
    }

    fn receive(&self, here: &Place, there: &Place, theirs: Ends) -> Result<(), FabricError> {
        let mut to = QpAttr::zeroed();
        to.qp_state = state::READY_TO_RECEIVE;
        to.path_mtu = here.mtu.min(there.mtu).into();
        (to.dest_qp_num, to.rq_psn) = (theirs.number, theirs.first);
        to.max_dest_rd_atomic = here.answers.min(there.asks);
        to.min_rnr_timer = RNR_TIMER;
        to.ah_attr = path(here, there);
        let which = mask::STATE
            | mask::AV
            | mask::PATH_MTU
            | mask::DEST_QPN
            | mask::RQ_PSN
            | mask::MAX_DEST_RD_ATOMIC
            | mask::MIN_RNR_TIMER;
        self.modify("connecting a queue pair to its peer's", to, which)
    }

    fn send(&self, here: &Place, ours: Ends, there: &Place) -> Result<(), FabricError> {
        let mut to = QpAttr::zeroed();
        to.qp_state = state::READY_TO_SEND;
        (to.timeout, to.retry_cnt, to.rnr_retry) = (ACK_TIMEOUT, RETRIES, RNR_RETRIES);
        to.sq_psn = ours.first;
        to.max_rd_atomic = here.asks.min(there.answers);
        let which = mask::STATE
            | mask::TIMEOUT
            | mask::RETRY_CNT
            | mask::RNR_RETRY
            | mask::SQ_PSN
            | mask::MAX_QP_RD_ATOMIC;
        self.modify("starting a queue pair", to, which)
    }

    /// Posts `requests` in their order, ringing the doorbell once.
    pub(crate) fn post(&mut self, requests: &[Request<'_>]) -> Result<(), FabricError> {
        self.fill(requests);
        let Some(first) = self.requests.first_mut() else {
            return Ok(());
        };
        let mut bad = null_mut();
        // SAFETY: the queue pair lives; the list is linked within the vectors,
        // is copied by the call, and so is inline data. Registered memory is
        // deregistered before it is freed: the device never reaches other.
        let done = unsafe {
            match (*self.raw.as_ref().context).ops.post_send {
                Some(post) => post(self.raw.as_ptr(), first, &mut bad),
                None => -1,
            }
        };
        match done {
            0 => Ok(()),
            e => Err(self
                .domain
                .device
                .failed("posting to a queue pair", errno_of(e))),
        }
    }

    /// Writes requests down as the driver takes them: a linked list.
    fn fill(&mut self, requests: &[Request<'_>]) {
        self.requests.clear();
        self.pieces.clear();
        self.pieces.extend(requests.iter().map(|r| match r.local {
            Local::Piece(piece) | Local::Copied(piece) => piece,
            Local::Inline(bytes) => Sge {
                addr: bytes.as_ptr() as u64,
                length: bytes.len() as u32,
                lkey: 0,
            },
        }));
        self.requests.extend(requests.iter().map(encode));
        // The vectors grow no more: pointers into them hold.
        let mut next = null_mut();
        for (request, piece) in self.requests.iter_mut().zip(&mut self.pieces).rev() {
            request.sg_list = piece;
            // A message without bytes has no piece: a length of 0 means 2 GiB
            // to some devices.
            request.num_sge = i32::from(piece.length > 0);
            request.next = next;
            next = request;
        }
    }

    /// Moves it to the error state: what was posted is given back.
    pub(crate) fn fail(&self) {
        let mut to = QpAttr::zeroed();
        to.qp_state = state::ERROR;
        // One that was never connected has nothing to give back.
        let _ = self.modify("stopping a queue pair", to, mask::STATE);
    }
}

impl Drop for QueuePair {
    fn drop(&mut self) {
        // SAFETY: dropped once.
        unsafe { (self.domain.device.library.ibv_destroy_qp)(self.raw.as_ptr()) };
    }
}

fn encode(request: &Request<'_>) -> SendWr {
    let mut to = SendWr::zeroed();
    to.wr_id = request.id;
    match request.action {
        Action::Message(immediate) => {
            (to.opcode, to.imm_data) = (opcode::SEND_WITH_IMM, immediate.to_be());
        }
        Action::Read(at, key) => {
            (to.opcode, to.remote_addr, to.rkey) = (opcode::RDMA_READ, at, key);
        }
        Action::Write(at, key) => {
            (to.opcode, to.remote_addr, to.rkey) = (opcode::RDMA_WRITE, at, key);
        }
    }
    if request.signaled {
        to.send_flags |= flag::SIGNALED;
    }
    if matches!(request.local, Local::Inline(_) | Local::Copied(_)) {
        to.send_flags |= flag::INLINE;
    }
    to
}

/// The way to the peer: by GID on Ethernet (RoCE), by LID on InfiniBand.
fn path(here: &Place, there: &Place) -> AhAttr {
    let mut way = QpAttr::zeroed().ah_attr;
    way.port_num = here.port;
    if here.ethernet {
        way.is_global = 1;
        // GIDs are bytes in network order; the field is two words for its
        // alignment.
        let (high, low) = there.gid.split_at(8);
        let word = |half: &[u8]| half.try_into().map_or(0, u64::from_ne_bytes);
        way.dgid = [word(high), word(low)];
        (way.sgid_index, way.hop_limit) = (here.gid_index, HOPS);
    } else {
        way.dlid = there.lid;
    }
    way
}
