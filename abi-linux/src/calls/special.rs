//! Descriptors that are neither files nor sockets: pipes, and counters,
//! timers and signals as descriptors. All are the host's.

use crate::args::Args;
use crate::consts::*;
use crate::hostcall::HostCall;
use crate::kernel::Kernel;
use crate::layout::Itimerspec;
use crate::outcome::Answer;
use crate::path::{Target, target};
use crate::user::UserExt;
use proto::{Errno, UserAddr};

/// pipe(2).
pub fn pipe<K: Kernel>(k: &K, a: Args) -> Answer {
    make_pipe(k, a.addr(0), 0)
}

/// pipe2(2).
pub fn pipe2<K: Kernel>(k: &K, a: Args) -> Answer {
    if a.uint(1) & !(O_CLOEXEC | O_DIRECT | O_NONBLOCK) != 0 {
        return Err(Errno::EINVAL.into());
    }
    make_pipe(k, a.addr(0), a.uint(1))
}

fn make_pipe<K: Kernel>(k: &K, at: UserAddr, flags: u32) -> Answer {
    let mut fds = [0; 2];
    k.host(HostCall::Pipe2 {
        fds: &mut fds,
        flags,
    })?;
    hand_over(k, at, fds)
}

/// Tells the program of two new descriptors, or takes them back.
pub(super) fn hand_over<K: Kernel>(k: &K, at: UserAddr, fds: [i32; 2]) -> Answer {
    if let Err(e) = k.put(at, &fds) {
        for fd in fds {
            let _ = k.host(HostCall::Close { fd });
        }
        return Err(e.into());
    }
    Ok(0)
}

/// eventfd(2).
pub fn eventfd<K: Kernel>(k: &K, a: Args) -> Answer {
    Ok(k.host(HostCall::Eventfd2 {
        initial: a.uint(0),
        flags: 0,
    })?)
}

/// eventfd2(2).
pub fn eventfd2<K: Kernel>(k: &K, a: Args) -> Answer {
    Ok(k.host(HostCall::Eventfd2 {
        initial: a.uint(0),
        flags: a.uint(1),
    })?)
}

/// signalfd(2).
pub fn signalfd<K: Kernel>(k: &K, a: Args) -> Answer {
    make_signalfd(k, a, 0)
}

/// signalfd4(2).
pub fn signalfd4<K: Kernel>(k: &K, a: Args) -> Answer {
    make_signalfd(k, a, a.uint(3))
}

fn make_signalfd<K: Kernel>(k: &K, a: Args, flags: u32) -> Answer {
    if a.raw(2) != 8 {
        return Err(Errno::EINVAL.into());
    }
    let mask = k.get(a.addr(1))?;
    let fd = a.int(0);
    if fd != -1 && matches!(target(k, fd)?, Target::Ours(_)) {
        return Err(Errno::EINVAL.into());
    }
    Ok(k.host(HostCall::Signalfd4 { fd, mask, flags })?)
}

/// timerfd_create(2).
pub fn timerfd_create<K: Kernel>(k: &K, a: Args) -> Answer {
    Ok(k.host(HostCall::TimerfdCreate {
        clock: a.int(0),
        flags: a.uint(1),
    })?)
}

/// timerfd_settime(2).
pub fn timerfd_settime<K: Kernel>(k: &K, a: Args) -> Answer {
    let new: [u8; 32] = k.get(a.addr(2))?;
    let Target::Host(fd) = target(k, a.int(0))? else {
        return Err(Errno::EINVAL.into());
    };
    let mut old = [0; 32];
    k.host(HostCall::TimerfdSettime {
        fd,
        flags: a.uint(1),
        new: &new,
        old: &mut old,
    })?;
    k.put_opt(a.opt_addr(3), &old)?;
    Ok(0)
}

/// timerfd_gettime(2).
pub fn timerfd_gettime<K: Kernel>(k: &K, a: Args) -> Answer {
    let Target::Host(fd) = target(k, a.int(0))? else {
        return Err(Errno::EINVAL.into());
    };
    let mut dst = [0; 32];
    k.host(HostCall::TimerfdGettime { fd, dst: &mut dst })?;
    k.put::<[u8; 32]>(a.addr(1), &dst)?;
    Ok(0)
}

const _: () = assert!(<Itimerspec as crate::layout::Layout>::SIZE == 32);
