//! What the memory component at home is asked and told of changes of the
//! address space. What it can't refuse it hears of later, in order.

use super::Memory;
use crate::fatal;
use proto::Errno;
use proto::addr::UserAddr;
use proto::mem::{SpaceDone, SpaceOp};
use std::sync::atomic::Ordering;
use std::sync::{MutexGuard, PoisonError};

/// Changes that home has not been told of yet: they can't fail there, for they
/// need nothing that it has not promised, and did not fail in the replica.
pub(super) type Deferred<'a> = MutexGuard<'a, Vec<SpaceOp>>;

/// Home hears of deferred changes at the latest when there are this many.
const MOST_DEFERRED: usize = 64;

impl Memory {
    /// From here on no other change is made until the guard is dropped.
    pub(super) fn begin_change(&self) -> Deferred<'_> {
        self.changes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Sends `op` to home behind what was deferred; the answer is `op`'s.
    pub(super) fn ask_home(
        &self,
        deferred: &mut Deferred<'_>,
        op: SpaceOp,
    ) -> Result<SpaceDone, Errno> {
        let mut ops = std::mem::take(&mut **deferred);
        ops.push(op);
        let asked = ops.clone();
        let refused = |why: &str| -> ! {
            fatal::end(&format!(
                "the memory component refused a change it had to take: {why}"
            ))
        };
        let mut done = match self.remote.space_ops(ops) {
            Err(e) if asked.len() > 1 => refused(&e.to_string()),
            answer => answer?,
        };
        let last = done.pop().unwrap_or(Err(Errno::EPROTO));
        for (op, done) in asked.iter().zip(&done) {
            match (op, done) {
                (_, Err(e)) => refused(&e.to_string()),
                (SpaceOp::Brk { addr }, Ok(SpaceDone::Brk { addr: now, .. })) if addr != now => {
                    refused(&format!("brk({addr})"))
                }
                _ => {}
            }
        }
        last
    }

    /// Home hears of `op`, which has been done here, later.
    pub(super) fn defer(&self, deferred: &mut Deferred<'_>, op: SpaceOp) {
        deferred.push(op);
        if deferred.len() >= MOST_DEFERRED {
            self.flush_deferred(deferred);
        }
    }

    /// Home hears of what was deferred now.
    pub(super) fn flush_deferred(&self, deferred: &mut Deferred<'_>) {
        if deferred.is_empty() {
            return;
        }
        // What is asked for last changes nothing, so that all are checked.
        let now = SpaceOp::Brk {
            addr: UserAddr::default(),
        };
        if let Err(e) = self.ask_home(deferred, now) {
            fatal::end(&format!("the memory component answered a question: {e}"));
        }
    }

    /// Whether home can't refuse `op`. After an mprotect(2) over a hole that is
    /// never certain: it makes writable what lies before the hole, and accounts
    /// for it, even if home has no room.
    pub(super) fn is_certain(&self, op: &SpaceOp) -> bool {
        !self.over_hole.load(Ordering::Relaxed) && self.space().is_certain(op)
    }
}
