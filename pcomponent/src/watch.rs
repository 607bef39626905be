//! The thread of a host process that looks at its counters: now and then for
//! the samples over time, and whenever the manager asks.
//!
//! Of the locks that the path of a miss takes it takes one, for the time of a
//! copy and only when somebody asks: that of the requests sent, of which a miss
//! sends one in an extent. It touches no program memory and receives no signal;
//! where nothing changes it sleeps ever longer.

use crate::task::Process;
use proto::wire;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fd::OwnedFd;
use rustix::net::{RecvFlags, SendFlags, recv, send};
use std::time::{Duration, Instant};

/// Longest answer on the socket, bytes: a few thousand buckets of a histogram
/// and tens of links fit in.
pub(crate) const MOST_ANSWER: usize = 128 << 10;
/// The thread needs little, and programs count the memory that we take.
const STACK: usize = 256 << 10;

/// Starts the thread. Each datagram on `questions` is answered by one that
/// begins with the same eight bytes, the counters after them. Without it the
/// program runs all the same.
pub(crate) fn start(process: &'static Process, questions: OwnedFd) {
    let thread = std::thread::Builder::new()
        .name("watch".to_owned())
        .stack_size(STACK);
    if let Err(why) = thread.spawn(move || watch(process, &questions)) {
        tracing::warn!("nobody will see this program's counters while it runs: {why}");
    }
}

fn watch(process: &Process, questions: &OwnedFd) {
    let mut next = Instant::now();
    loop {
        if Instant::now() >= next {
            next = Instant::now() + process.registry.take_sample();
        }
        match wait(questions, next.saturating_duration_since(Instant::now())) {
            Ok(false) => {}
            Ok(true) if answer(process, questions).is_ok() => {}
            // The manager is gone: so is this process, in a moment.
            _ => return,
        }
    }
}

fn wait(questions: &OwnedFd, most: Duration) -> rustix::io::Result<bool> {
    let mut ready = [PollFd::new(questions, PollFlags::IN)];
    let limit = Timespec {
        tv_sec: i64::try_from(most.as_secs()).unwrap_or(i64::MAX),
        tv_nsec: most.subsec_nanos().into(),
    };
    match poll(&mut ready, Some(&limit)) {
        Ok(n) => Ok(n > 0),
        Err(rustix::io::Errno::INTR) => Ok(false),
        Err(why) => Err(why),
    }
}

fn answer(process: &Process, questions: &OwnedFd) -> rustix::io::Result<()> {
    let mut number = [0; 8];
    let (len, _) = recv(questions, &mut number[..], RecvFlags::DONTWAIT)?;
    if len == 0 {
        return Err(rustix::io::Errno::PIPE);
    }
    let mut answer = number.to_vec();
    answer.extend(wire::encode(&process.counters()));
    // One that asks and does not listen misses its answer.
    match send(
        questions,
        &answer,
        SendFlags::DONTWAIT | SendFlags::NOSIGNAL,
    ) {
        Err(rustix::io::Errno::PIPE) => Err(rustix::io::Errno::PIPE),
        _ => Ok(()),
    }
}
