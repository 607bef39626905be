//! Robust futexes (set_robust_list(2), Documentation/locking/robust-futexes):
//! locks that a thread holds when it ends are marked and their waiters woken.
//! The host kernel is not told of the list: it would read program memory
//! behind the cache's back.

use super::clone::wake;
use super::thread::{Process, Task};
use proto::addr::UserAddr;

const FUTEX_WAITERS: u32 = 0x8000_0000;
const FUTEX_OWNER_DIED: u32 = 0x4000_0000;
const FUTEX_TID_MASK: u32 = 0x3fff_ffff;
/// The kernel's own bound on a list that may be circular.
const MOST_ENTRIES: usize = 2048;

/// Walks the thread's list and releases what it holds.
pub(super) fn release(process: &Process, task: &Task) {
    let (head, len) = task.robust_list.get();
    if head == 0 || len != 24 {
        return;
    }
    let word = |at: u64| {
        let mut b = [0; 8];
        (process.copy_in(task, UserAddr(at), &mut b) == 8).then(|| u64::from_le_bytes(b))
    };
    let (Some(mut entry), Some(offset), Some(pending)) = (
        word(head),
        word(head.wrapping_add(8)),
        word(head.wrapping_add(16)),
    ) else {
        return;
    };
    let mut left = MOST_ENTRIES;
    while entry != head && entry & !1 != 0 && left > 0 {
        let Some(next) = word(entry & !1) else { break };
        if entry & !1 != pending & !1 {
            let _ = died(process, task, (entry & !1).wrapping_add(offset));
        }
        entry = next;
        left -= 1;
    }
    if pending & !1 != 0 {
        let _ = died(process, task, (pending & !1).wrapping_add(offset));
    }
}

fn died(process: &Process, task: &Task, at: u64) -> Option<()> {
    let mut b = [0; 4];
    if !at.is_multiple_of(4) || process.copy_in(task, UserAddr(at), &mut b) != 4 {
        return None;
    }
    let value = u32::from_le_bytes(b);
    if value & FUTEX_TID_MASK != task.tid.unsigned_abs() {
        return None;
    }
    let marked = (value & FUTEX_WAITERS) | FUTEX_OWNER_DIED;
    let (at, me) = (UserAddr(at), &mut task.scratch.borrow_mut());
    process
        .memory
        .store32(at, marked, me, &task.counters)
        .ok()?;
    if value & FUTEX_WAITERS != 0 {
        wake(at, 1);
    }
    Some(())
}
