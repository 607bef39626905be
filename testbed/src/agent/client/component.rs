//! Components behind an agent.

use super::Client;
use crate::agent::message::{Message, Request};
use crate::agent::relay::Event;
use crate::component::Start;
use anyhow::{Context, Result};
use rustix::fd::{AsFd, BorrowedFd};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

impl Client {
    /// Starts a component; its binary and its log are the agent's affair.
    pub(crate) fn start(&self, start: &Start) -> Result<Remote> {
        let id = self.number();
        let (kind, name) = (start.kind, start.name.clone());
        let arguments = start.arguments.clone();
        let state = Arc::new(RemoteState {
            said: Mutex::default(),
            ready: Event::new().context("an event")?,
            died: Event::new().context("an event")?,
        });
        let mut shared = self.shared.lock();
        shared.components.insert(id, state.clone());
        drop(shared);
        let request = Request::Start {
            kind,
            name,
            arguments,
        };
        let replied = self.begin(id, request)?;
        self.end(id, &replied, super::ANSWER_DEADLINE)
            .with_context(|| format!("cannot start {start}"))?;
        let client = self.clone();
        Ok(Remote { client, id, state })
    }
}

/// A component that runs there. Dropped, it is ended.
pub(crate) struct Remote {
    client: Client,
    id: u32,
    state: Arc<RemoteState>,
}

pub(super) struct RemoteState {
    said: Mutex<Said>,
    pub(super) ready: Event,
    died: Event,
}

#[derive(Default)]
pub(super) struct Said {
    pub(super) addrs: Option<Vec<String>>,
    how: Option<String>,
}

impl RemoteState {
    pub(super) fn lock(&self) -> MutexGuard<'_, Said> {
        self.said.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn die(&self, how: String) {
        self.lock().how.get_or_insert(how);
        self.died.set();
        self.ready.set();
    }
}

impl Remote {
    /// Readable when it is ready, or has ended.
    pub(crate) fn ready_event(&self) -> BorrowedFd<'_> {
        self.state.ready.as_fd()
    }

    /// Readable when it has ended, or its host is lost.
    pub(crate) fn exit_event(&self) -> BorrowedFd<'_> {
        self.state.died.as_fd()
    }

    /// Where it listens, once it is ready.
    pub(crate) fn addrs(&self) -> Option<Vec<String>> {
        self.state.lock().addrs.clone()
    }

    /// How it ended, for people, after its name; if it has.
    pub(crate) fn ended(&self) -> Option<String> {
        self.state.lock().how.clone()
    }

    /// Asks it to end in good order, or ends it. Does not wait for an answer.
    pub(crate) fn stop(&self, kill: bool) {
        let id = self.client.number();
        let component = self.id;
        // An answer finds nobody who waits for it.
        let request = Request::Stop { component, kill };
        let _ = self.client.sender.send(&Message::Call { id, request });
    }
}

impl Drop for Remote {
    fn drop(&mut self) {
        if self.ended().is_none() {
            self.stop(true);
        }
        self.client.shared.lock().components.remove(&self.id);
    }
}
