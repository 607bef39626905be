//! One connection, used by one thread at a time: calls, and one-sided reads
//! and writes. Blocking, each with its deadline.

use crate::dial::Address;
use crate::emulate::{Wire, wait_until};
use crate::handshake::Met;
use crate::link::{Link, Ticket, Work, check_local, check_message};
use crate::socket::{SocketLink, meet};
use crate::stream::Deadline;
use crate::verbs::VerbsLink;
use crate::{Backend, BackendChoice, Credential, Emulation, FabricError, Segment, sim};
use proto::addr::RemoteAddr;
use proto::{Identity, wire};
use serde::{Serialize, de::DeserializeOwned};
use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// How to connect, and how long to wait.
#[derive(Clone, Debug)]
pub struct Options {
    /// Which backends may be used.
    pub choice: BackendChoice,
    /// For connecting, the handshake included.
    pub connect_timeout: Duration,
    /// For each operation.
    pub call_timeout: Duration,
    /// A network to be emulated on top.
    pub emulation: Option<Emulation>,
    /// Descriptors that stay open are moved to this number or above, out of
    /// the way of a program in the same process.
    pub fd_floor: Option<i32>,
}

impl Default for Options {
    /// Any backend, 2 s to connect, 5 s for an operation.
    fn default() -> Self {
        Options {
            choice: BackendChoice::Auto,
            connect_timeout: Duration::from_secs(2),
            call_timeout: Duration::from_secs(5),
            emulation: None,
            fd_floor: None,
        }
    }
}

/// How many operations go by before the link is asked whether the peer is
/// still there (a dead peer's memory stays mapped here, on shm),
const LOOKS_EVERY: u32 = 64;
/// unless more time than this went by.
const LOOKS_AFTER: Duration = Duration::from_millis(2);

/// The initiator's end of a connection. After an error that
/// [`FabricError::is_fatal`] it is broken and every later operation fails.
pub struct Connection {
    link: Box<dyn Link>,
    timeout: Duration,
    peer: Identity,
    backend: Backend,
    wire: Option<Arc<Wire>>,
    /// When posted operations are over on the emulated network.
    arrivals: HashMap<Ticket, Instant>,
    broken: bool,
    unseen: u32,
    looked: Instant,
}

impl Connection {
    /// Connects to the first of `addrs` that answers and that
    /// [`Options::choice`] allows.
    ///
    /// # Errors
    /// What the last address tried ended with.
    pub fn open(
        addrs: &[String],
        credential: &Credential,
        options: &Options,
    ) -> Result<Connection, FabricError> {
        let wire = options
            .emulation
            .clone()
            .map(|network| Arc::new(Wire::new(network)));
        Connection::open_over(addrs, credential, options, wire.as_ref())
    }

    pub(crate) fn open_over(
        addrs: &[String],
        credential: &Credential,
        options: &Options,
        wire: Option<&Arc<Wire>>,
    ) -> Result<Connection, FabricError> {
        let why = format!(
            "none of its addresses is one of --fabric {:?}",
            options.choice
        );
        let mut last = FabricError::unreachable(&addrs.join(", "), why.to_lowercase());
        for text in addrs {
            let address = Address::parse(text)?;
            if options.choice.allows(address.backend()) {
                match Connection::dial(text, &address, credential, options, wire) {
                    Ok(connection) => return Ok(connection),
                    Err(e) => last = e,
                }
            }
        }
        Err(last)
    }

    fn dial(
        text: &str,
        address: &Address<'_>,
        credential: &Credential,
        options: &Options,
        wire: Option<&Arc<Wire>>,
    ) -> Result<Connection, FabricError> {
        let deadline = Deadline::after(options.connect_timeout);
        let (link, met): (Box<dyn Link>, Met) = match address {
            Address::Sim(place) => {
                let (link, met) = sim::connect(text, place, credential)?;
                (Box::new(link), met)
            }
            Address::Verbs(_) => {
                let floor = options.fd_floor;
                let (socket, control, met) = meet(text, address, credential, floor, &deadline)?;
                let link = VerbsLink::connect(control, &socket, &met, floor, &deadline)?;
                (Box::new(link), met)
            }
            Address::Shm(_) | Address::Tcp(_) => {
                let (link, met) =
                    SocketLink::connect(text, address, credential, options.fd_floor, &deadline)?;
                (Box::new(link), met)
            }
        };
        Ok(Connection {
            link,
            timeout: options.call_timeout,
            peer: met.identity,
            backend: address.backend(),
            wire: wire.cloned(),
            arrivals: HashMap::new(),
            broken: false,
            unseen: 0,
            looked: Instant::now(),
        })
    }

    /// What carries it.
    #[must_use]
    pub fn backend(&self) -> Backend {
        self.backend
    }

    /// Who is at the other end, as it called itself when we connected.
    #[must_use]
    pub fn peer(&self) -> Identity {
        self.peer
    }

    /// Whether an operation has found it dead.
    #[must_use]
    pub fn is_broken(&self) -> bool {
        self.broken
    }

    /// Finds out now whether the peer still holds its end.
    pub(crate) fn is_open(&mut self) -> bool {
        self.looked = Instant::now();
        self.unseen = 0;
        !self.broken && self.link.check_open().is_ok()
    }

    /// How long ago the peer was last known to be there.
    pub(crate) fn unseen_for(&self) -> Duration {
        self.looked.elapsed()
    }

    fn check_usable(&mut self) -> Result<(), FabricError> {
        if self.broken {
            return Err(FabricError::broken(self.link.name(), "it failed before"));
        }
        Ok(())
    }

    fn check_alive(&mut self) -> Result<(), FabricError> {
        self.check_usable()?;
        self.unseen += 1;
        if self.unseen >= LOOKS_EVERY || self.looked.elapsed() > LOOKS_AFTER {
            self.looked = Instant::now();
            self.unseen = 0;
            let open = self.link.check_open();
            return self.note(open);
        }
        Ok(())
    }

    /// After an operation: a success takes as long as on the emulated network,
    /// a fatal error breaks the connection.
    fn ended<T>(&mut self, result: Result<T, FabricError>, bytes: usize) -> Result<T, FabricError> {
        if let (Ok(_), Some(wire)) = (&result, &self.wire) {
            wire.cross(bytes);
        }
        self.note(result)
    }

    /// Asks, and waits for the answer for [`Options::call_timeout`].
    ///
    /// # Errors
    /// `Broken`, `Timeout`, `Protocol`; `Invalid` for a request longer than
    /// [`wire::MAX_MESSAGE`].
    pub fn call(&mut self, request: &[u8]) -> Result<Vec<u8>, FabricError> {
        self.call_timeout(request, self.timeout)
    }

    /// As [`Connection::call`], with another deadline.
    ///
    /// # Errors
    /// As for [`Connection::call`].
    pub fn call_timeout(
        &mut self,
        request: &[u8],
        timeout: Duration,
    ) -> Result<Vec<u8>, FabricError> {
        self.check_usable()?;
        let checked = check_message(request.len());
        let answer = checked.and_then(|()| self.link.call(request, &Deadline::after(timeout)));
        let bytes = request.len() + answer.as_ref().map_or(0, Vec::len);
        self.ended(answer, bytes)
    }

    /// Asks with a message of [`proto`] and decodes the answer.
    ///
    /// # Errors
    /// As for [`Connection::call`], and `Protocol` for an answer of another kind.
    pub fn ask<Q: Serialize, R: DeserializeOwned>(
        &mut self,
        question: &Q,
    ) -> Result<R, FabricError> {
        let answer = self.call(&wire::encode(question))?;
        let decoded = wire::decode(&answer).map_err(|e| FabricError::Protocol {
            peer: self.link.name().to_owned(),
            why: e.to_string(),
        });
        self.broken |= decoded.is_err();
        decoded
    }

    /// Reads granted memory; [`Segment::local`] are offsets in `dst`.
    ///
    /// # Errors
    /// `BadKey`, `OutOfBounds`, `AccessDenied`, `Invalid` leave the connection
    /// alive and `dst` undefined; `Broken`, `Timeout`, `Protocol` don't.
    pub fn read(&mut self, segments: &[Segment], dst: &mut [u8]) -> Result<(), FabricError> {
        self.check_alive()?;
        let deadline = Deadline::after(self.timeout);
        let checked = check_local(segments, dst.len());
        let done = checked.and_then(|()| self.link.read(segments, dst, &deadline));
        self.ended(done, Segment::total(segments))
    }

    /// Writes granted memory from `src`; returns when the peer has it all.
    /// Where a segment is refused none, some or all others may be written.
    ///
    /// # Errors
    /// As for [`Connection::read`].
    pub fn write(&mut self, segments: &[Segment], src: &[u8]) -> Result<(), FabricError> {
        self.check_alive()?;
        let deadline = Deadline::after(self.timeout);
        let checked = check_local(segments, src.len());
        let done = checked.and_then(|()| self.link.write(segments, src, &deadline));
        self.ended(done, Segment::total(segments))
    }

    fn address(&mut self, at: RemoteAddr, len: usize, write: bool) -> Option<*mut u8> {
        if self.wire.is_some() {
            return None;
        }
        // Whoever hands the connection out has looked at it of late; to read
        // the clock once more would show beside what little this takes.
        self.check_usable().ok()?;
        self.unseen += 1;
        if self.unseen >= LOOKS_EVERY {
            self.check_alive().ok()?;
        }
        let deadline = Deadline::after(self.timeout);
        let found = self.link.address(at, len, write, &deadline)?;
        self.ended(found, 0).ok()
    }

    /// Whether what the peer grants is mapped here: [`Connection::mapped`] finds
    /// whatever may be reached.
    #[must_use]
    pub fn maps(&self) -> bool {
        self.backend == Backend::Shm && self.wire.is_none()
    }

    /// Where `len` granted bytes at `at` are mapped here: to be read without
    /// a copy. Valid as long as this connection; after a revocation it reads
    /// as anything, so ask [`Connection::still_valid`] afterwards. `None`
    /// where they must be fetched by [`Connection::read`] (also on an emulated
    /// network), or can't be.
    pub fn mapped(&mut self, at: RemoteAddr, len: usize) -> Option<*const u8> {
        self.address(at, len, false).map(<*mut u8>::cast_const)
    }

    /// As [`Connection::mapped`], for grants that may be written.
    pub fn mapped_mut(&mut self, at: RemoteAddr, len: usize) -> Option<*mut u8> {
        self.address(at, len, true)
    }

    /// Whether the key has not been revoked since: what was read through
    /// [`Connection::mapped`] counts.
    #[must_use]
    pub fn still_valid(&self, at: RemoteAddr) -> bool {
        self.link.is_valid(at.key)
    }

    /// Starts an operation and does not wait for it: [`Connection::complete`]
    /// does. Operations of one connection take effect in the order in which
    /// they began, blocking ones among them.
    ///
    /// # Errors
    /// `Invalid` for more than [`crate::MOST_POSTED`] bytes or
    /// [`crate::MOST_SEGMENTS`] segments; else as for the blocking operations,
    /// but that what the peer refuses is told at completion.
    pub fn post(&mut self, work: Work) -> Result<Ticket, FabricError> {
        self.check_alive()?;
        work.check()?;
        let arrival = self
            .wire
            .as_ref()
            .map(|wire| wire.arrival(Instant::now(), work.bytes()));
        let posted = self.link.post(work, &Deadline::after(self.timeout));
        if let (Ok(ticket), Some(at)) = (&posted, arrival) {
            self.arrivals.insert(*ticket, at);
        }
        self.note(posted)
    }

    /// Waits for a posted operation and gives its buffer back, filled by a
    /// read, or a call's answer. A ticket that was completed is `Invalid`.
    ///
    /// # Errors
    /// As for the blocking operations.
    pub fn complete(&mut self, ticket: Ticket) -> Result<Vec<u8>, FabricError> {
        self.check_usable()?;
        let done = self.link.complete(ticket, &Deadline::after(self.timeout));
        if let Some(at) = self.arrivals.remove(&ticket) {
            wait_until(at);
        }
        self.note(done)
    }

    fn note<T>(&mut self, result: Result<T, FabricError>) -> Result<T, FabricError> {
        self.broken |= result.as_ref().is_err_and(FabricError::is_fatal);
        result
    }
}
