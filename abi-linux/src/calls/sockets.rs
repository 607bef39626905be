//! Sockets: the processor component's own.

use crate::args::Args;
use crate::consts::errno;
use crate::hostcall::{HostCall, Received};
use crate::kernel::Kernel;
use crate::layout::{Layout, Mmsghdr, Msghdr};
use crate::outcome::Answer;
use crate::path::{Target, target};
use crate::user::{
    HOST_TRANSFER, Piece, UserExt, gather, outside_window, scatter, total, with_bounce, writable,
};
use proto::{Errno, UserAddr};

/// `struct sockaddr_storage`.
const ADDR_MAX: usize = 128;
/// Most bytes of control messages.
const CONTROL_MAX: usize = 4096;
/// Most bytes of a socket option's value.
const OPTION_MAX: usize = 4096;
const AF_UNIX: u16 = 1;
const SOL_SOCKET: i32 = 1;

/// The host socket that `fd` is.
fn socket_fd<K: Kernel>(k: &K, fd: i32) -> Result<i32, Errno> {
    match target(k, fd)? {
        Target::Host(fd) => Ok(fd),
        Target::Ours(file) if file.is_path_only() => Err(Errno::EBADF),
        Target::Ours(_) => Err(Errno::ENOTSOCK),
    }
}

/// socket(2).
pub fn socket<K: Kernel>(k: &K, a: Args) -> Answer {
    Ok(k.host(HostCall::Socket {
        domain: a.int(0),
        kind: a.int(1),
        protocol: a.int(2),
    })?)
}

/// socketpair(2).
pub fn socketpair<K: Kernel>(k: &K, a: Args) -> Answer {
    let mut fds = [0; 2];
    let (domain, kind, protocol) = (a.int(0), a.int(1), a.int(2));
    k.host(HostCall::Socketpair {
        domain,
        kind,
        protocol,
        fds: &mut fds,
    })?;
    super::special::hand_over(k, a.addr(3), fds)
}

/// Reads an address. Sockets named by a path would be on the processor
/// component's own file system, which no program sees.
fn address<K: Kernel>(k: &K, at: UserAddr, len: i32) -> Result<Vec<u8>, Errno> {
    let len = usize::try_from(len).map_err(|_| Errno::EINVAL)?;
    if len > ADDR_MAX {
        return Err(Errno::EINVAL);
    }
    let mut addr = vec![0; len];
    k.read(at, &mut addr)?;
    let family = addr.first_chunk().map(|b| u16::from_le_bytes(*b));
    if family == Some(AF_UNIX) && addr.get(2).is_some_and(|b| *b != 0) {
        return Err(Errno::EACCES);
    }
    Ok(addr)
}

/// Writes an address and its length, as accept(2) has it: cut to the room.
fn put_address<K: Kernel>(
    k: &K,
    at: Option<UserAddr>,
    len_at: UserAddr,
    addr: &[u8],
    len: u32,
) -> Result<(), Errno> {
    let Some(at) = at else { return Ok(()) };
    let room = usize::try_from(k.get::<i32>(len_at)?).map_err(|_| Errno::EINVAL)?;
    let used = (len as usize).min(room).min(addr.len());
    k.write(at, &addr[..used])?;
    k.put(len_at, &len)
}

/// bind(2).
pub fn bind<K: Kernel>(k: &K, a: Args) -> Answer {
    let fd = socket_fd(k, a.int(0))?;
    let addr = address(k, a.addr(1), a.int(2))?;
    Ok(k.host(HostCall::Bind { fd, addr: &addr })?)
}

/// connect(2).
pub fn connect<K: Kernel>(k: &K, a: Args) -> Answer {
    let fd = socket_fd(k, a.int(0))?;
    let addr = address(k, a.addr(1), a.int(2))?;
    Ok(k.host(HostCall::Connect { fd, addr: &addr })?)
}

/// listen(2).
pub fn listen<K: Kernel>(k: &K, a: Args) -> Answer {
    Ok(k.host(HostCall::Listen {
        fd: socket_fd(k, a.int(0))?,
        backlog: a.int(1),
    })?)
}

/// accept(2).
pub fn accept<K: Kernel>(k: &K, a: Args) -> Answer {
    accept_with(k, a, 0)
}

/// accept4(2).
pub fn accept4<K: Kernel>(k: &K, a: Args) -> Answer {
    accept_with(k, a, a.uint(3))
}

fn accept_with<K: Kernel>(k: &K, a: Args, flags: u32) -> Answer {
    let fd = socket_fd(k, a.int(0))?;
    let (mut addr, mut len) = ([0; ADDR_MAX], ADDR_MAX as u32);
    let new = k.host(HostCall::Accept4 {
        fd,
        addr: &mut addr,
        len: &mut len,
        flags,
    })?;
    if let Err(e) = put_address(k, a.opt_addr(1), a.addr(2), &addr, len) {
        if let Ok(fd) = i32::try_from(new) {
            let _ = k.host(HostCall::Close { fd });
        }
        return Err(e.into());
    }
    Ok(new)
}

/// getsockname(2).
pub fn getsockname<K: Kernel>(k: &K, a: Args) -> Answer {
    let fd = socket_fd(k, a.int(0))?;
    let (mut addr, mut len) = ([0; ADDR_MAX], ADDR_MAX as u32);
    k.host(HostCall::Getsockname {
        fd,
        addr: &mut addr,
        len: &mut len,
    })?;
    put_address(k, Some(a.addr(1)), a.addr(2), &addr, len)?;
    Ok(0)
}

/// getpeername(2).
pub fn getpeername<K: Kernel>(k: &K, a: Args) -> Answer {
    let fd = socket_fd(k, a.int(0))?;
    let (mut addr, mut len) = ([0; ADDR_MAX], ADDR_MAX as u32);
    k.host(HostCall::Getpeername {
        fd,
        addr: &mut addr,
        len: &mut len,
    })?;
    put_address(k, Some(a.addr(1)), a.addr(2), &addr, len)?;
    Ok(0)
}

/// Whether an option's value holds no pointer, so that its bytes can be
/// handed to the host. Who carries the call out checks it again.
#[must_use]
pub fn option_is_plain(level: i32, name: i32) -> bool {
    const IPPROTO_IP: i32 = 0;
    const IPPROTO_TCP: i32 = 6;
    const IPPROTO_UDP: i32 = 17;
    const IPPROTO_IPV6: i32 = 41;
    match level {
        // Not the socket filters (SO_ATTACH_*, SO_GET_FILTER).
        SOL_SOCKET => (1..=83).contains(&name) && !matches!(name, 26 | 27 | 50 | 51 | 52),
        // Not the multicast filters' variable parts, nor netfilter (64 on).
        IPPROTO_IP | IPPROTO_IPV6 => (1..=40).contains(&name) || (49..=63).contains(&name),
        // Not TCP_REPAIR's, TCP_ZEROCOPY_RECEIVE and TCP_AO's, nor TCP_ULP.
        IPPROTO_TCP => (1..=18).contains(&name) || (23..=25).contains(&name),
        IPPROTO_UDP => (1..=104).contains(&name),
        _ => false,
    }
}

/// setsockopt(2).
pub fn setsockopt<K: Kernel>(k: &K, a: Args) -> Answer {
    let fd = socket_fd(k, a.int(0))?;
    let (level, name) = (a.int(1), a.int(2));
    let len = usize::try_from(a.int(4))
        .ok()
        .filter(|n| *n <= OPTION_MAX)
        .ok_or(Errno::EINVAL)?;
    let mut value = vec![0; len];
    k.read(a.addr(3), &mut value)?;
    if !option_is_plain(level, name) {
        return Err(errno::ENOPROTOOPT.into());
    }
    Ok(k.host(HostCall::Setsockopt {
        fd,
        level,
        name,
        value: &value,
    })?)
}

/// getsockopt(2).
pub fn getsockopt<K: Kernel>(k: &K, a: Args) -> Answer {
    let fd = socket_fd(k, a.int(0))?;
    let (level, name) = (a.int(1), a.int(2));
    let room: i32 = k.get(a.addr(4))?;
    let room = usize::try_from(room)
        .map_err(|_| Errno::EINVAL)?
        .min(OPTION_MAX);
    if !option_is_plain(level, name) {
        return Err(errno::ENOPROTOOPT.into());
    }
    let (mut value, mut len) = (vec![0; room], room as u32);
    k.host(HostCall::Getsockopt {
        fd,
        level,
        name,
        value: &mut value,
        len: &mut len,
    })?;
    k.write(a.addr(3), &value[..room.min(len as usize)])?;
    k.put(a.addr(4), &len)?;
    Ok(0)
}

/// shutdown(2).
pub fn shutdown<K: Kernel>(k: &K, a: Args) -> Answer {
    Ok(k.host(HostCall::Shutdown {
        fd: socket_fd(k, a.int(0))?,
        how: a.int(1),
    })?)
}

/// sendto(2).
pub fn sendto<K: Kernel>(k: &K, a: Args) -> Answer {
    let fd = socket_fd(k, a.int(0))?;
    let name = match a.opt_addr(4) {
        Some(at) => address(k, at, a.int(5))?,
        None => Vec::new(),
    };
    let pieces = [piece(a.addr(1), a.len(2))?];
    Ok(send(k, fd, &pieces, &name, &[], a.uint(3))?)
}

fn piece(at: UserAddr, len: usize) -> Result<Piece, Errno> {
    if len > 0 && outside_window(at, len) {
        Err(Errno::EFAULT)
    } else {
        Ok(Piece { at, len })
    }
}

fn send<K: Kernel>(
    k: &K,
    fd: i32,
    pieces: &[Piece],
    name: &[u8],
    control: &[u8],
    flags: u32,
) -> Result<u64, Errno> {
    const MSG_ZEROCOPY: u32 = 0x400_0000;
    let len = total(pieces).min(HOST_TRANSFER);
    with_bounce(k, len, |data| {
        if gather(k, pieces, data) < len {
            return Err(Errno::EFAULT);
        }
        let flags = flags & !MSG_ZEROCOPY;
        k.host(HostCall::Sendmsg {
            fd,
            data,
            name,
            control,
            flags,
        })
    })
}

/// recvfrom(2).
pub fn recvfrom<K: Kernel>(k: &K, a: Args) -> Answer {
    let fd = socket_fd(k, a.int(0))?;
    let pieces = [piece(a.addr(1), a.len(2))?];
    let (mut name, mut out) = ([0; ADDR_MAX], Received::default());
    let got = receive(k, fd, &pieces, &mut name, &mut [], a.uint(3), &mut out)?;
    put_address(k, a.opt_addr(4), a.addr(5), &name, out.name_len)?;
    Ok(got)
}

fn receive<K: Kernel>(
    k: &K,
    fd: i32,
    pieces: &[Piece],
    name: &mut [u8],
    control: &mut [u8],
    flags: u32,
    out: &mut Received,
) -> Result<u64, Errno> {
    let len = total(pieces).min(HOST_TRANSFER);
    if writable(k, pieces) < len {
        return Err(Errno::EFAULT);
    }
    with_bounce(k, len, |data| {
        let got = k.host(HostCall::Recvmsg {
            fd,
            data,
            name,
            control,
            flags,
            out,
        })?;
        // With MSG_TRUNC more may be told than there was room for.
        let here = usize::try_from(got).unwrap_or(0).min(len);
        if scatter(k, pieces, &data[..here]) < here {
            return Err(Errno::EFAULT);
        }
        Ok(got)
    })
}

/// sendmsg(2).
pub fn sendmsg<K: Kernel>(k: &K, a: Args) -> Answer {
    let fd = socket_fd(k, a.int(0))?;
    Ok(send_one(k, fd, a.addr(1), a.uint(2))?)
}

fn send_one<K: Kernel>(k: &K, fd: i32, at: UserAddr, flags: u32) -> Result<u64, Errno> {
    let head: Msghdr = k.get(at)?;
    let name = match head.name {
        0 => Vec::new(),
        at => address(k, UserAddr(at), head.namelen.cast_signed())?,
    };
    let control = control_in(k, &head)?;
    let pieces = message_pieces(k, &head)?;
    send(k, fd, &pieces, &name, &control, flags)
}

fn message_pieces<K: Kernel>(k: &K, head: &Msghdr) -> Result<Vec<Piece>, Errno> {
    let count = usize::try_from(head.iovlen).unwrap_or(usize::MAX);
    if count > crate::consts::IOV_MAX {
        return Err(errno::EMSGSIZE);
    }
    k.iovecs(UserAddr(head.iov), count)
}

/// Control messages to send: none that name descriptors or credentials, which
/// mean something else at the host.
fn control_in<K: Kernel>(k: &K, head: &Msghdr) -> Result<Vec<u8>, Errno> {
    const HEADER: usize = 16;
    if head.control == 0 || head.controllen == 0 {
        return Ok(Vec::new());
    }
    let len = usize::try_from(head.controllen).unwrap_or(usize::MAX);
    if len > CONTROL_MAX {
        return Err(errno::ENOBUFS);
    }
    let mut bytes = vec![0; len];
    k.read(UserAddr(head.control), &mut bytes)?;
    let mut rest = &bytes[..];
    while rest.len() >= HEADER {
        let len = usize::try_from(u64::decode(rest)).unwrap_or(usize::MAX);
        if len < HEADER || len > rest.len() {
            return Err(Errno::EINVAL);
        }
        if i32::decode(&rest[8..]) == SOL_SOCKET {
            return Err(Errno::EOPNOTSUPP);
        }
        rest = &rest[len.next_multiple_of(8).min(rest.len())..];
    }
    Ok(bytes)
}

/// recvmsg(2).
pub fn recvmsg<K: Kernel>(k: &K, a: Args) -> Answer {
    let fd = socket_fd(k, a.int(0))?;
    Ok(receive_one(k, fd, a.addr(1), a.uint(2))?)
}

fn receive_one<K: Kernel>(k: &K, fd: i32, at: UserAddr, flags: u32) -> Result<u64, Errno> {
    let mut head: Msghdr = k.get(at)?;
    let pieces = message_pieces(k, &head)?;
    let room = usize::try_from(head.controllen)
        .unwrap_or(usize::MAX)
        .min(CONTROL_MAX);
    let room = if head.control == 0 { 0 } else { room };
    let (mut name, mut control) = ([0; ADDR_MAX], vec![0; room]);
    let mut out = Received::default();
    let got = receive(k, fd, &pieces, &mut name, &mut control, flags, &mut out)?;
    if head.name != 0 {
        let used = (out.name_len.min(head.namelen) as usize).min(ADDR_MAX);
        k.write(UserAddr(head.name), &name[..used])?;
    }
    let used = out.control_len.min(room);
    k.write(UserAddr(head.control), &control[..used])?;
    head.namelen = if head.name == 0 {
        head.namelen
    } else {
        out.name_len
    };
    head.controllen = used as u64;
    head.flags = out.flags;
    k.put(at, &head)?;
    Ok(got)
}

/// sendmmsg(2).
pub fn sendmmsg<K: Kernel>(k: &K, a: Args) -> Answer {
    many(k, a, |fd, at| send_one(k, fd, at, a.uint(3)))
}

/// recvmmsg(2): the timeout is Linux's own, checked between messages.
pub fn recvmmsg<K: Kernel>(k: &K, a: Args) -> Answer {
    const MSG_WAITFORONE: u32 = 0x10000;
    const MSG_DONTWAIT: u32 = 0x40;
    super::poll::timespec(k, a.opt_addr(4))?;
    let first = std::cell::Cell::new(true);
    many(k, a, |fd, at| {
        let mut flags = a.uint(3) & !MSG_WAITFORONE;
        if a.uint(3) & MSG_WAITFORONE != 0 && !first.replace(false) {
            flags |= MSG_DONTWAIT;
        }
        receive_one(k, fd, at, flags)
    })
}

fn many<K: Kernel>(k: &K, a: Args, one: impl Fn(i32, UserAddr) -> Result<u64, Errno>) -> Answer {
    const LEN_AT: u64 = Msghdr::SIZE as u64;
    let fd = socket_fd(k, a.int(0))?;
    let count = u64::from(a.uint(2)).min(crate::consts::IOV_MAX as u64);
    for n in 0..count {
        let at = a
            .addr(1)
            .checked_add(n * Mmsghdr::SIZE as u64)
            .ok_or(Errno::EFAULT)?;
        let result = one(fd, at).and_then(|len| {
            let len = u32::try_from(len).unwrap_or(u32::MAX);
            k.put(UserAddr(at.0.wrapping_add(LEN_AT)), &len)
        });
        match result {
            Err(e) if n == 0 => return Err(e.into()),
            Err(_) => return Ok(n),
            Ok(()) => {}
        }
    }
    Ok(count)
}
