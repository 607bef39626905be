//! A server to be tested against, and its users.

use fabric::{
    Access, BackendChoice, ClusterKey, Connection, Credential, FabricError, Memory, Options, Peer,
    Region, Responder, Segment, Server, Service,
};
use host::probe::Level;
use proto::addr::{RemoteAddr, RemoteKey};
use proto::{Identity, ProcessId};
use std::io::Write;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use tempfile::TempDir;

/// Makes machines without RDMA fail.
const REQUIRE: &str = "SPLITKERNEL_REQUIRE_VERBS";

/// A backend.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Kind {
    Shm,
    Tcp,
    Sim,
    Verbs,
}

impl Kind {
    pub(crate) fn choice(self) -> BackendChoice {
        match self {
            Kind::Shm => BackendChoice::Shm,
            Kind::Tcp => BackendChoice::Tcp,
            Kind::Sim => BackendChoice::Auto,
            Kind::Verbs => BackendChoice::Verbs,
        }
    }

    /// Whether this machine has it. One without RDMA skips those tests and
    /// says so, unless `SPLITKERNEL_REQUIRE_VERBS` is 1.
    pub(crate) fn is_here(self) -> bool {
        if self != Kind::Verbs {
            return true;
        }
        let Some(missing) = fabric::verbs::probe()
            .into_iter()
            .find(|f| f.level != Level::Ok)
        else {
            return true;
        };
        let required = std::env::var(REQUIRE).is_ok_and(|value| value == "1");
        assert!(!required, "{REQUIRE} is set: {missing}");
        // Past the capture of a test's output.
        let _ = writeln!(std::io::stderr(), "SKIPPED, no RDMA: {missing}");
        false
    }

    /// An address of this kind that nobody uses.
    pub(crate) fn address(self, dir: &TempDir) -> String {
        match self {
            Kind::Shm => format!("shm:{}/socket", dir.path().display()),
            Kind::Tcp => "tcp:127.0.0.1:0".to_owned(),
            Kind::Verbs => "verbs:127.0.0.1:0".to_owned(),
            Kind::Sim => format!(
                "sim:{}/server",
                dir.path().display().to_string().replace('/', "-")
            ),
        }
    }
}

pub(crate) const ALICE: Identity = Identity::Process(ProcessId(1));
pub(crate) const BOB: Identity = Identity::Process(ProcessId(2));

/// First bytes of requests to [`Tester`].
pub(crate) const ECHO: u8 = b'e';
pub(crate) const KEEP: u8 = b'k';
pub(crate) const DROP: u8 = b'd';
pub(crate) const THREAD: u8 = b't';
pub(crate) const LOOK: u8 = b'l';

/// Does what a request's first byte says.
#[derive(Default)]
pub(crate) struct Tester {
    pub region: Mutex<Option<Region>>,
    kept: Mutex<Vec<Responder>>,
    pub events: Mutex<Vec<(&'static str, Identity)>>,
}

impl Service for Tester {
    fn call(&self, _peer: Identity, request: &[u8], reply: Responder) {
        match request.first() {
            Some(&KEEP) => self.kept.lock().unwrap().push(reply),
            Some(&DROP) => drop(reply),
            Some(&THREAD) => {
                let request = request.to_vec();
                std::thread::spawn(move || reply.send(&request));
            }
            Some(&LOOK) => {
                let mut byte = [0];
                let region = self.region.lock().unwrap();
                region.as_ref().unwrap().read(0, &mut byte).unwrap();
                reply.send(&byte);
            }
            _ => reply.send(request),
        }
    }

    fn connected(&self, peer: Identity) {
        self.events.lock().unwrap().push(("connected", peer));
    }

    fn gone(&self, peer: Identity) {
        self.events.lock().unwrap().push(("gone", peer));
    }
}

/// A server in this process.
pub(crate) struct Bed {
    pub kind: Kind,
    pub key: ClusterKey,
    pub server: Server,
    pub tester: Arc<Tester>,
    /// The socket is in there.
    _dir: TempDir,
}

impl Bed {
    pub(crate) fn new(kind: Kind) -> Bed {
        let dir = tempfile::tempdir().unwrap();
        let key = ClusterKey::generate().unwrap();
        let address = kind.address(&dir);
        let server = Server::bind(&[address], Identity::Operator, key.clone()).unwrap();
        let tester = Arc::new(Tester::default());
        server.serve(tester.clone()).unwrap();
        Bed {
            kind,
            key,
            server,
            tester,
            _dir: dir,
        }
    }

    pub(crate) fn memory(&self) -> Memory {
        self.server.memory()
    }

    pub(crate) fn options(&self) -> Options {
        Options {
            choice: self.kind.choice(),
            ..Options::default()
        }
    }

    pub(crate) fn credential(&self, identity: Identity) -> Credential {
        Credential {
            identity,
            secret: self.key.derive(identity),
        }
    }

    pub(crate) fn connect(&self, identity: Identity) -> Connection {
        self.connect_with(identity, &self.options()).unwrap()
    }

    pub(crate) fn connect_with(
        &self,
        identity: Identity,
        options: &Options,
    ) -> Result<Connection, FabricError> {
        Connection::open(&self.server.addrs(), &self.credential(identity), options)
    }

    pub(crate) fn peer(&self, identity: Identity) -> Peer {
        Peer::new(
            self.server.addrs(),
            self.credential(identity),
            self.options(),
        )
    }

    /// A region of `len` bytes, all of which `to` may reach.
    pub(crate) fn granted(&self, len: u64, to: Identity, access: Access) -> (Region, RemoteKey) {
        let region = self.memory().register(len, "conformance").unwrap();
        let key = region.grant(to, 0..len, access).unwrap();
        *self.tester.region.lock().unwrap() = Some(region.clone());
        (region, key)
    }

    /// The server still serves.
    pub(crate) fn assert_sound(&self) {
        let mut connection = self.connect(ALICE);
        assert_eq!(
            connection.call(b"e, still there").unwrap(),
            b"e, still there"
        );
    }
}

impl Drop for Bed {
    fn drop(&mut self) {
        self.server.shutdown();
    }
}

/// One segment at the start of the local buffer.
pub(crate) fn segment(key: RemoteKey, offset: u64, len: u32) -> [Segment; 1] {
    [Segment {
        local: 0,
        len,
        remote: RemoteAddr { key, offset },
    }]
}

/// Waits, for longer than it can take, until `done`.
pub(crate) fn eventually(what: &str, mut done: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !done() {
        assert!(
            begun.elapsed() < Duration::from_secs(20),
            "{what} never came true"
        );
        std::thread::sleep(Duration::from_millis(2));
    }
}
