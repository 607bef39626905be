//! Components that are full, and garbage on every port.

use crate::binaries::testbed;
use crate::leftovers::Home;
use crate::passing::run_command;
use crate::process::{Ended, Running, run};
use crate::programs::program;
use crate::scratch::{Random, tree_paths};
use rustix::process::Pid;
use std::fs;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::fs::FileTypeExt;
use std::os::unix::net::UnixStream;
use std::process::{Command, Stdio};
use std::time::Duration;

/// A memory component without room refuses; the program hears ENOMEM and
/// keeps what it has.
#[test]
fn full_memory_component() {
    for options in [
        &["--memory", "64M"][..],
        &["--memory", "64M", "--memory-components", "2"],
    ] {
        let home = Home::new();
        let mut command = Command::new(testbed());
        home.mark(&mut command)
            .args(["run", "--cache", "8M"])
            .args(options)
            .arg("--");
        let output = run(command.arg(program("hog")).arg("1000"), b"");
        assert_eq!(output.ended, Ended::Exit(0), "{output:?}");
        assert_eq!(output.stdout_text(), "refused\n", "{output:?}");
        home.expect_empty();
    }
}

/// What a stranger might send: nothing, noise, lengths beyond all bounds, the
/// start of something.
fn garbage() -> Vec<Vec<u8>> {
    let mut random = Random(5);
    let mut all = vec![
        Vec::new(),
        vec![0; 4096],
        vec![0xff; 4096],
        b"GET / HTTP/1.1\r\nHost: x\r\n\r\n".to_vec(),
        u32::MAX.to_le_bytes().to_vec(),
        vec![1, 0, 0],
    ];
    all.extend((0..20).map(|i| random.bytes(1 << (i % 14))));
    all
}

fn send(stream: &mut (impl Read + Write), bytes: &[u8]) {
    // It may hang up at any moment, or wait for more.
    let _ = stream.write_all(bytes);
    let _ = stream.read(&mut [0; 512]);
}

const PATIENCE: Option<Duration> = Some(Duration::from_millis(20));

fn send_to_port(port: SocketAddr, bytes: &[u8]) {
    if let Ok(mut stream) = TcpStream::connect(port) {
        stream.set_read_timeout(PATIENCE).unwrap();
        stream.set_write_timeout(PATIENCE).unwrap();
        send(&mut stream, bytes);
    }
}

fn send_to_socket(path: &std::path::Path, bytes: &[u8]) {
    if let Ok(mut stream) = UnixStream::connect(path) {
        stream.set_read_timeout(PATIENCE).unwrap();
        stream.set_write_timeout(PATIENCE).unwrap();
        send(&mut stream, bytes);
    }
}

/// Ports on which a testbed's processes listen, from `/proc` (proc(5)).
fn ports(home: &Home) -> Vec<SocketAddr> {
    let inodes: Vec<String> = home
        .processes()
        .iter()
        .flat_map(|p| sockets(p.pid()))
        .collect();
    let table = fs::read_to_string("/proc/net/tcp").unwrap();
    let listening = |line: &str| {
        let fields: Vec<_> = line.split_whitespace().collect();
        let (address, state, inode) = (fields.get(1)?, fields.get(3)?, fields.get(9)?);
        let port = u16::from_str_radix(address.rsplit_once(':')?.1, 16).ok()?;
        let ours = *state == "0A" && inodes.iter().any(|i| i == inode);
        ours.then(|| SocketAddr::from(([127, 0, 0, 1], port)))
    };
    table.lines().skip(1).filter_map(listening).collect()
}

/// Inodes of a process's sockets.
fn sockets(pid: Pid) -> Vec<String> {
    fs::read_dir(format!("/proc/{}/fd", pid.as_raw_nonzero()))
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|entry| fs::read_link(entry.path()).ok())
        .filter_map(|to| {
            Some(
                to.to_str()?
                    .strip_prefix("socket:[")?
                    .strip_suffix(']')?
                    .to_owned(),
            )
        })
        .collect()
}

/// Strangers at every door of a testbed at work disturb neither the program
/// nor any component.
#[test]
fn garbage_on_every_port() {
    for fabric in ["tcp", "shm"] {
        let home = Home::new();
        let mut command = run_command(&home, &["--fabric", fabric], "busy");
        let (mut running, mut talk) = Running::start_talking(command.args(["8", "1000000"]));
        talk.expect("round 3\n", &running);
        let before = home.processes().len();
        let ports = ports(&home);
        let sockets: Vec<_> = tree_paths(home.path())
            .into_iter()
            .filter(|p| fs::metadata(p).is_ok_and(|info| info.file_type().is_socket()))
            .collect();
        assert!(!ports.is_empty() || !sockets.is_empty(), "no door found");
        assert!(
            fabric != "tcp" || ports.len() >= 3,
            "ports {ports:?} for tcp"
        );
        for bytes in garbage() {
            ports.iter().for_each(|port| send_to_port(*port, &bytes));
            sockets.iter().for_each(|path| send_to_socket(path, &bytes));
        }
        assert_eq!(home.processes().len(), before, "a component is gone");
        running.signal(rustix::process::Signal::TERM);
        assert_eq!(running.wait(), Ended::Signal(15));
        let said = talk.rest();
        assert!(said.starts_with("round 1\nround 2\n"), "{said}");
        home.expect_empty();
    }
}

/// Many connections that say nothing keep nobody else out.
#[test]
fn silent_connections() {
    let home = Home::new();
    let mut command = run_command(&home, &["--fabric", "tcp"], "busy");
    let (mut running, mut talk) = Running::start_talking(command.args(["8", "400"]));
    talk.expect("round 3\n", &running);
    let ports = ports(&home);
    let silent: Vec<_> = (0..50)
        .flat_map(|_| ports.iter().map(TcpStream::connect))
        .collect();
    assert_eq!(
        running.wait(),
        Ended::Exit(0),
        "{}",
        String::from_utf8_lossy(&running.stderr())
    );
    drop(silent);
    home.expect_empty();
}

/// Two testbeds side by side know nothing of each other.
#[test]
fn testbeds_side_by_side() {
    let home = Home::new();
    let mut all: Vec<_> = ["shm", "tcp", "shm", "tcp"]
        .iter()
        .map(|fabric| {
            let mut command = run_command(&home, &["--fabric", fabric], "busy");
            Running::start(
                command
                    .args(["6", "20"])
                    .stdin(Stdio::null())
                    .stdout(Stdio::null()),
            )
        })
        .collect();
    for running in &mut all {
        assert_eq!(running.wait(), Ended::Exit(0));
    }
    home.expect_empty();
}
