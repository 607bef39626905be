//! Sockets: addresses, and connecting with a deadline.

use crate::stream::{Deadline, ready};
use crate::{Backend, FabricError};
use rustix::event::PollFlags;
use rustix::fd::OwnedFd;
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, sockopt};
use std::net::{SocketAddr, TcpStream, ToSocketAddrs};
use std::path::Path;
use std::time::Duration;

/// Where a component listens.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Address<'a> {
    /// A Unix socket.
    Shm(&'a Path),
    /// HOST:PORT.
    Tcp(&'a str),
    /// HOST:PORT of a control connection.
    Verbs(&'a str),
    /// NETWORK/NAME of a simulated network.
    Sim(&'a str),
}

impl<'a> Address<'a> {
    pub(crate) fn parse(text: &'a str) -> Result<Address<'a>, FabricError> {
        match text.split_once(':') {
            Some(("shm", path)) if !path.is_empty() => Ok(Address::Shm(Path::new(path))),
            Some(("sim", place)) => Ok(Address::Sim(place)),
            Some(("tcp", place)) if place.contains(':') => Ok(Address::Tcp(place)),
            Some(("verbs", place)) if place.contains(':') => Ok(Address::Verbs(place)),
            _ => {
                let why =
                    format!("address {text:?}: give shm:PATH, tcp:HOST:PORT or verbs:HOST:PORT");
                Err(FabricError::Invalid(why))
            }
        }
    }

    pub(crate) fn backend(&self) -> Backend {
        match self {
            Address::Shm(_) => Backend::Shm,
            Address::Tcp(_) => Backend::Tcp,
            Address::Verbs(_) => Backend::Verbs,
            Address::Sim(_) => Backend::Sim,
        }
    }

    /// A connected socket.
    pub(crate) fn connect(&self, text: &str, deadline: &Deadline) -> Result<OwnedFd, FabricError> {
        match self {
            Address::Shm(path) => connect_unix(path, text, deadline),
            Address::Tcp(place) | Address::Verbs(place) => connect_tcp(place, text, deadline),
            Address::Sim(_) => Err(FabricError::unreachable(text, "it has no socket")),
        }
    }
}

pub(crate) fn unix_socket() -> Result<OwnedFd, Errno> {
    let flags = SocketFlags::CLOEXEC;
    rustix::net::socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)
}

fn connect_unix(path: &Path, text: &str, deadline: &Deadline) -> Result<OwnedFd, FabricError> {
    let unreachable = |e: Errno| FabricError::unreachable(text, e);
    let address = SocketAddrUnix::new(path).map_err(unreachable)?;
    let fd = unix_socket().map_err(unreachable)?;
    // Non-blocking, or a full backlog would hold us for ever.
    rustix::io::ioctl_fionbio(&fd, true).map_err(unreachable)?;
    loop {
        match rustix::net::connect(&fd, &address) {
            Ok(()) | Err(Errno::ISCONN) => break,
            Err(Errno::INTR) => {}
            Err(Errno::AGAIN) => {
                deadline.left(text)?;
                std::thread::sleep(Duration::from_millis(1));
            }
            Err(e) => return Err(unreachable(e)),
        }
    }
    rustix::io::ioctl_fionbio(&fd, false).map_err(unreachable)?;
    Ok(fd)
}

fn connect_tcp(place: &str, text: &str, deadline: &Deadline) -> Result<OwnedFd, FabricError> {
    let mut last = FabricError::unreachable(text, "it has no address");
    for address in resolve(place, text)? {
        match TcpStream::connect_timeout(&address, deadline.left(text)?) {
            Ok(stream) => {
                let fd = OwnedFd::from(stream);
                tune_tcp(&fd);
                ready(&fd, PollFlags::OUT, deadline, text)?;
                return Ok(fd);
            }
            Err(e) => last = FabricError::unreachable(text, e),
        }
    }
    Err(last)
}

/// A number needs no resolver, whose waits have no deadline of ours.
fn resolve(place: &str, text: &str) -> Result<Vec<SocketAddr>, FabricError> {
    if let Ok(address) = place.parse() {
        return Ok(vec![address]);
    }
    let found = place
        .to_socket_addrs()
        .map_err(|e| FabricError::unreachable(text, e))?;
    Ok(found.collect())
}

/// No delays; a host that vanishes is noticed within half a minute. These are
/// improvements: where one is refused, the connection works without.
pub(crate) fn tune_tcp(fd: &OwnedFd) {
    let _ = sockopt::set_tcp_nodelay(fd, true);
    let _ = sockopt::set_socket_keepalive(fd, true);
    let _ = sockopt::set_tcp_keepidle(fd, Duration::from_secs(10));
    let _ = sockopt::set_tcp_keepintvl(fd, Duration::from_secs(5));
    let _ = sockopt::set_tcp_keepcnt(fd, 3);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::BackendChoice;

    #[test]
    fn addresses_are_told_apart() {
        assert_eq!(
            Address::parse("shm:/a/b"),
            Ok(Address::Shm(Path::new("/a/b")))
        );
        assert_eq!(Address::parse("tcp:[::1]:80"), Ok(Address::Tcp("[::1]:80")));
        assert_eq!(Address::parse("verbs:a:1"), Ok(Address::Verbs("a:1")));
        for wrong in ["", "verbs:a", "shm:", "tcp:host", "udp:a:1", "/a/b"] {
            let error = Address::parse(wrong).unwrap_err().to_string();
            assert!(error.contains("give shm:PATH"), "{error}");
        }
        assert!(!BackendChoice::Shm.allows(Address::Tcp("a:1").backend()));
    }
}
