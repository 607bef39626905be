//! Attributes, by statx(2).

use crate::core::handle::FileKey;
use crate::fs::Io;
use crate::fs::root::errno;
use proto::Errno;
use proto::store::{Attr, FileId, Timespec};
use rustix::fd::BorrowedFd;
use rustix::fs::{AtFlags, FileType, Statx, StatxFlags, StatxTimestamp, makedev, statx};

/// Attributes of an open file, and its key.
pub(crate) fn stat(fd: BorrowedFd<'_>) -> Io<(Attr, FileKey)> {
    stat_at(fd, b"", AtFlags::EMPTY_PATH)
}

/// Attributes of a name in a directory, never through a symbolic link: `leaf`
/// must be a single component without slashes, not `..`.
pub(crate) fn stat_leaf(dir: BorrowedFd<'_>, leaf: &[u8]) -> Io<(Attr, FileKey)> {
    stat_at(dir, leaf, AtFlags::SYMLINK_NOFOLLOW)
}

fn stat_at(dir: BorrowedFd<'_>, path: &[u8], flags: AtFlags) -> Io<(Attr, FileKey)> {
    let mask = StatxFlags::BASIC_STATS | StatxFlags::BTIME;
    let raw = statx(dir, path, flags | AtFlags::NO_AUTOMOUNT, mask).map_err(errno)?;
    let attr = attr(&raw);
    let key = key(&attr);
    Ok((attr, key))
}

fn attr(raw: &Statx) -> Attr {
    let has_birth = StatxFlags::from_bits_retain(raw.stx_mask).contains(StatxFlags::BTIME);
    Attr {
        id: FileId {
            dev: makedev(raw.stx_dev_major, raw.stx_dev_minor),
            ino: raw.stx_ino,
        },
        mode: u32::from(raw.stx_mode),
        nlink: u64::from(raw.stx_nlink),
        uid: raw.stx_uid,
        gid: raw.stx_gid,
        rdev: makedev(raw.stx_rdev_major, raw.stx_rdev_minor),
        size: raw.stx_size,
        blksize: u64::from(raw.stx_blksize),
        blocks: raw.stx_blocks,
        atime: time(&raw.stx_atime),
        mtime: time(&raw.stx_mtime),
        ctime: time(&raw.stx_ctime),
        btime: if has_birth {
            time(&raw.stx_btime)
        } else {
            Timespec::default()
        },
    }
}

fn time(raw: &StatxTimestamp) -> Timespec {
    Timespec {
        sec: raw.tv_sec,
        nsec: raw.tv_nsec,
    }
}

fn key(attr: &Attr) -> FileKey {
    FileKey {
        id: attr.id,
        born: (attr.btime.sec, attr.btime.nsec),
    }
}

/// What kind of file it is.
pub(crate) fn kind(attr: &Attr) -> FileType {
    FileType::from_raw_mode(attr.mode)
}

/// Whether its contents are read and written through storage.
///
/// # Errors
/// `EINVAL` for FIFOs, sockets and devices; `ELOOP` for symbolic links.
pub(crate) fn check_contents(attr: &Attr) -> Io<()> {
    match kind(attr) {
        FileType::RegularFile | FileType::Directory => Ok(()),
        FileType::Symlink => Err(Errno::ELOOP),
        _ => Err(Errno::EINVAL),
    }
}
