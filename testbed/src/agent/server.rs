//! The agent: serves one channel until it ends, and then takes down what was
//! started over it.

use super::components::Components;
use super::files::{Upload, binary_name, sha256_of};
use super::message::{
    Answer, CHUNK, Message, Place, Request, Sender, Stream, VERSION, await_greeting, receive,
};
use super::programs::Programs;
use super::rxe;
use crate::bench::{Asker, Partner};
use crate::cluster::{Operator, control_path};
use crate::component::Start;
use crate::janitor::Janitor;
use crate::places::{self, Binaries, check_name, make_private};
use crate::plan::Fabric;
use crate::stats::Question;
use anyhow::{Context, Result, bail, ensure};
use fabric::ClusterKey;
use proto::NodeKind;
use serde::Serialize;
use std::collections::{BTreeMap, HashMap};
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

/// How a channel is served.
#[derive(Clone, Copy, Debug)]
pub(super) struct Options<'a> {
    /// Directory of the component binaries; testbed's own by default.
    pub(super) binaries: Option<&'a Path>,
    /// Whether a janitor cleans up behind an agent that is killed: the
    /// executable must be testbed for that.
    pub(super) janitor: bool,
}

/// Serves a channel to its end. What went wrong, if it did not simply end.
pub(super) fn serve(
    reader: &mut dyn Read,
    writer: Box<dyn Write + Send>,
    options: Options<'_>,
) -> Result<()> {
    let sender = Sender::new(writer);
    // Testbed first: nobody may read a device yet.
    await_greeting(reader).context("testbed does not speak")?;
    sender.greet().context("cannot greet testbed")?;
    let Some(Message::Hello { version, testbed }) = receive(reader)? else {
        bail!("testbed did not say hello");
    };
    let mut session = Session::begin(&testbed, sender.clone(), options)?;
    sender.send(&Message::Welcome {
        version: VERSION,
        directory: session.directory.display().to_string(),
    })?;
    ensure!(
        version == VERSION,
        "testbed speaks version {version}, this agent {VERSION}: use the same build on both"
    );
    while let Some(message) = receive(reader)? {
        if message == Message::Goodbye {
            session.clear();
            // Whoever does not hear it sees the end.
            let _ = sender.send(&Message::Goodbye);
            return Ok(());
        }
        session.handle(message)?;
    }
    Ok(())
}

/// What one channel has made. Dropped, it is gone.
struct Session {
    sender: Sender,
    directory: PathBuf,
    /// Where binaries are put, and found if none were put.
    binaries: PathBuf,
    /// Those that were put, by name.
    versions: BTreeMap<String, PathBuf>,
    /// Files on their way, and what they are if binaries.
    uploads: HashMap<u32, (Upload, Option<(String, PathBuf)>)>,
    components: Components,
    programs: Programs,
    /// Partners of measurements, by the number of the call.
    partners: HashMap<u32, Partner>,
    janitor: Option<Janitor>,
}

impl Session {
    fn begin(testbed: &str, sender: Sender, options: Options<'_>) -> Result<Session> {
        check_name(testbed).map_err(anyhow::Error::msg)?;
        let binaries = match options.binaries {
            Some(directory) => directory.to_owned(),
            None => Binaries::directory()?,
        };
        let directory = places::run_directory(testbed)?;
        // First, so that the directory never is without one.
        let janitor = options.janitor.then(|| Janitor::spawn(&directory));
        let janitor = janitor.transpose()?;
        make_private(&directory)?;
        Ok(Session {
            components: Components::new(sender.clone()),
            programs: Programs::new(sender.clone()),
            sender,
            directory,
            binaries,
            versions: BTreeMap::new(),
            uploads: HashMap::new(),
            partners: HashMap::new(),
            janitor,
        })
    }

    /// An error ends the channel: the peer broke the rules.
    fn handle(&mut self, message: Message) -> Result<()> {
        match message {
            Message::Call { id, request } => {
                if let Some(result) = self.answer(id, request).transpose() {
                    self.reply(id, result)?;
                }
            }
            Message::Data {
                id,
                stream: Stream::In,
                bytes,
            } => self.data(id, bytes)?,
            Message::Credit { id, stream, bytes } => self.programs.credit(id, stream, bytes),
            Message::Shut { id, stream } => self.programs.shut(id, stream),
            Message::Signal { id, signal } => self.programs.signal(id, signal),
            Message::HangUp { id } => self.programs.hang_up(id),
            Message::Alive => self.sender.send(&Message::Alive)?,
            other => bail!("testbed sent what only an agent sends: {other:?}"),
        }
        Ok(())
    }

    fn reply(&self, id: u32, result: Result<Answer>) -> Result<()> {
        let result = result.map_err(|why| format!("{why:#}"));
        Ok(self.sender.send(&Message::Reply { id, result })?)
    }

    /// `None` where the answer comes later.
    fn answer(&mut self, id: u32, request: Request) -> Result<Option<Answer>> {
        match request {
            Request::HasBinary { name, sha256 } => {
                return Ok(Some(Answer::Has(self.has_binary(name, &sha256)?)));
            }
            Request::PutFile {
                place,
                name,
                mode,
                length,
                sha256,
            } => {
                self.put_file(id, place, name, mode, length, sha256)?;
                return Ok(None);
            }
            Request::Doctor => {
                let json = crate::doctor::json()?;
                return Ok(Some(Answer::Bytes(json.into_bytes())));
            }
            Request::AddRxe { name, netdev } => rxe::add(&self.directory, &name, &netdev)?,
            Request::Start {
                kind,
                name,
                arguments,
            } => self.start(id, kind, name, arguments)?,
            Request::Stop { component, kill } => self.components.stop(component, kill)?,
            Request::ReadLog { name, from } => {
                return Ok(Some(Answer::Bytes(self.read_log(&name, from)?)));
            }
            Request::Spawn {
                processor,
                spawn,
                trace,
            } => {
                check_name(&processor).map_err(anyhow::Error::msg)?;
                let socket = control_path(&self.directory, &processor);
                self.programs.spawn(id, &socket, spawn, trace)?;
            }
            Request::Ask {
                gmm,
                fabric,
                question,
            } => {
                self.ask(id, gmm, fabric, question)?;
                return Ok(None);
            }
            Request::Find(search) => {
                let found = serde_json::to_vec(&search.run())?;
                return Ok(Some(Answer::Bytes(found)));
            }
            Request::Exec { argv } => self.programs.exec(id, argv)?,
            Request::BenchListen { address } => {
                let partner = Partner::new(&address, &self.key()?)?;
                let address = partner.address().into_bytes();
                self.partners.insert(id, partner);
                return Ok(Some(Answer::Bytes(address)));
            }
            Request::BenchEnd { partner } => drop(self.partners.remove(&partner)),
            Request::BenchMeasure { address, step } => {
                let key = self.key()?;
                self.answer_later(id, move || Asker::measure(&address, &key, &step))?;
                return Ok(None);
            }
        }
        Ok(Some(Answer::Done))
    }

    /// Begins a file; what follows is its bytes.
    fn put_file(
        &mut self,
        id: u32,
        place: Place,
        name: String,
        mode: u32,
        length: u64,
        sha256: String,
    ) -> Result<()> {
        let (directory, file, version) = match place {
            Place::Run => (&self.directory, name, None),
            Place::Binaries => {
                let file = binary_name(&name, &sha256);
                let path = self.binaries.join(&file);
                (&self.binaries, file, Some((name, path)))
            }
        };
        let upload = Upload::begin(directory, &file, mode, length, sha256)?;
        self.uploads.insert(id, (upload, version));
        if length == 0 {
            self.data(id, Vec::new())?;
        }
        Ok(())
    }

    fn ask(&self, id: u32, gmm: Vec<String>, fabric: Fabric, question: Question) -> Result<()> {
        let operator = Operator::new(&self.directory.join("key"), gmm, fabric)?;
        let directory = self.directory.clone();
        self.answer_later(id, move || question.answer(&operator, &directory))
    }

    fn key(&self) -> Result<ClusterKey> {
        Ok(ClusterKey::load(&self.directory.join("key"))?)
    }

    /// Answers with JSON, on a thread of its own: it may take its time.
    fn answer_later<T: Serialize>(
        &self,
        id: u32,
        answer: impl FnOnce() -> Result<T> + Send + 'static,
    ) -> Result<()> {
        let sender = self.sender.clone();
        let answer = move || {
            let result = answer().and_then(|json| Ok(serde_json::to_vec(&json)?));
            let result = result.map(Answer::Bytes).map_err(|why| format!("{why:#}"));
            let _ = sender.send(&Message::Reply { id, result });
        };
        let thread = std::thread::Builder::new().name("question".to_owned());
        thread.spawn(answer).context("cannot start a thread")?;
        Ok(())
    }

    /// Bytes of a file or of a program's standard input.
    fn data(&mut self, id: u32, bytes: Vec<u8>) -> Result<()> {
        let Some((upload, _)) = self.uploads.get_mut(&id) else {
            ensure!(self.programs.data(id, bytes), "more bytes than credit");
            return Ok(());
        };
        let taken = upload.take(&bytes);
        if matches!(taken, Ok(false)) {
            return Ok(());
        }
        if let Some((_, Some((name, path)))) = self.uploads.remove(&id)
            && taken.is_ok()
        {
            self.versions.insert(name, path);
        }
        self.reply(id, taken.map(|_| Answer::Done))
    }

    fn has_binary(&mut self, name: String, sha256: &str) -> Result<bool> {
        check_name(&name).map_err(anyhow::Error::msg)?;
        let path = self.binaries.join(binary_name(&name, sha256));
        let has = path.is_file() && sha256_of(&path)? == sha256;
        if has {
            self.versions.insert(name, path);
        }
        Ok(has)
    }

    fn start(
        &mut self,
        id: u32,
        kind: NodeKind,
        name: String,
        arguments: Vec<String>,
    ) -> Result<()> {
        check_name(&name).map_err(anyhow::Error::msg)?;
        let binary = kind.to_string();
        let put = self.versions.get(&binary).cloned();
        let start = Start {
            kind,
            binary: put.unwrap_or_else(|| self.binaries.join(&binary)),
            log: Some(log_path(&self.directory, &name)),
            name,
            arguments,
        };
        let event = self.components.start(id, start)?;
        if let Some(janitor) = &self.janitor {
            janitor.tell(event);
        }
        Ok(())
    }

    fn read_log(&self, name: &str, from: u64) -> Result<Vec<u8>> {
        check_name(name).map_err(anyhow::Error::msg)?;
        let path = log_path(&self.directory, name);
        let context = || format!("no log {}", path.display());
        let mut log = std::fs::File::open(&path).with_context(context)?;
        log.seek(SeekFrom::Start(from)).with_context(context)?;
        let mut bytes = Vec::new();
        log.take(CHUNK as u64)
            .read_to_end(&mut bytes)
            .with_context(context)?;
        Ok(bytes)
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        self.sender.close();
        self.clear();
    }
}

impl Session {
    /// Takes down what was made.
    fn clear(&mut self) {
        self.programs.hang_up_all();
        self.partners.clear();
        self.components.end();
        rxe::remove_all(&self.directory);
        // Partial uploads go first: they may lie in it.
        self.uploads.clear();
        let _ = std::fs::remove_dir_all(&self.directory);
        self.janitor.take().into_iter().for_each(Janitor::dismiss);
    }
}

fn log_path(directory: &Path, name: &str) -> PathBuf {
    directory.join(format!("{name}.log"))
}
