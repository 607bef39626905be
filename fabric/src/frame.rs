//! framing over a stream
use crate::FabricError;
use rustix::fd::{AsFd, OwnedFd};
use rustix::io::Errno;
use rustix::net::{RecvFlags, SendFlags};
use std::time::{Duration, Instant};
pub(crate) const HEAD: usize = 16;
pub(crate) const MSG: u8 = 1;
pub(crate) const REPLY: u8 = 2;
pub(crate) const READ: u8 = 3;
pub(crate) const DATA: u8 = 4;
pub(crate) const WRITE: u8 = 5;
pub(crate) const WROTE: u8 = 6;
pub(crate) const MAP: u8 = 7;
pub(crate) const MAPPED: u8 = 8;
pub(crate) const MAX: usize = proto::wire::MAX_MESSAGE + 4096;
pub(crate) fn head(kind: u8, status: u8, len: usize, id: u64) -> [u8; HEAD] {
    let mut h = [0; HEAD];
    h[0] = kind;
    h[1] = status;
    h[2] = 0x5b;
    h[3] = 1;
    h[4..8].copy_from_slice(&(len as u32).to_le_bytes());
    h[8..].copy_from_slice(&id.to_le_bytes());
    h
}
pub(crate) struct Head {
    pub kind: u8,
    pub status: u8,
    pub len: usize,
    pub id: u64,
}
pub(crate) fn parse(h: &[u8; HEAD]) -> Option<Head> {
    let len = u32::from_le_bytes([h[4], h[5], h[6], h[7]]) as usize;
    (h[2] == 0x5b && h[3] == 1 && len <= MAX).then(|| Head {
        kind: h[0],
        status: h[1],
        len,
        id: u64::from_le_bytes([h[8], h[9], h[10], h[11], h[12], h[13], h[14], h[15]]),
    })
}
pub(crate) struct Stream {
    pub fd: OwnedFd,
    pub name: String,
    buf: Vec<u8>,
    start: usize,
    end: usize,
    pub spin: Duration,
}
impl Stream {
    pub(crate) fn new(fd: OwnedFd, name: String) -> Stream {
        Stream {
            fd,
            name,
            buf: vec![0; 64 << 10],
            start: 0,
            end: 0,
            spin: Duration::ZERO,
        }
    }
    fn broken(&self, why: impl std::fmt::Display) -> FabricError {
        FabricError::Broken {
            peer: self.name.clone(),
            why: why.to_string(),
        }
    }
    fn wait(
        &self,
        flags: rustix::event::PollFlags,
        deadline: Instant,
        limit: Duration,
    ) -> Result<(), FabricError> {
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(FabricError::Timeout {
                    peer: self.name.clone(),
                    after: limit,
                });
            }
            let ts = rustix::event::Timespec {
                tv_sec: left.as_secs() as i64,
                tv_nsec: left.subsec_nanos().into(),
            };
            let mut p = [rustix::event::PollFd::from_borrowed_fd(
                self.fd.as_fd(),
                flags,
            )];
            match rustix::event::poll(&mut p, Some(&ts)) {
                Ok(0) => {}
                Ok(_) => return Ok(()),
                Err(Errno::INTR) => {}
                Err(e) => return Err(self.broken(e)),
            }
        }
    }
    pub(crate) fn send(&self, parts: &[&[u8]], limit: Duration) -> Result<(), FabricError> {
        let deadline = Instant::now() + limit;
        let mut iov: Vec<std::io::IoSlice<'_>> =
            parts.iter().map(|p| std::io::IoSlice::new(p)).collect();
        let mut rest = &mut iov[..];
        while rest.iter().any(|s| !s.is_empty()) {
            match rustix::net::sendmsg(
                &self.fd,
                rest,
                &mut rustix::net::SendAncillaryBuffer::default(),
                SendFlags::NOSIGNAL | SendFlags::DONTWAIT,
            ) {
                Ok(n) => std::io::IoSlice::advance_slices(&mut rest, n),
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => self.wait(rustix::event::PollFlags::OUT, deadline, limit)?,
                Err(e) => return Err(self.broken(e)),
            }
        }
        Ok(())
    }
    fn recv_some(
        &mut self,
        into: &mut [u8],
        deadline: Option<Instant>,
        limit: Duration,
    ) -> Result<usize, FabricError> {
        let begun = Instant::now();
        loop {
            match rustix::net::recv(&self.fd, &mut *into, RecvFlags::DONTWAIT) {
                Ok((_, 0)) => return Err(self.broken("it hung up")),
                Ok((_, n)) => return Ok(n),
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => {
                    if begun.elapsed() < self.spin {
                        std::thread::yield_now();
                        continue;
                    }
                    match deadline {
                        Some(d) => self.wait(rustix::event::PollFlags::IN, d, limit)?,
                        None => {
                            let far = Instant::now() + Duration::from_secs(3600);
                            match self.wait(rustix::event::PollFlags::IN, far, limit) {
                                Err(FabricError::Timeout { .. }) => {}
                                other => other?,
                            }
                        }
                    }
                }
                Err(e) => return Err(self.broken(e)),
            }
        }
    }
    pub(crate) fn recv(
        &mut self,
        mut into: &mut [u8],
        deadline: Option<Instant>,
        limit: Duration,
    ) -> Result<(), FabricError> {
        while !into.is_empty() {
            if self.start < self.end {
                let n = into.len().min(self.end - self.start);
                into[..n].copy_from_slice(&self.buf[self.start..self.start + n]);
                self.start += n;
                into = &mut into[n..];
                continue;
            }
            if into.len() >= 16 << 10 {
                let n = self.recv_some(into, deadline, limit)?;
                into = &mut into[n..];
                continue;
            }
            let mut buf = std::mem::take(&mut self.buf);
            let got = self.recv_some(&mut buf, deadline, limit);
            self.buf = buf;
            (self.start, self.end) = (0, got?);
        }
        Ok(())
    }
    pub(crate) fn recv_head(
        &mut self,
        deadline: Option<Instant>,
        limit: Duration,
    ) -> Result<Head, FabricError> {
        let mut h = [0; HEAD];
        self.recv(&mut h, deadline, limit)?;
        parse(&h).ok_or_else(|| FabricError::Protocol {
            peer: self.name.clone(),
            why: "a frame that is none".into(),
        })
    }

    /// Waits until something can be read.
    pub(crate) fn wait_readable(&self, limit: Duration) -> Result<(), FabricError> {
        self.wait(rustix::event::PollFlags::IN, Instant::now() + limit, limit)
    }

    /// Whether the peer still holds its end: reads nothing.
    pub(crate) fn check_open(&self) -> Result<(), FabricError> {
        let mut byte = [0u8; 1];
        match rustix::net::recv(&self.fd, &mut byte, RecvFlags::DONTWAIT | RecvFlags::PEEK) {
            Ok((_, 0)) => Err(self.broken("it hung up")),
            Ok(_) | Err(Errno::AGAIN | Errno::INTR) => Ok(()),
            Err(e) => Err(self.broken(e)),
        }
    }
}
