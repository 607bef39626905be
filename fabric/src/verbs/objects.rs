//! Objects of a device, owned: destroyed when dropped, and kept alive by what
//! was made of them.

use super::device::{Device, errno_of, last_error, raise_in_place};
use super::sys::{self, Sge, Wc, access, status};
use crate::FabricError;
use crate::mapping::{Mapping, memfd};
use rustix::fd::{AsFd, BorrowedFd};
use rustix::io::Errno;
use std::ffi::{CStr, c_int};
use std::ptr::{NonNull, null_mut};
use std::sync::Arc;

/// Declares a handle that may be used from any thread.
macro_rules! handle {
    ($name:ident) => {
        // SAFETY: the verbs are thread-safe: their objects belong to the
        // process and lock themselves.
        unsafe impl Send for $name {}
        // SAFETY: as above.
        unsafe impl Sync for $name {}
    };
}

/// A protection domain: queue pairs reach the memory registered in their own.
pub(crate) struct ProtectionDomain {
    pub(crate) device: Arc<Device>,
    raw: NonNull<sys::Pd>,
}
handle!(ProtectionDomain);

impl ProtectionDomain {
    pub(crate) fn new(device: Arc<Device>) -> Result<Arc<ProtectionDomain>, FabricError> {
        // SAFETY: the device is open.
        let raw = unsafe { (device.library.ibv_alloc_pd)(device.context()) };
        let raw =
            NonNull::new(raw).ok_or_else(|| device.failed("a protection domain", last_error()))?;
        Ok(Arc::new(ProtectionDomain { device, raw }))
    }

    pub(crate) fn raw(&self) -> *mut sys::Pd {
        self.raw.as_ptr()
    }
}

impl Drop for ProtectionDomain {
    fn drop(&mut self) {
        // SAFETY: everything in it holds an Arc of it.
        unsafe { (self.device.library.ibv_dealloc_pd)(self.raw.as_ptr()) };
    }
}

/// What peers may do with registered memory.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Remote {
    Nothing,
    Reads,
    ReadsAndWrites,
}

impl Remote {
    fn flags(self) -> c_int {
        match self {
            Remote::Nothing => access::LOCAL_WRITE,
            Remote::Reads => access::REMOTE_READ,
            Remote::ReadsAndWrites => {
                access::LOCAL_WRITE | access::REMOTE_READ | access::REMOTE_WRITE
            }
        }
    }
}

/// Registered memory: its pages are locked, and the device reaches them.
pub(crate) struct MemoryRegion {
    domain: Arc<ProtectionDomain>,
    raw: NonNull<sys::Mr>,
    start: u64,
}
handle!(MemoryRegion);

impl MemoryRegion {
    /// Registers `len` bytes at `offset` of a mapping. Should the mapping go
    /// first, its pages stay until this is dropped.
    pub(crate) fn new(
        domain: &Arc<ProtectionDomain>,
        map: &Mapping,
        offset: u64,
        len: u64,
        remote: Remote,
    ) -> Result<MemoryRegion, FabricError> {
        let device = &domain.device;
        let most = device.limits().max_mr_size;
        let bytes = usize::try_from(len).unwrap_or(usize::MAX);
        let start = map
            .at(offset, len)
            .filter(|_| len > 0)
            .ok_or(FabricError::OutOfBounds)?;
        if len > most {
            let why = format!("{len} bytes, the device takes {most} at most");
            return Err(FabricError::local("registering memory", why));
        }
        let (pd, flags) = (domain.raw(), remote.flags());
        // SAFETY: the bytes are mapped, shared, and only ever copied from and
        // to by us, as mapping.rs says: the device may do so at any time.
        let raw = unsafe { (device.library.ibv_reg_mr)(pd, start.cast(), bytes, flags) };
        let raw = NonNull::new(raw).ok_or_else(|| {
            device.failed(&format!("registering {len} bytes of memory"), last_error())
        })?;
        Ok(MemoryRegion {
            domain: domain.clone(),
            raw,
            start: start as u64,
        })
    }

    /// The address by which peers name its first byte.
    pub(crate) fn start(&self) -> u64 {
        self.start
    }

    /// The key by which peers name it.
    pub(crate) fn rkey(&self) -> u32 {
        // SAFETY: the structure lives until it is deregistered.
        unsafe { self.raw.as_ref() }.rkey
    }

    fn lkey(&self) -> u32 {
        // SAFETY: as above.
        unsafe { self.raw.as_ref() }.lkey
    }
}

impl Drop for MemoryRegion {
    fn drop(&mut self) {
        // SAFETY: dropped once; when it returns the device refuses its keys.
        let done = unsafe { (self.domain.device.library.ibv_dereg_mr)(self.raw.as_ptr()) };
        if done != 0 {
            tracing::error!("memory stays registered: {}", errno_of(done));
        }
    }
}

/// Memory of our own that the device sends from and receives into.
pub(crate) struct Buffer {
    // Before its memory: fields are dropped in this order.
    region: MemoryRegion,
    map: Mapping,
}

impl Buffer {
    /// Zeroed. Shared memory, so that a fork can't move the parent's pages
    /// away from under the device.
    pub(crate) fn new(
        domain: &Arc<ProtectionDomain>,
        len: usize,
    ) -> Result<Arc<Buffer>, FabricError> {
        let fd = memfd("splitkernel-rdma", len as u64)?;
        let map = Mapping::new(&fd, len as u64, true)?;
        let region = MemoryRegion::new(domain, &map, 0, len as u64, Remote::Nothing)?;
        Ok(Arc::new(Buffer { region, map }))
    }

    pub(crate) fn write(&self, at: usize, bytes: &[u8]) -> Result<(), FabricError> {
        let done = self.map.write(at as u64, bytes);
        done.then_some(()).ok_or(FabricError::OutOfBounds)
    }

    pub(crate) fn read(&self, at: usize, bytes: &mut [u8]) -> Result<(), FabricError> {
        let done = self.map.read(at as u64, bytes);
        done.then_some(()).ok_or(FabricError::OutOfBounds)
    }

    /// A piece of it as the device names it.
    pub(crate) fn piece(&self, at: usize, len: usize) -> Result<Sge, FabricError> {
        let start = self.map.at(at as u64, len as u64);
        Ok(Sge {
            addr: start.ok_or(FabricError::OutOfBounds)? as u64,
            length: u32::try_from(len).map_err(|_| FabricError::OutOfBounds)?,
            lkey: self.region.lkey(),
        })
    }
}

/// Where completion queues tell that they have something.
pub(crate) struct CompletionChannel {
    device: Arc<Device>,
    raw: NonNull<sys::CompChannel>,
}
handle!(CompletionChannel);

impl CompletionChannel {
    pub(crate) fn new(
        device: &Arc<Device>,
        floor: Option<i32>,
    ) -> Result<Arc<CompletionChannel>, FabricError> {
        let failed = |e| device.failed("a completion channel", e);
        // SAFETY: the device is open.
        let raw = unsafe { (device.library.ibv_create_comp_channel)(device.context()) };
        let mut raw = NonNull::new(raw).ok_or_else(|| failed(last_error()))?;
        let channel = CompletionChannel {
            device: device.clone(),
            raw,
        };
        if let Some(floor) = floor {
            // SAFETY: nobody else has seen the channel yet.
            raise_in_place(&mut unsafe { raw.as_mut() }.fd, floor).map_err(failed)?;
        }
        rustix::io::ioctl_fionbio(channel.as_fd(), true).map_err(failed)?;
        Ok(Arc::new(channel))
    }
}

impl AsFd for CompletionChannel {
    fn as_fd(&self) -> BorrowedFd<'_> {
        // SAFETY: open as long as the channel.
        unsafe { BorrowedFd::borrow_raw(self.raw.as_ref().fd) }
    }
}

impl Drop for CompletionChannel {
    fn drop(&mut self) {
        // SAFETY: its queue holds an Arc of it.
        unsafe { (self.device.library.ibv_destroy_comp_channel)(self.raw.as_ptr()) };
    }
}

/// Completions taken out at a time.
const BATCH: usize = 16;

/// A completion.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Completion {
    pub(crate) id: u64,
    pub(crate) status: u32,
    /// Bytes received.
    pub(crate) len: usize,
    /// What came beside them.
    pub(crate) immediate: u32,
}

/// Completions that were taken out of a queue.
pub(crate) struct Found {
    raw: [Wc; BATCH],
    len: usize,
}

impl Found {
    /// Room for some.
    pub(crate) fn new() -> Found {
        Found {
            raw: [Wc::zeroed(); BATCH],
            len: 0,
        }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.len == 0
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = Completion> + '_ {
        self.raw[..self.len].iter().map(|wc| Completion {
            id: wc.wr_id,
            status: wc.status,
            len: wc.byte_len as usize,
            immediate: u32::from_be(wc.imm_data),
        })
    }
}

/// A completion queue with a channel to itself.
pub(crate) struct CompletionQueue {
    channel: Arc<CompletionChannel>,
    raw: NonNull<sys::Cq>,
}
handle!(CompletionQueue);

impl CompletionQueue {
    /// For at least `len` completions.
    pub(crate) fn new(
        channel: &Arc<CompletionChannel>,
        len: u32,
    ) -> Result<Arc<CompletionQueue>, FabricError> {
        let device = &channel.device;
        let most = device.limits().max_cqe;
        let len = c_int::try_from(len).unwrap_or(c_int::MAX);
        if len > most {
            let why = format!(
                "{len} completions, RDMA device {} has {most}",
                device.name()
            );
            return Err(FabricError::local("a completion queue", why));
        }
        let (context, to) = (device.context(), channel.raw.as_ptr());
        // SAFETY: of one device; the channel outlives the queue.
        let raw = unsafe { (device.library.ibv_create_cq)(context, len, null_mut(), to, 0) };
        let raw =
            NonNull::new(raw).ok_or_else(|| device.failed("a completion queue", last_error()))?;
        Ok(Arc::new(CompletionQueue {
            channel: channel.clone(),
            raw,
        }))
    }

    pub(crate) fn raw(&self) -> *mut sys::Cq {
        self.raw.as_ptr()
    }

    pub(crate) fn channel(&self) -> &CompletionChannel {
        &self.channel
    }

    /// Takes completions out; whether there may be more.
    pub(crate) fn poll(&self, into: &mut Found) -> Result<bool, FabricError> {
        let found = &mut into.raw;
        // SAFETY: the queue lives; its context has the driver's table.
        let n = unsafe {
            match (*self.raw.as_ref().context).ops.poll_cq {
                Some(poll) => poll(self.raw.as_ptr(), BATCH as c_int, found.as_mut_ptr()),
                None => -1,
            }
        };
        let n = usize::try_from(n)
            .map_err(|_| self.channel.device.failed("polling completions", Errno::IO))?;
        into.len = n.min(BATCH);
        Ok(n == BATCH)
    }

    /// Asks for an event at the next completion. One that came before this
    /// tells of itself no more: poll again.
    pub(crate) fn arm(&self) -> Result<(), FabricError> {
        // SAFETY: as for `poll`.
        let done = unsafe {
            match (*self.raw.as_ref().context).ops.req_notify_cq {
                Some(arm) => arm(self.raw.as_ptr(), 0),
                None => -1,
            }
        };
        match done {
            0 => Ok(()),
            e => Err(self.channel.device.failed("asking for events", errno_of(e))),
        }
    }

    /// Takes an event out of the channel, if there is one.
    pub(crate) fn take_event(&self) {
        let library = self.channel.device.library;
        let (mut queue, mut context) = (null_mut(), null_mut());
        // SAFETY: the channel lives, and does not block; its events are all of
        // this queue, the only one made with it.
        unsafe {
            let channel = self.channel.raw.as_ptr();
            if (library.ibv_get_cq_event)(channel, &mut queue, &mut context) == 0 {
                (library.ibv_ack_cq_events)(queue, 1);
            }
        }
    }

    /// What a completion's status means.
    pub(crate) fn describe(&self, code: u32) -> String {
        // SAFETY: gives a constant string for any number.
        let text = unsafe { (self.channel.device.library.ibv_wc_status_str)(code) };
        if text.is_null() {
            return format!("status {code}");
        }
        // SAFETY: a string, as checked.
        let text = unsafe { CStr::from_ptr(text) }.to_string_lossy();
        match code {
            status::RETRY_EXCEEDED => format!("{text}: the peer's device does not answer"),
            status::RNR_RETRY_EXCEEDED => format!("{text}: the peer took no more messages"),
            _ => text.into_owned(),
        }
    }
}

impl Drop for CompletionQueue {
    fn drop(&mut self) {
        // SAFETY: its queue pairs hold an Arc of it; its events are
        // acknowledged as they are taken.
        unsafe { (self.channel.device.library.ibv_destroy_cq)(self.raw.as_ptr()) };
    }
}
