//! `FileOps` of a thread's context: by the process's [`super::RemoteFiles`].

use super::RemoteFile;
use crate::kernel::Kernel;
use abi_linux::kernel::{Entries, FileOps};
use proto::mem::FileRef;
use proto::store::{Attr, FileHandle, Location, SetTime, StatFs, StoreRequest};
use proto::{Errno, UserAddr};

impl Kernel<'_> {
    /// What the program's shared mappings hold of `file` goes to the file.
    fn settle(&self, file: &RemoteFile) {
        let me = &mut self.task.scratch.borrow_mut();
        let memory = &self.process.memory;
        memory.settle_file(file.storage(), file.id(), me, &self.task.counters);
    }
}

impl FileOps for Kernel<'_> {
    type File = RemoteFile;

    fn open(&self, at: &Location, flags: u32, mode: u32) -> Result<RemoteFile, Errno> {
        const O_TRUNC: u32 = 0o1000;
        let file = self.shared().files.open(at, flags, mode)?;
        if flags & O_TRUNC != 0 {
            // Leases of what was cut off are void.
            self.process
                .memory
                .remote()
                .forget_file(file.storage(), file.id());
        }
        Ok(file)
    }

    fn handle(&self, file: &RemoteFile) -> FileHandle {
        file.handle()
    }

    fn mode_at_open(&self, file: &RemoteFile) -> u32 {
        file.attr_at_open().mode
    }

    fn device(&self, file: &RemoteFile) -> u64 {
        file.id().dev
    }

    fn file_ref(&self, file: &RemoteFile, shared: bool) -> Result<FileRef, Errno> {
        self.shared().files.file_ref(file, shared)
    }

    fn read_at(&self, file: &RemoteFile, offset: u64, dst: &mut [u8]) -> Result<usize, Errno> {
        self.settle(file);
        if let Some(done) = self.read_window(file, offset, dst) {
            return Ok(done);
        }
        let done = self.shared().files.read_at(file, offset, dst)?;
        self.open_window(file, offset, done);
        Ok(done)
    }

    fn read_now(&self, file: &RemoteFile, offset: u64, to: UserAddr, len: usize) -> bool {
        self.read_at_once(file, offset, to, len)
    }

    fn read_straight(&self, file: &RemoteFile, offset: u64, to: UserAddr, len: usize) -> usize {
        // Nothing to settle: what is mapped shared goes the other way.
        self.read_frames(file, offset, to, len)
    }

    fn write_at(&self, file: &RemoteFile, offset: u64, src: &[u8]) -> Result<(), Errno> {
        self.settle(file);
        let written = self.shared().files.write_at(file, offset, src);
        self.settle(file);
        written
    }

    fn append(&self, file: &RemoteFile, src: &[u8]) -> Result<u64, Errno> {
        self.settle(file);
        let written = self.shared().files.append(file, src);
        self.settle(file);
        written
    }

    fn size(&self, file: &RemoteFile) -> Result<u64, Errno> {
        self.shared().files.size(file)
    }

    fn flush(&self, file: &RemoteFile) -> Result<(), Errno> {
        self.shared().files.flush(file)
    }

    fn sync(&self, file: &RemoteFile, data_only: bool) -> Result<(), Errno> {
        self.settle(file);
        self.shared().files.sync(file, data_only)
    }

    fn flush_all(&self) -> Result<(), Errno> {
        self.shared().files.flush_all()
    }

    fn truncate(&self, file: &RemoteFile, len: u64) -> Result<(), Errno> {
        let done = self.shared().files.truncate(file, len);
        // Leases of what was cut off are void.
        self.process
            .memory
            .remote()
            .forget_file(file.storage(), file.id());
        done
    }

    fn fallocate(&self, file: &RemoteFile, mode: u32, offset: u64, len: u64) -> Result<(), Errno> {
        self.shared().files.fallocate(file, mode, offset, len)
    }

    fn stat(&self, file: &RemoteFile) -> Result<Attr, Errno> {
        self.shared().files.stat(file)
    }

    fn read_dir(&self, file: &RemoteFile, cookie: u64, bytes: u32) -> Result<Entries, Errno> {
        self.shared().files.read_dir(file, cookie, bytes)
    }

    fn stat_path(&self, at: &Location, follow: bool) -> Result<Attr, Errno> {
        self.shared().files.stat_path(at, follow)
    }

    fn mkdir(&self, at: &Location, mode: u32) -> Result<(), Errno> {
        self.shared().files.change(&StoreRequest::Mkdir {
            at: at.clone(),
            mode,
        })
    }

    fn mknod(&self, at: &Location, mode: u32) -> Result<(), Errno> {
        self.shared().files.change(&StoreRequest::Mknod {
            at: at.clone(),
            mode,
        })
    }

    fn unlink(&self, at: &Location, dir: bool) -> Result<(), Errno> {
        self.shared().files.change(&StoreRequest::Unlink {
            at: at.clone(),
            dir,
        })
    }

    fn rename(&self, from: &Location, to: &Location, flags: u32) -> Result<(), Errno> {
        let (from, to) = (from.clone(), to.clone());
        self.shared()
            .files
            .change(&StoreRequest::Rename { from, to, flags })
    }

    fn link(&self, from: &Location, to: &Location, follow: bool) -> Result<(), Errno> {
        let (from, to) = (from.clone(), to.clone());
        self.shared()
            .files
            .change(&StoreRequest::Link { from, to, follow })
    }

    fn symlink(&self, target: &[u8], at: &Location) -> Result<(), Errno> {
        let (target, at) = (target.to_vec(), at.clone());
        self.shared()
            .files
            .change(&StoreRequest::Symlink { target, at })
    }

    fn readlink(&self, at: &Location) -> Result<Vec<u8>, Errno> {
        self.shared().files.readlink(at)
    }

    fn access(&self, at: &Location, mode: u32, flags: u32) -> Result<(), Errno> {
        self.shared().files.change(&StoreRequest::Access {
            at: at.clone(),
            mode,
            flags,
        })
    }

    fn chmod(&self, at: &Location, mode: u32) -> Result<(), Errno> {
        self.shared().files.change(&StoreRequest::Chmod {
            at: at.clone(),
            mode,
        })
    }

    fn chown(&self, at: &Location, uid: u32, gid: u32, follow: bool) -> Result<(), Errno> {
        self.shared().files.change(&StoreRequest::Chown {
            at: at.clone(),
            uid,
            gid,
            follow,
        })
    }

    fn utimens(
        &self,
        at: &Location,
        atime: SetTime,
        mtime: SetTime,
        follow: bool,
    ) -> Result<(), Errno> {
        self.shared().files.utimens(at, atime, mtime, follow)
    }

    fn statfs(&self, at: &Location) -> Result<StatFs, Errno> {
        self.shared().files.statfs(at)
    }

    fn path_of(&self, handle: &FileHandle) -> Result<Vec<u8>, Errno> {
        self.shared().files.path_of(handle)
    }

    fn is_foreign_device(&self, device: u64) -> bool {
        self.shared().files.is_foreign_device(device)
    }
}
