//! Messages of the storage component: files and directories. Every request
//! names what it means by a handle or a path; the component keeps nothing for
//! a client that it can't lose.

use crate::Errno;
use crate::addr::RemoteAddr;
use serde::{Deserialize, Serialize};

/// A file or directory in a form that survives a restart of the storage
/// component. Opaque to all but that component, which validates it anew at
/// every use (a forged handle can't leave the root).
#[derive(Clone, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
pub struct FileHandle(pub Vec<u8>);

/// Which file it is, whatever it is called: equal for hard links.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
pub struct FileId {
    /// `st_dev` at the storage component.
    pub dev: u64,
    /// `st_ino`.
    pub ino: u64,
}

/// A path, as openat(2) has it: relative to `dir`, or to the root where `dir`
/// is absent. A leading slash means the component's root. `..` above the root
/// stays at the root; symbolic links are resolved inside the root.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Location {
    /// The directory.
    pub dir: Option<FileHandle>,
    /// The path; empty means `dir` itself.
    pub path: Vec<u8>,
}

/// Seconds and nanoseconds since the epoch.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Default, Serialize, Deserialize)]
pub struct Timespec {
    /// Seconds.
    pub sec: i64,
    /// Nanoseconds, below 10^9.
    pub nsec: u32,
}

/// What stat(2) tells, field by field.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Attr {
    /// Device and inode.
    pub id: FileId,
    /// Type and permission bits (`st_mode`).
    pub mode: u32,
    /// Hard links.
    pub nlink: u64,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Device number of a special file.
    pub rdev: u64,
    /// Bytes.
    pub size: u64,
    /// Preferred block size.
    pub blksize: u64,
    /// 512-byte blocks allocated.
    pub blocks: u64,
    /// Last access.
    pub atime: Timespec,
    /// Last modification.
    pub mtime: Timespec,
    /// Last change of status.
    pub ctime: Timespec,
    /// Creation, where the file system keeps it.
    pub btime: Timespec,
}

/// A directory entry.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct DirEntry {
    /// Inode.
    pub ino: u64,
    /// Pass as `cookie` to go on after this entry.
    pub cookie: u64,
    /// `DT_*`.
    pub kind: u8,
    /// The name, no slash.
    pub name: Vec<u8>,
}

/// statfs(2), the fields that mean something here.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct StatFs {
    /// File-system magic.
    pub kind: u64,
    /// Block size, bytes.
    pub bsize: u64,
    /// Blocks in all.
    pub blocks: u64,
    /// Blocks free.
    pub bfree: u64,
    /// Blocks free to the unprivileged.
    pub bavail: u64,
    /// Inodes in all.
    pub files: u64,
    /// Inodes free.
    pub ffree: u64,
    /// Longest name.
    pub namelen: u64,
    /// Fragment size.
    pub frsize: u64,
}

/// A time to set, as utimensat(2) has it.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum SetTime {
    /// Leave it.
    Omit,
    /// The storage component's current time.
    Now,
    /// This.
    To(Timespec),
}

/// Requests to a storage component.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum StoreRequest {
    /// openat(2) without its descriptor: checks permission, creates, truncates.
    /// `flags` are Linux x86-64 `O_*` bits (`O_CREAT`, `O_EXCL`, `O_TRUNC`,
    /// `O_NOFOLLOW`, `O_DIRECTORY`, `O_PATH`, `O_TMPFILE` refused, access mode);
    /// `mode` has the umask already applied.
    Open {
        /// What.
        at: Location,
        /// `O_*`.
        flags: u32,
        /// Permission bits for a new file.
        mode: u32,
    },
    /// The handle is no longer used by the client: a hint, except that an
    /// unlinked file lives until its last Close (or the component's restart).
    Close {
        /// What.
        handle: FileHandle,
    },
    /// stat(2) or lstat(2) (`follow` false).
    StatPath {
        /// What.
        at: Location,
        /// Whether to follow a final symbolic link.
        follow: bool,
    },
    /// fstat(2).
    Stat {
        /// What.
        handle: FileHandle,
    },
    /// pread(2), at most [`crate::wire::MAX_BULK`] bytes; short at end of file.
    Read {
        /// What.
        handle: FileHandle,
        /// Where.
        offset: u64,
        /// How much.
        len: u32,
    },
    /// pwrite(2), at most [`crate::wire::MAX_BULK`] bytes; all of it or an error.
    Write {
        /// What.
        handle: FileHandle,
        /// Where.
        offset: u64,
        /// The bytes.
        #[serde(with = "serde_bytes")]
        data: Vec<u8>,
    },
    /// ftruncate(2).
    Truncate {
        /// What.
        handle: FileHandle,
        /// New size.
        len: u64,
    },
    /// fallocate(2).
    Fallocate {
        /// What.
        handle: FileHandle,
        /// `FALLOC_FL_*`.
        mode: u32,
        /// From.
        offset: u64,
        /// Length.
        len: u64,
    },
    /// fsync(2) or fdatasync(2): answered when the data is durable.
    Fsync {
        /// What.
        handle: FileHandle,
        /// fdatasync.
        data_only: bool,
    },
    /// Entries after `cookie` (0: from the start), `.` and `..` among them.
    ReadDir {
        /// A directory.
        handle: FileHandle,
        /// Where to go on.
        cookie: u64,
        /// About how many bytes of names and headers to return.
        max_bytes: u32,
    },
    /// mkdirat(2).
    Mkdir {
        /// What.
        at: Location,
        /// Permission bits, umask applied.
        mode: u32,
    },
    /// mknodat(2), FIFOs and regular files only.
    Mknod {
        /// What.
        at: Location,
        /// Type and permission bits, umask applied.
        mode: u32,
    },
    /// unlinkat(2).
    Unlink {
        /// What.
        at: Location,
        /// `AT_REMOVEDIR`.
        dir: bool,
    },
    /// renameat2(2).
    Rename {
        /// From.
        from: Location,
        /// To.
        to: Location,
        /// `RENAME_*`.
        flags: u32,
    },
    /// linkat(2).
    Link {
        /// The existing file.
        from: Location,
        /// The new name.
        to: Location,
        /// `AT_SYMLINK_FOLLOW`.
        follow: bool,
    },
    /// symlinkat(2).
    Symlink {
        /// What it points to, kept as it is.
        target: Vec<u8>,
        /// Its name.
        at: Location,
    },
    /// readlinkat(2).
    Readlink {
        /// What.
        at: Location,
    },
    /// faccessat2(2): `mode` of `R_OK`, `W_OK`, `X_OK`, 0 for existence.
    Access {
        /// What.
        at: Location,
        /// `*_OK`.
        mode: u32,
        /// `AT_SYMLINK_NOFOLLOW`, `AT_EACCESS`.
        flags: u32,
    },
    /// fchmodat(2), follows links.
    Chmod {
        /// What.
        at: Location,
        /// Permission bits.
        mode: u32,
    },
    /// fchownat(2); `u32::MAX` leaves one as it is.
    Chown {
        /// What.
        at: Location,
        /// Owner.
        uid: u32,
        /// Group.
        gid: u32,
        /// Whether to follow a final symbolic link.
        follow: bool,
    },
    /// utimensat(2).
    Utimens {
        /// What.
        at: Location,
        /// Access time.
        atime: SetTime,
        /// Modification time.
        mtime: SetTime,
        /// Whether to follow a final symbolic link.
        follow: bool,
    },
    /// statfs(2).
    Statfs {
        /// What.
        at: Location,
    },
    /// The absolute path of a handle inside the root, for getcwd(2).
    PathOf {
        /// What.
        handle: FileHandle,
    },
    /// The component's own counters.
    Stats,
    /// As Read, but that the bytes are left in memory of the storage component
    /// for the client to read one-sided. At most [`MAX_STAGE`] bytes. For other
    /// components.
    Stage {
        /// What.
        handle: FileHandle,
        /// Where.
        offset: u64,
        /// How much.
        len: u32,
        /// The client's number for the place: what was there is overwritten. A
        /// number whose request was not answered must not be used again, for
        /// its bytes may still be coming. Of a client's places the
        /// [`MOST_STAGES`] that were used last are kept.
        slot: u64,
    },
}

/// Longest [`StoreRequest::Stage`], bytes.
pub const MAX_STAGE: usize = 256 << 10;
/// Places for staged data that a client may have.
pub const MOST_STAGES: usize = 16;

/// Answers of a storage component.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum StoreReply {
    /// To Open.
    Opened {
        /// Names the file from now on.
        handle: FileHandle,
        /// As of now.
        attr: Attr,
        /// Whether this call made it.
        created: bool,
    },
    /// To Stat and StatPath.
    Attr(Attr),
    /// To Read, Readlink, PathOf.
    Data(#[serde(with = "serde_bytes")] Vec<u8>),
    /// To Write: the file's attributes after it.
    Written(Attr),
    /// To ReadDir; `end` says that nothing follows.
    Entries {
        /// In directory order.
        entries: Vec<DirEntry>,
        /// No more.
        end: bool,
    },
    /// To Statfs.
    StatFs(StatFs),
    /// To the rest.
    Done,
    /// To Stats.
    Stats(crate::stats::StorageStats),
    /// errno.
    Failed(Errno),
    /// To Stage.
    Staged {
        /// Where the bytes lie, granted to the client.
        at: RemoteAddr,
        /// How many; fewer than asked for at the end of the file.
        len: u32,
    },
}
