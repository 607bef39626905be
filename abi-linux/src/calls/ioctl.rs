//! ioctl(2): terminals and the few requests that every descriptor knows.

use crate::args::Args;
use crate::consts::*;
use crate::fds::{Object, OpenFile};
use crate::hostcall::{HostCall, IoctlArg};
use crate::kernel::Kernel;
use crate::outcome::Answer;
use crate::path::{Target, target};
use crate::user::UserExt;
use proto::Errno;

use super::open::is_directory;

const FIONCLEX: u32 = 0x5450;
const FIOCLEX: u32 = 0x5451;
const FIONREAD: u32 = 0x541b;
const FIONBIO: u32 = 0x5421;
const FIOASYNC: u32 = 0x5452;

/// How a request's argument is passed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Shape {
    /// As a number, or not at all.
    Value,
    /// A structure of this many bytes, read.
    In(usize),
    /// A structure of this many bytes, written.
    Out(usize),
}

/// The requests that travel to the host, by the names of ioctl_tty(2). A
/// request that is not here is not made: its argument could be anything.
#[must_use]
pub fn shape(request: u32) -> Option<Shape> {
    Some(match request {
        0x5401 => Shape::Out(36),                   // TCGETS
        0x5402..=0x5404 => Shape::In(36),           // TCSETS, TCSETSW, TCSETSF
        0x802c_542a => Shape::Out(44),              // TCGETS2
        0x402c_542b..=0x402c_542d => Shape::In(44), // TCSETS2, TCSETSW2, TCSETSF2
        0x5409..=0x540b => Shape::Value,            // TCSBRK, TCXONC, TCFLSH
        0x540c | 0x540d => Shape::Value,            // TIOCEXCL, TIOCNXCL
        0x540e | 0x5422 => Shape::Value,            // TIOCSCTTY, TIOCNOTTY
        0x540f => Shape::Out(4),                    // TIOCGPGRP
        0x5410 => Shape::In(4),                     // TIOCSPGRP
        0x5411 | FIONREAD => Shape::Out(4),         // TIOCOUTQ
        0x5413 => Shape::Out(8),                    // TIOCGWINSZ
        0x5414 => Shape::In(8),                     // TIOCSWINSZ
        FIONBIO | FIOASYNC => Shape::In(4),
        0x5424 => Shape::Out(4), // TIOCGETD
        0x5425 => Shape::Value,  // TCSBRKP
        0x5429 => Shape::Out(4), // TIOCGSID
        FIONCLEX | FIOCLEX => Shape::Value,
        0x8004_5430 => Shape::Out(4), // TIOCGPTN
        0x4004_5431 => Shape::In(4),  // TIOCSPTLCK
        _ => return None,
    })
}

/// ioctl(2).
pub fn ioctl<K: Kernel>(k: &K, a: Args) -> Answer {
    let (fd, request) = (a.int(0), a.uint(1));
    let target = target(k, fd)?;
    if matches!(&target, Target::Ours(file) if file.is_path_only()) {
        return Err(Errno::EBADF.into());
    }
    if matches!(request, FIOCLEX | FIONCLEX) {
        let arg = if request == FIOCLEX {
            FD_CLOEXEC.into()
        } else {
            0
        };
        return Ok(k.host(HostCall::Fcntl {
            fd,
            command: F_SETFD,
            arg,
        })?);
    }
    match target {
        Target::Ours(file) => own(k, &file, a),
        Target::Host(fd) => host(k, fd, a),
    }
}

fn own<K: Kernel>(k: &K, file: &OpenFile<K::File>, a: Args) -> Answer {
    match a.uint(1) {
        FIONBIO => {
            let on: i32 = k.get(a.addr(2))?;
            file.set_flags(if on == 0 { 0 } else { O_NONBLOCK }, O_NONBLOCK);
            Ok(0)
        }
        FIONREAD if !is_directory(k, file) => {
            let size = match &file.object {
                Object::Remote(remote) => k.size(remote)?,
                Object::Text { content, .. } => content.len() as u64,
                _ => return Err(Errno::ENOTTY.into()),
            };
            let left = size.saturating_sub(*file.offset());
            k.put(a.addr(2), &i32::try_from(left).unwrap_or(i32::MAX))?;
            Ok(0)
        }
        _ => Err(Errno::ENOTTY.into()),
    }
}

fn host<K: Kernel>(k: &K, fd: i32, a: Args) -> Answer {
    let request = a.uint(1);
    // A bad descriptor comes before an unknown request.
    let Some(shape) = shape(request) else {
        k.host(HostCall::Fcntl {
            fd,
            command: F_GETFD,
            arg: 0,
        })?;
        return Err(Errno::ENOTTY.into());
    };
    let mut bytes = [0; 44];
    let (result, out) = match shape {
        Shape::Value => {
            let arg = IoctlArg::Value(a.raw(2));
            (k.host(HostCall::Ioctl { fd, request, arg })?, 0)
        }
        Shape::In(n) => {
            k.read(a.addr(2), &mut bytes[..n])?;
            let arg = IoctlArg::Buffer(&mut bytes[..n]);
            (k.host(HostCall::Ioctl { fd, request, arg })?, 0)
        }
        Shape::Out(n) => {
            let arg = IoctlArg::Buffer(&mut bytes[..n]);
            (k.host(HostCall::Ioctl { fd, request, arg })?, n)
        }
    };
    k.write(a.addr(2), &bytes[..out])?;
    Ok(result)
}
