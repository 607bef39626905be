//! Clocks, sleeping and timers: the host's.

use crate::args::Args;
use crate::hostcall::HostCall;
use crate::kernel::Kernel;
use crate::layout::{Itimerspec, Itimerval, Layout, RawTimespec, Sigevent, Timeval};
use crate::outcome::Answer;
use crate::user::UserExt;
use proto::{Errno, UserAddr};

const CLOCK_REALTIME: i32 = 0;
const CLOCK_MONOTONIC: i32 = 1;
const TIMER_ABSTIME: u32 = 1;

/// nanosleep(2).
pub fn nanosleep<K: Kernel>(k: &K, a: Args) -> Answer {
    sleep(k, CLOCK_MONOTONIC, 0, a.addr(0), a.opt_addr(1))
}

/// clock_nanosleep(2).
pub fn clock_nanosleep<K: Kernel>(k: &K, a: Args) -> Answer {
    sleep(k, a.int(0), a.uint(1), a.addr(2), a.opt_addr(3))
}

fn sleep<K: Kernel>(
    k: &K,
    clock: i32,
    flags: u32,
    at: UserAddr,
    remain_at: Option<UserAddr>,
) -> Answer {
    let time: RawTimespec = k.get(at)?;
    if time.valid().is_none() {
        return Err(Errno::EINVAL.into());
    }
    let (mut request, mut remain) = ([0; 16], [0; 16]);
    time.encode(&mut request);
    let call = HostCall::ClockNanosleep {
        clock,
        flags,
        request: &request,
        remain: &mut remain,
    };
    let result = k.host(call);
    if result == Err(Errno::EINTR) && flags & TIMER_ABSTIME == 0 {
        k.put_opt(remain_at, &remain)?;
    }
    Ok(result?)
}

fn now<K: Kernel>(k: &K, clock: i32) -> Result<RawTimespec, Errno> {
    let mut raw = [0; 16];
    k.host(HostCall::ClockGettime {
        clock,
        dst: &mut raw,
    })?;
    Ok(RawTimespec::decode(&raw))
}

/// clock_gettime(2).
pub fn clock_gettime<K: Kernel>(k: &K, a: Args) -> Answer {
    let time = now(k, a.int(0))?;
    k.put(a.addr(1), &time)?;
    Ok(0)
}

/// clock_getres(2).
pub fn clock_getres<K: Kernel>(k: &K, a: Args) -> Answer {
    let mut raw = [0; 16];
    k.host(HostCall::ClockGetres {
        clock: a.int(0),
        dst: &mut raw,
    })?;
    k.put_opt(a.opt_addr(1), &raw)?;
    Ok(0)
}

/// clock_settime(2): nobody may.
pub fn clock_settime<K: Kernel>(k: &K, a: Args) -> Answer {
    let time: RawTimespec = k.get(a.addr(1))?;
    let known = matches!(a.int(0), 0..=11) && time.valid().is_some();
    Err(if known { Errno::EPERM } else { Errno::EINVAL }.into())
}

/// gettimeofday(2).
pub fn gettimeofday<K: Kernel>(k: &K, a: Args) -> Answer {
    let time = now(k, CLOCK_REALTIME)?;
    k.put_opt(
        a.opt_addr(0),
        &Timeval {
            sec: time.sec,
            usec: time.nsec / 1000,
        },
    )?;
    // struct timezone: the host's is not the program's business.
    k.put_opt(a.opt_addr(1), &[0u32; 2])?;
    Ok(0)
}

/// time(2).
pub fn time<K: Kernel>(k: &K, a: Args) -> Answer {
    let time = now(k, CLOCK_REALTIME)?;
    k.put_opt(a.opt_addr(0), &time.sec)?;
    Ok(time.sec.unsigned_abs())
}

/// getitimer(2).
pub fn getitimer<K: Kernel>(k: &K, a: Args) -> Answer {
    let mut dst = [0; 32];
    k.host(HostCall::Getitimer {
        which: a.int(0),
        dst: &mut dst,
    })?;
    k.put::<[u8; 32]>(a.addr(1), &dst)?;
    Ok(0)
}

/// setitimer(2); without a new value the timer is stopped.
pub fn setitimer<K: Kernel>(k: &K, a: Args) -> Answer {
    let new: [u8; 32] = match a.opt_addr(1) {
        Some(at) => k.get(at)?,
        None => [0; 32],
    };
    let mut old = [0; 32];
    k.host(HostCall::Setitimer {
        which: a.int(0),
        new: &new,
        old: &mut old,
    })?;
    k.put_opt(a.opt_addr(2), &old)?;
    Ok(0)
}

/// alarm(2).
pub fn alarm<K: Kernel>(k: &K, a: Args) -> Answer {
    const ITIMER_REAL: i32 = 0;
    let seconds = i64::from(a.uint(0).min(i32::MAX.unsigned_abs()));
    let value = Timeval {
        sec: seconds,
        usec: 0,
    };
    let (mut new, mut old) = ([0; 32], [0; 32]);
    Itimerval {
        interval: Timeval::default(),
        value,
    }
    .encode(&mut new);
    k.host(HostCall::Setitimer {
        which: ITIMER_REAL,
        new: &new,
        old: &mut old,
    })?;
    let left = Itimerval::decode(&old).value;
    // As alarm(2) on Linux: rounded, and 0 only for no alarm at all.
    let up = left.usec >= 500_000 || (left.sec == 0 && left.usec > 0);
    Ok(left.sec.unsigned_abs() + u64::from(up))
}

/// timer_create(2).
pub fn timer_create<K: Kernel>(k: &K, a: Args) -> Answer {
    const SIGEV_SIGNAL: i32 = 0;
    const SIGEV_NONE: i32 = 1;
    const SIGEV_THREAD_ID: i32 = 4;
    let event: Option<Sigevent> = a.opt_addr(1).map(|at| k.get(at)).transpose()?;
    match event.map_or(SIGEV_SIGNAL, |e| e.notify) {
        SIGEV_SIGNAL | SIGEV_NONE => {}
        SIGEV_THREAD_ID if event.is_some_and(|e| k.threads().contains(&e.tid)) => {}
        _ => return Err(Errno::EINVAL.into()),
    }
    let mut id = 0;
    let raw = event.map(|event| {
        let mut raw = [0; 64];
        event.encode(&mut raw);
        raw
    });
    k.host(HostCall::TimerCreate {
        clock: a.int(0),
        event: raw.as_ref(),
        id: &mut id,
    })?;
    if let Err(e) = k.put(a.addr(2), &id) {
        let _ = k.host(HostCall::TimerDelete { id });
        return Err(e.into());
    }
    Ok(0)
}

/// timer_settime(2).
pub fn timer_settime<K: Kernel>(k: &K, a: Args) -> Answer {
    let new: [u8; 32] = k.get(a.addr(2))?;
    let mut old = [0; 32];
    let (id, flags) = (a.int(0), a.uint(1));
    k.host(HostCall::TimerSettime {
        id,
        flags,
        new: &new,
        old: &mut old,
    })?;
    k.put_opt(a.opt_addr(3), &old)?;
    Ok(0)
}

/// timer_gettime(2).
pub fn timer_gettime<K: Kernel>(k: &K, a: Args) -> Answer {
    let mut dst = [0; Itimerspec::SIZE];
    k.host(HostCall::TimerGettime {
        id: a.int(0),
        dst: &mut dst,
    })?;
    k.put(a.addr(1), &dst)?;
    Ok(0)
}

/// timer_getoverrun(2).
pub fn timer_getoverrun<K: Kernel>(k: &K, a: Args) -> Answer {
    Ok(k.host(HostCall::TimerGetoverrun { id: a.int(0) })?)
}

/// timer_delete(2).
pub fn timer_delete<K: Kernel>(k: &K, a: Args) -> Answer {
    Ok(k.host(HostCall::TimerDelete { id: a.int(0) })?)
}
