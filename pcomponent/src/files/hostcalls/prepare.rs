//! Number and registers of the calls that need no memory but their own slices.
//! No unsafe code here: registers are numbers until `run` makes the call.

use abi_linux::HostCall;
use abi_linux::calls::sockets;
use abi_linux::hostcall::{Simple, fcntl_is_numeric};
use linux_raw_sys::general as nr;
use proto::Errno;

/// The six registers of a system call.
pub(super) type Registers = [usize; 6];

/// A call that is ready to be made while the slices it was made from live.
pub(super) struct Prepared {
    pub(super) number: u32,
    pub(super) registers: Registers,
    /// It may block: a signal of the program's interrupts it.
    pub(super) blocks: bool,
    /// It returns a new descriptor.
    pub(super) makes_fd: bool,
}

impl Prepared {
    fn new(number: u32, registers: Registers) -> Prepared {
        Prepared {
            number,
            registers,
            blocks: false,
            makes_fd: false,
        }
    }
    fn blocking(self) -> Prepared {
        Prepared {
            blocks: true,
            ..self
        }
    }
    fn making_fd(self) -> Prepared {
        self.making_fd_if(true)
    }
    fn making_fd_if(self, makes_fd: bool) -> Prepared {
        Prepared { makes_fd, ..self }
    }
}

// Registers. A negative int is sign-extended, as C passes it.
pub(super) fn int(n: i32) -> usize {
    n as isize as usize
}
pub(super) fn long(n: i64) -> usize {
    n as isize as usize
}
pub(super) fn at<T>(slice: &[T]) -> usize {
    slice.as_ptr() as usize
}
pub(super) fn out<T>(slice: &mut [T]) -> usize {
    slice.as_mut_ptr() as usize
}
pub(super) fn one<T>(place: &mut T) -> usize {
    std::ptr::from_mut(place) as usize
}

/// Prepares a call.
///
/// # Errors
/// `EINVAL`: one whose argument could be a pointer.
pub(super) fn prepare(call: &mut HostCall<'_>) -> Result<Prepared, Errno> {
    let families = [of_descriptors, of_sockets, of_waiting, of_time, of_process];
    families
        .into_iter()
        .find_map(|family| family(call))
        .ok_or(Errno::EINVAL)
}

/// What any descriptor knows.
fn of_descriptors(call: &mut HostCall<'_>) -> Option<Prepared> {
    Some(match call {
        HostCall::Read { fd, dst } => {
            Prepared::new(nr::__NR_read, [int(*fd), out(dst), dst.len(), 0, 0, 0]).blocking()
        }
        HostCall::Write { fd, src } => {
            Prepared::new(nr::__NR_write, [int(*fd), at(src), src.len(), 0, 0, 0]).blocking()
        }
        HostCall::Pread { fd, dst, offset } => Prepared::new(
            nr::__NR_pread64,
            [int(*fd), out(dst), dst.len(), long(*offset), 0, 0],
        )
        .blocking(),
        HostCall::Pwrite { fd, src, offset } => Prepared::new(
            nr::__NR_pwrite64,
            [int(*fd), at(src), src.len(), long(*offset), 0, 0],
        )
        .blocking(),
        HostCall::Lseek { fd, offset, whence } => Prepared::new(
            nr::__NR_lseek,
            [int(*fd), long(*offset), *whence as usize, 0, 0, 0],
        ),
        HostCall::Close { fd } => Prepared::new(nr::__NR_close, [int(*fd), 0, 0, 0, 0, 0]),
        HostCall::DupFrom { fd, least, cloexec } => {
            let command = if *cloexec {
                libc::F_DUPFD_CLOEXEC
            } else {
                libc::F_DUPFD
            };
            Prepared::new(
                nr::__NR_fcntl,
                [int(*fd), int(command), int(*least), 0, 0, 0],
            )
            .making_fd()
        }
        HostCall::Dup3 { old, new, cloexec } => {
            let flags = if *cloexec { libc::O_CLOEXEC } else { 0 };
            Prepared::new(nr::__NR_dup3, [int(*old), int(*new), int(flags), 0, 0, 0])
        }
        HostCall::Fcntl { fd, command, arg } if fcntl_is_numeric(*command) => Prepared::new(
            nr::__NR_fcntl,
            [int(*fd), *command as usize, *arg as usize, 0, 0, 0],
        ),
        HostCall::Fstat { fd, dst } => {
            Prepared::new(nr::__NR_fstat, [int(*fd), out(*dst), 0, 0, 0, 0])
        }
        HostCall::Ftruncate { fd, len } => {
            Prepared::new(nr::__NR_ftruncate, [int(*fd), long(*len), 0, 0, 0, 0])
        }
        HostCall::Fsync { fd, data_only } => {
            let number = if *data_only {
                nr::__NR_fdatasync
            } else {
                nr::__NR_fsync
            };
            Prepared::new(number, [int(*fd), 0, 0, 0, 0, 0])
        }
        HostCall::OpenTty { flags } => {
            let path = c"/dev/tty".as_ptr() as usize;
            Prepared::new(
                nr::__NR_openat,
                [int(libc::AT_FDCWD), path, *flags as usize, 0, 0, 0],
            )
            .blocking()
            .making_fd()
        }
        _ => return None,
    })
}

/// Sockets.
fn of_sockets(call: &mut HostCall<'_>) -> Option<Prepared> {
    Some(match call {
        HostCall::Socket {
            domain,
            kind,
            protocol,
        } => Prepared::new(
            nr::__NR_socket,
            [int(*domain), int(*kind), int(*protocol), 0, 0, 0],
        )
        .making_fd(),
        HostCall::Bind { fd, addr } => {
            Prepared::new(nr::__NR_bind, [int(*fd), at(addr), addr.len(), 0, 0, 0])
        }
        HostCall::Connect { fd, addr } => {
            Prepared::new(nr::__NR_connect, [int(*fd), at(addr), addr.len(), 0, 0, 0]).blocking()
        }
        HostCall::Listen { fd, backlog } => {
            Prepared::new(nr::__NR_listen, [int(*fd), int(*backlog), 0, 0, 0, 0])
        }
        HostCall::Accept4 {
            fd,
            addr,
            len,
            flags,
        } => {
            **len = (**len).min(addr.len() as u32);
            Prepared::new(
                nr::__NR_accept4,
                [int(*fd), out(addr), one(*len), *flags as usize, 0, 0],
            )
            .blocking()
            .making_fd()
        }
        HostCall::Getsockname { fd, addr, len } => {
            **len = (**len).min(addr.len() as u32);
            Prepared::new(
                nr::__NR_getsockname,
                [int(*fd), out(addr), one(*len), 0, 0, 0],
            )
        }
        HostCall::Getpeername { fd, addr, len } => {
            **len = (**len).min(addr.len() as u32);
            Prepared::new(
                nr::__NR_getpeername,
                [int(*fd), out(addr), one(*len), 0, 0, 0],
            )
        }
        HostCall::Setsockopt {
            fd,
            level,
            name,
            value,
        } if sockets::option_is_plain(*level, *name) => {
            let registers = [int(*fd), int(*level), int(*name), at(value), value.len(), 0];
            Prepared::new(nr::__NR_setsockopt, registers)
        }
        HostCall::Getsockopt {
            fd,
            level,
            name,
            value,
            len,
        } if sockets::option_is_plain(*level, *name) => {
            **len = (**len).min(value.len() as u32);
            let registers = [int(*fd), int(*level), int(*name), out(value), one(*len), 0];
            Prepared::new(nr::__NR_getsockopt, registers)
        }
        HostCall::Shutdown { fd, how } => {
            Prepared::new(nr::__NR_shutdown, [int(*fd), int(*how), 0, 0, 0, 0])
        }
        _ => return None,
    })
}

/// Events, signals, and the descriptors made of them.
fn of_waiting(call: &mut HostCall<'_>) -> Option<Prepared> {
    Some(match call {
        HostCall::Eventfd2 { initial, flags } => Prepared::new(
            nr::__NR_eventfd2,
            [*initial as usize, *flags as usize, 0, 0, 0, 0],
        )
        .making_fd(),
        HostCall::Signalfd4 { fd, mask, flags } => {
            // With a descriptor given, that one comes back.
            Prepared::new(
                nr::__NR_signalfd4,
                [int(*fd), one(mask), 8, *flags as usize, 0, 0],
            )
            .making_fd_if(*fd < 0)
        }
        HostCall::TimerfdCreate { clock, flags } => Prepared::new(
            nr::__NR_timerfd_create,
            [int(*clock), *flags as usize, 0, 0, 0, 0],
        )
        .making_fd(),
        HostCall::TimerfdSettime {
            fd,
            flags,
            new,
            old,
        } => Prepared::new(
            nr::__NR_timerfd_settime,
            [int(*fd), *flags as usize, at(*new), out(*old), 0, 0],
        ),
        HostCall::TimerfdGettime { fd, dst } => {
            Prepared::new(nr::__NR_timerfd_gettime, [int(*fd), out(*dst), 0, 0, 0, 0])
        }
        HostCall::EpollCreate1 { flags } => {
            Prepared::new(nr::__NR_epoll_create1, [*flags as usize, 0, 0, 0, 0, 0]).making_fd()
        }
        HostCall::EpollCtl {
            epfd,
            op,
            fd,
            event,
        } => Prepared::new(
            nr::__NR_epoll_ctl,
            [int(*epfd), int(*op), int(*fd), at(*event), 0, 0],
        ),
        HostCall::Pause => Prepared::new(nr::__NR_pause, [0; 6]).blocking(),
        HostCall::Kill { pid, signo } => {
            Prepared::new(nr::__NR_kill, [int(*pid), int(*signo), 0, 0, 0, 0])
        }
        HostCall::Tgkill { tgid, tid, signo } => Prepared::new(
            nr::__NR_tgkill,
            [int(*tgid), int(*tid), int(*signo), 0, 0, 0],
        ),
        HostCall::Sigqueue {
            tgid,
            tid: None,
            signo,
            info,
        } => Prepared::new(
            nr::__NR_rt_sigqueueinfo,
            [int(*tgid), int(*signo), at(*info), 0, 0, 0],
        ),
        HostCall::Sigqueue {
            tgid,
            tid: Some(tid),
            signo,
            info,
        } => {
            let registers = [int(*tgid), int(*tid), int(*signo), at(*info), 0, 0];
            Prepared::new(nr::__NR_rt_tgsigqueueinfo, registers)
        }
        HostCall::Sigpending { dst } => {
            Prepared::new(nr::__NR_rt_sigpending, [out(*dst), 8, 0, 0, 0, 0])
        }
        _ => return None,
    })
}

/// Clocks and timers.
fn of_time(call: &mut HostCall<'_>) -> Option<Prepared> {
    Some(match call {
        HostCall::ClockGettime { clock, dst } => {
            Prepared::new(nr::__NR_clock_gettime, [int(*clock), out(*dst), 0, 0, 0, 0])
        }
        HostCall::ClockGetres { clock, dst } => {
            Prepared::new(nr::__NR_clock_getres, [int(*clock), out(*dst), 0, 0, 0, 0])
        }
        HostCall::ClockNanosleep {
            clock,
            flags,
            request,
            remain,
        } => {
            let registers = [
                int(*clock),
                *flags as usize,
                at(*request),
                out(*remain),
                0,
                0,
            ];
            Prepared::new(nr::__NR_clock_nanosleep, registers).blocking()
        }
        HostCall::Getitimer { which, dst } => {
            Prepared::new(nr::__NR_getitimer, [int(*which), out(*dst), 0, 0, 0, 0])
        }
        HostCall::Setitimer { which, new, old } => Prepared::new(
            nr::__NR_setitimer,
            [int(*which), at(*new), out(*old), 0, 0, 0],
        ),
        HostCall::TimerCreate { clock, event, id } => {
            let event = event.map_or(0, |event| at(event));
            Prepared::new(
                nr::__NR_timer_create,
                [int(*clock), event, one(*id), 0, 0, 0],
            )
        }
        HostCall::TimerSettime {
            id,
            flags,
            new,
            old,
        } => Prepared::new(
            nr::__NR_timer_settime,
            [int(*id), *flags as usize, at(*new), out(*old), 0, 0],
        ),
        HostCall::TimerGettime { id, dst } => {
            Prepared::new(nr::__NR_timer_gettime, [int(*id), out(*dst), 0, 0, 0, 0])
        }
        HostCall::TimerGetoverrun { id } => {
            Prepared::new(nr::__NR_timer_getoverrun, [int(*id), 0, 0, 0, 0, 0])
        }
        HostCall::TimerDelete { id } => {
            Prepared::new(nr::__NR_timer_delete, [int(*id), 0, 0, 0, 0, 0])
        }
        HostCall::Times { dst } => Prepared::new(nr::__NR_times, [out(*dst), 0, 0, 0, 0, 0]),
        _ => return None,
    })
}

/// The process and the machine.
fn of_process(call: &mut HostCall<'_>) -> Option<Prepared> {
    Some(match call {
        HostCall::Getrusage { who, dst } => {
            Prepared::new(nr::__NR_getrusage, [int(*who), out(*dst), 0, 0, 0, 0])
        }
        HostCall::Simple(call) => simple(*call),
        HostCall::Getrandom { dst, flags } => Prepared::new(
            nr::__NR_getrandom,
            [out(dst), dst.len(), *flags as usize, 0, 0, 0],
        )
        .blocking(),
        HostCall::Uname { dst } => Prepared::new(nr::__NR_uname, [out(*dst), 0, 0, 0, 0, 0]),
        HostCall::Sysinfo { dst } => Prepared::new(nr::__NR_sysinfo, [out(*dst), 0, 0, 0, 0, 0]),
        HostCall::Getrlimit { resource, dst } => Prepared::new(
            nr::__NR_getrlimit,
            [*resource as usize, out(*dst), 0, 0, 0, 0],
        ),
        HostCall::SchedGetaffinity { tid, dst } => Prepared::new(
            nr::__NR_sched_getaffinity,
            [int(*tid), dst.len(), out(dst), 0, 0, 0],
        ),
        HostCall::SchedSetaffinity { tid, mask } => Prepared::new(
            nr::__NR_sched_setaffinity,
            [int(*tid), mask.len(), at(mask), 0, 0, 0],
        ),
        HostCall::SchedGetparam { tid, dst } => {
            Prepared::new(nr::__NR_sched_getparam, [int(*tid), out(*dst), 0, 0, 0, 0])
        }
        HostCall::SchedRrGetInterval { tid, dst } => Prepared::new(
            nr::__NR_sched_rr_get_interval,
            [int(*tid), out(*dst), 0, 0, 0, 0],
        ),
        HostCall::Getcpu { dst } => {
            let cpu = out(*dst);
            Prepared::new(nr::__NR_getcpu, [cpu, cpu + 4, 0, 0, 0, 0])
        }
        HostCall::Getgroups { dst } => {
            Prepared::new(nr::__NR_getgroups, [dst.len(), out(dst), 0, 0, 0, 0])
        }
        HostCall::Capget { header, data } => {
            Prepared::new(nr::__NR_capget, [out(*header), out(*data), 0, 0, 0, 0])
        }
        HostCall::SetName { name } => Prepared::new(
            nr::__NR_prctl,
            [libc::PR_SET_NAME as usize, at(*name), 0, 0, 0, 0],
        ),
        HostCall::GetName { name } => Prepared::new(
            nr::__NR_prctl,
            [libc::PR_GET_NAME as usize, out(*name), 0, 0, 0, 0],
        ),
        _ => return None,
    })
}

fn simple(call: Simple) -> Prepared {
    let (number, args) = match call {
        Simple::Getuid => (nr::__NR_getuid, [0; 3]),
        Simple::Geteuid => (nr::__NR_geteuid, [0; 3]),
        Simple::Getgid => (nr::__NR_getgid, [0; 3]),
        Simple::Getegid => (nr::__NR_getegid, [0; 3]),
        Simple::Getpgid(pid) => (nr::__NR_getpgid, [pid, 0, 0]),
        Simple::Getsid(pid) => (nr::__NR_getsid, [pid, 0, 0]),
        Simple::Setpgid(pid, group) => (nr::__NR_setpgid, [pid, group, 0]),
        Simple::Setsid => (nr::__NR_setsid, [0; 3]),
        Simple::SchedYield => (nr::__NR_sched_yield, [0; 3]),
        Simple::SchedGetscheduler(tid) => (nr::__NR_sched_getscheduler, [tid, 0, 0]),
        Simple::SchedPriorityMax(policy) => (nr::__NR_sched_get_priority_max, [policy, 0, 0]),
        Simple::SchedPriorityMin(policy) => (nr::__NR_sched_get_priority_min, [policy, 0, 0]),
        Simple::Getpriority(which, who) => (nr::__NR_getpriority, [which, who, 0]),
        Simple::Setpriority(which, who, nice) => (nr::__NR_setpriority, [which, who, nice]),
        Simple::IoprioGet(which, who) => (nr::__NR_ioprio_get, [which, who, 0]),
    };
    let [a, b, c] = args.map(int);
    Prepared::new(number, [a, b, c, 0, 0, 0])
}
