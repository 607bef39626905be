//! The binary, over the real fabric: kill -9, full disks, garbage, its end.
#![allow(clippy::unwrap_used, clippy::panic)] // a test fails by panicking

use fabric::{
    ClusterKey, Connection, Credential, FabricError, Options, Responder, Segment, Server, Service,
};
use proto::gmm::{GmmReply, GmmRequest, Refusal};
use proto::store::{FileHandle, Location, StoreReply, StoreRequest};
use proto::{Errno, Generation, Identity, NodeId, ProcessId, wire};
use serde_json::Value;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

const DEADLINE: Duration = Duration::from_secs(20);
const O_CREAT_RDWR: u32 = 0o102;

/// As much of gmm as a storage component needs.
#[derive(Default)]
struct FakeGmm {
    generation: AtomicU64,
    stale: AtomicU64,
    seen: Mutex<Vec<&'static str>>,
}

impl FakeGmm {
    fn saw(&self, what: &str) -> usize {
        self.seen
            .lock()
            .unwrap()
            .iter()
            .filter(|seen| **seen == what)
            .count()
    }
    fn note(&self, what: &'static str) {
        self.seen.lock().unwrap().push(what);
    }
}

impl Service for FakeGmm {
    fn call(&self, _: Identity, request: &[u8], reply: Responder) {
        let answer = match wire::decode(request).unwrap() {
            GmmRequest::Register { .. } => {
                self.note("register");
                let generation = Generation(self.generation.fetch_add(1, Ordering::SeqCst) + 1);
                GmmReply::Registered {
                    id: NodeId(7),
                    generation,
                    lease_ms: 150,
                }
            }
            GmmRequest::Heartbeat {
                node, generation, ..
            } => {
                self.note("heartbeat");
                match self.stale.swap(0, Ordering::SeqCst) {
                    0 => GmmReply::Done,
                    _ => GmmReply::Refused(Refusal::Stale {
                        node,
                        given: generation,
                    }),
                }
            }
            GmmRequest::Leave { .. } => {
                self.note("leave");
                GmmReply::Done
            }
            other => panic!("{other:?}"),
        };
        reply.answer(&answer);
    }
}

struct Bed {
    dir: tempfile::TempDir,
    root: PathBuf,
    key: ClusterKey,
    gmm: Arc<FakeGmm>,
    server: Server,
}

struct Component {
    child: Child,
    addrs: Vec<String>,
}

impl Drop for Component {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Bed {
    fn new() -> Bed {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().join("root");
        std::fs::create_dir(&root).unwrap();
        let key = ClusterKey::generate().unwrap();
        key.save(&dir.path().join("key")).unwrap();
        let gmm = Arc::new(FakeGmm::default());
        let listen = [format!("shm:{}", dir.path().join("gmm").display())];
        let server = Server::bind(&listen, Identity::Operator, key.clone()).unwrap();
        server.serve(gmm.clone()).unwrap();
        Bed {
            dir,
            root,
            key,
            gmm,
            server,
        }
    }

    /// `wrapper` is a shell line that ends by starting "$@".
    fn start(&self, wrapper: &str) -> Option<Component> {
        let path = |name: &str| self.dir.path().join(name).display().to_string();
        let mut child = Command::new("sh")
            .args(["-c", wrapper, "sh", env!("CARGO_BIN_EXE_scomponent")])
            .args([
                "--listen",
                &format!("shm:{}", path("s0")),
                "--listen",
                "tcp:127.0.0.1:0",
            ])
            .args([
                "--gmm",
                &self.server.addrs()[0],
                "--key",
                &path("key"),
                "--ready-fd",
                "1",
            ])
            .args([
                "--root",
                &self.root.display().to_string(),
                "--stats",
                &path("stats"),
            ])
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap())
            .read_line(&mut line)
            .unwrap();
        if line.is_empty() {
            child.wait().unwrap();
            return None;
        }
        let ready: Value = serde_json::from_str(&line).unwrap();
        assert_eq!(ready["node"], 7);
        let addrs = ready["addrs"].as_array().unwrap();
        let addrs = addrs
            .iter()
            .map(|a| a.as_str().unwrap().to_owned())
            .collect();
        Some(Component { child, addrs })
    }

    fn run(&self) -> Component {
        self.start("exec \"$@\"").unwrap()
    }

    fn connect(&self, component: &Component, which: usize) -> Connection {
        self.connect_as(Identity::Process(ProcessId(1)), component, which)
    }

    fn connect_as(&self, identity: Identity, component: &Component, which: usize) -> Connection {
        let credential = Credential {
            identity,
            secret: self.key.derive(identity),
        };
        Connection::open(
            &component.addrs[which..=which],
            &credential,
            &Options::default(),
        )
        .unwrap()
    }
}

fn ask(connection: &mut Connection, request: &StoreRequest) -> Result<StoreReply, Errno> {
    match connection.ask(request).unwrap() {
        StoreReply::Failed(e) => Err(e),
        reply => Ok(reply),
    }
}

fn open(connection: &mut Connection, path: &str) -> FileHandle {
    let at = Location {
        dir: None,
        path: path.as_bytes().to_vec(),
    };
    match ask(
        connection,
        &StoreRequest::Open {
            at,
            flags: O_CREAT_RDWR,
            mode: 0o600,
        },
    ) {
        Ok(StoreReply::Opened { handle, .. }) => handle,
        other => panic!("{other:?}"),
    }
}

fn write(
    connection: &mut Connection,
    handle: &FileHandle,
    offset: u64,
    data: &[u8],
) -> Result<u64, Errno> {
    let (handle, data) = (handle.clone(), data.to_vec());
    match ask(
        connection,
        &StoreRequest::Write {
            handle,
            offset,
            data,
        },
    )? {
        StoreReply::Written(attr) => Ok(attr.size),
        other => panic!("{other:?}"),
    }
}

fn read(connection: &mut Connection, handle: &FileHandle, len: u32) -> Vec<u8> {
    let handle = handle.clone();
    match ask(
        connection,
        &StoreRequest::Read {
            handle,
            offset: 0,
            len,
        },
    ) {
        Ok(StoreReply::Data(data)) => data,
        other => panic!("{other:?}"),
    }
}

fn ended(component: &mut Component) -> ExitStatus {
    let begun = Instant::now();
    loop {
        if let Some(status) = component.child.try_wait().unwrap() {
            return status;
        }
        assert!(begun.elapsed() < DEADLINE, "it does not end");
        std::thread::sleep(Duration::from_millis(5));
    }
}

fn until(what: &str, mut condition: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !condition() {
        assert!(begun.elapsed() < DEADLINE, "waited for: {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

#[test]
fn what_was_synced_survives_kill_9_and_handles_go_on() {
    let bed = Bed::new();
    let mut component = bed.run();
    let mut handles = Vec::new();
    for round in 0..6_u8 {
        let mut connection = bed.connect(&component, usize::from(round % 2));
        let handle = open(&mut connection, &format!("f{round}"));
        let block = vec![round; 300_000];
        assert_eq!(write(&mut connection, &handle, 0, &block), Ok(300_000));
        let sync = StoreRequest::Fsync {
            handle: handle.clone(),
            data_only: round % 2 == 0,
        };
        assert_eq!(ask(&mut connection, &sync), Ok(StoreReply::Done));
        // Something is under way when the blow falls.
        let request = StoreRequest::Write {
            handle: handle.clone(),
            offset: 0,
            data: block,
        };
        connection
            .call_timeout(&wire::encode(&request), Duration::from_millis(1))
            .ok();
        component.child.kill().unwrap();
        component.child.wait().unwrap();
        handles.push(handle);
        component = bed.run();
        let mut connection = bed.connect(&component, usize::from(round % 2));
        for (n, handle) in handles.iter().enumerate() {
            let data = read(&mut connection, handle, 1 << 20);
            assert_eq!(data.len(), 300_000, "file {n}");
            assert!(data.iter().all(|b| usize::from(*b) == n), "file {n}");
        }
    }
}

#[test]
fn it_ends_in_good_order() {
    let bed = Bed::new();
    let mut component = bed.run();
    let mut connection = bed.connect(&component, 0);
    let handle = open(&mut connection, "f");
    write(&mut connection, &handle, 0, b"four").unwrap();
    read(&mut connection, &handle, 10);
    let pid = rustix::process::Pid::from_child(&component.child);
    rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
    assert!(ended(&mut component).success());
    assert_eq!(bed.gmm.saw("leave"), 1);
    let stats = std::fs::read_to_string(bed.dir.path().join("stats")).unwrap();
    let stats: Value = serde_json::from_str(&stats).unwrap();
    assert_eq!(
        (&stats["bytes_written"], &stats["bytes_read"]),
        (&4.into(), &4.into())
    );
    assert!(!bed.dir.path().join("s0").exists(), "its socket is gone");
}

#[test]
fn it_registers_again_when_gmm_gave_it_up() {
    let bed = Bed::new();
    let component = bed.run();
    let mut connection = bed.connect(&component, 0);
    let handle = open(&mut connection, "f");
    until("heartbeats", || bed.gmm.saw("heartbeat") > 2);
    bed.gmm.stale.store(1, Ordering::SeqCst);
    until("another registration", || bed.gmm.saw("register") == 2);
    write(&mut connection, &handle, 0, b"x").unwrap();
    let beats = bed.gmm.saw("heartbeat");
    until("heartbeats", || bed.gmm.saw("heartbeat") > beats + 2);
}

/// A limit of the file size stands for a full disk where nobody may mount one.
#[test]
fn a_file_that_grows_too_large_is_an_error_and_not_the_end() {
    let bed = Bed::new();
    // The limit counts for the fabric's memory too: 512 MiB, or half of it.
    let component = bed.start("ulimit -f 524288; exec \"$@\"").unwrap();
    let mut connection = bed.connect(&component, 1);
    let handle = open(&mut connection, "f");
    assert_eq!(
        write(&mut connection, &handle, 1 << 30, b"too far"),
        Err(Errno::EFBIG)
    );
    assert_eq!(write(&mut connection, &handle, 0, b"here"), Ok(4));
    let truncate = StoreRequest::Truncate {
        handle,
        len: 1 << 31,
    };
    assert_eq!(ask(&mut connection, &truncate), Err(Errno::EFBIG));
}

#[test]
fn a_full_disk_is_no_space_left() {
    let bed = Bed::new();
    let root = bed.root.display();
    let mount = format!(
        "exec unshare -m sh -c 'mount -t tmpfs -o size=1m none {root} && exec \"$@\"' sh \"$@\""
    );
    let Some(component) = bed.start(&mount) else {
        eprintln!("no right to mount a small file system: the test above has to do");
        return;
    };
    let mut connection = bed.connect(&component, 0);
    let handle = open(&mut connection, "f");
    let block = vec![7; 700_000];
    assert_eq!(write(&mut connection, &handle, 0, &block), Ok(700_000));
    assert_eq!(
        write(&mut connection, &handle, 700_000, &block),
        Err(Errno::ENOSPC)
    );
    let at = Location {
        dir: None,
        path: b"f".to_vec(),
    };
    assert_eq!(
        ask(&mut connection, &StoreRequest::Unlink { at, dir: false }),
        Ok(StoreReply::Done)
    );
    assert_eq!(
        ask(&mut connection, &StoreRequest::Close { handle }),
        Ok(StoreReply::Done)
    );
    let handle = open(&mut connection, "g");
    assert_eq!(
        write(&mut connection, &handle, 0, &block),
        Ok(700_000),
        "its blocks are free"
    );
}

#[test]
fn garbage_is_answered_and_harms_nobody() {
    let bed = Bed::new();
    let component = bed.run();
    let mut connection = bed.connect(&component, 0);
    let handle = open(&mut connection, "f");
    let good = wire::encode(&StoreRequest::Stat {
        handle: handle.clone(),
    });
    for (n, garbage) in [&b""[..], b"\xff", b"\x04\xff\xff\xff\xff\xff", &good[..3]]
        .into_iter()
        .enumerate()
    {
        let reply = connection.call(garbage).unwrap();
        let reply: StoreReply = wire::decode(&reply).unwrap();
        assert_eq!(reply, StoreReply::Failed(Errno::EPROTO), "garbage {n}");
    }
    assert_eq!(write(&mut connection, &handle, 0, b"still here"), Ok(10));
}

#[test]
fn many_clients_at_once() {
    let bed = Bed::new();
    let component = bed.run();
    std::thread::scope(|scope| {
        for client in 0..8_u8 {
            let (bed, component) = (&bed, &component);
            scope.spawn(move || {
                let mut connection = bed.connect(component, usize::from(client % 2));
                let handle = open(&mut connection, &format!("f{client}"));
                for round in 0..20_u64 {
                    let block = vec![client; 50_000];
                    write(&mut connection, &handle, round * 50_000, &block).unwrap();
                    let data = read(&mut connection, &handle, 1 << 20);
                    assert_eq!(data.len() as u64, (round + 1) * 50_000);
                    assert!(data.iter().all(|b| *b == client));
                }
            });
        }
    });
}

#[test]
fn what_is_wrong_at_the_start_is_said() {
    let bed = Bed::new();
    let key = bed.dir.path().join("key");
    let run = |args: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_scomponent"));
        command.args(["--gmm", "shm:/nowhere", "--key"]).arg(&key);
        let output = command.args(args).output().unwrap();
        assert!(!output.status.success());
        String::from_utf8(output.stderr).unwrap()
    };
    let listen = format!("shm:{}", bed.dir.path().join("s9").display());
    let error = run(&["--listen", &listen, "--root", "/nonexistent"]);
    assert!(
        error.contains("/nonexistent") && error.contains("--root"),
        "{error}"
    );
    let error = run(&["--listen", "bogus:1"]);
    assert!(error.contains("bogus:1"), "{error}");
    assert!(Path::new(&key).exists());
}

#[test]
fn data_is_staged_for_components_alone() {
    const LEN: u32 = 200_000;
    let bed = Bed::new();
    let component = bed.run();
    let content: Vec<u8> = (0..u64::from(LEN) + 5)
        .map(|n| (n * 11 / 7) as u8)
        .collect();
    std::fs::write(bed.root.join("f"), &content).unwrap();
    for which in 0..2 {
        let node = |n| Identity::Node(NodeId(n), Generation(1));
        let mut memory = bed.connect_as(node(9), &component, which);
        let mut other = bed.connect_as(node(10), &component, which);
        let handle = open(&mut memory, "/f");
        let stage = |connection: &mut Connection, offset, slot| {
            let request = StoreRequest::Stage {
                handle: handle.clone(),
                offset,
                len: LEN,
                slot,
            };
            match ask(connection, &request) {
                Ok(StoreReply::Staged { at, len }) => Ok((at, len)),
                Err(e) => Err(e),
                other => panic!("{other:?}"),
            }
        };
        let (first, len) = stage(&mut memory, 0, 1).unwrap();
        assert_eq!(len, LEN);
        let (second, len) = stage(&mut memory, u64::from(LEN), 2).unwrap();
        assert_eq!(len, 5, "the end of the file");
        assert_eq!(stage(&mut memory, 1 << 40, 2), Ok((second, 0)));
        let all = |len, remote| {
            [Segment {
                local: 0,
                len,
                remote,
            }]
        };
        let mut data = vec![0; LEN as usize];
        memory.read(&all(LEN, first), &mut data).unwrap();
        assert_eq!(data, content[..LEN as usize]);
        memory.read(&all(5, second), &mut data).unwrap();
        assert_eq!(data[..5], content[LEN as usize..]);
        // Nobody else may have it, nor write it.
        let theirs = other.read(&all(5, second), &mut data);
        assert_eq!(theirs, Err(FabricError::BadKey));
        assert!(memory.write(&all(5, second), b"hello").is_err());
        let mut process = bed.connect(&component, which);
        assert_eq!(stage(&mut process, 0, 1), Err(Errno::EPERM));
    }
}
