//! Reading directories.

use crate::core::descriptors::Access;
use crate::fs::attr::stat;
use crate::fs::root::errno;
use crate::fs::{Io, Store, Wait};
use proto::store::{DirEntry, FileHandle, StoreReply};
use proto::wire::MAX_BULK;
use rustix::fd::{AsFd, OwnedFd};
use rustix::fs::{Mode, OFlags, RawDir, RawDirEntry, SeekFrom, openat, seek};
use std::mem::MaybeUninit;

/// Bytes of an entry beside its name, as `struct linux_dirent64` has them.
const HEADER: usize = 19;
/// Bytes asked of the kernel at once.
const CHUNK: usize = 32 << 10;

impl Store {
    /// The cookies are the file system's own directory offsets (`d_off`), so
    /// they mean the same after a restart. Each request reads with a
    /// descriptor of its own, because a position is part of a descriptor.
    pub(crate) fn read_dir(
        &self,
        handle: &FileHandle,
        cookie: u64,
        max_bytes: u32,
    ) -> Io<StoreReply> {
        let dir = self.descriptor(handle, Access::Name, Wait::Yes)?;
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let fd = openat(&dir, ".", flags, Mode::empty()).map_err(errno)?;
        if cookie != 0 {
            seek(&fd, SeekFrom::Start(cookie)).map_err(errno)?;
        }
        let (mut entries, end) = read_entries(&fd, (max_bytes as usize).min(MAX_BULK / 2))?;
        let (attr, key) = stat(fd.as_fd())?;
        if key == self.root.key {
            // Nothing is known above the root, not even a number.
            entries
                .iter_mut()
                .filter(|e| e.name == b"..")
                .for_each(|e| e.ino = attr.id.ino);
        }
        Ok(StoreReply::Entries { entries, end })
    }
}

/// Entries of about `max_bytes`, at least one if there is one.
fn read_entries(fd: &OwnedFd, max_bytes: usize) -> Io<(Vec<DirEntry>, bool)> {
    let mut buffer = [MaybeUninit::<u8>::uninit(); CHUNK];
    let mut dir = RawDir::new(fd, &mut buffer);
    let (mut entries, mut bytes) = (Vec::new(), 0);
    while let Some(entry) = dir.next() {
        let entry = convert(&entry.map_err(errno)?);
        bytes += HEADER + entry.name.len();
        if bytes > max_bytes && !entries.is_empty() {
            return Ok((entries, false));
        }
        entries.push(entry);
    }
    Ok((entries, true))
}

fn convert(entry: &RawDirEntry<'_>) -> DirEntry {
    DirEntry {
        ino: entry.ino(),
        cookie: entry.next_entry_cookie(),
        kind: u8::try_from(entry.file_type().as_raw_mode() >> 12).unwrap_or(0),
        name: entry.file_name().to_bytes().to_vec(),
    }
}
