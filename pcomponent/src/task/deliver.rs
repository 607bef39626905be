//! Signals to the program. The host decides which thread gets one and when
//! (its masks and pending sets are the program's); its disposition for every
//! signal is the program's own, except that a handler of the program's becomes
//! our trap, which builds the program's frame here.

use super::frame;
use super::thread::{Process, Task};
use crate::fatal;
use host::signal::{self, SigInfo, SigSet, StackT, UContext, reg};
use host::sys;
use proto::Errno;
use proto::addr::UserAddr;
use std::sync::{PoisonError, RwLock};

pub(super) const SIG_DFL: u64 = 0;
pub(super) const SIG_IGN: u64 = 1;
const SA_ONSTACK: u64 = 0x0800_0000;
const SA_NODEFER: u64 = 0x4000_0000;
const SA_RESETHAND: u64 = 0x8000_0000;
const SA_RESTART: u64 = 0x1000_0000;
const SS_DISABLE: i32 = 2;
const SS_AUTODISARM: i32 = 1 << 31;

/// What the program wants done on a signal (`struct sigaction` of the kernel).
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) struct UserAction {
    /// `SIG_DFL`, `SIG_IGN` or an address.
    pub handler: u64,
    /// `SA_*`.
    pub flags: u64,
    /// `sa_restorer`.
    pub restorer: u64,
    /// Blocked while it runs.
    pub mask: SigSet,
}

impl UserAction {
    fn is_handler(self) -> bool {
        self.handler > SIG_IGN
    }
}

/// The dispositions of a process.
pub(crate) struct Signals {
    actions: RwLock<[UserAction; 65]>,
}

impl Signals {
    /// As a new program has them; signals that the host ignores stay ignored.
    pub(crate) fn new() -> Signals {
        Signals {
            actions: RwLock::new([UserAction::default(); 65]),
        }
    }

    /// The disposition of `signo`.
    pub(crate) fn action(&self, signo: i32) -> UserAction {
        let actions = self.actions.read().unwrap_or_else(PoisonError::into_inner);
        usize::try_from(signo)
            .ok()
            .and_then(|n| actions.get(n).copied())
            .unwrap_or_default()
    }

    /// Sets it, here and at the host.
    ///
    /// # Errors
    /// `EINVAL`: no such signal, or one that can't be caught.
    pub(crate) fn set(&self, signo: i32, new: UserAction) -> Result<UserAction, Errno> {
        if !(1..=64).contains(&signo) || signo == libc::SIGKILL || signo == libc::SIGSTOP {
            return Err(Errno::EINVAL);
        }
        let mut actions = self.actions.write().unwrap_or_else(PoisonError::into_inner);
        let slot = &mut actions[signo.unsigned_abs() as usize];
        let old = std::mem::replace(slot, new);
        if !signal::SYNCHRONOUS.has(signo) {
            at_host(signo, new).map_err(|e| Errno(e.0))?;
        }
        Ok(old)
    }

    /// Has the host deliver to us what would end the program, so that what it
    /// wrote goes out first.
    ///
    /// # Errors
    /// What the host answered.
    pub(crate) fn install(&self) -> Result<(), sys::Errno> {
        (1..=64)
            .filter(|n| !matches!(*n, libc::SIGKILL | libc::SIGSTOP))
            .filter(|n| !signal::SYNCHRONOUS.has(*n))
            .try_for_each(|n| at_host(n, UserAction::default()))
    }

    fn reset(&self, signo: i32) {
        let _ = self.set(signo, UserAction::default());
    }
}

/// Makes the host's disposition follow the program's. Where the default would
/// end the program it is ours to carry out.
fn at_host(signo: i32, action: UserAction) -> Result<(), sys::Errno> {
    let ends = action.handler == SIG_DFL && !is_harmless(signo) && !stops(signo);
    if action.is_handler() || ends {
        host::trap::catch(signo)
    } else {
        signal::set_default(signo, action.handler == SIG_IGN)
    }
}

/// Whether the default action is to stop the process.
fn stops(signo: i32) -> bool {
    matches!(
        signo,
        libc::SIGTSTP | libc::SIGTTIN | libc::SIGTTOU | libc::SIGSTOP
    )
}

impl Task {
    /// Whether an interrupted call is to be made again after the handler of
    /// the signal that waits.
    pub(super) fn restarts(&self, process: &Process, info: &SigInfo) -> bool {
        let action = process.signals.action(info.signo());
        !action.is_handler() || action.flags & SA_RESTART != 0
    }

    /// Has the program handle a signal: from the host's point of view it was
    /// delivered. What the program does not handle ends it, or is nothing.
    pub(super) fn deliver(&self, process: &Process, info: &SigInfo, context: &mut UContext) {
        let signo = info.signo();
        let action = process.signals.action(signo);
        if !action.is_handler() {
            if action.handler == SIG_DFL {
                self.die_of(process, signo);
            }
            return;
        }
        if action.flags & SA_RESETHAND != 0 {
            process.signals.reset(signo);
        }
        if !self.push_frame(process, &action, info, context) {
            self.die_of(process, libc::SIGSEGV);
            return;
        }
        // A handler starts with a fresh FPU state.
        context.fpstate = 0;
        let own = if action.flags & SA_NODEFER != 0 {
            SigSet::EMPTY
        } else {
            SigSet::of(signo)
        };
        self.mask.set(self.mask.get().with(action.mask).with(own));
    }

    /// A fault of the program's own, at its instruction.
    pub(super) fn fault_signal(&self, process: &Process, info: &SigInfo, context: &mut UContext) {
        let signo = info.signo();
        let action = process.signals.action(signo);
        // The kernel does not let a fault be blocked or ignored either.
        if self.mask.get().has(signo) || !action.is_handler() {
            self.die_of(process, signo);
        } else {
            self.deliver(process, info, context);
        }
    }

    fn push_frame(
        &self,
        process: &Process,
        action: &UserAction,
        info: &SigInfo,
        context: &mut UContext,
    ) -> bool {
        let altstack = self.altstack.get();
        let sp = context.gregs[reg::RSP];
        let on_alt = contains(&altstack, sp);
        let switch = action.flags & SA_ONSTACK != 0
            && altstack.flags & SS_DISABLE == 0
            && altstack.size > 0
            && !on_alt;
        let top = if switch {
            altstack.sp.saturating_add(altstack.size)
        } else {
            sp
        };
        let mut shown = altstack;
        if on_alt {
            shown.flags |= 1; // SS_ONSTACK
        }
        let built = frame::build(&frame::Setup {
            context,
            info,
            mask: self.saved_mask.take().unwrap_or_else(|| self.mask.get()),
            altstack: shown,
            top,
            on_interrupted: !switch,
            restorer: action.restorer,
        });
        let Some(built) = built else { return false };
        if (switch || on_alt) && built.sp.0 < altstack.sp {
            return false;
        }
        if process.copy_out(self, built.sp, &built.bytes) != built.bytes.len() {
            return false;
        }
        if altstack.flags & SS_AUTODISARM != 0 && switch {
            self.altstack.set(StackT {
                flags: SS_DISABLE,
                ..StackT::default()
            });
        }
        let (si, uc) = frame::arguments(built.sp);
        let set = [
            (reg::RIP, action.handler),
            (reg::RSP, built.sp.0),
            (reg::RDI, info.signo().unsigned_abs().into()),
            (reg::RSI, si),
            (reg::RDX, uc),
            (reg::RAX, 0),
        ];
        for (register, value) in set {
            context.gregs[register] = value;
        }
        // Direction and trap flags are clear in a handler.
        context.gregs[reg::EFLAGS] &= !0x0500;
        true
    }

    /// rt_sigreturn(2): the program's frame is the truth now.
    pub(super) fn sigreturn(&self, process: &Process, context: &mut UContext) {
        let at = UserAddr(context.gregs[reg::RSP]);
        let mut raw = [0; signal::UCONTEXT_SIZE];
        if process.copy_in(self, at, &mut raw) != raw.len() {
            self.die_of(process, libc::SIGSEGV);
            return;
        }
        let saved = UContext::from_bytes(&raw);
        frame::restore_registers(context, &saved);
        self.mask.set(saved.sigmask);
        self.altstack.set(StackT {
            flags: saved.stack.flags & !1,
            ..saved.stack
        });
        if saved.fpstate == 0 {
            return;
        }
        let mut head = [0; 512];
        let at = UserAddr(saved.fpstate);
        if process.copy_in(self, at, &mut head) != head.len() {
            self.die_of(process, libc::SIGSEGV);
            return;
        }
        let mut image = vec![0; frame::xstate_size(&head)];
        if process.copy_in(self, at, &mut image) != image.len() {
            self.die_of(process, libc::SIGSEGV);
            return;
        }
        frame::restore_xstate(context, &image);
    }

    /// The default action of a signal that ends the process: by the host, so
    /// that whoever waits for it sees the same as natively.
    pub(super) fn die_of(&self, process: &Process, signo: i32) {
        if is_harmless(signo) {
            return;
        }
        if !stops(signo) {
            super::trap::last_words(process);
        }
        if signal::set_default(signo, false).is_err() {
            fatal::exit_now(128 + signo);
        }
        let ids = [rustix::process::getpid(), rustix::thread::gettid()]
            .map(|id| id.as_raw_nonzero().get() as usize);
        // SAFETY: tgkill(2) takes numbers alone.
        let sent = unsafe {
            sys::plain(
                linux_raw_sys::general::__NR_tgkill,
                [ids[0], ids[1], signo as usize, 0, 0, 0],
            )
        };
        if sent.is_err() {
            fatal::exit_now(128 + signo);
        }
        signal::set_mask(SigSet::ALL.without(SigSet::of(signo)));
        // Stopping signals come back here when the process is continued.
    }
}

/// Whether the default action is to do nothing.
fn is_harmless(signo: i32) -> bool {
    matches!(
        signo,
        libc::SIGCHLD | libc::SIGURG | libc::SIGWINCH | libc::SIGCONT
    )
}

pub(super) fn contains(stack: &StackT, sp: u64) -> bool {
    stack.flags & SS_DISABLE == 0 && sp > stack.sp && sp <= stack.sp.saturating_add(stack.size)
}
