//! What the memory component at home is asked and told of changes of the
//! address space. What it can't refuse it hears of later, in order.

use super::Memory;
use crate::fatal;
use proto::Errno;
use proto::mem::{SpaceDone, SpaceOp};
use std::sync::{MutexGuard, PoisonError};

/// What is known of changes at home.
#[derive(Default)]
pub(super) struct Changes {
    /// Changes that home has not been told of yet: they can't fail there, for
    /// they need nothing that it has not promised, and did not fail in the
    /// replica.
    deferred: Vec<SpaceOp>,
    /// Whether an mprotect(2) met a hole. It makes writable what lies before the
    /// hole, and accounts for it, even if home has no room: from then on what the
    /// replica accounts for may not be promised.
    over_hole: bool,
}

/// The right to change the address space.
pub(super) type Changing<'a> = MutexGuard<'a, Changes>;

/// Home hears of deferred changes at the latest when there are this many.
const MOST_DEFERRED: usize = 64;

impl Changes {
    /// Home is asked for everything from here on.
    pub(super) fn met_hole(&mut self) {
        self.over_hole = true;
    }
}

impl Memory {
    /// From here on no other change is made until the guard is dropped.
    pub(super) fn begin_change(&self) -> Changing<'_> {
        self.changes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether home can't refuse `op`.
    pub(super) fn is_certain(&self, changes: &Changing<'_>, op: &SpaceOp) -> bool {
        !changes.over_hole && self.space().is_certain(op)
    }

    /// Sends `op` to home behind what was deferred; the answer is `op`'s.
    pub(super) fn ask_home(
        &self,
        changes: &mut Changing<'_>,
        op: SpaceOp,
    ) -> Result<SpaceDone, Errno> {
        self.tell(changes, Some(op)).unwrap_or(Err(Errno::EPROTO))
    }

    /// Home hears of `op`, which has been done here, later.
    pub(super) fn defer(&self, changes: &mut Changing<'_>, op: SpaceOp) {
        changes.deferred.push(op);
        if changes.deferred.len() >= MOST_DEFERRED {
            self.flush_deferred(changes);
        }
    }

    /// Home hears of what was deferred now.
    pub(super) fn flush_deferred(&self, changes: &mut Changing<'_>) {
        if !changes.deferred.is_empty() {
            self.tell(changes, None);
        }
    }

    /// Sends what was deferred, and `op` behind it, whose answer it gives.
    fn tell(
        &self,
        changes: &mut Changing<'_>,
        op: Option<SpaceOp>,
    ) -> Option<Result<SpaceDone, Errno>> {
        let deferred = std::mem::take(&mut changes.deferred);
        let asks = op.is_some();
        let mut done = match self
            .remote
            .space_ops(deferred.iter().cloned().chain(op).collect())
        {
            Ok(done) => done,
            Err(e) if deferred.is_empty() => return Some(Err(e)),
            Err(e) => self.refused(&format!("{} changes: {e}", deferred.len())),
        };
        if done.len() != deferred.len() + usize::from(asks) {
            fatal::confused(&self.remote.home().name, &format!("{done:?}"));
        }
        let answer = if asks { done.pop() } else { None };
        for (op, done) in deferred.iter().zip(&done) {
            match (op, done) {
                (_, Err(e)) => self.refused(&format!("{op:?}: {e}")),
                (SpaceOp::Brk { addr }, Ok(SpaceDone::Brk { addr: now, .. })) if addr != now => {
                    self.refused(&format!("{op:?}: the break stays at {now}"));
                }
                _ => {}
            }
        }
        answer
    }

    /// The program goes by a change that home does not have.
    fn refused(&self, what: &str) -> ! {
        fatal::end(&format!(
            "memory component {} refused what it had promised: {what}: this is a fault of \
             splitkernel",
            self.remote.home().name
        ))
    }
}
