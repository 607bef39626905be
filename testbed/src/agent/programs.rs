//! Programs on the agent's host: those of its processor component, and the
//! host's own. Their standard streams are relayed over the channel.

use super::message::{Message, Sender, Stream, WINDOW};
use super::relay::{Sink, Source, SourceHandle};
use crate::control::{Control, Heard};
use anyhow::{Context, Result, ensure};
use proto::process::{ControlReply, End, Spawn};
use rustix::fd::{AsFd, OwnedFd};
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use std::collections::HashMap;
use std::os::unix::ffi::OsStringExt;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Child, Command, ExitStatus};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Statuses that shells give.
const NOT_EXECUTABLE: i32 = 126;
const NOT_FOUND: i32 = 127;
const FAILED: i32 = 125;
/// More are a mistake.
const MOST_PROGRAMS: usize = 1024;

/// All programs of one channel.
#[derive(Clone)]
pub(super) struct Programs {
    sender: Sender,
    running: Arc<Mutex<HashMap<u32, Program>>>,
}

/// What comes from a program.
type Outputs<T> = Vec<(Stream, T)>;

struct Program {
    input: Sink,
    outputs: Outputs<SourceHandle>,
    reach: Reach,
}

/// How a program is reached.
enum Reach {
    /// One of the processor component: a second handle of its connection.
    Control(Control),
    /// One of the host.
    Process(OwnedFd),
}

impl Reach {
    fn signal(&mut self, signal: i32) {
        match self {
            Reach::Control(control) => control.signal(signal),
            Reach::Process(pidfd) => {
                if let Some(signal) = Signal::from_named_raw(signal) {
                    let _ = pidfd_send_signal(pidfd, signal);
                }
            }
        }
    }

    fn hang_up(&mut self) {
        match self {
            Reach::Control(control) => control.hang_up(),
            Reach::Process(pidfd) => {
                let _ = pidfd_send_signal(pidfd, Signal::KILL);
            }
        }
    }
}

/// A program's ends of its streams, and ours.
struct Pipes {
    theirs: [OwnedFd; 3],
    input: OwnedFd,
    outputs: Outputs<OwnedFd>,
}

impl Pipes {
    fn new() -> Result<Pipes> {
        let (stdin, input) = std::io::pipe().context("a pipe")?;
        let (output, stdout) = std::io::pipe().context("a pipe")?;
        let (errors, stderr) = std::io::pipe().context("a pipe")?;
        Ok(Pipes {
            theirs: [stdin.into(), stdout.into(), stderr.into()],
            input: input.into(),
            outputs: vec![(Stream::Out, output.into()), (Stream::Err, errors.into())],
        })
    }
}

impl Programs {
    pub(super) fn new(sender: Sender) -> Programs {
        Programs {
            sender,
            running: Arc::default(),
        }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<u32, Program>> {
        self.running.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Starts one on the processor component with this control socket; `trace`:
    /// its misses are traced.
    pub(super) fn spawn(&self, id: u32, socket: &Path, spawn: Spawn, trace: bool) -> Result<()> {
        let Pipes {
            theirs,
            input,
            mut outputs,
        } = Pipes::new()?;
        let mut traced = None;
        if trace {
            let (output, end) = std::io::pipe().context("a pipe")?;
            outputs.push((Stream::Trace, output.into()));
            traced = Some(end);
        }
        let mut control = Control::connect(socket)?;
        let [stdin, stdout, stderr] = &theirs;
        let stdio = [stdin.as_fd(), stdout.as_fd(), stderr.as_fd()];
        control.spawn(spawn, stdio, traced.as_ref().map(AsFd::as_fd))?;
        drop((theirs, traced));
        let reach = Reach::Control(control.again()?);
        let sources = self.adopt(id, reach, input, outputs)?;
        let programs = self.clone();
        self.watch(id, move || programs.follow_control(id, control, sources))
    }

    /// Starts a command of the host.
    pub(super) fn exec(&self, id: u32, argv: Vec<Vec<u8>>) -> Result<()> {
        let Pipes {
            theirs: [stdin, stdout, stderr],
            input,
            outputs,
        } = Pipes::new()?;
        let mut words = argv.into_iter().map(std::ffi::OsString::from_vec);
        let mut command = Command::new(words.next().context("no command was given")?);
        command
            .args(words)
            .stdin(stdin)
            .stdout(stdout)
            .stderr(stderr);
        host::child::tie(&mut command);
        let programs = self.clone();
        let (adopted, until_adopted) = std::sync::mpsc::channel();
        // It dies with the thread that starts it: the one that waits for it.
        self.watch(id, move || {
            let started = command.spawn();
            drop(command);
            let result = match started {
                Ok(child) => programs.follow_child(id, child, input, outputs, adopted),
                Err(why) => Err(anyhow::Error::from(why)),
            };
            if let Err(why) = result {
                programs.end(id, failed(&why));
            }
        })?;
        // Whatever comes for it from now on finds it, or it has failed.
        let _ = until_adopted.recv();
        Ok(())
    }

    fn watch(&self, id: u32, body: impl FnOnce() + Send + 'static) -> Result<()> {
        let name = format!("program{id}");
        let thread = std::thread::Builder::new().name(name).spawn(body);
        thread.map(drop).context("cannot start a thread")
    }

    fn adopt(
        &self,
        id: u32,
        reach: Reach,
        input: OwnedFd,
        outputs: Outputs<OwnedFd>,
    ) -> Result<Vec<Source>> {
        let mut running = self.lock();
        ensure!(running.len() < MOST_PROGRAMS, "too many programs at once");
        ensure!(!running.contains_key(&id), "the number {id} is in use");
        let input = Sink::start(self.sender.clone(), id, Stream::In, input)?;
        let (mut sources, mut handles) = (Vec::new(), Vec::new());
        for (stream, fd) in outputs {
            let source = Source::start(self.sender.clone(), id, stream, fd)?;
            handles.push((stream, source.handle()));
            sources.push(source);
        }
        let program = Program {
            input,
            outputs: handles,
            reach,
        };
        running.insert(id, program);
        Ok(sources)
    }

    fn follow_control(&self, id: u32, mut control: Control, sources: Vec<Source>) {
        let mut last = None;
        while last.is_none() {
            let news = match control.hear() {
                Ok(Heard::Replies(news)) => news,
                Ok(Heard::End) => vec![lost("the connection to the processor component broke")],
                Err(why) => vec![lost(&format!("{why:#}"))],
            };
            for news in news {
                if matches!(news, ControlReply::Started { .. }) {
                    let _ = self.sender.send(&Message::Program { id, news });
                } else {
                    last = Some(news);
                    break;
                }
            }
        }
        sources.into_iter().for_each(Source::drain);
        if let Some(news) = last {
            self.end(id, bounded(news));
        }
    }

    fn follow_child(
        &self,
        id: u32,
        mut child: Child,
        input: OwnedFd,
        outputs: Outputs<OwnedFd>,
        adopted: std::sync::mpsc::Sender<()>,
    ) -> Result<()> {
        let pidfd = pidfd_open(Pid::from_child(&child), PidfdFlags::empty())?;
        let sources = self.adopt(id, Reach::Process(pidfd), input, outputs)?;
        drop(adopted);
        let status = child.wait()?;
        sources.into_iter().for_each(Source::drain);
        let end = ended(status);
        let (stats, message) = (None, None);
        self.end(
            id,
            ControlReply::Ended {
                end,
                stats,
                message,
            },
        );
        Ok(())
    }

    /// Its last words.
    fn end(&self, id: u32, news: ControlReply) {
        if let Some(program) = self.lock().remove(&id) {
            program.input.stop();
        }
        let _ = self.sender.send(&Message::Program { id, news });
    }

    /// Bytes of standard input. False if the peer breaks the rules.
    pub(super) fn data(&self, id: u32, bytes: Vec<u8>) -> bool {
        // One that has just ended needs none.
        let running = self.lock();
        running
            .get(&id)
            .is_none_or(|program| program.input.push(bytes))
    }

    pub(super) fn credit(&self, id: u32, stream: Stream, bytes: u32) {
        self.with_output(id, stream, |source| source.credit(bytes));
    }

    pub(super) fn shut(&self, id: u32, stream: Stream) {
        self.with_output(id, stream, SourceHandle::shut);
    }

    fn with_output(&self, id: u32, stream: Stream, act: impl Fn(&SourceHandle)) {
        let running = self.lock();
        let Some(program) = running.get(&id) else {
            return;
        };
        let of = program.outputs.iter().find(|(name, _)| *name == stream);
        of.iter().for_each(|(_, output)| act(output));
    }

    pub(super) fn signal(&self, id: u32, signal: i32) {
        if let Some(program) = self.lock().get_mut(&id) {
            program.reach.signal(signal);
        }
    }

    /// Ends one: nobody wants it any more.
    pub(super) fn hang_up(&self, id: u32) {
        if let Some(program) = self.lock().get_mut(&id) {
            program.hang_up();
        }
    }

    /// Ends all.
    pub(super) fn hang_up_all(&self) {
        self.lock().values_mut().for_each(Program::hang_up);
    }
}

impl Program {
    fn hang_up(&mut self) {
        let outputs = self.outputs.iter();
        outputs.for_each(|(_, output)| output.shut());
        self.reach.hang_up();
    }
}

fn lost(why: &str) -> ControlReply {
    ControlReply::Ended {
        end: End::Exit(FAILED),
        stats: None,
        message: Some(why.to_owned()),
    }
}

fn failed(why: &anyhow::Error) -> ControlReply {
    let kind = why.downcast_ref().map(std::io::Error::kind);
    let status = match kind {
        Some(std::io::ErrorKind::NotFound) => NOT_FOUND,
        Some(std::io::ErrorKind::PermissionDenied) => NOT_EXECUTABLE,
        _ => FAILED,
    };
    ControlReply::Failed {
        message: format!("cannot execute it: {why:#}"),
        status,
    }
}

fn ended(status: ExitStatus) -> End {
    match (status.code(), status.signal()) {
        (Some(code), _) => End::Exit(code),
        (None, signal) => End::Signal(signal.unwrap_or(0)),
    }
}

/// Statistics that no frame holds are left out.
fn bounded(news: ControlReply) -> ControlReply {
    match news {
        ControlReply::Ended {
            end,
            stats: Some(stats),
            message,
        } if stats.len() + WINDOW > super::message::MOST_FRAME => ControlReply::Ended {
            end,
            stats: None,
            message,
        },
        news => news,
    }
}
