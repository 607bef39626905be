//! Threads: making and ending them, what they wait on, their identity.

use crate::args::Args;
use crate::consts::*;
use crate::kernel::{FutexOp, FutexTimeout, Kernel};
use crate::layout::{Layout, RawCloneArgs, RawTimespec};
use crate::outcome::{Answer, CloneArgs, Outcome, RestartKind, Stop};
use crate::user::UserExt;
use proto::{Errno, UserAddr};

/// getpid(2).
pub fn getpid<K: Kernel>(k: &K, _: Args) -> Answer {
    Ok(id(k.pid()))
}

/// gettid(2).
pub fn gettid<K: Kernel>(k: &K, _: Args) -> Answer {
    Ok(id(k.tid()))
}

/// getppid(2).
pub fn getppid<K: Kernel>(k: &K, _: Args) -> Answer {
    Ok(id(k.ppid()))
}

fn id(id: i32) -> u64 {
    u64::from(id.unsigned_abs())
}

/// exit(2).
pub fn exit<K: Kernel>(_: &K, a: Args) -> Answer {
    Err(Stop::Leave(Outcome::ExitThread(a.int(0) & 0xff)))
}

/// exit_group(2).
pub fn exit_group<K: Kernel>(_: &K, a: Args) -> Answer {
    Err(Stop::Leave(Outcome::ExitGroup(a.int(0) & 0xff)))
}

/// set_tid_address(2).
pub fn set_tid_address<K: Kernel>(k: &K, a: Args) -> Answer {
    k.set_clear_child_tid(a.addr(0));
    Ok(id(k.tid()))
}

/// set_robust_list(2).
pub fn set_robust_list<K: Kernel>(k: &K, a: Args) -> Answer {
    const HEAD_SIZE: u64 = 24;
    if a.raw(1) != HEAD_SIZE {
        return Err(Errno::EINVAL.into());
    }
    k.set_robust_list(a.addr(0), HEAD_SIZE);
    Ok(0)
}

/// get_robust_list(2).
pub fn get_robust_list<K: Kernel>(k: &K, a: Args) -> Answer {
    if a.int(0) != 0 && a.int(0) != k.tid() {
        let known = k.threads().contains(&a.int(0));
        return Err(if known { Errno::EPERM } else { Errno::ESRCH }.into());
    }
    let (head, len) = k.robust_list();
    k.put(a.addr(2), &len)?;
    k.put(a.addr(1), &head.0)?;
    Ok(0)
}

/// rseq(2): `ENOSYS`, as on a kernel that was built without it. Not logged:
/// every libc asks.
pub fn rseq<K: Kernel>(_: &K, _: Args) -> Answer {
    Err(Errno::ENOSYS.into())
}

/// arch_prctl(2).
pub fn arch_prctl<K: Kernel>(k: &K, a: Args) -> Answer {
    const ARCH_SET_GS: u64 = 0x1001;
    const ARCH_SET_FS: u64 = 0x1002;
    const ARCH_GET_FS: u64 = 0x1003;
    const ARCH_GET_GS: u64 = 0x1004;
    match a.raw(0) {
        ARCH_SET_FS if a.addr(1) >= proto::addr::USER_MAX => Err(Errno::EPERM.into()),
        ARCH_SET_FS => {
            k.set_fs(a.raw(1));
            Ok(0)
        }
        ARCH_GET_FS => {
            k.put(a.addr(1), &k.fs())?;
            Ok(0)
        }
        // GS points at the thread's block of the personality.
        ARCH_SET_GS => Err(Errno::EPERM.into()),
        ARCH_GET_GS => {
            k.put(a.addr(1), &0u64)?;
            Ok(0)
        }
        // CET, CPUID faulting and their like: as without the hardware.
        _ => Err(Errno::EINVAL.into()),
    }
}

/// clone(2), in the order of arguments of x86-64.
pub fn clone<K: Kernel>(k: &K, a: Args) -> Answer {
    const CSIGNAL: u64 = 0xff;
    thread(
        k,
        &CloneArgs {
            flags: a.raw(0) & !CSIGNAL,
            stack: a.raw(1),
            parent_tid: a.raw(2),
            child_tid: a.raw(3),
            tls: a.raw(4),
        },
    )
}

/// clone3(2).
pub fn clone3<K: Kernel>(k: &K, a: Args) -> Answer {
    const VERSION_0: usize = 64;
    let size = a.len(1);
    if size < VERSION_0 {
        return Err(Errno::EINVAL.into());
    }
    if size > proto::PAGE_SIZE as usize {
        return Err(Errno::E2BIG.into());
    }
    let mut bytes = vec![0; size.max(RawCloneArgs::SIZE)];
    k.read(a.addr(0), &mut bytes[..size])?;
    if bytes[RawCloneArgs::SIZE..].iter().any(|b| *b != 0) {
        return Err(Errno::E2BIG.into());
    }
    let raw = RawCloneArgs::decode(&bytes);
    if raw.flags & 0xff != 0 || raw.exit_signal > 64 || (raw.stack == 0) != (raw.stack_size == 0) {
        return Err(Errno::EINVAL.into());
    }
    let top = raw.stack.checked_add(raw.stack_size).ok_or(Errno::EINVAL)?;
    if raw.flags & CLONE_THREAD != 0 && raw.exit_signal != 0 {
        return Err(Errno::EINVAL.into());
    }
    if raw.set_tid_size != 0 {
        return Err(Errno::EPERM.into());
    }
    thread(
        k,
        &CloneArgs {
            flags: raw.flags,
            stack: top,
            tls: raw.tls,
            child_tid: raw.child_tid,
            parent_tid: raw.parent_tid,
        },
    )
}

/// Checks that a thread is asked for, as copy_process() does.
fn thread<K: Kernel>(k: &K, args: &CloneArgs) -> Answer {
    const SHARED: u64 = CLONE_VM | CLONE_SIGHAND | CLONE_THREAD;
    const KNOWN: u64 = SHARED
        | CLONE_FS
        | CLONE_FILES
        | CLONE_SYSVSEM
        | CLONE_SETTLS
        | CLONE_PARENT_SETTID
        | CLONE_CHILD_CLEARTID
        | CLONE_CHILD_SETTID
        | CLONE_DETACHED;
    let has = |flag| args.flags & flag == flag;
    if (has(CLONE_THREAD) && !has(CLONE_SIGHAND)) || (has(CLONE_SIGHAND) && !has(CLONE_VM)) {
        return Err(Errno::EINVAL.into());
    }
    if !has(SHARED) || !has(CLONE_FS | CLONE_FILES) || args.flags & !KNOWN != 0 {
        k.unimplemented("clone of a new process");
        return Err(Errno::ENOSYS.into());
    }
    Err(Stop::Leave(Outcome::Clone(*args)))
}

/// wait4(2): a process has no children yet.
pub fn wait4<K: Kernel>(_: &K, a: Args) -> Answer {
    const KNOWN: u32 = 0xe000_000f;
    Err(if a.uint(2) & !KNOWN != 0 {
        Errno::EINVAL
    } else {
        Errno::ECHILD
    }
    .into())
}

/// waitid(2): a process has no children yet.
pub fn waitid<K: Kernel>(_: &K, a: Args) -> Answer {
    Err(if a.uint(0) > 3 {
        Errno::EINVAL
    } else {
        Errno::ECHILD
    }
    .into())
}

/// futex(2).
pub fn futex<K: Kernel>(k: &K, a: Args) -> Answer {
    const FUTEX_PRIVATE_FLAG: u32 = 128;
    const FUTEX_CLOCK_REALTIME: u32 = 256;
    let command = a.uint(1) & !(FUTEX_PRIVATE_FLAG | FUTEX_CLOCK_REALTIME);
    let realtime = a.uint(1) & FUTEX_CLOCK_REALTIME != 0;
    let op = decode_futex(k, a, command, realtime)?;
    match k.futex(&op) {
        Err(Errno::EINTR) => Err(futex_restart(&op).into()),
        answer => Ok(answer?),
    }
}

/// A wait with a relative end can't be made again with the same arguments.
fn futex_restart(op: &FutexOp) -> RestartKind {
    match op {
        FutexOp::Wait { until: Some(_), .. } => RestartKind::Never,
        _ => RestartKind::IfSaRestart,
    }
}

fn decode_futex<K: Kernel>(k: &K, a: Args, command: u32, realtime: bool) -> Result<FutexOp, Errno> {
    const FUTEX_WAIT: u32 = 0;
    const FUTEX_WAKE: u32 = 1;
    const FUTEX_REQUEUE: u32 = 3;
    const FUTEX_CMP_REQUEUE: u32 = 4;
    const FUTEX_WAKE_OP: u32 = 5;
    const FUTEX_WAIT_BITSET: u32 = 9;
    const FUTEX_WAKE_BITSET: u32 = 10;
    const ALL: u32 = u32::MAX;
    let at = word(a.addr(0))?;
    if realtime && !matches!(command, FUTEX_WAIT | FUTEX_WAIT_BITSET) {
        return Err(Errno::ENOSYS);
    }
    let wait = |absolute, bitset| -> Result<FutexOp, Errno> {
        let time = a.opt_addr(3).map(|t| k.get::<RawTimespec>(t)).transpose()?;
        let time = time.map(|t| t.valid().ok_or(Errno::EINVAL)).transpose()?;
        let until = time.map(|time| FutexTimeout {
            time,
            absolute,
            realtime,
        });
        Ok(FutexOp::Wait {
            at,
            expected: a.uint(2),
            until,
            bitset,
        })
    };
    let requeue = |expected| -> Result<FutexOp, Errno> {
        let [wake, requeue] = [a.int(2), a.int(3)].map(u32::try_from);
        let (Ok(wake), Ok(requeue)) = (wake, requeue) else {
            return Err(Errno::EINVAL);
        };
        Ok(FutexOp::Requeue {
            at,
            wake,
            requeue,
            to: word(a.addr(4))?,
            expected,
        })
    };
    match command {
        FUTEX_WAIT => wait(false, ALL),
        FUTEX_WAIT_BITSET if a.uint(5) == 0 => Err(Errno::EINVAL),
        FUTEX_WAIT_BITSET => wait(true, a.uint(5)),
        FUTEX_WAKE => Ok(FutexOp::Wake {
            at,
            count: a.uint(2),
            bitset: ALL,
        }),
        FUTEX_WAKE_BITSET if a.uint(5) == 0 => Err(Errno::EINVAL),
        FUTEX_WAKE_BITSET => Ok(FutexOp::Wake {
            at,
            count: a.uint(2),
            bitset: a.uint(5),
        }),
        FUTEX_REQUEUE => requeue(None),
        FUTEX_CMP_REQUEUE => requeue(Some(a.uint(5))),
        FUTEX_WAKE_OP => Ok(FutexOp::WakeOp {
            at,
            wake: a.uint(2),
            second: word(a.addr(4))?,
            wake_second: a.uint(3),
            op: a.uint(5),
        }),
        _ => Err(Errno::ENOSYS),
    }
}

/// A futex word must be aligned and inside the program's window.
fn word(at: UserAddr) -> Result<UserAddr, Errno> {
    if !at.is_aligned(4) {
        return Err(Errno::EINVAL);
    }
    if at >= proto::addr::USER_MAX || at < proto::addr::USER_MIN {
        return Err(Errno::EFAULT);
    }
    Ok(at)
}
