//! The hook: what happens on each entry from the program.

use super::clone;
use super::thread::{Process, Task, current, process};
use crate::fatal;
use crate::kernel::Kernel;
use crate::memory::{Access, FaultEnd};
use crate::runahead::Registers;
use abi_linux::{Outcome, RestartKind};
use host::signal::{SigInfo, UContext, reg};
use host::trap::{self, Next};
use proto::Errno;
use proto::addr::{USER_MAX, UserAddr};

const SYS_USER_DISPATCH: i32 = 2;
const SEGV_MAPERR: i32 = 1;
const SEGV_ACCERR: i32 = 2;
const BUS_ADRERR: i32 = 2;
const ERR_WRITE: u64 = 1 << 1;
const ERR_FETCH: u64 = 1 << 4;
/// Bytes of the `syscall` instruction.
const SYSCALL_LEN: u64 = 2;

/// Called on every entry from the program, on its thread.
pub(super) fn hook(signo: i32, info: &SigInfo, context: &mut UContext) -> Next {
    let (process, task) = (process(), current());
    task.user_sp.set(context.gregs[reg::RSP]);
    let next = match signo {
        libc::SIGSYS if info.code() == SYS_USER_DISPATCH => syscall(process, task, context),
        libc::SIGBUS | libc::SIGSEGV if info.code() > 0 => {
            match fault(process, task, info, context) {
                None => return Next::Retry,
                Some(info) => program_fault(process, task, &info, context),
            }
            Next::Resume
        }
        _ => {
            task.deliver(process, info, context);
            Next::Resume
        }
    };
    if next == Next::Leave {
        pass_on(trap::take_pending(&task.block));
    }
    if next == Next::Resume {
        if let Some(info) = task
            .pending
            .take()
            .or_else(|| trap::take_pending(&task.block))
        {
            task.deliver(process, &info, context);
        }
        // A call's own mask holds no longer than the call.
        if let Some(mask) = task.saved_mask.take() {
            task.mask.set(mask);
        }
        task.set_mask(task.mask.get());
        context.sigmask = task.mask.get().without(host::signal::SYNCHRONOUS);
    }
    next
}

/// A signal that came to a thread as it ended is for another one.
fn pass_on(pending: Option<SigInfo>) {
    if let Some(info) = pending {
        let pid = rustix::process::getpid().as_raw_nonzero().get() as usize;
        let signo = info.signo() as usize;
        // SAFETY: kill(2) takes numbers alone.
        let _ = unsafe {
            host::sys::plain(linux_raw_sys::general::__NR_kill, [pid, signo, 0, 0, 0, 0])
        };
    }
}

/// Answers a miss, while the program's signals may come and are noted. What it
/// must not do then: block in a call that does not go on after EINTR, or start
/// a thread, which would have the program's mask. What it could not answer is
/// the program's fault.
fn fault(process: &Process, task: &Task, info: &SigInfo, context: &UContext) -> Option<SigInfo> {
    let at = UserAddr(info.addr());
    let error = context.gregs[reg::ERR];
    let access = match (error & ERR_FETCH != 0, error & ERR_WRITE != 0) {
        (true, _) => Access::Execute,
        (_, true) => Access::Write,
        _ => Access::Read,
    };
    if info.signo() == libc::SIGSEGV || at >= USER_MAX {
        return Some(*info);
    }
    let registers = registers(task, context);
    let end = process.memory.program_fault(
        at,
        access,
        Some(&registers),
        &mut task.scratch.borrow_mut(),
        &task.counters,
    );
    match end {
        FaultEnd::Done => None,
        FaultEnd::NotMapped => Some(SigInfo::fault(libc::SIGSEGV, SEGV_MAPERR, at.0)),
        FaultEnd::Denied => Some(SigInfo::fault(libc::SIGSEGV, SEGV_ACCERR, at.0)),
        FaultEnd::NoBacking => Some(SigInfo::fault(libc::SIGBUS, BUS_ADRERR, at.0)),
    }
}

fn registers(task: &Task, context: &UContext) -> Registers {
    use reg::{R8, RAX, RBP, RBX, RCX, RDI, RDX, RSI, RSP};
    let g = &context.gregs;
    let mut general = [0; 16];
    let low = [RAX, RCX, RDX, RBX, RSP, RBP, RSI, RDI];
    for (to, from) in general.iter_mut().zip(low.into_iter().chain(R8..R8 + 8)) {
        *to = g[from];
    }
    Registers {
        general,
        rip: g[reg::RIP],
        flags: g[reg::EFLAGS],
        fs: task.block.user_fs(),
    }
}

/// A signal that came meanwhile goes first: the handler of the fault may block
/// it. The fault comes again after it.
fn program_fault(process: &Process, task: &Task, info: &SigInfo, context: &mut UContext) {
    trap::hold();
    if !trap::has_pending(&task.block) {
        task.fault_signal(process, info, context);
    }
}

fn syscall(process: &'static Process, task: &Task, context: &mut UContext) -> Next {
    let g = &context.gregs;
    let number = g[reg::RAX];
    let args = [
        g[reg::RDI],
        g[reg::RSI],
        g[reg::RDX],
        g[reg::R10],
        g[reg::R8],
        g[reg::R9],
    ];
    task.counters.syscall(number);
    process.sites.note(process, task, number, context);
    let kernel = Kernel::new(process, task);
    match abi_linux::dispatch(&kernel, number, args) {
        Outcome::Return(value) => set_result(context, value),
        Outcome::Restart(kind) => interrupted(process, task, kind, number, context),
        Outcome::Clone(clone_args) => {
            let made = clone::clone_thread(process, task, &clone_args, context);
            set_result(context, made.map_or_else(errno, i64::from));
        }
        Outcome::SigReturn => task.sigreturn(process, context),
        Outcome::ExitThread(status) => {
            process.note_status(status);
            return Next::Leave;
        }
        Outcome::ExitGroup(status) => end_process(process, status),
    }
    Next::Resume
}

fn errno(e: Errno) -> i64 {
    -i64::from(e.0)
}

fn set_result(context: &mut UContext, value: i64) {
    context.gregs[reg::RAX] = value.cast_unsigned();
}

/// A blocking call was interrupted. With `SA_RESTART` the program makes it
/// again after its handler; else it sees EINTR.
fn interrupted(
    process: &Process,
    task: &Task,
    kind: RestartKind,
    number: u64,
    context: &mut UContext,
) {
    let pending = trap::take_pending(&task.block);
    let again = match (&pending, kind) {
        // Interrupted by something that is not the program's business.
        (None, _) => true,
        (Some(info), RestartKind::IfSaRestart) => task.restarts(process, info),
        (Some(info), RestartKind::Never) => {
            !has_handler(process, info) // a signal without effect
        }
    };
    task.pending.set(pending);
    if again {
        context.gregs[reg::RAX] = number;
        context.gregs[reg::RIP] -= SYSCALL_LEN;
    } else {
        set_result(context, errno(Errno::EINTR));
    }
}

fn has_handler(process: &Process, info: &SigInfo) -> bool {
    process.signals.action(info.signo()).handler > 1
}

/// The process ends: what others are to see of it goes out first.
pub(super) fn end_process(process: &Process, status: i32) -> ! {
    last_words(process);
    fatal::exit_now(status)
}

/// Shared mappings are written back, then files, statistics are reported and the
/// address space is given up. In this order: pages of shared mappings go to the
/// file's cache, which is flushed to storage after it has them. One thread does
/// it; others that come here wait for the end.
pub(super) fn last_words(process: &Process) {
    static ONCE: std::sync::Mutex<()> = std::sync::Mutex::new(());
    std::mem::forget(ONCE.lock());
    let (mut scratch, counters) = (process.memory.scratch(), process.registry.counters());
    process.memory.flush_for_exit(&mut scratch, &counters);
    process.kernel.flush_files();
    crate::start::report_stats(process);
    process.memory.end(process.id);
}
