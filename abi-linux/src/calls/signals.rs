//! Signals: dispositions, masks, stacks, sending and waiting. Pending signals
//! are the host's; a program can signal itself.

use crate::args::Args;
use crate::hostcall::{HostCall, Simple};
use crate::kernel::Kernel;
use crate::layout::{SigAction, SigInfo, StackT};
use crate::outcome::{Answer, Outcome, Stop};
use crate::user::UserExt;
use proto::Errno;

/// Bytes of a signal set.
const SET_SIZE: u64 = 8;

fn check_size(size: u64) -> Result<(), Errno> {
    if size == SET_SIZE {
        Ok(())
    } else {
        Err(Errno::EINVAL)
    }
}

/// rt_sigaction(2).
pub fn rt_sigaction<K: Kernel>(k: &K, a: Args) -> Answer {
    check_size(a.raw(3))?;
    let new: Option<SigAction> = a.opt_addr(1).map(|at| k.get(at)).transpose()?;
    let old = k.sigaction(a.int(0), new)?;
    k.put_opt(a.opt_addr(2), &old)?;
    Ok(0)
}

/// rt_sigprocmask(2).
pub fn rt_sigprocmask<K: Kernel>(k: &K, a: Args) -> Answer {
    const SIG_BLOCK: i32 = 0;
    const SIG_UNBLOCK: i32 = 1;
    const SIG_SETMASK: i32 = 2;
    check_size(a.raw(3))?;
    let old = k.mask();
    if let Some(at) = a.opt_addr(1) {
        let set: u64 = k.get(at)?;
        let new = match a.int(0) {
            SIG_BLOCK => old | set,
            SIG_UNBLOCK => old & !set,
            SIG_SETMASK => set,
            _ => return Err(Errno::EINVAL.into()),
        };
        k.set_mask(new);
    }
    k.put_opt(a.opt_addr(2), &old)?;
    Ok(0)
}

/// rt_sigreturn(2).
pub fn rt_sigreturn<K: Kernel>(_: &K, _: Args) -> Answer {
    Err(Stop::Leave(Outcome::SigReturn))
}

/// sigaltstack(2).
pub fn sigaltstack<K: Kernel>(k: &K, a: Args) -> Answer {
    const SS_ONSTACK: i32 = 1;
    const SS_DISABLE: i32 = 2;
    const SS_AUTODISARM: i32 = i32::MIN;
    const MINSIGSTKSZ: u64 = 2048;
    let old = k.altstack();
    if let Some(at) = a.opt_addr(0) {
        let mut new: StackT = k.get(at)?;
        if old.flags & SS_ONSTACK != 0 {
            return Err(Errno::EPERM.into());
        }
        match new.flags & !SS_AUTODISARM {
            SS_DISABLE => {
                new = StackT {
                    flags: new.flags,
                    ..StackT::default()
                }
            }
            0 | SS_ONSTACK if new.size < MINSIGSTKSZ => return Err(Errno::ENOMEM.into()),
            0 | SS_ONSTACK => new.flags &= !SS_ONSTACK,
            _ => return Err(Errno::EINVAL.into()),
        }
        k.set_altstack(new)?;
    }
    k.put_opt(a.opt_addr(1), &old)?;
    Ok(0)
}

/// rt_sigpending(2).
pub fn rt_sigpending<K: Kernel>(k: &K, a: Args) -> Answer {
    if a.raw(1) > SET_SIZE {
        return Err(Errno::EINVAL.into());
    }
    let mut raw = [0; 8];
    k.host(HostCall::Sigpending { dst: &mut raw })?;
    // The host blocks more than the program does while we run.
    let set = (u64::from_le_bytes(raw) & k.mask()).to_le_bytes();
    k.write(a.addr(0), &set[..a.len(1)])?;
    Ok(0)
}

/// rt_sigsuspend(2).
pub fn rt_sigsuspend<K: Kernel>(k: &K, a: Args) -> Answer {
    check_size(a.raw(1))?;
    k.set_mask_for_call(k.get(a.addr(0))?);
    Ok(k.host(HostCall::Pause)?)
}

/// pause(2).
pub fn pause<K: Kernel>(k: &K, _: Args) -> Answer {
    Ok(k.host(HostCall::Pause)?)
}

/// rt_sigtimedwait(2).
pub fn rt_sigtimedwait<K: Kernel>(k: &K, a: Args) -> Answer {
    check_size(a.raw(3))?;
    let set = k.get(a.addr(0))?;
    let timeout = super::poll::timespec(k, a.opt_addr(2))?;
    let mut info = [0; 128];
    let signo = k.host(HostCall::Sigtimedwait {
        set,
        info: &mut info,
        timeout,
    })?;
    k.put_opt(a.opt_addr(1), &info)?;
    Ok(signo)
}

fn check_signo(signo: i32) -> Result<(), Errno> {
    if (0..=64).contains(&signo) {
        Ok(())
    } else {
        Err(Errno::EINVAL)
    }
}

/// kill(2): the process itself, by its number or its group.
pub fn kill<K: Kernel>(k: &K, a: Args) -> Answer {
    let (pid, signo) = (a.int(0), a.int(1));
    check_signo(signo)?;
    let own = k.pid();
    let group = k.host(HostCall::Simple(Simple::Getpgid(0)))?;
    let is_group = u64::from(pid.unsigned_abs()) == group && pid < -1;
    if pid != own && pid != 0 && !is_group {
        return Err(Errno::ESRCH.into());
    }
    Ok(k.host(HostCall::Kill { pid: own, signo })?)
}

/// tkill(2).
pub fn tkill<K: Kernel>(k: &K, a: Args) -> Answer {
    to_thread(k, k.pid(), a.int(0), a.int(1))
}

/// tgkill(2).
pub fn tgkill<K: Kernel>(k: &K, a: Args) -> Answer {
    to_thread(k, a.int(0), a.int(1), a.int(2))
}

fn to_thread<K: Kernel>(k: &K, tgid: i32, tid: i32, signo: i32) -> Answer {
    if tgid <= 0 || tid <= 0 {
        return Err(Errno::EINVAL.into());
    }
    check_signo(signo)?;
    if tgid != k.pid() {
        return Err(Errno::ESRCH.into());
    }
    // The host knows whether the thread is one of ours.
    Ok(k.host(HostCall::Tgkill { tgid, tid, signo })?)
}

/// rt_sigqueueinfo(2).
pub fn rt_sigqueueinfo<K: Kernel>(k: &K, a: Args) -> Answer {
    queue(k, a.int(0), None, a.int(1), k.get(a.addr(2))?)
}

/// rt_tgsigqueueinfo(2).
pub fn rt_tgsigqueueinfo<K: Kernel>(k: &K, a: Args) -> Answer {
    let info = k.get(a.addr(3))?;
    if a.int(0) <= 0 || a.int(1) <= 0 {
        return Err(Errno::EINVAL.into());
    }
    queue(k, a.int(0), Some(a.int(1)), a.int(2), info)
}

fn queue<K: Kernel>(k: &K, tgid: i32, tid: Option<i32>, signo: i32, mut info: SigInfo) -> Answer {
    use crate::layout::Layout;
    check_signo(signo)?;
    if tgid != k.pid() {
        // A stranger may not be told that the kernel or kill(2) sent it.
        const SI_TKILL: i32 = -6;
        let forged = info.code >= 0 || info.code == SI_TKILL;
        return Err(if forged { Errno::EPERM } else { Errno::ESRCH }.into());
    }
    info.signo = signo;
    let mut raw = [0; 128];
    info.encode(&mut raw);
    Ok(k.host(HostCall::Sigqueue {
        tgid,
        tid,
        signo,
        info: &raw,
    })?)
}
