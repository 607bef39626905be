//! Attributes and permissions.

use crate::core::descriptors::Access;
use crate::fs::attr::{kind, stat};
use crate::fs::root::{errno, proc_path};
use crate::fs::{Io, Store, Wait};
use proto::Errno;
use proto::store::{FileHandle, Location, SetTime, StatFs, StoreReply};
use rustix::fd::AsFd;
use rustix::fs::{
    Access as Permission, AtFlags, CWD, FileType, Gid, Mode, Timespec, Timestamps, UTIME_NOW,
    UTIME_OMIT, Uid, accessat, chmod, chownat, fstatfs, readlinkat, utimensat,
};

impl Store {
    pub(crate) fn stat_path(&self, at: &Location, follow: bool, wait: Wait) -> Io<StoreReply> {
        let fd = self.target(at, follow, wait)?;
        Ok(StoreReply::Attr(stat(fd.as_fd())?.0))
    }

    pub(crate) fn stat(&self, handle: &FileHandle, wait: Wait) -> Io<StoreReply> {
        let fd = self.descriptor(handle, Access::Name, wait)?;
        Ok(StoreReply::Attr(stat(fd.as_fd())?.0))
    }

    pub(crate) fn readlink(&self, at: &Location, wait: Wait) -> Io<StoreReply> {
        let fd = self.target(at, false, wait)?;
        if kind(&stat(fd.as_fd())?.0) != FileType::Symlink {
            return Err(Errno::EINVAL);
        }
        let target = readlinkat(&fd, "", Vec::new()).map_err(errno)?;
        Ok(StoreReply::Data(target.into_bytes()))
    }

    pub(crate) fn access(
        &self,
        at: &Location,
        mode: u32,
        flags: u32,
        wait: Wait,
    ) -> Io<StoreReply> {
        let flags = AtFlags::from_bits_retain(flags).difference(AtFlags::EMPTY_PATH);
        if mode > 7 || !(AtFlags::EACCESS | AtFlags::SYMLINK_NOFOLLOW).contains(flags) {
            return Err(Errno::EINVAL);
        }
        let mode = Permission::from_bits_retain(mode);
        let fd = self.target(at, !flags.contains(AtFlags::SYMLINK_NOFOLLOW), wait)?;
        let flags = flags & AtFlags::EACCESS;
        accessat(CWD, proc_path(fd.as_fd()), mode, flags).map_err(errno)?;
        Ok(StoreReply::Done)
    }

    pub(crate) fn chmod(&self, at: &Location, mode: u32) -> Io<StoreReply> {
        let fd = self.target(at, true, Wait::Yes)?;
        let mode = Mode::from_bits_retain(mode & 0o7777);
        chmod(proc_path(fd.as_fd()), mode).map_err(errno)?;
        Ok(StoreReply::Done)
    }

    pub(crate) fn chown(&self, at: &Location, uid: u32, gid: u32, follow: bool) -> Io<StoreReply> {
        let fd = self.target(at, follow, Wait::Yes)?;
        let uid = (uid != u32::MAX).then(|| Uid::from_raw(uid));
        let gid = (gid != u32::MAX).then(|| Gid::from_raw(gid));
        chownat(&fd, "", uid, gid, AtFlags::EMPTY_PATH).map_err(errno)?;
        Ok(StoreReply::Done)
    }

    pub(crate) fn utimens(
        &self,
        at: &Location,
        atime: SetTime,
        mtime: SetTime,
        follow: bool,
    ) -> Io<StoreReply> {
        let times = Timestamps {
            last_access: to_host(atime)?,
            last_modification: to_host(mtime)?,
        };
        let fd = self.target(at, follow, Wait::Yes)?;
        utimensat(&fd, "", &times, AtFlags::EMPTY_PATH).map_err(errno)?;
        Ok(StoreReply::Done)
    }

    pub(crate) fn statfs(&self, at: &Location, wait: Wait) -> Io<StoreReply> {
        let fd = self.target(at, true, wait)?;
        let raw = fstatfs(&fd).map_err(errno)?;
        Ok(StoreReply::StatFs(StatFs {
            kind: raw.f_type.cast_unsigned(),
            bsize: raw.f_bsize.cast_unsigned(),
            blocks: raw.f_blocks,
            bfree: raw.f_bfree,
            bavail: raw.f_bavail,
            files: raw.f_files,
            ffree: raw.f_ffree,
            namelen: raw.f_namelen.cast_unsigned(),
            frsize: raw.f_frsize.cast_unsigned(),
        }))
    }

    pub(crate) fn path_of(&self, handle: &FileHandle, wait: Wait) -> Io<StoreReply> {
        let fd = self.descriptor(handle, Access::Name, wait)?;
        let path = self.root.path_of(fd.as_fd())?;
        Ok(StoreReply::Data([b"/", &path[..]].concat()))
    }
}

/// `EINVAL` for nanoseconds out of range, which utimensat(2) would take for
/// its special values.
fn to_host(time: SetTime) -> Io<Timespec> {
    Ok(match time {
        SetTime::Omit => Timespec {
            tv_sec: 0,
            tv_nsec: UTIME_OMIT,
        },
        SetTime::Now => Timespec {
            tv_sec: 0,
            tv_nsec: UTIME_NOW,
        },
        SetTime::To(t) if t.nsec < 1_000_000_000 => Timespec {
            tv_sec: t.sec,
            tv_nsec: i64::from(t.nsec),
        },
        SetTime::To(_) => return Err(Errno::EINVAL),
    })
}
