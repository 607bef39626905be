//! futex(2): the host's own, keyed by the program's address. The words are
//! anonymous private memory of this host process, so every operation is made
//! private, whatever the program says: a private key is the address alone, and
//! a waker need not have the line. Where the kernel reads the word (to compare
//! it before sleeping) and the line is absent, it says EFAULT; the line is
//! fetched and the call made again.

use crate::memory::{Access, FaultEnd};
use crate::task::{Process, Task};
use abi_linux::kernel::{FutexOp, FutexTimeout};
use host::sys;
use linux_raw_sys::general as nr;
use proto::Errno;
use proto::addr::{USER_MAX, USER_MIN, UserAddr};

/// A line that is evicted again each time before the kernel reads it is a
/// thrashing cache; this often is a fault of ours.
const MOST_TRIES: u32 = 10_000;

type Timespec = [i64; 2];

/// The six arguments, a timeout aside.
struct Call {
    at: UserAddr,
    op: i32,
    value: u32,
    /// Timeout, or the count that some operations have in its place.
    fourth: usize,
    second: UserAddr,
    last: u32,
    /// Accesses that the kernel makes to the words.
    touches: [Option<(UserAddr, Access)>; 2],
    blocks: bool,
}

pub(super) fn futex(process: &Process, task: &Task, op: &FutexOp) -> Result<u64, Errno> {
    let mut time: Timespec = [0; 2];
    let call = decode(op, &mut time);
    if [call.at, call.second]
        .iter()
        .any(|a| a.0 != 0 && !is_word(*a))
        || !is_word(call.at)
    {
        return Err(if call.at.is_aligned(4) {
            Errno::EFAULT
        } else {
            Errno::EINVAL
        });
    }
    for _ in 0..MOST_TRIES {
        match host(&call) {
            Err(sys::Errno(libc::EFAULT)) => fetch(process, task, &call)?,
            Err(e) => return Err(Errno(e.0)),
            Ok(n) => return Ok(n as u64),
        }
    }
    Err(Errno::EFAULT)
}

fn is_word(at: UserAddr) -> bool {
    at.is_aligned(4) && at >= USER_MIN && at < USER_MAX
}

fn host(call: &Call) -> Result<usize, sys::Errno> {
    let args = [
        call.at.0 as usize,
        (call.op | libc::FUTEX_PRIVATE_FLAG) as usize,
        call.value as usize,
        call.fourth,
        call.second.0 as usize,
        call.last as usize,
    ];
    // SAFETY: the words lie in the program's window, where the kernel may read
    // and write as the program asked; the timeout lives in `futex`.
    unsafe {
        if call.blocks {
            sys::interruptible(nr::__NR_futex, args)
        } else {
            sys::plain(nr::__NR_futex, args)
        }
    }
}

/// Makes the words present; `EFAULT` where they can't be.
fn fetch(process: &Process, task: &Task, call: &Call) -> Result<(), Errno> {
    for (at, access) in call.touches.iter().flatten() {
        let me = &mut task.scratch.borrow_mut();
        if process.memory.fault(*at, *access, me, &task.counters) != FaultEnd::Done {
            return Err(Errno::EFAULT);
        }
    }
    Ok(())
}

fn decode(op: &FutexOp, time: &mut Timespec) -> Call {
    let plain = |at: UserAddr, op: i32, value: u32| Call {
        at,
        op,
        value,
        fourth: 0,
        second: UserAddr(0),
        last: 0,
        touches: [Some((at, Access::Read)), None],
        blocks: false,
    };
    match *op {
        FutexOp::Wait {
            at,
            expected,
            until,
            bitset,
        } => wait(at, expected, until, bitset, time),
        FutexOp::Wake { at, count, bitset } => Call {
            last: bitset,
            ..plain(at, libc::FUTEX_WAKE_BITSET, count)
        },
        FutexOp::Requeue {
            at,
            wake,
            requeue,
            to,
            expected,
        } => {
            let op = match expected {
                Some(_) => libc::FUTEX_CMP_REQUEUE,
                None => libc::FUTEX_REQUEUE,
            };
            Call {
                fourth: requeue as usize,
                second: to,
                last: expected.unwrap_or(0),
                ..plain(at, op, wake)
            }
        }
        FutexOp::WakeOp {
            at,
            wake,
            second,
            wake_second,
            op,
        } => Call {
            fourth: wake_second as usize,
            second,
            last: op,
            touches: [Some((second, Access::Write)), None],
            ..plain(at, libc::FUTEX_WAKE_OP, wake)
        },
    }
}

fn wait(
    at: UserAddr,
    expected: u32,
    until: Option<FutexTimeout>,
    bitset: u32,
    time: &mut Timespec,
) -> Call {
    let mut op = libc::FUTEX_WAIT_BITSET;
    let mut fourth = 0;
    if let Some(until) = until {
        *time = [until.time.sec, i64::from(until.time.nsec)];
        fourth = std::ptr::from_ref(time) as usize;
        // WAIT's time is a span and has no bitset; WAIT_BITSET's is a point.
        op = match (until.absolute, until.realtime) {
            (false, _) => libc::FUTEX_WAIT,
            (true, false) => libc::FUTEX_WAIT_BITSET,
            (true, true) => libc::FUTEX_WAIT_BITSET | libc::FUTEX_CLOCK_REALTIME,
        };
    }
    Call {
        at,
        op,
        value: expected,
        fourth,
        second: UserAddr(0),
        last: bitset,
        touches: [Some((at, Access::Read)), None],
        blocks: true,
    }
}
