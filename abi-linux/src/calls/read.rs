//! read(2) and its like.

use crate::args::Args;
use crate::consts::*;
use crate::fds::{Object, OpenFile};
use crate::hostcall::HostCall;
use crate::kernel::Kernel;
use crate::layout::stat_from_host;
use crate::outcome::Answer;
use crate::path::{Target, target};
use crate::user::{
    BOUNCE, HOST_TRANSFER, Piece, UserExt, advance, outside_window, scatter, total, with_bounce,
    writable,
};
use proto::{Errno, UserAddr};

use super::open::is_directory;

/// Where in the file a transfer goes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum At {
    /// At the description's offset, which moves.
    Cursor,
    /// There.
    Offset(u64),
}

/// read(2).
pub fn read<K: Kernel>(k: &K, a: Args) -> Answer {
    Ok(read_pieces(
        k,
        a.int(0),
        one(a.addr(1), a.len(2))?,
        At::Cursor,
    )?)
}

/// pread(2).
pub fn pread64<K: Kernel>(k: &K, a: Args) -> Answer {
    Ok(read_pieces(
        k,
        a.int(0),
        one(a.addr(1), a.len(2))?,
        offset(a.long(3))?,
    )?)
}

/// readv(2).
pub fn readv<K: Kernel>(k: &K, a: Args) -> Answer {
    target(k, a.int(0))?;
    Ok(read_pieces(
        k,
        a.int(0),
        k.iovecs(a.addr(1), a.len(2))?,
        At::Cursor,
    )?)
}

/// preadv(2).
pub fn preadv<K: Kernel>(k: &K, a: Args) -> Answer {
    let at = offset(a.long(3))?;
    Ok(read_pieces(
        k,
        a.int(0),
        k.iovecs(a.addr(1), a.len(2))?,
        at,
    )?)
}

pub(super) const RWF_HIPRI: u32 = 1;

pub(super) const RWF_NOWAIT: u32 = 8;

pub(super) const RWF_DONTCACHE: u32 = 128;

/// preadv2(2).
pub fn preadv2<K: Kernel>(k: &K, a: Args) -> Answer {
    const KNOWN: u32 = RWF_HIPRI | RWF_NOWAIT | RWF_DONTCACHE;
    if a.uint(5) & !KNOWN != 0 {
        return Err(Errno::EOPNOTSUPP.into());
    }
    let pieces = k.iovecs(a.addr(1), a.len(2))?;
    Ok(read_pieces(
        k,
        a.int(0),
        pieces,
        offset_or_cursor(a.long(3))?,
    )?)
}

pub(super) fn one(at: UserAddr, len: usize) -> Result<Vec<Piece>, Errno> {
    if isize::try_from(len).is_err() {
        return Err(Errno::EINVAL);
    }
    if len > 0 && outside_window(at, len) {
        return Err(Errno::EFAULT);
    }
    Ok(vec![Piece {
        at,
        len: len.min(MAX_RW_COUNT),
    }])
}

pub(super) fn offset(offset: i64) -> Result<At, Errno> {
    u64::try_from(offset)
        .map(At::Offset)
        .map_err(|_| Errno::EINVAL)
}

pub(super) fn offset_or_cursor(raw: i64) -> Result<At, Errno> {
    if raw == -1 {
        Ok(At::Cursor)
    } else {
        offset(raw)
    }
}

fn read_pieces<K: Kernel>(k: &K, fd: i32, pieces: Vec<Piece>, at: At) -> Result<u64, Errno> {
    match target(k, fd)? {
        Target::Host(fd) => read_host(k, fd, pieces, at),
        Target::Ours(file) => read_own(k, &file, pieces, at),
    }
}

/// One host read: what is there. Only where that is a full buffer of a
/// regular file does it go on.
fn read_host<K: Kernel>(k: &K, fd: i32, mut pieces: Vec<Piece>, at: At) -> Result<u64, Errno> {
    let room = writable(k, &pieces);
    if room == 0 && total(&pieces) > 0 {
        // A bad descriptor comes before a bad address.
        k.host(HostCall::Fcntl {
            fd,
            command: F_GETFD,
            arg: 0,
        })?;
        return Err(Errno::EFAULT);
    }
    let mut done = 0;
    loop {
        let want = (room - done).min(HOST_TRANSFER);
        let result = with_bounce(k, want, |buffer| {
            let got = host_read(k, fd, buffer, at, done)?;
            Ok((got, scatter(k, &pieces, &buffer[..got])))
        });
        match result {
            Err(e) if done == 0 => return Err(e),
            Ok((got, 0)) if got > 0 && done == 0 => return Err(Errno::EFAULT),
            Err(_) => break,
            Ok((got, put)) => {
                done += put;
                if put < got || got < want || done == room || !is_regular(k, fd) {
                    break;
                }
                advance(&mut pieces, put);
            }
        }
    }
    Ok(done as u64)
}

fn host_read<K: Kernel>(
    k: &K,
    fd: i32,
    dst: &mut [u8],
    at: At,
    done: usize,
) -> Result<usize, Errno> {
    let most = dst.len();
    let got = match at {
        At::Cursor => k.host(HostCall::Read { fd, dst }),
        At::Offset(offset) => k.host(HostCall::Pread {
            fd,
            dst,
            offset: host_offset(offset, done)?,
        }),
    }?;
    Ok(usize::try_from(got).unwrap_or(0).min(most))
}

pub(super) fn host_offset(offset: u64, done: usize) -> Result<i64, Errno> {
    offset
        .checked_add(done as u64)
        .and_then(|o| i64::try_from(o).ok())
        .ok_or(Errno::EINVAL)
}

fn is_regular<K: Kernel>(k: &K, fd: i32) -> bool {
    let mut raw = [0; 144];
    let ok = k.host(HostCall::Fstat { fd, dst: &mut raw }).is_ok();
    ok && stat_from_host(&raw).mode & S_IFMT == S_IFREG
}

fn read_own<K: Kernel>(
    k: &K,
    file: &OpenFile<K::File>,
    pieces: Vec<Piece>,
    at: At,
) -> Result<u64, Errno> {
    file.check_readable()?;
    if is_directory(k, file) {
        return Err(Errno::EISDIR);
    }
    if let Object::Device(device) = file.object {
        return device.read(k, pieces);
    }
    match at {
        At::Offset(offset) => read_file(k, file, pieces, offset),
        At::Cursor => {
            // Linux holds the same lock over the whole transfer: threads that
            // share a description read different bytes.
            let mut cursor = file.offset();
            let done = read_file(k, file, pieces, *cursor)?;
            *cursor += done;
            Ok(done)
        }
    }
}

fn read_file<K: Kernel>(
    k: &K,
    file: &OpenFile<K::File>,
    mut pieces: Vec<Piece>,
    offset: u64,
) -> Result<u64, Errno> {
    let wanted = total(&pieces);
    let mut done = 0;
    while done < wanted {
        let straight = read_straight(k, file, &pieces, offset.saturating_add(done as u64));
        if straight > 0 {
            done += straight;
            advance(&mut pieces, straight);
            continue;
        }
        let step = (wanted - done).min(piece_size(wanted));
        let result = with_bounce(k, step, |buffer| {
            let from = offset.checked_add(done as u64).ok_or(Errno::EINVAL)?;
            let got = fill(k, file, from, buffer)?;
            Ok((got, scatter(k, &pieces, &buffer[..got])))
        });
        match result {
            Err(e) if done == 0 => return Err(e),
            Ok((got, 0)) if got > 0 && done == 0 => return Err(Errno::EFAULT),
            Err(_) => break,
            Ok((got, put)) => {
                done += put;
                if put < step || got < step {
                    break;
                }
                advance(&mut pieces, put);
            }
        }
    }
    Ok(done as u64)
}

/// A large piece without a copy of ours in between, as far as that can be.
fn read_straight<K: Kernel>(k: &K, file: &OpenFile<K::File>, pieces: &[Piece], from: u64) -> usize {
    match (&file.object, pieces.first()) {
        (Object::Remote(remote), Some(piece)) if piece.len > BOUNCE => {
            k.read_straight(remote, from, piece.at, piece.len)
        }
        _ => 0,
    }
}

/// Large transfers go in large pieces: each is a message to another component.
pub(super) fn piece_size(wanted: usize) -> usize {
    if wanted > BOUNCE {
        proto::wire::MAX_BULK
    } else {
        BOUNCE
    }
}

pub(super) fn fill<K: Kernel>(
    k: &K,
    file: &OpenFile<K::File>,
    from: u64,
    dst: &mut [u8],
) -> Result<usize, Errno> {
    match &file.object {
        Object::Remote(remote) => k.read_at(remote, from, dst).map(|n| n.min(dst.len())),
        Object::Text { content, .. } => {
            let start = usize::try_from(from)
                .unwrap_or(usize::MAX)
                .min(content.len());
            let n = dst.len().min(content.len() - start);
            dst[..n].copy_from_slice(&content[start..start + n]);
            Ok(n)
        }
        _ => Err(Errno::EINVAL),
    }
}
