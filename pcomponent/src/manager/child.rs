//! The host process of a program.

use super::Manager;
use crate::boot::Boot;
use fabric::{Credential, Options, Peer};
use proto::gmm::ProcessGrant;
use proto::mem::{MemReply, MemRequest};
use proto::process::{End, Spawn};
use proto::{Identity, ProcessId, wire};
use rustix::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use rustix::fs::{MemfdFlags, memfd_create};
use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use std::fs::File;
use std::io::{Read, Seek, Write};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{Command, Stdio};

/// A running program.
pub(super) struct Child {
    child: std::process::Child,
    pidfd: OwnedFd,
    report: File,
    text: Vec<u8>,
    stats: File,
    /// Where it is asked for counters, until that is taken.
    questions: Option<OwnedFd>,
    grant: ProcessGrant,
    credential: Credential,
    options: Options,
}

/// What a process said of its own end.
pub(super) enum Report {
    /// The program could not be started.
    CannotStart {
        /// 126 or 127, as shells have it.
        status: i32,
        /// Why.
        message: String,
    },
    /// The system failed under it.
    Fatal(String),
}

/// Starts the process: our own executable, told by a memfd what to be.
pub(super) fn spawn(
    manager: &Manager,
    spawn: Spawn,
    (stdio, trace): super::control::Streams,
    grant: ProcessGrant,
) -> Result<Child, String> {
    let identity = Identity::Process(grant.process);
    let credential = Credential {
        identity,
        secret: manager.key.derive(identity),
    };
    let options = manager.args.options().map_err(|e| e.to_string())?;
    let (report, report_end) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC)
        .map_err(|e| format!("a pipe for the process's report: {e}"))?;
    rustix::io::ioctl_fionbio(&report, true).map_err(|e| e.to_string())?;
    let memfd = |name: &str| {
        memfd_create(name, MemfdFlags::CLOEXEC).map_err(|e| format!("memfd_create: {e}"))
    };
    let (stats, boot) = (memfd("stats")?, memfd("boot")?);
    let message = Boot {
        process: grant.process,
        secret: credential.secret.clone(),
        home: grant.home.clone(),
        storage: grant.storage.clone(),
        gmm: manager.args.gmm.clone(),
        choice: manager.args.fabric.clone(),
        emulate: manager.args.emulate.clone(),
        spawn,
        trace: trace.is_some(),
        log: manager.args.log.clone(),
    };
    let mut boot = File::from(boot);
    boot.write_all(&wire::encode(&message))
        .map_err(|e| format!("boot message: {e}"))?;
    boot.rewind().map_err(|e| format!("boot message: {e}"))?;
    let (questions, questions_end) = socketpair(
        AddressFamily::UNIX,
        SocketType::SEQPACKET,
        SocketFlags::CLOEXEC,
        None,
    )
    .map_err(|e| format!("a socket to ask the process: {e}"))?;
    let stats_end = stats.try_clone().map_err(|e| e.to_string())?;
    let inherit = [boot.into(), report_end, stats_end, questions_end].into_iter();
    let child = execute(inherit.chain(trace).collect(), stdio)?;
    let pid = Pid::from_child(&child);
    let pidfd = pidfd_open(pid, PidfdFlags::empty()).map_err(|e| format!("pidfd_open: {e}"))?;
    let (report, stats) = (report.into(), stats.into());
    Ok(Child {
        child,
        pidfd,
        report,
        text: Vec::new(),
        stats,
        questions: Some(questions),
        grant,
        credential,
        options,
    })
}

/// Runs ourselves as a process: descriptors 3 to 6 are boot, report, stats,
/// questions; 7 takes the trace, if there is one.
fn execute(inherit: Vec<OwnedFd>, stdio: [OwnedFd; 3]) -> Result<std::process::Child, String> {
    let [stdin, stdout, stderr] = stdio.map(Stdio::from);
    let mut command = Command::new("/proc/self/exe");
    command
        .arg0("pcomponent-process")
        .arg("process")
        .stdin(stdin)
        .stdout(stdout)
        .stderr(stderr);
    command.env_clear();
    // The host's libc would have the kernel look at its rseq area on every trap.
    command.env("GLIBC_TUNABLES", "glibc.pthread.rseq=0");
    let manager = rustix::process::getpid();
    // Out of the way of the targets 3 to 7 before they are put there.
    let high: Vec<OwnedFd> = inherit
        .into_iter()
        .map(|fd| host::descriptor::raise(fd, 16).map_err(|e| e.to_string()))
        .collect::<Result<_, _>>()?;
    let raw: Vec<i32> = high.iter().map(AsRawFd::as_raw_fd).collect();
    // SAFETY: between fork and exec only async-signal-safe calls are made.
    unsafe {
        command.pre_exec(move || {
            for (n, fd) in raw.iter().enumerate() {
                if libc::dup2(*fd, 3 + n as i32) < 0 {
                    return Err(std::io::Error::last_os_error());
                }
            }
            libc::setsid();
            libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL);
            if libc::getppid() != manager.as_raw_nonzero().get() {
                return Err(std::io::Error::other("the manager is gone"));
            }
            Ok(())
        });
    }
    command
        .spawn()
        .map_err(|e| format!("cannot start a host process: {e}"))
}

impl Child {
    pub(super) fn process(&self) -> ProcessId {
        self.grant.process
    }
    pub(super) fn pid(&self) -> i32 {
        self.child.id().cast_signed()
    }
    /// Where it is asked for counters; once.
    pub(super) fn take_questions(&mut self) -> Option<OwnedFd> {
        self.questions.take()
    }
    pub(super) fn exit_event(&self) -> BorrowedFd<'_> {
        self.pidfd.as_fd()
    }
    pub(super) fn report(&self) -> BorrowedFd<'_> {
        self.report.as_fd()
    }
    pub(super) fn kill(&self) {
        let _ = pidfd_send_signal(&self.pidfd, Signal::KILL);
    }
    pub(super) fn signal(&self, number: i32) {
        // SAFETY: pidfd_send_signal(2) with no siginfo takes numbers alone; an
        // invalid signal is an error.
        let _ = unsafe {
            host::sys::plain(
                linux_raw_sys::general::__NR_pidfd_send_signal,
                [self.pidfd.as_raw_fd() as usize, number as usize, 0, 0, 0, 0],
            )
        };
    }

    /// What the process has said of its end by now.
    pub(super) fn read_report(&mut self) -> Option<Report> {
        let _ = self.report.read_to_end(&mut self.text);
        let text = String::from_utf8_lossy(&self.text);
        text.lines().find_map(|line| {
            if let Some(message) = line.strip_prefix("fatal ") {
                return Some(Report::Fatal(message.to_string()));
            }
            let (status, message) = line.strip_prefix("nostart ")?.split_once(' ')?;
            let status = status.parse().ok()?;
            Some(Report::CannotStart {
                status,
                message: message.to_string(),
            })
        })
    }

    /// Waits for the process, ends its address space if it could not do that
    /// itself, and returns how it ended and its statistics.
    pub(super) fn reap(mut self) -> (End, Option<String>) {
        let status = self.child.wait();
        let end = match status.map(|s| (s.code(), s.signal())) {
            Ok((Some(code), _)) => End::Exit(code),
            Ok((None, Some(signal))) => End::Signal(signal),
            _ => End::Exit(125),
        };
        let mut stats = String::new();
        let read = self
            .stats
            .rewind()
            .and_then(|()| self.stats.read_to_string(&mut stats));
        if !matches!(end, End::Exit(_)) || stats.is_empty() {
            self.end_space();
        }
        (end, (read.is_ok() && !stats.is_empty()).then_some(stats))
    }

    fn end_space(&self) {
        let addrs = self.grant.home.addrs.clone();
        let peer = Peer::new(addrs, self.credential.clone(), self.options.clone());
        let request = MemRequest::EndSpace {
            process: self.grant.process,
        };
        if let Err(e) = peer.ask::<_, MemReply>(&request) {
            tracing::debug!(
                "the address space of {} is left to its audit: {e}",
                self.process()
            );
        }
    }
}
