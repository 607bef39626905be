//! A peer that is killed in the middle: a real process, kill -9.

use crate::bed::{ALICE, KEEP, Kind, Tester, eventually, segment};
use fabric::{
    Access, ClusterKey, Connection, Credential, FabricError, Options, Peer, Server, Work,
};
use proto::Identity;
use proto::addr::RemoteKey;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tempfile::TempDir;

const DIRECTORY: &str = "FABRIC_CONFORMANCE_DIRECTORY";
const ADDRESS: &str = "FABRIC_CONFORMANCE_ADDRESS";
const MARK: &str = "ready: ";

/// Not a test of its own: the server of the others, when they run it as a
/// process.
#[test]
fn child() {
    let (Ok(dir), Ok(address)) = (std::env::var(DIRECTORY), std::env::var(ADDRESS)) else {
        return;
    };
    let key = ClusterKey::load(&Path::new(&dir).join("key")).unwrap();
    let server = Server::bind(&[address], Identity::Operator, key).unwrap();
    let region = server.memory().register(1 << 20, "child").unwrap();
    region.write(0, b"alive").unwrap();
    let granted = region.grant(ALICE, 0..1 << 20, Access::Read).unwrap();
    server.serve(Arc::new(Tester::default())).unwrap();
    let RemoteKey {
        region: id,
        slot,
        nonce,
    } = granted;
    println!("\n{MARK}{} {id} {slot} {nonce}", server.addrs()[0]);
    // Ends by being killed, or with the test that should have done so.
    let mut line = String::new();
    let _ = std::io::stdin().read_line(&mut line);
}

struct Killed {
    child: Child,
    key: ClusterKey,
    granted: RemoteKey,
    address: String,
    dir: TempDir,
}

impl Killed {
    fn start(kind: Kind) -> Killed {
        let dir = tempfile::tempdir().unwrap();
        let key = ClusterKey::generate().unwrap();
        key.save(&dir.path().join("key")).unwrap();
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "death::child", "--nocapture"])
            .env(DIRECTORY, dir.path())
            .env(ADDRESS, kind.address(&dir))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let ready = lines
            .map_while(Result::ok)
            .find_map(|l| l.strip_prefix(MARK).map(str::to_owned));
        let ready = ready.expect("the child did not start");
        let [address, region, slot, nonce]: [&str; 4] =
            ready.split(' ').collect::<Vec<_>>().try_into().unwrap();
        let granted = RemoteKey {
            region: region.parse().unwrap(),
            slot: slot.parse().unwrap(),
            nonce: nonce.parse().unwrap(),
        };
        Killed {
            child,
            key,
            granted,
            address: address.to_owned(),
            dir,
        }
    }

    fn connect(&self) -> Connection {
        let credential = Credential {
            identity: ALICE,
            secret: self.key.derive(ALICE),
        };
        Connection::open(&[self.address.clone()], &credential, &Options::default()).unwrap()
    }

    /// Kill -9.
    fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

impl Drop for Killed {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

pub(crate) fn a_call_to_a_killed_peer_fails(kind: Kind) {
    let mut server = Killed::start(kind);
    let mut waiting = server.connect();
    let mut idle = server.connect();
    assert_eq!(idle.call(b"e").unwrap(), b"e");
    let begun = Instant::now();
    let answer = std::thread::scope(|scope| {
        let call = scope.spawn(|| waiting.call_timeout(&[KEEP], Duration::from_secs(60)));
        // Likely in the middle of the call; it must fail in any case.
        std::thread::sleep(Duration::from_millis(50));
        server.kill();
        call.join().unwrap()
    });
    assert!(
        matches!(answer, Err(FabricError::Broken { .. })),
        "{answer:?}"
    );
    assert!(
        begun.elapsed() < Duration::from_secs(30),
        "by the hang-up, not the deadline"
    );
    assert!(matches!(idle.call(b"e"), Err(FabricError::Broken { .. })));
    assert!(waiting.is_broken() && idle.is_broken());
}

pub(crate) fn posted_operations_to_a_killed_peer_fail(kind: Kind) {
    let mut server = Killed::start(kind);
    let mut connection = server.connect();
    let ticket = connection.post(Work::Call(vec![KEEP])).unwrap();
    server.kill();
    let begun = Instant::now();
    let answer = connection.complete(ticket);
    assert!(
        matches!(answer, Err(FabricError::Broken { .. })),
        "{answer:?}"
    );
    assert!(
        begun.elapsed() < Options::default().call_timeout,
        "by the hang-up"
    );
    assert!(connection.post(Work::Call(vec![KEEP])).is_err());
}

/// On shm the memory is still mapped here: the death is noticed nevertheless.
pub(crate) fn a_one_sided_read_of_a_killed_peer_fails(kind: Kind) {
    let mut server = Killed::start(kind);
    let mut connection = server.connect();
    let mut bytes = [0; 5];
    let here = segment(server.granted, 0, 5);
    for _ in 0..100 {
        connection.read(&here, &mut bytes).unwrap();
        assert_eq!(&bytes, b"alive");
    }
    server.kill();
    let failed = (0..1000).find_map(|_| connection.read(&here, &mut bytes).err());
    assert!(
        matches!(failed, Some(FabricError::Broken { .. })),
        "{failed:?}"
    );
    let again = connection.read(&here, &mut bytes);
    assert!(connection.is_broken() && again.is_err());
}

pub(crate) fn a_peer_reconnects_after_a_restart(kind: Kind) {
    let mut server = Killed::start(kind);
    let credential = Credential {
        identity: ALICE,
        secret: server.key.derive(ALICE),
    };
    let peer = Peer::new(vec![server.address.clone()], credential, Options::default());
    let mut bytes = [0; 5];
    peer.get()
        .unwrap()
        .read(&segment(server.granted, 0, 5), &mut bytes)
        .unwrap();
    assert_eq!(peer.ask::<_, u32>(&7u32), Ok(7));
    server.kill();
    assert!(peer.ask::<_, u32>(&7u32).is_err());
    let next = Server::bind(
        std::slice::from_ref(&server.address),
        Identity::Operator,
        server.key.clone(),
    )
    .unwrap();
    let region = next.memory().register(1 << 20, "next").unwrap();
    let granted = region.grant(ALICE, 0..1 << 20, Access::ReadWrite).unwrap();
    next.serve(Arc::new(Tester::default())).unwrap();
    eventually("it answers again", || peer.ask::<_, u32>(&8u32) == Ok(8));
    // Memory of before is not memory of now, whatever is still mapped here.
    let mut connection = peer.get().unwrap();
    connection
        .read(&segment(granted, 0, 5), &mut bytes)
        .unwrap();
    assert_eq!(bytes, [0; 5]);
    let before = connection.read(&segment(server.granted, 0, 5), &mut bytes);
    assert_eq!(before, Err(FabricError::BadKey));
    drop(connection);
    next.shutdown();
}

pub(crate) fn the_address_of_a_killed_peer_is_free(kind: Kind) {
    let mut server = Killed::start(kind);
    drop(server.connect());
    server.kill();
    let address = server.address.clone();
    if let Some(path) = address.strip_prefix("shm:") {
        assert!(
            Path::new(path).exists(),
            "killed, it could not remove its socket"
        );
    }
    let next = Server::bind(&[address.clone()], Identity::Operator, server.key.clone()).unwrap();
    next.serve(Arc::new(Tester::default())).unwrap();
    assert_eq!(server.connect().call(b"e, again").unwrap(), b"e, again");
    next.shutdown();
    if let Some(path) = address.strip_prefix("shm:") {
        assert!(
            !Path::new(path).exists(),
            "a server that ends removes its socket"
        );
    }
    assert!(server.dir.path().exists());
}
