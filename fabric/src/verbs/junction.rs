//! Where the threads of one end wait for what its device and its control
//! connection tell.
//!
//! Of several threads (a server's connection thread, and others that answer)
//! one leads: it polls for a while, then arms the completion queue, looks once
//! more, and sleeps until an event comes. The others wait until it has found
//! something, and lead in their turn.

use super::objects::CompletionQueue;
use super::state::State;
use super::transfers::Held;
use crate::FabricError;
use crate::spin::{Attempt, Peer};
use crate::stream::{Deadline, peer_of};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fd::{AsFd, OwnedFd};
use rustix::io::Errno;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// A thread that does not lead looks at its own deadline so often.
const LOOKS: Duration = Duration::from_millis(100);

/// Looks before the CPU is given away: a device of hardware answers within
/// them. Where there is one CPU, soft-RoCE needs it to get on.
const POLLS: u32 = 64;
const POLLS_ALONE: u32 = 8;

/// One end of a connection as its threads share it.
pub(crate) struct Junction {
    state: Mutex<State>,
    changed: Condvar,
    // After the state, whose queue pairs refer to it.
    queue: Arc<CompletionQueue>,
    control: Arc<OwnedFd>,
    name: String,
    polls: u32,
    from: Peer,
}

/// What ended a sleep; neither, if the time was over.
#[derive(Default)]
struct Slept {
    event: bool,
    control: bool,
}

/// Why a wait ended.
pub(crate) enum Woken<T> {
    Done(T),
    /// The control connection has something, or was closed.
    Control,
}

impl Junction {
    pub(crate) fn new(
        state: State,
        queue: Arc<CompletionQueue>,
        control: Arc<OwnedFd>,
        name: String,
    ) -> Junction {
        let alone = std::thread::available_parallelism().is_ok_and(|n| n.get() == 1);
        Junction {
            polls: if alone { POLLS_ALONE } else { POLLS },
            from: peer_of(&control),
            state: Mutex::new(state),
            changed: Condvar::new(),
            queue,
            control,
            name,
        }
    }

    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    pub(crate) fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes in what has come, then asks `step`, until that gives something,
    /// or `watch` holds of the control connection.
    pub(crate) fn wait<T>(
        &self,
        deadline: Option<&Deadline>,
        watch: PollFlags,
        held: &mut Held<'_>,
        mut step: impl FnMut(&mut State, &Held<'_>) -> Result<Option<T>, FabricError>,
    ) -> Result<Woken<T>, FabricError> {
        // None until something had to be waited for.
        let mut attempt: Option<Attempt> = None;
        loop {
            let mut state = self.state();
            // What is asked for has not begun yet: one look, for what has come.
            let polls = if attempt.is_some() { self.polls } else { 1 };
            let mut came = false;
            for _ in 0..polls {
                came = state.progress(&self.queue, &self.name, held)?;
                if came {
                    break;
                }
                std::hint::spin_loop();
            }
            let sleeps = !came && !state.led && attempt.as_ref().is_some_and(Attempt::is_over);
            if sleeps {
                // What came before it was armed makes no event.
                self.queue.arm()?;
                state.progress(&self.queue, &self.name, held)?;
            }
            if let Some(done) = step(&mut state, held)? {
                if let Some(attempt) = &attempt {
                    state.spin.end(attempt);
                }
                self.wake(state);
                return Ok(Woken::Done(done));
            }
            let Some(attempt) = &mut attempt else {
                // It may be done already: soft-RoCE carries out what it can
                // while it is posted. So the first look comes before the CPU
                // is given away.
                let from = deadline.map_or(Peer::Here, |_| self.from);
                attempt = Some(state.spin.begin(from));
                continue;
            };
            if state.led {
                self.follow(state, deadline)?;
            } else if sleeps {
                if self.lead(state, deadline, watch)? {
                    return Ok(Woken::Control);
                }
            } else {
                drop(state);
                let over = !attempt.again();
                // A peer that always has something to say is not let go on for
                // ever: the others look at the time where they sleep.
                if let (true, Some(deadline)) = (over, deadline) {
                    deadline.left(&self.name)?;
                }
            }
        }
    }

    /// Waits until the leader has found something.
    fn follow(
        &self,
        mut state: MutexGuard<'_, State>,
        deadline: Option<&Deadline>,
    ) -> Result<(), FabricError> {
        let left = deadline.map_or(Ok(LOOKS), |d| d.left(&self.name))?;
        state.followers += 1;
        let woken = self.changed.wait_timeout(state, left.min(LOOKS));
        let (mut state, _) = woken.unwrap_or_else(PoisonError::into_inner);
        state.followers -= 1;
        Ok(())
    }

    /// Wakes those who wait for the leader; a wake-up of nobody would be a
    /// system call all the same.
    fn wake(&self, state: MutexGuard<'_, State>) {
        let followed = state.followers > 0;
        drop(state);
        if followed {
            self.changed.notify_all();
        }
    }

    /// Sleeps until something has come; whether to the control connection.
    fn lead(
        &self,
        mut state: MutexGuard<'_, State>,
        deadline: Option<&Deadline>,
        watch: PollFlags,
    ) -> Result<bool, FabricError> {
        state.led = true;
        drop(state);
        let slept = self.sleep(deadline, watch);
        if !matches!(slept, Ok(Slept { event: false, .. })) {
            self.queue.take_event();
        }
        let mut state = self.state();
        state.led = false;
        self.wake(state);
        slept.map(|slept| slept.control)
    }

    fn sleep(&self, deadline: Option<&Deadline>, watch: PollFlags) -> Result<Slept, FabricError> {
        let left = deadline.map(|d| d.left(&self.name)).transpose()?;
        let time = left.map(|left| Timespec {
            tv_sec: i64::try_from(left.as_secs()).unwrap_or(i64::MAX),
            tv_nsec: left.subsec_nanos().into(),
        });
        let mut fds = [
            PollFd::from_borrowed_fd(self.queue.channel().as_fd(), PollFlags::IN),
            PollFd::from_borrowed_fd(self.control.as_fd(), watch),
        ];
        match poll(&mut fds, time.as_ref()) {
            Ok(_) => Ok(Slept {
                event: !fds[0].revents().is_empty(),
                control: !fds[1].revents().is_empty(),
            }),
            Err(Errno::INTR) => Ok(Slept::default()),
            Err(e) => Err(FabricError::broken(&self.name, e)),
        }
    }
}

impl Drop for Junction {
    fn drop(&mut self) {
        let state = self.state.get_mut().unwrap_or_else(PoisonError::into_inner);
        state.close(&self.queue);
    }
}
