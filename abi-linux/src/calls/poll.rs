//! Waiting on many descriptors: poll(2), select(2).
//!
//! Files are always ready; host objects are asked of the host.

use crate::args::Args;
use crate::consts::*;
use crate::hostcall::{HostCall, PollFd};
use crate::kernel::Kernel;
use crate::layout::{Layout, Pollfd, RawTimespec, SigsetArg, Timeval};
use crate::outcome::Answer;
use crate::path::{Target, target};
use crate::user::UserExt;
use proto::store::Timespec;
use proto::{Errno, UserAddr};

/// poll(2).
pub fn poll<K: Kernel>(k: &K, a: Args) -> Answer {
    let timeout = milliseconds(a.int(2));
    Ok(poll_user(k, a.addr(0), a.len(1), timeout)?)
}

/// ppoll(2).
pub fn ppoll<K: Kernel>(k: &K, a: Args) -> Answer {
    let timer = Timer::start(k, timespec(k, a.opt_addr(2))?);
    mask_for_call(k, a.opt_addr(3), a.raw(4))?;
    let result = poll_user(k, a.addr(0), a.len(1), timer.timeout);
    if let (Some(at), Some(left)) = (a.opt_addr(2), timer.left(k)) {
        // As Linux, which does not let a bad pointer here undo the result.
        let _ = k.put(at, &RawTimespec::from(left));
    }
    Ok(result?)
}

/// A count of milliseconds, negative for ever.
pub(super) fn milliseconds(ms: i32) -> Option<Timespec> {
    let ms = u32::try_from(ms).ok()?;
    Some(Timespec {
        sec: (ms / 1000).into(),
        nsec: ms % 1000 * 1_000_000,
    })
}

/// A timeout that may be absent.
pub(super) fn timespec<K: Kernel>(k: &K, at: Option<UserAddr>) -> Result<Option<Timespec>, Errno> {
    let Some(at) = at else { return Ok(None) };
    let time: RawTimespec = k.get(at)?;
    time.valid().map(Some).ok_or(Errno::EINVAL)
}

/// The signal mask that a waiting call may name for its duration.
pub(super) fn mask_for_call<K: Kernel>(
    k: &K,
    at: Option<UserAddr>,
    size: u64,
) -> Result<(), Errno> {
    let Some(at) = at else { return Ok(()) };
    if size != 8 {
        return Err(Errno::EINVAL);
    }
    k.set_mask_for_call(k.get(at)?);
    Ok(())
}

/// How much of a timeout is left: Linux tells the program.
struct Timer {
    timeout: Option<Timespec>,
    end: u64,
}

impl Timer {
    fn start<K: Kernel>(k: &K, timeout: Option<Timespec>) -> Timer {
        let span = timeout.map_or(0, nanos);
        Timer {
            timeout,
            end: monotonic(k).saturating_add(span),
        }
    }

    fn left<K: Kernel>(&self, k: &K) -> Option<Timespec> {
        self.timeout?;
        let left = self.end.saturating_sub(monotonic(k));
        let nsec = (left % 1_000_000_000) as u32;
        Some(Timespec {
            sec: (left / 1_000_000_000).cast_signed(),
            nsec,
        })
    }
}

fn nanos(t: Timespec) -> u64 {
    t.sec
        .unsigned_abs()
        .saturating_mul(1_000_000_000)
        .saturating_add(t.nsec.into())
}

fn monotonic<K: Kernel>(k: &K) -> u64 {
    const CLOCK_MONOTONIC: i32 = 1;
    let mut raw = [0; 16];
    let _ = k.host(HostCall::ClockGettime {
        clock: CLOCK_MONOTONIC,
        dst: &mut raw,
    });
    nanos(RawTimespec::decode(&raw).into())
}

fn poll_user<K: Kernel>(
    k: &K,
    at: UserAddr,
    count: usize,
    timeout: Option<Timespec>,
) -> Result<u64, Errno> {
    let most = k.process().limit(k, RLIMIT_NOFILE)?.cur;
    if count as u64 > most {
        return Err(Errno::EINVAL);
    }
    let mut raw = vec![0; count * Pollfd::SIZE];
    k.read(at, &mut raw)?;
    let mut fds: Vec<PollFd> = raw
        .chunks_exact(Pollfd::SIZE)
        .map(Pollfd::decode)
        .map(|p| PollFd {
            fd: p.fd,
            events: p.events,
            revents: 0,
        })
        .collect();
    let ready = wait(k, &mut fds, timeout)?;
    for (fd, bytes) in fds.iter().zip(raw.chunks_exact_mut(Pollfd::SIZE)) {
        bytes[6..8].copy_from_slice(&fd.revents.to_le_bytes());
    }
    k.write(at, &raw)?;
    Ok(ready)
}

/// Fills `revents` in; how many are not 0.
fn wait<K: Kernel>(k: &K, fds: &mut [PollFd], timeout: Option<Timespec>) -> Result<u64, Errno> {
    let mut asked: Vec<PollFd> = fds.to_vec();
    for (fd, ask) in fds.iter_mut().zip(&mut asked) {
        if let Some(revents) = own_events(k, fd) {
            fd.revents = revents;
            // The host skips negative numbers.
            ask.fd = -1;
        }
    }
    let ready = fds.iter().any(|fd| fd.revents != 0);
    let timeout = if ready {
        Some(Timespec::default())
    } else {
        timeout
    };
    k.host(HostCall::Poll {
        fds: &mut asked,
        timeout,
    })?;
    for (fd, ask) in fds.iter_mut().zip(&asked) {
        if ask.fd >= 0 {
            fd.revents = ask.revents;
        }
    }
    Ok(fds.iter().filter(|fd| fd.revents != 0).count() as u64)
}

/// What a descriptor that is not the host's has to tell.
fn own_events<K: Kernel>(k: &K, fd: &PollFd) -> Option<u16> {
    if fd.fd < 0 {
        return Some(0);
    }
    match target(k, fd.fd) {
        Err(_) => Some(POLLNVAL),
        Ok(Target::Ours(file)) if file.is_path_only() => Some(POLLNVAL),
        Ok(Target::Ours(_)) => Some(fd.events & (POLLIN | POLLOUT | POLLRDNORM | POLLWRNORM)),
        Ok(Target::Host(_)) => None,
    }
}

/// select(2).
pub fn select<K: Kernel>(k: &K, a: Args) -> Answer {
    let timeout = match a.opt_addr(4) {
        None => None,
        Some(at) => Some(timeval(k.get(at)?)?),
    };
    let timer = Timer::start(k, timeout);
    let result = select_user(k, a, timer.timeout);
    if let (Some(at), Some(left)) = (a.opt_addr(4), timer.left(k)) {
        let _ = k.put(
            at,
            &Timeval {
                sec: left.sec,
                usec: (left.nsec / 1000).into(),
            },
        );
    }
    Ok(result?)
}

/// Linux lets select's microseconds overflow into the seconds.
fn timeval(t: Timeval) -> Result<Timespec, Errno> {
    let sec = t.sec.checked_add(t.usec / 1_000_000).ok_or(Errno::EINVAL)?;
    if t.sec < 0 || t.usec < 0 {
        return Err(Errno::EINVAL);
    }
    Ok(Timespec {
        sec,
        nsec: (t.usec % 1_000_000 * 1000) as u32,
    })
}

/// pselect6(2).
pub fn pselect6<K: Kernel>(k: &K, a: Args) -> Answer {
    let timer = Timer::start(k, timespec(k, a.opt_addr(4))?);
    if let Some(at) = a.opt_addr(5) {
        let arg: SigsetArg = k.get(at)?;
        mask_for_call(k, Some(UserAddr(arg.set)).filter(|a| a.0 != 0), arg.len)?;
    }
    let result = select_user(k, a, timer.timeout);
    if let (Some(at), Some(left)) = (a.opt_addr(4), timer.left(k)) {
        let _ = k.put(at, &RawTimespec::from(left));
    }
    Ok(result?)
}

/// The three sets: what is asked of poll(2) for a bit, and what answers set it.
const SETS: [(u16, u16); 3] = [
    (
        POLLIN | POLLRDNORM | POLLRDBAND,
        POLLIN | POLLRDNORM | POLLRDBAND | POLLHUP | POLLERR,
    ),
    (
        POLLOUT | POLLWRNORM | POLLWRBAND,
        POLLOUT | POLLWRNORM | POLLWRBAND | POLLERR,
    ),
    (POLLPRI, POLLPRI),
];

fn select_user<K: Kernel>(k: &K, a: Args, timeout: Option<Timespec>) -> Result<u64, Errno> {
    let count = usize::try_from(a.int(0)).map_err(|_| Errno::EINVAL)?;
    let count = count.min(usize::try_from(k.fd_floor()).unwrap_or(0));
    let bytes = count.div_ceil(64) * 8;
    let at = [1, 2, 3].map(|n| a.opt_addr(n));
    let mut sets: [Vec<u8>; 3] = Default::default();
    for (set, at) in sets.iter_mut().zip(at) {
        if let Some(at) = at {
            set.resize(bytes, 0);
            k.read(at, set)?;
        }
    }
    let mut fds = wanted(&sets, count);
    wait(k, &mut fds, timeout)?;
    if fds.iter().any(|fd| fd.revents & POLLNVAL != 0) {
        return Err(Errno::EBADF);
    }
    let ready = answer(&mut sets, &fds);
    for (set, at) in sets.iter().zip(at) {
        if let Some(at) = at {
            k.write(at, set)?;
        }
    }
    Ok(ready)
}

fn has(set: &[u8], fd: usize) -> bool {
    set.get(fd / 8)
        .is_some_and(|byte| byte & (1 << (fd % 8)) != 0)
}

fn wanted(sets: &[Vec<u8>; 3], count: usize) -> Vec<PollFd> {
    let events = |fd: usize| {
        sets.iter()
            .zip(SETS)
            .filter(|(set, _)| has(set, fd))
            .fold(0, |events, (_, (ask, _))| events | ask)
    };
    (0..count)
        .map(|fd| PollFd {
            fd: fd as i32,
            events: events(fd),
            revents: 0,
        })
        .filter(|fd| fd.events != 0)
        .collect()
}

/// Leaves in the sets what is ready; how many bits that are.
fn answer(sets: &mut [Vec<u8>; 3], fds: &[PollFd]) -> u64 {
    let mut ready = 0;
    for (set, (_, hit)) in sets.iter_mut().zip(SETS) {
        let asked = std::mem::replace(set, vec![0; set.len()]);
        for fd in fds.iter().filter(|fd| fd.revents & hit != 0) {
            let n = fd.fd.unsigned_abs() as usize;
            if has(&asked, n) {
                set[n / 8] |= 1 << (n % 8);
                ready += 1;
            }
        }
    }
    ready
}
