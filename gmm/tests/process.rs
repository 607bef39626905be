//! The binary, over the real fabric: kill -9 and restart, with members that
//! don't notice.
#![allow(clippy::unwrap_used, clippy::panic)] // a test fails by panicking

use fabric::{ClusterKey, Credential, Options, Peer};
use member::{Member, MemberConfig, MemberError};
use proto::gmm::{GmmReply, GmmRequest, Load, ProcessGrant, Refusal, Status};
use proto::{Generation, Identity, NodeKind, VRegionId};
use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

const DEADLINE: Duration = Duration::from_secs(20);

struct Bed {
    dir: tempfile::TempDir,
    key: ClusterKey,
    state: bool,
    lease: u64,
}

struct Gmm(Child);

impl Drop for Gmm {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Bed {
    fn new(state: bool, lease: u64) -> Bed {
        let dir = tempfile::tempdir().unwrap();
        let key = ClusterKey::generate().unwrap();
        key.save(&dir.path().join("key")).unwrap();
        Bed {
            dir,
            key,
            state,
            lease,
        }
    }

    fn addr(&self) -> String {
        format!("shm:{}", self.dir.path().join("gmm").display())
    }

    fn start(&self) -> Gmm {
        let path = |name: &str| self.dir.path().join(name).display().to_string();
        let mut command = Command::new(env!("CARGO_BIN_EXE_gmm"));
        command
            .args([
                "--listen",
                &self.addr(),
                "--key",
                &path("key"),
                "--ready-fd",
                "1",
            ])
            .args(["--lease", &self.lease.to_string()])
            .stdout(Stdio::piped());
        if self.state {
            command.args(["--state", &path("state")]);
        }
        let mut child = command.spawn().unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap())
            .read_line(&mut line)
            .unwrap();
        assert!(line.contains("\"node\":0"), "{line:?}");
        Gmm(child)
    }

    fn join(&self, kind: NodeKind, name: &str) -> Member {
        let config = MemberConfig {
            kind,
            name: name.to_owned(),
            addrs: vec![format!("shm:/nowhere/{name}")],
            control: None,
            gmm: vec![self.addr()],
            key: self.key.clone(),
        };
        let load = || Load {
            capacity: 1 << 30,
            ..Load::default()
        };
        Member::start(config, load, None).unwrap()
    }

    fn operator(&self) -> Peer {
        let identity = Identity::Operator;
        let credential = Credential {
            identity,
            secret: self.key.derive(identity),
        };
        Peer::new(vec![self.addr()], credential, Options::default())
    }

    fn status(&self) -> Status {
        match self.operator().ask(&GmmRequest::Status).unwrap() {
            GmmReply::Status(status) => status,
            other => panic!("{other:?}"),
        }
    }

    fn alive(&self) -> Vec<(String, Generation)> {
        let nodes = self.status().nodes.into_iter().filter(|n| n.alive);
        nodes.map(|n| (n.info.name, n.info.generation)).collect()
    }
}

fn create(processor: &Member) -> ProcessGrant {
    let request = GmmRequest::CreateProcess {
        node: processor.node(),
        name: "p".to_owned(),
    };
    match processor.ask(&request).unwrap() {
        GmmReply::Process(grant) => grant,
        other => panic!("{other:?}"),
    }
}

fn until(what: &str, mut condition: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !condition() {
        assert!(begun.elapsed() < DEADLINE, "waited for: {what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

#[test]
fn kill_9_and_restart_forget_nothing() {
    let bed = Bed::new(true, 60_000);
    let mut gmm = bed.start();
    let memory = bed.join(NodeKind::Memory, "m0");
    let _storage = bed.join(NodeKind::Storage, "s0");
    let processor = bed.join(NodeKind::Processor, "p0");
    let generations = bed.alive();
    let mut last = None;
    for round in 0..5_u32 {
        let grant = create(&processor);
        assert!(
            last.is_none_or(|last| grant.process > last),
            "numbers only grow"
        );
        last = Some(grant.process);
        let process = grant.process;
        let place = GmmRequest::PlaceVRegion {
            process,
            vregion: VRegionId(round),
            bytes: 1 << 21,
            not: Vec::new(),
        };
        let placed = memory.ask(&place).unwrap();
        assert!(matches!(placed, GmmReply::Placed(_)), "{placed:?}");
        gmm.0.kill().unwrap();
        gmm.0.wait().unwrap();
        gmm = bed.start();
        let status = bed.status();
        let known = status
            .processes
            .iter()
            .find(|p| p.process == process)
            .unwrap();
        assert_eq!(known.vregions, [(VRegionId(round), memory.node())]);
        assert_eq!(status.processes.len(), round as usize + 1);
        assert_eq!(bed.alive(), generations, "nobody had to register again");
    }
}

#[test]
fn the_silent_are_given_up_and_come_back_as_others() {
    let bed = Bed::new(true, 300);
    let _gmm = bed.start();
    let memory = bed.join(NodeKind::Memory, "m0");
    let first = memory.generation();
    let other = bed.join(NodeKind::Storage, "s0");
    drop(memory);
    until("the death of m0", || {
        bed.alive() == [("s0".to_owned(), other.generation())]
    });
    let again = bed.join(NodeKind::Memory, "m0");
    assert!(again.generation() > first);
    other.leave();
    other.leave();
    assert_eq!(bed.alive(), [("m0".to_owned(), again.generation())]);
    let grant = again.ask(&GmmRequest::PlaceProcess).unwrap();
    assert!(
        matches!(grant, GmmReply::Refused(Refusal::NotPermitted(_))),
        "{grant:?}"
    );
}

#[test]
fn members_register_again_with_a_gmm_that_forgot() {
    let bed = Bed::new(false, 300);
    let gmm = bed.start();
    let memory = bed.join(NodeKind::Memory, "m0");
    let before = memory.node();
    drop(gmm);
    let _gmm = bed.start();
    until("the registration", || bed.alive().len() == 1);
    until("its own knowledge of it", || memory.node() != before);
    assert!(memory.node() > before, "no number is given twice");
}

#[test]
fn it_ends_when_told_and_refuses_a_key_of_another() {
    let bed = Bed::new(true, 2000);
    let mut gmm = bed.start();
    let other = ClusterKey::generate().unwrap();
    let identity = Identity::Operator;
    let credential = Credential {
        identity,
        secret: other.derive(identity),
    };
    let stranger = Peer::new(vec![bed.addr()], credential, Options::default());
    assert!(stranger.ask::<_, GmmReply>(&GmmRequest::Members).is_err());
    let pid = rustix::process::Pid::from_child(&gmm.0);
    rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
    let begun = Instant::now();
    let status = loop {
        if let Some(status) = gmm.0.try_wait().unwrap() {
            break status;
        }
        assert!(begun.elapsed() < DEADLINE);
        std::thread::sleep(Duration::from_millis(5));
    };
    assert!(status.success());
    bed.start();
}

#[test]
fn a_refusal_is_final_and_said() {
    let bed = Bed::new(true, 60_000);
    let _gmm = bed.start();
    let _first = bed.join(NodeKind::Memory, "m0");
    let config = MemberConfig {
        kind: NodeKind::Manager,
        name: "g".to_owned(),
        addrs: Vec::new(),
        control: None,
        gmm: vec![bed.addr()],
        key: bed.key.clone(),
    };
    match Member::start(config, Load::default, None) {
        Err(MemberError::Refused {
            why: Refusal::Malformed(_),
            ..
        }) => {}
        Err(other) => panic!("{other}"),
        Ok(_) => panic!("registered"),
    }
}
