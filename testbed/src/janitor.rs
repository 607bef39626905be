//! The janitor: a process that outlives a `testbed` that was killed, to kill
//! what it started and to remove its run directory. It is told of each
//! component by a pidfd, which can never come to mean another process.
//!
//! `testbed` holds the other end of the janitor's standard input, a socket,
//! alone (it is close-on-exec): its end of file is the end of `testbed`.

use crate::component::wait_all;
use crate::ending::Ending;
use anyhow::{Context, Result};
use rustix::event::{PollFd, PollFlags, poll};
use rustix::fd::{AsFd, BorrowedFd, OwnedFd};
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, recvmsg, sendmsg,
};
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use std::io::{IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

/// How long killed processes may take to go.
const PATIENCE: Duration = Duration::from_secs(10);

/// The janitor as `testbed` sees it.
pub(crate) struct Janitor {
    child: Child,
    pidfd: OwnedFd,
    socket: UnixStream,
}

impl Janitor {
    /// Starts one for a directory that need not exist yet.
    pub(crate) fn spawn(directory: &Path) -> Result<Janitor> {
        let mut command = Command::new("/proc/self/exe");
        command.arg0("testbed").arg("janitor").arg(directory);
        Janitor::start(command).context("cannot start the janitor")
    }

    fn start(mut command: Command) -> Result<Janitor> {
        let (socket, theirs) = UnixStream::pair()?;
        command
            .stdin(OwnedFd::from(theirs))
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        // Out of reach of the terminal's signals.
        let mut child = command.process_group(0).spawn()?;
        match pidfd_open(Pid::from_child(&child), PidfdFlags::empty()) {
            Ok(pidfd) => Ok(Janitor {
                child,
                pidfd,
                socket,
            }),
            Err(why) => {
                let _ = child.kill();
                let _ = child.wait();
                Err(why.into())
            }
        }
    }

    /// Readable when the janitor has gone.
    pub(crate) fn exit_event(&self) -> BorrowedFd<'_> {
        self.pidfd.as_fd()
    }

    /// Makes it responsible for a process. A janitor that is gone is noticed
    /// elsewhere.
    pub(crate) fn tell(&self, process: BorrowedFd<'_>) {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut rights = SendAncillaryBuffer::new(&mut space);
        let fds = [process];
        rights.push(SendAncillaryMessage::ScmRights(&fds));
        let _ = sendmsg(
            &self.socket,
            &[IoSlice::new(&[1])],
            &mut rights,
            SendFlags::NOSIGNAL,
        );
    }

    /// Ends it; nothing is left for it to do.
    pub(crate) fn dismiss(mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The janitor's own life.
pub(crate) fn run(directory: &Path) -> Ending {
    let stdin = rustix::stdio::stdin();
    let mut processes = Vec::new();
    while let Some(told) = hear(stdin) {
        processes.extend(told);
    }
    clean(&processes, directory);
    Ending::Exit(0)
}

/// The next pidfds; `None` when `testbed` has gone.
fn hear(socket: BorrowedFd<'_>) -> Option<Vec<OwnedFd>> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut ancillary = RecvAncillaryBuffer::new(&mut space);
    let mut byte = [0];
    loop {
        // An interruption is no end; anything else is.
        poll(&mut [PollFd::from_borrowed_fd(socket, PollFlags::IN)], None).ok();
        let slices = &mut [IoSliceMut::new(&mut byte)];
        match recvmsg(socket, slices, &mut ancillary, RecvFlags::CMSG_CLOEXEC) {
            Ok(message) if message.bytes > 0 => break,
            Err(rustix::io::Errno::INTR) => {}
            Ok(_) | Err(_) => return None,
        }
    }
    let rights = ancillary.drain().filter_map(|item| match item {
        RecvAncillaryMessage::ScmRights(fds) => Some(fds),
        _ => None,
    });
    Some(rights.flatten().collect())
}

fn clean(processes: &[OwnedFd], directory: &Path) {
    for process in processes {
        let _ = pidfd_send_signal(process, Signal::KILL);
    }
    let events: Vec<BorrowedFd<'_>> = processes.iter().map(AsFd::as_fd).collect();
    wait_all(&events, PATIENCE);
    crate::agent::rxe::remove_all(directory);
    let _ = std::fs::remove_dir_all(directory);
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::process::ExitStatusExt;

    /// Runs this test binary's own janitor test in a process of its own.
    fn janitor(directory: &Path) -> Janitor {
        let mut command = Command::new(std::env::current_exe().unwrap());
        command.args(["--exact", "janitor::tests::as_a_process", "--nocapture"]);
        command.env("JANITOR_DIRECTORY", directory);
        Janitor::start(command).unwrap()
    }

    /// The janitor's side of the tests below; nothing by itself.
    #[test]
    fn as_a_process() {
        if let Some(directory) = std::env::var_os("JANITOR_DIRECTORY") {
            assert_eq!(run(Path::new(&directory)), Ending::Exit(0));
        }
    }

    fn sleeper(janitor: &Janitor) -> Child {
        let child = Command::new("sleep").arg("1000").spawn().unwrap();
        let pidfd = pidfd_open(Pid::from_child(&child), PidfdFlags::empty()).unwrap();
        janitor.tell(pidfd.as_fd());
        child
    }

    #[test]
    fn cleans_up_behind_a_testbed_that_is_gone() {
        let place = tempfile::tempdir().unwrap();
        let directory = place.path().join("run");
        let janitor = janitor(&directory);
        std::fs::create_dir(&directory).unwrap();
        std::fs::write(directory.join("file"), "x").unwrap();
        let mut sleepers: Vec<Child> = (0..3).map(|_| sleeper(&janitor)).collect();
        let Janitor {
            mut child, socket, ..
        } = janitor;
        // As the kernel does for a process that is killed.
        drop(socket);
        for sleeper in &mut sleepers {
            assert_eq!(sleeper.wait().unwrap().signal(), Some(9));
        }
        assert!(child.wait().unwrap().success());
        assert!(!directory.exists());
    }

    #[test]
    fn its_own_end_harms_nobody() {
        let place = tempfile::tempdir().unwrap();
        let janitor = janitor(place.path());
        let mut sleeper_before = sleeper(&janitor);
        pidfd_send_signal(&janitor.pidfd, Signal::KILL).unwrap();
        assert!(wait_all(&[janitor.exit_event()], PATIENCE));
        let mut sleeper_after = sleeper(&janitor);
        janitor.dismiss();
        assert!(place.path().exists());
        for sleeper in [&mut sleeper_before, &mut sleeper_after] {
            assert!(sleeper.try_wait().unwrap().is_none());
            sleeper.kill().unwrap();
            sleeper.wait().unwrap();
        }
    }
}
