//! An agent as testbed sees it: asked over any byte stream, by any number of
//! threads, with a deadline for each answer.

use super::files::{sha256, sha256_of};
use super::message::{
    Answer, CHUNK, Message, Place, Request, Sender, Stream, VERSION, await_greeting, receive,
};
use super::relay::{Event, Sink, Source, SourceHandle};
use crate::component::Start;
use crate::plan::Fabric;
use crate::program::Search;
use crate::stats::Question;
use anyhow::{Context, Result, anyhow, bail};
use proto::process::{ControlReply, End, Spawn};
use rustix::fd::{AsFd, BorrowedFd, OwnedFd};
use std::collections::HashMap;
use std::fs::File;
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
/// A transfer that takes longer is given up.
const TRANSFER_DEADLINE: Duration = Duration::from_secs(600);

/// A connected agent. Dropped, the channel is no longer written to; end
/// whatever carries it to end the agent.
#[derive(Clone)]
pub(crate) struct Client {
    host: String,
    directory: String,
    machine: String,
    sender: Sender,
    shared: Arc<Shared>,
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
        let (directory, machine) = match met {
            Ok(met) => met.with_context(|| format!("host {host}: the agent"))?,
            Err(_) => bail!("host {host}: the agent did not answer within {deadline:?}"),
        };
        greeted.with_context(|| format!("host {host}: the agent"))?;
        let client = Client {
            host: host.to_owned(),
            directory,
            machine,
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

    /// As people know it.
    pub(crate) fn host(&self) -> &str {
        &self.host
    }

    /// The agent's run directory, on its host.
    pub(crate) fn directory(&self) -> &Path {
        Path::new(&self.directory)
    }

    /// As uname(2) has it.
    pub(crate) fn machine(&self) -> &str {
        &self.machine
    }

    /// Readable when the agent has gone.
    pub(crate) fn lost_event(&self) -> BorrowedFd<'_> {
        self.shared.lost.as_fd()
    }

    /// Why the agent has gone, if it has.
    pub(crate) fn lost(&self) -> Option<String> {
        self.shared.lock().lost.clone()
    }

    /// Gives it up: all that is under way fails with these words.
    pub(crate) fn lose(&self, why: &str) {
        self.shared.lose(why);
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

    fn bytes(&self, request: Request) -> Result<Vec<u8>> {
        match self.call(request)? {
            Answer::Bytes(bytes) => Ok(bytes),
            other => bail!("host {}: the agent answered {other:?}", self.host),
        }
    }

    /// What the host offers: JSON as of `testbed doctor --json`.
    pub(crate) fn doctor(&self) -> Result<Vec<u8>> {
        self.bytes(Request::Doctor)
    }

    /// A component's log from this byte on; empty at its end for now.
    pub(crate) fn read_log(&self, name: &str, from: u64) -> Result<Vec<u8>> {
        let name = name.to_owned();
        self.bytes(Request::ReadLog { name, from })
    }

    /// Asks the testbed from there: JSON.
    pub(crate) fn ask(
        &self,
        gmm: &[String],
        fabric: Fabric,
        question: Question,
    ) -> Result<Vec<u8>> {
        let gmm = gmm.to_vec();
        self.bytes(Request::Ask {
            gmm,
            fabric,
            question,
        })
    }

    /// Looks a program up there: JSON.
    pub(crate) fn find(&self, search: Search) -> Result<Vec<u8>> {
        self.bytes(Request::Find(search))
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

    /// Removes one that was made so.
    pub(crate) fn remove_rxe(&self, name: &str) -> Result<()> {
        let name = name.to_owned();
        self.call(Request::RemoveRxe { name }).map(drop)
    }

    /// Puts a small file into the run directory.
    pub(crate) fn put(&self, name: &str, mode: u32, bytes: &[u8]) -> Result<()> {
        let head = (name, mode, bytes.len() as u64, sha256(bytes));
        self.transfer(Place::Run, head, &mut &bytes[..])
            .with_context(|| format!("cannot put {name}"))
    }

    /// Sees to it that the host has this binary: sends it if it hasn't.
    pub(crate) fn put_binary(&self, name: &str, path: &Path) -> Result<()> {
        let sha256 = sha256_of(path)?;
        let asked = Request::HasBinary {
            name: name.to_owned(),
            sha256: sha256.clone(),
        };
        if self.call(asked)? == Answer::Has(true) {
            return Ok(());
        }
        let context = || format!("cannot read {}", path.display());
        let mut file = File::open(path).with_context(context)?;
        let length = file.metadata().with_context(context)?.len();
        self.transfer(Place::Binaries, (name, 0o755, length, sha256), &mut file)
            .with_context(|| format!("cannot put {name}"))
    }

    fn transfer(
        &self,
        place: Place,
        (name, mode, length, sha256): (&str, u32, u64, String),
        from: &mut dyn Read,
    ) -> Result<()> {
        let id = self.number();
        let name = name.to_owned();
        let request = Request::PutFile {
            place,
            name,
            mode,
            length,
            sha256,
        };
        let replied = self.begin(id, request)?;
        let mut buffer = vec![0; CHUNK];
        let mut from = from.take(length);
        loop {
            let count = from.read(&mut buffer).context("reading")?;
            // An answer before the end is a refusal.
            if count == 0 || !self.shared.lock().calls.contains_key(&id) {
                break;
            }
            let (stream, bytes) = (Stream::In, buffer[..count].to_vec());
            if self
                .sender
                .send(&Message::Data { id, stream, bytes })
                .is_err()
            {
                break;
            }
        }
        self.end(id, &replied, TRANSFER_DEADLINE).map(drop)
    }

    /// Starts a component; its binary and its log are the agent's affair.
    pub(crate) fn start(&self, start: &Start) -> Result<Remote> {
        let id = self.number();
        let (kind, name) = (start.kind, start.name.clone());
        let arguments = start.arguments.clone();
        let state = Arc::new(RemoteState {
            said: Mutex::default(),
            ready: Event::new().context("an event")?,
            died: Event::new().context("an event")?,
        });
        let mut shared = self.shared.lock();
        shared.components.insert(id, state.clone());
        drop(shared);
        let request = Request::Start {
            kind,
            name,
            arguments,
        };
        let replied = self.begin(id, request)?;
        self.end(id, &replied, ANSWER_DEADLINE)
            .with_context(|| format!("cannot start {start}"))?;
        let client = self.clone();
        Ok(Remote { client, id, state })
    }

    /// Starts a program on the host's processor component.
    pub(crate) fn spawn(
        &self,
        processor: &str,
        spawn: Spawn,
        stdio: [OwnedFd; 3],
    ) -> Result<Program> {
        let processor = processor.to_owned();
        self.program(Request::Spawn { processor, spawn }, stdio)
    }

    /// Starts a command of the host itself.
    pub(crate) fn exec(&self, argv: Vec<Vec<u8>>, stdio: [OwnedFd; 3]) -> Result<Program> {
        self.program(Request::Exec { argv }, stdio)
    }

    fn program(&self, request: Request, [stdin, stdout, stderr]: [OwnedFd; 3]) -> Result<Program> {
        let id = self.number();
        let (news, heard) = mpsc::channel();
        let streams = Streams {
            input: None,
            output: Some(Sink::start(self.sender.clone(), id, Stream::Out, stdout)?),
            errors: Some(Sink::start(self.sender.clone(), id, Stream::Err, stderr)?),
            news,
        };
        self.shared.lock().programs.insert(id, streams);
        let program = Program {
            client: self.clone(),
            id,
            heard,
        };
        let replied = self.begin(id, request)?;
        self.end(id, &replied, ANSWER_DEADLINE)?;
        let source = Source::start(self.sender.clone(), id, Stream::In, stdin)?;
        match self.shared.lock().programs.get_mut(&id) {
            Some(streams) => streams.input = Some(source.handle()),
            // It has ended already.
            None => source.handle().shut(),
        }
        Ok(program)
    }

    /// Runs a command of the host without input to its end.
    pub(crate) fn output(&self, argv: &[&str], deadline: Duration) -> Result<Output> {
        let argv = argv.iter().map(|word| word.as_bytes().to_vec()).collect();
        let (mut stdout, out) = std::io::pipe().context("a pipe")?;
        let (mut stderr, err) = std::io::pipe().context("a pipe")?;
        let nothing = File::open("/dev/null").context("/dev/null")?;
        let program = self.exec(argv, [nothing.into(), out.into(), err.into()])?;
        let errors = std::thread::spawn(move || {
            let mut bytes = Vec::new();
            let _ = stderr.read_to_end(&mut bytes);
            bytes
        });
        let output = std::thread::spawn(move || {
            let mut bytes = Vec::new();
            let _ = stdout.read_to_end(&mut bytes);
            bytes
        });
        let end = program.wait(deadline)?;
        Ok(Output {
            end,
            stdout: output.join().unwrap_or_default(),
            stderr: errors.join().unwrap_or_default(),
        })
    }
}

/// What a command of the host came to.
#[derive(Debug)]
pub(crate) struct Output {
    pub(crate) end: End,
    pub(crate) stdout: Vec<u8>,
    pub(crate) stderr: Vec<u8>,
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

/// The agent's first words: its run directory and its machine.
fn meet(reader: &mut dyn Read) -> Result<(String, String)> {
    await_greeting(reader)?;
    match receive(reader)? {
        Some(Message::Welcome {
            version: VERSION,
            directory,
            machine,
        }) => Ok((directory, machine)),
        Some(Message::Welcome { version, .. }) => {
            bail!("it speaks version {version}, this testbed {VERSION}: use the same build on both")
        }
        Some(other) => bail!("it said {other:?} instead of welcome"),
        None => bail!("it ended before it was ready; see its messages on standard error"),
    }
}

/// A program's streams at this end.
struct Streams {
    input: Option<SourceHandle>,
    output: Option<Sink>,
    errors: Option<Sink>,
    news: mpsc::Sender<News>,
}

/// News of a program; its last comes with its streams, to be written to their
/// ends before.
struct News {
    reply: ControlReply,
    sinks: Vec<Sink>,
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
                Some(ControlReply::Started { .. }) => {}
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
    fn data(&self, stream: Stream, bytes: Vec<u8>) -> bool {
        let sink = match stream {
            Stream::In => None,
            Stream::Out => self.output.as_ref(),
            Stream::Err => self.errors.as_ref(),
        };
        sink.is_some_and(|sink| sink.push(bytes))
    }

    fn stop(&self) {
        self.input.iter().for_each(SourceHandle::shut);
        self.output.iter().chain(&self.errors).for_each(Sink::stop);
    }
}

/// A component that runs there. Dropped, it is ended.
pub(crate) struct Remote {
    client: Client,
    id: u32,
    state: Arc<RemoteState>,
}

struct RemoteState {
    said: Mutex<Said>,
    ready: Event,
    died: Event,
}

#[derive(Default)]
struct Said {
    addrs: Option<Vec<String>>,
    how: Option<String>,
}

impl RemoteState {
    fn lock(&self) -> MutexGuard<'_, Said> {
        self.said.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn die(&self, how: String) {
        self.lock().how.get_or_insert(how);
        self.died.set();
        self.ready.set();
    }
}

impl Remote {
    /// Readable when it is ready, or has ended.
    pub(crate) fn ready_event(&self) -> BorrowedFd<'_> {
        self.state.ready.as_fd()
    }

    /// Readable when it has ended, or its host is lost.
    pub(crate) fn exit_event(&self) -> BorrowedFd<'_> {
        self.state.died.as_fd()
    }

    /// Where it listens, once it is ready.
    pub(crate) fn addrs(&self) -> Option<Vec<String>> {
        self.state.lock().addrs.clone()
    }

    /// How it ended, for people, after its name; if it has.
    pub(crate) fn ended(&self) -> Option<String> {
        self.state.lock().how.clone()
    }

    /// Asks it to end in good order, or ends it. Does not wait for an answer.
    pub(crate) fn stop(&self, kill: bool) {
        let id = self.client.number();
        let component = self.id;
        // An answer finds nobody who waits for it.
        let request = Request::Stop { component, kill };
        let _ = self.client.sender.send(&Message::Call { id, request });
    }
}

impl Drop for Remote {
    fn drop(&mut self) {
        if self.ended().is_none() {
            self.stop(true);
        }
        self.client.shared.lock().components.remove(&self.id);
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

/// Reads what the agent says, and gives it to whom it concerns.
struct Listener {
    shared: Arc<Shared>,
}

impl Listener {
    fn listen(&self, reader: &mut dyn Read) {
        let why = loop {
            match receive(reader) {
                Ok(Some(message)) => {
                    if let Err(why) = self.handle(message) {
                        break why;
                    }
                }
                Ok(None) => break "the connection to its agent ended".to_owned(),
                Err(why) => break format!("{why:#}"),
            }
        };
        self.shared.lose(&why);
    }

    fn handle(&self, message: Message) -> Result<(), String> {
        let mut state = self.shared.lock();
        state.heard = Instant::now();
        match message {
            Message::Reply { id, result } => {
                if let Some(call) = state.calls.remove(&id) {
                    let _ = call.send(result);
                }
            }
            Message::Data { id, stream, bytes } => {
                let program = state.programs.get(&id);
                if !program.is_none_or(|program| program.data(stream, bytes)) {
                    return Err("its agent sent more than it may".to_owned());
                }
            }
            Message::Credit { id, bytes, .. } => {
                let input = state.programs.get(&id).and_then(|p| p.input.as_ref());
                input.into_iter().for_each(|input| input.credit(bytes));
            }
            Message::Shut { id, .. } => {
                let input = state.programs.get(&id).and_then(|p| p.input.as_ref());
                input.into_iter().for_each(SourceHandle::shut);
            }
            Message::Program { id, news } => news_of(&mut state, id, news),
            Message::Ready { id, addrs } => {
                if let Some(component) = state.components.get(&id) {
                    component.lock().addrs = Some(addrs);
                    component.ready.set();
                }
            }
            Message::Died { id, how } => {
                if let Some(component) = state.components.get(&id) {
                    component.die(how);
                }
            }
            Message::Alive => {}
            Message::Goodbye => return Err("its agent has ended".to_owned()),
            other => return Err(format!("its agent sent what only testbed sends: {other:?}")),
        }
        Ok(())
    }
}

fn news_of(state: &mut State, id: u32, reply: ControlReply) {
    if matches!(reply, ControlReply::Started { .. }) {
        if let Some(program) = state.programs.get(&id) {
            let sinks = Vec::new();
            let _ = program.news.send(News { reply, sinks });
        }
        return;
    }
    if let Some(program) = state.programs.remove(&id) {
        program.input.iter().for_each(SourceHandle::shut);
        let sinks = program.output.into_iter().chain(program.errors).collect();
        let _ = program.news.send(News { reply, sinks });
    }
}
