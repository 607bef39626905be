//! One program from its start to its end: signals go to it, and whatever
//! happens to the components it needs is noticed.

use crate::component::timespec;
use crate::control::{Control, Heard};
use crate::signals::Signals;
use anyhow::{Context, Result};
use proto::process::{ControlReply, End};
use rustix::event::{PollFd, PollFlags, poll};
use rustix::fd::BorrowedFd;
use serde_json::Value;
use signal_hook::consts::{SIGCONT, SIGSTOP, SIGTSTP};
use std::time::{Duration, Instant};

/// How long a processor component may take to start a program.
const START_DEADLINE: Duration = Duration::from_secs(30);
/// How long to look for the component whose end explains the program's.
const CAUSE_DEADLINE: Duration = Duration::from_millis(300);

/// How it came out.
pub(super) enum Outcome {
    /// The program ended, by itself or by a signal.
    Ended { end: End, stats: Option<Value> },
    /// It could not be started.
    Refused { status: i32, message: String },
    /// The system failed.
    Failed {
        message: String,
        stats: Option<Value>,
    },
}

impl Outcome {
    /// The program's statistics, where it left some.
    pub(super) fn stats(&self) -> Option<&Value> {
        match self {
            Outcome::Ended { stats, .. } | Outcome::Failed { stats, .. } => stats.as_ref(),
            Outcome::Refused { .. } => None,
        }
    }

    fn failed(message: impl Into<String>) -> Outcome {
        Outcome::Failed {
            message: message.into(),
            stats: None,
        }
    }
}

/// The components behind a program.
pub(crate) trait Watch {
    /// Readable when [`Watch::failure`] may have news.
    fn events(&self) -> Vec<BorrowedFd<'_>>;
    /// What has happened that the program can't survive: a sentence that names
    /// the component.
    fn failure(&mut self) -> Option<String>;
}

/// Follows a program that was asked for until its end.
pub(super) fn follow(
    mut control: Control,
    signals: &mut Signals,
    watch: &mut dyn Watch,
) -> Result<Outcome> {
    let mut until = Some(Instant::now() + START_DEADLINE);
    loop {
        let [spoke, signalled, watched] = wait(&control, signals, watch, until)?;
        if watched && let Some(message) = watch.failure() {
            return Ok(Outcome::failed(message));
        }
        if signalled {
            signals
                .take()
                .into_iter()
                .for_each(|signal| pass_on(&mut control, signal));
        }
        if spoke {
            match heard(control.hear(), watch) {
                Some(outcome) => return Ok(outcome),
                None => until = None,
            }
        }
        if until.is_some_and(|until| Instant::now() >= until) {
            let message =
                format!("the processor component did not start it within {START_DEADLINE:?}");
            return Ok(Outcome::failed(message));
        }
    }
}

/// Waits for something to happen: the program's connection, a signal, a
/// component.
fn wait(
    control: &Control,
    signals: &Signals,
    watch: &dyn Watch,
    until: Option<Instant>,
) -> Result<[bool; 3]> {
    let mut waits: Vec<PollFd<'_>> = [control.event(), signals.event()]
        .into_iter()
        .chain(watch.events())
        .map(|event| PollFd::from_borrowed_fd(event, PollFlags::IN))
        .collect();
    let left = until.map(|until| timespec(until.saturating_duration_since(Instant::now())));
    match poll(&mut waits, left.as_ref()) {
        Ok(_) | Err(rustix::io::Errno::INTR) => {}
        Err(why) => return Err(why).context("poll"),
    }
    let happened = |wait: &PollFd<'_>| !wait.revents().is_empty();
    Ok([
        happened(&waits[0]),
        happened(&waits[1]),
        waits[2..].iter().any(happened),
    ])
}

/// Job control: the program runs in a session of its own, where the terminal's
/// stop signal would do nothing, so it is told first and stopped after; then
/// we stop too, and whoever continues us continues it.
fn pass_on(control: &mut Control, signal: i32) {
    control.signal(signal);
    if signal == SIGTSTP {
        control.signal(SIGSTOP);
        let _ = signal_hook::low_level::raise(SIGSTOP);
        control.signal(SIGCONT);
    }
}

/// `None` where it goes on.
fn heard(heard: Result<Heard>, watch: &mut dyn Watch) -> Option<Outcome> {
    let replies = match heard {
        Ok(Heard::Replies(replies)) => replies,
        Ok(Heard::End) => {
            let lost = "the connection to the processor component broke".to_owned();
            return Some(Outcome::failed(cause(watch).unwrap_or(lost)));
        }
        Err(why) => return Some(Outcome::failed(format!("{why:#}"))),
    };
    replies.into_iter().find_map(|reply| outcome(reply, watch))
}

fn outcome(reply: ControlReply, watch: &mut dyn Watch) -> Option<Outcome> {
    match reply {
        ControlReply::Started { .. } | ControlReply::Counters(_) => None,
        ControlReply::Failed { message, status } => Some(Outcome::Refused { status, message }),
        ControlReply::Ended {
            end,
            stats,
            message,
        } => {
            let stats = stats.and_then(|text| serde_json::from_str(&text).ok());
            Some(match message {
                None => Outcome::Ended { end, stats },
                Some(message) => {
                    let cause = cause(watch).map(|cause| format!("{cause}; "));
                    let message = format!("{}{message}", cause.unwrap_or_default());
                    Outcome::Failed { message, stats }
                }
            })
        }
    }
}

/// A component's end shows in its connections a little before it shows to its
/// parent.
fn cause(watch: &mut dyn Watch) -> Option<String> {
    let until = Instant::now() + CAUSE_DEADLINE;
    loop {
        if let Some(message) = watch.failure() {
            return Some(message);
        }
        let left = until.saturating_duration_since(Instant::now());
        if left.is_zero() || !wait_any(&watch.events(), left) {
            return None;
        }
    }
}

fn wait_any(events: &[BorrowedFd<'_>], most: Duration) -> bool {
    let mut waits: Vec<PollFd<'_>> = events
        .iter()
        .map(|event| PollFd::from_borrowed_fd(*event, PollFlags::IN))
        .collect();
    matches!(poll(&mut waits, Some(&timespec(most))), Ok(n) if n > 0)
}
