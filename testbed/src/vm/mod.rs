//! Virtual machines on one computer, joined over soft-RoCE: for those who have
//! no RDMA, and for tests. Everything is made of Debian's packages on the spot;
//! nothing is installed and no network of the host is touched.

mod cpio;
mod deploy;
mod image;
mod kernel;
mod modules;
mod packages;
mod qemu;
mod supervisor;
mod switch;

pub(crate) use supervisor::supervise;

use crate::cli::{Vm, VmUpArgs};
use crate::component::wait_all;
use crate::ending::Ending;
use crate::out::{show, warn};
use crate::places::{self, check_name};
use crate::standing;
use crate::table::{bytes, text};
use anyhow::{Context, Result, anyhow, bail};
use qemu::Node;
use rustix::fd::{AsFd, OwnedFd};
use rustix::process::{PidfdFlags, pidfd_open};
use serde::{Deserialize, Serialize};
use std::ffi::OsString;
use std::fs::File;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

/// What machines are.
const WHERE: &str = "machines.json";
/// How long machines may take to end.
const DOWN_DEADLINE: Duration = Duration::from_secs(30);
/// How long the supervisor may take to answer.
const ANSWER_DEADLINE: Duration = Duration::from_secs(5);
/// Each node's name by its number; others are `node4` and on.
const NAMES: [&str; 3] = ["processor", "memory", "storage"];

/// Machines that are up, or were. Kept as [`WHERE`].
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Standing {
    name: String,
    /// The run directory, with the sockets.
    directory: PathBuf,
    nodes: Vec<Node>,
}

/// `testbed vm`.
pub(crate) fn run(what: &Vm) -> Result<Ending> {
    match what {
        Vm::Prepare => {
            image::prepare()?;
            progress("all is there");
            Ok(Ending::Exit(0))
        }
        Vm::Up(args) => up(args),
        Vm::Status { name, json } => status(name, *json),
        Vm::Console { name, node } => console(name, node),
        Vm::Exec {
            name,
            node,
            command,
        } => execute(name, node, command),
        Vm::Kill { name, node } => kill(name, node),
        Vm::Down { name } => down(name),
    }
}

/// A line for people who wait.
fn progress(line: &str) {
    let _ = writeln!(std::io::stderr(), "vm: {line}");
}

fn state_directory(name: &str) -> Result<PathBuf> {
    check_name(name).map_err(anyhow::Error::msg)?;
    Ok(places::state_home()?
        .with_file_name("splitkernel-vm")
        .join(name))
}

fn supervisor_socket(directory: &Path) -> PathBuf {
    directory.join("supervisor")
}

impl Standing {
    fn read(name: &str) -> Result<Standing> {
        let path = state_directory(name)?.join(WHERE);
        let text = std::fs::read(&path)
            .map_err(|_| anyhow!("there are no machines {name:?}: testbed vm up --name {name}"))?;
        serde_json::from_slice(&text).with_context(|| path.display().to_string())
    }

    fn node(&self, name: &str) -> Result<&Node> {
        let names = || {
            self.nodes
                .iter()
                .map(|n| n.name.as_str())
                .collect::<Vec<_>>()
        };
        let node = self.nodes.iter().find(|node| node.name == name);
        node.with_context(|| format!("no machine {name:?}: there are {}", names().join(", ")))
    }

    fn supervisor(&self) -> Result<UnixStream> {
        let context = || format!("the machines {:?} are not up any more", self.name);
        let stream =
            UnixStream::connect(supervisor_socket(&self.directory)).with_context(context)?;
        stream.set_read_timeout(Some(ANSWER_DEADLINE))?;
        stream.set_write_timeout(Some(ANSWER_DEADLINE))?;
        Ok(stream)
    }

    fn tell(&self, line: &str) -> Result<UnixStream> {
        let mut stream = self.supervisor()?;
        stream.write_all(format!("{line}\n").as_bytes())?;
        Ok(stream)
    }

    /// Names of the machines that live; none where the supervisor does not.
    fn alive(&self) -> Vec<String> {
        let mut line = String::new();
        if let Ok(stream) = self.tell("status") {
            let _ = BufReader::new(stream).read_line(&mut line);
        }
        line.split_whitespace().map(str::to_owned).collect()
    }
}

/// `testbed vm up`.
fn up(args: &VmUpArgs) -> Result<Ending> {
    let name = &args.name;
    if Standing::read(name).is_ok_and(|standing| standing.supervisor().is_ok()) {
        bail!("machines {name:?} are up already: `testbed vm down {name}` first, or give --name");
    }
    refuse_unless_able()?;
    // Here, where it can say how far it is.
    image::prepare()?;
    let standing = describe(args)?;
    let state = state_directory(name)?;
    let _ = std::fs::remove_dir_all(&state);
    std::fs::create_dir_all(&state).with_context(|| state.display().to_string())?;
    let text = serde_json::to_string_pretty(&standing)?;
    std::fs::write(state.join(WHERE), text).with_context(|| state.display().to_string())?;
    if let Err(why) = start_supervisor(name, &state) {
        // What the consoles said stays.
        let _ = std::fs::remove_file(state.join(WHERE));
        return Err(why);
    }
    if !args.machines_only {
        progress("bringing the testbed up on them");
        let brought = deploy::description(&standing, args.fabric)
            .and_then(|description| standing::bring_up(&description));
        if let Err(why) = brought {
            let _ = down(name);
            return Err(why);
        }
    }
    show(&format!(
        "machines {name:?} are up: {}\nlook at them:   testbed vm status {name}\ntake them down: \
         testbed vm down {name}\n",
        standing
            .nodes
            .iter()
            .map(|n| n.name.as_str())
            .collect::<Vec<_>>()
            .join(", ")
    ))?;
    Ok(Ending::Exit(0))
}

/// Says what is missing before anything is fetched.
fn refuse_unless_able() -> Result<()> {
    let has = |program: &str| {
        let path = std::env::var_os("PATH").unwrap_or_default();
        std::env::split_paths(&path).any(|directory| directory.join(program).is_file())
    };
    let needed = [
        (qemu::QEMU, "qemu-system-x86"),
        ("apt-get", "apt"),
        ("dpkg-deb", "dpkg"),
        ("xz", "xz-utils"),
    ];
    let missing: Vec<&str> = needed
        .iter()
        .filter(|(program, _)| !has(program))
        .map(|(_, package)| *package)
        .collect();
    if missing.is_empty() {
        return Ok(());
    }
    bail!(
        "machines need programs that are not here: apt-get install {}",
        missing.join(" ")
    )
}

fn describe(args: &VmUpArgs) -> Result<Standing> {
    let directory = places::run_directory(&args.name)?;
    let state = state_directory(&args.name)?;
    let share = std::path::absolute(&args.share).context("--share")?;
    if !share.is_dir() {
        bail!("--share {}: give a directory", share.display());
    }
    let node = |number: u8| {
        let at = usize::from(number) - 1;
        let name = NAMES
            .get(at)
            .map_or_else(|| format!("node{number}"), |n| (*n).to_owned());
        Node {
            console: state.join(format!("{name}.log")),
            // Files are where the storage component is.
            share: (number == args.nodes.min(3)).then(|| share.clone()),
            name,
            number,
            directory: directory.clone(),
            memory: args.memory,
            cpus: args.cpus,
        }
    };
    Ok(Standing {
        name: args.name.clone(),
        nodes: (1..=args.nodes).map(node).collect(),
        directory,
    })
}

/// Starts the supervisor and hears how far it is. Its standard input is the
/// pipe on which it says so.
fn start_supervisor(name: &str, state: &Path) -> Result<()> {
    let (reader, writer) = std::io::pipe().context("a pipe")?;
    let log = File::create(state.join("supervisor.log"));
    let log = log.with_context(|| state.display().to_string())?;
    let mut command = Command::new("/proc/self/exe");
    command
        .arg0("testbed")
        .arg("vm-supervise")
        .arg(name)
        .current_dir("/");
    command
        .stdin(OwnedFd::from(writer))
        .stdout(Stdio::null())
        .stderr(log);
    command.spawn().context("cannot start the supervisor")?;
    // Ours of the pipe's write end goes, so that its end is seen.
    drop(command);
    for line in BufReader::new(reader).lines() {
        let line = line.context("the supervisor's pipe")?;
        match line.strip_prefix("failed: ") {
            Some(why) => bail!("the machines did not come up: {why}"),
            None if line == "up" => return Ok(()),
            None => progress(&line),
        }
    }
    bail!(
        "the supervisor ended without a word; see {}",
        state.display()
    )
}

fn execute(name: &str, node: &str, command: &[OsString]) -> Result<Ending> {
    let standing = Standing::read(name)?;
    let command = command.iter().map(|word| word.as_bytes().to_vec());
    deploy::execute(standing.node(node)?, command.collect())
}

fn status(name: &str, json: bool) -> Result<Ending> {
    let standing = Standing::read(name)?;
    let alive = standing.alive();
    if json {
        let nodes = standing.nodes.iter().map(|node| {
            serde_json::json!({
                "name": node.name,
                "alive": alive.contains(&node.name),
                "address": node.address(),
                "memory_bytes": node.memory,
                "cpus": node.cpus,
                "console": node.console,
            })
        });
        let all = serde_json::json!({"name": name, "machines": nodes.collect::<Vec<_>>()});
        show(&(serde_json::to_string_pretty(&all)? + "\n"))?;
        return Ok(Ending::Exit(0));
    }
    let heading = ["MACHINE", "STATE", "ADDRESS", "MEMORY", "CPUS", "CONSOLE"];
    let mut rows = vec![heading.map(str::to_owned).to_vec()];
    rows.extend(standing.nodes.iter().map(|node| {
        let up = alive.contains(&node.name);
        vec![
            node.name.clone(),
            if up { "up" } else { "gone" }.to_owned(),
            node.address(),
            bytes(node.memory),
            node.cpus.to_string(),
            node.console.display().to_string(),
        ]
    }));
    show(&text(&rows))?;
    Ok(Ending::Exit(0))
}

fn console(name: &str, node: &str) -> Result<Ending> {
    let standing = Standing::read(name)?;
    let path = &standing.node(node)?.console;
    let log = std::fs::read(path).with_context(|| path.display().to_string())?;
    show(&String::from_utf8_lossy(&log))?;
    Ok(Ending::Exit(0))
}

fn kill(name: &str, node: &str) -> Result<Ending> {
    let standing = Standing::read(name)?;
    let node = standing.node(node)?;
    standing.tell(&format!("kill {}", node.name))?;
    let end = std::time::Instant::now() + ANSWER_DEADLINE;
    while standing.alive().contains(&node.name) {
        if std::time::Instant::now() > end {
            bail!("{} does not end", node.name);
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    Ok(Ending::Exit(0))
}

fn down(name: &str) -> Result<Ending> {
    let standing = Standing::read(name)?;
    let state = state_directory(name)?;
    // The testbed on them first, in good order, where there is one.
    let _ = standing::down(name);
    if let Ok(supervisor) = standing.tell("down") {
        let peer = rustix::net::sockopt::socket_peercred(&supervisor).context("who it is")?;
        let process = pidfd_open(peer.pid, PidfdFlags::empty());
        if let Ok(process) = process
            && !wait_all(&[process.as_fd()], DOWN_DEADLINE)
        {
            bail!("the machines {name:?} did not end within {DOWN_DEADLINE:?}");
        }
    } else {
        warn(&format!("the machines {name:?} were not up any more"));
    }
    let _ = std::fs::remove_dir_all(&standing.directory);
    std::fs::remove_dir_all(&state).with_context(|| state.display().to_string())?;
    Ok(Ending::Exit(0))
}
