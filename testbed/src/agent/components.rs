//! Components on the agent's host. They are children of the thread that
//! serves the channel, and die with it.

use super::message::{Message, Sender};
use crate::component::{Component, Start, tail, wait_all};
use anyhow::{Context, Result, ensure};
use rustix::fd::{AsFd, BorrowedFd, OwnedFd};
use rustix::process::{Signal, pidfd_send_signal};
use std::collections::BTreeMap;
use std::time::Duration;

/// How long components may take to end when the channel has.
const STOP_DEADLINE: Duration = Duration::from_secs(3);

/// Longer than any component lives.
const FOR_EVER: Duration = Duration::from_secs(100 * 365 * 24 * 3600);

/// All components of one channel, by the number of their call.
pub(super) struct Components {
    sender: Sender,
    running: BTreeMap<u32, OwnedFd>,
}

impl Components {
    pub(super) fn new(sender: Sender) -> Components {
        Components {
            sender,
            running: BTreeMap::new(),
        }
    }

    /// Starts one; a descriptor that tells of its end.
    pub(super) fn start(&mut self, id: u32, start: Start) -> Result<BorrowedFd<'_>> {
        ensure!(!self.running.contains_key(&id), "the number {id} is in use");
        let component = Component::spawn(start)?;
        let pidfd = component.exit_event().try_clone_to_owned()?;
        let sender = self.sender.clone();
        let name = component.start.name.clone();
        std::thread::Builder::new()
            .name(name)
            .spawn(move || follow(id, component, &sender))
            .context("cannot start a thread")?;
        let kept: &OwnedFd = self.running.entry(id).or_insert(pidfd);
        Ok(kept.as_fd())
    }

    pub(super) fn stop(&self, id: u32, kill: bool) -> Result<()> {
        let pidfd = self.running.get(&id).context("no such component")?;
        let signal = if kill { Signal::KILL } else { Signal::TERM };
        // One that has ended is stopped.
        let _ = pidfd_send_signal(pidfd, signal);
        Ok(())
    }

    /// Ends all, in good order if that is quick.
    pub(super) fn end(&mut self) {
        for signal in [Signal::TERM, Signal::KILL] {
            for pidfd in self.running.values() {
                let _ = pidfd_send_signal(pidfd, signal);
            }
            let events: Vec<BorrowedFd<'_>> = self.running.values().map(AsFd::as_fd).collect();
            if wait_all(&events, STOP_DEADLINE) {
                break;
            }
        }
        self.running.clear();
    }
}

/// Tells of a component's life.
fn follow(id: u32, mut component: Component, sender: &Sender) {
    let how = loop {
        wait_all(&[component.ready_event()], FOR_EVER);
        match component.hear_ready() {
            Ok(None) => {}
            Ok(Some(ready)) => {
                let addrs = ready.addrs;
                let _ = sender.send(&Message::Ready { id, addrs });
                break None;
            }
            Err(why) => {
                component.kill();
                let name = component.start.to_string();
                let said = format!("{why:#}");
                let said = said.strip_prefix(&name).unwrap_or(&said).trim().to_owned();
                break Some(said);
            }
        }
    };
    let how = how.unwrap_or_else(|| {
        wait_all(&[component.exit_event()], FOR_EVER);
        let how = component.ended().unwrap_or_else(|| "ended".to_owned());
        how + &tail(component.start.log.as_deref())
    });
    let _ = sender.send(&Message::Died { id, how });
}
