//! The supervisor of virtual machines: owns QEMU and the switch, says how far
//! the machines have come, and answers who asks.

use super::console::{Progress, Stage};
use super::qemu::{self, Acceleration, Machine};
use super::switch::Switch;
use super::{
    LinkChange, MachineStatus, Machines, Node, ORDER, Order, Reply, Request, WHERE,
    state_directory, supervisor_socket,
};
use crate::component::{timespec, wait_all};
use crate::ending::Ending;
use crate::janitor::Janitor;
use crate::out::tell_starter;
use crate::places::{self, make_private};
use crate::signals::Signals;
use anyhow::{Context, Result, bail, ensure};
use rustix::event::{PollFd, PollFlags, poll};
use rustix::fd::{AsFd, BorrowedFd, OwnedFd};
use rustix::process::{Pid, PidfdFlags, pidfd_open};
use std::fs::File;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// A machine whose console has not grown for so long has hung: software
/// emulation on a busy computer takes its time.
const SILENCE: Duration = Duration::from_secs(120);
/// All of the way up.
const BOOT_DEADLINE: Duration = Duration::from_secs(900);
/// How often consoles are looked at.
const LOOK: Duration = Duration::from_millis(100);
/// How long a client may take to say what it wants.
const CLIENT_TIMEOUT: Duration = Duration::from_secs(1);
/// Longest request, bytes.
const LONGEST_REQUEST: u64 = 4096;
/// How long a killed QEMU may take to go.
const KILL_DEADLINE: Duration = Duration::from_secs(10);

/// The supervisor's life. Standard input is a pipe on which it says how far
/// the machines are, and `up`, or why not.
pub(crate) fn supervise(name: &str) -> Result<Ending> {
    member::start_log(Some("info"));
    // Out of reach of the terminal. It can't fail: we have just been started.
    let _ = rustix::process::setsid();
    let state = state_directory(name)?;
    match begin(&state) {
        Ok(mut supervisor) => {
            // Nobody is there to hear: then nobody wants it.
            if tell_starter("up").is_ok() {
                supervisor.run();
            }
            supervisor.end();
            let _ = std::fs::remove_dir_all(&state);
            Ok(Ending::Exit(0))
        }
        Err(why) => {
            tracing::error!("{why:#}");
            let _ = tell_starter(&format!("failed {why:#}").replace('\n', " / "));
            Ok(Ending::Exit(crate::ending::SYSTEM_FAILED))
        }
    }
}

fn begin(state: &Path) -> Result<Supervisor> {
    let mut supervisor = Supervisor::start(state)?;
    match supervisor.boot() {
        Ok(()) => Ok(supervisor),
        Err(why) => {
            supervisor.end();
            Err(why)
        }
    }
}

/// One machine.
struct Guest {
    node: Node,
    child: Child,
    pidfd: OwnedFd,
    console: File,
    progress: Progress,
    /// When its console last grew.
    heard: Instant,
    /// How it ended, if it has.
    ended: Option<String>,
}

impl Guest {
    fn start(machine: &Machine<'_>, janitor: &Janitor) -> Result<Guest> {
        let node = machine.node;
        let log = qemu::console_log(machine.state, node);
        // It is there before QEMU is: so it can be opened.
        File::create(&log).with_context(|| log.display().to_string())?;
        let console = File::open(&log).with_context(|| log.display().to_string())?;
        let mut command = Command::new(qemu::QEMU);
        command.args(machine.arguments());
        command.stdin(Stdio::null()).stdout(Stdio::null());
        command.stderr(rustix::io::dup(rustix::stdio::stderr())?);
        host::child::tie(&mut command);
        let mut child = command
            .spawn()
            .with_context(|| format!("cannot run {}", qemu::QEMU))?;
        let pidfd = match pidfd_open(Pid::from_child(&child), PidfdFlags::empty()) {
            Ok(pidfd) => pidfd,
            Err(why) => {
                let _ = child.kill();
                let _ = child.wait();
                return Err(why).context("a process's descriptor");
            }
        };
        janitor.tell(pidfd.as_fd());
        Ok(Guest {
            node,
            child,
            pidfd,
            console,
            progress: Progress::default(),
            heard: Instant::now(),
            ended: None,
        })
    }

    /// Looks at its console and at its process. True if there is news.
    fn look(&mut self) -> bool {
        let mut bytes = Vec::new();
        let _ = self.console.read_to_end(&mut bytes);
        if !bytes.is_empty() {
            self.heard = Instant::now();
        }
        let mut news = self.progress.handle_bytes(&bytes);
        if self.ended.is_none()
            && let Ok(Some(status)) = self.child.try_wait()
        {
            self.ended = Some(format!("QEMU ended ({status})"));
            tracing::warn!("{}: QEMU ended ({status})", self.node);
            news = true;
        }
        news
    }

    /// Why it won't come up, if that is clear.
    fn trouble(&self) -> Option<String> {
        if let Stage::Failed(why) = self.progress.stage() {
            return Some(why.clone());
        }
        if let Some(how) = &self.ended {
            return Some(how.clone());
        }
        let silent = self.heard.elapsed() > SILENCE;
        silent.then(|| format!("its console says nothing for {SILENCE:?}"))
    }

    fn status(&self, switch: &Switch) -> MachineStatus {
        let pid = self.ended.is_none().then(|| self.child.id());
        let stage = match &self.ended {
            Some(how) => Stage::Failed(how.clone()),
            None => self.progress.stage().clone(),
        };
        MachineStatus {
            node: self.node,
            pid,
            stage,
            link: switch.link(self.node.index()).unwrap_or_default(),
            resident: pid.and_then(resident),
        }
    }
}

impl Drop for Guest {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A process's memory (VmRSS, proc(5)), bytes.
fn resident(pid: u32) -> Option<u64> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("VmRSS:"))?;
    let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kib << 10)
}

struct Supervisor {
    guests: Vec<Guest>,
    switch: Switch,
    listener: UnixListener,
    signals: Signals,
    directory: std::path::PathBuf,
    janitor: Janitor,
    state: std::path::PathBuf,
}

impl Supervisor {
    fn start(state: &Path) -> Result<Supervisor> {
        let path = state.join(ORDER);
        let text = std::fs::read(&path).with_context(|| path.display().to_string())?;
        let order: Order = serde_json::from_slice(&text).context("the order")?;
        let signals = Signals::catch().context("cannot catch signals")?;
        let directory = places::run_directory(&format!("vm-{}", order.name))?;
        // First, so that the directory never is without one.
        let janitor = Janitor::spawn(&directory)?;
        make_private(&directory)?;
        match Supervisor::fill(&order, state, &directory, &janitor) {
            Ok((switch, listener, guests)) => Ok(Supervisor {
                guests,
                switch,
                listener,
                signals,
                directory,
                janitor,
                state: state.to_owned(),
            }),
            Err(why) => {
                let _ = std::fs::remove_dir_all(&directory);
                janitor.dismiss();
                Err(why)
            }
        }
    }

    fn fill(
        order: &Order,
        state: &Path,
        directory: &Path,
        janitor: &Janitor,
    ) -> Result<(Switch, UnixListener, Vec<Guest>)> {
        let acceleration = Acceleration::detect();
        let machines = Machines {
            directory: directory.to_owned(),
            nodes: order.nodes,
            acceleration: acceleration.name().to_owned(),
            share: order.share.clone(),
        };
        let text = serde_json::to_string_pretty(&machines)?;
        std::fs::write(state.join(WHERE), text).context("the state directory")?;
        let listener = UnixListener::bind(supervisor_socket(directory));
        let listener = listener.context("the supervisor's socket")?;
        // QEMU does not try again: the switch listens first.
        let nodes: Vec<Node> = Node::all(order.nodes).collect();
        let sockets: Vec<_> = nodes
            .iter()
            .map(|n| qemu::network_socket(directory, *n))
            .collect();
        let switch = Switch::start(&sockets).context("the switch")?;
        let start = |node: Node| {
            let machine = Machine {
                name: &order.name,
                node,
                acceleration,
                memory: order.memory,
                cpus: order.cpus,
                kernel: &order.kernel,
                initramfs: &order.initramfs,
                binaries: &order.binaries,
                share: order.share_of(node),
                run: directory,
                state,
            };
            Guest::start(&machine, janitor)
        };
        let guests = nodes.into_iter().map(start).collect::<Result<_>>()?;
        tell_starter(&format!(
            "progress {} machines, {}",
            order.nodes,
            acceleration.name()
        ))?;
        Ok((switch, listener, guests))
    }

    /// Until all are ready.
    fn boot(&mut self) -> Result<()> {
        let begin = Instant::now();
        loop {
            if self.signals.take_ending().is_some() {
                bail!("told to end by a signal");
            }
            for guest in &mut self.guests {
                if guest.look() {
                    let seconds = begin.elapsed().as_secs_f64();
                    let (node, stage) = (guest.node, guest.progress.stage());
                    tell_starter(&format!("progress {seconds:6.1} s  {node}: {stage}"))
                        .context("nobody wants the machines any more")?;
                }
                if let Some(why) = guest.trouble() {
                    let node = guest.node;
                    bail!("{node}: {why}{}", last_words(&self.state, node));
                }
            }
            if self
                .guests
                .iter()
                .all(|g| *g.progress.stage() == Stage::Ready)
            {
                return Ok(());
            }
            ensure!(
                begin.elapsed() < BOOT_DEADLINE,
                "the machines are not up after {BOOT_DEADLINE:?}"
            );
            self.wait(LOOK)?;
        }
    }

    /// Until it is told to end.
    fn run(&mut self) {
        loop {
            if let Err(why) = self.wait(Duration::from_secs(1)) {
                tracing::error!("{why:#}");
                return;
            }
            if self.signals.take_ending().is_some() {
                tracing::info!("told to end by a signal");
                return;
            }
            for guest in &mut self.guests {
                guest.look();
            }
            if self.serve() {
                tracing::info!("told to end");
                return;
            }
        }
    }

    /// For something to happen, at most so long.
    fn wait(&self, most: Duration) -> Result<()> {
        let guests = self.guests.iter().filter(|guest| guest.ended.is_none());
        let mut waits: Vec<PollFd<'_>> = [self.listener.as_fd(), self.signals.event()]
            .into_iter()
            .chain(guests.map(|guest| guest.pidfd.as_fd()))
            .map(|event| PollFd::from_borrowed_fd(event, PollFlags::IN))
            .collect();
        match poll(&mut waits, Some(&timespec(most))) {
            Ok(_) | Err(rustix::io::Errno::INTR) => Ok(()),
            Err(why) => Err(why).context("poll"),
        }
    }

    /// A client, if there is one; the run directory is ours alone, so it may
    /// ask. True if it wants us to end.
    fn serve(&mut self) -> bool {
        let now = timespec(Duration::ZERO);
        let waiting = poll(
            &mut [PollFd::new(&self.listener, PollFlags::IN)],
            Some(&now),
        );
        if !matches!(waiting, Ok(1)) {
            return false;
        }
        let Ok((client, _)) = self.listener.accept() else {
            return false;
        };
        let _ = client.set_read_timeout(Some(CLIENT_TIMEOUT));
        let _ = client.set_write_timeout(Some(CLIENT_TIMEOUT));
        let mut line = String::new();
        // One that hangs up without a word only wanted to know if we live.
        if BufReader::new((&client).take(LONGEST_REQUEST))
            .read_line(&mut line)
            .is_err()
        {
            return false;
        }
        let Ok(request) = serde_json::from_str::<Request>(&line) else {
            return false;
        };
        let down = matches!(request, Request::Down);
        let reply: Reply = self.answer(request).map_err(|why| format!("{why:#}"));
        if let Ok(text) = serde_json::to_string(&reply) {
            // Who has left does not want it.
            let _ = (&client).write_all(format!("{text}\n").as_bytes());
        }
        down
    }

    fn answer(&mut self, request: Request) -> Result<Vec<MachineStatus>> {
        match request {
            Request::Down | Request::Status => {}
            Request::Kill(node) => self.kill(node)?,
            Request::Link(node, change) => self.change_link(node, change)?,
        }
        let status = |guest: &Guest| guest.status(&self.switch);
        Ok(self.guests.iter().map(status).collect())
    }

    fn kill(&mut self, node: Node) -> Result<()> {
        let guest = self.guests.get_mut(node.index());
        let guest = guest.with_context(|| format!("there is no {node}"))?;
        ensure!(guest.ended.is_none(), "{node} has ended already");
        guest.child.kill().context("kill")?;
        wait_all(&[guest.pidfd.as_fd()], KILL_DEADLINE);
        guest.look();
        Ok(())
    }

    fn change_link(&self, node: Node, change: LinkChange) -> Result<()> {
        let port = node.index();
        let link = self.switch.link(port);
        let mut link = link.with_context(|| format!("there is no {node}"))?;
        link.cut = change.cut.unwrap_or(link.cut);
        link.loss = change.loss.unwrap_or(link.loss);
        link.delay = change.delay.unwrap_or(link.delay);
        self.switch.set_link(port, link);
        Ok(())
    }

    fn end(self) {
        let Supervisor {
            mut guests,
            directory,
            janitor,
            ..
        } = self;
        for guest in &mut guests {
            let _ = guest.child.kill();
        }
        let events: Vec<BorrowedFd<'_>> = guests.iter().map(|g| g.pidfd.as_fd()).collect();
        wait_all(&events, KILL_DEADLINE);
        drop(guests);
        let _ = std::fs::remove_dir_all(&directory);
        janitor.dismiss();
    }
}

/// A console's last line, to be appended to a message.
fn last_words(state: &Path, node: Node) -> String {
    let text = std::fs::read(qemu::console_log(state, node)).unwrap_or_default();
    let text = String::from_utf8_lossy(&text);
    let last = text.lines().rev().find(|line| !line.trim().is_empty());
    last.map_or(String::new(), |line| {
        format!(" (its console's last line: {})", line.trim())
    })
}
