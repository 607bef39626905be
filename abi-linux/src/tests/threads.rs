//! Threads, futexes, signals, sleeping, limits.

use super::mock::{Mock, PID, RW};
use crate::consts::nr::*;
use crate::consts::{
    CLONE_CHILD_CLEARTID, CLONE_FILES, CLONE_FS, CLONE_PARENT_SETTID, CLONE_SETTLS, CLONE_SIGHAND,
    CLONE_SYSVSEM, CLONE_THREAD, CLONE_VM, RLIMIT_STACK,
};
use crate::kernel::FutexOp;
use crate::layout::{Layout, RawCloneArgs};
use crate::outcome::{CloneArgs, Outcome, RestartKind};
use proto::UserAddr;

const EINVAL: i64 = -22;
const THREAD: u64 = CLONE_VM
    | CLONE_FS
    | CLONE_FILES
    | CLONE_SIGHAND
    | CLONE_THREAD
    | CLONE_SYSVSEM
    | CLONE_SETTLS
    | CLONE_PARENT_SETTID
    | CLONE_CHILD_CLEARTID;

#[test]
fn both_clones_describe_the_same_thread() {
    let k = Mock::new();
    let raw = RawCloneArgs {
        flags: THREAD,
        child_tid: 1,
        parent_tid: 2,
        stack: 0x1000,
        stack_size: 0x500,
        tls: 3,
        ..RawCloneArgs::default()
    };
    k.put_at(RW, &raw.to_vec());
    let expected = CloneArgs {
        flags: THREAD,
        stack: 0x1500,
        tls: 3,
        child_tid: 1,
        parent_tid: 2,
    };
    assert_eq!(k.outcome(__NR_clone3, &[RW, 88]), Outcome::Clone(expected));
    assert_eq!(
        k.outcome(__NR_clone, &[THREAD, 0x1500, 2, 1, 3]),
        Outcome::Clone(expected)
    );
}

#[test]
fn a_new_process_is_refused_by_name() {
    let k = Mock::new();
    assert_eq!(k.call(__NR_clone, &[17, 0]), -38);
    assert_eq!(k.call(__NR_clone, &[CLONE_THREAD, 0]), EINVAL);
    assert_eq!(k.call(__NR_clone, &[CLONE_SIGHAND, 0]), EINVAL);
    assert_eq!(k.call(__NR_clone3, &[RW, 63]), EINVAL);
    assert_eq!(k.call(__NR_fork, &[]), -38);
    assert_eq!(*k.missing.borrow(), ["clone of a new process", "fork"]);
    assert_eq!(k.call(__NR_wait4, &[u64::MAX, 0, 0, 0]), -10);
}

#[test]
fn futex_operations_are_decoded() {
    let k = Mock::new();
    let at = UserAddr(RW);
    let restart = Outcome::Restart(RestartKind::IfSaRestart);
    assert_eq!(k.outcome(__NR_futex, &[RW, 128, 5, 0, 0, 0]), restart);
    assert_eq!(k.outcome(__NR_futex, &[RW, 1, 3, 0, 0, 0]), restart);
    k.put_at(RW + 64, &[1; 4]);
    k.put_at(RW + 64, &[0; 16]);
    let never = Outcome::Restart(RestartKind::Never);
    assert_eq!(
        k.outcome(__NR_futex, &[RW, 9 | 256, 5, RW + 64, 0, 1]),
        never
    );
    let expected = FutexOp::Wait {
        at,
        expected: 5,
        until: None,
        bitset: u32::MAX,
    };
    assert_eq!(k.futexes.borrow()[0], expected);
    assert_eq!(
        k.futexes.borrow()[1],
        FutexOp::Wake {
            at,
            count: 3,
            bitset: u32::MAX
        }
    );
    let FutexOp::Wait {
        until: Some(until), ..
    } = k.futexes.borrow()[2]
    else {
        panic!()
    };
    assert!(until.absolute && until.realtime);
    for (args, errno) in [
        ([RW + 1, 0, 0, 0, 0, 0], EINVAL),
        ([8, 0, 0, 0, 0, 0], -14),
        ([RW, 9, 0, 0, 0, 0], EINVAL),
        ([RW, 6, 0, 0, 0, 0], -38),
        ([RW, 4, u64::from(u32::MAX), 1, RW, 0], EINVAL),
        ([RW, 0, 0, 0x30_0000, 0, 0], -14),
    ] {
        assert_eq!(k.call(__NR_futex, &args), errno, "{args:?}");
    }
}

#[test]
fn interrupted_calls_are_of_two_kinds() {
    let k = Mock::new();
    assert_eq!(
        k.outcome(__NR_pause, &[]),
        Outcome::Restart(RestartKind::Never)
    );
    k.put_at(RW, &[&5u64.to_le_bytes()[..], &0u64.to_le_bytes()].concat());
    let slept = k.outcome(__NR_nanosleep, &[RW, RW + 16]);
    assert_eq!(slept, Outcome::Restart(RestartKind::Never));
    assert_eq!(k.u64_at(RW + 16), 7, "what is left");
    k.put_at(RW + 16, &[0; 16]);
    k.outcome(__NR_clock_nanosleep, &[1, 1, RW, RW + 16]);
    assert_eq!(k.u64_at(RW + 16), 0, "an absolute sleep has nothing left");
    k.put_at(RW, &[0xff; 16]);
    assert_eq!(k.call(__NR_nanosleep, &[RW, 0]), EINVAL);
    k.put_at(RW, &3u64.to_le_bytes());
    assert_eq!(
        k.outcome(__NR_rt_sigsuspend, &[RW, 8]),
        Outcome::Restart(RestartKind::Never)
    );
    assert_eq!(k.call_mask.get(), Some(3));
}

#[test]
fn masks_and_dispositions() {
    let k = Mock::new();
    let set = |how: u64, mask: u64| {
        k.put_at(RW, &mask.to_le_bytes());
        k.call(__NR_rt_sigprocmask, &[how, RW, RW + 8, 8])
    };
    assert_eq!((set(0, 0b110), set(1, 0b010), set(2, 0b1000)), (0, 0, 0));
    assert_eq!((k.u64_at(RW + 8), k.mask.get()), (0b100, 0b1000));
    assert_eq!(set(3, 1), EINVAL);
    assert_eq!(k.call(__NR_rt_sigprocmask, &[0, 0, 0, 4]), EINVAL);
    assert_eq!(k.call(__NR_rt_sigpending, &[RW, 8]), 0);
    assert_eq!(
        k.u64_at(RW),
        0b1000,
        "what the host blocks more is not shown"
    );
    k.put_at(RW, &[7; 32]);
    assert_eq!(k.call(__NR_rt_sigaction, &[10, RW, 0, 8]), 0);
    assert_eq!(k.call(__NR_rt_sigaction, &[10, 0, RW + 64, 8]), 0);
    assert_eq!(k.bytes(RW + 64, 32), [7; 32]);
    assert_eq!(k.call(__NR_rt_sigaction, &[9, RW, 0, 8]), EINVAL);
    assert_eq!(k.call(__NR_rt_sigaction, &[65, 0, 0, 8]), EINVAL);
}

#[test]
fn alternate_stacks() {
    let k = Mock::new();
    let stack = |sp: u64, flags: i32, size: u64| {
        let flags = u64::from(flags.cast_unsigned());
        k.put_at(RW, &[sp, flags, size].map(u64::to_le_bytes).concat());
        k.call(__NR_sigaltstack, &[RW, RW + 64])
    };
    assert_eq!(stack(0x1000, 0, 8192), 0);
    assert_eq!(k.bytes(RW + 72, 4), [2, 0, 0, 0], "there was none");
    assert_eq!(stack(0x1000, 0, 100), -12);
    assert_eq!(stack(0x1000, 4, 8192), EINVAL);
    assert_eq!(stack(0, 2, 0), 0);
    assert_eq!(k.u64_at(RW + 64), 0x1000);
}

#[test]
fn a_program_signals_itself_alone() {
    let k = Mock::new();
    let own = PID as u64;
    assert_eq!(k.call(__NR_kill, &[own, 10]), 0);
    assert_eq!(k.call(__NR_kill, &[0, 0]), 0);
    assert_eq!(k.call(__NR_kill, &[i64::from(-PID) as u64, 15]), 0);
    assert_eq!(k.call(__NR_kill, &[1, 9]), -3);
    assert_eq!(k.call(__NR_kill, &[u64::MAX, 9]), -3);
    assert_eq!(k.call(__NR_kill, &[own, 65]), EINVAL);
    assert_eq!(k.call(__NR_tgkill, &[1, 1, 9]), -3);
    assert_eq!(k.call(__NR_tgkill, &[own, own, 9]), 0);
    assert_eq!(k.call(__NR_tkill, &[0, 9]), EINVAL);
}

#[test]
fn limits_are_remembered() {
    let k = Mock::new();
    let set = |cur: u64, max: u64| {
        k.put_at(RW, &[cur, max].map(u64::to_le_bytes).concat());
        k.call(__NR_setrlimit, &[RLIMIT_STACK.into(), RW])
    };
    assert_eq!(set(10, 5), EINVAL);
    assert_eq!(set(10, 100), 0);
    assert_eq!(set(10, 101), -1);
    assert_eq!(
        k.call(__NR_prlimit64, &[0, RLIMIT_STACK.into(), 0, RW + 64]),
        0
    );
    assert_eq!((k.u64_at(RW + 64), k.u64_at(RW + 72)), (10, 100));
    assert_eq!(k.call(__NR_getrlimit, &[16, RW]), EINVAL);
    assert_eq!(k.call(__NR_prlimit64, &[1, 0, 0, RW]), -3);
}

#[test]
fn gs_is_not_the_programs() {
    let k = Mock::new();
    assert_eq!(k.call(__NR_arch_prctl, &[0x1001, 0]), -1);
    assert_eq!(k.call(__NR_arch_prctl, &[0x1002, RW]), 0);
    assert_eq!(k.call(__NR_arch_prctl, &[0x1002, 1 << 62]), -1);
    assert_eq!(k.call(__NR_arch_prctl, &[0x1003, RW]), 0);
    assert_eq!(k.u64_at(RW), 0x1234_5000);
    assert_eq!(k.call(__NR_arch_prctl, &[0x3001, 0]), EINVAL);
}

#[test]
fn ends() {
    let k = Mock::new();
    assert_eq!(k.outcome(__NR_exit, &[257]), Outcome::ExitThread(1));
    assert_eq!(
        k.outcome(__NR_exit_group, &[u64::MAX]),
        Outcome::ExitGroup(255)
    );
    assert_eq!(k.outcome(__NR_rt_sigreturn, &[]), Outcome::SigReturn);
}
