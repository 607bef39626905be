//! A component's process: started, heard when it is ready, watched, ended.

use crate::agent::{Client, Remote};
use anyhow::{Context, Result, bail};
use proto::NodeKind;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fd::{AsFd, BorrowedFd, OwnedFd};
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use serde::Deserialize;
use std::fmt;
use std::fs::File;
use std::io::Read;
use std::os::unix::process::ExitStatusExt;
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

/// What to start.
#[derive(Clone, Debug)]
pub(crate) struct Start {
    pub(crate) kind: NodeKind,
    /// Unique in the testbed.
    pub(crate) name: String,
    pub(crate) binary: PathBuf,
    pub(crate) arguments: Vec<String>,
    /// Where its messages go; standard error if nowhere.
    pub(crate) log: Option<PathBuf>,
}

/// For people: `mcomponent m0`, and plain `gmm`, of which there is one.
impl fmt::Display for Start {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.kind {
            NodeKind::Manager => write!(f, "gmm"),
            kind => write!(f, "{kind} {}", self.name),
        }
    }
}

/// What a component says of itself when it is ready.
#[derive(Clone, PartialEq, Eq, Debug, Deserialize)]
pub(crate) struct Ready {
    /// Where it listens.
    pub(crate) addrs: Vec<String>,
}

/// A running component, here or on another host; killed when dropped.
pub(crate) struct Component {
    pub(crate) start: Start,
    body: Body,
}

enum Body {
    Here(Process),
    There(Remote),
}

struct Process {
    child: Child,
    pidfd: OwnedFd,
    ready: Option<File>,
    heard: Vec<u8>,
}

impl Component {
    /// Starts it here. It dies with the calling thread. Its standard input is
    /// the pipe on which it says that it is ready: so it is inherited by it
    /// alone.
    pub(crate) fn spawn(start: Start) -> Result<Component> {
        let body = Body::Here(Process::spawn(&start)?);
        Ok(Component { start, body })
    }

    /// Starts it where an agent is.
    pub(crate) fn spawn_there(start: Start, agent: &Client) -> Result<Component> {
        let body = Body::There(agent.start(&start)?);
        Ok(Component { start, body })
    }

    /// Readable when it has ended.
    pub(crate) fn exit_event(&self) -> BorrowedFd<'_> {
        match &self.body {
            Body::Here(process) => process.pidfd.as_fd(),
            Body::There(remote) => remote.exit_event(),
        }
    }

    /// What a janitor is to kill, if it is here.
    pub(crate) fn process(&self) -> Option<BorrowedFd<'_>> {
        match &self.body {
            Body::Here(process) => Some(process.pidfd.as_fd()),
            Body::There(_) => None,
        }
    }

    /// Readable when it has said something of being ready, or can't any more.
    pub(crate) fn ready_event(&self) -> BorrowedFd<'_> {
        match &self.body {
            Body::Here(process) => {
                let ready = process.ready.as_ref();
                ready.map_or(process.pidfd.as_fd(), AsFd::as_fd)
            }
            Body::There(remote) => remote.ready_event(),
        }
    }

    /// What it said, once it has. To be called when [`Self::ready_event`] is
    /// readable.
    pub(crate) fn hear_ready(&mut self) -> Result<Option<Ready>> {
        match &mut self.body {
            Body::Here(process) => process.hear_ready(&self.start),
            Body::There(remote) => match (remote.addrs(), remote.ended()) {
                (Some(addrs), _) => Ok(Some(Ready { addrs })),
                (None, Some(how)) => bail!("{} {how}", self.start),
                (None, None) => Ok(None),
            },
        }
    }

    /// How it ended, for people, after its name; if it has.
    pub(crate) fn ended(&mut self) -> Option<String> {
        match &mut self.body {
            Body::Here(process) => process.ended().map(describe),
            Body::There(remote) => remote.ended(),
        }
    }

    /// Asks it to end in good order.
    pub(crate) fn terminate(&self) {
        match &self.body {
            Body::Here(process) => {
                let _ = pidfd_send_signal(&process.pidfd, Signal::TERM);
            }
            Body::There(remote) => remote.stop(false),
        }
    }

    /// Kills it if it still lives; reaps it if it is here.
    pub(crate) fn kill(&mut self) {
        match &mut self.body {
            Body::Here(process) => process.kill(),
            Body::There(remote) => remote.stop(true),
        }
    }
}

impl Process {
    fn spawn(start: &Start) -> Result<Process> {
        let context = || format!("cannot start {start} ({})", start.binary.display());
        let (ready, ready_end) = std::io::pipe().with_context(context)?;
        let mut command = Command::new(&start.binary);
        command.args(&start.arguments).args(["--ready-fd", "0"]);
        command.stdin(ready_end).stdout(Stdio::null());
        if let Some(path) = &start.log {
            let log = File::options().create(true).append(true).open(path);
            command.stderr(log.with_context(|| format!("cannot write {}", path.display()))?);
        }
        host::child::tie(&mut command);
        let mut child = command.spawn().with_context(context)?;
        let pidfd = pidfd_open(Pid::from_child(&child), PidfdFlags::empty());
        let pidfd = pidfd.inspect_err(|_| {
            let _ = child.kill();
            let _ = child.wait();
        });
        Ok(Process {
            pidfd: pidfd.context("pidfd_open")?,
            child,
            ready: Some(File::from(OwnedFd::from(ready))),
            heard: Vec::new(),
        })
    }

    fn hear_ready(&mut self, start: &Start) -> Result<Option<Ready>> {
        let Some(pipe) = &mut self.ready else {
            return Ok(None);
        };
        let mut bytes = [0; 4096];
        let count = pipe.read(&mut bytes).unwrap_or(0);
        self.heard.extend(&bytes[..count]);
        if let Some(end) = self.heard.iter().position(|&byte| byte == b'\n') {
            self.ready = None;
            let line = &self.heard[..end];
            let ready = serde_json::from_slice(line)
                .with_context(|| format!("{start} said something else than being ready"))?;
            return Ok(Some(ready));
        }
        if count == 0 {
            let how = self
                .wait_briefly()
                .map_or("closed its pipe".to_owned(), describe);
            let log = start.log.as_deref();
            bail!("{start} {how} before it was ready{}", tail(log));
        }
        Ok(None)
    }

    fn ended(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().ok().flatten()
    }

    fn wait_briefly(&mut self) -> Option<ExitStatus> {
        wait_all(&[self.pidfd.as_fd()], Duration::from_millis(500));
        self.ended()
    }

    fn kill(&mut self) {
        let _ = pidfd_send_signal(&self.pidfd, Signal::KILL);
        let _ = self.child.wait();
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
    }
}

/// Waits until every descriptor has become readable; false if `most` was over
/// before.
pub(crate) fn wait_all(events: &[BorrowedFd<'_>], most: Duration) -> bool {
    let until = Instant::now() + most;
    events.iter().all(|event| {
        loop {
            let left = until.saturating_duration_since(Instant::now());
            let mut waits = [PollFd::from_borrowed_fd(*event, PollFlags::IN)];
            match poll(&mut waits, Some(&timespec(left))) {
                Ok(0) => break false,
                Ok(_) => break true,
                Err(rustix::io::Errno::INTR) => {}
                Err(_) => break false,
            }
        }
    })
}

/// A duration as poll(2) takes it.
pub(crate) fn timespec(duration: Duration) -> Timespec {
    Timespec {
        tv_sec: i64::try_from(duration.as_secs()).unwrap_or(i64::MAX),
        tv_nsec: duration.subsec_nanos().into(),
    }
}

/// How a process ended, for people, after its name.
pub(crate) fn describe(status: ExitStatus) -> String {
    match (status.code(), status.signal()) {
        (Some(code), _) => format!("ended with status {code}"),
        (None, Some(signal)) => {
            let name = signal_hook::low_level::signal_name(signal).unwrap_or("a signal");
            format!("was killed by {name} ({signal})")
        }
        (None, None) => "ended".to_owned(),
    }
}

/// The last lines of a log, for a message about its writer's end.
pub(crate) fn tail(log: Option<&std::path::Path>) -> String {
    let Some(path) = log else {
        return String::new();
    };
    let text = std::fs::read(path).unwrap_or_default();
    let text = String::from_utf8_lossy(&text[text.len().saturating_sub(16_384)..]).into_owned();
    // Where RUST_BACKTRACE is set, what failed stands before a page of frames.
    let text = text
        .rsplit_once("\nStack backtrace:")
        .map_or(&*text, |(before, _)| before);
    let lines: Vec<&str> = text.lines().rev().take(5).collect();
    let last: Vec<&str> = lines.into_iter().rev().collect();
    format!("; the end of {}:\n{}", path.display(), last.join("\n"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(script: &str) -> Component {
        Component::spawn(Start {
            kind: NodeKind::Memory,
            name: "m0".to_owned(),
            binary: "/bin/sh".into(),
            arguments: vec!["-c".to_owned(), script.to_owned()],
            log: None,
        })
        .unwrap()
    }

    fn hear(component: &mut Component) -> Result<Ready> {
        loop {
            assert!(wait_all(
                &[component.ready_event()],
                Duration::from_secs(30)
            ));
            if let Some(ready) = component.hear_ready()? {
                return Ok(ready);
            }
        }
    }

    #[test]
    fn ready_is_heard_on_standard_input() {
        let mut component =
            shell(r#"printf '{"node":1,' >&0; printf '"addrs":["shm:x"]}\n' >&0; exec sleep 100"#);
        assert_eq!(hear(&mut component).unwrap().addrs, ["shm:x"]);
        assert!(component.ended().is_none());
        component.terminate();
        assert!(wait_all(&[component.exit_event()], Duration::from_secs(30)));
        let how = component.ended().unwrap();
        assert_eq!(how, "was killed by SIGTERM (15)");
    }

    #[test]
    fn an_end_before_ready_is_named() {
        let said = hear(&mut shell("exit 3")).unwrap_err().to_string();
        assert_eq!(
            said,
            "mcomponent m0 ended with status 3 before it was ready"
        );
    }

    #[test]
    fn a_backtrace_does_not_hide_what_failed() {
        let log = tempfile::NamedTempFile::new().unwrap();
        let frames = "   1: main\n".repeat(100);
        let text = format!("Error: the port is taken\n\nStack backtrace:\n{frames}");
        std::fs::write(log.path(), text).unwrap();
        let said = tail(Some(log.path()));
        assert!(
            said.contains("the port is taken") && !said.contains("main"),
            "{said}"
        );
    }

    #[test]
    fn nonsense_is_not_ready() {
        let said = hear(&mut shell("echo hello >&0; sleep 100"))
            .unwrap_err()
            .to_string();
        assert!(said.contains("mcomponent m0"), "{said}");
    }
}
