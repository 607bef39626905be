//! write(2) and its like.

use crate::args::Args;
use crate::consts::*;
use crate::fds::{Object, OpenFile};
use crate::hostcall::HostCall;
use crate::kernel::Kernel;
use crate::outcome::Answer;
use crate::path::{Target, target};
use crate::user::{HOST_TRANSFER, Piece, UserExt, advance, gather, total, with_bounce};
use proto::Errno;

use super::read::{
    At, RWF_DONTCACHE, RWF_HIPRI, RWF_NOWAIT, host_offset, offset, offset_or_cursor, one,
    piece_size,
};

/// write(2).
pub fn write<K: Kernel>(k: &K, a: Args) -> Answer {
    Ok(write_pieces(
        k,
        a.int(0),
        one(a.addr(1), a.len(2))?,
        At::Cursor,
        Mode::default(),
    )?)
}

/// pwrite(2).
pub fn pwrite64<K: Kernel>(k: &K, a: Args) -> Answer {
    let at = offset(a.long(3))?;
    Ok(write_pieces(
        k,
        a.int(0),
        one(a.addr(1), a.len(2))?,
        at,
        Mode::default(),
    )?)
}

/// writev(2).
pub fn writev<K: Kernel>(k: &K, a: Args) -> Answer {
    target(k, a.int(0))?;
    let pieces = k.iovecs(a.addr(1), a.len(2))?;
    Ok(write_pieces(
        k,
        a.int(0),
        pieces,
        At::Cursor,
        Mode::default(),
    )?)
}

/// pwritev(2).
pub fn pwritev<K: Kernel>(k: &K, a: Args) -> Answer {
    let at = offset(a.long(3))?;
    let pieces = k.iovecs(a.addr(1), a.len(2))?;
    Ok(write_pieces(k, a.int(0), pieces, at, Mode::default())?)
}

const RWF_DSYNC: u32 = 2;

const RWF_SYNC: u32 = 4;

const RWF_APPEND: u32 = 16;

const RWF_NOAPPEND: u32 = 32;

/// pwritev2(2).
pub fn pwritev2<K: Kernel>(k: &K, a: Args) -> Answer {
    const KNOWN: u32 =
        RWF_HIPRI | RWF_DSYNC | RWF_SYNC | RWF_NOWAIT | RWF_APPEND | RWF_NOAPPEND | RWF_DONTCACHE;
    let flags = a.uint(5);
    if flags & !KNOWN != 0 {
        return Err(Errno::EOPNOTSUPP.into());
    }
    if flags & RWF_APPEND != 0 && flags & RWF_NOAPPEND != 0 {
        return Err(Errno::EINVAL.into());
    }
    let sync = match (flags & RWF_SYNC != 0, flags & RWF_DSYNC != 0) {
        (true, _) => O_SYNC,
        (_, true) => O_DSYNC,
        _ => 0,
    };
    let mode = Mode {
        append: flags & RWF_APPEND != 0,
        no_append: flags & RWF_NOAPPEND != 0,
        sync,
    };
    let pieces = k.iovecs(a.addr(1), a.len(2))?;
    Ok(write_pieces(
        k,
        a.int(0),
        pieces,
        offset_or_cursor(a.long(3))?,
        mode,
    )?)
}

/// How a write goes beside the description's own flags.
#[derive(Clone, Copy, Default)]
struct Mode {
    append: bool,
    no_append: bool,
    /// `O_SYNC` or `O_DSYNC` for this one.
    sync: u32,
}

fn write_pieces<K: Kernel>(
    k: &K,
    fd: i32,
    pieces: Vec<Piece>,
    at: At,
    mode: Mode,
) -> Result<u64, Errno> {
    match target(k, fd)? {
        Target::Host(fd) => write_host(k, fd, pieces, at),
        Target::Ours(file) => write_own(k, &file, pieces, at, mode),
    }
}

fn write_host<K: Kernel>(k: &K, fd: i32, mut pieces: Vec<Piece>, at: At) -> Result<u64, Errno> {
    let wanted = total(&pieces);
    let mut done = 0;
    loop {
        let step = (wanted - done).min(HOST_TRANSFER);
        let result = with_bounce(k, step, |buffer| {
            let got = gather(k, &pieces, buffer);
            if got == 0 && step > 0 {
                // A bad descriptor comes before a bad address.
                k.host(HostCall::Fcntl {
                    fd,
                    command: F_GETFD,
                    arg: 0,
                })?;
                return Err(Errno::EFAULT);
            }
            let src = &buffer[..got];
            let put = match at {
                At::Cursor => k.host(HostCall::Write { fd, src }),
                At::Offset(offset) => k.host(HostCall::Pwrite {
                    fd,
                    src,
                    offset: host_offset(offset, done)?,
                }),
            }?;
            Ok(usize::try_from(put).unwrap_or(0).min(got))
        });
        match result {
            Err(e) if done == 0 => return Err(e),
            Err(_) => break,
            Ok(put) => {
                done += put;
                if put < step || done == wanted {
                    break;
                }
                advance(&mut pieces, put);
            }
        }
    }
    Ok(done as u64)
}

fn write_own<K: Kernel>(
    k: &K,
    file: &OpenFile<K::File>,
    pieces: Vec<Piece>,
    at: At,
    mode: Mode,
) -> Result<u64, Errno> {
    file.check_writable()?;
    if let Object::Device(device) = file.object {
        return device.write(k, &pieces);
    }
    let Object::Remote(remote) = &file.object else {
        return Err(Errno::EBADF);
    };
    let appends = mode.append || (file.appends() && !mode.no_append);
    let done = match at {
        // Linux appends also where pwrite(2) names an offset (its BUGS).
        At::Offset(_) if appends => append_file(k, remote, pieces)?.1,
        At::Offset(offset) => write_file(k, remote, pieces, offset)?,
        At::Cursor => {
            let mut cursor = file.offset();
            if appends {
                let (end, done) = append_file(k, remote, pieces)?;
                *cursor = end.unwrap_or(*cursor);
                done
            } else {
                let done = write_file(k, remote, pieces, *cursor)?;
                *cursor += done;
                done
            }
        }
    };
    if done > 0 {
        make_durable(k, file, mode.sync)?;
    }
    Ok(done)
}

/// After a write: what `O_SYNC` and `O_DSYNC` promise, of the description or
/// as `more` for this write alone.
pub(super) fn make_durable<K: Kernel>(
    k: &K,
    file: &OpenFile<K::File>,
    more: u32,
) -> Result<(), Errno> {
    match (&file.object, (file.flags() | more) & O_SYNC) {
        (Object::Remote(remote), sync) if sync != 0 => k.sync(remote, sync == O_DSYNC),
        _ => Ok(()),
    }
}

fn write_file<K: Kernel>(
    k: &K,
    remote: &K::File,
    pieces: Vec<Piece>,
    offset: u64,
) -> Result<u64, Errno> {
    in_steps(k, pieces, |data, done| {
        let from = offset.checked_add(done).ok_or(Errno::EFBIG)?;
        let end = from.checked_add(data.len() as u64).ok_or(Errno::EFBIG)?;
        if i64::try_from(end).is_err() {
            return Err(Errno::EFBIG);
        }
        k.write_at(remote, from, data)
    })
}

/// Appends; the offset after the last byte, and how many there were. Each
/// piece of at most [`proto::wire::MAX_BULK`] bytes is atomic.
fn append_file<K: Kernel>(
    k: &K,
    remote: &K::File,
    pieces: Vec<Piece>,
) -> Result<(Option<u64>, u64), Errno> {
    let mut end = None;
    let done = in_steps(k, pieces, |data, _| {
        let start = k.append(remote, data)?;
        end = Some(end_of(start, data.len())?);
        Ok(())
    })?;
    Ok((end, done))
}

/// The end of what another component says it wrote at `start`: `EIO` for a
/// place that no file has.
pub(super) fn end_of(start: u64, len: usize) -> Result<u64, Errno> {
    start
        .checked_add(len as u64)
        .filter(|end| i64::try_from(*end).is_ok())
        .ok_or(Errno::EIO)
}

fn in_steps<K: Kernel>(
    k: &K,
    mut pieces: Vec<Piece>,
    mut put: impl FnMut(&[u8], u64) -> Result<(), Errno>,
) -> Result<u64, Errno> {
    let wanted = total(&pieces);
    let mut done = 0;
    while done < wanted {
        let step = (wanted - done).min(piece_size(wanted));
        let result = with_bounce(k, step, |buffer| {
            let got = gather(k, &pieces, buffer);
            if got == 0 {
                return Err(Errno::EFAULT);
            }
            put(&buffer[..got], done as u64)?;
            Ok(got)
        });
        match result {
            Err(e) if done == 0 => return Err(e),
            Err(_) => break,
            Ok(got) => {
                done += got;
                if got < step {
                    break;
                }
                advance(&mut pieces, got);
            }
        }
    }
    Ok(done as u64)
}
