//! Threads: clone(2) with everything shared, and their ends.

use super::frame;
use super::thread::{Process, Task};
use abi_linux::CloneArgs;
use host::signal::{UContext, reg};
use host::sys;
use linux_raw_sys::general as nr;
use proto::Errno;
use proto::addr::UserAddr;
use std::sync::mpsc::{SyncSender, sync_channel};
use std::time::Duration;

const CLONE_SETTLS: u64 = 0x0008_0000;
const CLONE_PARENT_SETTID: u64 = 0x0010_0000;
const CLONE_CHILD_CLEARTID: u64 = 0x0020_0000;
const CLONE_CHILD_SETTID: u64 = 0x0100_0000;
/// Host stack of a thread: used before it enters the program and after.
const HOST_STACK: usize = 128 << 10;
/// A thread that was created but does not begin within this time won't.
const START_LIMIT: Duration = Duration::from_secs(10);

/// What a new thread starts with. The FPU state must be 64-byte aligned.
struct Start {
    context: UContext,
    xstate: Vec<u8>,
    fs: u64,
    clear_tid: u64,
    /// Words that get the new thread's id: the parent's and the child's. The
    /// child stores both before it runs: it may be gone, and its stack with
    /// the words in it, before the parent looks again.
    set_tid: [Option<UserAddr>; 2],
    mask: host::signal::SigSet,
}

/// Makes a thread that goes on where the parent made the call, on its own
/// stack, seeing 0. Returns its id.
pub(super) fn clone_thread(
    process: &'static Process,
    parent: &Task,
    args: &CloneArgs,
    context: &UContext,
) -> Result<i32, Errno> {
    let mut child = *context;
    child.gregs[reg::RAX] = 0;
    if args.stack != 0 {
        child.gregs[reg::RSP] = args.stack;
    }
    let has = |flag: u64| args.flags & flag != 0;
    let start = Start {
        context: child,
        xstate: frame::xstate_of(context),
        fs: if has(CLONE_SETTLS) {
            args.tls
        } else {
            parent.user_fs()
        },
        clear_tid: if has(CLONE_CHILD_CLEARTID) {
            args.child_tid
        } else {
            0
        },
        set_tid: [
            has(CLONE_PARENT_SETTID).then_some(UserAddr(args.parent_tid)),
            has(CLONE_CHILD_SETTID).then_some(UserAddr(args.child_tid)),
        ],
        mask: parent.mask(),
    };
    let spare = process.take_spare().map_err(|e| Errno(e.0))?;
    let (tell, told) = sync_channel(1);
    process.enlist();
    let spawned = std::thread::Builder::new()
        .stack_size(HOST_STACK)
        .spawn(move || {
            begin(process, Task::new(spare, start.mask), &start, &tell);
        });
    let answer = spawned
        .map_err(|_| Errno::EAGAIN)
        .and_then(|_| told.recv_timeout(START_LIMIT).map_err(|_| Errno::EAGAIN));
    match answer {
        Ok(tid) => Ok(tid),
        Err(e) => {
            process.discharge();
            Err(e)
        }
    }
}

fn begin(process: &'static Process, task: Task, start: &Start, tell: &SyncSender<i32>) {
    task.set_user_fs(start.fs);
    task.clear_child_tid.set(start.clear_tid);
    if let Err(e) = task.attach() {
        crate::fatal::host("entering a new thread", e);
    }
    process.show(&task);
    for at in start.set_tid.into_iter().flatten() {
        let _ = process.copy_out(&task, at, &task.tid.to_le_bytes());
    }
    // Only now may the parent go on: it may wait for the word to be cleared.
    let _ = tell.send(task.tid);
    let mut context = start.context;
    let mut room = vec![0u8; start.xstate.len() + 64];
    if !start.xstate.is_empty() {
        let at = room.as_ptr().align_offset(64);
        room[at..at + start.xstate.len()].copy_from_slice(&start.xstate);
        context.fpstate = room[at..].as_ptr() as u64;
    }
    task.run(&context);
    let _ = end_of_thread(process, task);
}

/// After a thread's last instruction: robust futexes, the word its joiner
/// waits on, and, for the last one, the end of the process. A first thread
/// that is not the last waits here for the others.
pub(super) fn end_of_thread(process: &'static Process, task: Task) -> sys::Errno {
    super::robust::release(process, &task);
    // Before its joiner wakes, which must not see it any more.
    process.hide(&task);
    let word = UserAddr(task.clear_child_tid.get());
    if word.0 != 0 {
        let stored =
            process
                .memory
                .store32(word, 0, &mut task.scratch.borrow_mut(), &task.counters);
        if stored.is_ok() {
            wake(word, 1);
        }
    }
    let first = task.is_first();
    process.keep_spare(task);
    if process.discharge() {
        super::trap::end_process(process, process.status());
    }
    if first {
        loop {
            std::thread::park();
        }
    }
    sys::Errno(0)
}

/// Wakes `count` threads that wait on the futex at `word`.
pub(super) fn wake(word: UserAddr, count: usize) {
    let op = (libc::FUTEX_WAKE | libc::FUTEX_PRIVATE_FLAG) as usize;
    // SAFETY: a private wake hashes the address and reads nothing.
    let _ = unsafe { sys::plain(nr::__NR_futex, [word.0 as usize, op, count, 0, 0, 0]) };
}
