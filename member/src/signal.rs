//! Ending in good order: SIGTERM and SIGINT become a descriptor that is
//! readable for ever once either has come, so that it does not matter when
//! somebody begins to wait.

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use signal_hook::consts::{SIGINT, SIGTERM};
use std::os::unix::net::UnixStream;
use std::sync::OnceLock;

static CAUGHT: OnceLock<Option<UnixStream>> = OnceLock::new();

/// From now on SIGTERM and SIGINT no longer end the process; call it before
/// anything is done that must be undone. [`crate::Member::start`] does.
pub fn catch_termination() {
    let _ = caught();
}

/// Whether the process has been told to end.
#[must_use]
pub fn terminated() -> bool {
    caught().is_some_and(|stream| {
        readable(
            stream,
            Some(&Timespec {
                tv_sec: 0,
                tv_nsec: 0,
            }),
        )
    })
}

/// Waits until the process is told to end by SIGTERM or SIGINT, however long
/// ago. Where the signals could not be caught they keep their default effect,
/// and this never returns.
pub fn wait_for_termination() {
    match caught() {
        Some(stream) => while !readable(stream, None) {},
        None => loop {
            std::thread::park();
        },
    }
}

fn caught() -> Option<&'static UnixStream> {
    CAUGHT
        .get_or_init(|| match catch() {
            Ok(stream) => Some(stream),
            Err(why) => {
                tracing::warn!("SIGTERM and SIGINT keep their default effect: {why}");
                None
            }
        })
        .as_ref()
}

fn catch() -> std::io::Result<UnixStream> {
    let (reader, writer) = UnixStream::pair()?;
    signal_hook::low_level::pipe::register(SIGTERM, writer.try_clone()?)?;
    signal_hook::low_level::pipe::register(SIGINT, writer)?;
    Ok(reader)
}

/// Nothing is ever read, so what came stays. An interrupted wait is no news.
fn readable(stream: &UnixStream, timeout: Option<&Timespec>) -> bool {
    let mut fds = [PollFd::new(stream, PollFlags::IN)];
    matches!(poll(&mut fds, timeout), Ok(n) if n > 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_signal_that_came_before_the_wait_is_seen() {
        assert!(!terminated());
        signal_hook::low_level::raise(SIGTERM).unwrap();
        wait_for_termination();
        wait_for_termination();
        assert!(terminated());
    }
}
