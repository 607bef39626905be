//! The supervisor of a testbed that stays.

use super::ask::Answers;
use super::backoff::Backoff;
use super::proxy;
use super::{Description, Standing, WHERE, read_description, state_directory, supervisor_socket};
use crate::agent::Event;
use crate::cluster::{Cluster, Death, StartError};
use crate::component::timespec;
use crate::ending::Ending;
use crate::out::tell_starter;
use crate::places;
use crate::signals::Signals;
use anyhow::{Context, Result, anyhow};
use rustix::event::{PollFd, PollFlags, poll};
use rustix::fd::AsFd;
use std::collections::BTreeMap;
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

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
            if tell_starter("up").is_ok() {
                supervisor.run();
            }
            supervisor.end();
            let _ = std::fs::remove_dir_all(&state);
            Ok(Ending::Exit(0))
        }
        Err(why) => {
            tracing::error!("{why:#}");
            let _ = tell_starter(&format!("{why:#}").replace('\n', " / "));
            Ok(Ending::Exit(crate::ending::SYSTEM_FAILED))
        }
    }
}

struct Supervisor {
    cluster: Cluster,
    signals: Signals,
    listener: UnixListener,
    backoff: BTreeMap<usize, Backoff>,
    /// Components that died, and when to start them again.
    waiting: Vec<(Instant, usize)>,
    answers: Arc<Answers>,
    /// Somebody asked us to end.
    down: Arc<Event>,
}

impl Supervisor {
    fn start(state: &Path) -> Result<Supervisor> {
        let Description { name, plan, cache } = read_description(state)?;
        let mut signals = Signals::catch().context("cannot catch signals")?;
        let directory = places::run_directory(&name)?;
        let cluster = match Cluster::start(plan, &name, directory, Some(state), &mut signals) {
            Ok(cluster) => cluster,
            Err(StartError::Signal(signal)) => {
                return Err(anyhow!("told to end by signal {signal}"));
            }
            Err(StartError::Failed(why)) => return Err(why),
        };
        let listener = UnixListener::bind(supervisor_socket(cluster.directory()))
            .context("the supervisor's socket")?;
        let (answers, down) = (Arc::new(answers(&cluster)?), Arc::new(Event::new()?));
        proxies(&cluster, &answers)?;
        let standing = Standing::of(name, &cluster, answers.hosts.clone(), cache);
        standing.write(&state.join(WHERE))?;
        let (backoff, waiting) = (BTreeMap::new(), Vec::new());
        Ok(Supervisor {
            cluster,
            signals,
            listener,
            backoff,
            waiting,
            answers,
            down,
        })
    }

    /// Until it is told to end.
    fn run(&mut self) {
        loop {
            let [asked, signalled, down] = match self.wait() {
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
            if down {
                tracing::info!("told to end");
                return;
            }
            if asked {
                self.serve();
            }
            self.tend();
        }
    }

    fn wait(&self) -> rustix::io::Result<[bool; 3]> {
        let next = self.waiting.iter().map(|(at, _)| *at).min();
        let left = next.map(|at| timespec(at.saturating_duration_since(Instant::now())));
        let mut waits: Vec<PollFd<'_>> = [
            self.listener.as_fd(),
            self.signals.event(),
            self.down.as_fd(),
        ]
        .into_iter()
        .chain(self.cluster.events())
        .map(|event| PollFd::from_borrowed_fd(event, PollFlags::IN))
        .collect();
        match poll(&mut waits, left.as_ref()) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(why) => return Err(why),
        }
        Ok([0, 1, 2].map(|n| !waits[n].revents().is_empty()))
    }

    /// A client; the run directory is ours alone, so it may ask. Answers may
    /// take their time: each has a thread of its own.
    fn serve(&self) {
        let Ok((client, _)) = self.listener.accept() else {
            return;
        };
        let (answers, down) = (self.answers.clone(), self.down.clone());
        let serve = move || {
            if answers.serve(&client) {
                down.set();
            }
        };
        let thread = std::thread::Builder::new().name("client".to_owned());
        if let Err(why) = thread.spawn(serve) {
            tracing::warn!("a client was refused: no thread for it: {why}");
        }
    }

    fn tend(&mut self) {
        let now = Instant::now();
        for Death {
            index, name, how, ..
        } in self.cluster.tend()
        {
            if self.cluster.is_lost(index) {
                tracing::error!("{name} {how}; when the host is back: testbed down, testbed up");
                continue;
            }
            let backoff = self
                .backoff
                .entry(index)
                .or_insert_with(|| Backoff::new(now));
            let at = backoff.handle_death(now);
            let delay = at.saturating_duration_since(now);
            tracing::warn!("{name} {how}; starting it again in {delay:?}");
            self.waiting.push((at, index));
        }
        let (due, waiting): (Vec<_>, Vec<_>) =
            self.waiting.drain(..).partition(|(at, _)| *at <= now);
        self.waiting = waiting;
        for (_, index) in due {
            if let Err(why) = self.cluster.restart(index) {
                tracing::error!("{why:#}");
                if self.cluster.is_lost(index) {
                    continue;
                }
                self.waiting.push((now + Duration::from_secs(1), index));
            }
        }
    }

    fn end(self) {
        self.cluster.stop();
    }
}

/// What the supervisor can be asked.
fn answers(cluster: &Cluster) -> Result<Answers> {
    let plan = cluster.plan();
    let hosts = plan.components().into_iter();
    let clients = plan.hosts.iter().map(|host| {
        let client = cluster.hosts().client(&host.name)?.clone();
        Ok((host.name.clone(), client))
    });
    Ok(Answers {
        clients: clients.collect::<Result<_>>()?,
        hosts: hosts
            .filter_map(|(_, name, host)| Some((name.to_owned(), host?.to_owned())))
            .collect(),
        storage_host: plan.storage.first().and_then(|s| s.host.clone()),
        gmm: cluster.gmm().to_vec(),
        fabric: plan.fabric,
        directory: cluster.directory().to_owned(),
        key: cluster.key_path(),
    })
}

/// Control sockets of processor components on other hosts.
fn proxies(cluster: &Cluster, answers: &Answers) -> Result<()> {
    for processor in &cluster.plan().processors {
        let client = processor.host.as_ref();
        if let Some(client) = client.and_then(|host| answers.clients.get(host)) {
            let path = cluster.control(&processor.name);
            proxy::start(&path, client.clone(), &processor.name)?;
        }
    }
    Ok(())
}
