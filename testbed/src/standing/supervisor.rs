//! The supervisor of a testbed that stays.

use super::backoff::Backoff;
use super::{Description, Standing, WHERE, read_description, state_directory, supervisor_socket};
use crate::cluster::{Cluster, Death, StartError};
use crate::component::{describe, timespec};
use crate::ending::Ending;
use crate::places;
use crate::signals::Signals;
use anyhow::{Context, Result, anyhow};
use rustix::event::{PollFd, PollFlags, poll};
use rustix::fd::AsFd;
use std::collections::BTreeMap;
use std::io::Read;
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::time::{Duration, Instant};

/// How long a client may take to say what it wants.
const CLIENT_TIMEOUT: Duration = Duration::from_secs(1);

/// The supervisor's life. Standard input is a pipe on which it says `up`, or
/// why not.
pub(crate) fn supervise(name: &str) -> Result<Ending> {
    member::start_log(Some("info"));
    // Out of reach of the terminal. It can't fail: we have just been started.
    let _ = rustix::process::setsid();
    let state = state_directory(name)?;
    match Supervisor::start(&state) {
        Ok(mut supervisor) => {
            // Nobody is there to hear: then nobody wants it.
            if say("up").is_ok() {
                supervisor.run();
            }
            supervisor.end();
            let _ = std::fs::remove_dir_all(&state);
            Ok(Ending::Exit(0))
        }
        Err(why) => {
            tracing::error!("{why:#}");
            let _ = say(&format!("{why:#}").replace('\n', " / "));
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
    cluster: Cluster,
    signals: Signals,
    listener: UnixListener,
    backoff: BTreeMap<usize, Backoff>,
    /// Components that died, and when to start them again.
    waiting: Vec<(Instant, usize)>,
}

impl Supervisor {
    fn start(state: &Path) -> Result<Supervisor> {
        let Description { name, plan, cache } = read_description(state)?;
        let mut signals = Signals::catch().context("cannot catch signals")?;
        let directory = places::run_directory(&name)?;
        let cluster = match Cluster::start(plan, directory, Some(state), &mut signals) {
            Ok(cluster) => cluster,
            Err(StartError::Signal(signal)) => {
                return Err(anyhow!("told to end by signal {signal}"));
            }
            Err(StartError::Failed(why)) => return Err(why),
        };
        let listener = UnixListener::bind(supervisor_socket(cluster.directory()))
            .context("the supervisor's socket")?;
        let standing = Standing {
            name,
            directory: cluster.directory().to_owned(),
            gmm: cluster.gmm().to_vec(),
            fabric: cluster.plan().fabric,
            root: cluster
                .plan()
                .storage
                .first()
                .map(|s| s.root.clone())
                .unwrap_or_default(),
            memory: cluster.plan().memory_bytes(),
            cache,
        };
        let text = serde_json::to_string_pretty(&standing)?;
        std::fs::write(state.join(WHERE), text).with_context(|| state.display().to_string())?;
        let (backoff, waiting) = (BTreeMap::new(), Vec::new());
        Ok(Supervisor {
            cluster,
            signals,
            listener,
            backoff,
            waiting,
        })
    }

    /// Until it is told to end.
    fn run(&mut self) {
        loop {
            let [asked, signalled] = match self.wait() {
                Ok(happened) => happened,
                Err(why) => {
                    tracing::error!("poll: {why}");
                    return;
                }
            };
            if signalled && self.signals.take_ending().is_some() {
                tracing::info!("told to end by a signal");
                return;
            }
            if asked && self.told_down() {
                tracing::info!("told to end");
                return;
            }
            self.tend();
        }
    }

    fn wait(&self) -> rustix::io::Result<[bool; 2]> {
        let next = self.waiting.iter().map(|(at, _)| *at).min();
        let left = next.map(|at| timespec(at.saturating_duration_since(Instant::now())));
        let mut waits: Vec<PollFd<'_>> = [self.listener.as_fd(), self.signals.event()]
            .into_iter()
            .chain(self.cluster.events())
            .map(|event| PollFd::from_borrowed_fd(event, PollFlags::IN))
            .collect();
        match poll(&mut waits, left.as_ref()) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(why) => return Err(why),
        }
        Ok([0, 1].map(|n| !waits[n].revents().is_empty()))
    }

    /// A client; the run directory is ours alone, so it may ask. One that
    /// hangs up without a word only wanted to know whether we live.
    fn told_down(&self) -> bool {
        let Ok((mut client, _)) = self.listener.accept() else {
            return false;
        };
        let _ = client.set_read_timeout(Some(CLIENT_TIMEOUT));
        let mut asked = [0; 16];
        matches!(client.read(&mut asked), Ok(n) if asked[..n] == *b"down\n")
    }

    fn tend(&mut self) {
        let now = Instant::now();
        for Death {
            index,
            name,
            status,
            ..
        } in self.cluster.tend()
        {
            let backoff = self
                .backoff
                .entry(index)
                .or_insert_with(|| Backoff::new(now));
            let at = backoff.handle_death(now);
            let delay = at.saturating_duration_since(now);
            tracing::warn!(
                "{name} {}; starting it again in {delay:?}",
                describe(status)
            );
            self.waiting.push((at, index));
        }
        let (due, waiting): (Vec<_>, Vec<_>) =
            self.waiting.drain(..).partition(|(at, _)| *at <= now);
        self.waiting = waiting;
        for (_, index) in due {
            if let Err(why) = self.cluster.restart(index) {
                tracing::error!("{why:#}");
                self.waiting.push((now + Duration::from_secs(1), index));
            }
        }
    }

    fn end(self) {
        self.cluster.stop();
    }
}
