//! What the calls stand on: traits that the processor component implements
//! for the context of one thread of the program.
//!
//! All methods take `&self` and run on the program's thread. A method that
//! blocks may return `EINTR`: a signal of the program's is to be handled.

use crate::hostcall::HostCall;
use crate::layout::{SigAction, StackT};
use crate::process::ProcessState;
use proto::addr::{UserAddr, UserRange};
use proto::mem::{Backing, FileRef, MapFlags, Prot};
use proto::store::{Attr, DirEntry, FileHandle, Location, SetTime, StatFs, Timespec};
use proto::{Errno, PAGE_SIZE};
use std::cell::RefCell;

/// The program's memory. Addresses may be anything; [`crate::user::UserExt`]
/// has the helpers that the calls use.
pub trait UserMemory {
    /// Copies from the program; returns how many bytes could be copied.
    fn copy_in(&self, at: UserAddr, dst: &mut [u8]) -> usize;

    /// Copies to the program; returns how many bytes could be copied.
    fn copy_out(&self, at: UserAddr, src: &[u8]) -> usize;

    /// How many of the `len` bytes at `at` the program could write, so that
    /// data is not taken from a pipe that can't be handed over. A guess that
    /// is too high only costs that data. The default checks the first byte of
    /// the window alone.
    fn writable(&self, at: UserAddr, len: usize) -> usize {
        if at.0 < PAGE_SIZE || at >= proto::addr::USER_MAX {
            0
        } else {
            len
        }
    }

    /// Stores a 32-bit word in one access, for words that others wait on.
    ///
    /// # Errors
    /// `EFAULT`.
    fn store_word(&self, at: UserAddr, value: u32) -> Result<(), Errno> {
        if self.copy_out(at, &value.to_le_bytes()) == 4 {
            Ok(())
        } else {
            Err(Errno::EFAULT)
        }
    }
}

/// An mmap(2) whose arguments have been checked.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct MmapRequest {
    /// Where, exactly or as a hint (0: anywhere).
    pub addr: UserAddr,
    /// Bytes, not 0.
    pub len: u64,
    /// Access.
    pub prot: Prot,
    /// How.
    pub flags: MapFlags,
    /// What.
    pub backing: Backing,
    /// `MAP_POPULATE` or `MAP_LOCKED`: a hint to fetch it now.
    pub populate: bool,
}

/// The address space. Errors are those of the calls' manual pages.
#[allow(clippy::missing_errors_doc)]
pub trait MemoryOps {
    /// mmap(2).
    fn map(&self, request: &MmapRequest) -> Result<UserAddr, Errno>;
    /// munmap(2).
    fn unmap(&self, range: UserRange) -> Result<(), Errno>;
    /// mprotect(2).
    fn protect(&self, range: UserRange, prot: Prot) -> Result<(), Errno>;
    /// mremap(2).
    fn remap(
        &self,
        old: UserRange,
        new_len: u64,
        may_move: bool,
        to: Option<UserAddr>,
    ) -> Result<UserAddr, Errno>;
    /// brk(2): the break after the call.
    fn brk(&self, addr: UserAddr) -> UserAddr;
    /// `MADV_DONTNEED`, `MADV_FREE`.
    fn discard(&self, range: UserRange) -> Result<(), Errno>;
    /// `MADV_WILLNEED`, `MAP_POPULATE`: a hint.
    fn will_need(&self, range: UserRange);
    /// msync(2): shared file pages go to storage; `wait` for `MS_SYNC`.
    fn sync_range(&self, range: UserRange, wait: bool) -> Result<(), Errno>;
    /// mincore(2): one flag a page; `ENOMEM` for unmapped pages.
    fn residency(&self, range: UserRange) -> Result<Vec<bool>, Errno>;
    /// Whether no page of `range` is unmapped.
    fn is_mapped(&self, range: UserRange) -> bool;
}

/// A futex(2) operation, decoded.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum FutexOp {
    /// `FUTEX_WAIT`, `FUTEX_WAIT_BITSET`.
    Wait {
        /// The word.
        at: UserAddr,
        /// What it must hold for the thread to sleep.
        expected: u32,
        /// When to give up.
        until: Option<FutexTimeout>,
        /// Who may wake it.
        bitset: u32,
    },
    /// `FUTEX_WAKE`, `FUTEX_WAKE_BITSET`.
    Wake {
        /// The word.
        at: UserAddr,
        /// Most threads to wake.
        count: u32,
        /// Which.
        bitset: u32,
    },
    /// `FUTEX_REQUEUE`, `FUTEX_CMP_REQUEUE`.
    Requeue {
        /// From this word.
        at: UserAddr,
        /// Most to wake.
        wake: u32,
        /// Most to move.
        requeue: u32,
        /// To this word.
        to: UserAddr,
        /// What the first word must hold.
        expected: Option<u32>,
    },
    /// `FUTEX_WAKE_OP`.
    WakeOp {
        /// The first word.
        at: UserAddr,
        /// Most to wake there.
        wake: u32,
        /// The word that is changed.
        second: UserAddr,
        /// Most to wake there.
        wake_second: u32,
        /// `FUTEX_OP(op, oparg, cmp, cmparg)`.
        op: u32,
    },
}

/// When a futex wait ends.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct FutexTimeout {
    /// The time.
    pub time: Timespec,
    /// A point in time, not a span.
    pub absolute: bool,
    /// Of `CLOCK_REALTIME`, not `CLOCK_MONOTONIC`.
    pub realtime: bool,
}

/// Threads. Errors are those of the calls' manual pages.
#[allow(clippy::missing_errors_doc)]
pub trait ThreadOps {
    /// The process's number, as the program sees it.
    fn pid(&self) -> i32;
    /// Its parent's.
    fn ppid(&self) -> i32;
    /// The thread's number.
    fn tid(&self) -> i32;
    /// The numbers of all threads, in order.
    fn threads(&self) -> Vec<i32>;
    /// set_tid_address(2).
    fn set_clear_child_tid(&self, at: UserAddr);
    /// `ARCH_SET_FS`.
    fn set_fs(&self, base: u64);
    /// `ARCH_GET_FS`.
    fn fs(&self) -> u64;
    /// set_robust_list(2).
    fn set_robust_list(&self, head: UserAddr, len: u64);
    /// get_robust_list(2) of the calling thread.
    fn robust_list(&self) -> (UserAddr, u64);
    /// futex(2). `EINTR` is handled by the caller.
    fn futex(&self, op: &FutexOp) -> Result<u64, Errno>;
}

/// Signals. Errors are those of the calls' manual pages.
#[allow(clippy::missing_errors_doc)]
pub trait SignalOps {
    /// rt_sigaction(2): the disposition before. `EINVAL`: SIGKILL, SIGSTOP or
    /// no signal.
    fn sigaction(&self, signo: i32, new: Option<SigAction>) -> Result<SigAction, Errno>;
    /// The signals that the calling thread blocks.
    fn mask(&self) -> u64;
    /// Blocks these from now on.
    fn set_mask(&self, mask: u64);
    /// Blocks these for the rest of the present call.
    fn set_mask_for_call(&self, mask: u64);
    /// The alternate stack; `SS_ONSTACK` is set while the thread runs on it.
    fn altstack(&self) -> StackT;
    /// Sets it; `EPERM` while the thread runs on it.
    fn set_altstack(&self, stack: StackT) -> Result<(), Errno>;
}

/// The host's objects.
pub trait HostOps {
    /// Carries a host call out; new descriptors are below [`HostOps::fd_floor`].
    ///
    /// # Errors
    /// What the host answered; `EMFILE` where no number below the floor is free.
    fn host(&self, call: HostCall<'_>) -> Result<u64, Errno>;

    /// Takes the lowest free descriptor number for a file that is not the
    /// host's. What it refers to at the host can't be read or written. Given
    /// back by [`HostCall::Close`]; dup(2)ed like any other.
    ///
    /// # Errors
    /// `EMFILE`.
    fn reserve(&self, cloexec: bool) -> Result<i32, Errno>;

    /// The host's open descriptors below [`HostOps::fd_floor`]; reserved ones
    /// may be missing.
    fn descriptors(&self) -> Vec<i32>;

    /// Descriptors from here on are the personality's.
    fn fd_floor(&self) -> i32;
}

/// A directory's entries, and whether nothing follows.
pub type Entries = (Vec<DirEntry>, bool);

/// Files at the storage component, through the buffer cache at the memory
/// component. Errors are those of the calls' manual pages, and `EIO` where a
/// component does not answer.
#[allow(clippy::missing_errors_doc)]
pub trait FileOps {
    /// An open file. Dropping it closes it at the storage component.
    type File: Send + Sync + 'static;

    /// openat(2): `flags` without `O_CLOEXEC`, `mode` with the umask applied.
    fn open(&self, at: &Location, flags: u32, mode: u32) -> Result<Self::File, Errno>;
    /// Its handle.
    fn handle(&self, file: &Self::File) -> FileHandle;
    /// Its type and permission bits when it was opened.
    fn mode_at_open(&self, file: &Self::File) -> u32;
    /// The device that held it when it was opened.
    fn device(&self, file: &Self::File) -> u64;
    /// What mappings need; data written here is visible under it from now on.
    fn file_ref(&self, file: &Self::File, shared: bool) -> Result<FileRef, Errno>;
    /// pread(2): short at the end of the file only.
    fn read_at(&self, file: &Self::File, offset: u64, dst: &mut [u8]) -> Result<usize, Errno>;
    /// pread(2) of all of `len` bytes to the program's memory, if nothing has
    /// to be waited for: neither a component nor an absent page. False: nothing
    /// is known about the bytes there, the call proper has to be made.
    fn read_now(&self, _file: &Self::File, _offset: u64, _to: UserAddr, _len: usize) -> bool {
        false
    }
    /// pread(2) of a large piece straight to the program's memory: how many bytes
    /// from the front on were read, all as they are in the file. The call proper
    /// reads the others, or says what is wrong with them.
    fn read_straight(&self, _file: &Self::File, _offset: u64, _to: UserAddr, _len: usize) -> usize {
        0
    }
    /// pwrite(2): all of it.
    fn write_at(&self, file: &Self::File, offset: u64, src: &[u8]) -> Result<(), Errno>;
    /// `O_APPEND`: where the first byte went.
    fn append(&self, file: &Self::File, src: &[u8]) -> Result<u64, Errno>;
    /// The size now.
    fn size(&self, file: &Self::File) -> Result<u64, Errno>;
    /// On each close(2): reports what went wrong with earlier writes.
    fn flush(&self, file: &Self::File) -> Result<(), Errno>;
    /// fsync(2), fdatasync(2).
    fn sync(&self, file: &Self::File, data_only: bool) -> Result<(), Errno>;
    /// sync(2), and what must not be lost when the process ends.
    fn flush_all(&self) -> Result<(), Errno>;
    /// ftruncate(2).
    fn truncate(&self, file: &Self::File, len: u64) -> Result<(), Errno>;
    /// fallocate(2).
    fn fallocate(&self, file: &Self::File, mode: u32, offset: u64, len: u64) -> Result<(), Errno>;
    /// fstat(2).
    fn stat(&self, file: &Self::File) -> Result<Attr, Errno>;
    /// getdents64(2) after `cookie`.
    fn read_dir(&self, file: &Self::File, cookie: u64, bytes: u32) -> Result<Entries, Errno>;
    /// stat(2), lstat(2).
    fn stat_path(&self, at: &Location, follow: bool) -> Result<Attr, Errno>;
    /// mkdirat(2).
    fn mkdir(&self, at: &Location, mode: u32) -> Result<(), Errno>;
    /// mknodat(2).
    fn mknod(&self, at: &Location, mode: u32) -> Result<(), Errno>;
    /// unlinkat(2).
    fn unlink(&self, at: &Location, dir: bool) -> Result<(), Errno>;
    /// renameat2(2).
    fn rename(&self, from: &Location, to: &Location, flags: u32) -> Result<(), Errno>;
    /// linkat(2).
    fn link(&self, from: &Location, to: &Location, follow: bool) -> Result<(), Errno>;
    /// symlinkat(2).
    fn symlink(&self, target: &[u8], at: &Location) -> Result<(), Errno>;
    /// readlinkat(2).
    fn readlink(&self, at: &Location) -> Result<Vec<u8>, Errno>;
    /// faccessat2(2).
    fn access(&self, at: &Location, mode: u32, flags: u32) -> Result<(), Errno>;
    /// fchmodat(2).
    fn chmod(&self, at: &Location, mode: u32) -> Result<(), Errno>;
    /// fchownat(2).
    fn chown(&self, at: &Location, uid: u32, gid: u32, follow: bool) -> Result<(), Errno>;
    /// utimensat(2).
    fn utimens(
        &self,
        at: &Location,
        atime: SetTime,
        mtime: SetTime,
        follow: bool,
    ) -> Result<(), Errno>;
    /// statfs(2).
    fn statfs(&self, at: &Location) -> Result<StatFs, Errno>;
    /// The absolute path of a handle.
    fn path_of(&self, handle: &FileHandle) -> Result<Vec<u8>, Errno>;
    /// Whether files of this device are the storage component's own kernel's
    /// (`/proc`, `/sys`, `/dev`), which no program may see.
    fn is_foreign_device(&self, device: u64) -> bool;
}

/// One line of `/proc/self/maps`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct MapLine {
    /// Where.
    pub range: UserRange,
    /// Access.
    pub prot: Prot,
    /// Shared, not private.
    pub shared: bool,
    /// Offset in the file.
    pub offset: u64,
    /// Inode of the file, 0 for none.
    pub inode: u64,
    /// Path, `[heap]`, `[stack]`, or empty.
    pub name: Vec<u8>,
}

/// What pseudo-files tell about the process and the machine: the
/// disaggregated one, not the host.
pub trait ProcessInfo {
    /// Arguments.
    fn argv(&self) -> Vec<Vec<u8>>;
    /// The first environment, `NAME=value`.
    fn environ(&self) -> Vec<Vec<u8>>;
    /// Absolute path of the image, links resolved.
    fn executable(&self) -> Vec<u8>;
    /// The auxiliary vector's bytes.
    fn auxv(&self) -> Vec<u8>;
    /// The mappings, in order.
    fn maps(&self) -> Vec<MapLine>;
    /// First and last address of the first stack.
    fn stack(&self) -> (u64, u64);
    /// Bytes of memory: of the memory components in all, and free.
    fn memory(&self) -> (u64, u64);
    /// Bytes of the process's footprint, and its largest so far.
    fn footprint(&self) -> (u64, u64);
    /// Counters of the process's misses so far, as JSON.
    fn statistics(&self) -> Vec<u8>;
    /// When the process began, nanoseconds of `CLOCK_BOOTTIME`.
    fn started(&self) -> u64;
    /// The text of the processor component's `/proc/cpuinfo`.
    fn cpuinfo(&self) -> Vec<u8>;
    /// The kernel's version as `/proc/version` has it.
    fn version(&self) -> Vec<u8>;
}

/// The context of one thread of the program.
pub trait Kernel:
    UserMemory + MemoryOps + ThreadOps + SignalOps + HostOps + FileOps + ProcessInfo
{
    /// What the process's threads share.
    fn process(&self) -> &ProcessState<Self::File>;
    /// Memory of the thread's own for data on its way.
    fn bounce(&self) -> &RefCell<Vec<u8>>;
    /// The program made a call that is not implemented: told each time, to be
    /// logged once a name.
    fn unimplemented(&self, name: &'static str);
}
