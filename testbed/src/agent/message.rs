//! What testbed and its node agent say to each other: one message type for
//! both directions, framed by a little-endian u32 length. Every length is
//! bounded, and what a peer says is checked where it is used.

use crate::bench::Step;
use crate::plan::Fabric;
use crate::program::Search;
use crate::stats::Question;
use anyhow::{Context, Result, bail, ensure};
use proto::NodeKind;
use proto::process::{ControlReply, Spawn};
use proto::wire;
use serde::{Deserialize, Serialize};
use std::io::{self, Read, Write};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

/// Version of these messages. Both ends are the same binary where testbed
/// deployed the agent; elsewhere (a virtual machine's image) they may differ.
pub(crate) const VERSION: u32 = 4;
/// Begins each direction, so that what a login shell prints before is told
/// apart from the agent.
pub(crate) const MAGIC: &[u8; 16] = b"\0splitkernel-ag\n";
/// Longest frame, bytes: a program's arguments, or its statistics.
pub(crate) const MOST_FRAME: usize = 16 << 20;
/// Most bytes of one [`Message::Data`].
pub(crate) const CHUNK: usize = 64 << 10;
/// Bytes of one stream that may be under way without a [`Message::Credit`].
pub(crate) const WINDOW: usize = 512 << 10;
/// What may come before [`MAGIC`], bytes.
const MOST_CHATTER: usize = 64 << 10;

/// One of a program's streams.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize, Deserialize)]
pub(crate) enum Stream {
    /// Standard input, or a file's bytes: to the agent.
    In,
    /// Standard output: from the agent.
    Out,
    /// Standard error: from the agent.
    Err,
    /// The trace of a program's misses: from the agent.
    Trace,
}

/// Where a file goes.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(crate) enum Place {
    /// The agent's run directory, which goes with the agent.
    Run,
    /// The directory of binaries, which stays: they are sent only once.
    Binaries,
}

/// What testbed asks. Answered by one [`Message::Reply`] of the same number.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub(crate) enum Request {
    /// Is a binary with this SHA-256 (hexadecimal) there? Uses it if so.
    HasBinary { name: String, sha256: String },
    /// Makes a file of the `length` bytes that follow as [`Message::Data`];
    /// it appears whole, or not at all.
    PutFile {
        place: Place,
        name: String,
        mode: u32,
        length: u64,
        sha256: String,
    },
    /// What the host offers, as `testbed doctor --json` has it.
    Doctor,
    /// Makes a soft-RoCE device on a network device, if there is none; what
    /// was made is removed when the agent ends.
    AddRxe { name: String, netdev: String },
    /// Starts a component; [`Message::Ready`] and [`Message::Died`] follow.
    Start {
        kind: NodeKind,
        name: String,
        arguments: Vec<String>,
    },
    /// Asks a component to end (SIGTERM), or ends it (SIGKILL).
    Stop { component: u32, kill: bool },
    /// A component's log from this byte on, at most [`CHUNK`] bytes.
    ReadLog { name: String, from: u64 },
    /// Starts a program on this host's processor component; whether its misses
    /// are to be traced.
    Spawn {
        processor: String,
        spawn: Spawn,
        trace: bool,
    },
    /// Asks the testbed's gmm and components from here: the operator's machine
    /// may not reach them.
    Ask {
        gmm: Vec<String>,
        fabric: Fabric,
        question: Question,
    },
    /// Looks a program up as a shell would, on this host's storage root.
    Find(Search),
    /// Runs a command of the host itself.
    Exec { argv: Vec<Vec<u8>> },
    /// Has a partner of measurements listen at a fabric address; answered
    /// with the one that it got.
    BenchListen { address: String },
    /// Ends the partner that the call of this number began.
    BenchEnd { partner: u32 },
    /// Measures the link to a partner; answered with its figures as JSON.
    BenchMeasure { address: String, step: Step },
}

/// What the agent answers.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub(crate) enum Answer {
    /// It is done.
    Done,
    /// To [`Request::HasBinary`].
    Has(bool),
    /// JSON, or bytes of a log.
    Bytes(Vec<u8>),
}

/// Either direction.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub(crate) enum Message {
    /// First, from testbed.
    Hello {
        version: u32,
        testbed: String,
    },
    /// First, from the agent.
    Welcome {
        version: u32,
        /// The run directory: paths in components' arguments lie in it.
        directory: String,
    },
    Call {
        id: u32,
        request: Request,
    },
    Reply {
        id: u32,
        result: Result<Answer, String>,
    },
    /// Bytes of a stream; none: its end.
    Data {
        id: u32,
        stream: Stream,
        bytes: Vec<u8>,
    },
    /// So many bytes more may be sent.
    Credit {
        id: u32,
        stream: Stream,
        bytes: u32,
    },
    /// Nobody reads that stream any more.
    Shut {
        id: u32,
        stream: Stream,
    },
    /// A signal for a program.
    Signal {
        id: u32,
        signal: i32,
    },
    /// Ends a program.
    HangUp {
        id: u32,
    },
    /// News of a program; after its end and its output, nothing.
    Program {
        id: u32,
        news: ControlReply,
    },
    /// A component is ready, and listens here.
    Ready {
        id: u32,
        addrs: Vec<String>,
    },
    /// A component ended: how, for people, after its name.
    Died {
        id: u32,
        how: String,
    },
    /// Somebody is there: sent where nothing else is.
    Alive,
    /// From testbed: take all down. From the agent: it is done, and its last
    /// word.
    Goodbye,
}

/// The writing half of a channel, shared by all who send.
#[derive(Clone)]
pub(crate) struct Sender(Arc<Shared>);

struct Shared {
    writer: Mutex<Box<dyn Write + Send>>,
    closed: AtomicBool,
}

impl Sender {
    pub(crate) fn new(writer: Box<dyn Write + Send>) -> Sender {
        Sender(Arc::new(Shared {
            writer: Mutex::new(writer),
            closed: AtomicBool::new(false),
        }))
    }

    /// Says who we are: before all messages.
    pub(crate) fn greet(&self) -> io::Result<()> {
        self.raw(MAGIC)
    }

    /// Sends one message. An error is the channel's end, of which the reading
    /// half hears as well.
    pub(crate) fn send(&self, message: &Message) -> io::Result<()> {
        let body = wire::encode(message);
        let len = u32::try_from(body.len()).unwrap_or(u32::MAX);
        if body.len() > MOST_FRAME {
            return Err(io::Error::other(format!(
                "a message of {} bytes exceeds {MOST_FRAME}",
                body.len()
            )));
        }
        self.raw(&[&len.to_le_bytes()[..], &body].concat())
    }

    /// Sends nothing more, also not what others wait to send: whatever carries
    /// the channel may carry another one next.
    pub(crate) fn close(&self) {
        self.0.closed.store(true, Ordering::Release);
    }

    fn raw(&self, bytes: &[u8]) -> io::Result<()> {
        let writer = self.0.writer.lock();
        let mut writer = writer.unwrap_or_else(PoisonError::into_inner);
        if self.0.closed.load(Ordering::Acquire) {
            return Err(io::ErrorKind::BrokenPipe.into());
        }
        let written = writer.write_all(bytes).and_then(|()| writer.flush());
        // After half a frame nothing makes sense any more.
        written.inspect_err(|_| self.close())
    }
}

/// Skips what comes before [`MAGIC`]; quotes it where the channel ends
/// instead.
pub(crate) fn await_greeting(reader: &mut dyn Read) -> Result<()> {
    let mut heard = Vec::new();
    let mut byte = [0];
    while !heard.ends_with(MAGIC) {
        ensure!(
            heard.len() < MOST_CHATTER,
            "something else than the agent speaks: {}",
            excerpt(&heard)
        );
        match reader.read(&mut byte) {
            Ok(0) if heard.is_empty() => bail!("it ended without a word"),
            Ok(0) => bail!("it ended after saying: {}", excerpt(&heard)),
            Ok(_) => heard.push(byte[0]),
            Err(why) if why.kind() == io::ErrorKind::Interrupted => {}
            Err(why) => return Err(why).context("reading"),
        }
    }
    Ok(())
}

fn excerpt(heard: &[u8]) -> String {
    let start = heard.len().saturating_sub(300);
    String::from_utf8_lossy(&heard[start..]).trim().to_owned()
}

/// The next message; `None` at the channel's end.
pub(crate) fn receive(reader: &mut dyn Read) -> Result<Option<Message>> {
    let mut head = [0; 4];
    match reader.read_exact(&mut head) {
        Ok(()) => {}
        Err(why) if why.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
        Err(why) => return Err(why).context("reading"),
    }
    let len = u32::from_le_bytes(head) as usize;
    ensure!(
        len <= MOST_FRAME,
        "the peer sent a frame of {len} bytes, more than {MOST_FRAME}"
    );
    let mut body = vec![0; len];
    reader.read_exact(&mut body).context("reading")?;
    let message = wire::decode(&body).context("the peer speaks another version")?;
    Ok(Some(message))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chatter_before_the_greeting_is_skipped_and_quoted() {
        let mut bytes = b"Welcome to host!\n".to_vec();
        bytes.extend(MAGIC);
        assert!(await_greeting(&mut &bytes[..]).is_ok());
        let said = await_greeting(&mut &bytes[..20]).unwrap_err().to_string();
        assert!(said.contains("Welcome to host!"), "{said}");
        assert!(await_greeting(&mut &vec![b'x'; 2 * MOST_CHATTER][..]).is_err());
    }

    proptest::proptest! {
        #[test]
        fn whatever_comes_is_a_message_an_error_or_the_end(bytes: Vec<u8>) {
            let mut reader = &bytes[..];
            while let Ok(Some(_)) = receive(&mut reader) {}
        }
    }

    #[test]
    fn after_half_a_frame_or_the_end_nothing_is_sent() {
        /// Takes a few bytes and then no more.
        struct Full(Arc<Mutex<Vec<u8>>>);
        impl Write for Full {
            fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
                let mut taken = self.0.lock().unwrap();
                let count = bytes.len().min(3_usize.saturating_sub(taken.len()));
                taken.extend(&bytes[..count]);
                Ok(count)
            }
            fn flush(&mut self) -> io::Result<()> {
                Ok(())
            }
        }
        let taken = Arc::new(Mutex::new(Vec::new()));
        let sender = Sender::new(Box::new(Full(taken.clone())));
        assert!(sender.send(&Message::Alive).is_err());
        taken.lock().unwrap().clear();
        assert!(sender.send(&Message::Alive).is_err());
        assert!(taken.lock().unwrap().is_empty());
    }

    #[test]
    fn messages_arrive_as_they_were_sent() {
        let (mut reader, writer) = std::io::pipe().unwrap();
        let sender = Sender::new(Box::new(writer));
        let message = Message::Data {
            id: 7,
            stream: Stream::Out,
            bytes: vec![1; 1000],
        };
        sender.send(&message).unwrap();
        drop(sender);
        assert_eq!(receive(&mut reader).unwrap(), Some(message));
        assert_eq!(receive(&mut reader).unwrap(), None);
    }
}
