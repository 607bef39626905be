//! The process that owns machines: it starts them, switches their frames, says
//! how far they are while they boot, and ends them.

use super::qemu::{Acceleration, Machine, Said, switch_socket};
use super::switch::Switch;
use super::{Standing, image, state_directory, supervisor_socket};
use crate::ending::Ending;
use crate::janitor::Janitor;
use crate::places::make_private;
use crate::signals::Signals;
use anyhow::{Context, Result, bail};
use rustix::event::{PollFd, PollFlags, poll};
use rustix::fd::AsFd;
use std::io::{Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::time::{Duration, Instant};

/// A machine that says nothing new for so long while it boots is given up.
/// In software on a busy computer a step takes tens of seconds.
const BOOT_SILENCE: Duration = Duration::from_secs(120);
/// How often consoles are looked at.
const LOOK: Duration = Duration::from_millis(100);
/// How long a client may take to say what it wants.
const CLIENT_TIMEOUT: Duration = Duration::from_secs(1);

/// The supervisor's life. Standard input is a pipe on which it says how far it
/// is, and at last `up`, or `failed: ` and why.
pub(crate) fn supervise(name: &str) -> Result<Ending> {
    member::start_log(Some("info"));
    // It can't fail: we have just been started.
    let _ = rustix::process::setsid();
    match Supervisor::start(name) {
        Ok(mut supervisor) => {
            // Nobody is there to hear: then nobody wants it.
            if say("up").is_ok() {
                let _ = rustix::stdio::dup2_stdin(std::fs::File::open("/dev/null")?);
                supervisor.run();
            }
            supervisor.end();
            Ok(Ending::Exit(0))
        }
        Err(why) => {
            tracing::error!("{why:#}");
            let _ = say(&format!("failed: {why:#}").replace('\n', " / "));
            Ok(Ending::Exit(crate::ending::SYSTEM_FAILED))
        }
    }
}

fn say(line: &str) -> Result<()> {
    let line = format!("{line}\n");
    let mut rest = line.as_bytes();
    while !rest.is_empty() {
        let written = rustix::io::write(rustix::stdio::stdin(), rest)?;
        rest = &rest[written..];
    }
    Ok(())
}

struct Supervisor {
    standing: Standing,
    machines: Vec<Machine>,
    signals: Signals,
    listener: UnixListener,
    janitor: Option<Janitor>,
}

impl Supervisor {
    fn start(name: &str) -> Result<Supervisor> {
        let signals = Signals::catch().context("cannot catch signals")?;
        let standing = Standing::read(name)?;
        // First, so that the directory never is without one.
        let janitor = Janitor::spawn(&standing.directory)?;
        make_private(&standing.directory)?;
        let listener = UnixListener::bind(supervisor_socket(&standing.directory))
            .context("the supervisor's socket")?;
        let mut supervisor = Supervisor {
            machines: Vec::new(),
            signals,
            listener,
            janitor: Some(janitor),
            standing,
        };
        let booted = supervisor.boot();
        if booted.is_err() {
            supervisor.end();
        }
        booted.map(|()| supervisor)
    }

    fn boot(&mut self) -> Result<()> {
        let Standing {
            directory, nodes, ..
        } = &self.standing;
        let image = image::make(directory)?;
        let switch = UnixListener::bind(switch_socket(directory)).context("the switch")?;
        let thread = std::thread::Builder::new().name("switch".to_owned());
        thread.spawn(move || Switch::default().listen(&switch))?;
        let acceleration = Acceleration::find(&image.kernel);
        let how = match acceleration {
            Acceleration::Kvm => "hardware acceleration",
            Acceleration::Tcg { .. } => "software emulation: no working /dev/kvm",
        };
        say(&format!("booting {} machines ({how})", nodes.len()))?;
        let state = state_directory(&self.standing.name)?;
        for node in nodes {
            let log = state.join(format!("{}.qemu.log", node.name));
            let machine = Machine::start(node.clone(), &image, acceleration, &log)?;
            if let Some(janitor) = &self.janitor {
                janitor.tell(machine.exit_event());
            }
            self.machines.push(machine);
        }
        self.await_ready()?;
        // It is in the machines' memory now.
        std::fs::remove_file(image.initramfs).context("the initramfs")
    }

    fn await_ready(&mut self) -> Result<()> {
        let begun = Instant::now();
        let mut heard = begun;
        let mut waiting = self.machines.len();
        while waiting > 0 {
            std::thread::sleep(LOOK);
            if self.signals.take_ending().is_some() {
                bail!("told to end");
            }
            for machine in &mut self.machines {
                let (name, console) = (&machine.node.name.clone(), machine.node.console.clone());
                for said in machine.hear() {
                    heard = Instant::now();
                    let at = begun.elapsed().as_secs_f64();
                    match said {
                        Said::Step(step) => say(&format!("{name}: {step} ({at:.1} s)"))?,
                        Said::Ready => {
                            waiting -= 1;
                            say(&format!("{name}: ready ({at:.1} s)"))?;
                        }
                        Said::Failed(why) | Said::Panic(why) => {
                            bail!("{name} did not boot: {why}; see {}", console.display())
                        }
                    }
                }
                if machine.has_ended() {
                    bail!(
                        "{name} ended while it booted; see {} and {}",
                        console.display(),
                        console.with_extension("qemu.log").display()
                    );
                }
            }
            if heard.elapsed() > BOOT_SILENCE {
                let stuck = self
                    .machines
                    .iter()
                    .map(|m| m.node.console.display().to_string());
                bail!(
                    "no machine got any further for {BOOT_SILENCE:?}; see {}",
                    stuck.collect::<Vec<_>>().join(", ")
                );
            }
        }
        Ok(())
    }

    /// Until it is told to end.
    fn run(&mut self) {
        loop {
            let mut waits = vec![
                PollFd::from_borrowed_fd(self.listener.as_fd(), PollFlags::IN),
                PollFd::from_borrowed_fd(self.signals.event(), PollFlags::IN),
            ];
            let machines = self.machines.iter();
            waits.extend(machines.map(|m| PollFd::from_borrowed_fd(m.exit_event(), PollFlags::IN)));
            match poll(&mut waits, None) {
                Ok(_) | Err(rustix::io::Errno::INTR) => {}
                Err(why) => {
                    tracing::error!("poll: {why}");
                    return;
                }
            }
            let asked = !waits[0].revents().is_empty();
            drop(waits);
            if self.signals.take_ending().is_some() || (asked && self.told_down()) {
                return;
            }
            self.machines.retain_mut(|machine| {
                let ended = machine.has_ended();
                if ended {
                    tracing::warn!("{} has ended", machine.node.name);
                }
                !ended
            });
        }
    }

    /// Answers one client; whether it wants an end of all.
    fn told_down(&mut self) -> bool {
        let Ok((mut client, _)) = self.listener.accept() else {
            return false;
        };
        let heard = ask(&mut client).unwrap_or_default();
        match heard.split_once(' ') {
            Some(("kill", name)) => {
                let machine = self.machines.iter_mut().find(|m| m.node.name == name);
                machine.into_iter().for_each(Machine::kill);
            }
            _ if heard == "status" => {
                let alive = self.machines.iter().map(|m| m.node.name.as_str());
                let line = alive.collect::<Vec<_>>().join(" ") + "\n";
                // One that does not wait for the answer needs none.
                let _ = client.write_all(line.as_bytes());
            }
            _ => return heard == "down",
        }
        false
    }

    /// Nothing of it is left but the logs.
    fn end(&mut self) {
        self.machines.clear();
        let _ = std::fs::remove_dir_all(&self.standing.directory);
        self.janitor.take().into_iter().for_each(Janitor::dismiss);
    }
}

/// The line that a client says.
fn ask(client: &mut UnixStream) -> Option<String> {
    client.set_read_timeout(Some(CLIENT_TIMEOUT)).ok()?;
    let end = Instant::now() + CLIENT_TIMEOUT;
    let mut line = Vec::new();
    let mut byte = [0];
    while line.len() < 100 && Instant::now() < end {
        match client.read(&mut byte) {
            Ok(1) if byte[0] != b'\n' => line.push(byte[0]),
            Ok(1) => return String::from_utf8(line).ok(),
            _ => return None,
        }
    }
    None
}
