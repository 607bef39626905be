//! An agent as testbed sees it: asked over any byte stream, by any number of
//! threads, with a deadline for each answer.

mod component;
mod listener;
mod program;
mod transfer;

pub(crate) use component::Remote;
pub(crate) use program::{Output, Reach};

use super::message::{Answer, Message, Request, Sender, VERSION, await_greeting, receive};
use super::relay::Event;
use crate::bench::Step;
use crate::plan::Fabric;
use crate::program::Search;
use crate::stats::Question;
use anyhow::{Context, Result, anyhow, bail};
use component::RemoteState;
use listener::Listener;
use program::Streams;
use rustix::fd::{AsFd, BorrowedFd};
use std::collections::HashMap;
use std::io::{Read, Write};
use std::path::Path;
use std::sync::mpsc::{self, Receiver, RecvTimeoutError};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// How long an agent may take to answer what needs no work to speak of.
const ANSWER_DEADLINE: Duration = Duration::from_secs(30);
/// How often testbed says that it is there.
const BEAT: Duration = Duration::from_secs(5);
/// An agent that is silent for so long has gone.
const SILENCE: Duration = Duration::from_secs(60);

/// A connected agent. Dropped, the channel is no longer written to; end
/// whatever carries it to end the agent.
#[derive(Clone)]
pub(crate) struct Client {
    host: String,
    directory: String,
    sender: Sender,
    shared: Arc<Shared>,
}

/// A partner of measurements on the agent's host; it ends when dropped.
pub(crate) struct RemotePartner {
    client: Client,
    id: u32,
    address: String,
}

impl RemotePartner {
    /// Where it listens.
    pub(crate) fn address(&self) -> &str {
        &self.address
    }
}

impl Drop for RemotePartner {
    fn drop(&mut self) {
        // It goes with the agent at the latest.
        let _ = self.client.call(Request::BenchEnd { partner: self.id });
    }
}

struct Shared {
    state: Mutex<State>,
    /// Set when the agent has gone.
    lost: Event,
}

struct State {
    next: u32,
    calls: HashMap<u32, mpsc::Sender<Result<Answer, String>>>,
    programs: HashMap<u32, Streams>,
    components: HashMap<u32, Arc<RemoteState>>,
    heard: Instant,
    lost: Option<String>,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Client {
    /// Meets the agent of `host` (for messages to people) at the other end of
    /// a channel, within `deadline`.
    pub(crate) fn connect(
        host: &str,
        testbed: &str,
        mut reader: Box<dyn Read + Send>,
        writer: Box<dyn Write + Send>,
        deadline: Duration,
    ) -> Result<Client> {
        let sender = Sender::new(writer);
        let shared = Arc::new(Shared {
            state: Mutex::new(State {
                next: 1,
                calls: HashMap::new(),
                programs: HashMap::new(),
                components: HashMap::new(),
                heard: Instant::now(),
                lost: None,
            }),
            lost: Event::new().context("an event")?,
        });
        let (met, meeting) = mpsc::channel();
        let listener = Listener {
            shared: shared.clone(),
        };
        let read = move || {
            let hello = meet(&mut *reader);
            let fine = hello.is_ok();
            if met.send(hello).is_ok() && fine {
                listener.listen(&mut *reader);
            }
        };
        spawn_thread(&format!("{host}-reader"), read)?;
        let greeted = greet(&sender, testbed);
        let met = meeting.recv_timeout(deadline);
        let directory = match met {
            Ok(met) => met.with_context(|| format!("host {host}: the agent"))?,
            Err(_) => bail!("host {host}: the agent did not answer within {deadline:?}"),
        };
        greeted.with_context(|| format!("host {host}: the agent"))?;
        let client = Client {
            host: host.to_owned(),
            directory,
            sender,
            shared,
        };
        client.start_beating()?;
        Ok(client)
    }

    /// Says that we are there, and notices where the agent no longer is.
    fn start_beating(&self) -> Result<()> {
        let (sender, shared) = (self.sender.clone(), Arc::downgrade(&self.shared));
        spawn_thread(&format!("{}-beat", self.host), move || {
            loop {
                std::thread::sleep(BEAT);
                let Some(shared) = shared.upgrade() else {
                    return;
                };
                if shared.lock().heard.elapsed() > SILENCE {
                    shared.lose(&format!("nothing was heard of its agent for {SILENCE:?}"));
                }
                if shared.lock().lost.is_some() || sender.send(&Message::Alive).is_err() {
                    return;
                }
            }
        })
    }

    /// The agent's run directory, on its host.
    pub(crate) fn directory(&self) -> &Path {
        Path::new(&self.directory)
    }

    /// Readable when the agent has gone.
    pub(crate) fn lost_event(&self) -> BorrowedFd<'_> {
        self.shared.lost.as_fd()
    }

    /// Why the agent has gone, if it has.
    pub(crate) fn lost(&self) -> Option<String> {
        self.shared.lock().lost.clone()
    }

    fn number(&self) -> u32 {
        let mut state = self.shared.lock();
        let id = state.next;
        state.next = state.next.wrapping_add(1).max(1);
        id
    }

    /// Begins a call.
    fn begin(&self, id: u32, request: Request) -> Result<Receiver<Result<Answer, String>>> {
        let (reply, replied) = mpsc::channel();
        {
            let mut state = self.shared.lock();
            if let Some(why) = &state.lost {
                bail!("host {} is lost: {why}", self.host);
            }
            state.calls.insert(id, reply);
        }
        // The reader hears of a broken channel too, and says why.
        let _ = self.sender.send(&Message::Call { id, request });
        Ok(replied)
    }

    fn end(
        &self,
        id: u32,
        replied: &Receiver<Result<Answer, String>>,
        deadline: Duration,
    ) -> Result<Answer> {
        let host = &self.host;
        match replied.recv_timeout(deadline) {
            Ok(Ok(answer)) => Ok(answer),
            Ok(Err(why)) => Err(anyhow!("host {host}: {why}")),
            Err(RecvTimeoutError::Timeout) => {
                self.shared.lock().calls.remove(&id);
                bail!("host {host}: no answer within {deadline:?}")
            }
            Err(RecvTimeoutError::Disconnected) => {
                let why = self.lost().unwrap_or_default();
                bail!("host {host} is lost: {why}")
            }
        }
    }

    fn call(&self, request: Request) -> Result<Answer> {
        let id = self.number();
        let replied = self.begin(id, request)?;
        self.end(id, &replied, ANSWER_DEADLINE)
    }

    fn ask_for_bytes(&self, request: Request) -> Result<Vec<u8>> {
        self.bytes(self.number(), request, ANSWER_DEADLINE)
    }

    fn bytes(&self, id: u32, request: Request, deadline: Duration) -> Result<Vec<u8>> {
        let replied = self.begin(id, request)?;
        match self.end(id, &replied, deadline)? {
            Answer::Bytes(bytes) => Ok(bytes),
            other => bail!("host {}: the agent answered {other:?}", self.host),
        }
    }

    /// What the host offers: JSON as of `testbed doctor --json`.
    pub(crate) fn doctor(&self) -> Result<Vec<u8>> {
        self.ask_for_bytes(Request::Doctor)
    }

    /// A component's log from this byte on; empty at its end for now.
    pub(crate) fn read_log(&self, name: &str, from: u64) -> Result<Vec<u8>> {
        let name = name.to_owned();
        self.ask_for_bytes(Request::ReadLog { name, from })
    }

    /// Asks the testbed from there: JSON.
    pub(crate) fn ask(
        &self,
        gmm: &[String],
        fabric: Fabric,
        question: Question,
    ) -> Result<Vec<u8>> {
        let gmm = gmm.to_vec();
        self.ask_for_bytes(Request::Ask {
            gmm,
            fabric,
            question,
        })
    }

    /// Looks a program up there: JSON.
    pub(crate) fn find(&self, search: Search) -> Result<Vec<u8>> {
        self.ask_for_bytes(Request::Find(search))
    }

    /// Has a partner of measurements listen there, while what is given lives.
    pub(crate) fn bench_listen(&self, address: &str) -> Result<RemotePartner> {
        let (address, id) = (address.to_owned(), self.number());
        let address = self.bytes(id, Request::BenchListen { address }, ANSWER_DEADLINE)?;
        Ok(RemotePartner {
            address: String::from_utf8_lossy(&address).into_owned(),
            client: self.clone(),
            id,
        })
    }

    /// Measures from there: JSON.
    pub(crate) fn bench_measure(&self, address: &str, step: Step) -> Result<Vec<u8>> {
        let address = address.to_owned();
        let request = Request::BenchMeasure { address, step };
        self.bytes(self.number(), request, step.limit())
    }

    /// Asks the agent to take all down; it is lost when it has.
    pub(crate) fn say_goodbye(&self) {
        if self.lost().is_none() && self.sender.send(&Message::Goodbye).is_err() {
            self.shared.lose("the connection to its agent ended");
        }
    }

    /// Makes a soft-RoCE device where there is none of that name.
    pub(crate) fn add_rxe(&self, name: &str, netdev: &str) -> Result<()> {
        let (name, netdev) = (name.to_owned(), netdev.to_owned());
        self.call(Request::AddRxe { name, netdev }).map(drop)
    }
}

fn spawn_thread(name: &str, body: impl FnOnce() + Send + 'static) -> Result<()> {
    let thread = std::thread::Builder::new()
        .name(name.to_owned())
        .spawn(body);
    thread.map(drop).context("cannot start a thread")
}

fn greet(sender: &Sender, testbed: &str) -> std::io::Result<()> {
    sender.greet()?;
    sender.send(&Message::Hello {
        version: VERSION,
        testbed: testbed.to_owned(),
    })
}

/// The agent's first words: its run directory.
fn meet(reader: &mut dyn Read) -> Result<String> {
    await_greeting(reader)?;
    match receive(reader)? {
        Some(Message::Welcome {
            version: VERSION,
            directory,
        }) => Ok(directory),
        Some(Message::Welcome { version, .. }) => {
            bail!("it speaks version {version}, this testbed {VERSION}: use the same build on both")
        }
        Some(other) => bail!("it said {other:?} instead of welcome"),
        None => bail!("it ended before it was ready; see its messages on standard error"),
    }
}

impl Shared {
    /// The agent has gone, and all with it.
    fn lose(&self, why: &str) {
        let mut state = self.lock();
        if state.lost.is_some() {
            return;
        }
        state.lost = Some(why.to_owned());
        state.calls.clear();
        let programs = std::mem::take(&mut state.programs);
        programs.values().for_each(Streams::stop);
        let how = format!("is lost with its host: {why}");
        for component in state.components.values() {
            component.die(how.clone());
        }
        self.lost.set();
    }
}
