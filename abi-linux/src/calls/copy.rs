//! Copying between descriptors without the program's memory: sendfile(2),
//! copy_file_range(2).

use crate::args::Args;
use crate::consts::*;
use crate::fds::{Object, OpenFile};
use crate::hostcall::HostCall;
use crate::kernel::Kernel;
use crate::outcome::Answer;
use crate::path::{Target, target};
use crate::user::{HOST_TRANSFER, UserExt};
use proto::{Errno, UserAddr};

use super::open::is_directory;
use super::read::fill;
use super::write::{end_of, make_durable};

/// sendfile(2) from a file to anything that can be written.
pub fn sendfile<K: Kernel>(k: &K, a: Args) -> Answer {
    let (out, from) = (a.int(0), target(k, a.int(1))?);
    let to = target(k, out)?;
    let Target::Ours(file) = from else {
        return Err(Errno::EINVAL.into());
    };
    file.check_readable()?;
    if is_directory(k, &file) || matches!(file.object, Object::Device(_)) {
        return Err(Errno::EINVAL.into());
    }
    let count = a.len(3).min(MAX_RW_COUNT);
    // No offset lock is held on the way: the other end may be the same file.
    let start = start_of(k, &file, a.opt_addr(2))?;
    let done = pump(k, &file, start, count, |data| put_data(k, out, data))?;
    finish(k, &file, a.opt_addr(2), start + done)?;
    match to {
        Target::Ours(to) if done > 0 => make_durable(k, &to, 0)?,
        _ => {}
    }
    Ok(done)
}

/// Moves up to `count` bytes of `file` from `start` on to `put`, which tells
/// how many it took.
fn pump<K: Kernel>(
    k: &K,
    file: &OpenFile<K::File>,
    start: u64,
    count: usize,
    mut put: impl FnMut(&[u8]) -> Result<usize, Errno>,
) -> Result<u64, Errno> {
    let mut buffer = vec![0; count.min(HOST_TRANSFER)];
    let mut done = 0;
    while done < count {
        let step = (count - done).min(buffer.len());
        let result = fill(k, file, start + done as u64, &mut buffer[..step])
            .and_then(|got| if got == 0 { Ok(0) } else { put(&buffer[..got]) });
        match result {
            Err(e) if done == 0 => return Err(e),
            Err(_) => break,
            Ok(n) => {
                done += n;
                if n < step {
                    break;
                }
            }
        }
    }
    Ok(done as u64)
}

/// write(2) of bytes that are not the program's.
fn put_data<K: Kernel>(k: &K, fd: i32, data: &[u8]) -> Result<usize, Errno> {
    let file = match target(k, fd)? {
        Target::Host(fd) => {
            let n = k.host(HostCall::Write { fd, src: data })?;
            return Ok(usize::try_from(n).unwrap_or(0).min(data.len()));
        }
        Target::Ours(file) => file,
    };
    file.check_writable()?;
    match &file.object {
        Object::Remote(remote) => {
            let mut cursor = file.offset();
            let start = if file.appends() {
                k.append(remote, data)?
            } else {
                k.write_at(remote, *cursor, data)?;
                *cursor
            };
            *cursor = end_of(start, data.len())?;
            Ok(data.len())
        }
        Object::Device(_) => Ok(data.len()),
        _ => Err(Errno::EBADF),
    }
}

/// Whether two descriptions are of one file.
fn same_file<K: Kernel>(k: &K, a: &OpenFile<K::File>, b: &OpenFile<K::File>) -> bool {
    match (&a.object, &b.object) {
        (Object::Remote(a), Object::Remote(b)) => k.handle(a) == k.handle(b),
        _ => false,
    }
}

/// copy_file_range(2).
pub fn copy_file_range<K: Kernel>(k: &K, a: Args) -> Answer {
    let (from, to) = (target(k, a.int(0))?, target(k, a.int(2))?);
    let (Target::Ours(from), Target::Ours(to)) = (from, to) else {
        return Err(Errno::EXDEV.into());
    };
    from.check_readable()?;
    to.check_writable()?;
    if is_directory(k, &from) || is_directory(k, &to) {
        return Err(Errno::EISDIR.into());
    }
    let (Object::Remote(_), Object::Remote(target)) = (&from.object, &to.object) else {
        return Err(Errno::EINVAL.into());
    };
    if a.raw(5) != 0 {
        return Err(Errno::EINVAL.into());
    }
    if to.appends() {
        return Err(Errno::EBADF.into());
    }
    let start = start_of(k, &from, a.opt_addr(1))?;
    let mut there = start_of(k, &to, a.opt_addr(3))?;
    let count = a.len(4).min(MAX_RW_COUNT);
    if same_file(k, &from, &to) && start.abs_diff(there) < count as u64 {
        return Err(Errno::EINVAL.into()); // the ranges overlap
    }
    let done = pump(k, &from, start, count, |data| {
        k.write_at(target, there, data)?;
        there += data.len() as u64;
        Ok(data.len())
    })?;
    finish(k, &from, a.opt_addr(1), start + done)?;
    finish(k, &to, a.opt_addr(3), there)?;
    if done > 0 {
        make_durable(k, &to, 0)?;
    }
    Ok(done)
}

fn start_of<K: Kernel>(
    k: &K,
    file: &OpenFile<K::File>,
    at: Option<UserAddr>,
) -> Result<u64, Errno> {
    match at {
        Some(at) => u64::try_from(k.get::<i64>(at)?).map_err(|_| Errno::EINVAL),
        None => Ok(*file.offset()),
    }
}

fn finish<K: Kernel>(
    k: &K,
    file: &OpenFile<K::File>,
    at: Option<UserAddr>,
    offset: u64,
) -> Result<(), Errno> {
    match at {
        Some(at) => k.put(at, &offset),
        None => {
            *file.offset() = offset;
            Ok(())
        }
    }
}
