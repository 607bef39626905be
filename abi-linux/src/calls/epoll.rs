//! epoll(7) over host objects. Files can't be watched, as on Linux (`EPERM`).

use crate::args::Args;
use crate::consts::O_CLOEXEC;
use crate::hostcall::HostCall;
use crate::kernel::Kernel;
use crate::layout::{EpollEvent, Layout};
use crate::outcome::Answer;
use crate::path::{Target, target};
use crate::user::{UserExt, outside_window, with_bounce};
use proto::Errno;
use proto::store::Timespec;

use super::poll::{mask_for_call, milliseconds, timespec};

/// epoll_create(2).
pub fn epoll_create<K: Kernel>(k: &K, a: Args) -> Answer {
    if a.int(0) <= 0 {
        return Err(Errno::EINVAL.into());
    }
    Ok(k.host(HostCall::EpollCreate1 { flags: 0 })?)
}

/// epoll_create1(2).
pub fn epoll_create1<K: Kernel>(k: &K, a: Args) -> Answer {
    if a.uint(0) & !O_CLOEXEC != 0 {
        return Err(Errno::EINVAL.into());
    }
    Ok(k.host(HostCall::EpollCreate1 { flags: a.uint(0) })?)
}

/// epoll_ctl(2).
pub fn epoll_ctl<K: Kernel>(k: &K, a: Args) -> Answer {
    const DEL: i32 = 2;
    let (epfd, op, fd) = (a.int(0), a.int(1), a.int(2));
    let event: [u8; 12] = if op == DEL {
        [0; 12]
    } else {
        k.get(a.addr(3))?
    };
    let watched = target(k, fd)?;
    if matches!(target(k, epfd)?, Target::Ours(_)) {
        return Err(Errno::EINVAL.into());
    }
    if matches!(watched, Target::Ours(_)) {
        return Err(Errno::EPERM.into());
    }
    Ok(k.host(HostCall::EpollCtl {
        epfd,
        op,
        fd,
        event: &event,
    })?)
}

/// epoll_wait(2).
pub fn epoll_wait<K: Kernel>(k: &K, a: Args) -> Answer {
    wait(k, a, milliseconds(a.int(3)))
}

/// epoll_pwait(2).
pub fn epoll_pwait<K: Kernel>(k: &K, a: Args) -> Answer {
    mask_for_call(k, a.opt_addr(4), a.raw(5))?;
    wait(k, a, milliseconds(a.int(3)))
}

/// epoll_pwait2(2).
pub fn epoll_pwait2<K: Kernel>(k: &K, a: Args) -> Answer {
    let timeout = timespec(k, a.opt_addr(3))?;
    mask_for_call(k, a.opt_addr(4), a.raw(5))?;
    wait(k, a, timeout)
}

fn wait<K: Kernel>(k: &K, a: Args, timeout: Option<Timespec>) -> Answer {
    /// One call hands out at most this many.
    const MOST: usize = 4096;
    let count = usize::try_from(a.int(2))
        .ok()
        .filter(|n| *n > 0)
        .ok_or(Errno::EINVAL)?;
    if count > i32::MAX as usize / EpollEvent::SIZE {
        return Err(Errno::EINVAL.into());
    }
    if outside_window(a.addr(1), count * EpollEvent::SIZE) {
        return Err(Errno::EFAULT.into());
    }
    let Target::Host(epfd) = target(k, a.int(0))? else {
        return Err(Errno::EINVAL.into());
    };
    let count = count.min(MOST);
    let bytes = count * EpollEvent::SIZE;
    if k.writable(a.addr(1), bytes) < EpollEvent::SIZE {
        return Err(Errno::EFAULT.into());
    }
    with_bounce(k, bytes, |events| {
        let got = k.host(HostCall::EpollWait {
            epfd,
            events,
            timeout,
        })?;
        let used = usize::try_from(got).unwrap_or(0).min(count) * EpollEvent::SIZE;
        k.write(a.addr(1), &events[..used])?;
        Ok(got)
    })
}
