//! Host objects, simulated.

use super::{FLOOR, HostFd, Mock, PID, Pipe};
use crate::hostcall::{HostCall, PollFd, Simple};
use crate::kernel::HostOps;
use proto::Errno;

impl Mock {
    fn lowest(&self, least: i32) -> Result<i32, Errno> {
        let fds = self.fds.borrow();
        (least..FLOOR)
            .find(|fd| !fds.contains_key(fd))
            .ok_or(Errno::EMFILE)
    }

    fn make(&self, fd: HostFd, cloexec: bool) -> Result<i32, Errno> {
        let number = self.lowest(0)?;
        self.fds.borrow_mut().insert(number, (fd, cloexec));
        Ok(number)
    }

    fn host_fd(&self, fd: i32) -> Result<HostFd, Errno> {
        self.fds
            .borrow()
            .get(&fd)
            .map(|(fd, _)| fd.clone())
            .ok_or(Errno::EBADF)
    }

    fn pipe_read(&self, fd: i32, dst: &mut [u8]) -> Result<u64, Errno> {
        match self.host_fd(fd)? {
            HostFd::ReadEnd(pipe) => {
                let mut pipe = pipe.borrow_mut();
                let n = dst.len().min(pipe.len());
                dst[..n]
                    .iter_mut()
                    .zip(pipe.drain(..n))
                    .for_each(|(d, b)| *d = b);
                Ok(n as u64)
            }
            HostFd::Other => Ok(0),
            _ => Err(Errno::EBADF),
        }
    }

    fn pipe_write(&self, fd: i32, src: &[u8]) -> Result<u64, Errno> {
        match self.host_fd(fd)? {
            HostFd::WriteEnd(pipe) => {
                pipe.borrow_mut().extend(src);
                Ok(src.len() as u64)
            }
            HostFd::Other => Ok(src.len() as u64),
            _ => Err(Errno::EBADF),
        }
    }

    fn poll(&self, fds: &mut [PollFd]) -> u64 {
        for fd in fds.iter_mut().filter(|fd| fd.fd >= 0) {
            fd.revents = match self.host_fd(fd.fd) {
                Ok(HostFd::ReadEnd(pipe)) if pipe.borrow().is_empty() => 0,
                Ok(HostFd::ReadEnd(_)) => fd.events & 1,
                Ok(HostFd::WriteEnd(_)) => fd.events & 4,
                Ok(HostFd::Other) => 0,
                Ok(HostFd::Reserved) | Err(_) => 32,
            };
        }
        fds.iter().filter(|fd| fd.revents != 0).count() as u64
    }

    fn fcntl(&self, fd: i32, command: u32, arg: u64) -> Result<u64, Errno> {
        let mut fds = self.fds.borrow_mut();
        let (_, cloexec) = fds.get_mut(&fd).ok_or(Errno::EBADF)?;
        match command {
            1 => Ok(u64::from(*cloexec)),
            2 => {
                *cloexec = arg & 1 != 0;
                Ok(0)
            }
            _ => Ok(0),
        }
    }
}

impl HostOps for Mock {
    fn host(&self, call: HostCall<'_>) -> Result<u64, Errno> {
        match call {
            HostCall::Read { fd, dst } => self.pipe_read(fd, dst),
            HostCall::Write { fd, src } => self.pipe_write(fd, src),
            HostCall::Pread { fd, .. } | HostCall::Pwrite { fd, .. } => {
                self.host_fd(fd).and(Err(Errno::ESPIPE))
            }
            HostCall::Lseek { fd, .. } => self.host_fd(fd).and(Err(Errno::ESPIPE)),
            HostCall::Close { fd } => self
                .fds
                .borrow_mut()
                .remove(&fd)
                .map(|_| 0)
                .ok_or(Errno::EBADF),
            HostCall::DupFrom { fd, least, cloexec } => {
                let object = self.host_fd(fd)?;
                let new = self.lowest(least)?;
                self.fds.borrow_mut().insert(new, (object, cloexec));
                Ok(new as u64)
            }
            HostCall::Dup3 { old, new, cloexec } => {
                let object = self.host_fd(old)?;
                self.fds.borrow_mut().insert(new, (object, cloexec));
                Ok(new as u64)
            }
            HostCall::Fcntl { fd, command, arg } => self.fcntl(fd, command, arg),
            HostCall::Fstat { fd, dst } => {
                let fifo = !matches!(self.host_fd(fd)?, HostFd::Other);
                let mode: u32 = if fifo { 0o010_600 } else { 0o020_620 };
                dst[24..28].copy_from_slice(&mode.to_le_bytes());
                Ok(0)
            }
            HostCall::Socketpair { fds, .. } => {
                fds[0] = self.make(HostFd::Other, false)?;
                fds[1] = self.make(HostFd::Other, false)?;
                Ok(0)
            }
            HostCall::Pipe2 { fds, flags } => {
                let pipe = Pipe::default();
                let cloexec = flags & crate::consts::O_CLOEXEC != 0;
                fds[0] = self.make(HostFd::ReadEnd(pipe.clone()), cloexec)?;
                fds[1] = self.make(HostFd::WriteEnd(pipe), cloexec)?;
                Ok(0)
            }
            HostCall::Eventfd2 { .. } | HostCall::EpollCreate1 { .. } => {
                self.make(HostFd::Other, false).map(|fd| fd as u64)
            }
            HostCall::Poll { fds, .. } => Ok(self.poll(fds)),
            HostCall::ClockGettime { dst, .. } => {
                dst[..8].copy_from_slice(&1_000_000u64.to_le_bytes());
                Ok(0)
            }
            HostCall::ClockNanosleep { remain, .. } => {
                remain[..8].copy_from_slice(&7u64.to_le_bytes());
                Err(Errno::EINTR)
            }
            HostCall::Getrlimit { dst, .. } => {
                dst.fill(0xff);
                Ok(0)
            }
            HostCall::Getrandom { dst, .. } => {
                dst.fill(4);
                Ok(dst.len() as u64)
            }
            HostCall::GetName { name } => {
                name[..4].copy_from_slice(b"mock");
                Ok(0)
            }
            HostCall::Simple(Simple::Getpgid(_)) => Ok(PID as u64),
            HostCall::Simple(_) => Ok(0),
            HostCall::Sigpending { dst } => {
                dst.fill(0xff);
                Ok(0)
            }
            HostCall::Pause => Err(Errno::EINTR),
            HostCall::Kill { .. } | HostCall::Tgkill { .. } => Ok(0),
            HostCall::Ioctl { fd, .. } => self.host_fd(fd).and(Err(Errno::ENOTTY)),
            _ => Ok(0),
        }
    }
    fn reserve(&self, cloexec: bool) -> Result<i32, Errno> {
        self.make(HostFd::Reserved, cloexec)
    }
    fn descriptors(&self) -> Vec<i32> {
        self.fds.borrow().keys().copied().collect()
    }
    fn fd_floor(&self) -> i32 {
        FLOOR
    }
}
