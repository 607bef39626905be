//! A thread of the program, and the process it belongs to.

use super::deliver::Signals;
use super::rewrite::{self, Sites};
use crate::kernel::Kernel;
use crate::memory::{Memory, Scratch};
use crate::stats::{Counters, Registry};
use abi_linux::kernel::ThreadOps;
use host::signal::{SigInfo, SigSet, StackT, UContext};
use host::trap::{self, BlockRef};
use proto::ProcessId;
use proto::addr::UserAddr;
use proto::stats::ProgramCounters;
use rustix::fd::OwnedFd;
use std::cell::{Cell, RefCell};
use std::collections::BTreeSet;
use std::sync::atomic::{AtomicI32, AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

/// All that the threads of a program share.
pub(crate) struct Process {
    /// Its identity towards other components.
    pub id: ProcessId,
    /// Its memory.
    pub memory: Memory,
    /// Its signal dispositions.
    pub signals: Signals,
    /// The sites of its system calls.
    pub sites: Sites,
    /// Its counters.
    pub registry: Registry,
    /// Its files and descriptors, and everything else that system calls need.
    pub kernel: crate::kernel::Shared,
    /// What threads that ended left for the next ones.
    spare: Mutex<Vec<Spare>>,
    live: AtomicU32,
    /// The numbers of the program's threads; our own helpers are not among them.
    tids: Mutex<BTreeSet<i32>>,
    last_status: AtomicI32,
}

/// The parts of a thread that are worth keeping.
pub(super) struct Spare {
    pub(super) block: BlockRef,
    pub(super) counters: Arc<Counters>,
    pub(super) scratch: Scratch,
}

static PROCESS: OnceLock<Process> = OnceLock::new();

/// A thread. Only the thread itself uses it.
pub(crate) struct Task {
    /// Its host thread id, which is also what the program sees.
    pub tid: i32,
    pub(super) block: BlockRef,
    pub(crate) scratch: RefCell<Scratch>,
    /// Its counters.
    pub counters: Arc<Counters>,
    /// The signals that the program blocks on this thread.
    pub(super) mask: Cell<SigSet>,
    /// The mask to restore after a call that changed it for its duration.
    pub(super) saved_mask: Cell<Option<SigSet>>,
    /// The program's alternate signal stack.
    pub(super) altstack: Cell<StackT>,
    /// `set_tid_address(2)`: cleared and woken when the thread ends.
    pub clear_child_tid: Cell<u64>,
    /// `set_robust_list(2)`.
    pub robust_list: Cell<(u64, u64)>,
    /// The program's stack pointer at this trap.
    pub(super) user_sp: Cell<u64>,
    /// A signal that a blocking call was interrupted by.
    pub(super) pending: Cell<Option<SigInfo>>,
    /// For data on its way between program and host; see `kernel`.
    pub bounce: RefCell<Vec<u8>>,
}

impl Task {
    pub(super) fn new(spare: Spare, mask: SigSet) -> Task {
        let disabled = StackT {
            flags: 2,
            ..StackT::default()
        };
        spare.counters.lane().inspect(|lane| lane.adopt());
        Task {
            tid: rustix::thread::gettid().as_raw_nonzero().get(),
            block: spare.block,
            scratch: RefCell::new(spare.scratch),
            counters: spare.counters,
            mask: Cell::new(mask),
            saved_mask: Cell::new(None),
            altstack: Cell::new(disabled),
            clear_child_tid: Cell::new(0),
            robust_list: Cell::new((0, 0)),
            user_sp: Cell::new(0),
            pending: Cell::new(None),
            bounce: RefCell::new(Vec::new()),
        }
    }

    /// Whether it is the process's first thread.
    pub(super) fn is_first(&self) -> bool {
        self.tid == rustix::process::getpid().as_raw_nonzero().get()
    }

    /// The program's FS base.
    pub(crate) fn user_fs(&self) -> u64 {
        self.block.user_fs()
    }

    /// Sets the program's FS base.
    pub(crate) fn set_user_fs(&self, base: u64) {
        self.block.set_user_fs(base);
    }

    /// The signals blocked on this thread, as the program sees it.
    pub(crate) fn mask(&self) -> SigSet {
        self.mask.get()
    }

    /// Blocks these from now on (never SIGKILL and SIGSTOP).
    pub(crate) fn set_mask(&self, mask: SigSet) {
        let forced = SigSet::of(libc::SIGKILL).with(SigSet::of(libc::SIGSTOP));
        self.mask.set(mask.without(forced));
        self.block.set_window_mask(self.mask.get());
    }

    /// For the duration of the present system call another mask holds; a
    /// handler that runs because of it restores the one before.
    pub(crate) fn set_mask_for_call(&self, mask: SigSet) {
        self.saved_mask.set(Some(self.mask.get()));
        self.set_mask(mask);
    }

    /// The program's alternate signal stack.
    pub(crate) fn altstack(&self) -> StackT {
        self.altstack.get()
    }

    /// Whether the program runs on its alternate stack (as of this trap).
    pub(crate) fn on_altstack(&self) -> bool {
        super::deliver::contains(&self.altstack.get(), self.user_sp.get())
    }

    /// Sets it.
    pub(crate) fn set_altstack(&self, stack: StackT) {
        self.altstack.set(stack);
    }

    /// Makes the calling host thread this task's.
    pub(super) fn attach(&self) -> Result<(), host::sys::Errno> {
        let owner = std::ptr::from_ref(self).cast();
        // SAFETY: the task stays where it is until its thread has left the program.
        unsafe { self.block.attach(owner) }?;
        trap::mark_attached(true);
        self.block.set_window_mask(self.mask.get());
        let process = process();
        if process.sites.is_on() {
            let kernel = Kernel::new(process, self);
            let ids = [kernel.pid(), kernel.tid(), kernel.ppid()];
            // SAFETY: the thread has not entered the program yet; its counters
            // are its own, and the task keeps them until it has left.
            unsafe { self.block.gate().open(ids, self.counters.syscalls()) };
        }
        Ok(())
    }

    /// Runs the program on this host thread, which is attached, from `context`
    /// to the thread's end.
    pub(super) fn run(&self, context: &UContext) {
        let mut context = *context;
        context.sigmask = self.mask.get();
        // SAFETY: attached above; `context`'s FPU state is the caller's to keep.
        unsafe { self.block.enter(&context) };
    }
}

impl Process {
    /// A process without threads yet.
    pub(crate) fn new(
        id: ProcessId,
        memory: Memory,
        registry: Registry,
        kernel: crate::kernel::Shared,
        sites: Sites,
    ) -> Process {
        Process {
            sites,
            id,
            memory,
            signals: Signals::new(),
            registry,
            kernel,
            spare: Mutex::new(Vec::new()),
            live: AtomicU32::new(0),
            tids: Mutex::default(),
            last_status: AtomicI32::new(0),
        }
    }

    fn measure_trap(&self) -> Result<(), host::sys::Errno> {
        self.registry.set_trap_cost(self.memory.measure_trap()?);
        Ok(())
    }

    pub(super) fn take_spare(&self) -> Result<Spare, host::sys::Errno> {
        let kept = self
            .spare
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .pop();
        match kept {
            Some(spare) => Ok(spare),
            None => Ok(Spare {
                block: trap::new_block()?,
                counters: self.registry.counters(),
                scratch: self.memory.scratch(),
            }),
        }
    }

    /// A thread is about to run.
    pub(super) fn enlist(&self) {
        self.live.fetch_add(1, Ordering::SeqCst);
        self.memory.thread_started();
    }

    /// A thread has ended, or could not be started: true if it was the last.
    pub(super) fn discharge(&self) -> bool {
        self.memory.thread_ended();
        self.live.fetch_sub(1, Ordering::SeqCst) == 1
    }

    fn tids(&self) -> MutexGuard<'_, BTreeSet<i32>> {
        self.tids.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The numbers of the program's threads, in order.
    pub(crate) fn threads(&self) -> Vec<i32> {
        self.tids().iter().copied().collect()
    }

    /// The counters now.
    pub(crate) fn counters(&self) -> ProgramCounters {
        let (mut now, moved) = self.registry.now();
        self.memory.report_now(&mut now);
        now.links = self.memory.remote().links(moved);
        now.threads = u64::from(self.live.load(Ordering::SeqCst));
        now
    }

    /// From here on the program sees the thread.
    pub(super) fn show(&self, task: &Task) {
        self.tids().insert(task.tid);
    }

    /// The thread runs no more. The first one keeps its number to the end, as
    /// on Linux: it is the process's.
    pub(super) fn hide(&self, task: &Task) {
        if !task.is_first() {
            self.tids().remove(&task.tid);
        }
    }

    /// The thread needs its block no more.
    pub(super) fn keep_spare(&self, task: Task) {
        task.block.detach();
        let Task {
            block,
            counters,
            scratch,
            ..
        } = task;
        let spare = Spare {
            block,
            counters,
            scratch: scratch.into_inner(),
        };
        self.spare
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .push(spare);
    }

    /// Notes the status of exit(2) on one thread; returns the last noted.
    pub(super) fn note_status(&self, status: i32) {
        self.last_status.store(status, Ordering::SeqCst);
    }

    pub(super) fn status(&self) -> i32 {
        self.last_status.load(Ordering::SeqCst)
    }

    /// Copies from the program; returns how many bytes could be copied.
    pub(crate) fn copy_in(&self, task: &Task, at: UserAddr, dst: &mut [u8]) -> usize {
        self.memory
            .copy_in(at, dst, &mut task.scratch.borrow_mut(), &task.counters)
    }

    /// Copies to the program; returns how many bytes could be copied.
    pub(crate) fn copy_out(&self, task: &Task, at: UserAddr, src: &[u8]) -> usize {
        self.memory
            .copy_out(at, src, &mut task.scratch.borrow_mut(), &task.counters)
    }
}

/// The process that this host process is.
pub(super) fn process() -> &'static Process {
    PROCESS
        .get()
        .unwrap_or_else(|| crate::fatal::end("a trap before the process was made"))
}

/// The task of the calling thread, which must be inside a trap.
pub(crate) fn current() -> &'static Task {
    // SAFETY: the hook runs on attached threads only, and the task that
    // attached lives until `run` returns, after the last trap.
    unsafe { &*trap::current_owner().cast::<Task>() }
}

/// Runs the program's first thread; returns only if that could not be begun.
/// `questions` is where the manager asks for counters meanwhile.
pub(crate) fn run_main(
    process: Process,
    questions: OwnedFd,
    context: &UContext,
) -> host::sys::Errno {
    if PROCESS.set(process).is_err() {
        crate::fatal::end("a process was started twice in one host process");
    }
    let process = self::process();
    crate::watch::start(process, questions);
    trap::set_fast(rewrite::answer);
    if let Err(e) = trap::install(super::trap::hook).and_then(|()| process.signals.install()) {
        return e;
    }
    let spare = match process.take_spare() {
        Ok(spare) => spare,
        Err(e) => return e,
    };
    process.enlist();
    let task = Task::new(spare, SigSet::EMPTY);
    if let Err(e) = task.attach().and_then(|()| process.measure_trap()) {
        return e;
    }
    process.show(&task);
    task.run(context);
    super::clone::end_of_thread(process, task)
}
