//! Files, in the temporary directory.

use super::Mock;
use crate::kernel::{Entries, FileOps};
use crate::path;
use proto::mem::FileRef;
use proto::store::{Attr, DirEntry, FileHandle, FileId, Location, SetTime, StatFs, Timespec};
use proto::{Errno, NodeId};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::{DirEntryExt, FileExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

pub(in crate::tests) struct MockFile {
    file: Option<std::fs::File>,
    real: PathBuf,
    attr: Attr,
    read_only: bool,
}

impl Mock {
    fn real(&self, at: &Location) -> PathBuf {
        let base = match &at.dir {
            Some(handle) => PathBuf::from(std::ffi::OsString::from_vec(handle.0.clone())),
            None => self.root.path().to_path_buf(),
        };
        if at.path.is_empty() {
            return base;
        }
        let base = if at.path.starts_with(b"/") {
            self.root.path()
        } else {
            &base
        };
        // Nothing outside the temporary directory may be named.
        let inside = path::clean(&[b"/", &at.path[..]].concat());
        base.join(std::ffi::OsStr::from_bytes(&inside[1..]))
    }
}

fn attr(meta: &std::fs::Metadata) -> Attr {
    let time = |sec, nsec: i64| Timespec {
        sec,
        nsec: nsec as u32,
    };
    Attr {
        id: FileId {
            dev: meta.dev(),
            ino: meta.ino(),
        },
        mode: meta.mode(),
        nlink: meta.nlink(),
        uid: meta.uid(),
        gid: meta.gid(),
        rdev: meta.rdev(),
        size: meta.size(),
        blksize: meta.blksize(),
        blocks: meta.blocks(),
        atime: time(meta.atime(), meta.atime_nsec()),
        mtime: time(meta.mtime(), meta.mtime_nsec()),
        ctime: time(meta.ctime(), meta.ctime_nsec()),
        btime: Timespec::default(),
    }
}

/// What a component may claim of a file.
fn claimed(truth: &Attr, lie: u64) -> Attr {
    let time = Timespec {
        sec: lie.cast_signed(),
        nsec: lie as u32,
    };
    Attr {
        size: lie,
        blksize: lie,
        blocks: lie,
        nlink: lie,
        rdev: lie,
        mtime: time,
        ..truth.clone()
    }
}

/// Bytes of a claimed length, within what a message carries.
fn long(lie: u64) -> Vec<u8> {
    vec![b'n'; (lie & 0x1_ffff) as usize]
}

fn io<T>(result: std::io::Result<T>) -> Result<T, Errno> {
    result.map_err(Errno::from)
}

impl Mock {
    fn stat_truly(&self, file: &MockFile) -> Result<Attr, Errno> {
        match &file.file {
            Some(open) => Ok(attr(&io(open.metadata())?)),
            None => Ok(file.attr.clone()),
        }
    }
}

impl FileOps for Mock {
    type File = MockFile;

    fn open(&self, at: &Location, flags: u32, mode: u32) -> Result<MockFile, Errno> {
        const O_NONBLOCK: u32 = 0o4000;
        let real = self.real(at);
        let read_only = flags & 3 == 0;
        let mut options = std::fs::OpenOptions::new();
        let custom = flags & !0o1103 & !crate::consts::O_APPEND;
        options.read(flags & 3 != 1).write(!read_only).mode(mode);
        let create = flags & 0o100 != 0;
        options.custom_flags((custom | O_NONBLOCK | if create { 0o100 } else { 0 }) as i32);
        if flags & crate::consts::O_PATH != 0 {
            let meta = io(if flags & crate::consts::O_NOFOLLOW != 0 {
                std::fs::symlink_metadata(&real)
            } else {
                std::fs::metadata(&real)
            })?;
            if flags & crate::consts::O_DIRECTORY != 0 && !meta.is_dir() {
                return Err(Errno::ENOTDIR);
            }
            return Ok(MockFile {
                file: None,
                real,
                attr: attr(&meta),
                read_only: true,
            });
        }
        let file = io(options.open(&real))?;
        let attr = attr(&io(file.metadata())?);
        Ok(MockFile {
            file: Some(file),
            real,
            attr,
            read_only,
        })
    }
    fn handle(&self, file: &MockFile) -> FileHandle {
        FileHandle(file.real.as_os_str().as_bytes().to_vec())
    }
    fn mode_at_open(&self, file: &MockFile) -> u32 {
        file.attr.mode
    }
    fn device(&self, file: &MockFile) -> u64 {
        file.attr.id.dev
    }
    fn file_ref(&self, file: &MockFile, _: bool) -> Result<FileRef, Errno> {
        Ok(FileRef {
            id: file.attr.id,
            storage: NodeId(1),
            handle: self.handle(file),
        })
    }
    fn read_at(&self, file: &MockFile, offset: u64, dst: &mut [u8]) -> Result<usize, Errno> {
        io(file.file.as_ref().ok_or(Errno::EBADF)?.read_at(dst, offset))
    }
    fn write_at(&self, file: &MockFile, offset: u64, src: &[u8]) -> Result<(), Errno> {
        assert!(!file.read_only, "a write through a read-only description");
        if offset + src.len() as u64 > 1 << 30 {
            return Err(Errno::EFBIG);
        }
        io(file
            .file
            .as_ref()
            .ok_or(Errno::EBADF)?
            .write_all_at(src, offset))
    }
    fn append(&self, file: &MockFile, src: &[u8]) -> Result<u64, Errno> {
        let end = self.stat_truly(file)?.size;
        self.write_at(file, end, src)?;
        Ok(self.lie.get().unwrap_or(end))
    }
    fn size(&self, file: &MockFile) -> Result<u64, Errno> {
        self.stat(file).map(|a| a.size)
    }
    fn flush(&self, _: &MockFile) -> Result<(), Errno> {
        Ok(())
    }
    fn sync(&self, _: &MockFile, data_only: bool) -> Result<(), Errno> {
        self.synced.borrow_mut().push(data_only);
        Ok(())
    }
    fn flush_all(&self) -> Result<(), Errno> {
        Ok(())
    }
    fn truncate(&self, file: &MockFile, len: u64) -> Result<(), Errno> {
        if len > 1 << 30 {
            return Err(Errno::EFBIG);
        }
        io(file.file.as_ref().ok_or(Errno::EBADF)?.set_len(len))
    }
    fn fallocate(&self, _: &MockFile, _: u32, _: u64, _: u64) -> Result<(), Errno> {
        Err(Errno::EOPNOTSUPP)
    }
    fn stat(&self, file: &MockFile) -> Result<Attr, Errno> {
        let attr = self.stat_truly(file)?;
        Ok(match self.lie.get() {
            Some(lie) => claimed(&attr, lie),
            None => attr,
        })
    }
    fn read_dir(&self, file: &MockFile, cookie: u64, bytes: u32) -> Result<Entries, Errno> {
        let mut all = vec![(file.attr.id.ino, b".".to_vec()), (1, b"..".to_vec())];
        for entry in io(std::fs::read_dir(&file.real))?.flatten() {
            all.push((entry.ino(), entry.file_name().into_vec()));
        }
        all[2..].sort_unstable_by(|a, b| a.1.cmp(&b.1));
        let most = (bytes as usize / 32).max(1);
        let entry = |(n, (ino, name)): (usize, &(u64, Vec<u8>))| DirEntry {
            ino: *ino,
            cookie: n as u64 + 1,
            kind: 0,
            name: name.clone(),
        };
        let skip = cookie as usize;
        let mut entries: Vec<_> = all
            .iter()
            .enumerate()
            .skip(skip)
            .take(most)
            .map(entry)
            .collect();
        let end = skip.saturating_add(entries.len()) >= all.len();
        if let Some(lie) = self.lie.get() {
            entries.push(DirEntry {
                ino: lie,
                cookie: lie,
                kind: lie as u8,
                name: long(lie),
            });
        }
        Ok((entries, end))
    }
    fn stat_path(&self, at: &Location, follow: bool) -> Result<Attr, Errno> {
        let real = self.real(at);
        let meta = if follow {
            std::fs::metadata(real)
        } else {
            std::fs::symlink_metadata(real)
        };
        let attr = attr(&io(meta)?);
        Ok(match self.lie.get() {
            Some(lie) => claimed(&attr, lie),
            None => attr,
        })
    }
    fn mkdir(&self, at: &Location, _: u32) -> Result<(), Errno> {
        io(std::fs::create_dir(self.real(at)))
    }
    fn mknod(&self, at: &Location, _: u32) -> Result<(), Errno> {
        io(std::fs::File::create_new(self.real(at)).map(|_| ()))
    }
    fn unlink(&self, at: &Location, dir: bool) -> Result<(), Errno> {
        let real = self.real(at);
        io(if dir {
            std::fs::remove_dir(real)
        } else {
            std::fs::remove_file(real)
        })
    }
    fn rename(&self, from: &Location, to: &Location, _: u32) -> Result<(), Errno> {
        io(std::fs::rename(self.real(from), self.real(to)))
    }
    fn link(&self, from: &Location, to: &Location, _: bool) -> Result<(), Errno> {
        io(std::fs::hard_link(self.real(from), self.real(to)))
    }
    fn symlink(&self, target: &[u8], at: &Location) -> Result<(), Errno> {
        let target = Path::new(std::ffi::OsStr::from_bytes(target));
        io(std::os::unix::fs::symlink(target, self.real(at)))
    }
    fn readlink(&self, at: &Location) -> Result<Vec<u8>, Errno> {
        let target = io(std::fs::read_link(self.real(at)))?;
        let truth = target.into_os_string().into_vec();
        Ok(self.lie.get().map_or(truth, long))
    }
    fn access(&self, at: &Location, _: u32, _: u32) -> Result<(), Errno> {
        io(std::fs::metadata(self.real(at)).map(|_| ()))
    }
    fn chmod(&self, at: &Location, mode: u32) -> Result<(), Errno> {
        let mode = std::fs::Permissions::from_mode(mode | 0o600);
        io(std::fs::set_permissions(self.real(at), mode))
    }
    fn chown(&self, at: &Location, _: u32, _: u32, _: bool) -> Result<(), Errno> {
        self.stat_path(at, true).map(|_| ())
    }
    fn utimens(&self, at: &Location, _: SetTime, _: SetTime, _: bool) -> Result<(), Errno> {
        self.stat_path(at, true).map(|_| ())
    }
    fn statfs(&self, at: &Location) -> Result<StatFs, Errno> {
        self.stat_path(at, true)?;
        let mut answer = crate::pseudo::statfs(b"/");
        answer.blocks = self.lie.get().unwrap_or(answer.blocks);
        Ok(answer)
    }
    fn path_of(&self, handle: &FileHandle) -> Result<Vec<u8>, Errno> {
        let real = PathBuf::from(std::ffi::OsString::from_vec(handle.0.clone()));
        let real = io(real.canonicalize())?;
        if let Some(lie) = self.lie.get() {
            return Ok(long(lie));
        }
        let inside = real
            .strip_prefix(self.root.path())
            .map(|p| Path::new("/").join(p));
        Ok(inside.unwrap_or(real).into_os_string().into_vec())
    }
    fn is_foreign_device(&self, device: u64) -> bool {
        std::fs::metadata("/proc").is_ok_and(|proc| proc.dev() == device)
    }
}
