//! One thread owns the manager; the fabric hands it requests in a bounded
//! queue, so that a commit never holds up the fabric.

use crate::manager::Manager;
use fabric::{Responder, Service};
use proto::Identity;
use proto::gmm::{GmmReply, GmmRequest, Refusal, Status};
use proto::wire;
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, TrySendError, sync_channel};
use std::time::{Duration, Instant};

/// Requests that may wait.
const QUEUE: usize = 1024;

struct Call {
    from: Identity,
    request: GmmRequest,
    reply: To,
}

/// Who is answered.
enum To {
    Fabric(Responder),
    Watcher(SyncSender<GmmReply>),
}

impl To {
    fn answer(self, reply: GmmReply) {
        match self {
            To::Fabric(responder) => responder.answer(&reply),
            // One that has given up needs no answer.
            To::Watcher(to) => drop(to.try_send(reply)),
        }
    }
}

/// Asks for the state now and then, after all requests that wait.
pub struct Watcher {
    calls: SyncSender<Call>,
}

impl Watcher {
    /// All that is known; `None` where it takes more than `deadline`, or where
    /// too many requests wait already.
    #[must_use]
    pub fn status(&self, deadline: Duration) -> Option<Status> {
        let (to, answer) = sync_channel(1);
        let call = Call {
            from: Identity::Operator,
            request: GmmRequest::Status,
            reply: To::Watcher(to),
        };
        self.calls.try_send(call).ok()?;
        match answer.recv_timeout(deadline) {
            Ok(GmmReply::Status(status)) => Some(status),
            _ => None,
        }
    }
}

/// gmm as a [`Service`].
pub struct Managers {
    calls: SyncSender<Call>,
}

impl Managers {
    /// Starts the manager's thread, which ends when this and all watchers are
    /// dropped. `epoch`
    /// is the moment that the manager's times count from.
    ///
    /// # Errors
    /// The thread could not be started.
    pub fn start(manager: Manager, epoch: Instant) -> std::io::Result<Managers> {
        let (calls, queue) = sync_channel(QUEUE);
        let work = move || run(manager, &queue, epoch);
        std::thread::Builder::new()
            .name("manager".to_owned())
            .spawn(work)?;
        Ok(Managers { calls })
    }

    /// For the metrics.
    #[must_use]
    pub fn watcher(&self) -> Watcher {
        let calls = self.calls.clone();
        Watcher { calls }
    }
}

impl Service for Managers {
    fn call(&self, from: Identity, request: &[u8], reply: Responder) {
        let request = match wire::decode(request) {
            Ok(request) => request,
            Err(why) => {
                tracing::debug!("{from}: {why}");
                return reply.answer(&GmmReply::Refused(Refusal::Malformed(why.to_string())));
            }
        };
        let overloaded = |call: Call| {
            let why = "too many requests wait".to_owned();
            call.reply.answer(GmmReply::Refused(Refusal::Store(why)));
        };
        match self.calls.try_send(Call {
            from,
            request,
            reply: To::Fabric(reply),
        }) {
            Ok(()) => {}
            Err(TrySendError::Full(call) | TrySendError::Disconnected(call)) => overloaded(call),
        }
    }
}

/// Requests come first: what waits may be the heartbeats of those that would
/// be given up.
fn run(mut manager: Manager, queue: &Receiver<Call>, epoch: Instant) {
    let mut next = epoch.elapsed() + manager.tick();
    loop {
        match queue.recv_timeout(next.saturating_sub(epoch.elapsed())) {
            Ok(call) => {
                let reply = manager.handle_request(call.from, &call.request, epoch.elapsed());
                tracing::debug!("{}: {:?} -> {reply:?}", call.from, call.request);
                call.reply.answer(reply);
                if epoch.elapsed() < next + manager.tick() {
                    continue;
                }
            }
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => return,
        }
        manager.handle_time(epoch.elapsed());
        next = epoch.elapsed() + manager.tick();
    }
}
