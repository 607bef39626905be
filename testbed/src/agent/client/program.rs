//! Programs behind an agent, with their streams.

use super::Client;
use crate::agent::message::{Message, Request, Stream};
use crate::agent::relay::{Sink, Source, SourceHandle};
use anyhow::{Context, Result, bail};
use proto::process::{ControlReply, End, Spawn};
use rustix::fd::OwnedFd;
use serde::{Deserialize, Serialize};
use std::fs::File;
use std::io::{PipeReader, Read};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// Most output of a command that is kept, bytes of each stream.
const MOST_OUTPUT: u64 = 16 << 20;

impl Client {
    /// Starts a program on the host's processor component; `trace` takes the
    /// trace of its misses.
    pub(crate) fn spawn(
        &self,
        processor: &str,
        spawn: Spawn,
        stdio: [OwnedFd; 3],
        trace: Option<OwnedFd>,
    ) -> Result<Program> {
        let request = Request::Spawn {
            processor: processor.to_owned(),
            spawn,
            trace: trace.is_some(),
        };
        self.program(request, stdio, trace)
    }

    /// Starts a command of the host itself.
    pub(crate) fn exec(&self, argv: Vec<Vec<u8>>, stdio: [OwnedFd; 3]) -> Result<Program> {
        self.program(Request::Exec { argv }, stdio, None)
    }

    fn program(
        &self,
        request: Request,
        [stdin, stdout, stderr]: [OwnedFd; 3],
        trace: Option<OwnedFd>,
    ) -> Result<Program> {
        let id = self.number();
        let (news, heard) = mpsc::channel();
        let streams = Streams {
            input: None,
            output: Some(Sink::start(self.sender.clone(), id, Stream::Out, stdout)?),
            errors: Some(Sink::start(self.sender.clone(), id, Stream::Err, stderr)?),
            trace: trace
                .map(|fd| Sink::start(self.sender.clone(), id, Stream::Trace, fd))
                .transpose()?,
            news,
        };
        self.shared.lock().programs.insert(id, streams);
        let program = Program {
            client: self.clone(),
            id,
            heard,
        };
        let replied = self.begin(id, request)?;
        self.end(id, &replied, super::ANSWER_DEADLINE)?;
        let source = Source::start(self.sender.clone(), id, Stream::In, stdin)?;
        match self.shared.lock().programs.get_mut(&id) {
            Some(streams) => streams.input = Some(source.handle()),
            // It has ended already.
            None => source.handle().shut(),
        }
        Ok(program)
    }

    /// Runs a command of the host without input to its end.
    pub(crate) fn output(&self, argv: Vec<Vec<u8>>, deadline: Duration) -> Result<Output> {
        let (stdout, out) = std::io::pipe().context("a pipe")?;
        let (stderr, err) = std::io::pipe().context("a pipe")?;
        let (output, errors) = (collect(stdout), collect(stderr));
        let nothing = File::open("/dev/null").context("/dev/null")?;
        let program = self.exec(argv, [nothing.into(), out.into(), err.into()])?;
        let end = program.wait(deadline)?;
        Ok(Output {
            end,
            stdout: output.join().unwrap_or_default(),
            stderr: errors.join().unwrap_or_default(),
        })
    }
}

/// Reads a pipe on a thread of its own, to its end or as much as is kept: then
/// its writer is told that nobody reads.
fn collect(pipe: PipeReader) -> JoinHandle<Vec<u8>> {
    std::thread::spawn(move || {
        let mut bytes = Vec::new();
        let _ = pipe.take(MOST_OUTPUT).read_to_end(&mut bytes);
        bytes
    })
}

/// What a command of the host came to.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Output {
    pub(crate) end: End,
    pub(crate) stdout: Vec<u8>,
    pub(crate) stderr: Vec<u8>,
}

/// A program's streams at this end.
pub(super) struct Streams {
    pub(super) input: Option<SourceHandle>,
    pub(super) output: Option<Sink>,
    pub(super) errors: Option<Sink>,
    pub(super) trace: Option<Sink>,
    pub(super) news: mpsc::Sender<News>,
}

/// News of a program; its last comes with its streams, to be written to their
/// ends before.
pub(super) struct News {
    pub(super) reply: ControlReply,
    pub(super) sinks: Vec<Sink>,
}

/// A program that runs there. Dropped, it is ended.
pub(crate) struct Program {
    client: Client,
    id: u32,
    heard: Receiver<News>,
}

impl Program {
    /// The next news within a time; `None` if there is none. After the last,
    /// or when the agent is lost, the end of a lost program.
    pub(crate) fn hear(&self, most: Duration) -> Option<ControlReply> {
        match self.heard.recv_timeout(most) {
            Ok(News { reply, sinks }) => {
                sinks.into_iter().for_each(Sink::finish);
                Some(reply)
            }
            Err(RecvTimeoutError::Timeout) => None,
            Err(RecvTimeoutError::Disconnected) => {
                let why = self.client.lost().unwrap_or_default();
                Some(ControlReply::Ended {
                    end: End::Exit(125),
                    stats: None,
                    message: Some(format!("host {} is lost: {why}", self.client.host)),
                })
            }
        }
    }

    /// Its end.
    pub(crate) fn wait(&self, deadline: Duration) -> Result<End> {
        let until = Instant::now() + deadline;
        let host = &self.client.host;
        loop {
            match self.hear(until.saturating_duration_since(Instant::now())) {
                None => bail!("host {host}: it did not end within {deadline:?}"),
                Some(ControlReply::Started { .. } | ControlReply::Counters(_)) => {}
                Some(ControlReply::Failed { message, .. }) => bail!("host {host}: {message}"),
                Some(ControlReply::Ended {
                    message: Some(message),
                    ..
                }) => bail!("host {host}: {message}"),
                Some(ControlReply::Ended { end, .. }) => return Ok(end),
            }
        }
    }

    /// To signal it from elsewhere.
    pub(crate) fn reach(&self) -> Reach {
        Reach {
            client: self.client.clone(),
            id: self.id,
        }
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        let streams = self.client.shared.lock().programs.remove(&self.id);
        if let Some(streams) = streams {
            streams.stop();
            self.reach().hang_up();
        }
    }
}

/// Reaches a program on behalf of whoever wants it.
#[derive(Clone)]
pub(crate) struct Reach {
    client: Client,
    id: u32,
}

impl Reach {
    /// Signals it; one that has ended takes none.
    pub(crate) fn signal(&self, signal: i32) {
        let id = self.id;
        let _ = self.client.sender.send(&Message::Signal { id, signal });
    }

    /// Ends it: nobody wants it, nor its output.
    pub(crate) fn hang_up(&self) {
        let id = self.id;
        if let Some(streams) = self.client.shared.lock().programs.get(&id) {
            streams.stop();
        }
        let _ = self.client.sender.send(&Message::HangUp { id });
    }
}

impl Streams {
    pub(super) fn data(&self, stream: Stream, bytes: Vec<u8>) -> bool {
        let sink = match stream {
            Stream::In => None,
            Stream::Out => self.output.as_ref(),
            Stream::Err => self.errors.as_ref(),
            Stream::Trace => self.trace.as_ref(),
        };
        sink.is_some_and(|sink| sink.push(bytes))
    }

    pub(super) fn stop(&self) {
        self.input.iter().for_each(SourceHandle::shut);
        let sinks = self.output.iter().chain(&self.errors).chain(&self.trace);
        sinks.for_each(Sink::stop);
    }
}
