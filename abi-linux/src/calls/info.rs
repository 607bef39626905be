//! What the process and the machine are, and limits.

use crate::args::Args;
use crate::hostcall::HostCall;
use crate::kernel::Kernel;
use crate::layout::{Layout, Rlimit, Sysinfo};
use crate::outcome::Answer;
use crate::user::{BOUNCE, UserExt, with_bounce};
use proto::Errno;

/// uname(2).
pub fn uname<K: Kernel>(k: &K, a: Args) -> Answer {
    let mut dst = [0; 390];
    k.host(HostCall::Uname { dst: &mut dst })?;
    k.put(a.addr(0), &dst)?;
    Ok(0)
}

/// sysinfo(2): memory is that of the memory components.
pub fn sysinfo<K: Kernel>(k: &K, a: Args) -> Answer {
    let mut dst = [0; Sysinfo::SIZE];
    k.host(HostCall::Sysinfo { dst: &mut dst })?;
    let (totalram, freeram) = k.memory();
    let info = Sysinfo {
        totalram,
        freeram,
        sharedram: 0,
        bufferram: 0,
        totalswap: 0,
        freeswap: 0,
        totalhigh: 0,
        freehigh: 0,
        procs: u16::try_from(k.threads().len()).unwrap_or(u16::MAX),
        mem_unit: 1,
        ..Sysinfo::decode(&dst)
    };
    k.put(a.addr(0), &info)?;
    Ok(0)
}

/// times(2).
pub fn times<K: Kernel>(k: &K, a: Args) -> Answer {
    let mut dst = [0; 32];
    let ticks = k.host(HostCall::Times { dst: &mut dst })?;
    k.put_opt(a.opt_addr(0), &dst)?;
    Ok(ticks)
}

/// getrusage(2).
pub fn getrusage<K: Kernel>(k: &K, a: Args) -> Answer {
    let mut dst = [0; 144];
    k.host(HostCall::Getrusage {
        who: a.int(0),
        dst: &mut dst,
    })?;
    k.put(a.addr(1), &dst)?;
    Ok(0)
}

/// getrlimit(2).
pub fn getrlimit<K: Kernel>(k: &K, a: Args) -> Answer {
    let limit = k.process().limit(k, a.uint(0))?;
    k.put(a.addr(1), &limit)?;
    Ok(0)
}

/// setrlimit(2).
pub fn setrlimit<K: Kernel>(k: &K, a: Args) -> Answer {
    let new: Rlimit = k.get(a.addr(1))?;
    k.process().set_limit(k, a.uint(0), new)?;
    Ok(0)
}

/// prlimit64(2) of the process itself.
pub fn prlimit64<K: Kernel>(k: &K, a: Args) -> Answer {
    if a.int(0) != 0 && a.int(0) != k.pid() {
        return Err(Errno::ESRCH.into());
    }
    let new: Option<Rlimit> = a.opt_addr(2).map(|at| k.get(at)).transpose()?;
    let old = k.process().limit(k, a.uint(1))?;
    if let Some(new) = new {
        k.process().set_limit(k, a.uint(1), new)?;
    }
    k.put_opt(a.opt_addr(3), &old)?;
    Ok(0)
}

/// personality(2).
pub fn personality<K: Kernel>(_: &K, a: Args) -> Answer {
    const QUERY: u32 = 0xffff_ffff;
    const PER_LINUX: u32 = 0;
    match a.uint(0) {
        QUERY | PER_LINUX => Ok(PER_LINUX.into()),
        _ => Err(Errno::EINVAL.into()),
    }
}

/// getrandom(2).
pub fn getrandom<K: Kernel>(k: &K, a: Args) -> Answer {
    const KNOWN: u32 = 7;
    let flags = a.uint(2);
    if flags & !KNOWN != 0 {
        return Err(Errno::EINVAL.into());
    }
    let wanted = a.len(1).min(i32::MAX as usize);
    let mut done = 0;
    while done < wanted {
        let step = (wanted - done).min(BOUNCE);
        let at = a.addr(0).checked_add(done as u64).ok_or(Errno::EFAULT)?;
        let result = with_bounce(k, step, |dst| {
            let got = k.host(HostCall::Getrandom { dst, flags })?;
            let got = usize::try_from(got).unwrap_or(0).min(step);
            k.write_partial(at, &dst[..got])
        });
        match result {
            Err(e) if done == 0 => return Err(e.into()),
            Err(_) => break,
            Ok(n) => {
                done += n;
                if n < step {
                    break;
                }
            }
        }
    }
    Ok(done as u64)
}

/// prctl(2).
pub fn prctl<K: Kernel>(k: &K, a: Args) -> Answer {
    const PR_SET_PDEATHSIG: u32 = 1;
    const PR_GET_PDEATHSIG: u32 = 2;
    const PR_GET_DUMPABLE: u32 = 3;
    const PR_SET_DUMPABLE: u32 = 4;
    const PR_GET_KEEPCAPS: u32 = 7;
    const PR_SET_NAME: u32 = 15;
    const PR_GET_NAME: u32 = 16;
    const PR_CAPBSET_READ: u32 = 23;
    const PR_SET_TIMERSLACK: u32 = 29;
    const PR_GET_TIMERSLACK: u32 = 30;
    const PR_SET_CHILD_SUBREAPER: u32 = 36;
    const PR_GET_CHILD_SUBREAPER: u32 = 37;
    const PR_SET_NO_NEW_PRIVS: u32 = 38;
    const PR_GET_NO_NEW_PRIVS: u32 = 39;
    const PR_SET_THP_DISABLE: u32 = 41;
    const PR_GET_THP_DISABLE: u32 = 42;
    const CAP_LAST_CAP: u64 = 40;
    const DEFAULT_SLACK_NS: u64 = 50_000;
    match a.uint(0) {
        PR_SET_NAME => set_name(k, a),
        PR_GET_NAME => {
            let mut name = [0; 16];
            k.host(HostCall::GetName { name: &mut name })?;
            k.put(a.addr(1), &name)?;
            Ok(0)
        }
        PR_SET_PDEATHSIG if a.raw(1) <= 64 => Ok(0),
        PR_GET_PDEATHSIG | PR_GET_CHILD_SUBREAPER => {
            k.put(a.addr(1), &0i32)?;
            Ok(0)
        }
        PR_GET_DUMPABLE => Ok(1),
        PR_SET_DUMPABLE if a.raw(1) <= 1 => Ok(0),
        PR_GET_KEEPCAPS => Ok(0),
        PR_CAPBSET_READ if a.raw(1) <= CAP_LAST_CAP => Ok(0),
        PR_SET_TIMERSLACK | PR_SET_CHILD_SUBREAPER | PR_SET_THP_DISABLE => Ok(0),
        PR_GET_TIMERSLACK => Ok(DEFAULT_SLACK_NS),
        PR_SET_NO_NEW_PRIVS if a.raw(1) == 1 => Ok(0),
        PR_GET_NO_NEW_PRIVS | PR_GET_THP_DISABLE => Ok(1),
        // Among them PR_SET_SYSCALL_USER_DISPATCH, which is ours.
        _ => Err(Errno::EINVAL.into()),
    }
}

fn set_name<K: Kernel>(k: &K, a: Args) -> Answer {
    let mut name = [0; 16];
    let text = match k.cstr(a.addr(1), name.len()) {
        Ok(text) => text,
        // Longer names are cut.
        Err(Errno::ENAMETOOLONG) => {
            let mut text = vec![0; name.len() - 1];
            k.read(a.addr(1), &mut text)?;
            text
        }
        Err(e) => return Err(e.into()),
    };
    let len = text.len().min(name.len() - 1);
    name[..len].copy_from_slice(&text[..len]);
    k.host(HostCall::SetName { name: &name })?;
    Ok(0)
}
