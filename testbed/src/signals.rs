//! Signals to `testbed`, made into something to poll for.

use rustix::fd::{AsFd, BorrowedFd};
use signal_hook::consts::{
    SIGCONT, SIGHUP, SIGINT, SIGQUIT, SIGTERM, SIGTSTP, SIGUSR1, SIGUSR2, SIGWINCH,
};
use std::io::Read;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// What is passed on to the program.
pub(crate) const FORWARDED: [i32; 9] = [
    SIGINT, SIGTERM, SIGHUP, SIGQUIT, SIGUSR1, SIGUSR2, SIGWINCH, SIGCONT, SIGTSTP,
];

/// Those that end a process that does not handle them.
const ENDING: [i32; 6] = [SIGINT, SIGTERM, SIGHUP, SIGQUIT, SIGUSR1, SIGUSR2];

/// Signals caught since the last look.
pub(crate) struct Signals {
    wake: UnixStream,
    caught: Vec<(i32, Arc<AtomicBool>)>,
}

impl Signals {
    /// Catches [`FORWARDED`] from now on, but not what whoever started us has
    /// set to be ignored (nohup(1)).
    pub(crate) fn catch() -> std::io::Result<Signals> {
        let ignored = ignored();
        let (wake, waker) = UnixStream::pair()?;
        wake.set_nonblocking(true)?;
        let mut caught = Vec::new();
        for signal in FORWARDED {
            if ignored >> (signal - 1) & 1 == 1 {
                continue;
            }
            let flag = Arc::new(AtomicBool::new(false));
            // In this order: who is woken finds the flag set.
            signal_hook::flag::register(signal, flag.clone())?;
            signal_hook::low_level::pipe::register(signal, waker.try_clone()?)?;
            caught.push((signal, flag));
        }
        Ok(Signals { wake, caught })
    }

    /// Readable when a signal has come.
    pub(crate) fn event(&self) -> BorrowedFd<'_> {
        self.wake.as_fd()
    }

    /// What has come since the last call.
    pub(crate) fn take(&mut self) -> Vec<i32> {
        let mut bytes = [0; 64];
        while matches!(self.wake.read(&mut bytes), Ok(n) if n > 0) {}
        self.caught
            .iter()
            .filter(|(_, flag)| flag.swap(false, Ordering::Relaxed))
            .map(|(signal, _)| *signal)
            .collect()
    }

    /// The first that has come and that ends a process: for when there is no
    /// program yet that might handle it.
    pub(crate) fn take_ending(&mut self) -> Option<i32> {
        self.take()
            .into_iter()
            .find(|signal| ENDING.contains(signal))
    }
}

/// Bit n - 1 is set where signal n is ignored (`SigIgn`, proc(5)).
fn ignored() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    parse_ignored(&status).unwrap_or(0)
}

fn parse_ignored(status: &str) -> Option<u64> {
    let mask = status
        .lines()
        .find_map(|line| line.strip_prefix("SigIgn:"))?;
    u64::from_str_radix(mask.trim(), 16).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::event::{PollFd, PollFlags, poll};

    #[test]
    fn a_signal_wakes_and_is_named_once() {
        let mut signals = Signals::catch().unwrap();
        assert!(signals.take().is_empty());
        signal_hook::low_level::raise(SIGUSR1).unwrap();
        let event = signals.event();
        poll(&mut [PollFd::new(&event, PollFlags::IN)], None).unwrap();
        assert_eq!(signals.take(), [SIGUSR1]);
        assert!(signals.take().is_empty());
    }

    #[test]
    fn ignored_signals_are_read() {
        let status = "Name:\tx\nSigBlk:\t0000000000000000\nSigIgn:\t0000000000001001\n";
        assert_eq!(parse_ignored(status), Some(0x1001));
        assert_eq!(parse_ignored("Name:\tx\n"), None);
    }
}
