//! Bytes over a connected socket, Unix or TCP, with deadlines.

use crate::FabricError;
use crate::frame::{HEADER, Header};
use crate::spin::{Peer, Spin};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fd::{AsFd, OwnedFd};
use rustix::io::Errno;
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, SocketAddrAny,
};
use std::io::{IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// What one receive call takes at most when it does not go straight to where
/// the bytes belong.
const BUFFERED: usize = 64 << 10;
/// From this length on bytes go straight to where they belong.
const DIRECT: usize = 16 << 10;
/// Descriptors that come with one frame.
const MOST_DESCRIPTORS: usize = 2;

/// When an operation must have ended.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Deadline {
    at: Instant,
    after: Duration,
}

impl Deadline {
    pub(crate) fn after(after: Duration) -> Deadline {
        let now = Instant::now();
        let far = Duration::from_secs(10 * 365 * 86400);
        Deadline {
            at: now.checked_add(after).unwrap_or(now + far),
            after,
        }
    }

    /// The whole time that there was.
    pub(crate) fn limit(&self) -> Duration {
        self.after
    }

    /// The time left; none is a timeout of `peer`'s.
    pub(crate) fn left(&self, peer: &str) -> Result<Duration, FabricError> {
        let left = self.at.saturating_duration_since(Instant::now());
        let timeout = || FabricError::Timeout {
            peer: peer.to_owned(),
            after: self.after,
        };
        (!left.is_zero()).then_some(left).ok_or_else(timeout)
    }
}

/// How long to wait for the first byte of what is to come.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Wait {
    /// Until the peer speaks or is gone: for a server's idle connection.
    Forever,
    /// Until then.
    Until(Deadline),
}

/// Waits until `fd` is ready for `what`.
pub(crate) fn ready(
    fd: &OwnedFd,
    what: PollFlags,
    deadline: &Deadline,
    peer: &str,
) -> Result<(), FabricError> {
    loop {
        let left = deadline.left(peer)?;
        let time = Timespec {
            tv_sec: i64::try_from(left.as_secs()).unwrap_or(i64::MAX),
            tv_nsec: left.subsec_nanos().into(),
        };
        let mut fds = [PollFd::from_borrowed_fd(fd.as_fd(), what)];
        match poll(&mut fds, Some(&time)) {
            Ok(0) | Err(Errno::INTR) => {}
            Ok(_) => return Ok(()),
            Err(e) => return Err(FabricError::broken(peer, e)),
        }
    }
}

/// Sends all of `parts`, with `descriptors` beside the first byte.
pub(crate) fn send(
    fd: &OwnedFd,
    parts: &mut [IoSlice<'_>],
    descriptors: &[&OwnedFd],
    deadline: &Deadline,
    peer: &str,
) -> Result<(), FabricError> {
    let borrowed: Vec<_> = descriptors.iter().map(|d| d.as_fd()).collect();
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MOST_DESCRIPTORS))];
    let mut beside = SendAncillaryBuffer::new(&mut space);
    if !borrowed.is_empty() && !beside.push(SendAncillaryMessage::ScmRights(&borrowed)) {
        return Err(FabricError::Invalid(format!(
            "{} descriptors at once",
            borrowed.len()
        )));
    }
    let mut rest = parts;
    IoSlice::advance_slices(&mut rest, 0);
    while !rest.is_empty() {
        let flags = SendFlags::NOSIGNAL | SendFlags::DONTWAIT;
        match rustix::net::sendmsg(fd, rest, &mut beside, flags) {
            Ok(n) => {
                IoSlice::advance_slices(&mut rest, n);
                beside.clear();
            }
            Err(Errno::INTR) => {}
            Err(Errno::AGAIN) => ready(fd, PollFlags::OUT, deadline, peer)?,
            Err(e) => return Err(FabricError::broken(peer, e)),
        }
    }
    Ok(())
}

/// Whether a socket's peer runs on this machine, as far as addresses tell.
pub(crate) fn peer_of(fd: &OwnedFd) -> Peer {
    let ip = |address: SocketAddrAny| SocketAddr::try_from(address).map(|a| a.ip());
    let ours = rustix::net::getsockname(fd).and_then(ip);
    let theirs = rustix::net::getpeername(fd).map(|a| a.map(ip));
    match (ours, theirs) {
        (Ok(ours), Ok(Some(Ok(theirs)))) if ours != theirs => Peer::Afar,
        _ => Peer::Here,
    }
}

/// Where received bytes go.
enum Into<'a> {
    /// To the stream's own buffer.
    Buffer,
    There(&'a mut [u8]),
    /// One behind the other.
    Both(&'a mut [u8], &'a mut [u8]),
}

/// The receiving end of a socket.
pub(crate) struct Stream {
    fd: Arc<OwnedFd>,
    /// Who is at the other end, for messages.
    pub(crate) name: String,
    spin: Spin,
    /// Where its answers come from.
    from: Peer,
    buffer: Box<[u8]>,
    start: usize,
    end: usize,
    /// Descriptors are expected, and kept as they come.
    expects: bool,
    descriptors: Vec<OwnedFd>,
}

impl Stream {
    pub(crate) fn new(fd: Arc<OwnedFd>, name: String) -> Stream {
        Stream {
            from: peer_of(&fd),
            fd,
            name,
            spin: Spin::default(),
            buffer: vec![0; BUFFERED].into_boxed_slice(),
            start: 0,
            end: 0,
            expects: false,
            descriptors: Vec::new(),
        }
    }

    /// Sends a frame whose body is `parts`.
    pub(crate) fn send(
        &self,
        header: Header,
        parts: &[&[u8]],
        deadline: &Deadline,
    ) -> Result<(), FabricError> {
        send_frame(&self.fd, header, parts, deadline, &self.name)
    }

    /// From now on descriptors that come are kept for [`Stream::take_descriptors`].
    pub(crate) fn expect_descriptors(&mut self, expects: bool) {
        self.expects = expects;
    }

    pub(crate) fn take_descriptors(&mut self) -> Vec<OwnedFd> {
        std::mem::take(&mut self.descriptors)
    }

    fn receive(&mut self, into: &mut Into<'_>, flags: RecvFlags) -> Result<usize, Errno> {
        let into = match into {
            Into::Buffer => &mut *self.buffer,
            Into::There(bytes) => bytes,
            Into::Both(head, body) => {
                let mut parts = [IoSliceMut::new(head), IoSliceMut::new(body)];
                let mut beside = RecvAncillaryBuffer::default();
                let got = rustix::net::recvmsg(&*self.fd, &mut parts, &mut beside, flags)?;
                return Ok(got.bytes);
            }
        };
        if !self.expects {
            return rustix::net::recv(&*self.fd, into, flags).map(|(_, n)| n);
        }
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MOST_DESCRIPTORS))];
        let mut beside = RecvAncillaryBuffer::new(&mut space);
        let flags = flags | RecvFlags::CMSG_CLOEXEC;
        let got =
            rustix::net::recvmsg(&*self.fd, &mut [IoSliceMut::new(into)], &mut beside, flags)?;
        for message in beside.drain() {
            if let RecvAncillaryMessage::ScmRights(rights) = message {
                self.descriptors.extend(rights);
            }
        }
        Ok(got.bytes)
    }

    /// Receives at least a byte.
    fn receive_some(&mut self, mut into: Into<'_>, wait: &Wait) -> Result<usize, FabricError> {
        let from = match wait {
            Wait::Forever => Peer::Here,
            Wait::Until(_) => self.from,
        };
        let mut attempt = self.spin.begin(from);
        loop {
            // A server's idle thread sleeps in the receive call itself: one
            // system call, woken synchronously by the sender.
            let sleeps = attempt.is_over() && matches!(wait, Wait::Forever);
            let flags = if sleeps {
                RecvFlags::empty()
            } else {
                RecvFlags::DONTWAIT
            };
            match self.receive(&mut into, flags) {
                Ok(0) => return Err(FabricError::broken(&self.name, "it hung up")),
                Ok(n) => {
                    self.spin.end(&attempt);
                    return Ok(n);
                }
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) if attempt.again() => {}
                Err(Errno::AGAIN) => {
                    if let Wait::Until(deadline) = wait {
                        ready(&self.fd, PollFlags::IN, deadline, &self.name)?;
                    }
                }
                Err(e) => return Err(FabricError::broken(&self.name, e)),
            }
        }
    }

    /// Fills `into`.
    pub(crate) fn fill(&mut self, mut into: &mut [u8], wait: &Wait) -> Result<(), FabricError> {
        while !into.is_empty() {
            if self.start < self.end {
                let n = into.len().min(self.end - self.start);
                into[..n].copy_from_slice(&self.buffer[self.start..self.start + n]);
                self.start += n;
                into = &mut into[n..];
            } else if into.len() >= DIRECT {
                let n = self.receive_some(Into::There(into), wait)?;
                into = &mut into[n..];
            } else {
                self.start = 0;
                self.end = 0;
                self.end = self.receive_some(Into::Buffer, wait)?;
            }
        }
        Ok(())
    }

    /// The next frame's header.
    pub(crate) fn header(&mut self, wait: &Wait) -> Result<Header, FabricError> {
        let mut bytes = [0; HEADER];
        self.fill(&mut bytes, wait)?;
        Header::decode(&bytes).map_err(|garbled| garbled.by(&self.name))
    }

    /// The next frame's header and, straight into `body`, what has come behind
    /// it: so many bytes. For when that frame is the last that can come, and its
    /// body belongs there: nothing then passes through our own buffer.
    pub(crate) fn header_before(
        &mut self,
        body: &mut [u8],
        wait: &Wait,
    ) -> Result<(Header, usize), FabricError> {
        if self.start < self.end {
            return Ok((self.header(wait)?, 0));
        }
        let (mut bytes, mut got) = ([0; HEADER], 0);
        // More than the header ends the loop.
        while got < HEADER {
            got += self.receive_some(Into::Both(&mut bytes[got..], body), wait)?;
        }
        let header = Header::decode(&bytes).map_err(|garbled| garbled.by(&self.name))?;
        Ok((header, got - HEADER))
    }

    /// Whether the peer still holds its end: reads nothing.
    pub(crate) fn check_open(&self) -> Result<(), FabricError> {
        let mut byte = [0u8; 1];
        let flags = RecvFlags::DONTWAIT | RecvFlags::PEEK;
        match rustix::net::recv(&*self.fd, &mut byte, flags) {
            Ok((_, 0)) => Err(FabricError::broken(&self.name, "it hung up")),
            Ok(_) | Err(Errno::AGAIN | Errno::INTR) => Ok(()),
            Err(e) => Err(FabricError::broken(&self.name, e)),
        }
    }
}

/// Sends a frame whose body is `parts`; allocates only for many parts.
pub(crate) fn send_frame(
    fd: &OwnedFd,
    header: Header,
    parts: &[&[u8]],
    deadline: &Deadline,
    peer: &str,
) -> Result<(), FabricError> {
    const FEW: usize = 7;
    let header = header.encode();
    if parts.len() <= FEW {
        let mut few = [IoSlice::new(&[]); FEW + 1];
        few[0] = IoSlice::new(&header);
        for (slice, part) in few[1..].iter_mut().zip(parts) {
            *slice = IoSlice::new(part);
        }
        return send(fd, &mut few[..=parts.len()], &[], deadline, peer);
    }
    let all = std::iter::once(&header[..]).chain(parts.iter().copied());
    let mut all: Vec<IoSlice<'_>> = all.map(IoSlice::new).collect();
    send(fd, &mut all, &[], deadline, peer)
}
