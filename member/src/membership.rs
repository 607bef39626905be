//! Registration with `gmm` and the heartbeats that keep it.

use crate::pulse::{News, Pulse};
use fabric::{ClusterKey, Credential, FabricError, Options, Peer, Server};
use proto::gmm::{GmmReply, GmmRequest, Load, Refusal};
use proto::{Generation, Identity, NodeId, NodeKind};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// How long [`Member::start`] tries to register.
const START_DEADLINE: Duration = Duration::from_secs(10);
/// How long `gmm` may take to answer anything.
const CALL_TIMEOUT: Duration = Duration::from_secs(2);

/// What a component is, for `gmm`.
#[derive(Clone, Debug)]
pub struct MemberConfig {
    /// Its kind.
    pub kind: NodeKind,
    /// Its name, unique in the testbed.
    pub name: String,
    /// Where it listens ([`Server::addrs`]); empty if it doesn't.
    pub addrs: Vec<String>,
    /// Processor components: the Unix socket where programs are started.
    pub control: Option<String>,
    /// Where `gmm` listens, best first.
    pub gmm: Vec<String>,
    /// The testbed's key.
    pub key: ClusterKey,
}

/// Why a component did not become a member.
#[derive(Debug, thiserror::Error)]
pub enum MemberError {
    /// No address of `gmm` was given.
    #[error("no address of gmm was given (--gmm)")]
    NoAddress,
    /// `gmm` could not be reached in time.
    #[error(
        "gmm at {addrs} did not register {name:?} within {after:?}: {last}; is gmm running, and with the same key?"
    )]
    Unreachable {
        /// Where it was sought.
        addrs: String,
        /// The component.
        name: String,
        /// The deadline.
        after: Duration,
        /// What the last attempt met.
        last: String,
    },
    /// `gmm` does not want it.
    #[error("gmm refused to register {name:?}: {why}")]
    Refused {
        /// The component.
        name: String,
        /// The reason.
        why: Refusal,
    },
    /// SIGTERM or SIGINT came first.
    #[error("told to end before gmm was reached")]
    Terminated,
    /// This machine refused something.
    #[error("cannot {what}: {why}")]
    Local {
        /// What was tried.
        what: &'static str,
        /// What the system said.
        why: std::io::Error,
    },
}

/// A registered component. Heartbeats go on in a thread of its own until
/// [`Member::leave`], or silently end when it is dropped (`gmm` then takes it
/// for dead when its lease is over).
pub struct Member {
    shared: Arc<Shared>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

struct Shared {
    config: MemberConfig,
    host: String,
    incarnation: u64,
    load: Box<dyn Fn() -> Load + Send + Sync>,
    server: Option<Arc<Server>>,
    state: Mutex<State>,
    wake: Condvar,
}

struct State {
    node: NodeId,
    generation: Generation,
    /// With the credential of the current generation.
    gmm: Peer,
    leaving: bool,
}

struct Registered {
    node: NodeId,
    generation: Generation,
    lease: Duration,
}

/// What one attempt to register, or one heartbeat, came to.
enum Failure {
    /// Nobody answered, or not sensibly: try again.
    Silent(String),
    /// `gmm` says no.
    Refused(Refusal),
}

impl Member {
    /// Registers with `gmm`, trying for up to ten seconds, and keeps the lease
    /// in the background from then on. `load` is asked at every heartbeat.
    /// `server`, if there is one, gets the identity that `gmm` assigned, now
    /// and whenever it changes.
    ///
    /// # Errors
    /// [`MemberError`], naming what is missing.
    pub fn start(
        config: MemberConfig,
        load: impl Fn() -> Load + Send + Sync + 'static,
        server: Option<Arc<Server>>,
    ) -> Result<Member, MemberError> {
        crate::catch_termination();
        if config.gmm.is_empty() {
            return Err(MemberError::NoAddress);
        }
        let operator = peer(&config, Identity::Operator);
        let shared = Arc::new(Shared {
            host: crate::boot_id(),
            incarnation: random()?,
            load: Box::new(load),
            server,
            state: Mutex::new(State {
                node: NodeId(0),
                generation: Generation(0),
                gmm: operator.clone(),
                leaving: false,
            }),
            wake: Condvar::new(),
            config,
        });
        let lease = shared.register_in_time(&operator)?;
        let beating = shared.clone();
        let thread = std::thread::Builder::new()
            .name("heartbeat".to_owned())
            .spawn(move || beating.beat(lease))
            .map_err(|why| MemberError::Local {
                what: "start the heartbeat thread",
                why,
            })?;
        Ok(Member {
            shared,
            thread: Mutex::new(Some(thread)),
        })
    }

    /// Its number. It changes only where a `gmm` that lost its state numbered
    /// everybody anew.
    #[must_use]
    pub fn node(&self) -> NodeId {
        self.shared.state().node
    }

    /// Its current generation: a new one after `gmm` took it for dead.
    #[must_use]
    pub fn generation(&self) -> Generation {
        self.shared.state().generation
    }

    /// Its current identity.
    #[must_use]
    pub fn identity(&self) -> Identity {
        let state = self.shared.state();
        Identity::Node(state.node, state.generation)
    }

    /// What proves its current identity to other components.
    #[must_use]
    pub fn credential(&self) -> Credential {
        credential(&self.shared.config.key, self.identity())
    }

    /// `gmm`, to be asked as this node. Get it anew for each question: it
    /// changes with the generation. Calls end after two seconds.
    #[must_use]
    pub fn gmm(&self) -> Peer {
        self.shared.state().gmm.clone()
    }

    /// Asks `gmm` as this node; once more where the connection turns out to be
    /// broken, as it is after a restart of `gmm`. Every request to `gmm` may be
    /// repeated: the worst that comes of it is a process number that nobody
    /// uses, which goes when this component does.
    ///
    /// # Errors
    /// `gmm` is away. A refusal is an answer.
    pub fn ask(&self, request: &GmmRequest) -> Result<GmmReply, FabricError> {
        match self.gmm().ask(request) {
            Err(FabricError::Broken { .. }) => self.gmm().ask(request),
            other => other,
        }
    }

    /// Ends the membership in good order: no heartbeat is sent afterwards, and
    /// `gmm`, if it can be reached, knows. Takes at most a few seconds; a
    /// second call does nothing.
    pub fn leave(&self) {
        self.stop();
        let Some(thread) = lock(&self.thread).take() else {
            return;
        };
        if thread.join().is_err() {
            tracing::error!("the heartbeat thread panicked");
        }
        let (node, generation, gmm) = {
            let state = self.shared.state();
            (state.node, state.generation, state.gmm.clone())
        };
        match gmm.ask::<_, GmmReply>(&GmmRequest::Leave { node, generation }) {
            Ok(GmmReply::Done) => tracing::info!("left"),
            Ok(other) => tracing::debug!("gmm answered Leave with {other:?}"),
            Err(why) => tracing::info!("left without telling gmm: {why}"),
        }
    }

    fn stop(&self) {
        self.shared.state().leaving = true;
        self.shared.wake.notify_all();
    }
}

impl Drop for Member {
    fn drop(&mut self) {
        self.stop();
    }
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        lock(&self.state)
    }

    /// The first registration; the lease it got.
    fn register_in_time(&self, operator: &Peer) -> Result<Duration, MemberError> {
        let (begun, mut pulse) = (Instant::now(), Pulse::new());
        let name = || self.config.name.clone();
        loop {
            let last = match self.register(operator) {
                Ok(registered) => return Ok(self.adopt(&registered)),
                Err(Failure::Refused(why)) if !passes(&why) => {
                    return Err(MemberError::Refused { name: name(), why });
                }
                Err(Failure::Refused(why)) => why.to_string(),
                Err(Failure::Silent(why)) => why,
            };
            pulse.handle_failure();
            if begun.elapsed() + pulse.poll_delay() > START_DEADLINE {
                let addrs = self.config.gmm.join(", ");
                let (name, after) = (name(), START_DEADLINE);
                return Err(MemberError::Unreachable {
                    addrs,
                    name,
                    after,
                    last,
                });
            }
            std::thread::sleep(pulse.poll_delay());
            if crate::terminated() {
                return Err(MemberError::Terminated);
            }
        }
    }

    /// The heartbeat thread.
    fn beat(&self, lease: Duration) {
        let mut pulse = Pulse::new();
        pulse.handle_answer(Some(lease));
        while self.sleep(pulse.poll_delay()) {
            match self.renew() {
                Ok(lease) => {
                    if pulse.handle_answer(lease) == News::Back {
                        tracing::info!("gmm is back");
                    }
                }
                Err(why) => {
                    if pulse.handle_failure() == News::Lost {
                        tracing::warn!("gmm does not answer, service goes on: {why}");
                    }
                }
            }
        }
    }

    /// Waits; false when it is time to leave.
    fn sleep(&self, delay: Duration) -> bool {
        let awake = self
            .wake
            .wait_timeout_while(self.state(), delay, |state| !state.leaving);
        !awake.unwrap_or_else(PoisonError::into_inner).0.leaving
    }

    /// One heartbeat; where `gmm` does not know this generation, one
    /// registration, whose lease is returned.
    fn renew(&self) -> Result<Option<Duration>, String> {
        let (node, generation, gmm) = {
            let state = self.state();
            (state.node, state.generation, state.gmm.clone())
        };
        let beat = GmmRequest::Heartbeat {
            node,
            generation,
            load: (self.load)(),
        };
        match ask(&gmm, &beat) {
            Ok(GmmReply::Done) => Ok(None),
            Err(Failure::Refused(Refusal::Stale { .. })) => {
                tracing::warn!("gmm had given {node} up for dead; registering again");
                let operator = peer(&self.config, Identity::Operator);
                self.register(&operator)
                    .map(|r| Some(self.adopt(&r)))
                    .map_err(describe)
            }
            Ok(other) => Err(format!("it answered a heartbeat with {other:?}")),
            Err(failure) => Err(describe(failure)),
        }
    }

    fn register(&self, operator: &Peer) -> Result<Registered, Failure> {
        let request = GmmRequest::Register {
            kind: self.config.kind,
            name: self.config.name.clone(),
            incarnation: self.incarnation,
            addrs: self.config.addrs.clone(),
            host: self.host.clone(),
            control: self.config.control.clone(),
            load: (self.load)(),
        };
        match ask(operator, &request)? {
            GmmReply::Registered {
                id,
                generation,
                lease_ms,
            } => {
                let lease = Duration::from_millis(lease_ms);
                Ok(Registered {
                    node: id,
                    generation,
                    lease,
                })
            }
            other => Err(Failure::Silent(format!(
                "it answered Register with {other:?}"
            ))),
        }
    }

    fn adopt(&self, registered: &Registered) -> Duration {
        let identity = Identity::Node(registered.node, registered.generation);
        if let Some(server) = &self.server {
            server.set_identity(identity);
        }
        let mut state = self.state();
        state.node = registered.node;
        state.generation = registered.generation;
        state.gmm = peer(&self.config, identity);
        tracing::info!("registered {:?} as {identity}", self.config.name);
        registered.lease
    }
}

/// Whether a refusal of a registration may pass by itself: a component that
/// was killed holds its name until its lease is over.
fn passes(why: &Refusal) -> bool {
    matches!(why, Refusal::NameTaken(_) | Refusal::Store(_))
}

fn ask(gmm: &Peer, request: &GmmRequest) -> Result<GmmReply, Failure> {
    match gmm.ask::<_, GmmReply>(request) {
        Ok(GmmReply::Refused(why)) => Err(Failure::Refused(why)),
        Ok(reply) => Ok(reply),
        Err(why) => Err(Failure::Silent(FabricError::to_string(&why))),
    }
}

fn describe(failure: Failure) -> String {
    match failure {
        Failure::Silent(why) => why,
        Failure::Refused(why) => why.to_string(),
    }
}

fn peer(config: &MemberConfig, identity: Identity) -> Peer {
    let options = Options {
        connect_timeout: CALL_TIMEOUT,
        call_timeout: CALL_TIMEOUT,
        ..Options::default()
    };
    Peer::new(
        config.gmm.clone(),
        credential(&config.key, identity),
        options,
    )
}

fn credential(key: &ClusterKey, identity: Identity) -> Credential {
    Credential {
        identity,
        secret: key.derive(identity),
    }
}

fn random() -> Result<u64, MemberError> {
    let mut bytes = [0; 8];
    rustix::rand::getrandom(&mut bytes[..], rustix::rand::GetRandomFlags::empty()).map_err(
        |why| MemberError::Local {
            what: "draw a random number",
            why: why.into(),
        },
    )?;
    Ok(u64::from_ne_bytes(bytes))
}

/// A panic elsewhere does not make what is guarded here wrong.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
