//! The structures. Names and order are those of the kernel's headers
//! (include/uapi, arch/x86/include/uapi); `pad*` are its holes.

use super::{Layout, layout};

layout! {
    /// `struct timespec`.
    RawTimespec = 16 { sec: i64, nsec: i64 }
    /// `struct timeval`.
    Timeval = 16 { sec: i64, usec: i64 }
    /// `struct itimerval`.
    Itimerval = 32 { interval: Timeval, value: Timeval }
    /// `struct itimerspec`.
    Itimerspec = 32 { interval: RawTimespec, value: RawTimespec }
    /// `struct utimbuf`.
    Utimbuf = 16 { actime: i64, modtime: i64 }
    /// `struct stat`.
    Stat = 144 {
        dev: u64, ino: u64, nlink: u64, mode: u32, uid: u32, gid: u32, pad: u32, rdev: u64,
        size: i64, blksize: i64, blocks: i64, atime: RawTimespec, mtime: RawTimespec,
        ctime: RawTimespec, reserved: [i64; 3],
    }
    /// `struct statx_timestamp`.
    StatxTimestamp = 16 { sec: i64, nsec: u32, pad: i32 }
    /// `struct statx`.
    Statx = 256 {
        mask: u32, blksize: u32, attributes: u64, nlink: u32, uid: u32, gid: u32, mode: u16,
        pad0: u16, ino: u64, size: u64, blocks: u64, attributes_mask: u64, atime: StatxTimestamp,
        btime: StatxTimestamp, ctime: StatxTimestamp, mtime: StatxTimestamp, rdev_major: u32,
        rdev_minor: u32, dev_major: u32, dev_minor: u32, mnt_id: u64, dio_mem_align: u32,
        dio_offset_align: u32, spare: [u64; 12],
    }
    /// `struct statfs`.
    Statfs = 120 {
        kind: i64, bsize: i64, blocks: u64, bfree: u64, bavail: u64, files: u64, ffree: u64,
        fsid: [i32; 2], namelen: i64, frsize: i64, flags: i64, spare: [i64; 4],
    }
    /// `struct iovec`.
    Iovec = 16 { base: u64, len: u64 }
    /// `struct sigaction` as rt_sigaction(2) takes it.
    SigAction = 32 { handler: u64, flags: u64, restorer: u64, mask: u64 }
    /// `stack_t`.
    StackT = 24 { sp: u64, flags: i32, pad: i32, size: u64 }
    /// `siginfo_t`, the first fields and the rest.
    SigInfo = 128 { signo: i32, errno: i32, code: i32, pad: i32, rest: [u8; 112] }
    /// `struct sigevent`.
    Sigevent = 64 { value: u64, signo: i32, notify: i32, tid: i32, pad: [i32; 11] }
    /// `struct rlimit64`.
    Rlimit = 16 { cur: u64, max: u64 }
    /// `struct rusage`.
    Rusage = 144 { utime: Timeval, stime: Timeval, maxrss: i64, rest: [i64; 13] }
    /// `struct sysinfo`.
    Sysinfo = 112 {
        uptime: i64, loads: [u64; 3], totalram: u64, freeram: u64, sharedram: u64,
        bufferram: u64, totalswap: u64, freeswap: u64, procs: u16, pad: u16, pad2: u32,
        totalhigh: u64, freehigh: u64, mem_unit: u32, pad3: u32,
    }
    /// `struct tms`.
    Tms = 32 { utime: i64, stime: i64, cutime: i64, cstime: i64 }
    /// `struct pollfd`.
    Pollfd = 8 { fd: i32, events: u16, revents: u16 }
    /// `struct epoll_event`, packed on x86-64.
    EpollEvent = 12 { events: u32, data: u64 }
    /// `struct msghdr` (user_msghdr).
    Msghdr = 56 {
        name: u64, namelen: u32, pad: u32, iov: u64, iovlen: u64, control: u64, controllen: u64,
        flags: u32, pad2: u32,
    }
    /// `struct mmsghdr`.
    Mmsghdr = 64 { hdr: Msghdr, len: u32, pad: u32 }
    /// `struct clone_args`, version 2.
    RawCloneArgs = 88 {
        flags: u64, pidfd: u64, child_tid: u64, parent_tid: u64, exit_signal: u64, stack: u64,
        stack_size: u64, tls: u64, set_tid: u64, set_tid_size: u64, cgroup: u64,
    }
    /// `struct flock`.
    Flock = 32 { kind: u16, whence: u16, pad: u32, start: i64, len: i64, pid: i32, pad2: i32 }
    /// `struct termios` as TCGETS has it.
    Termios = 36 { iflag: u32, oflag: u32, cflag: u32, lflag: u32, line: u8, cc: [u8; 19] }
    /// `struct winsize`.
    Winsize = 8 { row: u16, col: u16, xpixel: u16, ypixel: u16 }
    /// `struct open_how`.
    OpenHow = 24 { flags: u64, mode: u64, resolve: u64 }
    /// `struct utsname`.
    Utsname = 390 {
        sysname: [u8; 65], nodename: [u8; 65], release: [u8; 65], version: [u8; 65],
        machine: [u8; 65], domainname: [u8; 65],
    }
    /// pselect6(2)'s sixth argument.
    SigsetArg = 16 { set: u64, len: u64 }
    /// The fixed part of `struct linux_dirent64`.
    Dirent64Head = 19 { ino: u64, off: i64, reclen: u16, kind: u8 }
    /// The fixed part of `struct linux_dirent`.
    DirentHead = 18 { ino: u64, off: i64, reclen: u16 }
}

const NANOS: i64 = 1_000_000_000;

impl RawTimespec {
    /// As a time; `None` where the nanoseconds or the sign are out of range.
    #[must_use]
    pub fn valid(self) -> Option<proto::store::Timespec> {
        let fits = self.sec >= 0 && (0..NANOS).contains(&self.nsec);
        fits.then(|| self.into())
    }
}

impl From<RawTimespec> for proto::store::Timespec {
    fn from(t: RawTimespec) -> Self {
        proto::store::Timespec {
            sec: t.sec,
            nsec: u32::try_from(t.nsec).unwrap_or(0),
        }
    }
}

impl From<proto::store::Timespec> for RawTimespec {
    fn from(t: proto::store::Timespec) -> Self {
        RawTimespec {
            sec: t.sec,
            nsec: t.nsec.into(),
        }
    }
}

impl From<proto::store::Timespec> for StatxTimestamp {
    fn from(t: proto::store::Timespec) -> Self {
        StatxTimestamp {
            sec: t.sec,
            nsec: t.nsec,
            pad: 0,
        }
    }
}

/// Splits a `dev_t` as makedev(3) joins it.
#[must_use]
pub fn split_dev(dev: u64) -> (u32, u32) {
    let major = ((dev >> 8) & 0xfff) | ((dev >> 32) & 0xffff_f000);
    let minor = (dev & 0xff) | ((dev >> 12) & 0xffff_ff00);
    (
        u32::try_from(major).unwrap_or(u32::MAX),
        u32::try_from(minor).unwrap_or(u32::MAX),
    )
}

/// Joins a `dev_t`.
#[must_use]
pub fn make_dev(major: u64, minor: u64) -> u64 {
    ((major & 0xfff) << 8) | (minor & 0xff) | ((minor & 0xfff_ff00) << 12)
}

impl From<&proto::store::Attr> for Stat {
    fn from(a: &proto::store::Attr) -> Stat {
        Stat {
            dev: a.id.dev,
            ino: a.id.ino,
            nlink: a.nlink,
            mode: a.mode,
            uid: a.uid,
            gid: a.gid,
            rdev: a.rdev,
            size: a.size.cast_signed(),
            blksize: a.blksize.cast_signed(),
            blocks: a.blocks.cast_signed(),
            atime: a.atime.into(),
            mtime: a.mtime.into(),
            ctime: a.ctime.into(),
            ..Stat::default()
        }
    }
}

/// `STATX_BASIC_STATS | STATX_BTIME`.
pub const STATX_ALL: u32 = 0xfff;

impl From<&proto::store::Attr> for Statx {
    fn from(a: &proto::store::Attr) -> Statx {
        let (dev, rdev) = (split_dev(a.id.dev), split_dev(a.rdev));
        Statx {
            mask: STATX_ALL,
            blksize: u32::try_from(a.blksize).unwrap_or(u32::MAX),
            nlink: u32::try_from(a.nlink).unwrap_or(u32::MAX),
            uid: a.uid,
            gid: a.gid,
            mode: (a.mode & 0xffff) as u16,
            ino: a.id.ino,
            size: a.size,
            blocks: a.blocks,
            atime: a.atime.into(),
            btime: a.btime.into(),
            ctime: a.ctime.into(),
            mtime: a.mtime.into(),
            rdev_major: rdev.0,
            rdev_minor: rdev.1,
            dev_major: dev.0,
            dev_minor: dev.1,
            ..Statx::default()
        }
    }
}

impl From<&proto::store::StatFs> for Statfs {
    fn from(s: &proto::store::StatFs) -> Statfs {
        Statfs {
            kind: s.kind.cast_signed(),
            bsize: s.bsize.cast_signed(),
            blocks: s.blocks,
            bfree: s.bfree,
            bavail: s.bavail,
            files: s.files,
            ffree: s.ffree,
            namelen: s.namelen.cast_signed(),
            frsize: s.frsize.cast_signed(),
            ..Statfs::default()
        }
    }
}

/// A `Stat` from what the host's fstat(2) filled in.
#[must_use]
pub fn stat_from_host(raw: &[u8; 144]) -> Stat {
    Stat::decode(raw)
}
