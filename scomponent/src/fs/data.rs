//! Contents: reading, writing, sizes, and making them durable.

use crate::core::descriptors::Access;
use crate::core::handle::Handle;
use crate::core::newborn::Parent;
use crate::core::path::parent_of;
use crate::fs::attr::stat;
use crate::fs::root::errno;
use crate::fs::{Fd, Io, Store, Wait};
use fabric::Region;
use proto::Errno;
use proto::store::{FileHandle, StoreReply};
use proto::wire::MAX_BULK;
use rustix::fd::AsFd;
use rustix::fs::{FallocateFlags, Mode, OFlags, fallocate, fdatasync, fsync, ftruncate};
use rustix::io::{ReadWriteFlags, pread, preadv2, pwrite};
use std::io::IoSliceMut;
use std::ops::Range;

/// Directories above a new file that are synced with it, at most.
const MAX_DEPTH: usize = 256;

impl Store {
    pub(crate) fn read(
        &self,
        handle: &FileHandle,
        offset: u64,
        len: u32,
        wait: Wait,
    ) -> Io<StoreReply> {
        let mut data = vec![0; (len as usize).min(MAX_BULK)];
        let n = self.read_into(handle, offset, &mut data, wait)?;
        data.truncate(n);
        Ok(StoreReply::Data(data))
    }

    /// Fills `buf` from `offset` on; fewer bytes mean the end of the file.
    ///
    /// # Errors
    /// As pread(2); `EAGAIN` where that would wait and must not; `ESTALE`.
    pub fn read_into(
        &self,
        handle: &FileHandle,
        offset: u64,
        buf: &mut [u8],
        wait: Wait,
    ) -> Io<usize> {
        let fd = self.descriptor(handle, Access::Read, wait)?;
        let mut done = 0;
        loop {
            let at = offset.checked_add(done as u64).ok_or(Errno::EINVAL)?;
            let n = match read_some(&fd, at, &mut buf[done..], wait) {
                Ok(n) => n,
                Err(rustix::io::Errno::INTR) => continue,
                Err(e) => return Err(errno(e)),
            };
            done += n;
            if n == 0 || done == buf.len() {
                return Ok(done);
            }
        }
    }

    /// As [`Store::read_into`], into registered memory: as much as `range` holds.
    ///
    /// # Errors
    /// As of [`Store::read_into`].
    pub fn read_to(
        &self,
        handle: &FileHandle,
        offset: u64,
        region: &Region,
        range: Range<u64>,
        wait: Wait,
    ) -> Io<usize> {
        let fd = self.descriptor(handle, Access::Read, wait)?;
        region
            .read_file(range, &fd, offset, wait == Wait::Yes)
            .map_err(errno)
    }

    pub(crate) fn write(&self, handle: &FileHandle, offset: u64, data: &[u8]) -> Io<StoreReply> {
        if data.len() > MAX_BULK {
            return Err(Errno::EINVAL);
        }
        let fd = self.descriptor(handle, Access::Write, Wait::Yes)?;
        write_all(&fd, offset, data)?;
        Ok(StoreReply::Written(stat(fd.as_fd())?.0))
    }

    pub(crate) fn truncate(&self, handle: &FileHandle, len: u64) -> Io<StoreReply> {
        let fd = self.descriptor(handle, Access::Write, Wait::Yes)?;
        retried(|| ftruncate(&fd, len))?;
        Ok(StoreReply::Done)
    }

    pub(crate) fn fallocate(
        &self,
        handle: &FileHandle,
        mode: u32,
        offset: u64,
        len: u64,
    ) -> Io<StoreReply> {
        let fd = self.descriptor(handle, Access::Write, Wait::Yes)?;
        let mode = FallocateFlags::from_bits_retain(mode);
        retried(|| fallocate(&fd, mode, offset, len))?;
        Ok(StoreReply::Done)
    }

    pub(crate) fn fsync(&self, handle: &FileHandle, data_only: bool) -> Io<StoreReply> {
        let handle = Handle::decode(handle)?;
        let fd = self.for_sync(&handle)?;
        retried(|| {
            if data_only {
                fdatasync(&fd)
            } else {
                fsync(&fd)
            }
        })?;
        self.sync_name(&handle, &fd)?;
        Ok(StoreReply::Done)
    }

    /// Any descriptor that is open will do, also one that only writes.
    fn for_sync(&self, handle: &Handle) -> Io<Fd> {
        match self.known(handle, Access::Read, Wait::Yes) {
            Err(Errno::EACCES) => self.known(handle, Access::Write, Wait::Yes),
            other => other,
        }
    }

    /// Makes the name of a new file durable: its directory, and the new ones
    /// among the directories above.
    fn sync_name(&self, handle: &Handle, fd: &Fd) -> Io<()> {
        let (mut key, mut here) = (handle.key, fd.clone());
        for _ in 0..MAX_DEPTH {
            let waiting = self.tables().newborn.parent(key);
            let (dir, noted) = match waiting {
                Parent::Durable => return Ok(()),
                Parent::At(path) => (self.open_dir(&path), Some(path)),
                Parent::Unknown => (Err(Errno::ENOENT), None),
            };
            // A directory that was moved is found by where the file is now; a
            // file without any name needs none that is durable.
            let dir = match dir.or_else(|_| self.open_parent(&here)) {
                Ok(dir) => dir,
                Err(Errno::ENOENT | Errno::ESTALE) => return Ok(()),
                Err(e) => return Err(e),
            };
            retried(|| fsync(&dir))?;
            if let Some(path) = noted {
                self.tables().newborn.handle_synced(key, &path);
            }
            let parent = stat(dir.as_fd())?.1;
            if parent == key || parent == self.root.key {
                return Ok(());
            }
            (key, here) = (parent, dir);
        }
        Ok(())
    }

    fn open_parent(&self, file: &Fd) -> Io<Fd> {
        let path = self.root.path_of(file.as_fd())?;
        self.open_dir(parent_of(&path))
    }

    fn open_dir(&self, path: &[u8]) -> Io<Fd> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY;
        self.root
            .open_in(path, flags, Mode::empty(), Wait::Yes)
            .map(Fd::new)
    }
}

/// At least one call is made, so that an empty write has its errors too.
fn write_all(fd: &Fd, offset: u64, data: &[u8]) -> Io<()> {
    let mut done = 0;
    loop {
        let at = offset.checked_add(done as u64).ok_or(Errno::EFBIG)?;
        let n = match pwrite(fd, &data[done..], at) {
            Ok(n) => n,
            Err(rustix::io::Errno::INTR) => continue,
            Err(e) => return Err(errno(e)),
        };
        done += n;
        if done == data.len() {
            return Ok(());
        }
        if n == 0 {
            return Err(Errno::EIO);
        }
    }
}

fn read_some(fd: &Fd, at: u64, buf: &mut [u8], wait: Wait) -> rustix::io::Result<usize> {
    if wait == Wait::Yes {
        return pread(fd, buf, at);
    }
    match preadv2(fd, &mut [IoSliceMut::new(buf)], at, ReadWriteFlags::NOWAIT) {
        Err(rustix::io::Errno::OPNOTSUPP) => Err(rustix::io::Errno::AGAIN),
        other => other,
    }
}

fn retried(mut call: impl FnMut() -> rustix::io::Result<()>) -> Io<()> {
    loop {
        match call() {
            Err(rustix::io::Errno::INTR) => {}
            other => return other.map_err(errno),
        }
    }
}
