//! lseek(2).

use crate::args::Args;
use crate::consts::*;
use crate::fds::{Object, OpenFile};
use crate::hostcall::HostCall;
use crate::kernel::Kernel;
use crate::outcome::Answer;
use crate::path::{Target, target};
use proto::Errno;

use super::open::is_directory;

/// lseek(2).
pub fn lseek<K: Kernel>(k: &K, a: Args) -> Answer {
    let (offset, whence) = (a.long(1), a.uint(2));
    let file = match target(k, a.int(0))? {
        Target::Host(fd) => return Ok(k.host(HostCall::Lseek { fd, offset, whence })?),
        Target::Ours(file) => file,
    };
    if file.is_path_only() {
        return Err(Errno::EBADF.into());
    }
    if let Object::Device(_) = file.object {
        // mem(4): these devices have no position.
        return if whence <= SEEK_HOLE {
            Ok(0)
        } else {
            Err(Errno::EINVAL.into())
        };
    }
    let mut cursor = file.offset();
    let new = seek(k, &file, *cursor, offset, whence)?;
    *cursor = new;
    Ok(new)
}

fn seek<K: Kernel>(
    k: &K,
    file: &OpenFile<K::File>,
    cursor: u64,
    offset: i64,
    whence: u32,
) -> Result<u64, Errno> {
    let base = match whence {
        SEEK_SET => 0,
        SEEK_CUR => cursor,
        SEEK_END => size_of(k, file)?,
        SEEK_DATA | SEEK_HOLE => return data_or_hole(k, file, offset, whence),
        _ => return Err(Errno::EINVAL),
    };
    let new = base.checked_add_signed(offset).ok_or(Errno::EINVAL)?;
    if i64::try_from(new).is_err() {
        Err(Errno::EINVAL)
    } else {
        Ok(new)
    }
}

/// Every file is one run of data with a hole at its end.
fn data_or_hole<K: Kernel>(
    k: &K,
    file: &OpenFile<K::File>,
    offset: i64,
    whence: u32,
) -> Result<u64, Errno> {
    let size = size_of(k, file)?;
    let offset = u64::try_from(offset).map_err(|_| Errno::ENXIO)?;
    if offset >= size {
        return Err(Errno::ENXIO);
    }
    Ok(if whence == SEEK_DATA { offset } else { size })
}

fn size_of<K: Kernel>(k: &K, file: &OpenFile<K::File>) -> Result<u64, Errno> {
    let size = match &file.object {
        Object::Remote(remote) if is_directory(k, file) => k.stat(remote)?.size,
        Object::Remote(remote) => k.size(remote)?,
        Object::Text { content, .. } => content.len() as u64,
        Object::PseudoDir { entries, .. } => entries.len() as u64,
        Object::Device(_) => 0,
    };
    // Else the program would see a claimed size as an errno.
    i64::try_from(size).map(|_| size).map_err(|_| Errno::EIO)
}
