//! Scheduling: which processors a thread may use, and priorities. The host's.

use crate::args::Args;
use crate::hostcall::{HostCall, Simple};
use crate::kernel::Kernel;
use crate::outcome::Answer;
use crate::user::UserExt;
use proto::Errno;

/// Bytes of the largest processor set that is looked at: 8192 processors.
const SET_MAX: usize = 1024;

/// A thread of the process (0: the calling one), or `ESRCH`.
fn thread<K: Kernel>(k: &K, tid: i32) -> Result<i32, Errno> {
    match tid {
        0 => Ok(0),
        tid if tid < 0 => Err(Errno::EINVAL),
        tid if tid == k.pid() || k.threads().contains(&tid) => Ok(tid),
        _ => Err(Errno::ESRCH),
    }
}

/// sched_yield(2).
pub fn sched_yield<K: Kernel>(k: &K, _: Args) -> Answer {
    Ok(k.host(HostCall::Simple(Simple::SchedYield))?)
}

/// sched_getaffinity(2): the raw call returns the size of the kernel's set.
pub fn sched_getaffinity<K: Kernel>(k: &K, a: Args) -> Answer {
    let tid = thread(k, a.int(0)).map_err(|_| Errno::ESRCH)?;
    let mut set = [0; SET_MAX];
    let len = (a.uint(1) as usize).min(SET_MAX);
    let used = k.host(HostCall::SchedGetaffinity {
        tid,
        dst: &mut set[..len],
    })?;
    let bytes = usize::try_from(used).unwrap_or(0).min(len);
    k.write(a.addr(2), &set[..bytes])?;
    Ok(used)
}

/// sched_setaffinity(2).
pub fn sched_setaffinity<K: Kernel>(k: &K, a: Args) -> Answer {
    let tid = thread(k, a.int(0)).map_err(|_| Errno::ESRCH)?;
    let mut set = [0; SET_MAX];
    let len = (a.uint(1) as usize).min(SET_MAX);
    k.read(a.addr(2), &mut set[..len])?;
    Ok(k.host(HostCall::SchedSetaffinity {
        tid,
        mask: &set[..len],
    })?)
}

/// sched_getscheduler(2).
pub fn sched_getscheduler<K: Kernel>(k: &K, a: Args) -> Answer {
    let tid = thread(k, a.int(0))?;
    Ok(k.host(HostCall::Simple(Simple::SchedGetscheduler(tid)))?)
}

/// sched_setscheduler(2): `SCHED_OTHER`, `SCHED_BATCH` and `SCHED_IDLE` are
/// hints; a program may not have the others.
pub fn sched_setscheduler<K: Kernel>(k: &K, a: Args) -> Answer {
    const SCHED_RESET_ON_FORK: u32 = 0x4000_0000;
    thread(k, a.int(0))?;
    let priority: i32 = k.get(a.addr(2))?;
    match a.uint(1) & !SCHED_RESET_ON_FORK {
        0 | 3 | 5 if priority == 0 => Ok(0),
        1 | 2 if (1..=99).contains(&priority) => Err(Errno::EPERM.into()),
        _ => Err(Errno::EINVAL.into()),
    }
}

/// sched_getparam(2).
pub fn sched_getparam<K: Kernel>(k: &K, a: Args) -> Answer {
    if a.opt_addr(1).is_none() {
        return Err(Errno::EINVAL.into());
    }
    let tid = thread(k, a.int(0))?;
    let mut dst = [0; 4];
    k.host(HostCall::SchedGetparam { tid, dst: &mut dst })?;
    k.put(a.addr(1), &dst)?;
    Ok(0)
}

/// sched_setparam(2): the one priority there is.
pub fn sched_setparam<K: Kernel>(k: &K, a: Args) -> Answer {
    thread(k, a.int(0))?;
    let priority: i32 = k.get(a.addr(1))?;
    if priority == 0 {
        Ok(0)
    } else {
        Err(Errno::EINVAL.into())
    }
}

/// sched_get_priority_max(2).
pub fn sched_get_priority_max<K: Kernel>(k: &K, a: Args) -> Answer {
    Ok(k.host(HostCall::Simple(Simple::SchedPriorityMax(a.int(0))))?)
}

/// sched_get_priority_min(2).
pub fn sched_get_priority_min<K: Kernel>(k: &K, a: Args) -> Answer {
    Ok(k.host(HostCall::Simple(Simple::SchedPriorityMin(a.int(0))))?)
}

/// sched_rr_get_interval(2).
pub fn sched_rr_get_interval<K: Kernel>(k: &K, a: Args) -> Answer {
    let tid = thread(k, a.int(0))?;
    let mut dst = [0; 16];
    k.host(HostCall::SchedRrGetInterval { tid, dst: &mut dst })?;
    k.put(a.addr(1), &dst)?;
    Ok(0)
}

/// `which` and `who` of getpriority(2): the process itself.
fn own_priority<K: Kernel>(k: &K, a: Args) -> Result<(i32, i32), Errno> {
    const PRIO_PROCESS: i32 = 0;
    const PRIO_USER: i32 = 2;
    let (which, who) = (a.int(0), a.int(1));
    match which {
        PRIO_PROCESS => thread(k, who)
            .map(|tid| (which, tid))
            .map_err(|_| Errno::ESRCH),
        1..=PRIO_USER if who == 0 => Ok((PRIO_PROCESS, 0)),
        1..=PRIO_USER => Err(Errno::ESRCH),
        _ => Err(Errno::EINVAL),
    }
}

/// getpriority(2): the raw call returns 20 - nice.
pub fn getpriority<K: Kernel>(k: &K, a: Args) -> Answer {
    let (which, who) = own_priority(k, a)?;
    Ok(k.host(HostCall::Simple(Simple::Getpriority(which, who)))?)
}

/// setpriority(2).
pub fn setpriority<K: Kernel>(k: &K, a: Args) -> Answer {
    let (which, who) = own_priority(k, a)?;
    Ok(k.host(HostCall::Simple(Simple::Setpriority(which, who, a.int(2))))?)
}

/// ioprio_get(2) of the process itself.
pub fn ioprio_get<K: Kernel>(k: &K, a: Args) -> Answer {
    own_ioprio(k, a)?;
    Ok(k.host(HostCall::Simple(Simple::IoprioGet(a.int(0), 0)))?)
}

/// ioprio_set(2): checked.
pub fn ioprio_set<K: Kernel>(k: &K, a: Args) -> Answer {
    const MOST_CLASS: u32 = 3;
    own_ioprio(k, a)?;
    if a.uint(2) >> 13 > MOST_CLASS {
        return Err(Errno::EINVAL.into());
    }
    Ok(0)
}

fn own_ioprio<K: Kernel>(k: &K, a: Args) -> Result<(), Errno> {
    if !(1..=3).contains(&a.int(0)) {
        return Err(Errno::EINVAL);
    }
    thread(k, a.int(1)).map(|_| ()).map_err(|_| Errno::ESRCH)
}

/// getcpu(2).
pub fn getcpu<K: Kernel>(k: &K, a: Args) -> Answer {
    let mut dst = [0; 8];
    k.host(HostCall::Getcpu { dst: &mut dst })?;
    let [cpu @ .., _, _, _, _] = dst;
    let [_, _, _, _, node @ ..] = dst;
    k.put_opt(a.opt_addr(0), &cpu)?;
    k.put_opt(a.opt_addr(1), &node)?;
    Ok(0)
}

/// membarrier(2): no command is supported, says the query.
pub fn membarrier<K: Kernel>(_: &K, a: Args) -> Answer {
    const QUERY: i32 = 0;
    if a.int(0) == QUERY && a.uint(1) == 0 {
        Ok(0)
    } else {
        Err(Errno::EINVAL.into())
    }
}
