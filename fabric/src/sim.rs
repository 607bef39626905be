//! The simulated network: components of one process, joined by links whose
//! time is virtual. For tests: what a network does to messages, in no time and
//! the same again for the same seed.
//!
//! A link behaves as a reliable connection of RDMA does. What is lost is sent
//! again after [`RETRY_AFTER`], up to [`RETRIES`] times; then the link is
//! broken. Operations reach their target once, in order. A service that keeps
//! a [`crate::Responder`] for another thread is waited for in real time;
//! everything else happens on the thread that uses the link.
//!
//! Addresses are `sim:NETWORK/NAME`. A network that nobody made is made with
//! the default [`Conditions`].

use crate::frame::{Outcome, Piece};
use crate::handshake::Met;
use crate::link::{Link, Ticket, Work};
use crate::server::{Answers, Hub, Presence, Responder, Service};
use crate::stream::Deadline;
use crate::{Credential, FabricError, Segment};
use proto::Identity;
use proto::addr::{RemoteAddr, RemoteKey};
use std::collections::{BTreeMap, HashMap};
use std::ops::RangeInclusive;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// Virtual time after which what was lost is sent again.
pub const RETRY_AFTER: Duration = Duration::from_millis(10);
/// How often it is sent again.
pub const RETRIES: u32 = 7;

/// How often a thread that waits for an answer in real time looks whether the
/// target is still there.
const LOOKS: Duration = Duration::from_millis(10);

/// What a network does to a message.
#[derive(Clone, PartialEq, Debug)]
pub struct Conditions {
    /// Virtual time that a message takes one way: uniform in this range.
    pub latency: RangeInclusive<Duration>,
    /// The share of messages that are lost, 0 to 1.
    pub loss: f64,
}

impl Default for Conditions {
    /// 1 to 2 us, nothing lost.
    fn default() -> Self {
        let us = Duration::from_micros;
        Conditions {
            latency: us(1)..=us(2),
            loss: 0.0,
        }
    }
}

/// A network; a clone is the same one.
#[derive(Clone)]
pub struct Network(Arc<Inner>);

struct Inner {
    name: String,
    seed: u64,
    conditions: Mutex<Conditions>,
    nodes: Mutex<HashMap<String, Arc<Node>>>,
    links: AtomicU64,
    /// Nanoseconds.
    clock: AtomicU64,
}

/// What listens under one name.
struct Node {
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    serving: Option<(Arc<Hub>, Arc<dyn Service>)>,
    /// Nothing reaches it and nothing comes from it.
    cut: bool,
    /// It has ended, orderly.
    closed: bool,
    present: HashMap<u64, Presence>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn networks() -> MutexGuard<'static, BTreeMap<String, Network>> {
    static ALL: Mutex<BTreeMap<String, Network>> = Mutex::new(BTreeMap::new());
    lock(&ALL)
}

impl Network {
    /// Makes a network; one of the same name stays what it is for those who
    /// are on it and is not found any more.
    #[must_use]
    pub fn new(name: &str, seed: u64, conditions: Conditions) -> Network {
        let network = Network::unregistered(name, seed, conditions);
        networks().insert(name.to_owned(), network.clone());
        network
    }

    fn unregistered(name: &str, seed: u64, conditions: Conditions) -> Network {
        Network(Arc::new(Inner {
            name: name.to_owned(),
            seed,
            conditions: Mutex::new(conditions),
            nodes: Mutex::default(),
            links: AtomicU64::new(0),
            clock: AtomicU64::new(0),
        }))
    }

    fn named(name: &str) -> Network {
        let made = || Network::unregistered(name, 0, Conditions::default());
        networks()
            .entry(name.to_owned())
            .or_insert_with(made)
            .clone()
    }

    /// Virtual time since the network was made.
    #[must_use]
    pub fn now(&self) -> Duration {
        Duration::from_nanos(self.0.clock.load(Ordering::SeqCst))
    }

    /// Other conditions from now on.
    pub fn set_conditions(&self, conditions: Conditions) {
        *lock(&self.0.conditions) = conditions;
    }

    /// Cuts what listens as `name` off, or joins it again. A killed component
    /// is one that is cut off for ever.
    pub fn cut(&self, name: &str, cut: bool) {
        if let Some(node) = lock(&self.0.nodes).get(name) {
            lock(&node.state).cut = cut;
        }
    }

    fn advance_to(&self, time: Duration) {
        let nanoseconds = u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
        self.0.clock.fetch_max(nanoseconds, Ordering::SeqCst);
    }
}

/// NETWORK and NAME.
fn split<'a>(place: &'a str, text: &str) -> Result<(&'a str, &'a str), FabricError> {
    let parts = place
        .split_once('/')
        .filter(|(network, name)| !network.is_empty() && !name.is_empty());
    parts.ok_or_else(|| FabricError::Invalid(format!("address {text:?}: give sim:NETWORK/NAME")))
}

/// A name that is listened on.
pub(crate) struct Listener {
    text: String,
    name: String,
    network: Network,
    node: Arc<Node>,
}

pub(crate) fn bind(place: &str, text: &str) -> Result<Listener, FabricError> {
    let (network, name) = split(place, text)?;
    let network = Network::named(network);
    let mut nodes = lock(&network.0.nodes);
    if nodes.contains_key(name) {
        return Err(FabricError::local(text, "the address is in use"));
    }
    let node = Arc::new(Node {
        state: Mutex::default(),
    });
    nodes.insert(name.to_owned(), node.clone());
    drop(nodes);
    Ok(Listener {
        text: text.to_owned(),
        name: name.to_owned(),
        network,
        node,
    })
}

impl Listener {
    pub(crate) fn text(&self) -> &str {
        &self.text
    }

    pub(crate) fn serve(&self, hub: &Arc<Hub>, service: &Arc<dyn Service>) {
        lock(&self.node.state).serving = Some((hub.clone(), service.clone()));
    }

    pub(crate) fn close(&self) {
        let mut nodes = lock(&self.network.0.nodes);
        // A newer one may have the name already.
        if nodes
            .get(&self.name)
            .is_some_and(|node| Arc::ptr_eq(node, &self.node))
        {
            nodes.remove(&self.name);
        }
        drop(nodes);
        let mut state = lock(&self.node.state);
        state.closed = true;
        state.serving = None;
        let present = std::mem::take(&mut state.present);
        // Tells the service, which may use the network.
        drop(state);
        drop(present);
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        self.close();
    }
}

/// The answers to calls over one link.
#[derive(Default)]
struct Mailbox {
    letters: Mutex<HashMap<u64, (Outcome, Vec<u8>)>>,
    came: Condvar,
}

impl Answers for Mailbox {
    fn answer(&self, id: u64, outcome: Outcome, bytes: &[u8]) {
        lock(&self.letters).insert(id, (outcome, bytes.to_vec()));
        self.came.notify_all();
    }
}

/// How posted work stands.
enum Posted {
    /// Carried out; the completion arrives then.
    Done(Result<Vec<u8>, FabricError>, Duration),
    /// A call that reached its target then.
    Asked(Duration),
}

/// The initiator's end.
pub(crate) struct SimLink {
    name: String,
    network: Network,
    node: Arc<Node>,
    me: Identity,
    number: u64,
    random: fastrand::Rng,
    /// This link's time.
    now: Duration,
    next: u64,
    posted: HashMap<u64, Posted>,
    mailbox: Arc<Mailbox>,
    broken: bool,
}

/// Connects to what listens there, as `credential` says.
pub(crate) fn connect(
    text: &str,
    place: &str,
    credential: &Credential,
) -> Result<(SimLink, Met), FabricError> {
    let (network, name) = split(place, text)?;
    let network = Network::named(network);
    let node = lock(&network.0.nodes).get(name).cloned();
    let node = node.ok_or_else(|| FabricError::unreachable(text, "nobody listens there"))?;
    let number = network.0.links.fetch_add(1, Ordering::SeqCst);
    let mut link = SimLink {
        name: format!("{text} on {}", network.0.name),
        random: fastrand::Rng::with_seed(network.0.seed ^ number.wrapping_mul(0x9e37_79b9)),
        now: network.now(),
        network,
        node,
        me: credential.identity,
        number,
        next: 0,
        posted: HashMap::new(),
        mailbox: Arc::default(),
        broken: false,
    };
    let met = link.meet(text, credential)?;
    link.name = format!("{} ({text})", met.identity);
    Ok((link, met))
}

impl SimLink {
    fn meet(&mut self, text: &str, credential: &Credential) -> Result<Met, FabricError> {
        let lost = |_| FabricError::unreachable(text, "nothing comes back from there");
        let limit = Duration::MAX;
        self.cross(limit).map_err(lost)?;
        let serving = lock(&self.node.state).serving.clone();
        let (hub, service) =
            serving.ok_or_else(|| FabricError::unreachable(text, "it does not serve yet"))?;
        if hub.key.derive(self.me).0 != credential.secret.0 {
            let why = format!("the proof that it is {} is wrong", self.me);
            return Err(FabricError::Rejected {
                addr: text.to_owned(),
                why,
            });
        }
        let presence = hub.arrive(self.me, service);
        lock(&self.node.state).present.insert(self.number, presence);
        self.cross(limit).map_err(lost)?;
        Ok(hub.met())
    }

    /// A message goes one way: its virtual time passes. What is lost too often
    /// breaks the link, as a NIC's retry counter does.
    fn cross(&mut self, limit: Duration) -> Result<(), FabricError> {
        let begun = self.now.max(self.network.now());
        self.now = begun;
        let conditions = lock(&self.network.0.conditions).clone();
        for _ in 0..=RETRIES {
            if self.now - begun > limit {
                self.network.advance_to(self.now);
                return Err(FabricError::Timeout {
                    peer: self.name.clone(),
                    after: limit,
                });
            }
            let (cut, closed) = {
                let state = lock(&self.node.state);
                (state.cut, state.closed)
            };
            if closed {
                return Err(FabricError::broken(&self.name, "it hung up"));
            }
            if cut || self.random.f64() < conditions.loss {
                self.now += RETRY_AFTER;
                continue;
            }
            let (from, to) = (conditions.latency.start(), conditions.latency.end());
            let span = to.saturating_sub(*from);
            self.now += *from + span.mul_f64(self.random.f64());
            self.network.advance_to(self.now);
            return Ok(());
        }
        self.network.advance_to(self.now);
        Err(FabricError::broken(
            &self.name,
            format!("{RETRIES} retries were lost"),
        ))
    }

    fn check_sound(&self) -> Result<(), FabricError> {
        if self.broken {
            return Err(FabricError::broken(&self.name, "it failed before"));
        }
        Ok(())
    }

    fn note<T>(&mut self, result: Result<T, FabricError>) -> Result<T, FabricError> {
        self.broken |= result.as_ref().is_err_and(FabricError::is_fatal);
        result
    }

    /// The target as it serves now.
    fn target(&self) -> Result<(Arc<Hub>, Arc<dyn Service>), FabricError> {
        let serving = lock(&self.node.state).serving.clone();
        serving.ok_or_else(|| FabricError::broken(&self.name, "it hung up"))
    }

    fn read_now(
        &mut self,
        segments: &[Segment],
        dst: &mut [u8],
        limit: Duration,
    ) -> Result<(), FabricError> {
        self.cross(limit)?;
        let mut data = vec![0; Segment::total(segments)];
        let (hub, _) = self.target()?;
        let read = hub.memory.serve_read(self.me, pieces(segments), &mut data);
        self.cross(limit)?;
        read?;
        let mut data = &data[..];
        for s in segments {
            let (part, rest) = data.split_at(s.len as usize);
            s.of_mut(dst)?.copy_from_slice(part);
            data = rest;
        }
        Ok(())
    }

    fn write_now(
        &mut self,
        segments: &[Segment],
        src: &[u8],
        limit: Duration,
    ) -> Result<(), FabricError> {
        let mut data = Vec::with_capacity(Segment::total(segments));
        for s in segments {
            data.extend_from_slice(s.of(src)?);
        }
        self.cross(limit)?;
        let (hub, _) = self.target()?;
        let written = hub.memory.serve_write(self.me, pieces(segments), &data);
        self.cross(limit)?;
        written
    }

    /// Brings a request to the service, which answers into the mailbox.
    fn ask(&mut self, id: u64, request: &[u8], limit: Duration) -> Result<(), FabricError> {
        self.cross(limit)?;
        let (_, service) = self.target()?;
        let responder = Responder::new(self.mailbox.clone(), id);
        service.call(self.me, request, responder);
        Ok(())
    }

    fn fetch_answer(&mut self, id: u64, deadline: &Deadline) -> Result<Vec<u8>, FabricError> {
        let mailbox = self.mailbox.clone();
        let mut letters = lock(&mailbox.letters);
        let (outcome, bytes) = loop {
            if let Some(letter) = letters.remove(&id) {
                break letter;
            }
            let left = deadline.left(&self.name)?;
            self.target()?;
            let waited = mailbox.came.wait_timeout(letters, left.min(LOOKS));
            letters = waited.unwrap_or_else(PoisonError::into_inner).0;
        };
        drop(letters);
        self.cross(deadline.limit())?;
        outcome.into_result(&self.name).map(|()| bytes)
    }

    fn next_id(&mut self) -> u64 {
        self.next += 1;
        self.next
    }
}

fn pieces(segments: &[Segment]) -> impl Iterator<Item = Piece> + Clone + '_ {
    segments.iter().map(|s| Piece {
        remote: s.remote,
        len: s.len as usize,
    })
}

impl Link for SimLink {
    fn name(&self) -> &str {
        &self.name
    }

    fn post(&mut self, work: Work, deadline: &Deadline) -> Result<Ticket, FabricError> {
        self.check_sound()?;
        let (id, limit, posted_at) = (self.next_id(), deadline.limit(), self.now);
        let posted = match work {
            Work::Call(request) => {
                let asked = self.ask(id, &request, limit);
                self.note(asked)?;
                Posted::Asked(self.now)
            }
            Work::Read(segments, mut buffer) => {
                let read = self.read_now(&segments, &mut buffer, limit);
                Posted::Done(self.note(read).map(|()| buffer), self.now)
            }
            Work::Write(segments, buffer) => {
                let written = self.write_now(&segments, &buffer, limit);
                Posted::Done(self.note(written).map(|()| buffer), self.now)
            }
        };
        self.posted.insert(id, posted);
        // The poster goes on at once; the completion comes in its time.
        self.now = posted_at;
        Ok(Ticket(id))
    }

    fn complete(&mut self, ticket: Ticket, deadline: &Deadline) -> Result<Vec<u8>, FabricError> {
        match self.posted.remove(&ticket.0) {
            None => Err(FabricError::Invalid("it was completed before".to_owned())),
            Some(Posted::Done(result, at)) => {
                self.now = self.now.max(at);
                result
            }
            Some(Posted::Asked(at)) => {
                self.now = self.now.max(at);
                let answer = self.fetch_answer(ticket.0, deadline);
                self.note(answer)
            }
        }
    }

    fn call(&mut self, request: &[u8], deadline: &Deadline) -> Result<Vec<u8>, FabricError> {
        let ticket = self.post(Work::Call(request.to_vec()), deadline)?;
        self.complete(ticket, deadline)
    }

    fn read(
        &mut self,
        segments: &[Segment],
        dst: &mut [u8],
        deadline: &Deadline,
    ) -> Result<(), FabricError> {
        self.check_sound()?;
        let read = self.read_now(segments, dst, deadline.limit());
        self.note(read)
    }

    fn write(
        &mut self,
        segments: &[Segment],
        src: &[u8],
        deadline: &Deadline,
    ) -> Result<(), FabricError> {
        self.check_sound()?;
        let written = self.write_now(segments, src, deadline.limit());
        self.note(written)
    }

    fn check_open(&mut self) -> Result<(), FabricError> {
        self.check_sound()?;
        self.target().map(|_| ())
    }

    fn address(
        &mut self,
        _: RemoteAddr,
        _: usize,
        _: bool,
        _: &Deadline,
    ) -> Option<Result<*mut u8, FabricError>> {
        None
    }

    fn is_valid(&self, _: RemoteKey) -> bool {
        false
    }
}

impl Drop for SimLink {
    fn drop(&mut self) {
        let presence = lock(&self.node.state).present.remove(&self.number);
        drop(presence);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Access, ClusterKey, Connection, Options, Server};
    use proto::ProcessId;
    use std::time::Instant;

    const ME: Identity = Identity::Process(ProcessId(1));

    struct Echo;
    impl Service for Echo {
        fn call(&self, _: Identity, request: &[u8], reply: Responder) {
            reply.send(request);
        }
    }

    fn start(network: &str) -> (Server, Connection) {
        let key = ClusterKey::generate().unwrap();
        let addrs = [format!("sim:{network}/a")];
        let server = Server::bind(&addrs, Identity::Operator, key.clone()).unwrap();
        server.serve(Arc::new(Echo)).unwrap();
        let credential = Credential {
            identity: ME,
            secret: key.derive(ME),
        };
        let connection = Connection::open(&addrs, &credential, &Options::default()).unwrap();
        (server, connection)
    }

    fn lossy(loss: f64) -> Conditions {
        Conditions {
            loss,
            ..Conditions::default()
        }
    }

    /// Virtual time that some calls take.
    fn run(network: &str, seed: u64, loss: f64) -> Duration {
        let network = Network::new(network, seed, lossy(loss));
        let (_server, mut connection) = start(&network.0.name);
        for n in 0..100u8 {
            assert_eq!(connection.call(&[n]).unwrap(), [n]);
        }
        network.now()
    }

    #[test]
    fn the_same_seed_is_the_same_run() {
        assert_eq!(run("same", 7, 0.1), run("same", 7, 0.1));
        assert_ne!(run("same", 7, 0.1), run("same", 8, 0.1));
    }

    #[test]
    fn what_is_lost_is_sent_again() {
        let sound = run("sound", 1, 0.0);
        assert!(sound < Duration::from_micros(500) && sound > Duration::from_micros(200));
        assert!(run("lossy", 1, 0.2) > sound + 20 * RETRY_AFTER);
    }

    #[test]
    fn a_cut_breaks_the_link_in_virtual_time() {
        let network = Network::new("cut", 1, Conditions::default());
        let (server, mut connection) = start("cut");
        let region = server.memory().register(4096, "cut").unwrap();
        let key = region.grant(ME, 0..4096, Access::Read).unwrap();
        let remote = RemoteAddr { key, offset: 0 };
        let segments = [Segment {
            local: 0,
            len: 8,
            remote,
        }];
        connection.read(&segments, &mut [0; 8]).unwrap();
        network.cut("a", true);
        let (begun, before) = (Instant::now(), network.now());
        let failed = connection.read(&segments, &mut [0; 8]);
        assert!(
            matches!(failed, Err(FabricError::Broken { .. })),
            "{failed:?}"
        );
        assert!(network.now() - before >= RETRY_AFTER * RETRIES);
        assert!(
            begun.elapsed() < RETRY_AFTER * RETRIES,
            "nobody waited for it"
        );
        network.cut("a", false);
        assert!(connection.call(b"again").is_err(), "a broken link stays so");
    }
}
