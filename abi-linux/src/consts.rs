//! The kernel's constants, by the kernel's names.

/// System-call numbers (`__NR_*`).
pub use linux_raw_sys::general as nr;

macro_rules! constants {
    ($ty:ty: $($name:ident = $value:expr),* $(,)?) => {
        $(#[allow(missing_docs)] pub const $name: $ty = $value;)*
    };
}

// open(2) and fcntl(2), x86-64.
constants! { u32:
    O_ACCMODE = 0o3, O_RDONLY = 0, O_WRONLY = 0o1, O_RDWR = 0o2, O_CREAT = 0o100, O_EXCL = 0o200,
    O_NOCTTY = 0o400, O_TRUNC = 0o1000, O_APPEND = 0o2000, O_NONBLOCK = 0o4000,
    O_DSYNC = 0o10000, O_ASYNC = 0o20000, O_DIRECT = 0o40000, O_LARGEFILE = 0o100_000,
    O_DIRECTORY = 0o200_000, O_NOFOLLOW = 0o400_000, O_NOATIME = 0o1_000_000,
    O_CLOEXEC = 0o2_000_000, O_SYNC = 0o4_010_000, O_PATH = 0o10_000_000,
    O_TMPFILE = 0o20_200_000,
}
constants! { u32:
    F_DUPFD = 0, F_GETFD = 1, F_SETFD = 2, F_GETFL = 3, F_SETFL = 4, F_GETLK = 5, F_SETLK = 6,
    F_SETLKW = 7, F_SETOWN = 8, F_GETOWN = 9, F_SETSIG = 10, F_GETSIG = 11,
    F_OFD_GETLK = 36, F_OFD_SETLK = 37, F_OFD_SETLKW = 38,
    F_DUPFD_CLOEXEC = 1030, F_SETPIPE_SZ = 1031, F_GETPIPE_SZ = 1032,
    F_ADD_SEALS = 1033, F_GET_SEALS = 1034,
    F_RDLCK = 0, F_WRLCK = 1, F_UNLCK = 2, FD_CLOEXEC = 1,
}
// File types (inode(7)) and directory entry types.
constants! { u32:
    S_IFMT = 0o170_000, S_IFSOCK = 0o140_000, S_IFLNK = 0o120_000, S_IFREG = 0o100_000,
    S_IFBLK = 0o060_000, S_IFDIR = 0o040_000, S_IFCHR = 0o020_000, S_IFIFO = 0o010_000,
}
constants! { u8: DT_CHR = 2, DT_DIR = 4, DT_REG = 8, DT_LNK = 10 }
// The *at calls.
constants! { i32: AT_FDCWD = -100 }
constants! { u32:
    AT_SYMLINK_NOFOLLOW = 0x100, AT_EACCESS = 0x200, AT_REMOVEDIR = 0x200,
    AT_SYMLINK_FOLLOW = 0x400, AT_NO_AUTOMOUNT = 0x800, AT_EMPTY_PATH = 0x1000,
    AT_STATX_SYNC_TYPE = 0x6000,
}
constants! { u32: SEEK_SET = 0, SEEK_CUR = 1, SEEK_END = 2, SEEK_DATA = 3, SEEK_HOLE = 4 }
/// Longest path, its NUL included (limits.h).
pub const PATH_MAX: usize = 4096;
/// Most pieces of a vectored transfer (readv(2)).
pub const IOV_MAX: usize = 1024;
/// Most bytes that one read or write moves (read(2), NOTES).
pub const MAX_RW_COUNT: usize = 0x7fff_f000;
// Memory.
constants! { u64:
    MAP_SHARED = 0x01, MAP_PRIVATE = 0x02, MAP_SHARED_VALIDATE = 0x03, MAP_TYPE = 0x0f,
    MAP_FIXED = 0x10, MAP_ANONYMOUS = 0x20, MAP_32BIT = 0x40, MAP_GROWSDOWN = 0x100,
    MAP_LOCKED = 0x2000, MAP_NORESERVE = 0x4000, MAP_POPULATE = 0x8000, MAP_STACK = 0x2_0000,
    MAP_HUGETLB = 0x4_0000, MAP_SYNC = 0x8_0000, MAP_FIXED_NOREPLACE = 0x10_0000,
    MREMAP_MAYMOVE = 1, MREMAP_FIXED = 2, MREMAP_DONTUNMAP = 4,
    MS_ASYNC = 1, MS_INVALIDATE = 2, MS_SYNC = 4,
}
// clone(2).
constants! { u64:
    CLONE_VM = 0x100, CLONE_FS = 0x200, CLONE_FILES = 0x400, CLONE_SIGHAND = 0x800,
    CLONE_THREAD = 0x1_0000, CLONE_SYSVSEM = 0x4_0000, CLONE_SETTLS = 0x8_0000,
    CLONE_PARENT_SETTID = 0x10_0000, CLONE_CHILD_CLEARTID = 0x20_0000,
    CLONE_DETACHED = 0x40_0000, CLONE_CHILD_SETTID = 0x100_0000,
}
constants! { u32:
    RLIMIT_CPU = 0, RLIMIT_FSIZE = 1, RLIMIT_DATA = 2, RLIMIT_STACK = 3, RLIMIT_CORE = 4,
    RLIMIT_NPROC = 6, RLIMIT_NOFILE = 7, RLIMIT_MEMLOCK = 8, RLIMIT_AS = 9, RLIM_NLIMITS = 16,
}
constants! { u16: POLLIN = 1, POLLPRI = 2, POLLOUT = 4, POLLERR = 8, POLLHUP = 16, POLLNVAL = 32,
POLLRDNORM = 64, POLLRDBAND = 128, POLLWRNORM = 256, POLLWRBAND = 512 }

/// Errors of sockets that `proto` has no name for.
pub mod errno {
    use proto::Errno;
    /// Message too long.
    pub const EMSGSIZE: Errno = Errno(90);
    /// Protocol not available.
    pub const ENOPROTOOPT: Errno = Errno(92);
    /// No buffer space available.
    pub const ENOBUFS: Errno = Errno(105);
}
