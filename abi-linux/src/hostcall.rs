//! Calls on host objects: pipes, sockets, terminals, clocks, the host kernel.
//!
//! Every buffer of a call is host memory, given as a slice of the size that
//! the kernel reads or writes: whoever carries a call out needs no knowledge
//! of it to do that soundly. Never a pointer of the program's.

use proto::store::Timespec;

/// One pollfd as poll(2) has it.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[repr(C)]
pub struct PollFd {
    /// The descriptor; negative ones are skipped.
    pub fd: i32,
    /// `POLL*` asked for.
    pub events: u16,
    /// `POLL*` found.
    pub revents: u16,
}

/// What recvmsg(2) tells beside the data.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Received {
    /// Length of the sender's address.
    pub name_len: u32,
    /// Bytes of control messages.
    pub control_len: usize,
    /// `MSG_*`.
    pub flags: u32,
}

/// An ioctl(2)'s third argument.
#[derive(Debug)]
pub enum IoctlArg<'a> {
    /// A number, or nothing.
    Value(u64),
    /// A structure of exactly the size that [`crate::calls::ioctl::shape`] says.
    Buffer(&'a mut [u8]),
}

/// A call with no memory arguments, by its meaning.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[allow(missing_docs)]
pub enum Simple {
    Getuid,
    Geteuid,
    Getgid,
    Getegid,
    Getpgid(i32),
    Getsid(i32),
    Setpgid(i32, i32),
    Setsid,
    SchedYield,
    SchedGetscheduler(i32),
    SchedPriorityMax(i32),
    SchedPriorityMin(i32),
    Getpriority(i32, i32),
    Setpriority(i32, i32, i32),
    IoprioGet(i32, i32),
}

/// A call of the host's. Names are those of the system calls; see their
/// manual pages for the fields. Those that may block return `EINTR` when a
/// signal of the program's is to be handled.
#[derive(Debug)]
#[allow(missing_docs)]
pub enum HostCall<'a> {
    // Any descriptor.
    Read {
        fd: i32,
        dst: &'a mut [u8],
    },
    Write {
        fd: i32,
        src: &'a [u8],
    },
    Pread {
        fd: i32,
        dst: &'a mut [u8],
        offset: i64,
    },
    Pwrite {
        fd: i32,
        src: &'a [u8],
        offset: i64,
    },
    Lseek {
        fd: i32,
        offset: i64,
        whence: u32,
    },
    Close {
        fd: i32,
    },
    /// `F_DUPFD`: the lowest free number not below `least`.
    DupFrom {
        fd: i32,
        least: i32,
        cloexec: bool,
    },
    /// dup3(2); `old` and `new` differ.
    Dup3 {
        old: i32,
        new: i32,
        cloexec: bool,
    },
    /// fcntl(2) commands whose argument is a number: see [`fcntl_is_numeric`].
    Fcntl {
        fd: i32,
        command: u32,
        arg: u64,
    },
    Fstat {
        fd: i32,
        dst: &'a mut [u8; 144],
    },
    Ftruncate {
        fd: i32,
        len: i64,
    },
    Fsync {
        fd: i32,
        data_only: bool,
    },
    Ioctl {
        fd: i32,
        request: u32,
        arg: IoctlArg<'a>,
    },
    // Making descriptors.
    Pipe2 {
        fds: &'a mut [i32; 2],
        flags: u32,
    },
    Eventfd2 {
        initial: u32,
        flags: u32,
    },
    Signalfd4 {
        fd: i32,
        mask: u64,
        flags: u32,
    },
    TimerfdCreate {
        clock: i32,
        flags: u32,
    },
    TimerfdSettime {
        fd: i32,
        flags: u32,
        new: &'a [u8; 32],
        old: &'a mut [u8; 32],
    },
    TimerfdGettime {
        fd: i32,
        dst: &'a mut [u8; 32],
    },
    /// open(2) of `/dev/tty`.
    OpenTty {
        flags: u32,
    },
    // Sockets.
    Socket {
        domain: i32,
        kind: i32,
        protocol: i32,
    },
    Socketpair {
        domain: i32,
        kind: i32,
        protocol: i32,
        fds: &'a mut [i32; 2],
    },
    Bind {
        fd: i32,
        addr: &'a [u8],
    },
    Connect {
        fd: i32,
        addr: &'a [u8],
    },
    Listen {
        fd: i32,
        backlog: i32,
    },
    /// `len`: room in, length of the address out.
    Accept4 {
        fd: i32,
        addr: &'a mut [u8],
        len: &'a mut u32,
        flags: u32,
    },
    Getsockname {
        fd: i32,
        addr: &'a mut [u8],
        len: &'a mut u32,
    },
    Getpeername {
        fd: i32,
        addr: &'a mut [u8],
        len: &'a mut u32,
    },
    Setsockopt {
        fd: i32,
        level: i32,
        name: i32,
        value: &'a [u8],
    },
    Getsockopt {
        fd: i32,
        level: i32,
        name: i32,
        value: &'a mut [u8],
        len: &'a mut u32,
    },
    Shutdown {
        fd: i32,
        how: i32,
    },
    Sendmsg {
        fd: i32,
        data: &'a [u8],
        name: &'a [u8],
        control: &'a [u8],
        flags: u32,
    },
    Recvmsg {
        fd: i32,
        data: &'a mut [u8],
        name: &'a mut [u8],
        control: &'a mut [u8],
        flags: u32,
        out: &'a mut Received,
    },
    // Waiting.
    Poll {
        fds: &'a mut [PollFd],
        timeout: Option<Timespec>,
    },
    EpollCreate1 {
        flags: u32,
    },
    EpollCtl {
        epfd: i32,
        op: i32,
        fd: i32,
        event: &'a [u8; 12],
    },
    /// `events` holds a whole number of 12-byte `struct epoll_event`.
    EpollWait {
        epfd: i32,
        events: &'a mut [u8],
        timeout: Option<Timespec>,
    },
    Pause,
    // Time.
    ClockGettime {
        clock: i32,
        dst: &'a mut [u8; 16],
    },
    ClockGetres {
        clock: i32,
        dst: &'a mut [u8; 16],
    },
    ClockNanosleep {
        clock: i32,
        flags: u32,
        request: &'a [u8; 16],
        remain: &'a mut [u8; 16],
    },
    Getitimer {
        which: i32,
        dst: &'a mut [u8; 32],
    },
    Setitimer {
        which: i32,
        new: &'a [u8; 32],
        old: &'a mut [u8; 32],
    },
    /// Without an event: SIGALRM that carries the timer's number.
    TimerCreate {
        clock: i32,
        event: Option<&'a [u8; 64]>,
        id: &'a mut i32,
    },
    TimerSettime {
        id: i32,
        flags: u32,
        new: &'a [u8; 32],
        old: &'a mut [u8; 32],
    },
    TimerGettime {
        id: i32,
        dst: &'a mut [u8; 32],
    },
    TimerGetoverrun {
        id: i32,
    },
    TimerDelete {
        id: i32,
    },
    Times {
        dst: &'a mut [u8; 32],
    },
    Getrusage {
        who: i32,
        dst: &'a mut [u8; 144],
    },
    // The machine and the process.
    Simple(Simple),
    Getrandom {
        dst: &'a mut [u8],
        flags: u32,
    },
    Uname {
        dst: &'a mut [u8; 390],
    },
    Sysinfo {
        dst: &'a mut [u8; 112],
    },
    Getrlimit {
        resource: u32,
        dst: &'a mut [u8; 16],
    },
    SchedGetaffinity {
        tid: i32,
        dst: &'a mut [u8],
    },
    SchedSetaffinity {
        tid: i32,
        mask: &'a [u8],
    },
    SchedGetparam {
        tid: i32,
        dst: &'a mut [u8; 4],
    },
    SchedRrGetInterval {
        tid: i32,
        dst: &'a mut [u8; 16],
    },
    Getcpu {
        dst: &'a mut [u8; 8],
    },
    Getgroups {
        dst: &'a mut [u32],
    },
    Capget {
        header: &'a mut [u8; 8],
        data: &'a mut [u8; 24],
    },
    SetName {
        name: &'a [u8; 16],
    },
    GetName {
        name: &'a mut [u8; 16],
    },
    // Signals.
    Kill {
        pid: i32,
        signo: i32,
    },
    Tgkill {
        tgid: i32,
        tid: i32,
        signo: i32,
    },
    Sigqueue {
        tgid: i32,
        tid: Option<i32>,
        signo: i32,
        info: &'a [u8; 128],
    },
    Sigpending {
        dst: &'a mut [u8; 8],
    },
    Sigtimedwait {
        set: u64,
        info: &'a mut [u8; 128],
        timeout: Option<Timespec>,
    },
}

/// Whether fcntl(2)'s `command` takes a number (or nothing), so that it can
/// travel as [`HostCall::Fcntl`]. Who carries a call out checks it again.
#[must_use]
pub fn fcntl_is_numeric(command: u32) -> bool {
    use crate::consts::*;
    matches!(
        command,
        F_GETFD
            | F_SETFD
            | F_GETFL
            | F_SETFL
            | F_SETOWN
            | F_GETOWN
            | F_SETSIG
            | F_GETSIG
            | F_SETPIPE_SZ
            | F_GETPIPE_SZ
            | F_ADD_SEALS
            | F_GET_SEALS
    )
}
