//! `testbed vm`'s commands.

use super::args::{LinkArgs, UpArgs, Vm};
use super::{
    LinkChange, MachineStatus, Machines, Node, ORDER, Order, Reply, Request, SUPERVISOR_LOG,
    deploy, image, packages, qemu, state_directory,
};
use crate::agent::Client;
use crate::component::wait_all;
use crate::ending::Ending;
use crate::out::{show, show_error, warn};
use crate::places::{BINARIES, Binaries, check_name, make_private};
use anyhow::{Context, Result, anyhow, bail, ensure};
use proto::process::ControlReply;
use rustix::event::{PollFd, PollFlags, poll};
use rustix::fd::{AsFd, OwnedFd};
use std::ffi::OsString;
use std::fs::File;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::ffi::OsStringExt;
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// How long the supervisor may say nothing on the machines' way up; it has
/// deadlines of its own, which come first.
const UP_SILENCE: Duration = Duration::from_secs(180);
/// How long it may take to answer.
const ANSWER_DEADLINE: Duration = Duration::from_secs(30);
/// How long it may take to end the machines.
const DOWN_DEADLINE: Duration = Duration::from_secs(60);
/// How long a machine's agent may take to answer: software emulation of a busy
/// machine is slow.
const AGENT_DEADLINE: Duration = Duration::from_secs(60);
/// How often to look whether an agent is lost.
const LOOK: Duration = Duration::from_secs(1);

/// `testbed vm`.
pub(crate) fn run(command: &Vm) -> Result<Ending> {
    match command {
        Vm::Prepare { kernel } => {
            let parts = packages::prepare(kernel, &mut progress)?;
            show(&format!("{}\n", parts.directory.display()))?;
        }
        Vm::Up(args) => up(args)?,
        Vm::Status { name } => status(name)?,
        Vm::Exec {
            name,
            node,
            command,
        } => return exec(name, *node, command),
        Vm::Console { name, node } => console(name, *node)?,
        Vm::Kill { name, node } => drop(ask(name, &Request::Kill(*node))?),
        Vm::Link(args) => link(args)?,
        Vm::Down { name } => down(name)?,
    }
    Ok(Ending::Exit(0))
}

fn progress(line: &str) {
    show_error(&format!("{line}\n"));
}

fn up(args: &UpArgs) -> Result<()> {
    let begin = Instant::now();
    check_name(&args.name).map_err(anyhow::Error::msg)?;
    let share = args.share.canonicalize();
    let share = share.with_context(|| format!("--share {}", args.share.display()))?;
    ensure!(share.is_dir(), "--share {}: no directory", share.display());
    ensure!(
        Machines::read(&args.name).map_or(true, |m| m.supervisor(&args.name).is_err()),
        "machines {:?} are up already: `testbed vm down {0}` first, or give --name",
        args.name
    );
    let parts = packages::prepare(&args.kernel, &mut progress)?;
    let state = fresh_state(&args.name)?;
    let booted = boot(args, &parts, share, &state);
    if booted.is_err() {
        keep_logs(&state);
    }
    booted?;
    let seconds = begin.elapsed().as_secs_f64();
    progress(&format!(
        "{} machines are up after {seconds:.1} s",
        args.nodes
    ));
    if args.bare {
        return Ok(());
    }
    let machines = Machines::read(&args.name)?;
    if let Err(why) = deploy::deploy(args, &machines) {
        down(&args.name).unwrap_or_else(|why| warn(&format!("{why:#}")));
        return Err(why);
    }
    Ok(())
}

/// A new state directory, and nothing of what was there.
fn fresh_state(name: &str) -> Result<PathBuf> {
    let state = state_directory(name)?;
    clear(name, &state)?;
    if let Some(parent) = state.parent() {
        std::fs::create_dir_all(parent).with_context(|| parent.display().to_string())?;
    }
    make_private(&state)?;
    Ok(state)
}

/// Removes what a supervisor left that was killed.
fn clear(name: &str, state: &Path) -> Result<()> {
    if let Ok(dead) = Machines::read(name) {
        let _ = std::fs::remove_dir_all(dead.directory);
    }
    match std::fs::remove_dir_all(state) {
        Err(why) if why.kind() != std::io::ErrorKind::NotFound => {
            Err(why).with_context(|| format!("cannot remove {}", state.display()))
        }
        _ => Ok(()),
    }
}

/// Only a failure to boot leaves a state directory: for its consoles' logs.
fn keep_logs(state: &Path) {
    // No longer to be found as machines that are up.
    let _ = std::fs::remove_file(state.join(super::WHERE));
    let _ = std::fs::remove_file(state.join("initramfs"));
    warn(&format!(
        "the machines' consoles: {}/console-*.log",
        state.display()
    ));
}

fn boot(args: &UpArgs, parts: &packages::Parts, share: PathBuf, state: &Path) -> Result<()> {
    let binaries = Binaries::find()?;
    let ours = Binaries::directory()?
        .canonicalize()
        .context("the binaries")?;
    let own = ours.join("testbed");
    ensure!(
        own.is_file(),
        "no testbed in {}: SPLITKERNEL_BIN_DIR must have it for virtual machines",
        ours.display()
    );
    let mut all: Vec<PathBuf> = BINARIES.iter().map(|name| binaries.path(name)).collect();
    all.push(own);
    let initramfs = state.join("initramfs");
    image::make(parts, &all, &initramfs)?;
    let order = Order {
        name: args.name.clone(),
        nodes: args.nodes,
        memory: args.memory,
        cpus: args.cpus,
        kernel: parts.kernel(),
        initramfs,
        binaries: ours,
        share: (!args.bare).then_some(share),
    };
    let text = serde_json::to_string_pretty(&order)?;
    std::fs::write(state.join(ORDER), text).with_context(|| state.display().to_string())?;
    start_supervisor(&args.name, state)
}

/// Starts the supervisor, and shows what it says until the machines are up.
fn start_supervisor(name: &str, state: &Path) -> Result<()> {
    let (reader, writer) = std::io::pipe().context("a pipe")?;
    let log = File::create(state.join(SUPERVISOR_LOG));
    let log = log.with_context(|| state.display().to_string())?;
    let mut command = Command::new("/proc/self/exe");
    command
        .arg0("testbed")
        .args(["vm-supervise", name])
        .current_dir("/")
        .stdin(OwnedFd::from(writer))
        .stdout(Stdio::null())
        .stderr(log);
    command.spawn().context("cannot start the supervisor")?;
    // Ours of the pipe's write end goes, so that its end is seen.
    drop(command);
    let mut lines = BufReader::new(reader);
    loop {
        let heard = !lines.buffer().is_empty() || wait_all(&[lines.get_ref().as_fd()], UP_SILENCE);
        ensure!(
            heard,
            "the machines {name:?} made no progress for {UP_SILENCE:?}"
        );
        let mut line = String::new();
        lines
            .read_line(&mut line)
            .context("the supervisor's pipe")?;
        match line.trim_end().split_once(' ') {
            Some(("progress", what)) => progress(what),
            Some(("failed", why)) => bail!("the machines {name:?} did not come up: {why}"),
            _ if line == "up\n" => return Ok(()),
            _ => bail!(
                "the supervisor of the machines {name:?} ended without a word; see {}",
                state.join(SUPERVISOR_LOG).display()
            ),
        }
    }
}

fn ask(name: &str, request: &Request) -> Result<Vec<MachineStatus>> {
    let supervisor = Machines::read(name)?.supervisor(name)?;
    talk(&supervisor, request)
}

fn talk(mut supervisor: &UnixStream, request: &Request) -> Result<Vec<MachineStatus>> {
    supervisor.set_read_timeout(Some(ANSWER_DEADLINE))?;
    let text = format!("{}\n", serde_json::to_string(request)?);
    supervisor
        .write_all(text.as_bytes())
        .context("the supervisor does not listen")?;
    let mut line = String::new();
    BufReader::new(supervisor)
        .read_line(&mut line)
        .context("the supervisor does not answer")?;
    let reply: Reply = serde_json::from_str(&line).context("the supervisor's answer")?;
    reply.map_err(|why| anyhow!(why))
}

fn status(name: &str) -> Result<()> {
    let machines = Machines::read(name)?;
    let all = ask(name, &Request::Status)?;
    let mut text = format!("machines {name:?}: {}\n", machines.acceleration);
    for machine in &all {
        text += &format!("{}\n", describe(machine));
    }
    let state = state_directory(name)?;
    text += &format!("consoles: {}/console-*.log\n", state.display());
    Ok(show(&text)?)
}

fn describe(machine: &MachineStatus) -> String {
    let MachineStatus {
        node,
        pid,
        stage,
        link,
        resident,
    } = machine;
    let mut text = format!("{node}  {:11}  {stage}", node.address());
    if let (Some(pid), Some(resident)) = (pid, resident) {
        text += &format!("  QEMU {pid}, {} MiB", resident >> 20);
    }
    if link.cut {
        text += "  cable cut";
    }
    if link.loss > 0 {
        let percent = f64::from(link.loss) * 100.0 / f64::from(super::switch::LOSS_UNIT);
        text += &format!("  loses {percent}%");
    }
    if !link.delay.is_zero() {
        text += &format!("  delays {:?}", link.delay);
    }
    text
}

fn link(args: &LinkArgs) -> Result<()> {
    let change = LinkChange {
        cut: (args.down || args.up).then_some(args.down),
        loss: args.loss,
        delay: args.delay,
    };
    ensure!(
        change.cut.is_some() || change.loss.is_some() || change.delay.is_some(),
        "say what to change: --loss, --delay, --down or --up"
    );
    for machine in ask(&args.name, &Request::Link(args.node, change))? {
        if machine.node == args.node {
            show(&format!("{}\n", describe(&machine)))?;
        }
    }
    Ok(())
}

fn down(name: &str) -> Result<()> {
    let machines = Machines::read(name)?;
    // In good order where that is possible; the machines' end ends it anyway.
    if let Err(why) = deploy::undeploy(name) {
        warn(&format!("{why:#}"));
    }
    let state = state_directory(name)?;
    let Ok(supervisor) = machines.supervisor(name) else {
        return clear(name, &state);
    };
    let process = crate::standing::process_of(&supervisor)?;
    talk(&supervisor, &Request::Down)?;
    ensure!(
        wait_all(&[process.as_fd()], DOWN_DEADLINE),
        "the machines {name:?} did not end within {DOWN_DEADLINE:?}; see {}",
        state.join(SUPERVISOR_LOG).display()
    );
    Ok(())
}

/// The command's streams and its end are ours.
fn exec(name: &str, node: Node, command: &[OsString]) -> Result<Ending> {
    let machines = Machines::read(name)?;
    machines.check(node)?;
    let path = qemu::exec_socket(&machines.directory, node);
    let socket = UnixStream::connect(&path)
        .with_context(|| format!("{node} does not answer: see `testbed vm status {name}`"))?;
    let reader = socket.try_clone().context("a socket")?;
    let (reader, writer) = (Box::new(reader), Box::new(socket));
    let client = Client::connect(&node.to_string(), "exec", reader, writer, AGENT_DEADLINE)
        .context("another `testbed vm exec` may be under way there")?;
    let argv = command.iter().map(|word| word.clone().into_vec()).collect();
    let stdio = [
        rustix::stdio::stdin(),
        rustix::stdio::stdout(),
        rustix::stdio::stderr(),
    ];
    let [stdin, stdout, stderr] = stdio.map(rustix::io::dup);
    let program = client.exec(argv, [stdin?, stdout?, stderr?])?;
    let ending = loop {
        match program.hear(LOOK) {
            None | Some(ControlReply::Started { .. } | ControlReply::Counters(_)) => {}
            Some(ControlReply::Failed { message, .. }) => bail!("{node}: {message}"),
            Some(ControlReply::Ended { end, message, .. }) => {
                message.iter().for_each(|message| warn(message));
                break Ending::from(end);
            }
        }
    };
    client.say_goodbye();
    wait_all(&[client.lost_event()], AGENT_DEADLINE);
    Ok(ending)
}

/// Until either side ends. The terminal stays as it is: a line at a time.
fn console(name: &str, node: Node) -> Result<()> {
    let machines = Machines::read(name)?;
    machines.check(node)?;
    let path = qemu::console_socket(&machines.directory, node);
    let mut socket = UnixStream::connect(&path)
        .with_context(|| format!("{node} has no console: see `testbed vm status {name}`"))?;
    show_error(&format!("{node}'s console; Ctrl-C leaves it\n"));
    socket.write_all(b"\n").context("the console")?;
    let stdin = rustix::stdio::stdin();
    let mut open = true;
    loop {
        let mut waits = vec![PollFd::new(&socket, PollFlags::IN)];
        if open {
            waits.push(PollFd::from_borrowed_fd(stdin, PollFlags::IN));
        }
        match poll(&mut waits, None) {
            Ok(_) => {}
            Err(rustix::io::Errno::INTR) => continue,
            Err(why) => return Err(why).context("poll"),
        }
        let [from, to] = [0, 1].map(|n| waits.get(n).is_some_and(|w| !w.revents().is_empty()));
        let mut bytes = [0; 4096];
        if from {
            let count = (&socket).read(&mut bytes).context("the console")?;
            if count == 0 {
                return Ok(());
            }
            show(&String::from_utf8_lossy(&bytes[..count]))?;
        }
        if to {
            let count = rustix::io::read(stdin, &mut bytes).context("standard input")?;
            open = count > 0;
            socket.write_all(&bytes[..count]).context("the console")?;
        }
    }
}
