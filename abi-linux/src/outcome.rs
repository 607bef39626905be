//! How a system call ends.

use crate::consts::nr;
use proto::Errno;

/// What the trap layer does when a call is over.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Outcome {
    /// The value for rax: a result, or a negative errno.
    Return(i64),
    /// A signal interrupted a call that had done nothing yet.
    Restart(RestartKind),
    /// clone(2) or clone3(2) of a thread, arguments checked.
    Clone(CloneArgs),
    /// rt_sigreturn(2).
    SigReturn,
    /// exit(2) of one thread.
    ExitThread(i32),
    /// exit_group(2).
    ExitGroup(i32),
}

/// Whether an interrupted call is made again (signal(7), "Interruption of
/// system calls").
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum RestartKind {
    /// After a handler with `SA_RESTART`; else the program sees `EINTR`.
    IfSaRestart,
    /// After no handler: the program sees `EINTR`.
    Never,
}

/// A new thread, as clone(2) and clone3(2) both describe it.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct CloneArgs {
    /// `CLONE_*`, without the exit signal.
    pub flags: u64,
    /// The stack pointer to start with (its top); 0 keeps the parent's.
    pub stack: u64,
    /// The FS base, with `CLONE_SETTLS`.
    pub tls: u64,
    /// For `CLONE_CHILD_SETTID` and `CLONE_CHILD_CLEARTID`.
    pub child_tid: u64,
    /// For `CLONE_PARENT_SETTID`.
    pub parent_tid: u64,
}

/// Why a call has no result.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Stop {
    /// An errno. `EINTR` is a restart of the call's own kind.
    Errno(Errno),
    /// Something that the trap layer must do.
    Leave(Outcome),
}

impl From<Errno> for Stop {
    fn from(e: Errno) -> Stop {
        Stop::Errno(e)
    }
}

impl From<RestartKind> for Stop {
    fn from(kind: RestartKind) -> Stop {
        Stop::Leave(Outcome::Restart(kind))
    }
}

/// What a call's handler returns.
pub type Answer = Result<u64, Stop>;

/// Turns a handler's answer into what the trap layer does.
pub(crate) fn conclude(number: u64, answer: Answer) -> Outcome {
    match answer {
        Ok(value) => Outcome::Return(value.cast_signed()),
        Err(Stop::Errno(Errno::EINTR)) => Outcome::Restart(restart_kind(number)),
        Err(Stop::Errno(e)) => Outcome::Return(-i64::from(e.0)),
        Err(Stop::Leave(outcome)) => outcome,
    }
}

/// signal(7) lists the calls that are never made again.
fn restart_kind(number: u64) -> RestartKind {
    const NEVER: [u32; 15] = [
        nr::__NR_poll,
        nr::__NR_ppoll,
        nr::__NR_select,
        nr::__NR_pselect6,
        nr::__NR_epoll_wait,
        nr::__NR_epoll_pwait,
        nr::__NR_epoll_pwait2,
        nr::__NR_nanosleep,
        nr::__NR_clock_nanosleep,
        nr::__NR_pause,
        nr::__NR_rt_sigsuspend,
        nr::__NR_rt_sigtimedwait,
        nr::__NR_recvmmsg,
        nr::__NR_futex_waitv,
        nr::__NR_close,
    ];
    if NEVER.iter().any(|n| u64::from(*n) == number) {
        RestartKind::Never
    } else {
        RestartKind::IfSaRestart
    }
}
