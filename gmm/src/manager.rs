//! Decide, make durable, make it so, answer: in this order.

use crate::core::clock::Clock;
use crate::core::{Config, Core};
use crate::store::{Store, StoreError};
use proto::Identity;
use proto::gmm::{GmmReply, GmmRequest, Refusal};
use std::time::Duration;

/// The state machine and its store. `real` is the time since some fixed
/// moment, never running backwards.
pub struct Manager {
    core: Core,
    store: Store,
    clock: Clock,
    tick: Duration,
}

impl Manager {
    /// Goes on where the store's state ends.
    ///
    /// # Errors
    /// The store can't be read.
    pub fn new(config: Config, store: Store, real: Duration) -> Result<Manager, StoreError> {
        let tick = config.lease / 4;
        // Twice the tick: a little lateness is nobody's stall.
        let mut clock = Clock::new(real, tick * 2);
        let core = Core::new(config, store.load()?, clock.handle_time(real));
        Ok(Manager {
            core,
            store,
            clock,
            tick,
        })
    }

    /// How often [`Manager::handle_time`] should be called.
    #[must_use]
    pub fn tick(&self) -> Duration {
        self.tick
    }

    /// Answers a request. What the answer says is durable.
    pub fn handle_request(
        &mut self,
        from: Identity,
        request: &GmmRequest,
        real: Duration,
    ) -> GmmReply {
        let now = self.clock.handle_time(real);
        let decision = self.core.handle_request(from, request, now);
        if let Err(why) = self.store.commit(&decision.changes) {
            tracing::error!("the store failed: {why}");
            return GmmReply::Refused(Refusal::Store(why.to_string()));
        }
        let reply = decision.reply.clone();
        self.core.apply(decision, now);
        reply
    }

    /// Gives up those that were silent for too long. To be called every tick,
    /// after the requests that wait.
    pub fn handle_time(&mut self, real: Duration) {
        let now = self.clock.handle_time(real);
        while let Some((node, changes)) = self.core.poll_expired(now) {
            if let Err(why) = self.store.commit(&changes) {
                // It stays a member until the store can say otherwise too.
                tracing::error!("the store failed: {why}");
                return;
            }
            tracing::warn!(
                "{} ({}, {}) is silent: given up",
                node.name,
                node.kind,
                node.id
            );
            self.core.apply_changes(changes, now);
        }
    }
}
